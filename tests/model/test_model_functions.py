"""Each function of the model by itself: its formula, its order of roundings, its purity, its gradients, its errors."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from reference import (
    ROPES,
    TOLERANCE,
    assert_near,
    dense_config,
    distance,
    random_tokens,
    random_weights,
    small_config,
)
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe

from qwen3_scratch import (
    Error,
    attention_weights,
    expert_ffn,
    forward,
    gqa_attention,
    load_balancing_loss,
    moe_route,
    rms_norm,
    rope,
    rope_table,
)
from qwen3_scratch.cache import KVCache
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.model import Ops, attention_mask, decoder_layer, embed, feed_forward, moe, self_attention

DTYPES = [torch.float32, torch.bfloat16]
POSITIONS = torch.arange(12)[None]


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


# ---- norm ------------------------------------------------------------------------------------


def test_rms_norm_divides_by_the_root_mean_square_and_scales():
    x, weight = 5 * drawn(2, 3, 16), drawn(16)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * weight  # the epsilon stands inside the root
    assert_near(rms_norm(x, weight, 1e-2), expected)
    assert_near(rms_norm(x, torch.ones(16), 1e-12).pow(2).mean(-1), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_rounds_bit_for_bit_where_the_reference_rounds(dtype):
    x, weight = 5 * drawn(64, 128, dtype=dtype), drawn(128, dtype=dtype)
    reference = qwen3_moe.Qwen3MoeRMSNorm(128, eps=1e-6)
    reference.weight.data = weight
    found = rms_norm(x, weight, 1e-6)
    assert found.dtype == dtype and torch.equal(found, reference(x))
    if dtype == torch.bfloat16:  # the weight multiplied on before the rounding, or the squares in bf16, would show
        late = rms_norm(x.float(), weight.float(), 1e-6).to(dtype)
        narrow = weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        assert not torch.equal(found, late) and not torch.equal(found, narrow)


# ---- rope ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROPES)
def test_rope_table_equals_the_reference_within_and_beyond_the_trained_length(kind):
    config = small_config(rope_parameters={"rope_theta": 1000.0, "original_max_position_embeddings": 32, **ROPES[kind]})
    settings = dict(head_dim=config.head_dim, max_position_embeddings=config.max_position_embeddings)
    theirs = Qwen3MoeConfig(**settings, rope_parameters={"rope_theta": 1000.0, **ROPES[kind]})
    for length in (20, 100):
        positions = torch.arange(length)[None]
        expected = qwen3_moe.Qwen3MoeRotaryEmbedding(theirs)(torch.zeros(1), positions)
        for found, part in zip(rope_table(config, positions), expected, strict=True):
            assert_near(found, part, 2e-5)  # an angle of 100 radians is itself only known to 8e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_turns_halves_bit_for_bit_as_the_reference_does(dtype):
    q, k = drawn(2, 4, 12, 16, dtype=dtype), drawn(2, 2, 12, 16, dtype=dtype)
    cos, sin = rope_table(small_config(), POSITIONS)
    expected = qwen3_moe.apply_rotary_pos_emb(q, k, cos.to(dtype), sin.to(dtype))
    for x, turned in zip((q, k), expected, strict=True):
        assert torch.equal(rope(x, cos, sin), turned)


def test_rope_on_halves_is_the_interleaved_one_on_reordered_dimensions_and_not_on_the_same():
    def interleaved(x: Tensor) -> Tensor:
        """Pair i is (x[2i], x[2i + 1]), a complex number: as Llama's first code had it."""
        turns = torch.polar(torch.ones(12, 8), POSITIONS[0, :, None] * 10000.0 ** -(torch.arange(8) / 8))
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (8, 2))) * turns).flatten(-2)

    x, table = drawn(1, 4, 12, 16), rope_table(small_config(), POSITIONS)
    found = rope(x, *table)
    neighbours = torch.arange(16).view(2, 8).T.flatten()  # 0, 8, 1, 9, ...: partners side by side
    assert_near(found[..., neighbours], interleaved(x[..., neighbours].contiguous()))
    assert torch.equal(found[:, :, 0], x[:, :, 0])  # nothing turns at position 0
    assert distance(interleaved(x)[:, :, 1:], found[:, :, 1:]) > 0.5


