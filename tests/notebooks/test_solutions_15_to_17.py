"""Where 15 to 17 ask for a function that is no exercise, the folded solution does what the package's function does."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from reference import random_tokens, random_weights, small_config
from test_notebooks import NOTEBOOKS

from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.devices.slices import Place, shard_weights
from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.fast.dispatch import moe_gathered
from qwen3_scratch.inside.cutting import part_that_comes, ring_steps
from qwen3_scratch.learning.training import Batch, Plan, losses, start, train_step
from qwen3_scratch.model import attention_mask, expert_ffn, moe_route, rope_table, self_attention

FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
CONFIG = small_config()
WEIGHTS = random_weights(CONFIG, seed=0)
LAYER = WEIGHTS.layers[0]
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


@pytest.mark.parametrize("tensors", [1, 2, 4])
def test_the_rows_that_16_asks_for_are_the_packages(tensors):
    my_rows, count = pasted("16_beyond_one_gpu", "my_rows"), CONFIG.num_attention_heads
    for rank in range(tensors):
        heads = range(rank * count // tensors, (rank + 1) * count // tensors)
        q, kv = my_rows(heads, CONFIG.head_dim, count // CONFIG.num_key_value_heads)
        expected = shard_weights(WEIGHTS, CONFIG, Place(rank, 0, tensors, 1)).layers[0]
        assert torch.equal(LAYER.q_proj[q], expected.q_proj) and torch.equal(LAYER.o_proj[:, q], expected.o_proj)
        assert torch.equal(LAYER.k_proj[kv], expected.k_proj) and torch.equal(LAYER.v_proj[kv], expected.v_proj)


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


def terms_add_up(my_rows):
    """Whether attention by the heads of 1, 2 and all devices adds up to the whole, as the chapter checks it."""
    heads, group = CONFIG.num_attention_heads, CONFIG.num_attention_heads // CONFIG.num_key_value_heads
    x = torch.randn(1, 5, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(5)[None]
    steps = CONFIG, rope_table(CONFIG, positions), attention_mask(positions, positions)

    def term(held):
        q, kv = my_rows(held, CONFIG.head_dim, group)
        mine = {"q_proj": LAYER.q_proj[q], "k_proj": LAYER.k_proj[kv], "v_proj": LAYER.v_proj[kv]}
        return self_attention(x, LAYER._replace(**mine, o_proj=LAYER.o_proj[:, q]), *steps)

    with unchecked():
        for count in (1, 2, heads):
            parts = [term(range(at * heads // count, (at + 1) * heads // count)) for at in range(count)]
            if difference(sum(parts), self_attention(x, LAYER, *steps), 1e-4):
                return False
    return True


def rows(first, last, size):
    return slice(first * size, (last + 1) * size)


@pytest.mark.parametrize(
    ("kv_of", "right"),
    [
        (lambda held, group: (held[0] // group, held[-1] // group), True),
        (lambda held, group: (held[0] // group, held[0] // group), False),  # the first head's alone
        (lambda held, group: (0, len(held) // group - 1 if len(held) > group else 0), False),  # always from the top
        (lambda held, group: (held[0] % 2, max(held[0] % 2, held[-1] // group)), False),  # dealt out in turns
    ],
    ids=["right", "one only", "from the top", "in turns"],
)
def test_the_check_of_16_tells_which_key_value_heads_are_read(kv_of, right):
    assert (
        terms_add_up(lambda held, size, group: (rows(held[0], held[-1], size), rows(*kv_of(held, group), size)))
        == right
    )


def ring_ends_whole(part_of):
    """Whether every rank holds every sum in the cases of the chapter."""
    ends = [(ring_steps(x, part_of)[-1], x.sum(0)) for x in (torch.arange(n * n).view(n, n) ** 2 for n in (2, 4, 5))]
    return all(bool((found == expected).all()) for found, expected in ends)


def test_the_part_that_16_asks_for_is_the_packages():
    my_part = pasted("16_beyond_one_gpu", "my_part")
    for ranks in (2, 4, 5):
        for rank in range(ranks):
            parts = [my_part(rank, step, ranks) for step in range(2 * ranks - 2)]
            assert parts == [part_that_comes(rank, step, ranks) for step in range(2 * ranks - 2)]
    assert "for count in (2, 4, 5):" in "".join(cell.source for cell in NOTEBOOKS["16_beyond_one_gpu"])


@pytest.mark.parametrize(
    ("part_of", "right"),
    [
        (lambda rank, step, ranks: (rank - 1 - step) % ranks, True),
        (lambda rank, step, ranks: (rank - step) % ranks, True),  # any ring that goes on with what came
        (lambda rank, step, ranks: (rank + step) % ranks, False),  # the other way round
        (lambda rank, step, ranks: (rank - 1) % ranks, False),  # the same in every step
        (lambda rank, step, ranks: step % ranks, False),  # the same at every rank
        (lambda rank, step, ranks: (rank - 1 - step % (ranks - 1)) % ranks, False),  # the second half anew
        (lambda rank, step, ranks: (rank - 1 - 2 * step) % ranks, False),
    ],
    ids=["as folded", "begun elsewhere", "backwards", "no step", "no rank", "anew", "two at a time"],
)
def test_the_rings_of_16_tell_parts_that_bring_all_from_those_that_do_not(part_of, right):
    assert ring_ends_whole(part_of) == right


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(up) * gate, down) * weights,
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", gate * up, down) * weights,
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down),
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down[:, :1]) * weights,
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down.flip(1)) * weights,
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down) * weights.flip(1),
        lambda gate, up, down, weights: torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down) * weights / 2,
    ],
    ids=["silu on up", "no silu", "no weights", "the first's down", "downs swapped", "weights swapped", "a mean"],
)
def test_what_17_compares_with_tells_another_gathered_form_from_the_right_one(wrong, route):
    with unchecked():
        expected = moe_gathered(X, route, LAYER.gate_up_proj, LAYER.down_proj)
    gate, up = torch.einsum("td,tkid->tki", X, LAYER.gate_up_proj[route.experts]).chunk(2, dim=-1)
    answers = wrong(
        gate, up, LAYER.down_proj[route.experts].expand(-1, gate.shape[1], -1, -1), route.weights[..., None]
    )
    assert difference(answers.sum(1), expected, 1e-4)


def test_the_write_that_17_asks_for_changes_one_slot_in_place_and_asks_for_no_value():
    my_write, slots, new = pasted("17_topk_moe_on_gpu", "my_write"), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 1, 4)
    before = slots.clone()
    found = my_write(slots, torch.tensor([4]), new)
    assert torch.equal(found[:, :, 4:5], new)
    assert torch.equal(found[:, :, [0, 1, 2, 3, 5]], before[:, :, [0, 1, 2, 3, 5]])
    assert found.data_ptr() == slots.data_ptr()
    my_write(slots.to("meta"), torch.tensor([4], device="meta"), new.to("meta"))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda slots, now, new: slots.index_copy_(2, now + 1, new),
        lambda slots, now, new: slots.index_copy_(2, torch.zeros_like(now), new),
        lambda slots, now, new: slots + new,
        lambda slots, now, new: torch.cat((slots, new), dim=2),
        lambda slots, now, new: slots[:, :, : int(now) + 1].index_copy_(2, now, new),
        lambda slots, now, new: new,
        lambda slots, now, new: slots,
    ],
    ids=["the next", "the first", "all", "behind", "cut off", "the key alone", "nothing"],
)
def test_the_slots_that_17_compares_with_tell_another_write_from_the_right_one(wrong):
    slots, now, new = torch.zeros(1, 2, 6, 4), torch.tensor([2]), torch.ones(1, 2, 1, 4)  # as in the chapter
    expected = torch.cat((slots[:, :, :2], new, slots[:, :, 3:]), dim=2)
    assert difference(wrong(slots.clone(), now, new), expected, 1e-4)
