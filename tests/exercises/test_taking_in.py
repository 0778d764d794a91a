"""Whatever is handed in is graded as far as it can be, and a note says what was found."""

import json
import sys

import nbformat
import pytest
from grading import answer_cells, course_module, hand_in, solutions, submission

PS1 = "ps1_norm_and_rope"
course = course_module()
taking_in = sys.modules["taking_in"]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    return course.Course(tmp_path_factory.mktemp("course"), timeout=20)


@pytest.fixture(scope="module")
def released(classroom):
    return classroom.release(PS1)


@pytest.fixture
def solved(released):
    """A notebook with all solutions, as a dict that a test may damage."""
    return json.loads(nbformat.writes(submission(released, solutions(PS1))))


@pytest.fixture
def taken(released, tmp_path):
    """What is made of a file: which exercises have their solution, and the notes."""

    def of(content):
        path = tmp_path / f"{PS1}.ipynb"
        data = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        notebook, notes = taking_in.take_in(path, nbformat.read(released, as_version=4))
        if notebook is None:
            return None, notes
        nbformat.validate(notebook)
        found = {name: cell.source for name, cell in answer_cells(notebook).items()}
        assert list(found) == list(solutions(PS1))
        return {name for name, code in solutions(PS1).items() if found[name] == code}, notes

    return of


ALL = set(solutions(PS1))


def test_an_undamaged_notebook_is_taken_as_it_is_without_a_note(solved, taken):
    assert taken(solved) == (ALL, [])


def without_metadata(notebook):
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def without_metadata_and_ids(notebook):
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"], cell["id"] = {}, f"c{number}"


def odd_metadata(notebook):
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] = ({"nbgrader": 3}, {"nbgrader": {"grade_id": []}}, {"nbgrader": {"grade_id": "x"}}, [])[
            number % 4
        ]


def another_grade_id(notebook):
    for cell in notebook["cells"]:
        if "nbgrader" in cell["metadata"]:
            cell["metadata"]["nbgrader"]["grade_id"] = "mine"


@pytest.mark.parametrize("damage", [without_metadata, without_metadata_and_ids, odd_metadata, another_grade_id])
def test_metadata_that_is_lost_or_damaged_is_put_back_and_said(damage, solved, taken):
    damage(solved)
    found, notes = taken(solved)
    assert found == ALL
    assert any(note.startswith("grading metadata lost or damaged, put back: ") and "rms_norm" in note for note in notes)


def test_half_a_notebook_is_graded_as_far_as_it_goes(solved, taken):
    text = json.dumps(solved)
    found, notes = taken(text[: text.index('"ps1_rope_check"')])
    assert found == {"learn_merges", "cosines", "rms_norm", "inverse_frequencies", "rope_table", "rope"}
    assert (
        notes[0].startswith("half a notebook (its JSON breaks off at character ")
        and "whole cells were read" in notes[0]
    )
    assert "no cell found that answers: keys_at_distance, position_of, to_halves, yarn_frequencies" in notes


def test_marks_of_two_versions_that_met_spoil_one_cell_at_most(solved, taken):
    text = json.dumps(solved, indent=1).replace("    mean_square = ", "\n<<<<<<< mine\n    mean_square = ", 1)
    found, notes = taken(text.replace("\\n<<<<<<<", '",\n<<<<<<<', 1))
    assert found >= ALL - {"rms_norm"} and notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_notebook_in_another_encoding_is_read(encoding, solved, taken):
    text = json.dumps(solved, ensure_ascii=False).encode(encoding, "replace")
    assert taken(text)[0] == ALL


def test_a_notebook_of_the_older_format_is_read(solved, taken):
    cells = [
        {"cell_type": cell["cell_type"], ("input" if cell["cell_type"] == "code" else "source"): cell["source"]}
        for cell in solved["cells"]
    ]
    assert taken({"worksheets": [{"cells": cells}], "nbformat": 3})[0] == ALL


def test_what_is_wrong_elsewhere_in_a_notebook_does_no_harm(solved, taken):
    for cell in solved["cells"]:
        cell |= {"outputs": "none", "execution_count": "x", "more": [1]}
    solved["cells"] += [3, {"cell_type": 4}, {"cell_type": "code", "source": 5}]
    del solved["metadata"], solved["nbformat"]
    found, notes = taken(solved)
    assert found == ALL and "3 cells without text or kind, left out" in notes


