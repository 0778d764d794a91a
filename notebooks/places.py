"""Fills the places of a chapter in which the reader writes, from the exercises: one source, and no second copy.

`python places.py CHAPTERS...`: a cell whose metadata names an exercise (`"exercise": {"name": "rope", "part": "stub"}`)
gets its text from `exercises/source`. The parts: `stub`, the function to write; `check`, the call that tries it;
`solution`, the hints and one solution, folded. What a reader wrote into a stub is overwritten: this is for authors.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

SOURCES = Path(__file__).parent / "exercises" / "source"
PARTS = ("stub", "check", "solution")
SOLUTION = re.compile(r"    ### BEGIN SOLUTION\n(.*?)\n    ### END SOLUTION", re.DOTALL)
SHAPE = re.compile(r"\w+\[Tensor, '([^']*)'\]")


class Place(NamedTuple):
    """What an exercise says of a function: the cell with its solution, its hints, and the minutes it takes."""

    answer: str
    hints: str
    minutes: int


@cache
def places() -> dict[str, Place]:
    """All exercises by name."""
    return {name: place for path in sorted(SOURCES.glob("*/*.ipynb")) for name, place in of_set(path)}


def of_set(path: Path) -> Iterator[tuple[str, Place]]:
    cells = nbformat.read(path, as_version=4).cells
    for number, cell in enumerate(cells):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            name = cell.metadata.nbgrader.grade_id.split("_", 1)[1].removesuffix("_answer")
            minutes = re.search(r"[●○]{3} · (\d+) minutes", cells[number - 1].source)
            assert minutes, f"{path.name}: no minutes stand before {name}"
            yield name, Place(cell.source, cells[number + 1].source, int(minutes[1]))


def filled(name: str, part: str) -> str:
    """The text of a place."""
    place = places()[name]
    head, body = signature(name, place.answer)
    if part == "check":
        return f'check("{name}", my_{name})'
    if part == "solution":
        (solution,) = SOLUTION.findall(place.answer)
        code = f"```python\n{head}\n{solution}\n```"
        return f"{place.hints}\n\n<details><summary>One solution</summary>\n\n{code}\n\n</details>"
    return f"{head}\n{body}\n    raise NotImplementedError  # write it here, then run the next cell"


def signature(name: str, answer: str) -> tuple[str, str]:
    """The head of a function to write, its shapes as comments, and its first line, which says what it gives."""
    (function,) = [node for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef)][-1:]
    arguments = function.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
    lines = [
        f"    {argument.arg}{f'={ast.unparse(default)}' if default else ''},  # {spoken(argument.annotation)}"
        for argument, default in zip(arguments.args, defaults, strict=True)
    ]
    head = "\n".join([f"def my_{name}(", *lines, f"):  # gives {spoken(function.returns)}"])
    return head, f'    """{ast.get_docstring(function)}"""'


def spoken(annotation: ast.expr | None) -> str:
    """A type as one says it: a tensor by its shape, `[batch, seq]`."""
    text = SHAPE.sub(lambda found: f"[{', '.join(found[1].replace('#', '').split())}]", ast.unparse(annotation))
    return re.sub(r"^tuple\[(.*)\]$", r"\1", text)


def fill(notebook: NotebookNode) -> int:
    """Writes the places of a chapter; says how many cells are others than before."""
    changed = 0
    for cell in notebook.cells:
        wanted = cell.metadata.get("exercise")
        if wanted:
            source = filled(wanted["name"], wanted["part"])
            changed += source != cell.source
            cell.source = source
    return changed


def main(*chapters: str) -> None:
    for path in chapters:
        notebook = nbformat.read(path, as_version=4)
        print(f"{Path(path).name}: {fill(notebook)} cells filled")
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
