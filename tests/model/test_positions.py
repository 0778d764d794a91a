"""Positions and masks of every kind mean what they mean to the reference, or are refused in one sentence."""

import pytest
import torch
from helpers import unchecked
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    assert_near,
    distance,
    forget,
    padded,
    random_tokens,
    random_weights,
    reference_config,
    reference_model,
    save_reference,
    small_config,
)
from tiers import only
from torch import Tensor
from transformers import DynamicCache

from qwen3_scratch import Error, KVCache, attention_weights, forward, gqa_attention, load_weights, read_config

ROW = dict(
    norm_topk_prob=True, layers="all sparse", head_dim="another", kv_heads=2, attention_bias=False, tied=True,
    rope="default", spelling="transformers 5", files="one",
)  # fmt: skip
KINDS = {
    "sparse": ROW | dict(kind="8 experts top-2", window="none"),
    "sparse, dynamic rope": ROW | dict(kind="2 experts top-1", window="none", rope="dynamic"),
    "sparse, window": ROW | dict(kind="8 experts top-2", window="all layers"),
    "dense, some layers with a window": ROW
    | dict(kind="dense family", window="layers by name", norm_topk_prob=None, layers=None),
}
CONFIG, SLIDING = small_config(), small_config(use_sliding_window=True, sliding_window=4)
WEIGHTS = random_weights(CONFIG)
LENGTH = 20
COUNT = torch.arange(LENGTH)
POSITIONS = {
    "packed": torch.tensor([[*range(6), *range(9), *range(5)]]),
    "packed, each row in its own way": torch.tensor([[*range(6), *range(14)], [*range(10), *range(2), *range(8)]]),
    "packed texts of one token": torch.tensor([[0, 0, 0, *range(17)]]),
    "all the same": torch.zeros(1, LENGTH, dtype=torch.long),
    "backward": COUNT.flip(0)[None],
    "with a jump": torch.cat([COUNT[:8], COUNT[8:] + 100])[None],
    "negative": COUNT[None] - 7,
    "far beyond what was trained": COUNT[None] + 10**6,
    "at random": torch.randint(0, 30, (2, LENGTH), generator=torch.Generator().manual_seed(0)),
    "in int32": torch.tensor([[*range(6), *range(14)]], dtype=torch.int32),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    row, folder = KINDS[request.param], tmp_path_factory.mktemp("checkpoint")
    model = reference_model(reference_config(row), seed=3)
    save_reference(model, folder, row)
    config = read_config(folder)
    return model, load_weights(folder, config), config


def theirs(model, ids: Tensor, positions: Tensor, keep: Tensor | None = None) -> Tensor:
    forget(model)
    keep = None if keep is None else keep.long()
    with torch.no_grad():
        return model(ids, position_ids=positions.expand(len(ids), -1), attention_mask=keep, use_cache=False).logits


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_without_mask_and_cache_part_texts_where_the_reference_does(pair, name):
    model, weights, config = pair
    ids = random_tokens(config, 2, LENGTH)
    found = forward(weights, ids, config, positions=POSITIONS[name])
    assert_near(found, theirs(model, ids, POSITIONS[name]))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", only(POSITIONS, "packed", "backward", "at random"))
def test_positions_beside_a_mask_turn_and_do_not_hide(pair, name, padding):
    model, weights, config = pair
    ids, keep = random_tokens(config, 2, LENGTH), torch.ones(2, LENGTH, dtype=torch.bool)
    keep[1] = {"none": COUNT >= 0, "left": COUNT >= 7, "right": COUNT < 13}[padding]
    found = forward(weights, ids, config, positions=POSITIONS[name], attention_mask=keep)
    assert_near(found[keep], theirs(model, ids, POSITIONS[name], keep)[keep])


@pytest.mark.parametrize("name", only(POSITIONS, "packed", "with a jump", "at random"))
@pytest.mark.parametrize("chunk", [None, 8])
def test_positions_beside_a_cache_turn_and_do_not_hide(pair, name, chunk):
    model, weights, config = pair
    forget(model)
    ids, positions = random_tokens(config, 2, LENGTH), POSITIONS[name].expand(2, -1)
    held, cache = DynamicCache(config=model.config), KVCache(config, 2, LENGTH, chunk=chunk)
    for part in COUNT.split([8, 8, 1, 3]):
        with torch.no_grad():
            expected = model(ids[:, part], position_ids=positions[:, part], past_key_values=held).logits
        assert_near(forward(weights, ids[:, part], config, positions=positions[:, part], cache=cache), expected)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 100))
def test_no_packed_text_sees_another(sizes, seed):
    """Each has the logits that it has alone, whatever stands in the others."""
    texts = [random_tokens(CONFIG, size, seed=seed + number) for number, size in enumerate(sizes)]
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    found = forward(WEIGHTS, torch.cat(texts)[None], CONFIG, positions=positions)[0].split(sizes)
    for text, logits in zip(texts, found, strict=True):
        assert_near(logits, forward(WEIGHTS, text[None], CONFIG)[0])


