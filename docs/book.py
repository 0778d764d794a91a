"""Prints the chapters as one PDF: `python docs/book.py STAGE BOOK.pdf`, by Sphinx and a Chromium without a window.

Figures in git are as sharp as a screen; for paper the chapters are run once more (`--chapters` says which; none: all
figures as in git) and each figure that shows no measured time is taken from that run, everything else from git.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
MEASURED = "nbval-ignore-output"  # bears a cell that shows times
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# In a function, since its names would else be those of the chapter.
SHARP = """
def draw_sharp():
    from qwen3_scratch.plots.canvas import Figure

    usual = Figure.savefig
    Figure.savefig = lambda self, file, **given: usual(self, file, **{**given, "dpi": 240})


draw_sharp()
"""


def run_sharp(chapters: list[Path], folder: Path) -> None:
    """Runs chapters with figures of 240 dots an inch, each into the folder; one that is there and newer is kept."""
    profile = folder / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "sharp.py").write_text(SHARP, "utf-8")
    settings = {"IPYTHONDIR": str(folder / "ipython"), "CI": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for chapter in chapters:
        done = folder / chapter.name
        if not done.exists() or done.stat().st_mtime < chapter.stat().st_mtime:
            command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(folder)]
            subprocess.run([*command, str(chapter)], check=True, env={**os.environ, **settings})


def with_figures(stored: Path, sharp: Path) -> None:
    """Puts sharp figures in the place of those in git, but of those that show what no second run measures again."""
    notebook, again = nbformat.read(stored, as_version=4), nbformat.read(sharp, as_version=4)
    kept = [each for cell in notebook.cells for each in pictures(cell)]
    fresh = [(each, MEASURED in cell.metadata.get("tags", ())) for cell in again.cells for each in pictures(cell)]
    for old, (new, measured) in zip(kept, fresh, strict=True):
        if not measured:
            old["data"]["image/png"] = new["data"]["image/png"]
    nbformat.write(notebook, stored)


def pictures(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]


def for_paper(page: str, numbers: dict[str, int]) -> str:
    """The one page, with all that is folded open, and after its title the chapters with their numbers of pages."""
    chapters = re.findall(r'<h2>(.*?)<a class="headerlink" href="#([^"]+)"', page)
    rows = "\n".join(
        f'<li><a href="#{anchor}"><span>{title}</span> <span>{numbers.get(anchor, "")}</span></a></li>'
        for title, anchor in chapters
    )
    begin = '<div class="toctree-wrapper compound">'
    contents = f"<nav class='contents'><p>Contents</p><ol>\n{rows}\n</ol></nav>"
    return page.replace("<details>", "<details open>").replace(begin, contents + begin, 1)


def page_numbers(printed: bytes) -> dict[str, int]:
    """On which page of a PDF of Chromium's each anchor stands that is led to."""
    pages = re.findall(rb"^(\d+) 0 obj\n<</Type /Page\n", printed, re.MULTILINE)
    places = re.findall(rb"/(\S+) \[(\d+) 0 R /XYZ", printed)
    return {name.decode(): 1 + pages.index(page) for name, page in places if page in pages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", type=Path, help="what stage.py has gathered")
    parser.add_argument("book", type=Path)
    parser.add_argument("--chapters", default="*", help="which are run for sharp figures, as in '0[3-5]*'")
    options = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"book: found no Chromium, expected one of {', '.join(BROWSERS)}: install one (apt install chromium)")
    work = options.book.resolve().parent / "book"
    chapters = sorted((ROOT / "notebooks").glob(f"{options.chapters}.ipynb")) if options.chapters else []
    run_sharp(chapters, work / "sharp")
    shutil.copytree(options.stage, work / "source", dirs_exist_ok=True)
    for chapter in chapters:
        with_figures(work / "source" / "notebooks" / chapter.name, work / "sharp" / chapter.name)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "singlehtml", "-t", "paper", "-c", str(ROOT / "docs")]
    subprocess.run([*command, "-d", str(work / "doctrees"), str(work / "source"), str(work / "page")], check=True)
    page, plain = work / "page" / "paper.html", (work / "page" / "paper.html").read_text("utf-8")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={work / 'browser'}"]
    printing = ["--no-pdf-header-footer", "--generate-pdf-document-outline", f"--print-to-pdf={options.book.resolve()}"]
    numbers: dict[str, int] = {}
    for _ in range(2):  # the first time to learn on which pages the chapters begin
        page.write_text(for_paper(plain, numbers), "utf-8")
        subprocess.run([browser, *quiet, *printing, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
        numbers = page_numbers(options.book.read_bytes())
    print(f"{os.path.relpath(options.book)}: {options.book.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
