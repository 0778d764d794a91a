"""The page of feedback of one notebook: points by exercise, what checks said, hidden cases apart; it asks nobody."""

import html
import re
from collections.abc import Mapping

from latex2mathml.converter import convert
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from taking_in import exercise_of, name_of

from qwen3_scratch.exercises.sets import HIDDEN

CODE_OR_FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$", re.DOTALL)
INK = HtmlFormatter(style="tango", nowrap=False, cssclass="code")
HIDDEN_TESTS = re.compile(r"\n*### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.DOTALL)

LOOKS = (
    INK.get_style_defs(".code")
    + """
body { max-width: 54rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
pre, code { font: 14px/1.4 ui-monospace, monospace; } pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
details { margin: .3rem 0; } p { margin: .6rem 0; }
.box { border: 1px solid #bbb; border-radius: 4px; margin: .8rem 0; overflow: hidden; }
.box > p { margin: 0; padding: .25rem .7rem; background: #eee; font-size: .9rem; }
.box > pre, .box > div { padding: .5rem .7rem; } .box pre + pre { border-top: 1px solid #ddd; }
.answer { border-color: #446; } .answer > p { background: #e3e6f3; }
.hidden { border: 2px dashed #777; } .hidden > p { background: #f5efdd; }
.stopped { color: #8a1111; } img { max-width: 100%; }
"""
)


def page(title: str, notes: list[str], notebook: NotebookNode, points: Mapping[str, tuple[float, float]]) -> str:
    """All of the page. `points` are those of each exercise, and of how many."""
    earned, most = (sum(column) for column in zip(*points.values(), strict=True)) if points else (0, 0)
    heading = f"{title}: {earned:g} of {most:g} points"
    rows = "".join(
        f'<tr><td><a href="#{name}">{name}</a></td><td class="number">{got:g}</td><td>of {full:g}</td></tr>'
        for name, (got, full) in points.items()
    )
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    parts = [
        f"<h1>{html.escape(heading)}</h1>",
        f'<nav aria-label="Exercises"><table><tr><th>exercise</th><th colspan="2">points</th></tr>{rows}</table></nav>',
        f"<p>Notes:</p><ul>{said}</ul>" if said else "",
        *(shown(cell, points) for cell in notebook.cells),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{html.escape(heading)}</title><style>{LOOKS}</style>"
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def shown(cell: NotebookNode, points: Mapping[str, tuple[float, float]]) -> str:
    about = cell.metadata.get("nbgrader", {})
    name = exercise_of(name_of(cell))
    if cell.cell_type != "code":
        return written(cell.source, own=not cell.metadata.get("of_the_set"))
    if name == "open":
        return ""
    if about.get("grade"):
        got, full = points.get(name, (0, 0))
        return check_of(name, cell, f"{got:g} of {full:g} points")
    outputs = "".join(map(output_of, cell.get("outputs", ())))
    if about.get("solution"):
        return box("answer", f"{name}: the answer", ink(cell.source) + outputs)
    return box("", "of the set" if about.get("locked") else "a cell beside the exercises", ink(cell.source) + outputs)


def check_of(name: str, cell: NotebookNode, points: str) -> str:
    """What a check said: what the student saw, and apart from it the hidden cases."""
    text = "".join(str(output.text) for output in cell.outputs if output.output_type == "stream")
    seen, _, hidden = text.partition(HIDDEN)
    failed = "".join(output_of(output) for output in cell.outputs if output.output_type == "error")
    visible = ink(HIDDEN_TESTS.sub("", cell.source)) + pre(seen)
    after = pre(hidden.strip("\n")) + failed
    boxes = box("", f"{name}: its check, as students see it", visible)
    boxes += box("hidden", f"{name}: hidden cases, the same stages with other numbers · <b>{points}</b>", after)
    return f'<section id="{name}">{boxes}</section>'


def box(kind: str, title: str, content: str) -> str:
    return f'<div class="box {kind}"><p>{title}</p>{content}</div>'


def ink(source: str) -> str:
    return highlight(source, PythonLexer(), INK)


def pre(text: str, kind: str = "") -> str:
    return f'<pre class="{kind}">{html.escape(strip_ansi(text))}</pre>' if text.strip() else ""


def output_of(output: NotebookNode) -> str:
    """An output as text; of pictures PNG alone, since what else a cell shows could run here."""
    if output.output_type == "stream":
        return pre(str(output.text))
    if output.output_type == "error":
        return pre("\n".join(output.traceback), "stopped")
    picture = str(output.data.get("image/png", ""))
    if picture and re.fullmatch(r"[A-Za-z0-9+/=\s]+", picture):
        return f'<div><img alt="" src="data:image/png;base64,{picture}"></div>'
    return pre(str(output.data.get("text/plain", "")))


def written(text: str, own: bool) -> str:
    """Prose as HTML, its formulas as MathML; what students wrote themselves brings no HTML along."""
    if own:
        return MarkdownWithMath(renderer=IPythonRenderer(escape=True, exclude_anchor_links=True)).render(
            text.replace("$", r"\$")
        )
    return MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(
        CODE_OR_FORMULA.sub(drawn, text)
    )


def drawn(found: re.Match[str]) -> str:
    code, display, inline = found.groups()
    if code:
        return code
    return convert(display or inline, display="block" if display else "inline").replace("\n", " ")
