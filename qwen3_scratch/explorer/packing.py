"""Weights -> bytes for the page: matrices in fp16 or in 8 bits a number, routers in fp16, vectors in fp32."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import Error
from ..fast.eight_bits import rounded
from ..model import LayerWeights, Weights

MOST_BYTES = 200_000_000  # of weights: what browsers still open
MOST_FP16 = torch.finfo(torch.float16).max


class Packed(NamedTuple):
    """What the page reads the weights from: a description of each tensor, and the bytes it lies in."""

    tensors: list[dict[str, Any]]  # name, layer (or None), shape, bits, start
    content: bytes


def packed(weights: Weights, bits: int) -> Packed:
    """All tensors one after the other, little-endian; one in 8 bits as the scales of its rows, then its numbers.

    Raises Error for a number that fp16 cannot hold, and for one that is not finite.
    """
    tensors, content = [], bytearray()
    for layer, name, tensor in named(weights):
        own = bits_of(name, tensor, bits)
        tensors.append({"name": name, "layer": layer, "shape": list(tensor.shape), "bits": own, "start": len(content)})
        check_numbers(layer, name, tensor, own)
        content += b"".join(part.cpu().numpy().tobytes() for part in parts(tensor, own))
    return Packed(tensors, bytes(content))


def as_read(weights: Weights, bits: int) -> Weights:
    """The weights that the page computes with, in fp32 and on the CPU: what rounding has left of them."""

    def read(name: str, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        found = [part.cpu() for part in parts(tensor, bits_of(name, tensor, bits))]
        if len(found) == 1:
            return found[0].float()
        scale, numbers = found
        return numbers.float() * scale[..., None]

    def all_of(tree: Any) -> dict[str, Any]:
        return {name: read(name, tensor) for name, tensor in tree._asdict().items() if name != "layers"}

    return Weights(**all_of(weights), layers=tuple(LayerWeights(**all_of(layer)) for layer in weights.layers))


def size_of(weights: Weights, bits: int) -> int:
    """How many bytes `packed` will give."""
    sizes = ((bits_of(name, tensor, bits), tensor) for _, name, tensor in named(weights))
    return sum(tensor.numel() * own // 8 + 4 * (own == 8) * tensor[..., 0].numel() for own, tensor in sizes)


def named(weights: Weights) -> Iterator[tuple[int | None, str, Tensor]]:
    """Layer, name and tensor of all that there are."""
    for number, layer in enumerate(weights.layers):
        yield from ((number, name, tensor) for name, tensor in layer._asdict().items() if tensor is not None)
    for name, tensor in weights._asdict().items():
        if isinstance(tensor, Tensor):
            yield None, name, tensor


def bits_of(name: str, tensor: Tensor, bits: int) -> int:
    """Vectors keep fp32, they are few; the router keeps fp16, since a rounded one sends tokens elsewhere."""
    return 32 if tensor.ndim == 1 else 16 if name == "router" else bits


def parts(tensor: Tensor, bits: int) -> list[Tensor]:
    if bits == 8:
        found = rounded(tensor)
        return [found.scale, found.numbers]
    return [tensor.to({16: torch.float16, 32: torch.float32}[bits]).contiguous()]


def check_numbers(layer: int | None, name: str, tensor: Tensor, bits: int) -> None:
    where = name if layer is None else f"layer {layer}: {name}"
    largest = float(tensor.abs().max())
    if not largest <= torch.finfo(torch.float32).max:
        raise Error(f"{where} holds {largest}, expected finite numbers: check the checkpoint's files")
    if bits == 16 and largest > MOST_FP16:
        raise Error(f"{where} holds {largest:g}, expected at most {MOST_FP16:g}, the largest of fp16: pass bits=8")
