"""The steps of a layer in the form that the compiler makes fastest for a few new tokens: `STREAMED`.

Decoding reads every weight once a token, so memory sets the pace. Each form here computes what its namesake in
`model.py` does, as a sum that compiles into one loop over the weights as they lie.
"""

import math
from functools import cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..model import Ops, Route, expert_ffn, gqa_attention, heads_per_kv_head
from .dispatch import Down, GateUp, Step, Tokens, moe_all_experts, moe_grouped
from .eager import ONEDNN_LINEAR, ffn_by

Rows = Float[Tensor, "*batch columns"]
Out = Float[Tensor, "*batch out"]
Bias = Float[Tensor, "out"] | None
Query = Float[Tensor, "batch heads q_len head_dim"]
Keys = Float[Tensor, "batch kv_heads k_len head_dim"]  # and values

# The most rows for which the sum below is no slower than the library's product (measured: benchmarks/products.py).
MOST_ROWS = {torch.float32: 8, torch.bfloat16: 4, torch.float16: 4}
MOST_ROWS_AMX = {**MOST_ROWS, torch.bfloat16: 2}  # on processors that multiply whole tiles of bf16
MOST_HEADS = 8  # that share a key/value head, each for each new token, and are written out one by one
LINE = 64  # bytes that a processor fetches from memory together


