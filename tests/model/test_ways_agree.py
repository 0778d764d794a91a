"""Two ways to compute the same thing agree: cached or not, in one piece or in many, alone or in a batch.

Where nothing else is said, near means TOLERANCE: the two ways add the same fp32 products, but in products of other
shapes and so in another order. Where the very same operations run, equality is bitwise.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    TOLERANCE,
    TRAINED,
    assert_near,
    dense_config,
    distance,
    padded,
    random_tokens,
    random_weights,
    small_config,
)
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Config, Weights, attention_weights, expert_ffn, forward, gqa_attention, moe_route, rope_table
from qwen3_scratch.cache import KVCache
from qwen3_scratch.model import Ops, Route, attention_mask, moe

SLIDING = dict(use_sliding_window=True, sliding_window=5)
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0}
CONFIGS = {
    "moe": small_config(),
    "one of two experts, its raw probability": small_config(
        num_experts=2, num_experts_per_tok=1, norm_topk_prob=False, tie_word_embeddings=True
    ),
    "dense and sparse layers, bias, linear rope": small_config(
        mlp_only_layers=(1,), attention_bias=True, rope_parameters=LINEAR
    ),
    "window, yarn": small_config(**SLIDING, rope_parameters=YARN),
    "full and sliding layers": dense_config(**SLIDING, max_window_layers=1, num_key_value_heads=1),
}
MODELS = {name: (random_weights(config), config) for name, config in CONFIGS.items()}
models = st.sampled_from(sorted(MODELS))  # by name, which reads better than their numbers where a test fails
seeds = st.integers(0, 1000)
cuts = st.lists(st.integers(1, 6), min_size=1, max_size=6)  # lengths of the pieces of a text


@torch.no_grad()
def logits(weights: Weights, token_ids: Tensor | None, config: Config, **options) -> Tensor:
    return forward(weights, token_ids, config, **options)


def in_pieces(weights, token_ids, config, pieces: list[int], cache: KVCache, keep: Tensor | None = None) -> Tensor:
    """All logits of a text that reaches the model piece by piece, through a cache."""
    found = []
    for part in torch.arange(token_ids.shape[1]).split(pieces):
        kept = None if keep is None else keep[:, part]
        found.append(logits(weights, token_ids[:, part], config, attention_mask=kept, cache=cache))
    return torch.cat(found, dim=1)


# ---- the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_logits_of_one_token_at_a_time_equal_uncached(name):
    weights, config = MODELS[name]
    token_ids = random_tokens(config, 2, 14)
    found = in_pieces(weights, token_ids, config, [1] * 14, KVCache(config, 2, 14))
    assert_near(found, logits(weights, token_ids, config))


@given(models, cuts, seeds)
def test_a_prompt_in_chunks_equals_the_whole_prompt(model, pieces, seed):
    weights, config = MODELS[model]
    token_ids = random_tokens(config, 2, sum(pieces), seed=seed)
    found = in_pieces(weights, token_ids, config, pieces, KVCache(config, 2, sum(pieces) + 3))
    assert_near(found, logits(weights, token_ids, config))


@given(st.sampled_from(["window, yarn", "full and sliding layers"]), st.integers(1, 6), st.integers(1, 5), cuts, seeds)
def test_the_ring_of_a_sliding_window_equals_the_full_cache(name, window, chunk, pieces, seed):
    weights, config = MODELS[name]
    config = replace(config, sliding_window=window)
    pieces = [min(piece, chunk) for piece in pieces]
    token_ids = random_tokens(config, 2, sum(pieces), seed=seed)
    full, ring = (KVCache(config, 2, sum(pieces), chunk=bound) for bound in (None, chunk))
    expected = in_pieces(weights, token_ids, config, pieces, full)
    assert_near(in_pieces(weights, token_ids, config, pieces, ring), expected)
    assert_near(expected, logits(weights, token_ids, config))


def test_the_ring_keeps_its_size_and_its_answers_however_long_the_text():
    weights, config = MODELS["window, yarn"]
    token_ids, cache = random_tokens(config, 1, 60), KVCache(config, 1, max_length=20, chunk=4)
    found = in_pieces(weights, token_ids, config, [4] * 15, cache)
    assert {keys.shape[2] for keys in cache.keys} == {5 + 4 - 1}  # the window, and the rest of a chunk
    assert_near(found, logits(weights, token_ids, config))


@given(st.sampled_from(["window, yarn", "full and sliding layers"]), st.integers(1, 9), seeds)
def test_the_ring_holds_a_left_padded_batch(name, short, seed):
    weights, config = MODELS[name]
    rows = [random_tokens(config, length, seed=seed) for length in (11, short)]
    token_ids, keep = padded(rows, "left")
    found = in_pieces(weights, token_ids, config, [3, 3, 3, 1, 1], KVCache(config, 2, 11, chunk=3), keep)
    for row, ids in enumerate(rows):
        assert_near(found[row][keep[row]], logits(weights, ids[None], config)[0])


# ---- batches and padding ---------------------------------------------------------------------

lengths = st.lists(st.integers(1, 9), min_size=2, max_size=4)
sides = st.sampled_from(["left", "right"])


@given(models, lengths, sides, seeds)
def test_a_batch_of_unequal_prompts_equals_each_prompt_alone(model, sizes, side, seed):
    weights, config = MODELS[model]
    rows = [random_tokens(config, size, seed=seed + size) for size in sizes]
    token_ids, keep = padded(rows, side)
    found = logits(weights, token_ids, config, attention_mask=keep)
    for row, ids in enumerate(rows):
        assert_near(found[row][keep[row]], logits(weights, ids[None], config)[0])


@given(models, lengths, seeds)
def test_left_padded_equals_right_padded(model, sizes, seed):
    weights, config = MODELS[model]
    rows = [random_tokens(config, size, seed=seed + size) for size in sizes]
    (left, left_keep), (right, right_keep) = padded(rows, "left"), padded(rows, "right")
    found = logits(weights, left, config, attention_mask=left_keep.long())  # a mask of ones and zeros does as well
    assert_near(found[left_keep], logits(weights, right, config, attention_mask=right_keep)[right_keep])


@given(models, lengths, sides, st.integers(1, 4), seeds)
def test_a_padded_batch_continues_as_each_prompt_alone(model, sizes, side, chunk, seed):
    """Also where a whole chunk of a row is padding: it must leave nothing behind, least of all NaN."""
    weights, config = MODELS[model]
    rows, new = [random_tokens(config, size, seed=seed + size) for size in sizes], random_tokens(config, len(sizes), 3)
    token_ids, keep = padded(rows, side)
    cache = KVCache(config, len(rows), token_ids.shape[1] + 3)
    pieces = [len(part) for part in torch.arange(token_ids.shape[1]).split(chunk)]
    in_pieces(weights, token_ids, config, pieces, cache, keep)
    found = in_pieces(weights, new, config, [1, 1, 1], cache)
    for row, ids in enumerate(rows):
        assert_near(found[row], logits(weights, torch.cat([ids, new[row]])[None], config)[0, -3:])


@given(models, st.integers(2, 9), seeds)
def test_what_stands_in_the_padding_does_not_matter(model, size, seed):
    weights, config = MODELS[model]
    rows = [random_tokens(config, length, seed=seed) for length in (9, size - 1)]
    (zeros, keep), (others, _) = (padded(rows, "right", pad=pad) for pad in (0, config.vocab_size - 1))
    assert_near(
        logits(weights, others, config, attention_mask=keep)[keep],
        logits(weights, zeros, config, attention_mask=keep)[keep],
    )


# ---- the arguments of forward ----------------------------------------------------------------


@given(models, st.integers(1, 8), st.integers(0, 10), seeds)
def test_logits_to_keep_gives_the_tail_of_all_logits(model, length, kept, seed):
    weights, config = MODELS[model]
    token_ids = random_tokens(config, 2, length, seed=seed)
    expected = logits(weights, token_ids, config)[:, -kept:]
    assert_near(logits(weights, token_ids, config, logits_to_keep=kept), expected)


@given(models, seeds)
def test_embedded_tokens_give_the_bits_that_token_ids_give(model, seed):
    weights, config = MODELS[model]
    token_ids = random_tokens(config, 2, 6, seed=seed)
    found = logits(weights, None, config, inputs_embeds=weights.embed_tokens[token_ids])
    assert torch.equal(found, logits(weights, token_ids, config))


@given(models, st.integers(1, 9), sides, seeds)
def test_positions_counted_by_hand_equal_the_default(model, short, side, seed):
    weights, config = MODELS[model]
    token_ids, keep = padded([random_tokens(config, length, seed=seed) for length in (9, short)], side)
    by_hand = torch.zeros_like(token_ids)
    for row, length in enumerate((9, short)):
        by_hand[row, keep[row]] = torch.arange(length)
    found = logits(weights, token_ids, config, attention_mask=keep, positions=by_hand)
    assert_near(found[keep], logits(weights, token_ids, config, attention_mask=keep)[keep])


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_counts_from_its_first_real_token_and_on_after_the_cache(side):
    """Seen at the rope table itself: attention depends on distances alone, and would hide a row that starts late."""
    (weights, config), seen = MODELS["moe"], []

    def noted(config, positions):
        seen.append(positions)
        return rope_table(config, positions)

    token_ids, keep = padded([random_tokens(config, length) for length in (5, 2)], side)
    cache = KVCache(config, 2, 7)
    logits(weights, token_ids, config, attention_mask=keep, cache=cache, ops=Ops(table=noted))
    logits(weights, token_ids[:, :2], config, cache=cache, ops=Ops(table=noted))
    assert [row[real].tolist() for row, real in zip(seen[0], keep, strict=True)] == [[0, 1, 2, 3, 4], [0, 1]]
    assert seen[1].tolist() == [[5, 6], [2, 3]]


@given(models, st.integers(1, 7), seeds)
def test_positions_by_hand_after_a_cache_are_counted_from_the_start_of_the_text(model, cut, seed):
    weights, config = MODELS[model]
    token_ids, cache = random_tokens(config, 2, 8, seed=seed), KVCache(config, 2, 8)
    positions = torch.arange(8)[None]  # one row for the whole batch
    parts = [
        logits(weights, token_ids[:, part], config, positions=positions[:, part], cache=cache)
        for part in (slice(0, cut), slice(cut, 8))
    ]
    assert_near(torch.cat(parts, dim=1), logits(weights, token_ids, config))


@given(models, st.integers(1, 20), seeds)
def test_moving_all_positions_by_the_same_number_changes_nothing(model, shift, seed):
    """Rope makes attention depend on distances alone. The angles themselves are rounded, a little more the larger."""
    weights, config = MODELS[model]
    token_ids, positions = random_tokens(config, 1, 9, seed=seed), torch.arange(9)[None]
    found = logits(weights, token_ids, config, positions=positions + shift)
    assert_near(found, logits(weights, token_ids, config))
    stretched = logits(weights, token_ids, config, positions=2 * positions)
    assert distance(stretched, found) > 1000 * TOLERANCE  # distances do matter


# ---- two forms of one step -------------------------------------------------------------------


@given(st.integers(0, 9), st.integers(1, 6), st.data())
def test_moe_equals_a_plain_loop_over_tokens_and_choices(tokens, experts, data):
    top_k, seed = data.draw(st.integers(1, experts)), data.draw(seeds)
    torch.manual_seed(seed)
    x, router = torch.randn(tokens, 8), torch.randn(experts, 8)
    gate_up, down = torch.randn(experts, 2 * 12, 8), torch.randn(experts, 8, 12)
    route = moe_route(x, router, top_k, norm_topk_prob=bool(seed % 2))
    expected = torch.zeros_like(x)
    for token in range(tokens):
        for choice in range(top_k):
            number = int(route.experts[token, choice])
            gate, up = gate_up[number, :12], gate_up[number, 12:]
            answer = expert_ffn(x[token : token + 1], gate, up, down[number])[0]
            expected[token] += route.weights[token, choice] * answer
    found = moe(x, route, gate_up, down)
    assert torch.equal(found, expected) if tokens == 0 else assert_near(found, expected) is None


def test_an_expert_that_no_token_chose_is_not_asked():
    route = Route(torch.ones(4, 1), torch.tensor([[2], [0], [2], [2]]), torch.zeros(4, 3))
    asked = []

    def noted(x, gate, up, down):
        asked.append(len(x))
        return expert_ffn(x, gate, up, down)

    moe(torch.randn(4, 8), route, torch.randn(3, 24, 8), torch.randn(3, 8, 12), noted)
    assert asked == [1, 3]  # expert 0 for one token, expert 2 for three in one product


@given(st.integers(1, 3), st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 2), (4, 1)]), st.integers(1, 5), st.data())
def test_attention_weights_times_values_equal_gqa_attention(batch, heads, q_len, data):
    torch.manual_seed(data.draw(seeds))
    before = data.draw(st.integers(0, 6))  # keys that stood in the cache
    q = torch.randn(batch, heads[0], q_len, 8)
    k, v = torch.randn(2, batch, heads[1], before + q_len, 8)
    key_positions = torch.arange(before + q_len).expand(batch, -1)
    window = data.draw(st.sampled_from([None, 1, 3]))
    masks = [None, attention_mask(key_positions[:, before:], key_positions, window)]
    shared = v.repeat_interleave(heads[0] // heads[1], dim=1)  # neighbouring query heads share one
    for mask in masks:
        assert_near(gqa_attention(q, k, v, mask), attention_weights(q, k, mask) @ shared)


@given(models, seeds)
def test_the_whole_model_runs_on_the_clear_forms_alike(model, seed):
    def clear_attention(q, k, v, mask):
        return attention_weights(q, k, mask) @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)

    def all_experts(x, route, gate_up, down, expert):
        answers = torch.stack([expert(x, *one.chunk(2), two) for one, two in zip(gate_up, down, strict=True)], dim=1)
        chosen = answers.gather(1, route.experts[..., None].expand(-1, -1, x.shape[1]))
        return (chosen * route.weights[..., None]).sum(1)

    weights, config = MODELS[model]
    token_ids = random_tokens(config, 2, 9, seed=seed)
    found = logits(weights, token_ids, config, ops=Ops(attention=clear_attention, moe=all_experts))
    assert_near(found, logits(weights, token_ids, config))


# ---- bf16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_runs_in_bf16_and_stays_near_fp32(name, cached):
    """bf16 keeps 8 bits, 0.4 % of each number, and a rounding may send a token to another expert, which changes that
    token altogether. So every expert is asked here: then three layers drift by a few per cent and no more."""
    weights, config = MODELS[name]
    config = replace(config, num_experts_per_tok=config.num_experts)
    narrow = tree_map_only(Tensor, lambda tensor: tensor.bfloat16(), weights)
    token_ids = random_tokens(config, 2, 12)
    cache = KVCache(config, 2, 12, dtype=torch.bfloat16) if cached else None
    found = logits(narrow, token_ids, config, cache=cache)
    expected = logits(tree_map_only(Tensor, lambda tensor: tensor.float(), narrow), token_ids, config)
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < 0.1
    table = rope_table(config, torch.arange(TRAINED)[None])
    assert {part.dtype for part in table} == {torch.float32}  # angles are never rounded to bf16
