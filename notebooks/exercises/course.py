"""Hands out the exercises and grades what comes back: `make exercises`, `make grade SUBMISSIONS=folder`.

nbgrader makes the students' notebooks, runs what comes back and keeps the points. This file walks over sets and
students, keeps one student's trouble from the others, and writes the table. `taking_in` reads what came, `sturdy`
runs it, `pages` shows it.
"""

import argparse
import csv
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from qwen3_scratch import Error

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from pages import page  # noqa: E402 (lies beside this file, as the next one)
from taking_in import is_answer, take_in  # noqa: E402

ROOT = HERE.parents[1]
SETS = tuple(sorted(path.parent.name for path in HERE.glob("source/*/*.ipynb")))
SUSPECT = re.compile(
    r"sys\.modules|sys\.std\w+|get_ipython|__code__|__globals__|setattr\(|builtins|importlib|subprocess|os\.\w+|shutil|gc\."
)


@dataclass
class Marks:
    """What one student has for one set, exercise by exercise, and what the teacher should know."""

    student: str
    set: str
    points: dict[str, tuple[float, float]] = field(default_factory=dict)  # exercise -> points, of how many
    notes: list[str] = field(default_factory=list)
    feedback: Path | None = None

    @property
    def total(self) -> tuple[float, float]:
        return tuple(sum(column) for column in zip(*self.points.values(), strict=True)) or (0.0, 0.0)


class Course:
    """nbgrader's course in a folder: `source` lies here, all that is generated under `root`."""

    def __init__(self, root: Path = HERE, timeout: int | None = None):
        self.root = root.resolve()
        beside = str(Path(sys.executable).parent)  # where nbgrader's helper `alembic` lies, whether or not PATH says so
        if beside not in os.environ["PATH"].split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join((beside, os.environ["PATH"]))
        self.config = PyFileConfigLoader(str(HERE / "nbgrader_config.py")).load_config()
        self.config.CourseDirectory.root = str(self.root)
        self.config.CourseDirectory.source_directory = str(HERE / "source")
        if timeout:
            self.config.Execute.timeout = timeout

    def _run(self, step: Any, name: str, student: str = "*") -> None:
        folder = CourseDirectory(config=self.config, assignment_id=name, student_id=student)
        app = step(coursedir=folder, config=self.config)
        app.log = logging.getLogger("nbgrader of this course")
        app.log.setLevel(logging.CRITICAL)
        app.force, app.create_student, app.create_assignment = True, True, True
        with warnings.catch_warnings(action="ignore"):  # of nbgrader's ways with its database and with cells' ids
            app.start()

    def release(self, name: str) -> Path:
        """Writes the students' notebook of a set, without solutions and hidden tests, and returns its path."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._run(GenerateAssignment, name)
        except NbGraderException:
            book = self.root / "gradebook.db"
            found = f"cannot take {name} (it holds submissions to another form of the set)"
            raise Error(f"{book}: {found}, expected none: move the file away and start again") from None
        return self.root / "release" / name / f"{name}.ipynb"

    def grade(self, student: str, name: str, notebook: Path | None) -> Marks:
        """Grades one notebook of a student; whatever is wrong with it, there are marks and notes."""
        marks = Marks(student, name)
        target = self.root / "submitted" / student / name
        for stage in ("submitted", "autograded", "feedback"):
            shutil.rmtree(self.root / stage / student / name, ignore_errors=True)
        taken, marks.notes = (None, ["not handed in"]) if notebook is None else self._taken_in(notebook, name)
        done = self.root / "autograded" / student / name / f"{name}.ipynb"
        if taken is not None:
            marks.notes += suspect(taken)
            target.mkdir(parents=True)
            nbformat.write(taken, target / f"{name}.ipynb")
            try:
                self._run(Autograde, name, student)
                marks.notes += ends(done)
            except Exception as error:  # whatever a student's code has done to the grading of this notebook
                said = (str(error).strip() or "no message").splitlines()[0][:80]
                marks.notes.append(f"could not be graded ({type(error).__name__}: {said})")
        marks.points = self._points(student, name, graded=done.exists())
        if done.exists():
            marks.feedback = self.root / "feedback" / student / name / f"{name}.html"
            marks.feedback.parent.mkdir(parents=True)
            graded = nbformat.read(done, as_version=4)
            marks.feedback.write_text(page(f"{student} · {name}", marks.notes, graded, marks.points), encoding="utf-8")
        return marks

    def _taken_in(self, notebook: Path, name: str) -> tuple[NotebookNode | None, list[str]]:
        """What can be graded of a file, and what was found in it."""
        released = nbformat.read(self.root / "release" / name / f"{name}.ipynb", as_version=4)
        for cell in released.cells:
            cell.metadata["of_the_set"] = not is_answer(cell)
        try:
            return take_in(notebook, released)
        except OSError as error:
            return None, [f"{notebook.name} cannot be read ({error.strerror})"]

    def _points(self, student: str, name: str, graded: bool) -> dict[str, tuple[float, float]]:
        found = {}
        with Gradebook(f"sqlite:///{self.root}/gradebook.db") as book:
            for cell in book.find_notebook(name, name).grade_cells:
                score = 0.0
                if graded:
                    try:
                        score = book.find_grade(cell.name, name, name, student).score or 0.0
                    except MissingEntry:
                        score = 0.0
                found[cell.name.split("_", 1)[1].removesuffix("_check")] = (score, cell.max_score)
        return found


def cells(path: Path) -> dict[str, NotebookNode]:
    """The cells that nbgrader knows by name."""
    found = nbformat.read(path, as_version=4).cells
    return {cell.metadata.nbgrader.grade_id: cell for cell in found if "grade_id" in cell.metadata.get("nbgrader", {})}


def suspect(notebook: NotebookNode) -> list[str]:
    """Code that reaches elsewhere, which a teacher should look at before the points."""
    code = (cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.metadata.get("of_the_set"))
    words = sorted({word for text in code for word in SUSPECT.findall(text)})
    return [f"look at its use of {', '.join(words)}"] if words else []


def ends(autograded: Path) -> list[str]:
    """Which cells were stopped: they took too long, or ended their Python process."""
    why = {"CellTimeoutError": "stopped for time", "Stopped": "ended or blocked Python"}
    notes = {}
    for name, cell in cells(autograded).items():
        for output in cell.get("outputs", []):
            if output.output_type == "error" and output.ename in why:
                notes[name] = why[output.ename]
    return [f"{name}: {note}" for name, note in notes.items()]


def find_notebooks(folder: Path) -> dict[str, Path]:
    """The notebook of each set in a student's folder, at any depth; of several the newest."""
    found = {}
    for path in sorted(folder.rglob("*.ipynb"), key=lambda path: path.stat().st_mtime):
        for name in SETS:
            if path.stem.startswith(name) and ".ipynb_checkpoints" not in path.parts:
                found[name] = path
    return found


