"""Wrong answers of the kinds that have full marks where a check looks away, and right ones that it may refuse."""

import pytest
from helpers import unchecked
from kinds import CHANGED, CONSTANT, EDGE, FINITE, FORBIDDEN, GRADIENT, KINDS, MASK, TYPE, Answer, answers
from tiers import one_of_each

from qwen3_scratch.exercises import Wrong, check

BANK = answers()


def of_kind(kind: str, right: bool = False) -> pytest.MarkDecorator:
    """For a test of a bank's answers of one kind: the first stays in `make test`."""
    chosen = one_of_each([each for each in BANK if each.kind == kind and each.right is right], lambda each: each.kind)
    return pytest.mark.parametrize("answer", chosen, ids=lambda each: f"{each.exercise}-{each.what}")


@pytest.fixture(autouse=True)
def as_students_run_it():
    with unchecked():
        yield


def refused(answer: Answer) -> str:
    with pytest.raises(Wrong) as error:
        passes(answer)
    return str(error.value)


def passes(answer: Answer) -> None:
    check(answer.exercise, answer.function)
    check(answer.exercise, answer.function, seed=1, hidden=True)


@of_kind(MASK)
def test_an_answer_that_looks_at_a_mask_of_its_own_is_refused(answer):
    assert refused(answer)


@of_kind(CONSTANT)
def test_an_answer_with_a_number_of_its_own_is_refused(answer):
    assert refused(answer)


@of_kind(GRADIENT)
def test_an_answer_without_the_right_gradients_is_refused_where_one_trains_through(answer):
    assert "gradient" in refused(answer)


@of_kind(CHANGED)
def test_an_answer_that_changes_what_it_is_given_is_refused_whatever_kind_that_is(answer):
    assert "was changed in place" in refused(answer)


@of_kind(EDGE)
def test_an_answer_that_is_wrong_where_a_number_meets_its_threshold_is_refused(answer):
    assert refused(answer)


@of_kind(FINITE)
def test_an_answer_that_hides_scores_by_a_number_that_others_reach_is_refused(answer):
    assert refused(answer)


@of_kind(FORBIDDEN)
def test_an_answer_in_a_way_that_the_task_forbids_is_refused_under_any_name(answer):
    assert refused(answer)


@of_kind(TYPE)
def test_an_answer_of_another_type_is_refused_where_the_task_names_one(answer):
    assert refused(answer)


@pytest.mark.parametrize(
    "answer", one_of_each([each for each in BANK if each.right], lambda each: each.kind), ids=lambda each: each.what
)
def test_a_right_answer_passes_however_it_is_written_and_whatever_type_it_has_where_none_is_named(answer):
    passes(answer)


def test_the_bank_holds_wrong_answers_of_every_kind_and_as_many_that_were_written_afterwards():
    for kind in KINDS:
        assert sum(each.kind == kind and not each.right for each in BANK) >= 5
    assert sum(each.fresh for each in BANK) >= sum(not each.fresh for each in BANK) >= 60
