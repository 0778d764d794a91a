"""What is made to be printed and shown: the book as one PDF, and a lecture's slides as one file."""

import re

import pytest
import slides
from browser import browser, found
from helpers import ROOT, finished

pytestmark = pytest.mark.proof
needs_chromium = pytest.mark.skipif(
    found() is None, reason="no Chromium here (Debian: apt install chromium): not tried"
)
LECTURES = sorted((ROOT / "docs" / "lectures").glob("*.md"))


@needs_chromium
def test_the_book_is_one_pdf_with_all_chapters_and_an_outline(tmp_path):
    gathered = finished(str(ROOT / "docs" / "stage.py"), str(tmp_path / "source"), "--questions", "0", timeout=900)
    assert gathered.code == 0, gathered.err
    made = ("--chapters", "", str(tmp_path / "source"), str(tmp_path / "book.pdf"))
    printed = finished(str(ROOT / "docs" / "book.py"), *made, timeout=1800)
    assert printed.code == 0, printed.err
    content = (tmp_path / "book.pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and pages > 150 and b"/Outlines" in content


@pytest.mark.parametrize("lecture", LECTURES, ids=lambda path: path.stem)
def test_a_lecture_is_one_file_whose_slides_show_all_they_hold(lecture, tmp_path):
    slides.main(str(lecture), str(tmp_path / "slides.html"))
    text = (tmp_path / "slides.html").read_text("utf-8")
    assert re.findall(r"(?:src|href)=\"(?!data:)|url\(", text) == [] and text.count("<section>") >= 8
    assert [alt for alt in re.findall(r'<img alt="([^"]*)"', text) if len(alt.split()) < 5] == []
    if found() is None:
        pytest.skip("no Chromium here (Debian: apt install chromium): not tried")
    with browser(found()) as running:
        window = running.window()
        window.size(1280, 720)
        window.open((tmp_path / "slides.html").as_uri())
        assert [url for url in window.requests() if not url.startswith(("file:", "data:"))] == []
        for number in range(1, text.count("<section>") + 1):
            shown = "document.querySelector('section.shown')"
            assert window(f"{shown} === document.querySelectorAll('section')[{number - 1}]")
            assert window(f"{shown}.scrollHeight <= innerHeight && {shown}.scrollWidth <= innerWidth"), number
            window.press("ArrowRight")
            window("new Promise((done) => setTimeout(done, 50))")