def hand_out(course: Course, folder: Path) -> Path:
    """The students' notebooks as a folder and as a zip beside it, whose path is returned."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in SETS:
        shutil.copyfile(course.release(name), folder / f"{name}.ipynb")
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def grade_all(course: Course, submissions: Path) -> Iterator[Marks]:
    """Marks of every student, which are the subfolders of `submissions`, for every set that anybody handed in."""
    students = sorted(path for path in submissions.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not students:
        raise Error(f"{submissions}: found no folder in it, expected one for each student: put the notebooks into them")
    notebooks = {student.name: find_notebooks(student) for student in students}
    wanted = [name for name in SETS if any(name in found for found in notebooks.values())]
    if not wanted:
        expected = f"expected names such as {SETS[0]}.ipynb" if SETS else "and no set either"
        raise Error(f"{submissions}: found no notebook of a set, {expected}: keep the names that were handed out")
    for name in wanted:
        course.release(name)
    for student, found in notebooks.items():
        for name in wanted:
            print(f"grading {student} · {name}", file=sys.stderr)
            yield course.grade(student, name, found.get(name))


def write_marks(path: Path, marks: Sequence[Marks]) -> None:
    """One line for each student and exercise."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("student", "set", "exercise", "points", "of", "notes"))
        for entry in marks:
            for exercise, (points, full) in entry.points.items():
                score = f"{points:g}", f"{full:g}"
                writer.writerow((entry.student, entry.set, exercise, *score, "; ".join(entry.notes)))


def shown(path: Path | None) -> str:
    """A path as it is typed from here."""
    return "-" if path is None else os.path.relpath(path)


def table(marks: Sequence[Marks]) -> str:
    """A line a student and set: points, what is behind them, and where the feedback lies."""
    rows = [("student", "set", "points", "exercises", "feedback")]
    for entry in marks:
        points, full = entry.total
        each = " ".join(f"{name} {got:g}/{most:g}" for name, (got, most) in entry.points.items() if got < most)
        rows.append((entry.student, entry.set, f"{points:g}/{full:g}", each or "all right", shown(entry.feedback)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for entry in marks:
        lines += [f"note: {entry.student} · {entry.set}: {note}" for note in entry.notes]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="course.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("hand-out", help="write the students' notebooks and a zip")
    out.add_argument("folder", type=Path)
    grade = commands.add_parser("grade", help="grade a folder with one folder for each student")
    grade.add_argument("submissions", type=Path)
    grade.add_argument("--timeout", type=int, default=None, help="seconds after which a cell is stopped")
    for command in (out, grade):
        command.add_argument("--root", type=Path, default=HERE, help="where nbgrader keeps what it generates")
    options = parser.parse_args()
    try:
        if options.command == "hand-out":
            archive = hand_out(Course(options.root), options.folder)
            print(f"{shown(options.folder)}/ and {shown(archive)}: {len(SETS)} sets")
            return
        if not options.submissions.is_dir():
            expected = "expected one with a folder for each student: mend SUBMISSIONS"
            raise Error(f"{options.submissions}: no such folder, {expected}")
        marks = list(grade_all(Course(options.root, options.timeout), options.submissions))
        path = options.root / "marks.csv"
        write_marks(path, marks)
        print(f"{table(marks)}\n{shown(path)}: a line for each student and exercise")
    except Error as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