def test_rope_keeps_lengths_and_lets_products_depend_on_distance_alone():
    q, k = drawn(1, 1, 1, 16).expand(1, 1, 12, 16), drawn(1, 1, 1, 16).expand(1, 1, 12, 16)
    table = rope_table(small_config(), POSITIONS)
    turned_q, turned_k = rope(q, *table), rope(k, *table)
    assert_near(turned_q.norm(dim=-1), q.norm(dim=-1))
    products = turned_q[0, 0] @ turned_k[0, 0].T
    for offset in range(-11, 12):
        same_distance = products.diagonal(offset)
        assert (same_distance - same_distance[0]).abs().max() <= TOLERANCE * products.abs().max()


# ---- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 3])
def test_attention_rows_sum_to_one_and_never_look_at_padding_the_future_or_beyond_the_window(window):
    length, padding = 9, torch.tensor([0, 4])  # left padding of each row
    index = torch.arange(length)
    real = index >= padding[:, None]
    positions = (index - padding[:, None]).clamp(min=0)
    key_positions = positions.masked_fill(~real, torch.iinfo(torch.int64).max)
    mask = attention_mask(positions, key_positions, window)
    found = attention_weights(drawn(2, 4, length, 8), drawn(2, 2, length, 8), mask)
    for row in range(2):
        for query in index[real[row]]:
            reach = length if window is None else window
            allowed = real[row] & (index <= query) & (index > query - reach)
            weights = found[row, :, query]
            assert (weights[:, allowed] > 0).all() and (weights[:, ~allowed] == 0).all()
            assert_near(weights.sum(-1), torch.ones(4))