def test_an_answer_in_another_place_or_kind_of_cell_is_found_by_the_function_that_it_defines(solved, taken):
    cells = {cell["id"]: cell for cell in solved["cells"]}
    cells["ps1-rope-answer"]["cell_type"] = "markdown"
    moved = cells["ps1-keys-at-distance-answer"]
    solved["cells"].remove(moved)
    solved["cells"].append({"cell_type": "code", "source": moved["source"], "metadata": {}})
    found, notes = taken(solved)
    assert found == ALL
    assert "no code cell but read as one: rope" in notes


def test_cells_of_the_students_own_stay_where_they_were(solved, released, tmp_path):
    own = {"cell_type": "code", "source": "helper = 1", "metadata": {}}
    at = [cell["id"] for cell in solved["cells"]].index("ps1-rope-answer")
    solved["cells"].insert(at, own)
    path = hand_in(tmp_path, "student-1", PS1, json.dumps(solved))
    notebook, notes = taking_in.take_in(path, nbformat.read(released, as_version=4))
    assert notebook.cells[at].source == "helper = 1" and not notes
    assert notebook.cells[at + 1].id == "ps1-rope-answer"


def test_of_several_cells_for_one_answer_that_counts_which_was_changed_and_it_is_said(solved, released, taken):
    stub = answer_cells(nbformat.read(released, as_version=4))["rope"]
    solved["cells"].insert(0, json.loads(json.dumps(stub)))
    found, notes = taken(solved)
    assert found == ALL
    assert "more than one cell defines, the first that was changed counts: rope" in notes


@pytest.mark.parametrize(
    ("content", "begins"),
    [
        ("", "it is empty"),
        ("%PDF-1.7", "it begins with '%PDF-1.7'"),
        (b"\x00\x01\xff\xfe", "it begins with"),
        ("[" * 100_000, "it begins with '[[["),
        ("[]", "it begins with '[]'"),
        ('{"cells": []}', "it begins with"),
        ('{"cells": {"a": 1}}', "it begins with"),
        ('"a text"', "it begins with"),
    ],
)
def test_what_is_no_notebook_is_said_to_be_none_with_what_it_begins_with(content, begins, taken):
    found, (note,) = taken(content)
    assert found is None
    assert note.startswith(f"{PS1}.ipynb is no notebook ({begins}") and "expected the one that was handed out" in note


def test_another_kernel_is_named(solved, taken):
    solved["metadata"]["kernelspec"] = {"name": "julia-1.9", "language": "julia"}
    assert taken(solved) == (ALL, ["made with the kernel 'julia-1.9', graded with this Python"])


# ---- through nbgrader ------------------------------------------------------------------------


def test_a_right_hand_in_has_full_points_whatever_kernel_it_names_and_jupyters_path_holds(
    classroom, released, solved, tmp_path, monkeypatch
):
    false = tmp_path / "share" / "kernels" / "python3"
    false.mkdir(parents=True)
    (false / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    without_metadata_and_ids(solved)
    solved["metadata"]["kernelspec"] = {"name": "no-such-kernel", "language": "python", "display_name": "?"}
    marks = classroom.grade("student-1", PS1, hand_in(tmp_path, "student-1", PS1, json.dumps(solved)))
    assert marks.total[0] == marks.total[1] > 0
    assert any("no-such-kernel" in note for note in marks.notes)


HOSTILE = {
    "inverse_frequencies": "def inverse_frequencies(*args):\n    while True:\n        print('more and more of it')",
    "rope_table": "import builtins\nbuiltins.len = builtins.sum = None\ndef rope_table(*args):\n    return 3",
    "keys_at_distance": "get_ipython().ast_node_interactivity = 'none'\ndef keys_at_distance(*args):\n    return 3",
    "to_halves": "import sys\nsys.stdout = None\ndef to_halves(*args):\n    raise KeyboardInterrupt",
}


@pytest.mark.proof
def test_what_hostile_cells_break_costs_their_own_points_and_each_check_ends_in_one_sentence(
    classroom, released, tmp_path
):
    notebook = submission(released, {**solutions(PS1), **HOSTILE})
    marks = classroom.grade("student-1", PS1, hand_in(tmp_path, "student-1", PS1, notebook))
    assert [name for name, (points, full) in marks.points.items() if points == full] == [
        name for name in solutions(PS1) if name not in HOSTILE
    ], marks
    assert any("inverse_frequencies_check: stopped for time" in note for note in marks.notes)
    page = marks.feedback.read_text()
    assert len(page) < 600_000 and "No end within 20 seconds: this cell was stopped." in page
    assert "checking.py" not in page and "Traceback (most" not in page
