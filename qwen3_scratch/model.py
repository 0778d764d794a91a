"""A Qwen3 mixture-of-experts language model as pure functions on tensors, in the order of the notebooks.

All that a reader of the notebooks has written, and no more. It needs `config.py` and `errors.py`, nothing else of this
package: a folder of your own with these three files runs the model (`from yours.model import forward`).

Nothing here has state; the one thing that is written in place is the key/value cache that a caller hands to
`forward`. Reference: `Qwen3MoeForCausalLM` of transformers 5, which the tests hold every function against.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import Config
from .errors import Error

NEVER = torch.iinfo(torch.int64).max  # the position of a padding token as a key: later than any query

# ---- the tree of weights ----------------------------------------------------------------------


class LayerWeights(NamedTuple):
    """One decoder layer. A sparse layer stacks its experts and has a router; a dense one has neither stack nor router.

    `gate_up_proj` holds the gate's rows above the up-projection's.
    """

    input_layernorm: Float[Tensor, "hidden"]
    q_proj: Float[Tensor, "q_dim hidden"]
    k_proj: Float[Tensor, "kv_dim hidden"]
    v_proj: Float[Tensor, "kv_dim hidden"]
    o_proj: Float[Tensor, "hidden q_dim"]
    q_norm: Float[Tensor, "head_dim"]
    k_norm: Float[Tensor, "head_dim"]
    post_attention_layernorm: Float[Tensor, "hidden"]
    gate_up_proj: Float[Tensor, "*experts two_intermediate hidden"]
    down_proj: Float[Tensor, "*experts hidden intermediate"]
    router: Float[Tensor, "all_experts hidden"] | None = None
    q_bias: Float[Tensor, "q_dim"] | None = None
    k_bias: Float[Tensor, "kv_dim"] | None = None
    v_bias: Float[Tensor, "kv_dim"] | None = None
    o_bias: Float[Tensor, "hidden"] | None = None


class Weights(NamedTuple):
    """All weights as a tree of tensors; `lm_head` is None where it is tied to the embedding."""

    embed_tokens: Float[Tensor, "vocab hidden"]
    layers: tuple[LayerWeights, ...]
    norm: Float[Tensor, "hidden"]
    lm_head: Float[Tensor, "vocab hidden"] | None = None


# ---- from a token to its vector, and what a layer needs --------------------------------------


def embed(
    token_ids: Int[Tensor, "batch seq"], embed_tokens: Float[Tensor, "vocab hidden"]
) -> Float[Tensor, "batch seq hidden"]:
    """The row of the embedding table that each token id names: where the residual stream begins."""
    return F.embedding(token_ids, embed_tokens)


def rms_norm(x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "dim"], eps: float) -> Float[Tensor, "*batch dim"]:
    """x / sqrt(mean(x^2) + eps) * weight, along the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    The division runs in fp32, since bf16 keeps only half of the bits of a square; the result returns to the type
    of `x` before the weight is multiplied on. That order is the reference's, and bf16 results depend on it.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # at least: fp64 stays
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_frequencies(config: Config, longest: Int[Tensor, ""]) -> tuple[Float[Tensor, "pairs"], int | float]:
    """Radians per position of each pair of a head, and the factor on cos and sin, for every `rope_type`.

    default: theta^(-2i/d) (Su et al. 2021, arXiv:2104.09864). linear: all slower by `factor`. dynamic: theta grows
    once `longest`, the number of positions in use, passes what was trained. yarn and llama3: slow pairs are stretched
    by `factor`, fast ones left alone, a ramp in between (Peng et al. 2023, arXiv:2309.00071). longrope: each pair by
    a number of its own, from one list or the other (Ding et al. 2024, arXiv:2402.13753). proportional: some turn.
    """
    rope, dim = config.rope_parameters, config.head_dim
    kind, theta, factor = rope["rope_type"], rope["rope_theta"], rope.get("factor", 1.0)
    exponents = torch.arange(0, dim, 2, device=longest.device).float() / dim
    if kind == "dynamic":
        trained = config.max_position_embeddings
        growth = factor * longest.clamp(min=trained) / trained - (factor - 1)
        theta = theta * growth ** (dim / (dim - 2))
    frequencies = 1.0 / theta**exponents
    if kind in ("linear", "proportional"):
        turning = int(rope.get("partial_rotary_factor", 1.0) * dim // 2)
        return F.pad(frequencies[:turning], (0, dim // 2 - turning)) / factor, 1.0
    if kind == "yarn":
        keep = yarn_ramp(config, longest.device)
        return frequencies / factor * (1 - keep) + frequencies * keep, yarn_attention_factor(rope)
    if kind == "llama3":
        low, turns = rope["low_freq_factor"], rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        keep = ((turns - low) / (rope["high_freq_factor"] - low)).clamp(0, 1)
        return frequencies / factor * (1 - keep) + frequencies * keep, 1.0
    if kind == "longrope":
        trained = rope["original_max_position_embeddings"]
        long, short = (frequencies.new_tensor(rope[name]) for name in ("long_factor", "short_factor"))
        scale = rope.get("attention_factor") or math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(trained))
        return frequencies / torch.where(longest > trained, long, short), scale
    return frequencies, 1.0


def yarn_ramp(config: Config, device: torch.device | None = None) -> Float[Tensor, "pairs"]:
    """1 for pairs that turn often within the trained length and are kept, 0 for slow ones, which are stretched."""
    rope, dim = config.rope_parameters, config.head_dim

    def pair_with(turns: int | float) -> float:
        """The pair, as a real number, that turns so often within the trained length."""
        wavelength = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(rope["rope_theta"]))

    first, last = pair_with(rope.get("beta_fast") or 32), pair_with(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=device)
    return 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)


