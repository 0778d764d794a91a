"""Weights in 8 bits for compiled decoding: half of bf16 to read for each token, a quarter of fp32.

Only the matrices that a new token is multiplied with are rounded, each row by itself. The embedding, the norms and the
router stay as they are; so does everything that reads prompts.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from ..cache import KVCache
from ..checkpoints.checkpoint import Advance, Checkpoint, Pick
from ..errors import Error
from ..model import Route, Weights, expert_ffn
from ..trust.memory import available_memory, size_text
from .compiling import check_compilable, compiled_by, compiled_decoder, head_of
from .dispatch import Step, Tokens
from .eager import eager_decoder, ffn_by
from .streamed import STREAMED, Bias, Out, Rows, as_rows, written_down

MOST_ROWS_INT8 = 4  # with more rows arithmetic sets the pace, and 8 bits gain little (measured: benchmarks/int8.py)
LARGEST = 127  # -128 is left out, so that a row and its negative round alike
AT_A_TIME = 2**20  # numbers that are rounded together, since in between they take fp32
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")


class Rounded(NamedTuple):
    """A matrix, or a stack of them, as whole numbers; the scale of a row is what 1 stands for in it."""

    numbers: Int8[Tensor, "*rows columns"]
    scale: Float[Tensor, "*rows"]

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    def chunk(self, chunks: int) -> list["Rounded"]:
        """The matrix cut between rows, like `Tensor.chunk`."""
        return [Rounded(*pair) for pair in zip(self.numbers.chunk(chunks), self.scale.chunk(chunks), strict=True)]


@torch.inference_mode()
def rounded(weight: Float[Tensor, "*rows columns"]) -> Rounded:
    """The nearest multiples of a scale for each row, with which its largest number becomes 127.

    No number moves by more than half its row's scale (Dettmers et al. 2022, arXiv:2208.07339: vector-wise absmax).
    """
    rows = weight.flatten(0, -2)
    numbers = torch.empty_like(rows, dtype=torch.int8)
    scale = torch.empty(len(rows), device=weight.device)
    height = max(1, AT_A_TIME // rows.shape[1])
    for part, into, scales in zip(*(each.split(height) for each in (rows, numbers, scale)), strict=True):
        wide = part.float()
        scales.copy_((wide.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny))
        into.copy_((wide / scales[:, None]).round_())
    return Rounded(numbers.view(weight.shape), scale.view(weight.shape[:-1]))


def rounded_weights(weights: Weights) -> Weights:
    """The same tree with `Rounded` in the place of each matrix; a tied head becomes one of its own."""
    shown = tqdm(weights.layers, desc="Rounding to 8 bits", unit="layer", file=sys.stderr, delay=1)
    layers = (layer._replace(**{name: rounded(getattr(layer, name)) for name in MATRICES}) for layer in shown)
    head: Any = rounded(head_of(weights))
    return weights._replace(layers=tuple(layers), lm_head=head)


@dataclass(frozen=True, eq=False)
class RoundedDecoder:
    """Decodes from a second copy of the weights it was made from, and from no others.

    They are the same tensors, and torch has counted no writing into them since. It does not count what is written
    through `.data` or numpy, nor into tensors made in inference mode: after that, round again.
    """

    source: Weights
    rounded: Weights
    written: list[int | None]

    def __call__(self, checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1) -> Advance:
        """`compiled_decoder` that reads the copy, for as few rows as gain by it."""
        check_compilable(checkpoint)
        others = [*map(id, tree_leaves(checkpoint.weights))] != [*map(id, tree_leaves(self.source))]
        if others or times_written(checkpoint.weights) != self.written:
            found = "the checkpoint has other weights than those that were rounded"
            raise Error(f"int8: {found}, expected the same: round them with fast.int8")
        if cache.batch <= MOST_ROWS_INT8:
            copy = replace(checkpoint, weights=self.rounded)
            return compiled_by(INT8, copy, cache, pick, new) or eager_decoder(checkpoint, cache, pick, new)
        return compiled_decoder(checkpoint, cache, pick, new)


def times_written(weights: Weights) -> list[int | None]:
    """How often torch has written into each tensor, None where it does not count."""
    return [None if leaf is None or leaf.is_inference() else leaf._version for leaf in tree_leaves(weights)]


def int8(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, which decodes compiled from a second copy of its matrices in 8 bits.

    The copy takes half the memory of bf16 weights, a quarter of fp32, on top of them. Raises Error where that is not
    left, and for a slice of a model or one with steps of its own.
    """
    check_compilable(checkpoint)
    weights, left = checkpoint.weights, available_memory(checkpoint.device)
    matrices = [getattr(layer, name) for layer in weights.layers for name in MATRICES]
    needed = sum(matrix.numel() for matrix in (*matrices, weights.embed_tokens))
    if left is not None and needed > left:
        found = f"the copy takes {size_text(needed)}, found {size_text(left)} left on {checkpoint.device}"
        raise Error(f"int8: {found}: decode from the weights as loaded, or free memory")
    return replace(checkpoint, decoder=RoundedDecoder(weights, rounded_weights(weights), times_written(weights)))


def int8_sum(
    x: Float[Tensor, "*#rows columns"], weight: Int8[Tensor, "*#rows columns"], scale: Float[Tensor, "*#rows"]
) -> Float[Tensor, "*rows"]:
    """`streamed_sum` of rounded weights: each row's sum of whole numbers times x, then its scale once."""
    return (weight * x).sum(-1, dtype=torch.float32) * scale


def int8_linear(x: Rows, weight: Rounded, bias: Bias = None) -> Out:
    """`streamed_linear` of a rounded matrix."""
    rows = written_down(x.flatten(0, -2))
    out = int8_sum(rows[None], weight.numbers[:, None], weight.scale[:, None]).to(x.dtype)
    return as_rows(out, x.shape[:-1], bias)


def moe_int8(x: Tokens, route: Route, gate_up_proj: Rounded, down_proj: Rounded, expert: Step = expert_ffn) -> Tokens:
    """`moe_streamed` of rounded experts, for few tokens: each choice reads its expert where it lies."""

    def product(each: Tensor, weight: Rounded) -> Tensor:  # [tokens, 1 or top_k, columns] -> [tokens, top_k, rows]
        numbers, scale = weight.numbers[route.experts], weight.scale[route.experts]
        return int8_sum(written_down(each)[:, :, None], numbers, scale).to(x.dtype)

    gate, up = product(x[:, None], gate_up_proj).chunk(2, dim=-1)
    answers = product(F.silu(gate) * up, down_proj)
    return (answers * route.weights[..., None]).sum(dim=1)


INT8 = STREAMED._replace(linear=int8_linear, head=int8_linear, expert=partial(ffn_by, linear=int8_linear), moe=moe_int8)
