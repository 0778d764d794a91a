"""Weights in 8 bits: near those that they were rounded from, half as large, read by prompts and decoding alike."""

from dataclasses import replace

import pytest
import torch
from reference import TOLERANCE, assert_near, dense_config, random_tokens, random_weights, small_config
from tiers import in_proof
from torch.utils._pytree import tree_leaves, tree_map

from qwen3_scratch import Checkpoint, Error, forward, generate, load_checkpoint, save_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.checkpoints import weights as weights_module
from qwen3_scratch.fast import compiled, int8, load_int8
from qwen3_scratch.fast.eager import eager_decoder, prefill
from qwen3_scratch.fast.eight_bits import (
    LARGEST,
    MOST_ROWS_INT8,
    Rounded,
    int8_embed,
    int8_linear,
    moe_int8,
    moe_int8_streamed,
    rounded,
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


def wide(weight: Rounded) -> torch.Tensor:
    """What the whole numbers stand for, in fp32."""
    return weight.numbers.float() * weight.scale.float()[..., None]


def as_tensors(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint in 8 bits with each matrix as the tensor that it stands for."""

    def is_rounded(node) -> bool:
        return isinstance(node, Rounded)

    weights = tree_map(lambda node: wide(node) if is_rounded(node) else node, checkpoint.weights, is_leaf=is_rounded)
    return replace(checkpoint, weights=weights, ops=Ops(), decoder=None)


def model(name: str) -> Checkpoint:
    return Checkpoint(CONFIGS[name], random_weights(CONFIGS[name], seed=len(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 40), (2**10, 1500)])
def test_no_weight_moves_by_more_than_half_its_rows_scale(shape, dtype):
    """From rows so small that fp16 has no exact scale for them to large ones."""
    (weight,) = drawn(shape)
    weight = (weight * torch.logspace(-5, 3, shape[-2])[:, None]).to(dtype)
    found = rounded(weight)
    assert found.numbers.dtype == torch.int8 and found.numbers.shape == weight.shape == found.shape
    assert found.scale.shape == weight.shape[:-1] and found.scale.dtype == dtype == found.dtype
    moved = (wide(found) - weight.float()).abs()
    assert (moved <= 0.501 * found.scale[..., None].float()).all()  # half, and fp32's own rounding of the quotient
    largest = found.numbers.abs().amax(dim=-1)
    assert (largest <= LARGEST).all() and (largest[weight.float().abs().amax(dim=-1) > 0.01] >= LARGEST - 1).all()


def test_a_row_of_zeros_stays_zeros():
    weight = torch.zeros(3, 8)
    weight[1] = 2.0
    assert torch.equal(rounded(weight).widened()[[0, 2]], weight[[0, 2]])


@pytest.mark.parametrize("columns", [24, 32, 48])  # 24 are no multiple of what the library's product reads together
@pytest.mark.parametrize("rows", [(1,), (1, 1), (4,), (2, 2), (MOST_ROWS_INT8 + 1,), (3, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_product_is_that_with_the_rounded_matrix(rows, columns, dtype):
    x, weight, bias = (each.to(dtype) for each in drawn((*rows, columns), (40, columns), (40,)))
    found = rounded(weight)
    expected = torch.nn.functional.linear(x.float(), wide(found), bias.float())
    assert int8_linear(x, found, bias).dtype == dtype and int8_linear(x, found, bias).stride() == expected.stride()
    tolerance = TOLERANCE if dtype == torch.float32 else 2e-2  # the answer, and for many rows the matrix, is rounded
    assert_near(int8_linear(x, found, bias).float(), expected, tolerance)
    backwards = x.flip(-1)
    assert_near(int8_linear(backwards, found).float(), backwards.float() @ wide(found).T, tolerance)


def test_a_token_is_looked_up_in_the_rounded_table():
    (table,) = drawn((11, 24))
    ids = torch.tensor([[3, 0, 10], [3, 7, 7]])
    assert_near(int8_embed(ids, rounded(table)), wide(rounded(table))[ids])


@pytest.mark.parametrize("form", [moe_int8, moe_int8_streamed])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("tokens", [1, 4, 9, MOST_ROWS_INT8 + 3])
def test_the_experts_answer_like_the_loop_over_the_rounded_ones(tokens, top_k, form):
    x, router, gate_up, down = drawn((tokens, 24), (6, 24), (6, 80, 24), (6, 24, 40), seed=top_k)
    route = moe_route(x, router, top_k, norm_topk_prob=False)
    found = form(x, route, rounded(gate_up), rounded(down))
    assert_near(found, moe(x, route, wide(rounded(gate_up)), wide(rounded(down))))


def test_what_no_token_is_multiplied_with_is_not_rounded_and_a_tied_head_stays_tied():
    checkpoint = model("tied")
    weights, found = checkpoint.weights, int8(checkpoint).weights
    for name in ("input_layernorm", "q_norm", "k_norm", "post_attention_layernorm", "router"):
        assert getattr(found.layers[0], name) is getattr(weights.layers[0], name)
    assert found.norm is weights.norm and found.lm_head is None and isinstance(found.embed_tokens, Rounded)


@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_take_a_quarter_of_fp32_and_a_scale_a_row(name):
    checkpoint = model(name)
    leaves = [leaf for leaf in tree_leaves(checkpoint.weights) if leaf is not None]
    routers = [layer.router for layer in checkpoint.weights.layers if layer.router is not None]
    found = [leaf for leaf in tree_leaves(int8(checkpoint).weights) if leaf is not None]
    small = [leaf for leaf in found if leaf.dtype == torch.int8]
    assert len(small) == sum(leaf.ndim > 1 for leaf in leaves) - len(routers)
    assert sum(leaf.nbytes for leaf in small) * 4 == sum(leaf.nbytes for leaf in leaves if leaf.ndim > 1) - sum(
        router.nbytes for router in routers
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_loads_in_8_bits_as_if_loaded_and_rounded(name, tmp_path):
    checkpoint = model(name)
    save_checkpoint(checkpoint, tmp_path)
    found, expected = load_int8(tmp_path), int8(load_checkpoint(tmp_path))
    assert (found.ops, found.decoder, found.config) == (expected.ops, expected.decoder, expected.config)
    pairs = zip(tree_leaves(found.weights), tree_leaves(expected.weights), strict=True)
    assert all(one is other is None or torch.equal(one, other) for one, other in pairs)
    assert load_int8(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_loading_in_8_bits_asks_for_the_room_of_8_bits(monkeypatch, tmp_path):
    checkpoint = model("tied")
    save_checkpoint(checkpoint, tmp_path)
    taken = sum(leaf.nbytes for leaf in tree_leaves(int8(checkpoint).weights) if leaf is not None)
    monkeypatch.setattr(weights_module, "available_memory", lambda device: taken)
    load_int8(tmp_path)
    with pytest.raises(Error, match=r"the weights take .* in torch.float32"):
        load_checkpoint(tmp_path)
    monkeypatch.setattr(weights_module, "available_memory", lambda device: taken - 1)
    with pytest.raises(Error, match="the weights take"):
        load_int8(tmp_path)


def test_rounding_that_does_not_fit_is_refused_before_it_is_begun(monkeypatch):
    monkeypatch.setattr("qwen3_scratch.fast.eight_bits.available_memory", lambda device: 1000)
    monkeypatch.setattr("qwen3_scratch.fast.eight_bits.rounded_weights", None)
    with pytest.raises(Error, match=r"int8: the matrices take .* found 1.00 kB left on cpu: load them with fast.load"):
        int8(model("experts"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_is_read_with_the_rounded_weights(name):
    checkpoint = int8(model(name))
    ids = random_tokens(checkpoint.config, 2, 19)
    found = forward(checkpoint.weights, ids, checkpoint.config, ops=checkpoint.ops)
    assert_near(found, forward(as_tensors(checkpoint).weights, ids, checkpoint.config))
    with pytest.raises(Error, match=r"forward: weights hold matrices as Rounded, .* give ops=checkpoint.ops"):
        forward(checkpoint.weights, ids, checkpoint.config)


def test_what_is_in_8_bits_is_not_saved(tmp_path):
    with pytest.raises(
        Error, match="save: embed_tokens of the weights is a Rounded, expected a tensor: save the check"
    ):
        save_checkpoint(int8(model("experts")), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("again", [int8, compiled])
def test_what_is_in_8_bits_is_made_fast_once(again):
    with pytest.raises(Error, match="compiled: this checkpoint replaces the step 'embed', expected the model's own"):
        again(int8(model("experts")))


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        *(in_proof(name, 1) for name in CONFIGS if name != "experts"),
        ("experts", 3),
        *(in_proof("experts", batch) for batch in (1, MOST_ROWS_INT8 + 1)),
    ],
)
def test_compiled_logits_are_those_of_the_rounded_weights(name, batch):
    checkpoint = int8(model(name))
    prompts = [random_tokens(checkpoint.config, 9, seed=seed).tolist() for seed in range(batch)]
    caches = [KVCache(checkpoint.config, batch, 20, dtype=torch.float32) for _ in range(2)]
    both = checkpoint, as_tensors(checkpoint)
    for each, cache in zip(both, caches, strict=True):
        prefill(each, prompts, cache)
    step = checkpoint.decoder(checkpoint, caches[0], lambda logits: logits)
    plain = eager_decoder(both[1], caches[1], lambda logits: logits)
    for token in range(3, 8):
        tokens = torch.arange(token, token + batch)
        assert_near(step(tokens), plain(tokens), 2 * TOLERANCE)  # added in another order


def test_steps_that_replace_the_models_own_are_refused_after_rounding_too():
    checkpoint = replace(
        int8(model("experts")), ops=int8(model("experts")).ops._replace(linear=lambda *arguments: None)
    )
    with pytest.raises(Error, match=r"^compiled: this checkpoint replaces the step 'linear', expected"):
        checkpoint.decoder(checkpoint, KVCache(checkpoint.config, 1, 8), lambda logits: logits)


@pytest.mark.compiled
def test_of_the_embedded_checkpoints_greedy_tokens_at_least_99_in_100_stay():
    checkpoint, same, count = load_checkpoint("tiny"), 0, 0
    both = checkpoint, int8(checkpoint)
    for domain in DOMAINS:
        texts = [example.messages for example in questions(domain, 4)]
        options = dict(temperature=0, max_new_tokens=120)
        for one, other in zip(*(generate(each, texts, **options) for each in both), strict=True):
            count += max(len(one.token_ids), len(other.token_ids))
            same += sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))
    assert count > 500 and same >= 0.99 * count
