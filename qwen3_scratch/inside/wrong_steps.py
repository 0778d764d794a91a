"""The steps of the model as they are wrongly written, each with the signature of the right one: see `mistakes.py`.

In the order of a pass; at the end three calls of `forward` that are wrong while each step is right.
"""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import model
from ..config import Config
from ..model import NEVER, Route, Table, gqa_attention, moe_route, rms_norm, rope_frequencies, rope_table

Vectors = Float[Tensor, "*batch dim"]
Scale = Float[Tensor, "dim"]
Queries = Float[Tensor, "batch heads q_len head_dim"]
Keys = Float[Tensor, "batch kv_heads k_len head_dim"]  # and values
Seen = Bool[Tensor, "#batch #heads q_len k_len"]
Asking = Int[Tensor, "batch q_len"]  # positions of queries
Asked = Int[Tensor, "batch k_len"]  # positions of keys
Rows = Float[Tensor, "tokens dim"]
Router = Float[Tensor, "experts dim"]
Up = Float[Tensor, "intermediate dim"]
Down = Float[Tensor, "dim intermediate"]
Logits = Float[Tensor, "batch kept vocab"]


def no_qk_norm(x: Vectors, weight: Scale, eps: float) -> Vectors:
    """Queries and keys as projected; heads have four dimensions here, and the stream three."""
    return x if x.ndim == 4 else rms_norm(x, weight, eps)


def layer_norm(x: Vectors, weight: Scale, eps: float) -> Vectors:
    """The mean is taken away first, as in GPT-2."""
    return F.layer_norm(x, weight.shape, weight, None, eps)


def eps_outside_root(x: Vectors, weight: Scale, eps: float) -> Vectors:
    """x / (sqrt(mean(x^2)) + eps)."""
    wide = x.float()
    return weight * (wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype)


def weight_plus_one(x: Vectors, weight: Scale, eps: float) -> Vectors:
    """Multiplied by 1 + weight, as in Gemma, whose files hold the weight less one."""
    return rms_norm(x, 1 + weight, eps)


def interleaved_rope(
    x: Float[Tensor, "batch heads seq head_dim"],
    cos: Float[Tensor, "#batch seq head_dim"],
    sin: Float[Tensor, "#batch seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Pair i is (x[2i], x[2i + 1]), read as one complex number."""
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(x.float().unflatten(-1, (half, 2)).contiguous())
    turn = torch.complex(cos[..., :half], sin[..., :half])[:, None]
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def theta_of_qwen3(config: Config, positions: Int[Tensor, "batch seq"]) -> Table:
    """Theta is a constant of the code, that of the checkpoints on the hub."""
    return rope_table(replace(config, rope_parameters={**config.rope_parameters, "rope_theta": 1e6}), positions)


def frequencies_in_bf16(config: Config, positions: Int[Tensor, "batch seq"]) -> Table:
    """Eight bits for each frequency, as after `model.bfloat16()` on a module that keeps them in a buffer."""
    frequencies, scale = rope_frequencies(config, positions.max() + 1)
    angles = (positions[..., None].float() * frequencies.bfloat16().float()).repeat(1, 1, 2)
    return angles.cos() * scale, angles.sin() * scale


def positions_from_zero(config: Config, positions: Int[Tensor, "batch seq"]) -> Table:
    """Each call counts its own tokens, whatever the cache holds."""
    return rope_table(config, positions - positions[:, :1])


def repeated_heads(q: Queries, k: Keys, v: Keys, mask: Seen | None = None) -> Queries:
    """Key heads 0, 1, 0, 1, ... instead of 0, 0, 1, 1, ...: `repeat` for `repeat_interleave`."""
    group = q.shape[1] // k.shape[1]
    return gqa_attention(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), mask)


def groups_of_four(q: Queries, k: Keys, v: Keys, mask: Seen | None = None) -> Queries:
    """Query head h reads key head h // 4, a number of one checkpoint."""
    heads = torch.arange(q.shape[1], device=q.device)
    shared = (heads // 4).clamp(max=k.shape[1] - 1)  # past it an index would crash, and be found
    return gqa_attention(q, k[:, shared], v[:, shared], mask)


def scaled_by_all_heads(q: Queries, k: Keys, v: Keys, mask: Seen | None = None) -> Queries:
    """Scores over sqrt(heads * head_dim), the width of all heads together."""
    return gqa_attention(q / math.sqrt(q.shape[1]), k, v, mask)


def softmax_in_bf16(q: Queries, k: Keys, v: Keys, mask: Seen | None = None) -> Queries:
    """Scores and their softmax keep eight bits."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).bfloat16()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).to(q.dtype) @ v


def no_causal_mask(positions: Asking, key_positions: Asked, window: int | None = None) -> Seen:
    """Every token sees all that are no padding, later ones too."""
    return (key_positions != NEVER)[:, None, None].expand(-1, 1, positions.shape[1], -1)


def window_off_by_one(positions: Asking, key_positions: Asked, window: int | None = None) -> Seen:
    """The window's tokens and one more: `<=` for `<`."""
    return model.attention_mask(positions, key_positions, None if window is None else window + 1)


def argmax_expert(x: Rows, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """One expert a token, weighed with its raw probability, whatever the config asks for."""
    return moe_route(x, router, 1, False)


def renormalisation_forgotten(x: Rows, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """The weights sum to less than one."""
    return moe_route(x, router, top_k, False)


def renormalised_unasked(x: Rows, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """The weights sum to one."""
    return moe_route(x, router, top_k, True)


def softmax_over_top_k(x: Rows, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """The best logits first, then a softmax over these alone."""
    logits = F.linear(x, router)
    best, experts = logits.topk(top_k, dim=-1)
    return Route(best.softmax(dim=-1, dtype=torch.float32).to(x.dtype), experts, logits)


def gate_and_up_swapped(x: Rows, gate_proj: Up, up_proj: Up, down_proj: Down) -> Rows:
    """silu on the up-projection."""
    return model.expert_ffn(x, up_proj, gate_proj, down_proj)


def pads_attended(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Logits:
    """Padding is read like text."""
    return model.forward(*args, **options)


def pads_counted(weights: Any, token_ids: Tensor, config: Config, *, cache: Any = None, **options: Any) -> Logits:
    """A token's position is its column in the batch, padding before it included."""
    columns = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
    positions = columns + (0 if cache is None else cache.length)
    return model.forward(weights, token_ids, config, positions=positions, cache=cache, **options)


def pads_counted_after_prefill(*args: Any, cache: Any = None, **options: Any) -> Logits:
    """The prompt counts from its first token; what is written counts from the cache's length, padding included."""
    read = model.forward if cache is None or cache.length == 0 else pads_counted
    return read(*args, cache=cache, **options)
