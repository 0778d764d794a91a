"""What the cases of the exercises are made of: random numbers, texts, and what the embedded checkpoint computes."""

import functools
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..model import forward
from ..tiny.evaluate import chat_ids, questions
from ..tracing import Call, trace


def randn(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers; the same for the same state of the generator."""
    return torch.randn(shape, generator=generator).to(dtype)


def randint(generator: torch.Generator, low: int, high: int, *shape: int) -> Any:
    """Whole numbers from low to high - 1: a tensor of that shape, or an int without one."""
    drawn = torch.randint(low, high, shape, generator=generator)
    return drawn if shape else int(drawn)


@functools.cache
def tiny() -> Checkpoint:
    """The embedded checkpoint, read once."""
    return load_checkpoint("tiny")


@functools.lru_cache(maxsize=4)
def _texts(seed: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(chat_ids(tiny(), example)[0]) for example in questions("stories", 2, seed=100 + seed))


def text_ids(seed: int, length: int | None = None) -> Tensor:
    """Token ids [1, seq] of a chat that the embedded checkpoint was not trained on, another for each seed."""
    return torch.tensor([_texts(seed)[0][:length]])


@functools.lru_cache(maxsize=4)
def _recorded(seed: int) -> Any:
    with torch.no_grad(), trace() as calls:
        forward(tiny().weights, text_ids(seed, 48), tiny().config)
    return calls


def recorded(name: str, seed: int) -> list[Call]:
    """The calls of one of the model's functions while the embedded checkpoint reads a text: `call.inputs`, `.output`.

    They are kept: give answers a clone (`call.inputs["x"].clone()`), which they may spoil.
    """
    return _recorded(seed)[name]
