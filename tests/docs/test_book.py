"""The book: built without a warning, whole, every link leading somewhere, and nothing asked of anybody."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
import stage
import yaml
from browser import browser, found
from helpers import ROOT
from page_window import needs_chromium
from sphinx.cmd.build import build_main

import qwen3_scratch

pytestmark = pytest.mark.proof  # a build takes a minute; the workflow that publishes the book builds it, too
GLOSSARY = yaml.safe_load((ROOT / "docs" / "glossary.yml").read_text("utf-8"))
SERIES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page links, loads, bears as anchors, and says of its pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loaded, self.ids, self.alts, self.text = [], [], set[str](), [], text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.loaded += [given[LOADING[tag]]] if LOADING.get(tag) in given and given.get("rel") != "canonical" else []
        self.alts += [given.get("alt", "")] if tag == "img" else []


class Book(NamedTuple):
    folder: Path
    warnings: str
    pages: dict[str, Page]

    def chapter(self, name: str) -> Page:
        return self.pages[f"notebooks/{name}.html"]


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Iterator[Book]:
    work = tmp_path_factory.mktemp("book")
    gathered = stage.Stage(work / "source", "")
    gathered.gather(questions=0)
    said = StringIO()
    quiet = ["-q", "-W", "--keep-going", "-n", "-c", str(ROOT / "docs"), "-d", str(work / "trees")]
    with redirect_stderr(said):
        code = build_main([*quiet, str(work / "source"), str(work / "site")])
    paths = [
        path
        for path in (work / "site").rglob("*.html")
        if path.name != "live-explorer.html" and "_static" not in path.parts
    ]
    pages = {path.relative_to(work / "site").as_posix(): Page(path.read_text("utf-8")) for path in paths}
    yield Book(work / "site", said.getvalue() if code == 0 else f"{said.getvalue()} {code}", pages)


def pictures(name: str) -> list[str]:
    outputs = [output for cell in read(name) for output in cell.get("outputs", ())]
    return [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]


def read(name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells


def words(text: str) -> str:
    return " ".join(text.split())


# ---- it is whole -----------------------------------------------------------------------------------


def test_it_is_built_without_a_warning(book):
    assert book.warnings == ""


def test_every_chapter_set_and_page_is_there(book):
    wanted = [f"notebooks/{name}" for name in SERIES] + [f"notebooks/exercises/{name}" for name in stage.SETS]
    wanted += ["index", "ways_in", "explorer", "glossary", "teachers", "api/index", "data/README", "tests/README"]
    wanted += ["benchmarks/RESULTS", "notebooks/exercises/README", *(f"api/{room}" for room in stage.ROOMS)]
    assert {f"{name}.html" for name in wanted} <= book.pages.keys()
    assert (book.folder / "live-explorer.html").stat().st_size > 1e6
    assert all("docs/explorer.md" in json.dumps(read(name)) for name in ("00_start_here", "12_inside_the_router"))


def test_every_internal_link_leads_to_a_page_an_anchor_a_picture_or_a_download(book):
    lost = []
    for name, page in book.pages.items():
        for link in [*page.links, *page.loaded]:
            address, anchor = urldefrag(unquote(link).partition("?")[0])
            if re.match(r"[a-z]+:", link):
                continue
            target = ((book.folder / name).parent / address).resolve() if address else (book.folder / name).resolve()
            place = target.relative_to(book.folder.resolve()).as_posix()
            known = book.pages[place].ids if place in book.pages else set()
            if not target.is_file() or (anchor and place in book.pages and anchor not in known):
                lost.append((name, link))
    assert lost == []


def test_every_figure_says_in_words_what_is_to_be_seen(book):
    for name in SERIES:
        alts = Counter(map(words, book.chapter(name).alts))
        assert Counter(map(words, pictures(name))) <= alts, name
    assert [name for name, page in book.pages.items() if "" in page.alts] == []


def test_formulas_are_marked_up_and_none_is_left_as_it_was_typed(book):
    assert all("<math" in book.chapter(name).text for name in ("03_embedding_and_rms_norm", "05_rope"))
    assert [
        name for name in SERIES if re.search(r"\\(?:frac|sqrt|mathrm|tfrac|cdot|lVert)", prose(book.chapter(name)))
    ] == []


def prose(page: Page) -> str:
    return re.sub(r"<(pre|script|annotation)\b.*?</\1>", "", page.text, flags=re.DOTALL)


def test_the_reference_shows_every_public_name_with_its_shapes(book):
    page = book.pages["api/index.html"]
    assert {f"qwen3_scratch.{name}" for name in qwen3_scratch.__all__} <= page.ids
    shown = words(re.sub(r"<[^>]+>", "", page.text)).replace("&#39;", "'")
    assert "x: Float[Tensor, 'tokens dim']" in shown and "Float[Tensor, 'batch kept vocab']" in shown


# ---- exercises, terms, the course ------------------------------------------------------------------


@pytest.mark.parametrize("name", stage.SETS)
def test_a_set_is_shown_without_solutions_and_can_be_downloaded(book, name):
    page = book.pages[f"notebooks/exercises/{name}.html"]
    (link,) = [link for link in page.links if "_downloads/" in link and link.endswith(f"{name}.ipynb")]
    handed_out = ((book.folder / "notebooks" / "exercises") / link).resolve().read_text("utf-8")
    source = nbformat.read(ROOT / "notebooks" / "exercises" / "source" / name / f"{name}.ipynb", as_version=4)
    solutions = [
        line.strip()
        for cell in source.cells
        for part in re.findall(r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)### END", cell.source, re.DOTALL)
        for line in part.splitlines()
        if len(line.strip()) > 50
    ]
    code = [cell.source for cell in nbformat.reads(handed_out, as_version=4).cells if cell.cell_type == "code"]
    visible = "\n".join(code)  # hints may quote a line
    assert solutions and "NotImplementedError" in visible and "BEGIN SOLUTION" not in page.text + visible
    assert [line for line in solutions if line in visible] == []


def test_every_term_is_explained_once_and_the_chapter_it_is_from_leads_there(book):
    terms = [entry["term"] for entry in GLOSSARY]
    forms = [form.lower() for entry in GLOSSARY for form in (entry["term"], *entry.get("forms", ()))]
    assert len(set(forms)) == len(forms) and all(len(entry["means"].split()) >= 8 for entry in GLOSSARY)
    assert {anchor(term) for term in terms} <= book.pages["glossary.html"].ids
    assert "<dd><p>:" not in book.pages["glossary.html"].text
    assert [entry["term"] for entry in GLOSSARY if leads(book.chapter(entry["chapter"]), entry["term"]) != 1] == []


def anchor(term: str) -> str:
    return f"term-{re.sub(r'[^A-Za-z0-9]+', '-', term)}"


def leads(page: Page, term: str) -> int:
    return sum(link.endswith(f"glossary.html#{anchor(term)}") for link in page.links)


def test_only_the_first_use_of_a_term_on_a_page_leads_to_the_glossary(book):
    said = prose(book.chapter("07_router_and_experts")).partition("<article")[2]
    before = re.sub(r"<[^>]+>", "", said[: said.index(f"#{anchor('router')}")].partition("</h1>")[2])
    assert not re.search(r"\brouter\b", before)
    assert [name for name, page in book.pages.items() for term in GLOSSARY if leads(page, term["term"]) > 1] == []
    assert leads(book.chapter("10_sampling_and_chat"), "value") == 0  # there it is a number that `sort` returns


def test_the_course_counts_the_minutes_that_its_chapters_say(book):
    page = words(re.sub(r"<[^>]+>", " ", book.pages["teachers.html"].text))
    tops = [read(name)[0].source for name in ("04_attention", "05_rope")]
    reading, writing = (
        sum(int(re.search(part, top)[1]) for top in tops) for part in (r"takes (\d+)", r"and (\d+) more")
    )
    assert f"2 04 , 05 {reading} {writing}" in page


# ---- it asks nobody --------------------------------------------------------------------------------


def test_no_page_and_no_style_loads_anything_from_elsewhere(book):
    outside = [
        (name, each) for name, page in book.pages.items() for each in page.loaded if re.match(r"(https?:)?//", each)
    ]
    styles = {path.name: path.read_text("utf-8") for path in book.folder.rglob("*.css")}
    called = [
        (name, url) for name, text in styles.items() for url in re.findall(r"url\(['\"]?((?:https?:)?//[^)]+)", text)
    ]
    assert outside == called == [] and styles


@needs_chromium
def test_every_page_opens_from_a_folder_and_fits_a_phone_and_the_search_finds_a_word(book):
    wide, asked = [], []
    with browser(found()) as running:
        for place in [*book.pages, "search.html?q=induction"]:
            window = running.window()  # of its own: what an earlier page still does cannot be waited for
            window.size(390)
            window.open(f"{book.folder.as_uri()}/{place}")
            window.until(
                "!location.search || document.getElementById('search-results').innerText.includes('Inside attention')"
            )
            wide += [place] if window("document.documentElement.scrollWidth") > 390 else []
            asked += [url for url in window.requests() if not url.startswith(("file:", "data:"))]
            window.ask("Page.close")
    assert wide == asked == []
