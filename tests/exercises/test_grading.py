"""The course as a teacher runs it: notebooks go out, come back in every state, and get the marks that they should."""

import csv
import html
import json
import re
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from grading import (
    HERE,
    SETS,
    answer_cells,
    check_cells,
    course_module,
    hand_in,
    rounds,
    solutions,
    submission,
)
from helpers import finished

PS1 = "ps1_norm_and_rope"
course = course_module()


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """A course in a folder of its own, with a time limit that no right answer comes near."""
    return course.Course(tmp_path_factory.mktemp("course"), timeout=60)


@pytest.fixture(scope="module")
def released(classroom):
    """set -> the notebook that students get."""
    found: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in found:
            found[name] = classroom.release(name)
        return found[name]

    return of


@pytest.fixture
def graded(classroom, released, tmp_path):
    """Grades one notebook: which exercises have full marks, and all that is known of it."""

    def marks(name: str, notebook, student: str = "student-1"):
        released(name)
        found = classroom.grade(student, name, hand_in(tmp_path, student, name, notebook))
        assert all(0 <= points <= full for points, full in found.points.values())
        return [exercise for exercise, (points, full) in found.points.items() if points == full], found

    return marks


# ---- what goes out ---------------------------------------------------------------------------


def test_what_is_handed_out_holds_no_solution_and_no_hidden_test(classroom, tmp_path):
    archive = course.hand_out(classroom, tmp_path / "exercises")
    packed = [name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")]
    assert sorted(packed) == [f"exercises/{name}.ipynb" for name in SETS]
    for name in SETS:
        notebook = nbformat.read(tmp_path / "exercises" / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        text = "\n".join(cell.source for cell in notebook.cells)
        assert "SOLUTION" not in text and "HIDDEN" not in text and "points(" not in text
        assert list(answer_cells(notebook)) == list(solutions(name))
        for exercise, cell in answer_cells(notebook).items():
            assert cell.source.rstrip().endswith("raise NotImplementedError")
            kept = source_lines(name, exercise)
            assert not kept & set(cell.source.splitlines())


def source_lines(name: str, exercise: str) -> set[str]:
    """The lines of a solution, between the marks."""
    text = solutions(name)[exercise]
    inside = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", text, re.DOTALL)
    return {line for part in inside for line in part.splitlines() if line.strip()}


# ---- what comes back: a sample ---------------------------------------------------------------


@pytest.mark.proof
def test_the_solutions_have_full_marks(graded, released):
    right, marks = graded(PS1, submission(released(PS1), solutions(PS1)))
    assert right == list(solutions(PS1))
    assert not marks.notes
    assert marks.feedback.exists()


@pytest.mark.proof
def test_the_untouched_notebook_has_no_marks_and_says_what_is_to_do(graded, released):
    _, marks = graded(PS1, submission(released(PS1), {}))
    assert marks.total[0] == 0 and len(marks.points) == len(solutions(PS1))
    assert not marks.notes
    assert marks.feedback.read_text().count("not written yet") >= len(marks.points)


def test_wrong_answers_lose_their_own_marks_and_no_others(graded, released):
    answers, wrong = solutions(PS1), dict(list(rounds(PS1)[1].items())[::2])
    answers |= {exercise: each.code for exercise, each in wrong.items()}
    right, marks = graded(PS1, submission(released(PS1), answers))
    assert right == [exercise for exercise in answers if exercise not in wrong]
    page = html.unescape(marks.feedback.read_text())
    assert all(each.fragment in page for each in wrong.values())
    assert [re.findall(r'<a href="#(.*?)">(.*?)</a></td><td class="number">([0-9.]+)', page)] == [
        [(exercise, exercise, f"{points:g}") for exercise, (points, _) in marks.points.items()]
    ]
    assert not re.findall(r"(?:src|href)=.https?://|<script|\$", page.split("</style>")[1])
    assert page.count("hidden cases, the same stages with other numbers") == len(marks.points)
    assert "<math" in page and "Traceback (most" not in page


VANDALS = {
    "inverse_frequencies": "import os, shutil\nshutil.rmtree(os.getcwd())\ndel torch, math, Float, Tensor, check",
    "rope_table": "import os\ndef rope_table(positions, frequencies):\n    os._exit(1)",
    "rope": "import qwen3_scratch.exercises as e\ne.check = lambda *a, **k: None\ntorch.cat = torch.Tensor.cos = None",
}


STUBBORN = {  # what no interrupt stops, and what ends Python from a cell of its own: slow to find out
    "rms_norm": """def rms_norm(x, weight, eps):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass""",
    "to_halves": "exit()",
}


@pytest.mark.proof
def test_what_cannot_be_interrupted_costs_its_own_marks_and_no_others(graded, released):
    right, marks = graded(PS1, submission(released(PS1), {**solutions(PS1), **STUBBORN}))
    assert right == [exercise for exercise in solutions(PS1) if exercise not in STUBBORN], marks


def test_what_destroys_costs_its_own_marks_and_no_others(graded, released):
    notebook = submission(released(PS1), {**solutions(PS1), **VANDALS})
    gone = check_cells(notebook)["keys_at_distance"]
    notebook.cells.remove(gone)
    check_cells(notebook)["yarn_frequencies"].source = "pass"
    right, marks = graded(PS1, notebook)
    assert right == [exercise for exercise in solutions(PS1) if exercise not in VANDALS], marks
    said = "\n".join(marks.notes)
    assert "missing, put back: ps1_keys_at_distance_check" in said
    assert "changed, put back: ps1_yarn_frequencies_check" in said
    assert "ps1_rope_table_check: ended or blocked Python" in said
    assert "look at its use of" in said and "shutil" in said


def test_an_answer_that_replaces_the_check_gets_no_marks_for_what_is_wrong(graded, released):
    patched = (
        "import qwen3_scratch.exercises as e\ncheck = e.check = lambda *a, **k: None\ndef rope(x, cos, sin): return x"
    )
    notebook = submission(released(PS1), {"rope": patched})
    for name in ("rope", "keys_at_distance"):
        check_cells(notebook)[name].source = "check = print"
    right, _ = graded(PS1, notebook)
    assert right == []


# ---- what comes back and is no notebook at all ------------------------------------------------


def test_what_cannot_be_graded_has_no_marks_and_stops_nobody(classroom, released, tmp_path):
    hand_in(tmp_path, "student-1", PS1, "{ this is no JSON")
    hand_in(tmp_path, "student-2", PS1, json.dumps({"cells": 3}))
    (tmp_path / "student-3").mkdir()
    (tmp_path / ".hidden").mkdir()
    marks = list(course.grade_all(classroom, tmp_path))
    assert [entry.student for entry in marks] == ["student-1", "student-2", "student-3"]
    assert all(entry.total == (0, sum(full for _, full in entry.points.values())) for entry in marks)
    assert [" ".join(entry.notes).split("(")[0].strip() for entry in marks] == [
        f"{PS1}.ipynb is no notebook",
        f"{PS1}.ipynb is no notebook",
        "not handed in",
    ]
    course.write_marks(tmp_path / "marks.csv", marks)
    rows = list(csv.DictReader((tmp_path / "marks.csv").open()))
    assert [(row["student"], row["exercise"]) for row in rows] == [
        (entry.student, exercise) for entry in marks for exercise in solutions(PS1)
    ]
    assert {row["points"] for row in rows} == {"0"}
    lines = course.table(marks).splitlines()
    assert len(lines) == 1 + 3 + 3 and "student-2" in lines[2] and "0/" in lines[2]


def test_of_several_copies_the_newest_is_graded(tmp_path):
    import os

    older = hand_in(tmp_path, "student-1", PS1, "{}")
    newer = hand_in(tmp_path, "student-1", f"{PS1} (1)", "{}")
    os.utime(older, (1, 1))
    assert course.find_notebooks(tmp_path / "student-1") == {PS1: newer}
    os.utime(newer, (0, 0))
    assert course.find_notebooks(tmp_path / "student-1") == {PS1: older}


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda folder: folder / "nowhere", "no such folder, expected one with a folder for each student"),
        (lambda folder: folder, "found no folder in it, expected one for each student"),
        (lambda folder: (folder / "student-1").mkdir() or folder, "found no notebook of a set"),
    ],
)
def test_a_folder_without_submissions_is_one_sentence(make, fragment, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["course.py", "grade", str(make(tmp_path)), "--root", str(tmp_path / "root")])
    with pytest.raises(SystemExit) as end:
        course.main()
    assert fragment in end.value.code and "\n" not in end.value.code


