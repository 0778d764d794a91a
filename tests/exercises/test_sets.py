"""What a handed-out set calls: nothing stops Run All, points come by stage, the last cell says what is open."""

import re

import pytest
import torch
import torch.nn.functional as F
from grading import HERE, SETS, about, check_cells, course_module, solutions, source, submission
from helpers import PATIENCE, unchecked
from nbclient import NotebookClient

from qwen3_scratch import Error
from qwen3_scratch.exercises import exercises
from qwen3_scratch.exercises.sets import HIDDEN, check, points, see, shares, what_is_open


@pytest.fixture(autouse=True)
def as_students_run_it():
    with unchecked():
        yield


def rms_norm(x, weight, eps):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def eps_of_its_own(x, weight, eps):
    return rms_norm(x, weight, 1e-6)


def no_root(x, weight, eps):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps)


def stub(x, weight, eps):
    raise NotImplementedError


def test_a_wrong_answer_is_said_and_stops_nothing(capsys):
    check("rms_norm", no_root)
    said = capsys.readouterr().out
    assert said.startswith("Not right: rms_norm, random shapes") and "square root is missing" in said
    check("rms_norm", stub)
    assert "not written yet" in capsys.readouterr().out


def test_a_wrong_edge_costs_the_points_of_its_stage_and_no_others(capsys):
    stages = len(exercises()["rms_norm"].stages)
    assert points("rms_norm", rms_norm, of=2) == 2
    assert points("rms_norm", eps_of_its_own, of=2) == round(2 - 1 / (stages - 1), 2)
    said = capsys.readouterr().out.split(HIDDEN)[2].strip().splitlines()
    assert said[0] == "1 of 1 · random shapes" and said[1].startswith("0 of 0.2 · Not right: rms_norm, odd")


@pytest.mark.parametrize("answer", [no_root, stub, 3, None])
def test_what_is_not_right_from_the_first_stage_on_or_no_function_has_no_points(answer):
    assert points("rms_norm", answer, of=3) == 0


def test_the_shares_of_the_stages_of_every_exercise_are_one_in_all_and_half_is_the_firsts():
    for exercise in exercises().values():
        assert sum(shares(exercise)) == pytest.approx(1) and len(shares(exercise)) == len(exercise.stages)
        assert shares(exercise)[0] == (0.5 if len(exercise.stages) > 1 else 1)


def test_what_moe_forbids_costs_a_quarter_of_its_points(capsys):
    """Every expert on every token: right numbers, and the work that the exercise is about not saved."""

    def all_experts(x, weights, experts, gate_up_proj, down_proj):
        out = torch.zeros_like(x)
        for number in range(len(gate_up_proj)):
            gate, up = gate_up_proj[number].chunk(2)
            weight = (weights * (experts == number)).sum(-1, keepdim=True)
            out = out + weight * F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down_proj[number])
        return out

    assert points("moe", all_experts, of=4) <= 3
    assert "0 of 1 · Not right: moe, the work that it takes" in capsys.readouterr().out


def test_a_cached_step_that_knows_no_windows_has_its_first_stage_as_its_task_says(capsys):
    cells = {cell.id: cell.source for cell in source("ps4_forward_and_cache").cells}
    assert "**Stage 1: no layer has a window** (half of the points)" in cells["ps4-cached-step-task"]
    space: dict = {}
    exec(cells["ps4-setup"], space)
    exec(cells["ps4-cached-step-answer"].replace(", config.window(number))", ")"), space)
    assert 2 <= points("cached_step", space["cached_step"], of=4) < 4
    said = capsys.readouterr().out
    assert "2 of 2 · random models without windows" in said and "Not right: cached_step, a window in every" in said


def test_something_is_seen_where_what_it_needs_is_right_and_else_what_is_open_is_said(capsys):
    written = {"rms_norm": rms_norm, "rope": stub, "keys_at_distance": 3, "merge_heads": lambda x: x}
    assert see(lambda: 7, written, "rms_norm") == 7 and capsys.readouterr().out == ""
    assert see(lambda: 7, written, "rms_norm", "rope", "keys_at_distance", "merge_heads", "to_halves") is None
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["rope"].startswith("open: not written yet")
    assert said["keys_at_distance"].startswith("open: it is no function")
    assert said["merge_heads"].startswith("open from its first stage on (random shapes)")
    assert said["to_halves"].startswith("open: its cell was not run") and "rms_norm" not in said
    assert see(lambda: 1 / 0, written, "rms_norm") is None
    assert capsys.readouterr().out == "nothing to see yet: ZeroDivisionError: division by zero\n"


def test_the_last_cell_says_of_each_exercise_what_is_open(capsys):
    def itself(q, distances, frequencies):
        return q

    written = {"rms_norm": eps_of_its_own, "rope": stub, "keys_at_distance": itself, "to_halves": 3}
    what_is_open("ps1_norm_and_rope", written)
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["rms_norm"] == "open: odd configurations"
    assert said["rope"] == "open: not written yet"
    assert said["keys_at_distance"] == "open from its first stage on (random heads)"
    assert said["to_halves"] == "open: it is no function"
    assert said["rope_table"] == "open: its cell was not run, or does not run"


def test_what_is_done_is_said_to_be(capsys):
    what_is_open("ps2_attention", {"merge_heads": lambda x: x.transpose(1, 2).flatten(-2)})
    assert re.search(r"^merge_heads +done$", capsys.readouterr().out, re.MULTILINE)


