"""Logits -> token: each filter keeps what transformers keeps, and the draw is the inverse of the distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qwen3_scratch import Error
from qwen3_scratch.sampling import Sampling, check_sampling, draw, penalise_repetition, probabilities

VOCABULARY, ROWS = 97, 16
LARGEST = 1 - 2**-53  # the largest number that torch.rand gives in fp64


def some_logits(ties: bool, seed: int = 0) -> Tensor:
    logits = 3 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return logits.round() if ties else logits


def reference(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """The same distribution by the processors of transformers, in the order in which its `generate` runs them."""
    from transformers.generation import logits_process as theirs

    chain = []
    if sampling.repetition_penalty != 1:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1:
        chain.append(theirs.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(theirs.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(theirs.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        chain.append(theirs.MinPLogitsWarper(sampling.min_p))
    assert chain
    for processor in chain:
        logits = processor(seen, logits)
    return logits.softmax(-1)


def assert_same(found: Tensor, expected: Tensor, ties: bool) -> None:
    if ties:  # which of equal tokens stay is nobody's promise, how many stay is
        found, expected = found.sort(-1).values, expected.sort(-1).values
    torch.testing.assert_close(found, expected)
    assert ((found > 0) == (expected > 0)).all()


FILTERS = (
    [Sampling(temperature=value) for value in (0.1, 0.6, 1.7, 30.0)]
    + [Sampling(top_k=value) for value in (1, 2, 20, VOCABULARY, 500)]
    + [Sampling(top_p=value) for value in (1e-6, 0.31, 0.8, 0.95, 0.999)]
    + [Sampling(min_p=value) for value in (0.003, 0.1, 0.5, 0.99)]
)


def shown(sampling: Sampling) -> str:
    return " ".join(
        f"{name}={value}" for name, value in sampling._asdict().items() if value != getattr(Sampling(), name)
    )


def as_mask(seen: torch.Tensor) -> torch.Tensor:
    """Which tokens of the vocabulary each row has seen, from their ids [rows, tokens]."""
    return torch.zeros(len(seen), VOCABULARY, dtype=torch.bool).scatter_(1, seen, True)


@pytest.mark.parametrize("ties", [False, True], ids=["all_different", "with_ties"])
@pytest.mark.parametrize("sampling", FILTERS, ids=shown)
def test_each_filter_equals_the_reference(sampling, ties):
    logits = some_logits(ties)
    assert_same(probabilities(logits, sampling), reference(logits, sampling), ties)


def test_a_repetition_penalty_equals_the_reference():
    logits = some_logits(False)
    seen = torch.randint(VOCABULARY, (ROWS, 30), generator=torch.Generator().manual_seed(1))
    for penalty in (0.7, 1.0, 1.3, 2.0):
        found = penalise_repetition(logits, as_mask(seen), penalty).softmax(-1)
        expected = logits.softmax(-1) if penalty == 1 else reference(logits, Sampling(repetition_penalty=penalty), seen)
        torch.testing.assert_close(found, expected)


def test_a_repetition_penalty_treats_each_row_by_what_that_row_has_seen():
    logits = some_logits(False)[:2]
    found = penalise_repetition(logits, as_mask(torch.tensor([[3, 3, 3], [5, 5, 5]])), 2.0)
    changed = (found != logits).nonzero().tolist()
    assert changed == [[0, 3], [1, 5]]
    assert all(found[row, token] < logits[row, token] for row, token in changed)


@pytest.mark.parametrize("seed", range(4))
def test_the_filters_together_run_in_the_order_of_the_reference(seed):
    logits, chain = some_logits(False, seed), Sampling(temperature=0.6, top_k=20, top_p=0.8, min_p=0.05)
    torch.testing.assert_close(probabilities(logits, chain), reference(logits, chain))
    last = probabilities(logits, chain._replace(temperature=1.0)).log() / chain.temperature
    assert not torch.allclose(last.softmax(-1), probabilities(logits, chain)), "the order would not matter here"


def test_what_the_filters_leave_sums_to_one_and_keeps_the_likeliest_token():
    for sampling in FILTERS:
        found = probabilities(some_logits(False), sampling)
        torch.testing.assert_close(found.sum(-1), torch.ones(ROWS))
        assert (found.argmax(-1) == some_logits(False).argmax(-1)).all()


def test_temperature_0_takes_the_likeliest_token_whatever_the_number_drawn():
    logits = some_logits(True)
    found = probabilities(logits, Sampling(temperature=0.0, top_k=3, top_p=0.2))
    assert set(found.unique().tolist()) == {0.0, 1.0}
    for uniform in (0.0, 0.5, LARGEST):
        token = draw(found, torch.full((ROWS,), uniform, dtype=torch.float64))
        assert token.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 5e-324])
def test_the_lowest_temperatures_come_to_temperature_0(temperature):
    logits = some_logits(False)
    found = probabilities(logits, Sampling(temperature=temperature))
    assert found.isfinite().all() and (found.argmax(-1) == logits.argmax(-1)).all() and (found.amax(-1) == 1).all()


# ---- the draw -----------------------------------------------------------------------------------


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    probability = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    below = math.nextafter
    expected = {0.0: 1, below(0.25, 0): 1, 0.25: 3, below(0.75, 0): 3, 0.75: 4, LARGEST: 4}
    for uniform, token in (expected | {1.0: 4}).items():
        for scale in (1.0, 0.3, 7.0):  # what sums to nearly one, or to anything, means the same
            assert draw(scale * probability, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_drawn_tokens_are_as_frequent_as_they_are_probable():
    probability = torch.tensor([0.4, 0.0, 0.2, 0.15, 0.1, 0.0, 0.08, 0.04, 0.02, 0.01, 0.0])
    count = 50_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = draw(probability.expand(count, -1), uniform).bincount(minlength=len(probability))
    possible = probability > 0
    assert found[~possible].sum() == 0
    expected = probability[possible].double() * count
    chi_square = ((found[possible] - expected) ** 2 / expected).sum()
    assert chi_square < 24.3, "with 7 degrees of freedom one seed in a thousand goes beyond"


@given(
    shares=st.lists(st.one_of(st.just(0.0), st.floats(2**-100, 1.0, width=32)), min_size=1, max_size=40).filter(any),
    uniform=st.one_of(st.sampled_from([0.0, 5e-324, 0.5, LARGEST]), st.floats(0, LARGEST)),
)
def test_a_token_of_probability_0_is_never_drawn(shares, uniform):
    weights = torch.tensor([shares], dtype=torch.float64)
    probability = (weights / weights.sum()).float()
    token = int(draw(probability, torch.tensor([uniform], dtype=torch.float64)))
    assert probability[0, token] > 0


@given(st.integers(1, 12), st.integers(0, 1000))
def test_a_number_draws_the_same_token_in_a_batch_of_any_size(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    probability = torch.randn(rows, VOCABULARY, generator=generator).mul(4).softmax(-1)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    alone = [int(draw(probability[row : row + 1], uniform[row : row + 1])) for row in range(rows)]
    assert draw(probability, uniform).tolist() == alone


def test_sampling_leaves_its_arguments_as_they_were():
    logits, uniform, seen = (
        some_logits(False),
        torch.rand(ROWS, dtype=torch.float64),
        as_mask(torch.arange(5).expand(ROWS, 5)),
    )
    copies = logits.clone(), uniform.clone(), seen.clone()
    for sampling in (*FILTERS, Sampling(temperature=0.0)):
        draw(probabilities(penalise_repetition(logits, seen, 1.5), sampling), uniform)
    assert all(torch.equal(now, before) for now, before in zip((logits, uniform, seen), copies, strict=True))


# ---- errors -------------------------------------------------------------------------------------

WRONG = {
    "temperature": ([-0.1, math.nan, math.inf, "hot", None, True], "a number, 0 (greedy) or more"),
    "top_k": ([-1, 2.5, math.nan, math.inf, "all"], "a whole number, 0 (off) or more"),
    "top_p": ([0, 0.0, -0.5, 1.01, math.nan, "most"], "a number above 0 and at most 1"),
    "min_p": ([-0.01, 1.5, math.nan, [0.1]], "a number between 0 and 1"),
    "repetition_penalty": ([0, -1.0, math.nan, math.inf], "a number above 0, where 1 changes nothing"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (values, _) in WRONG.items() for value in values])
def test_a_setting_out_of_its_range_is_named_with_what_was_found_and_expected(name, value):
    with pytest.raises(Error) as caught:
        check_sampling(Sampling(**{name: value}))
    expected = WRONG[name][1]
    assert str(caught.value) == (
        f"{name} is {value!r}, expected {expected}: mend the argument or generation_config.json"
    )


def test_settings_at_the_edges_of_their_ranges_are_fine():
    edges = dict(
        temperature=(0, 0.0, 5e-324, 100), top_k=(0, 1, 10**6, np.int64(5)), top_p=(1e-9, 1, 1.0, np.float32(0.5))
    )
    edges |= dict(min_p=(0, 0.0, 1, 1.0), repetition_penalty=(1e-9, 1, 5.0))
    for name, values in edges.items():
        for value in values:
            assert check_sampling(Sampling(**{name: value})) == Sampling(**{name: value})
