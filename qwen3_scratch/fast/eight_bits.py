"""Weights in 8 bits: half of bf16 to hold and to read for each token, a quarter of fp32.

All matrices are rounded, each row by itself: the embedding, attention's, the experts' and the head. Norms, biases and
routers stay as they are. There is no second copy: what reads prompts reads the rounded matrices, too.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor
from tqdm import tqdm

from ..cache import KVCache
from ..checkpoints.checkpoint import Advance, Checkpoint, Pick, load_checkpoint
from ..checkpoints.weights import Form, Slot, slot_bytes
from ..errors import Error
from ..model import Ops, Route, Weights
from ..trust.memory import available_memory, size_text
from .compiling import check_compilable, compiled_by
from .dispatch import Step, Tokens
from .eager import eager_decoder, ffn_by
from .streamed import STREAMED, Bias, Out, Rows, as_rows, written_down

MOST_ROWS_INT8 = 16  # with more of them it pays to widen a matrix once and take the library's product (benchmarks/int8)
MOST_SUMS = 4  # rows that are summed with one reading of the matrix
COLUMNS = 16  # that torch's product reads together: it has no check for the rest of others, and reads beyond their end
LARGEST = 127  # -128 is left out, so that a row and its negative round alike
AT_A_TIME = 2**20  # numbers that are rounded together, since in between they take fp32
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head")


class Rounded(NamedTuple):
    """A matrix, or a stack of them, as whole numbers; the scale of a row is what 1 stands for in it."""

    numbers: Int8[Tensor, "*rows columns"]
    scale: Float[Tensor, "*rows"]  # of the type that is computed in

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    @property
    def device(self) -> torch.device:
        return self.scale.device

    def at(self, place: Any) -> "Rounded":
        """A matrix of the stack, or rows of the matrix."""
        return Rounded(self.numbers[place], self.scale[place])

    def chunk(self, chunks: int) -> list["Rounded"]:
        """The matrix cut between rows, like `Tensor.chunk`."""
        return [Rounded(*pair) for pair in zip(self.numbers.chunk(chunks), self.scale.chunk(chunks), strict=True)]

    def widened(self) -> Float[Tensor, "*rows columns"]:
        """What the whole numbers stand for."""
        return self.numbers * self.scale[..., None]


@torch.inference_mode()
def rounded(weight: Float[Tensor, "*rows columns"]) -> Rounded:
    """The nearest multiples of a scale for each row, with which its largest number becomes 127.

    No number moves by more than half its row's scale (Dettmers et al. 2022, arXiv:2208.07339: vector-wise absmax).
    """
    rows = weight.flatten(0, -2)
    numbers, scale = torch.empty_like(rows, dtype=torch.int8), rows.new_empty(len(rows))
    height, kind = max(1, AT_A_TIME // rows.shape[1]), torch.finfo(rows.dtype)
    for part, into, scales in zip(*(each.split(height) for each in (rows, numbers, scale)), strict=True):
        wide = part.float()
        largest = wide.abs().amax(dim=1)
        scales.copy_(largest / LARGEST)
        too_small = scales.float() * (LARGEST + 0.5) < largest  # fp16 has few numbers below 6e-5
        scales.add_(too_small * kind.tiny * kind.eps).masked_fill_(scales == 0, 1)
        into.copy_((wide / scales.float()[:, None]).round_().clamp_(-LARGEST, LARGEST))
    return Rounded(numbers.view(weight.shape), scale.view(weight.shape[:-1]))


def in_8_bits(field: str, tensor: Tensor) -> Any:
    """How a tensor of the tree is kept: rounded if it is a matrix that tokens are multiplied with or looked up in."""
    return rounded(tensor) if field in MATRICES else tensor


def size_in_8_bits(slot: Slot, dtype: torch.dtype) -> int:
    """The bytes that a tensor takes in that form."""
    numbers = slot_bytes(slot, torch.int8)
    return numbers + numbers // slot.shape[-1] * dtype.itemsize if slot.field in MATRICES else slot_bytes(slot, dtype)


def rounded_weights(weights: Weights) -> Weights:
    """The same tree with `Rounded` in the place of each matrix; a tied head stays tied."""

    def kept(part: Any) -> Any:
        named = ((name, getattr(part, name)) for name in part._fields if name in MATRICES)
        return part._replace(**{name: rounded(tensor) for name, tensor in named if tensor is not None})

    shown = tqdm(weights.layers, desc="Rounding to 8 bits", unit="layer", file=sys.stderr, delay=1)
    return kept(weights)._replace(layers=tuple(map(kept, shown)))


def int8(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its matrices in 8 bits, from which it reads prompts and decodes compiled.

    It takes half the memory of bf16 weights, a quarter of fp32, beside the given ones as long as those are kept:
    `load_int8` never holds both. Raises Error where that is not left, and for a slice of a model or one with steps of
    its own.
    """
    check_compilable(checkpoint)
    weights, left = checkpoint.weights, available_memory(checkpoint.device)
    matrices = [getattr(part, name, None) for part in (weights, *weights.layers) for name in MATRICES]
    needed = sum(matrix.numel() for matrix in matrices if matrix is not None)
    if left is not None and needed > left:
        found = f"the matrices take {size_text(needed)}, found {size_text(left)} left on {checkpoint.device}"
        raise Error(f"int8: {found}: load them with fast.load_int8, or free memory")
    return replace(checkpoint, weights=rounded_weights(weights), ops=INT8, decoder=int8_decoder)


