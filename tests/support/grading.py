"""Submissions made of the notebooks' own solutions, of wrong answers, and of things that a student's code may do."""

import copy
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from helpers import ROOT
from nbformat import NotebookNode

HERE = ROOT / "notebooks" / "exercises"
FOUND = tuple(sorted(path.parent.name for path in HERE.glob("source/*/*.ipynb")))
SETS = tuple(
    name for name in FOUND if (ROOT / "tests" / "support" / "wrong_answers" / f"{name.split('_')[0]}.py").exists()
)


def course_module() -> Any:
    """notebooks/exercises/course.py, which is a script and in no package."""
    sys.path.insert(0, str(HERE))
    try:
        return importlib.import_module("course")
    finally:
        sys.path.remove(str(HERE))


def source(name: str) -> NotebookNode:
    return nbformat.read(HERE / "source" / name / f"{name}.ipynb", as_version=4)


def about(cell: NotebookNode) -> dict[str, Any]:
    return cell.metadata.get("nbgrader", {})


def answer_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """exercise -> the cell that its answer stands in."""
    found = [cell for cell in notebook.cells if about(cell).get("solution")]
    return {about(cell)["grade_id"].split("_", 1)[1].removesuffix("_answer"): cell for cell in found}


def check_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    found = [cell for cell in notebook.cells if about(cell).get("grade")]
    return {about(cell)["grade_id"].split("_", 1)[1].removesuffix("_check"): cell for cell in found}


def solutions(name: str) -> dict[str, str]:
    """exercise -> the cell with its solution."""
    return {exercise: cell.source for exercise, cell in answer_cells(source(name)).items()}


class WrongAnswer(NamedTuple):
    """One of a bank: the exercise that it answers wrongly, and a piece of what has to be said of it."""

    exercise: str
    what: str
    function: Any
    fragment: str

    @property
    def code(self) -> str:
        """As a student would have written it, under the exercise's name."""
        return inspect.getsource(self.function).replace(f"{self.exercise}__{self.what}(", f"{self.exercise}(", 1)


def wrong_answers(name: str) -> list[WrongAnswer]:
    """The bank of a set, in its order."""
    bank = importlib.import_module(f"wrong_answers.{name.split('_')[0]}")
    found = [value for key, value in vars(bank).items() if "__" in key.strip("_") and callable(value)]
    return [WrongAnswer(*each.__name__.split("__", 1), each, bank.FRAGMENTS[each]) for each in found]


def rounds(name: str) -> list[dict[str, WrongAnswer]]:
    """Submissions that hold one wrong answer to every exercise each, as many as the longest bank has."""
    by_exercise: dict[str, list[WrongAnswer]] = {}
    for wrong in wrong_answers(name):
        by_exercise.setdefault(wrong.exercise, []).append(wrong)
    count = max(map(len, by_exercise.values()))
    return [{key: bank[number % len(bank)] for key, bank in by_exercise.items()} for number in range(count)]


def submission(released: Path, answers: dict[str, str]) -> NotebookNode:
    """The notebook that was handed out with some of its answer cells filled in."""
    notebook = copy.deepcopy(nbformat.read(released, as_version=4))
    cells = answer_cells(notebook)
    for exercise, code in answers.items():
        cells[exercise].source = code
    return notebook


def hand_in(folder: Path, student: str, name: str, notebook: NotebookNode | str) -> Path:
    """Puts a notebook, or any text in its place, where a student's would lie."""
    path = folder / student / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else nbformat.writes(notebook), encoding="utf-8")
    return path
