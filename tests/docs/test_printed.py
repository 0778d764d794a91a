"""What is made to be printed and shown: the book as one PDF, and a lecture's slides as one file."""

import re
from base64 import b64decode
from pathlib import Path

import book
import nbformat
import pytest
import slides
from browser import browser, found
from helpers import ROOT, finished
from page_window import needs_chromium

pytestmark = pytest.mark.proof
LECTURES = sorted((ROOT / "docs" / "lectures").glob("*.md"))


@needs_chromium
def test_the_book_is_one_pdf_with_all_chapters_and_an_outline(tmp_path):
    gathered = finished(str(ROOT / "docs" / "stage.py"), str(tmp_path / "source"), "--questions", "0")
    assert gathered.code == 0, gathered.err
    made = ("--chapters", "03*", str(tmp_path / "source"), str(tmp_path / "book.pdf"))
    printed = finished(str(ROOT / "docs" / "book.py"), *made)
    assert printed.code == 0, printed.err
    content = (tmp_path / "book.pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and pages > 150 and b"/Outlines" in content
    page = (tmp_path / "book" / "page" / "paper.html").read_text("utf-8")
    listed = re.findall(r'<li><a href="#([^"]+)"><span>(.+?)</span> <span>(\d+)</span>', page.partition("</nav>")[0])
    chapters = [nbformat.read(path, as_version=4).cells[0].source for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert {re.match("# (.+)", first)[1] for first in chapters} <= {title for _, title, _ in listed}
    assert [title for anchor, title, _ in listed if f'id="{anchor}"' not in page] == []
    chapter = "notebooks/03_embedding_and_rms_norm.ipynb"
    twice = [2 * width for width in widths(ROOT / chapter)]
    assert widths(tmp_path / "book" / "source" / chapter) == pytest.approx(twice, abs=2)
    numbers = [int(number) for _, _, number in listed]
    assert numbers == sorted(set(numbers)) and numbers[0] == 3 and numbers[-1] <= pages


def widths(notebook: Path) -> list[int]:
    """Of the figures, in dots."""
    shown = [each for cell in nbformat.read(notebook, as_version=4).cells for each in book.pictures(cell)]
    return [int.from_bytes(b64decode(each["data"]["image/png"])[16:20]) for each in shown]


@needs_chromium
@pytest.mark.parametrize("lecture", LECTURES, ids=lambda path: path.stem)
def test_a_lecture_is_one_file_whose_slides_show_all_they_hold(lecture, tmp_path):
    text = slides.deck(lecture)
    (tmp_path / "slides.html").write_text(text, "utf-8")
    assert re.findall(r"(?:src|href)=\"(?!data:)|url\(", text) == [] and text.count("<section>") >= 8
    assert [alt for alt in re.findall(r'<img alt="([^"]*)"', text) if len(alt.split()) < 5] == []
    with browser(found()) as running:
        window = running.window()
        window.size(1280, 720)
        window.open((tmp_path / "slides.html").as_uri())
        assert [url for url in window.requests() if not url.startswith(("file:", "data:"))] == []
        for notes in (False, True):
            window(f"location.hash = 1, document.body.classList.toggle('notes', {str(notes).lower()})")
            for number in range(1, text.count("<section>") + 1):
                shown = "document.querySelector('section.shown')"
                window.until(f"{shown} === document.querySelectorAll('section')[{number - 1}]")
                fits = f"{shown}.scrollHeight <= innerHeight && {shown}.scrollWidth <= innerWidth"
                assert window(fits), (number, notes)
                window.press("ArrowRight")