# ---- masks -----------------------------------------------------------------------------------

IDS = random_tokens(CONFIG, 2, 6)
KEEP = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int8, torch.uint8, torch.float32, torch.bfloat16])
def test_a_mask_is_what_it_says_in_any_type(kind):
    expected = forward(WEIGHTS, IDS, CONFIG, attention_mask=KEEP.bool())
    assert torch.equal(forward(WEIGHTS, IDS, CONFIG, attention_mask=KEEP.to(kind)), expected)


def test_what_a_hole_in_the_mask_hides_is_as_if_it_were_not_there():
    keep = torch.tensor([[True, True, False, True, False, True]])
    found = forward(WEIGHTS, IDS[:1], CONFIG, attention_mask=keep)[keep]
    assert_near(found, forward(WEIGHTS, IDS[:1, keep[0]], CONFIG)[0])


def test_a_row_of_padding_alone_has_finite_logits_and_leaves_the_others_alone():
    keep = torch.tensor([[True] * 6, [False] * 6])
    found = forward(WEIGHTS, IDS, CONFIG, attention_mask=keep)
    assert found.isfinite().all()
    assert_near(found[:1], forward(WEIGHTS, IDS[:1], CONFIG))


MASKS = {
    "of another length": (torch.ones(2, 5), r"shape \[2, 5\], expected \[2, 6\]"),
    "of another batch": (torch.ones(3, 6), r"shape \[3, 6\], expected \[2, 6\]"),
    "of one dimension": (torch.ones(6), r"shape \[6\], expected \[2, 6\]"),
    "of pairs of tokens": (torch.ones(2, 1, 6, 6), r"shape \[2, 1, 6, 6\], expected \[2, 6\]"),
    "as it is added to scores": (torch.tensor([[0.0] * 5 + [float("-inf")]] * 2), "holds other values, expected 1"),
    "of halves": (torch.full((2, 6), 0.5), "holds other values, expected 1"),
    "of minus ones": (-torch.ones(2, 6), "holds other values, expected 1"),
    "as a list": ([[1] * 6] * 2, "expected a tensor"),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_no_mask_of_tokens_is_refused(name):
    mask, message = MASKS[name]
    with unchecked(), pytest.raises(Error, match=f"forward: attention_mask .*{message}"):
        forward(WEIGHTS, IDS, CONFIG, attention_mask=mask)


def test_a_window_does_not_reach_across_padding():
    """The reference lets padding use the window up, a text without it would not: neither is meant, so it is refused."""
    weights, keep = random_weights(SLIDING), torch.tensor([[True, True, False, True, True, True]])
    with pytest.raises(Error, match="padding between tokens, expected it at the ends"):
        forward(weights, IDS[:1], SLIDING, attention_mask=keep)


def test_padding_behind_tokens_would_push_them_out_of_a_ring_and_is_refused():
    rows = [random_tokens(SLIDING, size, seed=size) for size in (6, 3)]
    weights, (ids, keep) = random_weights(SLIDING), padded(rows, "right")
    cache = KVCache(SLIDING, 2, 20, chunk=6)
    with pytest.raises(Error, match=r"padding after a row's tokens, expected it before them.*: pad on the left"):
        forward(weights, ids, SLIDING, attention_mask=keep, cache=cache)
    assert cache.length == 0
    forward(weights, ids[:, :3], SLIDING, cache=cache)
    with pytest.raises(Error, match=r"padding after a row's tokens"):
        forward(weights, ids[:, 3:], SLIDING, attention_mask=keep[:, 3:], cache=cache)


@pytest.mark.parametrize("q_len", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("learning", [False, True])
def test_a_query_that_sees_nothing_is_answered_by_nothing_and_looks_at_all_alike(q_len, dtype, learning):
    """As in the reference: weights of a row without a key are even where they are built; PyTorch's kernel gives 0."""
    q, k, v = (torch.randn(2, heads, size, 8, dtype=dtype) for heads, size in ((4, q_len), (2, 6), (2, 6)))
    mask = torch.rand(2, 1, q_len, 6) < 0.5
    mask[..., 0] = True
    mask[1, :, 0] = False
    q.requires_grad_(learning)
    weights, found = attention_weights(q, k, mask), gqa_attention(q, k, v, mask)
    assert torch.allclose(weights[1, :, 0], weights.new_tensor(1 / 6)) and (found[1, :, 0] == 0).all()
    expected = weights.detach() @ v.repeat_interleave(2, 1)
    expected[1, :, 0] = 0
    assert distance(found.detach(), expected) < (2e-2 if dtype == torch.bfloat16 else 1e-5)
