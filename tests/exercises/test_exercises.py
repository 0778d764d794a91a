"""The checks of the exercises: right answers pass them, wrong ones do not and are told why."""

import ast
import contextlib
import io
import re
from dataclasses import replace

import pytest
import torch
from grading import FOUND, HERE, SETS, WrongAnswer, answer_cells, check_cells, solutions, source, wrong_answers
from helpers import unchecked
from tiers import one_of_each
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from qwen3_scratch import Error
from qwen3_scratch.exercises import Wrong, check, exercises, names
from qwen3_scratch.exercises.checking import Case, Exercise, Mistake, Stage, case
from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.exercises.material import randn

EXERCISES = tuple(exercises().values())
ONE_OF_EACH_SET = one_of_each(EXERCISES, lambda exercise: exercise.set)
BANKS = [wrong for name in SETS for wrong in wrong_answers(name)]


@pytest.fixture(autouse=True)
def as_students_run_it():
    """The test run's checks of argument types would refuse wrong answers before the exercise does."""
    with unchecked():
        yield


def run(name: str, code: str, exercise: str):
    """An answer as a notebook has it: the set's imports, then the cell."""
    given = next(cell.source for cell in source(name).cells if cell.cell_type == "code")
    space: dict = {}
    exec(given, space)
    exec(compile(code, f"<{exercise}>", "exec"), space)
    return space[exercise]


def passes(name: str, answer) -> list:
    return [check(name, answer), check(name, answer, seed=1, hidden=True)]


def wrong_message(name: str, answer) -> str:
    with pytest.raises(Wrong) as error:
        passes(name, answer)
    return str(error.value)


def patient_or_name(exercise: str) -> str:
    """The sick models of ps6 are one kind, and slow."""
    return exercise.split("_")[0] if exercise.startswith("patient") else exercise


@pytest.mark.parametrize(
    "exercise", one_of_each(EXERCISES, lambda exercise: patient_or_name(exercise.name)), ids=lambda each: each.name
)
def test_the_solution_in_the_notebook_passes_every_stage(exercise: Exercise):
    name = exercise.name
    visible, hidden = passes(name, run(exercise.set, solutions(exercise.set)[name], name))
    assert len(hidden) >= len(visible) >= 1


@pytest.mark.parametrize(
    "wrong",
    one_of_each(BANKS, lambda wrong: patient_or_name(wrong.exercise)),
    ids=lambda wrong: wrong.function.__name__,
)
def test_a_wrong_answer_is_refused_with_its_mistake_named(wrong: WrongAnswer):
    found = wrong_message(wrong.exercise, wrong.function)
    assert wrong.fragment in found
    assert found.startswith(f"{wrong.exercise}")
    assert "\n" not in found


@pytest.mark.parametrize("exercise", ONE_OF_EACH_SET, ids=lambda exercise: exercise.name)
def test_an_answer_that_remembers_the_visible_cases_fails_the_hidden_ones(exercise: Exercise):
    remembered = {}

    def key(args, kwargs):
        leaves = tree_flatten((args, kwargs))[0]
        return repr([leaf.flatten().tolist()[:200] if isinstance(leaf, Tensor) else repr(leaf)[:99] for leaf in leaves])

    for stage in exercise.stages:
        for given, again in zip(stage.cases(0), stage.cases(0), strict=True):
            remembered[key(given.args, given.kwargs)] = exercise.reference(*again.args, **again.kwargs)
    if len(remembered) == 1:
        pytest.skip("takes no arguments: there is one answer")

    def answer(*args, **kwargs):
        found = remembered.get(key(args, kwargs))
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, found)

    stages = (replace(stage, limit=None, work=None) for stage in exercise.stages if not stage.gradients)
    untimed = replace(exercise, stages=tuple(stages), own=())
    assert untimed.check(answer)
    with pytest.raises(Wrong):
        untimed.check(answer, seed=1, hidden=True)


@pytest.mark.parametrize("exercise", ONE_OF_EACH_SET, ids=lambda exercise: exercise.name)
def test_the_cases_of_a_seed_are_the_same_every_time(exercise: Exercise):
    def drawn(stage: Stage) -> list:
        found = [tree_flatten((given.args, given.kwargs))[0] for given in stage.cases(3)]
        return [
            [leaf if isinstance(leaf, (Tensor, int, float, str)) else type(leaf) for leaf in case] for case in found
        ]

    for stage in exercise.stages:
        for one, other in zip(drawn(stage), drawn(stage), strict=True):
            assert difference(one, other, tolerance=0) is None