def test_attention_divides_by_the_root_of_the_head_size_and_shares_key_heads_among_neighbours():
    q, k, v = drawn(1, 4, 3, 8), drawn(1, 2, 5, 8), drawn(1, 2, 5, 8)
    for head in range(4):
        alone = (q[0, head] @ k[0, head // 2].T / 8**0.5).softmax(-1)
        assert_near(attention_weights(q, k)[0, head], alone)
        assert_near(gqa_attention(q, k, v)[0, head], alone @ v[0, head // 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_weights_equal_the_reference_bit_for_bit(dtype):
    """Also in bf16, where a softmax that is not fp32 inside would show. Heads of 16, so that scaling is exact."""
    q, k = drawn(2, 4, 40, 16, dtype=dtype), drawn(2, 2, 40, 16, dtype=dtype)
    module = SimpleNamespace(num_key_value_groups=2, training=False)
    _, expected = qwen3_moe.eager_attention_forward(module, q, k, k, None, 16**-0.5)
    assert torch.equal(attention_weights(q, k), expected)
    raised = (q @ k.repeat_interleave(2, 1).mT / 4).exp()  # rounded to the type of q here, and at each step below
    assert dtype == torch.float32 or not torch.equal(expected, raised / raised.sum(-1, keepdim=True))


# ---- experts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm_topk_prob", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (8, 8)])
def test_moe_route_equals_the_reference_bit_for_bit(experts, top_k, norm_topk_prob, dtype):
    x, router = drawn(20, 16, dtype=dtype), drawn(experts, 16, dtype=dtype)
    sizes = dict(hidden_size=16, num_experts=experts, num_experts_per_tok=top_k, norm_topk_prob=norm_topk_prob)
    reference = qwen3_moe.Qwen3MoeTopKRouter(Qwen3MoeConfig(**sizes))
    reference.weight.data = router
    logits, weights, chosen = reference(x)
    found = moe_route(x, router, top_k, norm_topk_prob)
    assert found.weights.dtype == found.logits.dtype == dtype and found.experts.dtype == torch.int64
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.weights, weights) and torch.equal(found.experts, chosen)


def test_with_one_expert_a_token_normalised_weights_are_one_and_others_the_probability():
    x, router = drawn(20, 16), drawn(2, 16)
    probabilities = F.linear(x, router).softmax(-1)
    assert (moe_route(x, router, 1, norm_topk_prob=True).weights == 1).all()
    raw = moe_route(x, router, 1, norm_topk_prob=False)
    assert_near(raw.weights[:, 0], probabilities.amax(-1))
    assert torch.equal(raw.experts[:, 0], probabilities.argmax(-1))


def test_route_weights_sum_to_one_only_where_the_config_says_so():
    x, router = drawn(20, 16), drawn(8, 16)
    normed, raw = (moe_route(x, router, 3, norm_topk_prob=norm) for norm in (True, False))
    assert_near(normed.weights.sum(-1), torch.ones(20))
    assert (raw.weights.sum(-1) < 0.999).any()
    assert_near(raw.weights / raw.weights.sum(-1, keepdim=True), normed.weights)
    assert_near(raw.weights, F.linear(x, router).softmax(-1).gather(1, raw.experts))  # softmax before the top-k


def test_expert_ffn_is_swiglu():
    x, gate, up, down = drawn(5, 8), drawn(12, 8), drawn(12, 8), drawn(8, 12)
    opened = x @ gate.T
    assert_near(expert_ffn(x, gate, up, down), (opened * opened.sigmoid() * (x @ up.T)) @ down.T)


# ---- purity and gradients --------------------------------------------------------------------

CONFIG = small_config(mlp_only_layers=(1,), attention_bias=True)


def calls() -> dict[str, tuple]:
    """Every public function of the model with arguments to call it on."""
    weights, table = random_weights(CONFIG), rope_table(CONFIG, POSITIONS)
    mask, layer = attention_mask(POSITIONS, POSITIONS), weights.layers[0]
    x, q, k = drawn(1, 12, 32), drawn(1, 4, 12, 16), drawn(1, 2, 12, 16)
    tokens, route = drawn(12, 32), moe_route(drawn(12, 32), layer.router, 2, True)
    first = (*layer.gate_up_proj[0].chunk(2), layer.down_proj[0])
    return {
        "rms_norm": (rms_norm, x, layer.input_layernorm, 1e-6),
        "rope_table": (rope_table, CONFIG, POSITIONS),
        "rope": (rope, q, *table),
        "attention_mask": (attention_mask, POSITIONS, POSITIONS, 3),
        "attention_weights": (attention_weights, q, k, mask),
        "gqa_attention": (gqa_attention, q, k, k, mask),
        "moe_route": (moe_route, tokens, layer.router, 2, True),
        "expert_ffn": (expert_ffn, tokens, *first),
        "moe": (moe, tokens, route, layer.gate_up_proj, layer.down_proj),
        "self_attention": (self_attention, x, layer, CONFIG, table, mask),
        "feed_forward": (feed_forward, x, layer, CONFIG),
        "decoder_layer": (decoder_layer, x, layer, CONFIG, table, mask),
        "embed": (embed, random_tokens(CONFIG, 1, 12), weights.embed_tokens),
        "forward": (forward, weights, random_tokens(CONFIG, 2, 12), CONFIG),
        "load_balancing_loss": (load_balancing_loss, [drawn(12, 8), drawn(12, 8)], 8, 2),
    }


@pytest.mark.parametrize("name", calls())
def test_a_function_leaves_its_arguments_alone_and_answers_twice_with_the_same_bits(name):
    function, *arguments = calls()[name]
    before = tree_map_only(Tensor, Tensor.clone, arguments)
    first, second = function(*arguments), function(*arguments)
    for one, two in ((before, arguments), (first, second)):
        leaves = zip(tree_flatten(one)[0], tree_flatten(two)[0], strict=True)
        assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in leaves)


@pytest.mark.parametrize("config", [CONFIG, dense_config(tie_word_embeddings=True)], ids=["moe", "dense, tied"])
def test_gradients_are_finite_and_reach_every_parameter_but_the_experts_that_no_token_chose(config):
    weights, routes = random_weights(config), []

    def noted(*arguments):
        routes.append(moe_route(*arguments))
        return routes[-1]

    for tensor in tensor_tree(weights):
        tensor.requires_grad_(True)
    token_ids = torch.arange(config.vocab_size)[None]  # every row of the embedding
    logits = forward(weights, token_ids, config, ops=Ops(route=noted))
    F.cross_entropy(logits[0, :-1], token_ids[0, 1:]).backward()
    for tensor in tensor_tree(weights):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and (tensor.grad != 0).any()
    for layer in weights.layers:
        if layer.router is not None:
            moved = (layer.gate_up_proj.grad != 0).flatten(1).any(1).nonzero()[:, 0]
            assert torch.equal(moved, routes.pop(0).experts.unique())
    assert not routes


# ---- errors ----------------------------------------------------------------------------------

WEIGHTS = random_weights(CONFIG)
IDS = random_tokens(CONFIG, 2, 5)
WRONG = {
    "neither token_ids nor inputs_embeds": (None, {}, "exactly one of token_ids and inputs_embeds"),
    "both token_ids and inputs_embeds": (IDS, dict(inputs_embeds=drawn(2, 5, 32)), "exactly one of token_ids and"),
    "a negative token id": (torch.tensor([[3, -1]]), {}, "token id -1 in token_ids, expected 0 to 60"),
    "a token id past the vocabulary": (torch.tensor([[3, 61]]), {}, "token id 61 in token_ids, expected 0 to 60"),
    "no token at all": (IDS[:, :0], {}, "token_ids has shape [2, 0], expected [batch, seq] with at least one"),
    "a mask of another length": (IDS, dict(attention_mask=torch.ones(2, 4)), "mask has shape [2, 4], expected [2, 5]"),
    "a mask of another batch": (IDS, dict(attention_mask=torch.ones(3, 5)), "mask has shape [3, 5], expected [2, 5]"),
    "a negative logits_to_keep": (IDS, dict(logits_to_keep=-1), "logits_to_keep is -1, expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_forward_refuses_and_names(what):
    token_ids, options, message = WRONG[what]
    with pytest.raises(Error) as raised:
        forward(WEIGHTS, token_ids, CONFIG, **options)
    assert message in str(raised.value)


def test_a_cache_refuses_what_does_not_fit_and_stays_as_it_was():
    cache = KVCache(CONFIG, batch=2, max_length=8)
    forward(WEIGHTS, IDS, CONFIG, cache=cache)
    with pytest.raises(Error, match="cache: holds 5 of 8 tokens, 5 more do not fit"):
        forward(WEIGHTS, IDS, CONFIG, cache=cache)
    for rows in (1, 3):  # one row must not be spread over the two that the cache holds
        with pytest.raises(Error, match=f"cache: {rows} rows arrived, expected 2"):
            forward(WEIGHTS, IDS[:1, :3].expand(rows, -1), CONFIG, cache=cache)
    found = forward(WEIGHTS, IDS[:, :3], CONFIG, cache=cache)
    assert_near(found, forward(WEIGHTS, torch.cat([IDS, IDS[:, :3]], dim=1), CONFIG)[:, 5:])


def test_a_ring_refuses_more_tokens_at_once_than_its_chunk():
    config = small_config(use_sliding_window=True, sliding_window=3)
    with pytest.raises(Error, match="cache: 5 tokens arrived in one call, expected at most chunk=2"):
        forward(random_weights(config), IDS, config, cache=KVCache(config, 2, 20, chunk=2))


@pytest.mark.parametrize("top_k", [0, 3])
def test_moe_route_refuses_more_choices_than_experts_and_none(top_k):
    with pytest.raises(
        Error, match=f"top_k is {top_k}, expected (1 to 2, the number of exp|a whole number of at least 1)"
    ):
        moe_route(drawn(4, 8), drawn(2, 8), top_k, True)


@pytest.mark.parametrize("attend", [attention_weights, lambda q, k: gqa_attention(q, k, k)], ids=["weights", "gqa"])
def test_attention_refuses_heads_that_do_not_divide(attend):
    with pytest.raises(Error, match="q has 3 heads, expected a multiple of the 2"):
        attend(drawn(1, 3, 4, 8), drawn(1, 2, 4, 8))