def yarn_attention_factor(rope: Mapping[str, Any]) -> int | float:
    """How much yarn sharpens attention over the longer context: 0.1 ln(factor) + 1 unless the config says."""

    def magnitude(scale: int | float) -> int | float:
        return 0.1 * scale * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
    return magnitude(1.0)


def rope_table(
    config: Config, positions: Int[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "batch seq head_dim"], Float[Tensor, "batch seq head_dim"]]:
    """cos and sin of every pair's angle at every position, in fp32; the two halves of a head repeat the same angles.

    For `rope_type` dynamic the longest row of the batch decides for all rows, as in the reference.
    """
    frequencies, scale = rope_frequencies(config, positions.max() + 1)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scale, angles.sin() * scale


def rope(
    x: Float[Tensor, "batch heads seq head_dim"],
    cos: Float[Tensor, "#batch seq head_dim"],
    sin: Float[Tensor, "#batch seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Turns each pair of a head by its angle. Pair i is (x[i], x[i + head_dim/2]): halves, not neighbours."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos[:, None].to(x.dtype) + turned * sin[:, None].to(x.dtype)


def attention_mask(
    positions: Int[Tensor, "batch q_len"],
    key_positions: Int[Tensor, "batch k_len"],
    window: int | None = None,
) -> Bool[Tensor, "batch 1 q_len k_len"]:
    """True where a query may look: at keys no later than itself and, with a window, fewer than `window` tokens back.

    A padding token's key position is `NEVER`, which is later than every query, so no one sees it.
    """
    distance = positions[:, :, None] - key_positions[:, None, :]
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return seen[:, None]


def within_texts(mask: Callable[..., Tensor], texts: Int[Tensor, "batch seq"]) -> Callable[..., Tensor]:
    """`mask` for rows into which several texts are packed: `texts` numbers each token's own, and none sees another."""
    same = (texts[:, :, None] == texts[:, None, :])[:, None]
    return lambda *arguments: mask(*arguments) & same


def heads_per_kv_head(q: Tensor, k: Tensor) -> int:
    """How many query heads share each key/value head, which must come out even."""
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads % kv_heads:
        raise Error(f"attention: q has {heads} heads, expected a multiple of the {kv_heads} of k: check the config")
    return heads // kv_heads


def attention_weights(
    q: Float[Tensor, "batch heads q_len head_dim"],
    k: Float[Tensor, "batch kv_heads k_len head_dim"],
    mask: Bool[Tensor, "#batch #heads q_len k_len"] | None = None,
) -> Float[Tensor, "batch heads q_len k_len"]:
    """softmax(q k^T / sqrt(head_dim)) with fp32 inside: what `gqa_attention` weighs the values with, to look at.

    A query that may look at nothing, such as a padding token's, looks at all alike here; `gqa_attention` answers 0.
    """
    k = k.repeat_interleave(heads_per_kv_head(q, k), dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)


def gqa_attention(
    q: Float[Tensor, "batch heads q_len head_dim"],
    k: Float[Tensor, "batch kv_heads k_len head_dim"],
    v: Float[Tensor, "batch kv_heads k_len head_dim"],
    mask: Bool[Tensor, "#batch #heads q_len k_len"] | None = None,
) -> Float[Tensor, "batch heads q_len head_dim"]:
    """attention_weights(q, k, mask) @ v, where heads/kv_heads neighbouring query heads share one key/value head.

    Grouped-query attention: Ainslie et al. 2023, arXiv:2305.13245. PyTorch's kernel never builds the weights, so
    memory grows with the length and not with its square. A query that may look at nothing is answered 0.
    Raises Error where the heads do not divide.
    """
    group = heads_per_kv_head(q, k)
    batch, heads, q_len, head_dim = q.shape
    if q_len == 1 and (mask is None or mask.shape[1] == 1):  # one query: let the group's heads stand in for queries
        grouped = q.view(batch, heads // group, group, head_dim)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).view(q.shape)
    shared = {"enable_gqa": True} if group > 1 else {}  # no comparison: to a compiler that is a symbol
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **shared)


class Route(NamedTuple):
    """Where each token goes: its experts, the weight on each one's answer, and the logits that decided."""

    weights: Float[Tensor, "tokens top_k"]
    experts: Int[Tensor, "tokens top_k"]
    logits: Float[Tensor, "tokens all_experts"]


def moe_route(
    x: Float[Tensor, "tokens dim"], router: Float[Tensor, "experts dim"], top_k: int, norm_topk_prob: bool
) -> Route:
    """Softmax over all experts in fp32, the `top_k` largest, made to sum to one if `norm_topk_prob`.

    With top-1 of two experts (Huihui-MoE) `norm_topk_prob` decides everything: true makes the one weight 1, false
    leaves the router's probability. Of equal ones, common in bf16, it takes those that `torch.topk` takes, as the
    reference and every other form do. Shazeer et al. 2017, arXiv:1701.06538. Raises Error if top_k exceeds the experts.
    """
    if not 1 <= top_k <= len(router):
        raise Error(f"moe_route: top_k is {top_k}, expected 1 to {len(router)}, the number of experts: mend it")
    logits, wide = F.linear(x, router), torch.promote_types(x.dtype, torch.float32)
    weights, experts = logits.softmax(dim=-1, dtype=wide).topk(top_k, dim=-1)
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Route(weights.to(x.dtype), experts, logits)


def expert_ffn(
    x: Float[Tensor, "n dim"],
    gate_proj: Float[Tensor, "intermediate dim"],
    up_proj: Float[Tensor, "intermediate dim"],
    down_proj: Float[Tensor, "dim intermediate"],
) -> Float[Tensor, "n dim"]:
    """SwiGLU: (silu(x gate^T) * (x up^T)) down^T (Shazeer 2020, arXiv:2002.05202)."""
    return F.linear(F.silu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


def moe(
    x: Float[Tensor, "tokens dim"],
    route: Route,
    gate_up_proj: Float[Tensor, "experts two_intermediate dim"],
    down_proj: Float[Tensor, "experts dim intermediate"],
    expert: Callable[..., Tensor] = expert_ffn,
) -> Float[Tensor, "tokens dim"]:
    """Each token's sum of its experts' answers, weighted by its route: dispatch, compute, combine.

    Tokens are sorted by expert, so that each expert that was chosen at all sees its tokens in one product. How many
    they are is asked for: vmap, torch.export and fullgraph compiling need a form of `fast.dispatch`, as `moe_gathered`.
    """
    by_expert, weight_of = route.experts.flatten().argsort(stable=True), route.weights.flatten()
    counts = route.experts.flatten().bincount(minlength=gate_up_proj.shape[0]).tolist()
    out = torch.zeros_like(x)
    for number, chosen in enumerate(by_expert.split(counts)):
        if len(chosen):
            tokens = chosen // route.experts.shape[1]
            answer = expert(x.index_select(0, tokens), *gate_up_proj[number].chunk(2), down_proj[number])
            out.index_add_(0, tokens, answer * weight_of.index_select(0, chosen)[:, None])
    return out


Table = tuple[Float[Tensor, "#batch seq head_dim"], Float[Tensor, "#batch seq head_dim"]]  # cos and sin
Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new keys and values -> all that the cache holds


class Ops(NamedTuple):
    """The steps of a layer, each replaceable: to run faster, on a slice, or wrongly on purpose.

    `linear` is the products of q, k, v and o. The router's is within `route`, those of a feed-forward, dense or sparse,
    within `expert`, and the vocabulary's is `head`: what shall reach every matrix goes into all four.
    `reduce` is applied where a device that holds a slice of the heads or experts must add up with the others.
    """

    embed: Callable[..., Tensor] = embed
    norm: Callable[..., Tensor] = rms_norm
    table: Callable[..., Table] = rope_table
    rope: Callable[..., Tensor] = rope
    mask: Callable[..., Tensor] = attention_mask
    attention: Callable[..., Tensor] = gqa_attention
    route: Callable[..., Route] = moe_route
    expert: Callable[..., Tensor] = expert_ffn
    moe: Callable[..., Tensor] = moe
    linear: Callable[..., Tensor] = F.linear
    reduce: Callable[[Tensor], Tensor] | None = None
    head: Callable[..., Tensor] = F.linear


def self_attention(
    x: Float[Tensor, "batch seq hidden"],
    layer: LayerWeights,
    config: Config,
    table: Table,
    mask: Bool[Tensor, "#batch 1 seq k_len"],
    remember: Remember | None = None,
    ops: Ops = Ops(),
) -> Float[Tensor, "batch seq hidden"]:
    """Project to heads, normalise q and k per head (QK-norm), turn them by position, attend, project back."""
    heads = (-1, config.head_dim)
    q = ops.linear(x, layer.q_proj, layer.q_bias).unflatten(-1, heads)  # [batch, seq, heads, head_dim]
    k = ops.linear(x, layer.k_proj, layer.k_bias).unflatten(-1, heads)  # [batch, seq, kv_heads, head_dim]
    v = ops.linear(x, layer.v_proj, layer.v_bias).unflatten(-1, heads)
    q = ops.norm(q, layer.q_norm, config.rms_norm_eps)
    k = ops.norm(k, layer.k_norm, config.rms_norm_eps)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [batch, heads, seq, head_dim]
    q, k = ops.rope(q, *table), ops.rope(k, *table)
    if remember is not None:
        k, v = remember(k, v)
    out = ops.attention(q, k, v, mask).transpose(1, 2).flatten(-2)
    out = ops.linear(out, layer.o_proj, layer.o_bias)
    return out if ops.reduce is None else ops.reduce(out)


def feed_forward(
    x: Float[Tensor, "batch seq hidden"], layer: LayerWeights, config: Config, ops: Ops = Ops()
) -> Float[Tensor, "batch seq hidden"]:
    """The experts of a sparse layer, or the one feed-forward of a dense layer; tokens do not see each other here."""
    tokens = x.flatten(0, 1)
    if layer.router is None:
        out = ops.expert(tokens, *layer.gate_up_proj.chunk(2), layer.down_proj)
    else:
        route = ops.route(tokens, layer.router, config.num_experts_per_tok, config.norm_topk_prob)
        out = ops.moe(tokens, route, layer.gate_up_proj, layer.down_proj, ops.expert)
    return (out if ops.reduce is None else ops.reduce(out)).view_as(x)


def decoder_layer(
    x: Float[Tensor, "batch seq hidden"],
    layer: LayerWeights,
    config: Config,
    table: Table,
    mask: Bool[Tensor, "#batch 1 seq k_len"],
    remember: Remember | None = None,
    ops: Ops = Ops(),
) -> Float[Tensor, "batch seq hidden"]:
    """x + attention(norm(x)), then x + feed_forward(norm(x)): each step adds to the residual stream."""
    normed = ops.norm(x, layer.input_layernorm, config.rms_norm_eps)
    x = x + self_attention(normed, layer, config, table, mask, remember, ops)
    normed = ops.norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + feed_forward(normed, layer, config, ops)


def hidden_states(
    weights: Weights,
    x: Float[Tensor, "batch seq hidden"],
    config: Config,
    keep: Bool[Tensor, "batch seq"],
    positions: Int[Tensor, "batch seq"] | None = None,
    cache: Any = None,
    ops: Ops = Ops(),
) -> Float[Tensor, "batch seq hidden"]:
    """Embedded tokens through all layers and the last norm; new keys and values are written into `cache`.

    Who sees whom goes by the order of the tokens that a row keeps; `positions` only turn queries and keys. A cache that
    counts nothing (no `next_positions`) takes them for the order, too.
    """
    order = (keep.long().cumsum(-1) - 1).clamp(min=0)
    if hasattr(cache, "next_positions"):
        order = order + cache.next_positions(len(x))[:, None]
    elif cache is not None and positions is not None:
        order = positions
    key_order = order.masked_fill(~keep, NEVER)
    if cache is not None:
        cache.extend(key_order)
    table = ops.table(config, order if positions is None else positions)
    masks: dict[str, Tensor] = {}  # one for each kind of layer
    for number, (layer, kind) in enumerate(zip(weights.layers, config.layer_types, strict=True)):
        if kind not in masks:
            held = key_order if cache is None else cache.key_positions(number)
            masks[kind] = ops.mask(order, held, config.window(number))
        remember = None if cache is None else partial(cache.write, number)
        x = decoder_layer(x, layer, config, table, masks[kind], remember, ops)
    return ops.norm(x, weights.norm, config.rms_norm_eps)


def forward(
    weights: Weights,
    token_ids: Int[Tensor, "batch seq"] | None,
    config: Config,
    *,
    attention_mask: Tensor | None = None,
    positions: Int[Tensor, "#batch seq"] | None = None,
    cache: Any = None,
    inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
    logits_to_keep: int = 0,
    ops: Ops = Ops(),
) -> Float[Tensor, "batch kept vocab"]:
    """Token ids -> logits of the next token at every position, or at the last `logits_to_keep` (0 keeps all).

    `attention_mask` [batch, seq] is true (or 1) for tokens and false (or 0) for padding, on whichever side; the
    cache remembers it for earlier calls. Without `positions` each row counts from its first kept token, after what
    the cache holds. Given without mask and cache, they part packed texts, as in the reference: wherever they do not
    go on by one a new text begins, and none sees another. Exactly one of `token_ids` and `inputs_embeds` is given.
    Raises Error for a cache that is full; under the package's own name, `qwen3_scratch.forward`, also for an argument
    of another kind, shape or range, a token id outside the vocabulary, and a cache of another model.
    """
    x = ops.embed(token_ids, weights.embed_tokens) if inputs_embeds is None else inputs_embeds
    keep = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if attention_mask is not None:
        keep = keep & attention_mask.bool()
    if positions is not None:
        positions = positions.expand(x.shape[:2])
        if attention_mask is None and cache is None:
            begins = positions.diff(prepend=positions[:, :1] - 1) != 1
            ops = ops._replace(mask=within_texts(ops.mask, begins.cumsum(-1)))
    x = hidden_states(weights, x, config, keep, positions, cache, ops)[:, -int(logits_to_keep) :]
    x = x.clone(memory_format=torch.contiguous_format)  # else F.linear may copy the whole head in bf16
    return ops.head(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)