def test_every_set_has_a_bank_of_wrong_answers_and_its_own_exercises():
    assert SETS == FOUND
    assert {each.set for each in EXERCISES} == set(FOUND)


def test_the_banks_hold_at_least_four_wrong_answers_for_each_exercise_of_each_set():
    for name in SETS:
        counts = {each: sum(wrong.exercise == each for wrong in wrong_answers(name)) for each in solutions(name)}
        assert 5 <= len(counts) <= 10
        assert min(counts.values()) >= 4, counts


@pytest.mark.parametrize("name", SETS)
def test_a_set_says_of_each_exercise_what_a_student_needs(name):
    notebook, known = source(name), exercises()
    answers, checks = answer_cells(notebook), check_cells(notebook)
    assert list(answers) == list(checks) == [each.name for each in EXERCISES if each.set == name]
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"[●○]{3} · \d+ minutes · \d+ points", prose)) == len(answers)
    assert prose.count("<details><summary>Hint 1") == prose.count("<details><summary>Hint 2") == len(answers)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for exercise, cell in answers.items():
        (function,) = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)][-1:]
        assert function.name == exercise
        assert function.returns is not None and all(argument.annotation for argument in function.args.args)
        assert ast.get_docstring(function)
        assert len(known[exercise].stages) >= 1
    for exercise, cell in checks.items():
        assert f'check("{exercise}", {exercise})' in cell.source
        hidden = cell.source.split("### BEGIN HIDDEN TESTS")[1]
        assert f'points("{exercise}", {exercise}, of={cell.metadata.nbgrader.points})' in hidden


@pytest.mark.parametrize("name", SETS)
def test_the_page_for_teachers_says_how_long_a_set_takes(name):
    prose = "".join(cell.source for cell in source(name).cells if cell.cell_type == "markdown")
    found = re.findall(r"[●○]{3} · (\d+) minutes · (\d+) points", prose)
    minutes, points = (sum(map(int, column)) for column in zip(*found, strict=True))
    assert points == sum(cell.metadata.nbgrader.points for cell in check_cells(source(name)).values())
    (row,) = [line for line in (HERE / "README.md").read_text("utf-8").splitlines() if line.startswith(f"| `{name}`")]
    assert row.endswith(f"| {len(found)} | {minutes} | {points} |"), f"{len(found)} | {minutes} | {points}"


# ---- what the machinery says -----------------------------------------------------------------


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def cases(seed: int):
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield case(randn(g, 3, 4), note="a note")


def exercise(**changes) -> Exercise:
    stages = (Stage("random shapes", cases), Stage("more", cases))
    return replace(Exercise("doubled", "ps0", doubled, stages), **changes)


def said(answer, **changes) -> str:
    with pytest.raises(Wrong) as error:
        exercise(**changes).check(answer)
    return str(error.value)


def test_a_line_a_stage_is_printed_until_one_fails(capsys):
    exercise().check(lambda x: x + x)
    assert capsys.readouterr().out.splitlines() == ["doubled: random shapes ok (3 cases)", "doubled: more ok (3 cases)"]
    said(lambda x: x)
    assert capsys.readouterr().out == ""


def test_a_message_says_stage_shapes_note_found_and_expected():
    found = said(lambda x: torch.where(x == x[1, 2], 7.0, 2 * x))
    expected = 2 * next(iter(cases(0))).args[0][1, 2]
    wrong = f"1 of 12 numbers differ: at [1, 2] found 7, expected {expected:.5g}."
    assert found == f"doubled, random shapes, x [3, 4] (a note): {wrong}"


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        (lambda x: x, "all are 0.5 times what is expected"),
        (lambda x: -2 * x, "the sign is wrong everywhere"),
        (lambda x: 0 * x, "all found are zero"),
        (lambda x: 2 * x + 1, "all are off by 1"),
        (lambda x: (2 * x).roll(1, 0), "off by one place along dimension 0"),
        (lambda x: (2 * x).flip(1), "the order along dimension 1 is reversed"),
        (lambda x: torch.cat((2 * x[:2], x[2:])), "along dimension 0 the first 2 of 3 agree and later ones do not"),
        (lambda x: torch.cat((3 * x[:, :1], 2 * x[:, 1:]), 1), "along dimension 1 the first 1 of 4 are wrong"),
        (lambda x: 2 * x.T, "the shape is [4, 3], expected [3, 4]: the last two dimensions are swapped"),
        (lambda x: 2 * x.double(), "the numbers are float64, expected float32"),
        (lambda x: x / 0 - x / 0, "12 of 12 numbers are NaN"),
        (lambda x: None, "found None (is there a `return`?), expected a tensor [3, 4] float32"),
        (lambda x: (2 * x).tolist(), "found a list of 3, expected a tensor"),
        (lambda x: x @ x, "your function raised RuntimeError"),
        (lambda x: x.mul_(2), "right, but x was changed in place"),
        (lambda x: torch.lerp(x, 2 * x, 1.0), "calls `lerp`, which is the answer itself"),
    ],
)
def test_what_is_regular_about_a_wrong_answer_is_named(answer, fragment):
    assert fragment in said(answer, own=(torch.lerp,))


