"""The steps of a layer in the form that reads a text fastest: what `generate` puts in the place of the model's own.

Each computes what its namesake in `model.py` does. For prompts PyTorch's own choices on a CPU are not the fastest; for
one token at a time, the fewer calls the better.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..config import Config
from ..model import Ops, Route, Table, expert_ffn, gqa_attention, heads_per_kv_head, moe, rms_norm, rope_table

BLOCK = 256  # queries that are weighed at a time


def onednn_linear(
    x: Float[Tensor, "*batch columns"], weight: Float[Tensor, "out columns"], bias: Float[Tensor, "out"] | None = None
) -> Float[Tensor, "*batch out"]:
    """F.linear; in fp32 on a CPU by oneDNN, since MKL, which PyTorch asks, leaves AMD's wide registers unused.

    Measured: 1.4 times as fast with one row and with 512, at least 2.5 times with 4 to 17.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def library_norm(
    x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "dim"], eps: float
) -> Float[Tensor, "*batch dim"]:
    """`rms_norm` in two calls. The weight stays outside, since PyTorch's would multiply it on before the rounding."""
    return weight * F.rms_norm(x, x.shape[-1:], None, eps)


def rounded_table(config: Config, positions: Int[Tensor, "batch seq"], dtype: torch.dtype) -> Table:
    """`rope_table` in the type that `rope` wants, so that no layer has to round it again."""
    cos, sin = rope_table(config, positions)
    return cos.to(dtype), sin.to(dtype)


def ffn_of(linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`expert_ffn` with another product in the place of F.linear."""

    def ffn(
        x: Float[Tensor, "n dim"],
        gate_proj: Float[Tensor, "intermediate dim"],
        up_proj: Float[Tensor, "intermediate dim"],
        down_proj: Float[Tensor, "dim intermediate"],
    ) -> Float[Tensor, "n dim"]:
        return linear(F.silu(linear(x, gate_proj)) * linear(x, up_proj), down_proj)

    return ffn


onednn_ffn = ffn_of(onednn_linear)


def moe_of_one(
    x: Float[Tensor, "tokens dim"],
    route: Route,
    gate_up_proj: Float[Tensor, "experts two_intermediate dim"],
    down_proj: Float[Tensor, "experts dim intermediate"],
    expert: Callable[..., Tensor] = expert_ffn,
) -> Float[Tensor, "tokens dim"]:
    """`moe` of a single token by `expert_ffn`: there is nothing to sort, and gate and up are one product."""
    out = torch.zeros_like(x)
    for number, weight in zip(route.experts[0].tolist(), route.weights[0], strict=True):
        gate, up = onednn_linear(x, gate_up_proj[number]).chunk(2, dim=-1)
        out = out + onednn_linear(F.silu(gate) * up, down_proj[number]) * weight
    return out


def causal_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
    mask: Tensor | None = None,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """`gqa_attention` where keys and queries are the same tokens and none is padding, as at the start of a text.

    So the half that lies after each query is left out, instead of computed and masked.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return in_blocks(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1])


def in_blocks(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Causal attention as two products and a softmax for each block of queries and all keys up to its end.

    The heads of a group stand below each other as rows of one product. PyTorch's kernel takes 1.5 to 2.5 times as long
    in bf16. Memory grows with the block times the length.
    """
    batch, _, length, head_dim = q.shape
    rows = (q / head_dim**0.5).reshape(batch * k.shape[1], heads_per_kv_head(q, k), length, head_dim)
    keys, values, answers = k.flatten(0, 1), v.flatten(0, 1), []
    for start in range(0, length, BLOCK):
        block = rows[:, :, start : start + BLOCK]
        end = start + block.shape[2]
        scores = block.flatten(1, 2) @ keys[:, :end].transpose(1, 2)
        later = torch.full((block.shape[2], end), -torch.inf, dtype=q.dtype).triu(start + 1)
        weights = (scores.unflatten(1, block.shape[1:3]) + later).softmax(dim=-1)
        answers.append((weights.flatten(1, 2) @ values[:, :end]).view(block.shape))
    return torch.cat(answers, dim=2).view(q.shape)


def faster(ops: Ops, dtype: torch.dtype) -> Ops:
    """The same steps in the forms above, for activations of `dtype`; what a caller has replaced stays."""
    if ops.norm is rms_norm:
        ops = ops._replace(norm=library_norm)
    if ops.table is rope_table:
        ops = ops._replace(table=partial(rounded_table, dtype=dtype))
    if ops.linear is F.linear:
        ops = ops._replace(linear=onednn_linear)
    if ops.expert is expert_ffn and ops.moe is moe:
        ops = ops._replace(expert=onednn_ffn)
    return ops


def alone(ops: Ops) -> Ops:
    """The same steps for a single token, if dispatch and experts are the model's own."""
    own = ops.moe is moe and ops.expert in (expert_ffn, onednn_ffn)
    return ops._replace(moe=moe_of_one) if own else ops


def causal(ops: Ops) -> Ops:
    """The same steps for a text that is read from its start, if the attention is the model's own."""
    return ops._replace(attention=causal_attention) if ops.attention is gqa_attention else ops
