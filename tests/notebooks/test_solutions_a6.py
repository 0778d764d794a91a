"""The two functions that appendix A6 asks for: its solutions are the package's, and its cases tell wrong ones."""

import ast
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from test_notebooks import NOTEBOOKS
from test_solutions import pasted

from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.inside.cutting import pipeline_seconds, vectors_sent

NAME = "A6_other_ways_to_share"
CODE = "\n\n".join(cell.source for cell in NOTEBOOKS[NAME] if cell.cell_type == "code")


def routes():
    """The cases of the chapter's cell: tokens by hand, and twelve tokens on four and on two ranks."""
    space = {"torch": torch}
    for line in re.findall(r"^(?:chosen|twelve) = .*$", CODE, re.MULTILINE):
        exec(line, space)
    assert "for case in ((chosen, 2, 4), (twelve, 2, 4), (twelve, 4, 2)):" in CODE
    return (space["chosen"], 2, 4), (space["twelve"], 2, 4), (space["twelve"], 4, 2)


def times():
    return ast.literal_eval(re.search(r"for given in (\(\(.*\)\)):", CODE)[1])


def test_the_solutions_are_the_packages():
    written = pasted(NAME)
    with unchecked():
        for case in routes():
            assert difference(written["my_vectors"](*case), vectors_sent(*case)) is None
    for given in ((1, 4, 10.0, 1.0), (8, 2, 3.0, 4.0), (5, 8, 2.0, 2.0)):
        assert written["my_pipeline"](*given) == pytest.approx(pipeline_seconds(*given))


def test_the_table_by_hand_is_the_one_that_the_text_tells():
    (chosen, each, ranks), *_ = routes()
    by_choice, once = F.one_hot(chosen // each, ranks).sum(1), vectors_sent(chosen, each, ranks)
    sent = [int(table.sum() - table.diagonal().sum()) for table in (by_choice, once)]
    assert sent == [5, 4]
    assert by_choice[2].tolist() == [0, 0, 0, 2] and once[2].tolist() == [0, 0, 0, 1]


WRONG_VECTORS = {
    "once for each choice": lambda chosen, each, ranks: F.one_hot(chosen // each, ranks).sum(1).view(
        ranks, -1, ranks).sum(1),
    "the other way round": lambda chosen, each, ranks: vectors_sent(chosen, each, ranks).T,
    "owners dealt out in turns": lambda chosen, each, ranks: vectors_sent(chosen % ranks * each, each, ranks),
    "tokens dealt out in turns": lambda chosen, each, ranks: F.one_hot(chosen // each, ranks).amax(1).view(
        -1, ranks, ranks).sum(0),
    "what stays left out": lambda chosen, each, ranks: vectors_sent(chosen, each, ranks)
    * (1 - torch.eye(ranks).long()),
    "whether any is sent": lambda chosen, each, ranks: vectors_sent(chosen, each, ranks).clamp(max=1),
    "the first choice alone": lambda chosen, each, ranks: vectors_sent(chosen[:, :1], each, ranks),
    "a row for each token": lambda chosen, each, ranks: F.one_hot(chosen // each, ranks).amax(1),
}  # fmt: skip
WRONG_TIMES = {
    "one by one": lambda texts, hosts, work, send: texts * (hosts * work + (hosts - 1) * send),
    "the link forgotten": lambda texts, hosts, work, send: hosts * work + (hosts - 1) * send + (texts - 1) * work,
    "no overlap": lambda texts, hosts, work, send: hosts * work + (hosts - 1) * send + (texts - 1) * (work + send),
    "the last sends": lambda texts, hosts, work, send: hosts * (work + send) + (texts - 1) * max(work, send),
    "one step for all": lambda texts, hosts, work, send: (texts + hosts - 1) * max(work, send),
}


@pytest.mark.parametrize("wrong", WRONG_VECTORS.values(), ids=WRONG_VECTORS)
def test_its_cases_tell_another_table_from_the_right_one(wrong):
    with unchecked():
        assert any(difference(wrong(*case), vectors_sent(*case)) for case in routes())


@pytest.mark.parametrize("wrong", WRONG_TIMES.values(), ids=WRONG_TIMES)
def test_its_cases_tell_another_time_of_a_pipeline_from_the_right_one(wrong):
    assert any(difference(wrong(*given), pipeline_seconds(*given), 1e-4) for given in times())