def test_the_likely_mistake_is_the_one_that_agrees_most_often():
    first = next(iter(cases(0))).args[0]

    def halves(x):
        return x / 2

    def halves_or_more(x):
        return x / 2 if x[0, 0] == first[0, 0] else x

    mistakes = (Mistake("You halve.", halves), Mistake("You halve one.", halves_or_more))
    assert said(halves, mistakes=mistakes).endswith("You halve.")
    assert said(halves_or_more, mistakes=mistakes).endswith("You halve one.")
    assert "You" not in said(lambda x: x / 3, mistakes=mistakes)


def test_an_unwritten_answer_is_called_unwritten_and_is_wrong_only_where_it_is_graded(capsys):
    def stub(x):
        raise NotImplementedError

    unwritten = "doubled: not written yet: replace `raise NotImplementedError` by your code"
    assert not exercise().check(stub) and capsys.readouterr().out == f"{unwritten}\n"
    with pytest.raises(Wrong, match=unwritten):
        exercise().check(stub, hidden=True)
    assert "raised NotImplementedError" in said(lambda x: stub(x))


def test_an_answer_that_is_right_but_slow_is_told_how_slow():
    def slow(x):
        for _ in range(10000):
            x = x + 0
        return 2 * x

    found = said(slow, stages=(Stage("at size", cases, limit=30, advice="use one product"),))
    assert re.fullmatch(r"doubled, at size: right, but about \d+ times slower than it could be: use one product", found)


def test_what_cells_before_have_set_changes_no_verdict_and_is_left_as_it_was():
    torch.set_default_dtype(torch.float64)
    try:
        assert exercise().check(lambda x: torch.ones(1) * 2 * x)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_warnings_of_a_right_answer_do_not_reach_standard_error():
    import sys
    import warnings

    def warned(x):
        warnings.warn("old", stacklevel=1)
        print("to standard error", file=sys.stderr)
        return 2 * x

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert exercise().check(warned)
    assert errors.getvalue() == ""


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(Error, match=r"no exercise is called 'rope_', expected one of learn_merges, .*: mend the name"):
        check("rope_", doubled)
    assert names()[0] == "learn_merges"


def test_what_is_no_function_is_said_to_be_none():
    assert said(3).startswith("doubled: found 3, expected a function")


def test_a_notebook_shows_the_message_alone_and_nothing_of_a_pass():
    assert Wrong("where:", "what.", "")._render_traceback_() == ["Wrong: where:\nwhat."]
    assert str(Wrong("where:", "what.", "")) == "where: what."
    assert exercise().check(lambda x: 2 * x)._ipython_display_() is None


@pytest.mark.parametrize(
    ("found", "expected", "fragment"),
    [
        ((1, 2), (1, 3), "part 1: found 2, expected 3"),
        ((1,), (1, 3), "found 1 parts, expected 2"),
        ({"a": 1.0}, {"a": 2.0}, "entry 'a': found 1, expected 2"),
        ({"b": 1}, {"a": 1}, "the keys are ['b'], expected ['a']"),
        ({"x", "y"}, {"x", "z"}, "the set lacks ['z'] and wrongly has ['y']"),
        (True, 1.0, "found a bool, expected a number"),
        (1.0, 1.1, "found 1, expected 1.1"),
        ("no", "yes", "found 'no', expected 'yes'"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "1 of 2 numbers differ: at [1] found 2, expected 3"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("-inf")]), "found 2, expected -inf"),
    ],
)
def test_values_of_every_kind_are_compared(found, expected, fragment):
    assert fragment in difference(found, expected)
    assert difference(expected, expected) is None


def test_a_share_of_numbers_may_lie_further_apart_and_no_more():
    expected = torch.ones(100)
    found = expected.clone()
    found[:2] = 1.5
    assert difference(found, expected, tolerance=0, share=0.02) is None
    found[2] = 1.5
    assert difference(found, expected, tolerance=0, share=0.02)


def test_a_case_repeats_its_call():
    given = case(1, 2, note="odd", k=3)
    assert given == Case((1, 2), {"k": 3}, "odd")