def wider(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def written_down(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in fp32 at least, as a tensor that the compiler keeps in memory.

    Else it would work out, say, a norm and the widening to fp32 anew for every row of weights that `x` is used with.
    """
    wide = x.to(wider(x.dtype))
    return wide.as_strided(wide.shape, wide.stride())


def streamed_sum(x: Float[Tensor, "*#rows columns"], weight: Float[Tensor, "*#rows columns"]) -> Float[Tensor, "*rows"]:
    """(weight * x) summed along columns in fp32: compiled, a loop that reads each weight once, as fast as memory can.

    Never use it uncompiled on a large matrix: it would write all the products down before it adds them.
    """
    return (weight * x).sum(-1, dtype=wider(weight.dtype)).to(weight.dtype)


def most_rows(dtype: torch.dtype) -> int:
    """Up to how many rows a product in this type is a sum on this processor."""
    return (MOST_ROWS_AMX if torch.cpu._is_amx_tile_supported() else MOST_ROWS).get(dtype, 0)


def in_onednn(dtype: torch.dtype, device: str) -> bool:
    """Whether oneDNN multiplies, as on the plain path: in fp32 on a CPU, where the compiler by itself takes MKL."""
    own = device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if own:
        name_onednn()
    return own


ASKED_ONCE = (most_rows, in_onednn)  # while something is compiled, whose code holds the answer


@cache
def name_onednn() -> None:
    """oneDNN's product as `torch.ops.qwen3_scratch.linear`, a call that the compiler leaves in its code as it is."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return ONEDNN_LINEAR(x, weight, bias)

    op = torch.library.custom_op("qwen3_scratch::linear", linear, mutates_args=())
    op.register_fake(lambda x, weight, bias: x.new_empty(*x.shape[:-1], len(weight)))


def streamed_linear(x: Rows, weight: Float[Tensor, "out columns"], bias: Bias = None) -> Out:
    """F.linear; for few rows as a sum, since the library's product reads weights at half of what memory can."""
    if x.shape[:-1].numel() > most_rows(x.dtype):
        product = torch.ops.qwen3_scratch.linear if in_onednn(x.dtype, x.device.type) else F.linear
        return product(x, weight, bias)
    rows = written_down(x.flatten(0, -2))
    return as_rows(streamed_sum(rows[None], weight[:, None]), x.shape[:-1], bias)  # reads each weight once for all rows


def as_rows(out: Float[Tensor, "out rows"], batch: tuple[int, ...], bias: Bias) -> Out:
    """What a product gave column by column as F.linear gives it, in memory too, with the bias added."""
    out = (out.flatten() if out.shape[1] == 1 else out.t().contiguous()).view(*batch, len(out))
    return out if bias is None else out + bias


def route_streamed(x: Tokens, router: Float[Tensor, "experts dim"], top_k: int, norm_topk_prob: bool) -> Route:
    """`moe_route` by the streamed product. It, too, asks `topk`: of equal probabilities it then takes the same."""
    logits = streamed_linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=wider(x.dtype)).topk(top_k, dim=-1)
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Route(weights.to(x.dtype), experts, logits)


def moe_streamed(x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn) -> Tokens:
    """`moe` without a wait: compiled, each choice reads its expert's weights where they lie, with no copy of them.

    Where it takes less time, each expert is read once instead.
    """
    tokens, top_k = route.experts.shape
    form, choices_each = reading_each_once(len(gate_up_proj), top_k, x.dtype)
    if tokens > 1 and tokens * top_k > choices_each * len(gate_up_proj):
        return form(x, route, gate_up_proj, down_proj)
    gate, up = streamed_sum(written_down(x)[:, None, None], gate_up_proj[route.experts]).chunk(2, dim=-1)
    inner = written_down(F.silu(gate) * up)
    answers = streamed_sum(inner[:, :, None], down_proj[route.experts])  # [tokens, top_k, dim]
    return (answers * route.weights[..., None]).sum(dim=1)


def reading_each_once(experts: int, top_k: int, dtype: torch.dtype) -> tuple[Step, float]:
    """The form of `moe` that does, and from how many choices an expert on it takes less time (measured on a Xeon).

    Of the two for many experts only one can be compiled in every type, and that computes experts / top_k times as much
    as is asked: with eight experts and two choices a token it gains from 25 tokens on, with 128 and eight not at 256.
    """
    if experts <= 2 * top_k:
        return moe_in_turn, 1.0
    if dtype == torch.bfloat16:
        return moe_grouped, 3.0
    return moe_all_experts, 6.0 if experts <= 4 * top_k else math.inf


def moe_in_turn(x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down) -> Tokens:
    """`moe_all_experts` expert by expert, with products of the size that `streamed_linear` decides for."""
    shares = x.new_zeros(len(x), len(gate_up_proj)).scatter(1, route.experts, route.weights)
    total = torch.zeros_like(x)
    for number in range(len(gate_up_proj)):
        gate, up = streamed_linear(x, gate_up_proj[number]).chunk(2, dim=-1)
        share = shares[:, number, None]
        answer = streamed_linear(F.silu(gate) * up, down_proj[number])
        total = total + (answer * share).masked_fill(share == 0, 0)  # infinity times 0 would be NaN
    return total


def streamed_attention(q: Query, k: Keys, v: Keys, mask: Bool[Tensor, "#batch 1 q_len k_len"]) -> Query:
    """`gqa_attention` of a query or a few on a CPU, where PyTorch's kernel reads the keys at a third of this speed.

    The group's heads are written out one by one, so that one loop reads each key once for all of them; the values'
    columns, too, so that this loop goes through memory in order: the whole took 1.5 to 1.8 times as long without that.
    """
    group, new = heads_per_kv_head(q, k), q.shape[2]
    if q.device.type != "cpu" or group * new > MOST_HEADS:
        return gqa_attention(q, k, v, mask)
    rows = written_down(q).unflatten(1, (-1, group)).flatten(2, 3)  # [batch, kv_heads, group x q_len, head_dim]
    scores = [(rows[:, :, head, None] * k).sum(-1, dtype=wider(k.dtype)) for head in range(group * new)]
    hidden = written_down(torch.where(mask, 0.0, -torch.inf).repeat(1, 1, group if new > 1 else 1, 1))
    weights = written_down((torch.stack(scores, dim=2) / q.shape[-1] ** 0.5 + hidden).softmax(dim=-1))
    columns = v.split(LINE // v.itemsize, dim=-1)
    heads = [[(weights[:, :, head, :, None] * part).sum(-2) for part in columns] for head in range(group * new)]
    return torch.stack([torch.cat(head, dim=-1) for head in heads], dim=2).view(q.shape).to(v.dtype)


STREAMED = Ops(
    linear=streamed_linear,
    head=streamed_linear,
    expert=partial(ffn_by, linear=streamed_linear),  # of dense layers
    moe=moe_streamed,
    attention=streamed_attention,
    route=route_streamed,
)
