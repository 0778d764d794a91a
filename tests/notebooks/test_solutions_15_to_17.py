"""Where 15 to 17 ask for a function that is no exercise, the folded solution does what the package's function does."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from reference import random_tokens, random_weights, small_config
from test_notebooks import NOTEBOOKS

from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.devices.slices import answers, ring_seconds
from qwen3_scratch.fast.dispatch import moe_gathered
from qwen3_scratch.learning.training import Batch, Plan, losses, start, train_step
from qwen3_scratch.model import expert_ffn, moe_route

FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
CONFIG = small_config()
LAYER = random_weights(CONFIG, seed=0).layers[0]
X = torch.randn(7, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))


def pasted(chapter, function):
    """The folded solution, and that its stub stands above it."""
    cells = NOTEBOOKS[chapter]
    (stub,) = [at for at, cell in enumerate(cells) if f"def {function}(" in cell.source and cell.cell_type == "code"]
    assert "raise NotImplementedError" in cells[stub].source
    folded = [text for cell in cells[stub:] if cell.cell_type == "markdown" for text in FOLDED.findall(cell.source)]
    space = {"torch": torch, "F": F, "expert_ffn": expert_ffn, "losses": losses, "tensor_tree": tensor_tree}
    exec(next(text for text in folded if text.startswith(f"def {function}(")), space)
    return space[function]


@pytest.fixture
def route():
    with unchecked():
        return moe_route(X, LAYER.router, CONFIG.num_experts_per_tok, CONFIG.norm_topk_prob)


def test_the_gathered_form_that_17_asks_for_is_the_packages(route):
    with unchecked():
        expected = moe_gathered(X, route, LAYER.gate_up_proj, LAYER.down_proj)
        found = pasted("17_topk_moe_on_gpu", "my_gathered")(X, route, LAYER.gate_up_proj, LAYER.down_proj)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("held", [[0, 1], [3], list(range(CONFIG.num_experts))])
def test_the_answers_that_16_asks_for_are_the_packages(route, held):
    stacks = LAYER.gate_up_proj[held], LAYER.down_proj[held]
    with unchecked():
        found = pasted("16_beyond_one_gpu", "my_answers")(X, route, LAYER, held)
        torch.testing.assert_close(found, answers(X, route, *stacks, expert_ffn, held[0]))


def test_the_step_that_15_asks_for_trains_as_the_packages_does_and_gives_the_gradients_length():
    plan, ids = Plan(steps=9, learning_rate=0.01, warmup=2), random_tokens(CONFIG, 2, 8)
    places = torch.arange(8).expand(2, 8)
    batch = Batch(ids, places, torch.zeros_like(ids), torch.ones(2, 8))
    mine, theirs = (start(CONFIG, plan, seed=0) for _ in range(2))
    my_train_step = pasted("15_training", "my_train_step")
    with unchecked():
        for step in range(3):
            losses(theirs.weights, batch, CONFIG, plan.balance_weight).total.backward()
            length = torch.stack([tensor.grad.norm() for tensor in tensor_tree(theirs.weights)]).norm()
            theirs.optimizer.zero_grad(set_to_none=True)
            train_step(theirs.weights, theirs.optimizer, batch, CONFIG, plan, step)
            found = my_train_step(mine.weights, mine.optimizer, batch, CONFIG, plan, step)
            torch.testing.assert_close(found, length)
    for ours, packages in zip(tensor_tree(mine.weights), tensor_tree(theirs.weights), strict=True):
        assert torch.equal(ours, packages)


@pytest.mark.parametrize(("size", "ranks"), [(4e6, 4), (1, 1), (10, 7)])
def test_the_seconds_that_16_asks_for_are_the_packages(size, ranks):
    found = pasted("16_beyond_one_gpu", "my_seconds")(size, ranks, 50e9, 1e-5)
    assert found == pytest.approx(ring_seconds(size, ranks, 50e9, 1e-5))


@pytest.mark.parametrize("chosen", [[0, 0, 2, 5, 5], [7], [1, 1, 1]])
def test_the_ends_that_17_asks_for_are_sums_of_counts_and_ask_for_no_value(chosen):
    my_ends, number, every = pasted("17_topk_moe_on_gpu", "my_ends"), torch.tensor(chosen), torch.arange(8)
    assert torch.equal(my_ends(number, every), number.bincount(minlength=8).cumsum(0).int())
    assert my_ends(number.to("meta"), every.to("meta")).shape == (8,)


def test_the_write_that_17_asks_for_changes_one_slot_in_place_and_asks_for_no_value():
    my_write, slots, new = pasted("17_topk_moe_on_gpu", "my_write"), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 1, 4)
    before = slots.clone()
    found = my_write(slots, torch.tensor([4]), new)
    assert torch.equal(found[:, :, 4:5], new)
    assert torch.equal(found[:, :, [0, 1, 2, 3, 5]], before[:, :, [0, 1, 2, 3, 5]])
    assert found.data_ptr() == slots.data_ptr()
    my_write(slots.to("meta"), torch.tensor([4], device="meta"), new.to("meta"))