def test_a_name_that_there_is_not_is_one_sentence():
    with pytest.raises(Error, match=r"no exercise is called 'rope_', expected one of learn_merges, .*: mend the name"):
        points("rope_", F.relu, of=1)
    with pytest.raises(Error, match=r"found 'ps9', expected one of ps1_norm_and_rope, .*: mend the name"):
        what_is_open("ps9", {})


# ---- how the sets are written ----------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_no_cell_that_a_student_writes_or_checks_with_stops_run_all_and_the_last_says_what_is_open(name):
    cells = source(name).cells
    for cell in cells:
        if about(cell).get("solution") or about(cell).get("grade"):
            assert cell.metadata.tags == ["raises-exception"]
    (last,) = [cell.source for cell in cells[-2:] if cell.cell_type == "code"]
    assert last == f'what_is_open("{name}", globals())'


@pytest.mark.parametrize("solved", [False, pytest.param(True, marks=pytest.mark.proof)], ids=["untouched", "solved"])
@pytest.mark.parametrize("name", SETS)
def test_the_cell_that_shows_something_runs_whether_or_not_anything_is_written(name, solved, capsys):
    space: dict = {}
    for cell in (cell for cell in source(name).cells if cell.cell_type == "code"):
        code, role = cell.source, about(cell).get("grade_id", "")
        if about(cell).get("solution") and not solved:
            code = re.sub(
                r"    ### BEGIN SOLUTION.*?### END SOLUTION", "    raise NotImplementedError", code, flags=re.S
            )
        if not about(cell).get("grade") and not role.endswith("_open"):
            capsys.readouterr()
            exec(compile(code, f"<{role}>", "exec"), space)
    said = capsys.readouterr().out
    assert ("open: not written yet" in said) is not solved and "nothing to see" not in said


@pytest.mark.parametrize("name", SETS)
def test_difficulty_goes_by_the_minutes_that_an_exercise_takes(name):
    range_of = {"●○○": (5, 10), "●●○": (10, 20), "●●●": (15, 30)}
    prose = "".join(cell.source for cell in source(name).cells if cell.cell_type == "markdown")
    for dots, minutes in re.findall(r"([●○]{3}) · (\d+) minutes", prose):
        assert range_of[dots][0] <= int(minutes) <= range_of[dots][1]


@pytest.mark.parametrize("name", SETS)
def test_points_go_by_difficulty(name):
    worth = {"●○○": 2, "●●○": 3, "●●●": 4}
    prose = "".join(cell.source for cell in source(name).cells if cell.cell_type == "markdown")
    found = re.findall(r"([●○]{3}) · \d+ minutes · (\d+) points", prose)
    assert [int(number) for _, number in found] == [worth[dots] for dots, _ in found]
    assert [int(number) for _, number in found] == [
        c.metadata.nbgrader.points for c in check_cells(source(name)).values()
    ]


@pytest.mark.parametrize("name", SETS)
def test_a_set_and_the_page_for_teachers_name_the_same_chapters_to_read_first(name):
    (said,) = re.findall(r"Read (.*?) first", source(name).cells[0].source)
    (row,) = [line for line in (HERE / "README.md").read_text("utf-8").splitlines() if line.startswith(f"| `{name}`")]
    assert ", ".join(re.findall(r"`(\d\d)_", said)) == row.split("|")[2].strip()


@pytest.mark.parametrize("name", SETS)
def test_a_first_hint_holds_no_line_of_the_solution(name):
    prose = "".join(cell.source for cell in source(name).cells if cell.cell_type == "markdown")
    written = {
        line.strip() for code in solutions(name).values() for line in code.splitlines() if len(line.strip()) > 12
    }
    for hint in re.findall(r"<details><summary>Hint 1.*?</details>", prose, re.DOTALL):
        assert not any(line in hint for line in written)
        assert sum(len(code) for code in re.findall(r"`([^`]*)`", hint)) <= 120, hint


@pytest.mark.proof
def test_run_all_goes_on_past_what_is_wrong_unwritten_or_no_python_and_ends_in_what_is_open(tmp_path):
    name = "ps2_attention"
    released = course_module().Course(tmp_path).release(name)
    wrong = {
        "qk_norm": "def qk_norm(q, k, q_norm, k_norm, eps):\n    return q, k",
        "sliding_mask": "def sliding_mask(:",
        "merge_heads": solutions(name)["merge_heads"],
    }
    notebook = submission(released, wrong)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    text = "".join(output.text for output in last.outputs)
    said = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert said["qk_norm"].startswith("open from its first stage on")
    assert said["sliding_mask"] == "open: its cell was not run, or does not run"
    assert said["causal_mask"] == "open: not written yet" and said["merge_heads"] == "done"


def test_the_sets_and_the_page_for_teachers_name_the_exercises_that_no_chapter_asks_for():
    """As "4 and 8 of ps5", by their numbers in the set, and "all of" the sets of which none is asked for."""
    chapters = "".join(path.read_text("utf-8") for path in HERE.parent.glob("*.ipynb"))
    said, whole = [], []
    for name in SETS:
        own = [n for n, exercise in enumerate(solutions(name), 1) if f'check(\\"{exercise}\\"' not in chapters]
        if len(own) == len(solutions(name)):
            whole.append(name[:3])
        elif own:
            *first, last = map(str, own)
            said.append((f"{', '.join(first)} and " if first else "") + f"{last} of {name[:3]}")
            tasks = [cell.source for cell in source(name).cells if re.match(r"## \d+ · ", cell.source)]
            assert [n for n, task in enumerate(tasks, 1) if "points · in no chapter\n" in task] == own
    page = " ".join((HERE / "README.md").read_text("utf-8").split())
    assert f"(in none: {', '.join(said)}, all of {' and '.join(whole)})" in page
