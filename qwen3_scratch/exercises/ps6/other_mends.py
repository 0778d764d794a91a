"""ps6: wrong steps that the museum of `mistakes.py` has not, such as students write when they mend one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...config import Config


def norm_in_own_type(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def weight_left_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, torch.ones_like(weight), eps)


def weight_before_cast(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x.float(), weight.float(), eps).to(x.dtype)


def eps_of_the_code(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, weight, 1e-6)


def theta_of_the_code(config: Config, positions: Tensor) -> Any:
    frequencies = 10000.0 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = (positions[..., None].float() * frequencies).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def table_in_bf16(config: Config, positions: Tensor) -> Any:
    cos, sin = model.rope_table(config, positions)
    return cos.bfloat16().float(), sin.bfloat16().float()


def turned_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return model.rope(x, cos, -sin)


def mask_by_column(positions: Tensor, key_positions: Tensor, window: int | None = None) -> Tensor:
    held, new = key_positions.shape[1], positions.shape[1]
    columns = torch.arange(held).expand(len(positions), -1)
    return model.attention_mask(columns[:, held - new :], columns, window)


def window_left_out(positions: Tensor, key_positions: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions, key_positions, None)


def itself_not_seen(positions: Tensor, key_positions: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions - 1, key_positions, window)


def not_scaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q * q.shape[-1] ** 0.5, k, v, mask)


def causal_by_column(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def mask_left_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q, k, v)


def top_2_of_the_code(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Any:
    return model.moe_route(x, router, 2, norm_topk_prob)


def weights_all_alike(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Any:
    route = model.moe_route(x, router, top_k, norm_topk_prob)
    return route._replace(weights=torch.full_like(route.weights, 1 / top_k))


def gelu_for_silu(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


def sigmoid_for_silu(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.sigmoid(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


def silu_on_the_product(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate_proj) * F.linear(x, up_proj)), down_proj)


OTHERS = (  # name of the right step, the wrong one, what it does
    ("rms_norm", norm_in_own_type, "squares are taken in the type of x; right: in fp32, and back to the type of x"),
    ("rms_norm", weight_left_out, "the weight is left out; right: the result is multiplied by it"),
    ("rms_norm", weight_before_cast, "the weight is multiplied in fp32; right: cast to the type of x, then multiply"),
    ("rms_norm", eps_of_the_code, "eps is a constant of the code; right: the argument"),
    ("rope_table", theta_of_the_code, "theta is a constant of the code; right: the config's"),
    ("rope_table", table_in_bf16, "cos and sin are rounded to bf16; right: all of the table is fp32"),
    ("rope", turned_backwards, "pairs turn backwards; right: beside (a, b) belongs (-b, a)"),
    ("attention_mask", mask_by_column, "columns are compared; right: positions, so that padding is seen by no token"),
    ("attention_mask", window_left_out, "the window is left out; right: with one, fewer than `window` tokens back"),
    ("attention_mask", itself_not_seen, "a token does not see itself; right: itself and earlier ones"),
    ("gqa_attention", not_scaled, "scores are not scaled; right: divided by sqrt(head_dim)"),
    ("gqa_attention", causal_by_column, "a mask of its own is used; right: the mask that is given"),
    ("gqa_attention", mask_left_out, "the mask is left out; right: what it hides counts nothing"),
    ("moe_route", top_2_of_the_code, "two experts are chosen; right: top_k of them"),
    ("moe_route", weights_all_alike, "experts weigh the same; right: what the softmax gave them"),
    ("expert_ffn", gelu_for_silu, "gelu is applied; right: silu"),
    ("expert_ffn", sigmoid_for_silu, "a sigmoid is applied; right: silu(x), which is x times its sigmoid"),
    ("expert_ffn", silu_on_the_product, "silu is applied to the product; right: to gate alone, before it"),
)