@pytest.mark.proof
def test_the_command_prints_a_table_of_marks_and_writes_them(tmp_path):
    hand_in(tmp_path / "in", "student-1", PS1, "no notebook")
    said = finished(str(HERE / "course.py"), "grade", str(tmp_path / "in"), "--root", str(tmp_path))
    assert said.code == 0
    assert re.search(rf"^student-1 +{PS1} +0/\d+ +learn_merges 0/3", said.out, re.MULTILINE)
    assert (tmp_path / "marks.csv").exists() and "marks.csv: a line for each" in said.out


# ---- everything (`make proof`) ------------------------------------------------------


@pytest.mark.proof
@pytest.mark.parametrize("name", SETS)
def test_the_solutions_of_every_set_have_full_marks_and_its_untouched_notebook_none(name, graded, released):
    right, marks = graded(name, submission(released(name), solutions(name)))
    assert right == list(solutions(name)) and not marks.notes
    right, marks = graded(name, submission(released(name), {}), "student-2")
    assert right == [] and marks.total[0] == 0 and not marks.notes


@pytest.mark.proof
@pytest.mark.parametrize(("name", "number"), [(name, number) for name in SETS for number in range(len(rounds(name)))])
def test_every_wrong_answer_of_every_set_loses_its_marks(name, number, graded, released):
    wrong = rounds(name)[number]
    right, marks = graded(name, submission(released(name), {exercise: each.code for exercise, each in wrong.items()}))
    assert right == []
    outputs = "".join(json.dumps(cell.get("outputs")) for cell in nbformat.read(autograded(marks), as_version=4).cells)
    assert all(json.dumps(each.fragment)[1:-1] in outputs for each in wrong.values())