def load_int8(name_or_path: str | Path | None = None, **options: Any) -> Checkpoint:
    """`int8(load_checkpoint(...))` in its memory alone: each tensor is rounded as soon as it is read."""
    checkpoint = load_checkpoint(name_or_path, form=Form(in_8_bits, size_in_8_bits), **options)
    check_compilable(checkpoint)
    return replace(checkpoint, ops=INT8, decoder=int8_decoder)


def int8_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1) -> Advance:
    """`compiled_decoder` of a checkpoint in 8 bits."""
    check_compilable(checkpoint, INT8)
    return compiled_by(INT8_STREAMED, checkpoint, cache, pick, new) or eager_decoder(checkpoint, cache, pick, new)


def int8_embed(token_ids: Int[Tensor, "batch seq"], table: Rounded) -> Float[Tensor, "batch seq hidden"]:
    """`embed` of a rounded table."""
    return table.at(token_ids).widened()


def int8_sum(
    x: Float[Tensor, "*#rows columns"], weight: Int8[Tensor, "*#rows columns"], scale: Float[Tensor, "*#rows"]
) -> Float[Tensor, "*rows"]:
    """`streamed_sum` of rounded weights: each row's sum of whole numbers times x, then its scale once."""
    return (weight * x).sum(-1, dtype=torch.float32) * scale


def int8_linear(x: Rows, weight: Rounded, bias: Bias = None) -> Out:
    """F.linear with a rounded matrix: for a few rows on a CPU by torch's product that reads 8 bits, for fewer elsewhere
    as a sum if compiled."""
    batch, columns = x.shape[:-1], x.shape[-1]
    if x.device.type == "cpu" and batch.numel() <= MOST_ROWS_INT8 and columns % COLUMNS == 0:
        out = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2).contiguous(), weight.numbers, weight.scale)
        return as_rows(out.t(), batch, bias)
    if batch.numel() <= MOST_SUMS and torch.compiler.is_compiling():
        rows = written_down(x.flatten(0, -2))
        return as_rows(int8_sum(rows[None], weight.numbers[:, None], weight.scale[:, None]).to(x.dtype), batch, bias)
    return F.linear(x, weight.widened(), bias)


def int8_ffn(x: Tokens, gate_proj: Rounded, up_proj: Rounded, down_proj: Rounded) -> Tokens:
    """`expert_ffn` of rounded matrices."""
    return ffn_by(x, gate_proj, up_proj, down_proj, linear=int8_linear)


def moe_int8(x: Tokens, route: Route, gate_up_proj: Rounded, down_proj: Rounded, expert: Step = int8_ffn) -> Tokens:
    """`moe` of rounded experts: those that were chosen at all, one after the other."""
    out = torch.zeros_like(x)
    for number in route.experts.unique().tolist():
        tokens, choice = (route.experts == number).nonzero(as_tuple=True)
        answer = expert(x[tokens], *gate_up_proj.at(number).chunk(2), down_proj.at(number))
        out.index_add_(0, tokens, answer * route.weights[tokens, choice, None])
    return out


def moe_int8_streamed(
    x: Tokens, route: Route, gate_up_proj: Rounded, down_proj: Rounded, expert: Step = int8_ffn
) -> Tokens:
    """The same for compiled decoding, without a wait: each choice reads its expert where it lies.

    Where the choices are more than the experts, and these few, each answers every token instead, and is read once. On
    a Xeon that is level where a layer has twice as many experts as a token chooses, and slower where it has more.
    """
    experts, top_k = len(gate_up_proj.numbers), route.experts.shape[1]
    if len(x) * top_k > experts and experts <= 2 * top_k:
        every = [expert(x, *gate_up_proj.at(number).chunk(2), down_proj.at(number)) for number in range(experts)]
        weights = x.new_zeros(len(x), experts).scatter_(1, route.experts, route.weights).t()[..., None]
        return (torch.stack(every) * weights).masked_fill(weights == 0, 0).sum(dim=0)  # infinity times 0 would be NaN

    def product(each: Tensor, weight: Rounded) -> Tensor:  # [tokens, 1 or top_k, columns] -> [tokens, top_k, rows]
        chosen = weight.at(route.experts)
        return int8_sum(written_down(each)[:, :, None], *chosen).to(x.dtype)

    gate, up = product(x[:, None], gate_up_proj).chunk(2, dim=-1)
    answers = product(F.silu(gate) * up, down_proj)
    return (answers * route.weights[..., None]).sum(dim=1)


INT8 = Ops(embed=int8_embed, linear=int8_linear, head=int8_linear, expert=int8_ffn, moe=moe_int8)
INT8_STREAMED = STREAMED._replace(
    embed=int8_embed, linear=int8_linear, head=int8_linear, expert=int8_ffn, moe=moe_int8_streamed
)
