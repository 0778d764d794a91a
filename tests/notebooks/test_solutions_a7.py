"""The three functions that appendix A7 asks for: its solutions are the package's, and its cases tell wrong ones."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from reference import random_weights, small_config
from test_notebooks import NOTEBOOKS
from test_solutions import pasted

from qwen3_scratch import load_checkpoint
from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.fast.dispatch import grouped_linear, moe_grouped
from qwen3_scratch.inside.cutting import expert_numbers, released
from qwen3_scratch.model import moe_route

NAME = "A7_many_tokens_a_step"
CODE = [cell.source for cell in NOTEBOOKS[NAME] if cell.cell_type == "code"]


def written(function):
    return pasted(NAME)[function]


@pytest.fixture(scope="module")
def asked():
    """What the chapter's cells hand over: the routed rows of the embedded checkpoint's first sparse layer."""
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    config, layer = checkpoint.config, checkpoint.weights.layers[0]
    x = torch.randn(16, config.hidden_size, generator=torch.Generator().manual_seed(0))
    with unchecked():
        route = moe_route(x, layer.router, config.num_experts_per_tok, config.norm_topk_prob)
    return x, route, layer.gate_up_proj, layer.down_proj


# ---- where each expert's rows end -------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [[0, 0, 2, 5, 5], [7], [1, 1, 1]])
def test_the_ends_are_sums_of_counts_and_ask_for_no_value(chosen):
    my_ends, number, every = written("my_ends"), torch.tensor(chosen), torch.arange(8)
    assert torch.equal(my_ends(number, every), number.bincount(minlength=8).cumsum(0).int())
    assert my_ends(number.to("meta"), every.to("meta")).shape == (8,)


WRONG_ENDS = {
    "where rows begin": lambda number, every: torch.searchsorted(number, every, out_int32=True),
    "counts": lambda number, every: number.bincount(minlength=len(every)).int(),
    "the last row, not the one behind": lambda number, every: (
        torch.searchsorted(number, every, right=True, out_int32=True) - 1),
    "without the last": lambda number, every: torch.searchsorted(number, every[:-1], right=True, out_int32=True),
    "from zero": lambda number, every: F.pad(torch.searchsorted(number, every, right=True, out_int32=True), (1, 0)),
    "another type": lambda number, every: torch.searchsorted(number, every, right=True),
    "of sorted experts by rows": lambda number, every: torch.searchsorted(every, number, right=True, out_int32=True),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_ENDS.values(), ids=WRONG_ENDS)
def test_its_choices_tell_other_ends_from_the_right_ones(asked, wrong):
    experts = asked[1].experts
    number, every = experts.flatten().sort(stable=True).values, torch.arange(8)
    right = torch.tensor([int((number <= one).sum()) for one in every], dtype=torch.int32)
    assert difference(written("my_ends")(number, every), right, 1e-4) is None
    assert difference(wrong(number, every), right, 1e-4)


# ---- the grouped form -------------------------------------------------------------------------------


def test_the_grouped_form_is_the_packages_for_any_number_of_tokens_and_choices():
    my_grouped = written("my_grouped")
    for top_k in (1, 2, 3):
        config = small_config(num_experts_per_tok=top_k)
        layer = random_weights(config, seed=0).layers[0]
        for tokens in (1, 7):
            x = torch.randn(tokens, config.hidden_size, generator=torch.Generator().manual_seed(tokens))
            with unchecked():
                given = x, moe_route(x, layer.router, top_k, True), layer.gate_up_proj, layer.down_proj
                torch.testing.assert_close(my_grouped(*given), moe_grouped(*given))


def grouped(x, route, gate_up, down, rows=None, back=None, weights=None, act=None):
    """The grouped form with one of its pieces put in otherwise."""
    tokens, top_k = route.experts.shape
    number, order = route.experts.flatten().sort(stable=True)
    ends = torch.searchsorted(number, torch.arange(len(gate_up)), right=True, out_int32=True)
    taken = (order // top_k) if rows is None else rows(order, top_k)
    gate, up = grouped_linear(x[taken], gate_up, ends).chunk(2, dim=-1)
    answers = grouped_linear(F.silu(gate) * up if act is None else act(gate, up), down, ends)
    answers = answers[order.argsort() if back is None else back(order)].view(tokens, top_k, -1)
    return (answers * (route.weights if weights is None else weights(route.weights))[..., None]).sum(1)


WRONG_FORMS = {
    "rows by the remainder": {"rows": lambda order, top_k: order % top_k},
    "rows unsorted": {"rows": lambda order, top_k: torch.arange(len(order)) // top_k},
    "answers left where they are": {"back": lambda order: torch.arange(len(order))},
    "answers sorted once more": {"back": lambda order: order},
    "answers backwards": {"back": lambda order: order.argsort().flip(0)},
    "no weights": {"weights": torch.ones_like},
    "weights of the other choice": {"weights": lambda weights: weights.flip(1)},
    "silu on up": {"act": lambda gate, up: gate * F.silu(up)},
    "no silu": {"act": lambda gate, up: gate * up},
}


@pytest.mark.parametrize("wrong", WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_its_rows_tell_another_form_from_the_right_one(asked, wrong):
    with unchecked():
        right = moe_grouped(*asked)
        assert difference(grouped(*asked), right, 1e-4) is None
        assert difference(grouped(*asked, **wrong), right, 1e-4)


# ---- the bytes that are read ------------------------------------------------------------------------


def cases():
    (cell,) = [source for source in CODE if "def my_read(" in source]
    exec(re.search(r"^cases = .*?(?=^for )", cell, re.DOTALL | re.MULTILINE)[0], space := {})
    return space["cases"]


def test_the_bytes_are_those_of_the_package_and_of_the_cases():
    my_read = written("my_read")
    for config in released().values():
        one = 3 * config.hidden_size * config.moe_intermediate_size * config.num_hidden_layers
        for tokens in (1, 2, 100):
            assert my_read(tokens, 128, 8, one) == pytest.approx(expert_numbers(config, tokens))
    for given, right in cases().items():
        assert my_read(*given) == pytest.approx(right)


WRONG_BYTES = {
    "every choice": lambda n, e, k, size: n * k * size,
    "every choice, at most all": lambda n, e, k, size: min(n * k, e) * size,
    "one choice a token": lambda n, e, k, size: e * (1 - (1 - 1 / e) ** n) * size,
    "choices that may meet within a token": lambda n, e, k, size: e * (1 - (1 - 1 / e) ** (n * k)) * size,
    "what is left unread": lambda n, e, k, size: e * (1 - k / e) ** n * size,
    "without the size": lambda n, e, k, size: e * (1 - (1 - k / e) ** n),
    "a share": lambda n, e, k, size: (1 - (1 - k / e) ** n) * size,
    "one token more": lambda n, e, k, size: e * (1 - (1 - k / e) ** (n + 1)) * size,
}


@pytest.mark.parametrize("wrong", WRONG_BYTES.values(), ids=WRONG_BYTES)
def test_its_cases_tell_other_bytes_from_the_right_ones(wrong):
    assert any(difference(float(wrong(*given)), right, 1e-4) for given, right in cases().items())


def test_bytes_summed_token_by_token_are_right_too():
    def by_steps(tokens, experts, top_k, size):
        read = 0.0
        for _ in range(tokens):
            read += top_k * (experts - read) / experts
        return read * size

    assert all(difference(by_steps(*given), right, 1e-4) is None for given, right in cases().items())
