"""The three functions that appendix A5 asks for: its solutions are the package's, and its cases tell wrong ones."""

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, unchecked
from test_solutions import pasted

from qwen3_scratch import load_checkpoint
from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.inside.neighbours import mixed_within, next_layer, persistence, shuffled_within
from qwen3_scratch.inside.routers import numbered, read_questions
from qwen3_scratch.inside.settling import last_change
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.probes import PROBES, read_probes

NAME = "A5_more_of_heads_and_routers"


@pytest.fixture(scope="module")
def routes():
    """What the chapter's cell gives, of fewer questions."""
    with unchecked():
        reading = read_questions(load_checkpoint("tiny"), [each for domain in DOMAINS for each in questions(domain, 4)])
    return reading.first, reading.question


@pytest.fixture(scope="module")
def probes():
    found = read_probes(TINY / PROBES)
    return found.steps, found.routes[..., 0].long()


@pytest.fixture(scope="module")
def two_layers():
    """The same, of more questions: what its control is given."""
    asked = [each for domain in DOMAINS for each in questions(domain, 8)]
    with unchecked():
        reading = read_questions(load_checkpoint("tiny"), asked)
    return *reading.first[:2], numbered(reading.token_ids)


def test_the_solutions_are_the_packages(routes, two_layers, probes):
    written = pasted(NAME)
    written["my_persistence"].__globals__["total"] = 8
    with unchecked():
        assert difference(written["my_mixed"](*two_layers), mixed_within(*two_layers, 8), 1e-4) is None
        assert difference(written["my_persistence"](*routes), persistence(*routes, 8), 1e-4) is None
        assert difference(written["my_last_change"](*probes), last_change(*probes), 1e-4) is None


def shares(first):
    return F.one_hot(first, 8).float().mean(1)


WRONG_SHARES = {
    "over the borders of questions": lambda first, question: (
        (first[:, 1:] == first[:, :-1]).float().mean(1), shares(first).square().sum(-1)),
    "of all tokens, not of those with a neighbour": lambda first, question: (
        ((first[:, 1:] == first[:, :-1]) & (question[1:] == question[:-1])).sum(1) / first.shape[1],
        shares(first).square().sum(-1)),
    "any neighbour, before or behind": lambda first, question: (
        ((first[:, 1:-1] == first[:, :-2]) | (first[:, 1:-1] == first[:, 2:])).float().mean(1),
        shares(first).square().sum(-1)),
    "chance as if all were used alike": lambda first, question: (
        persistence(first, question, 8)[0], torch.full((len(first),), 1 / 8)),
    "chance is the busiest": lambda first, question: (persistence(first, question, 8)[0], shares(first).amax(-1)),
    "one chance for all layers": lambda first, question: (
        persistence(first, question, 8)[0],
        shares(first.flatten()[None]).square().sum(-1).expand(len(first))),
    "the layers together": lambda first, question: tuple(each.mean() for each in persistence(first, question, 8)),
}  # fmt: skip


def by_word(here, there, word):
    """[words, experts] counts of the two layers."""
    counts = torch.zeros(2, int(word.max()) + 1, 8)
    return counts.index_add(1, word, torch.stack([F.one_hot(each, 8).float() for each in (here, there)]))


def as_they_went(here, there, order=None):
    return next_layer(torch.stack((here, there)), 8, order)[0]


WRONG_TABLES = {
    "nothing is exchanged": lambda here, there, word: as_they_went(here, there),
    "exchanged with any word": lambda here, there, word: mixed_within(here, there, 0 * word, 8),
    "exchanged once, not on average": lambda here, there, word: as_they_went(
        here, there, shuffled_within(word, torch.Generator().manual_seed(0))),
    "products not divided": lambda here, there, word: torch.einsum("we,wf->ef", *by_word(here, there, word)),
    "products divided by all tokens": lambda here, there, word: (
        torch.einsum("we,wf->ef", *by_word(here, there, word)) / len(word)),
    "shares, not counts": lambda here, there, word: mixed_within(here, there, word, 8) / len(word),
    "columns for rows": lambda here, there, word: mixed_within(there, here, word, 8),
    "one layer with itself": lambda here, there, word: mixed_within(here, here, word, 8),
    "each word goes to its commonest expert": lambda here, there, word: as_they_went(
        *(each.argmax(-1)[word] for each in by_word(here, there, word))),
    "words weigh the same": lambda here, there, word: torch.einsum(
        "we,wf->ef", *(each / each.sum(-1, keepdim=True).clamp(min=1) for each in by_word(here, there, word))),
}  # fmt: skip
WRONG_STEPS = {
    "when it first had its last expert": lambda steps, first: steps[(first == first[-1]).int().argmax(0)],
    "how many steps, not which": lambda steps, first: len(steps) - (first == first[-1]).flip(0).cumprod(0).sum(0),
    "the last step with another one": lambda steps, first: (
        steps[(len(steps) - 1 - (first == first[-1]).flip(0).cumprod(0).sum(0)).clamp(min=0)]),
    "how often it had it": lambda steps, first: steps[len(steps) - (first == first[-1]).sum(0)],
    "the last of the first step": lambda steps, first: steps[(first == first[0]).cumprod(0).sum(0) - 1],
    "the mean of the tokens": lambda steps, first: last_change(steps, first).float().mean(-1),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_SHARES.values(), ids=WRONG_SHARES)
def test_its_case_tells_another_share_or_chance_from_the_right_one(routes, wrong):
    assert difference(wrong(*routes), persistence(*routes, 8), 1e-4)


@pytest.mark.parametrize("wrong", WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_its_case_tells_another_control_from_the_right_one(two_layers, wrong):
    assert difference(wrong(*two_layers), mixed_within(*two_layers, 8), 1e-4)


@pytest.mark.parametrize("wrong", WRONG_STEPS.values(), ids=WRONG_STEPS)
def test_its_case_tells_another_step_from_the_right_one(probes, wrong):
    assert difference(wrong(*probes), last_change(*probes), 1e-4)
