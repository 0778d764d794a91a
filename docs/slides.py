"""Makes a lecture's slides, one file that asks nobody for anything: `python docs/slides.py LECTURE.md SLIDES.html`.

A lecture is Markdown; `---` begins a slide. A picture whose address is a call, `![](plots.dispatch_order)`, is the
figure that the chapter of the lecture's name shows for it, with its alternative text; a block of code in the language
`source` that names a function of the package shows its source. What stands in `<aside>` are notes for the speaker.
"""

import importlib
import re
import sys
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from marks import mathml
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, TextLexer

from qwen3_scratch.inside.listing import source

ROOT = Path(__file__).resolve().parents[1]
COLOURS = HtmlFormatter(style="a11y-high-contrast-light", nowrap=True)


def coloured(code: str, language: str, attrs: str = "") -> str:
    if language == "source":
        module, name = code.strip().rsplit(".", 1)
        code = source(getattr(importlib.import_module(module), name), brief=True)
    return highlight(code, PythonLexer() if language in ("python", "source") else TextLexer(), COLOURS)


def figure(cells: list[NotebookNode], call: str) -> str:
    """The first figure of a cell with this call."""
    for cell in cells:
        if cell.cell_type == "code" and f"{call}(" in cell.source:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    alt = output.metadata["image/png"]["alt"].replace('"', "&quot;")
                    png = "".join(output.data["image/png"].split())
                    return f'<img alt="{alt}" src="data:image/png;base64,{png}">'
    raise SystemExit(f"slides: no cell shows a figure of {call}, expected one: mend the lecture")


def slides(text: str, cells: list[NotebookNode]) -> str:
    markdown = MarkdownIt("commonmark", {"highlight": coloured, "html": True}).enable("table")
    markdown.use(
        dollarmath_plugin,
        renderer=lambda formula, about: mathml(formula, "block" if about["display_mode"] else "inline"),
    )
    made = []
    for part in re.split(r"^---$", text, flags=re.MULTILINE):
        part = re.sub(r"!\[\]\((plots\.\w+)\)", lambda found: figure(cells, found[1]), part)
        made.append(f"<section>{markdown.render(part)}</section>")
    return "\n".join(made)


def deck(lecture: Path) -> str:
    """The page with the slides of a lecture."""
    text = lecture.read_text("utf-8")
    cells = nbformat.read(ROOT / "notebooks" / f"{lecture.stem}.ipynb", as_version=4).cells
    page = (Path(__file__).parent / "deck.html").read_text("utf-8")
    (title,) = re.findall(r"^# (.+)$", text, re.MULTILINE)
    filled = {"TITLE": title, "COLOURS": COLOURS.get_style_defs("pre"), "SLIDES": slides(text, cells)}
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: filled[found[1]], page)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(deck(Path(sys.argv[1])), "utf-8")
