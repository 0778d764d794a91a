"""Forms of `moe` that compute the same and never wait for the device: put one into `Ops(moe=...)`.

`model.moe` asks how many tokens each expert got, which a GPU can answer only once it has done all that came before.
The forms here ask nothing: their shapes follow from those of their inputs, so that a decode step can be captured.
"""

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import Error
from ..model import Route, expert_ffn

# What every form of `moe` is given, and gives.
Tokens = Float[Tensor, "tokens dim"]
GateUp = Float[Tensor, "experts two_intermediate dim"]
Down = Float[Tensor, "experts dim intermediate"]
Step = Callable[..., Tensor]

ALIGNED = 16  # bytes that a row of every matrix must be a multiple of for torch's grouped product


def moe_gathered(x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn) -> Tokens:
    """`model.moe` by a copy of each choice's matrices and a batched product for each: for few tokens.

    It copies tokens x top_k experts, whether or not several tokens chose the same one, so its memory grows with the
    tokens: 3 x intermediate x dim numbers for each choice. Raises Error for another `expert` than `expert_ffn`.
    """
    check_expert("moe_gathered", expert)
    gate_up, down = gate_up_proj[route.experts], down_proj[route.experts]  # [tokens, top_k, rows, columns], copied
    gate, up = torch.einsum("td,tkid->tki", x, gate_up).chunk(2, dim=-1)
    answers = torch.einsum("tki,tkdi->tkd", F.silu(gate) * up, down)
    return (answers * route.weights[..., None]).sum(dim=1)


def moe_grouped(x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn) -> Tokens:
    """`model.moe` with one grouped product for all experts, on choices sorted by expert: for many tokens.

    An expert that no token chose is an empty group. The answers return to their tokens by the inverse order and are
    summed choice by choice, so two runs add in the same order on any device. Raises Error for another `expert`.
    """
    check_expert("moe_grouped", expert)
    tokens, top_k = route.experts.shape
    number, order = route.experts.flatten().sort(stable=True)
    every = torch.arange(len(gate_up_proj), device=x.device)
    ends = torch.searchsorted(number, every, right=True, out_int32=True)  # where each expert's rows end
    gate, up = grouped_linear(x[order // top_k], gate_up_proj, ends).chunk(2, dim=-1)
    answers = grouped_linear(F.silu(gate) * up, down_proj, ends)  # [tokens * top_k, dim], by expert
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=x.device))
    return (answers[back].view(tokens, top_k, -1) * route.weights[..., None]).sum(dim=1)


def grouped_linear(
    x: Float[Tensor, "rows columns"], weight: Float[Tensor, "groups out columns"], ends: Int[Tensor, "groups"]
) -> Float[Tensor, "rows out"]:
    """F.linear(x[rows of group g], weight[g]) for all groups at once; `ends` [groups] is where each group's rows end.

    Runs as `torch.nn.functional.grouped_mm`. That wants rows of a multiple of 16 bytes and, if a GPU, one of compute
    capability 8.0 or later; elsewhere each group is a product of its own, and `ends` is read, which waits for the
    device. On a GPU torch itself does the same for other numbers than bf16, and before Hopper.
    """
    aligned = all(size * x.element_size() % ALIGNED == 0 for size in weight.shape[1:])
    too_old = x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0)
    if aligned and not too_old and hasattr(F, "grouped_mm"):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(x.split(counts), weight, strict=True)])


def moe_all_experts(
    x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn
) -> Tokens:
    """`model.moe` with every expert answering every token, and only the chosen answers counted: for few experts.

    It computes experts / top_k times as much as needed, in two batched products, and reads each expert once. Raises
    Error for another `expert` than `expert_ffn`.
    """
    check_expert("moe_all_experts", expert)
    gate, up = torch.einsum("td,eid->eti", x, gate_up_proj).chunk(2, dim=-1)
    answers = torch.einsum("eti,edi->etd", F.silu(gate) * up, down_proj)
    weights = x.new_zeros(len(x), len(gate_up_proj)).scatter_(1, route.experts, route.weights).t()[..., None]
    return (answers * weights).masked_fill(weights == 0, 0).sum(dim=0)  # infinity times 0 would be NaN


def moe_by_size(x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn) -> Tokens:
    """`moe_gathered` while it copies no more than the layer holds, as in decoding, else `moe_grouped`, as in prefill.

    The shape alone decides, so this, too, waits for nothing.
    """
    few = route.experts.numel() <= len(gate_up_proj)
    return (moe_gathered if few else moe_grouped)(x, route, gate_up_proj, down_proj, expert)


def check_expert(name: str, expert: Step) -> None:
    """These forms compute `expert_ffn` for all choices at once and would pass over any other silently."""
    if inspect.unwrap(expert) is not inspect.unwrap(expert_ffn):  # the public name holds its arguments to account first
        found = getattr(expert, "__name__", repr(expert))
        raise Error(f"{name}: expert is {found}, expected expert_ffn: use model.moe, which calls any expert")
