"""ps6: wrong steps that the museum of `mistakes.py` has not: some of the patients', and such as students write."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...config import Config


def token_0_for_padding(token_ids: Tensor, embed_tokens: Tensor) -> Tensor:
    return F.embedding(token_ids, embed_tokens) * (token_ids != 0)[..., None]


def rows_scaled(token_ids: Tensor, embed_tokens: Tensor) -> Tensor:
    return F.embedding(token_ids, embed_tokens) * embed_tokens.shape[1] ** 0.5


def weight_left_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, torch.ones_like(weight), eps)


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


def softmax_with_a_sink(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    scores = F.pad(scores, (1, 0))  # a key without a token, with a score of 0 and no value
    return scores.softmax(dim=-1, dtype=torch.float32)[..., 1:].to(q.dtype) @ v


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


def room_for_24(
    x: Tensor, route: Any, gate_up_proj: Tensor, down_proj: Tensor, expert: Any = model.expert_ffn
) -> Tensor:
    chosen = F.one_hot(route.experts.flatten(), len(gate_up_proj))  # [tokens * top_k, experts]
    place = (chosen.cumsum(0) * chosen).sum(1)  # how many have chosen its expert up to and with each choice
    kept = (place <= 24).view_as(route.weights)
    return model.moe(x, route._replace(weights=route.weights * kept), gate_up_proj, down_proj, expert)


def answers_not_weighed(
    x: Tensor, route: Any, gate_up_proj: Tensor, down_proj: Tensor, expert: Any = model.expert_ffn
) -> Tensor:
    return model.moe(x, route._replace(weights=torch.ones_like(route.weights)), gate_up_proj, down_proj, expert)


def first_two_choices(
    x: Tensor, route: Any, gate_up_proj: Tensor, down_proj: Tensor, expert: Any = model.expert_ffn
) -> Tensor:
    route = model.Route(route.weights[:, :2], route.experts[:, :2], route.logits)
    return model.moe(x, route, gate_up_proj, down_proj, expert)


OTHERS = (  # name of the right step, the wrong one, what it does
    ("embed", token_0_for_padding, "token 0 is taken for padding; right: its row of the table like any other's"),
    ("embed", rows_scaled, "rows are multiplied by sqrt(hidden_size); right: as they stand in the table"),
    ("rms_norm", weight_left_out, "the weight is left out; right: the result is multiplied by it"),
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
    ("gqa_attention", softmax_with_a_sink, "one more score of 0 takes a share; right: a query's weights sum to one"),
    ("moe_route", top_2_of_the_code, "two experts are chosen; right: top_k of them"),
    ("moe_route", weights_all_alike, "experts weigh the same; right: what the softmax gave them"),
    ("moe", room_for_24, "an expert takes 24 choices and drops later ones; right: it takes all that chose it"),
    ("moe", answers_not_weighed, "answers are not weighed; right: each times its weight"),
    ("moe", first_two_choices, "two choices of a token are asked; right: all that the route gives it"),
    ("expert_ffn", gelu_for_silu, "gelu is applied; right: silu"),
    ("expert_ffn", sigmoid_for_silu, "a sigmoid is applied; right: silu(x), which is x times its sigmoid"),
    ("expert_ffn", silu_on_the_product, "silu is applied to the product; right: to gate alone, before it"),
)
