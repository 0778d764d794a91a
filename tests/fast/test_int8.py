"""Weights in 8 bits: near the ones that they were rounded from, and read by compiled decoding alone."""

from dataclasses import replace

import pytest
import torch
from reference import TOLERANCE, assert_near, dense_config, random_tokens, random_weights, small_config
from tiers import in_proof
from torch.utils._pytree import tree_leaves, tree_map

from qwen3_scratch import Checkpoint, Error, generate, load_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import eight_bits, int8
from qwen3_scratch.fast.eager import eager_decoder, prefill
from qwen3_scratch.fast.eight_bits import (
    LARGEST,
    MOST_ROWS_INT8,
    Rounded,
    int8_linear,
    moe_int8,
    rounded,
    rounded_weights,
)
from qwen3_scratch.model import Ops, moe, moe_route
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

LONG = dict(max_position_embeddings=512)
CONFIGS = {
    "experts": small_config(**LONG),
    "tied": small_config(num_experts=2, num_experts_per_tok=1, tie_word_embeddings=True, **LONG),
    "dense layers with bias": dense_config(attention_bias=True, **LONG),
}


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def widened(weight: Rounded) -> torch.Tensor:
    """What the whole numbers stand for."""
    return weight.numbers * weight.scale[..., None]


def as_rounded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with each matrix as its 8 bits have it, in the type that it had."""

    def is_rounded(node) -> bool:
        return isinstance(node, Rounded)

    def wide(node):
        return widened(node) if is_rounded(node) else node

    return replace(checkpoint, weights=tree_map(wide, rounded_weights(checkpoint.weights), is_leaf=is_rounded))


def model(name: str) -> Checkpoint:
    return Checkpoint(CONFIGS[name], random_weights(CONFIGS[name], seed=len(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 40), (2**10, 1500)])
def test_no_weight_moves_by_more_than_half_its_rows_scale(shape, dtype):
    (weight,) = drawn(shape)
    weight = (weight * torch.logspace(-3, 3, shape[-2])[:, None]).to(dtype)
    found = rounded(weight)
    assert found.numbers.dtype == torch.int8 and found.numbers.shape == weight.shape
    assert found.scale.shape == weight.shape[:-1]
    moved = (widened(found) - weight.float()).abs()
    assert (moved <= 0.5001 * found.scale[..., None]).all()  # half, and fp32's own rounding of the quotient
    assert (found.numbers.abs().amax(dim=-1) == LARGEST).all()


def test_a_row_of_zeros_stays_zeros():
    weight = torch.zeros(3, 8)
    weight[1] = 2.0
    assert torch.equal(widened(rounded(weight))[[0, 2]], weight[[0, 2]])


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (4, 24), (2, 2, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_with_the_rounded_matrix(shape, dtype):
    x, weight, bias = (each.to(dtype) for each in drawn(shape, (40, 24), (40,)))
    found, wide = rounded(weight), widened(rounded(weight)).to(dtype)
    expected = torch.nn.functional.linear(x, wide, bias)
    assert found.numbers.shape == (40, 24) and int8_linear(x, found, bias).stride() == expected.stride()
    tolerance = TOLERANCE if dtype == torch.float32 else 2e-2  # bf16 rounds the expected matrix once more, by 2^-9
    assert_near(int8_linear(x, found, bias).float(), expected.float(), tolerance)


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("tokens", [1, 4])
def test_the_experts_answer_like_the_loop_over_the_rounded_ones(tokens, top_k):
    x, router, gate_up, down = drawn((tokens, 24), (6, 24), (6, 80, 24), (6, 24, 40), seed=top_k)
    route = moe_route(x, router, top_k, norm_topk_prob=False)
    found = moe_int8(x, route, rounded(gate_up), rounded(down))
    assert_near(found, moe(x, route, widened(rounded(gate_up)), widened(rounded(down))))


def test_what_a_token_is_not_multiplied_with_is_not_rounded_and_not_copied():
    checkpoint = model("tied")
    weights, found = checkpoint.weights, int8(checkpoint).decoder.rounded
    for name in ("input_layernorm", "q_norm", "k_norm", "post_attention_layernorm", "router"):
        assert getattr(found.layers[0], name) is getattr(weights.layers[0], name)
    assert found.embed_tokens is weights.embed_tokens and found.norm is weights.norm
    assert weights.lm_head is None and isinstance(found.lm_head, Rounded)


def test_the_copy_takes_a_quarter_of_the_matrices_in_fp32_and_a_scale_a_row():
    checkpoint = model("experts")
    matrices = [leaf for leaf in tree_leaves(checkpoint.weights) if leaf is not None and leaf.ndim > 1]
    copied = [
        leaf for leaf in tree_leaves(int8(checkpoint).decoder.rounded) if leaf is not None and leaf.dtype == torch.int8
    ]
    assert len(copied) == len(matrices) - 1 - checkpoint.config.num_hidden_layers  # no embedding, no routers
    assert all(leaf.nbytes == leaf.numel() for leaf in copied)


def test_a_copy_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("qwen3_scratch.fast.eight_bits.available_memory", lambda device: 1000)
    monkeypatch.setattr("qwen3_scratch.fast.eight_bits.rounded_weights", None)
    with pytest.raises(Error, match=r"int8: the copy takes .* found 1.00 kB left on cpu: decode from the weights"):
        int8(model("experts"))


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "batch"),
    [*(in_proof(name, 1) for name in CONFIGS if name != "experts"), ("experts", 1), in_proof("experts", 3)],
)
def test_compiled_logits_are_those_of_the_rounded_weights_after_a_prompt_read_with_the_loaded_ones(name, batch):
    checkpoint = model(name)
    prompts = [random_tokens(checkpoint.config, 9, seed=seed).tolist() for seed in range(batch)]
    caches = [KVCache(checkpoint.config, batch, 20, dtype=torch.float32) for _ in range(2)]
    for cache in caches:
        prefill(checkpoint, prompts, cache)
    rounded_once = int8(checkpoint)
    step = rounded_once.decoder(rounded_once, caches[0], lambda logits: logits)
    plain = eager_decoder(as_rounded(checkpoint), caches[1], lambda logits: logits)
    for token in range(3, 8):
        tokens = torch.arange(token, token + batch)
        assert_near(step(tokens), plain(tokens), 2 * TOLERANCE)  # added in another order


def written_into(weights):
    weights.layers[1].down_proj[3].mul_(2)
    return weights


def trained_on(weights):
    weights.norm.requires_grad_()
    weights.norm.sum().backward()
    torch.optim.SGD([weights.norm], lr=0.1).step()
    return weights


STALE = {
    "another tree": lambda weights: random_weights(CONFIGS["experts"], seed=9),
    "a copy": lambda weights: tree_map(lambda leaf: leaf if leaf is None else leaf.clone(), weights),
    "one tensor": lambda weights: weights._replace(norm=weights.norm.clone()),
    "a head of its own": lambda weights: weights._replace(lm_head=weights.embed_tokens),
    "fewer layers": lambda weights: weights._replace(layers=weights.layers[:1]),
    "written into": written_into,
    "trained on": trained_on,
}


@pytest.mark.parametrize("change", STALE)
def test_a_copy_of_other_weights_is_refused(change, monkeypatch):
    monkeypatch.setattr(eight_bits, "compiled_by", lambda *arguments: pytest.fail("it decodes from the copy"))
    checkpoint = int8(model("experts"))
    weights = STALE[change](checkpoint.weights)
    config = replace(checkpoint.config, num_hidden_layers=len(weights.layers))
    others = replace(checkpoint, config=config, weights=weights)
    with pytest.raises(Error, match=r"int8: the checkpoint has other weights than those that were rounded, expected"):
        others.decoder(others, KVCache(others.config, 1, 8), lambda logits: logits)


def test_steps_that_replace_the_models_own_are_refused_after_rounding_too():
    checkpoint = replace(int8(model("experts")), ops=Ops(linear=lambda *arguments: None))
    with pytest.raises(Error, match=r"^compiled: this checkpoint replaces the step 'linear', expected"):
        checkpoint.decoder(checkpoint, KVCache(checkpoint.config, 1, 8), lambda logits: logits)


@pytest.mark.compiled
@pytest.mark.proof
def test_batches_that_gain_nothing_read_the_weights_as_loaded():
    checkpoint = model("experts")
    prompts = [random_tokens(checkpoint.config, 6, seed=seed).tolist() for seed in range(MOST_ROWS_INT8 + 1)]
    options = dict(max_new_tokens=12, temperature=0, compiled=True)
    expected = [answer.token_ids for answer in generate(checkpoint, prompts, **options)]
    decoder = int8(checkpoint).decoder
    useless = replace(decoder, rounded=decoder.rounded._replace(norm=torch.zeros_like(checkpoint.weights.norm)))
    found = generate(replace(checkpoint, decoder=useless), prompts, **options)
    assert [answer.token_ids for answer in found] == expected


@pytest.mark.compiled
def test_of_the_embedded_checkpoints_greedy_tokens_at_least_99_in_100_stay():
    checkpoint, same, count = load_checkpoint("tiny"), 0, 0
    both = checkpoint, int8(checkpoint)
    for domain in DOMAINS:
        texts = [example.messages for example in questions(domain, MOST_ROWS_INT8)]
        options = dict(temperature=0, max_new_tokens=120)
        for one, other in zip(*(generate(each, texts, **options) for each in both), strict=True):
            count += max(len(one.token_ids), len(other.token_ids))
            same += sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))
    assert count > 500 and same >= 0.99 * count
