"""What the book adds to Sphinx: formulas as MathML, the first use of each term as a link, docstrings as they are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

GLOSSARY = Path(__file__).parent / "glossary.yml"
# Where a word is no use of a term: code, titles, what is a link already, a formula.
CLOSED = (
    nodes.literal, nodes.literal_block, nodes.title, nodes.reference, nodes.math, nodes.math_block, nodes.raw,
    addnodes.pending_xref, addnodes.download_reference, addnodes.glossary, addnodes.desc_signature, nodes.comment,
)  # fmt: skip

# How a signature prints its types and defaults, and how one reads them.
PLAIN = {
    r"\b(?:[a-z_]\w*\.)+(?=[A-Z])|~": "",
    r"\((?:<[^>]*>|None|, ){3,}\)": "Ops()",
    r"<function <lambda>>|<factory>": "...",
    r"<(?:function|built-in \w+) (\w+)[^>]*>": r"\1",
}

NAME = re.compile(r"<(m[io])>([A-Za-z]{2,})</\1>")
CALLED = re.compile(NAME.pattern + r"(?=(?:<mn>\d+</mn></msub>)?<mo[^>]*>(?:\(|&#x00028;))")


def terms() -> tuple[dict[str, str], dict[str, str]]:
    """Every way to write a term, in small letters, and the term; and behind which other one a term is meant."""
    entries = yaml.safe_load(GLOSSARY.read_text("utf-8"))
    forms = {form.lower(): each["term"] for each in entries for form in (each["term"], *each.get("forms", ()))}
    return forms, {each["term"]: each["behind"] for each in entries if "behind" in each}


class FirstUses(SphinxTransform):
    """On each page the first use of every term of the glossary leads there."""

    default_priority = 750  # after the notebooks' cells are parsed, before references are resolved

    def apply(self, **kwargs: Any) -> None:
        if self.env.docname in ("glossary", "index", "paper"):
            return
        self.env.note_dependency(str(GLOSSARY))
        known, behind = terms()
        longest_first = sorted(known, key=len, reverse=True)
        pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)
        seen: set[str] = set()
        for text in list(self.document.findall(nodes.Text)):
            if not any(isinstance(parent, CLOSED) for parent in above(text)):
                pieces = list(self.linked(text, pattern, known, behind, seen))
                if len(pieces) > 1:
                    text.parent.replace(text, pieces)

    def linked(
        self, text: nodes.Text, pattern: re.Pattern[str], known: dict[str, str], behind: dict[str, str], seen: set[str]
    ) -> Iterator[Any]:
        at, said = 0, text.astext()
        for found in pattern.finditer(said):
            term = known[found[0].lower()]
            if term in seen or behind.get(term, term) not in {term, *seen}:
                continue
            seen.add(term)
            yield nodes.Text(said[at : found.start()])
            about = {"refdomain": "std", "reftype": "term", "reftarget": term, "refdoc": self.env.docname}
            link = addnodes.pending_xref("", nodes.inline("", found[0], classes=["term"]), refexplicit=True, **about)
            link["refwarn"] = True
            yield link
            at = found.end()
        yield nodes.Text(said[at:])


def above(node: nodes.Node) -> Iterator[nodes.Node]:
    while node := node.parent:
        yield node


def mathml(formula: str, display: str) -> str:
    """A formula in MathML; bars of a norm are no taller than what they enclose, names such as log stand off."""
    said = convert(formula, display=display).replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
    said = said.replace("\\_", "_")
    for names, right in ((CALLED, "0"), (NAME, "0.17em")):
        said = names.sub(rf'<mo lspace="0.17em" rspace="{right}">\2</mo>', said)
    return said


def formula(display: str) -> Any:
    def visit(translator: Any, node: nodes.Element) -> None:
        translator.body.append(mathml(node.astext(), display))
        raise nodes.SkipNode

    return visit, None


def plain_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are prose with code between backticks: nothing else in them is a mark."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]+`)", line)
        lines[number] = "".join(
            f"`{part}`" if part.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", part) for part in parts
        )


def plain_types(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: Any, returned: Any) -> Any:
    """A signature as one reads it: a tensor with its shape, names without the modules that they come from."""
    for printed, shown in PLAIN.items():
        signature, returned = (re.sub(printed, shown, each) if each else each for each in (signature, returned))
    return signature, returned


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(FirstUses)
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-process-signature", plain_types)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