@pytest.mark.proof
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("part", [0, 1])
def test_half_of_the_answers_wrong_is_half_of_the_marks_in_every_set(name, part, graded, released):
    wrong = dict(list(rounds(name)[0].items())[part::2])
    answers = solutions(name) | {exercise: each.code for exercise, each in wrong.items()}
    right, _ = graded(name, submission(released(name), answers))
    assert right == [exercise for exercise in answers if exercise not in wrong]


@pytest.mark.proof
@pytest.mark.parametrize("name", SETS)
def test_an_endless_loop_in_any_set_costs_one_exercise(name, graded, released):
    first = next(iter(solutions(name)))
    loop = f"def {first}(*args, **kwargs):\n    while True:\n        pass"
    right, marks = graded(name, submission(released(name), {**solutions(name), first: loop}))
    assert right == list(solutions(name))[1:]
    assert any("stopped for time" in note for note in marks.notes)


@pytest.mark.proof
@pytest.mark.parametrize("name", SETS)
def test_a_cell_that_deletes_all_names_and_files_harms_no_other_in_any_set(name, graded, released):
    first = next(iter(solutions(name)))
    lines = (
        "import os, shutil",
        "shutil.rmtree(os.getcwd())",
        "[globals().pop(n) for n in list(globals()) if n[0] != '_']",
    )
    right, _ = graded(name, submission(released(name), {**solutions(name), first: "\n".join(lines)}))
    assert right == list(solutions(name))[1:]


def autograded(marks) -> Path:
    return marks.feedback.parents[3] / "autograded" / marks.student / marks.set / f"{marks.set}.ipynb"
