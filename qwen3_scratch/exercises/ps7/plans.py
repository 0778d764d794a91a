"""ps7: how long a gradient and how large a rate may be. `steps` lists the whole set."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn
from .losses import SET

Tensors = Sequence[Tensor]

# ---- clip_gradients --------------------------------------------------------------------------


def clip_gradients(gradients: Tensors, most: int | float) -> tuple[list[Tensor], float]:
    shortened, length = clipped(gradients, most)
    return shortened, float(length)  # a number or a tensor, as an answer likes


def length_of(gradients: Tensors) -> Tensor:
    return torch.stack([gradient.float().pow(2).sum() for gradient in gradients]).sum().sqrt()


def clipped(
    gradients: Tensors,
    most: int | float,
    *,
    length: Callable[[Tensors], Tensor] = length_of,
    factor: Callable[[Tensor, int | float], Any] = lambda length, most: (
        min(1.0, most / float(length)) if length else 1.0
    ),
) -> tuple[list[Tensor], Tensor]:
    """Shortened gradients and their length before; `factor` is where it goes wrong."""
    found = length(gradients)
    return [gradient * factor(found, most) for gradient in gradients], found


def lengths_added(gradients: Tensors) -> Tensor:
    return torch.stack([length_of([gradient]) for gradient in gradients]).sum()


def own_squares(gradients: Tensors) -> Tensor:
    return torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum().float().sqrt()


def some_tensors(g: torch.Generator, count: int, scale: int | float = 1) -> list[Tensor]:
    return [scale * randn(g, *(randint(g, 2, 6) for _ in range(number % 3 + 1))) for number in range(count)]


def clip_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(8):
        yield case(some_tensors(g, randint(g, 2, 6)), (0.5, 1.0, 2.5, 100)[number % 4])


def clip_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case([randn(g, 7)], 1.0, note="one tensor")
    yield case(some_tensors(g, 3, 1e-4), 1.0, note="a gradient shorter than that")
    yield case([torch.zeros(3, 2), torch.zeros(4)], 1.0, note="a gradient of length 0")
    yield case([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])], 5.0, note="a length that is met exactly")
    yield case([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])], 4.999, note="a length just above")
    yield case(some_tensors(g, 4, 1e-3), 1e-5, note="a small limit")
    yield case(tuple(some_tensors(g, 3)), 1, note="a tuple, and an int")


def clip_half(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for most in (1.0, 1e4):
        yield case([(300 * each).half() for each in some_tensors(g, 3)], most, note="squares past fp16")


CLIP_GRADIENTS = Exercise(
    "clip_gradients",
    SET,
    clip_gradients,
    stages=(
        Stage("random tensors", clip_shapes, tolerance=1e-5),
        Stage("odd configurations", clip_odd, tolerance=1e-5),
        Stage("fp16", clip_half, tolerance=2e-3),
    ),
    mistakes=(
        Mistake("You clip each tensor by itself; all together are one long vector with one length.",
                lambda gradients, most: (
                    [clipped([each], most)[0][0] for each in gradients], length_of(gradients))),
        Mistake("You clip each number by itself, which changes the direction; shorten the whole by one factor.",
                lambda gradients, most: ([each.clamp(-most, most) for each in gradients], length_of(gradients))),
        Mistake("You add the lengths of the tensors; add their squares, and take the root at the end.",
                partial(clipped, length=lengths_added)),
        Mistake("The root is missing: a length is the root of the sum of squares.",
                partial(clipped, length=lambda gradients: length_of(gradients) ** 2)),
        Mistake("You lengthen what is shorter than `most`; it stays as it is.",
                partial(clipped, factor=lambda length, most: most / float(length) if length else 1.0)),
        Mistake("You always divide by the length: shorten to `most`, and only what is longer.",
                partial(clipped, factor=lambda length, most: 1 / float(length) if length else 1.0)),
        Mistake("The second part is the length before clipping.",
                lambda gradients, most: (clipped(gradients, most)[0], length_of(clipped(gradients, most)[0]))),
        Mistake("Squares of fp16 overflow: add them up in fp32.",
                partial(clipped, length=own_squares)),
        Mistake("A gradient of length 0 is divided by 0; it stays as it is.",
                partial(clipped, factor=lambda length, most: (most / length).clamp(max=1.0) if length else length / 0)),
    ),
    own=(torch.nn.utils.clip_grad_norm_, torch.nn.utils.get_total_norm),
    loose=True,
)  # fmt: skip

# ---- learning_rate ---------------------------------------------------------------------------


def learning_rate(step: int, steps: int, peak: int | float, warmup: int, floor: int | float) -> float:
    return float(scheduled(step, steps, peak, warmup, floor))


def scheduled(
    step: int,
    steps: int,
    peak: int | float,
    warmup: int,
    floor: int | float,
    *,
    begins: int = 1,
    fall: Callable[[float], float] = lambda share: (1 + math.cos(math.pi * share)) / 2,
    clamp: bool = True,
) -> float:
    """The rate; the options are where it goes wrong."""
    if clamp and step >= steps:
        return floor
    if step < warmup:
        return peak * (step + begins) / warmup
    return floor + (peak - floor) * fall((step - warmup) / max(1, steps - 1 - warmup))


def rate_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        steps, warmup = randint(g, 30, 200), randint(g, 3, 12)
        peak = float(torch.rand((), generator=g)) + 0.1
        for step in (randint(g, 0, warmup), randint(g, warmup, steps)):
            yield case(step, steps, peak, warmup, peak * 0.1)


def rate_odd(seed: int) -> Iterator[Case]:
    yield case(0, 50, 0.02, 10, 0.001, note="the first step")
    yield case(9, 50, 0.02, 10, 0.001, note="the last step of the warm-up")
    yield case(10, 50, 0.02, 10, 0.001, note="the first step after it")
    yield case(49, 50, 0.02, 10, 0.001 + seed, note="the last step")
    yield case(50 + seed, 50, 0.02, 10, 0.001, note="a step after the last")
    yield case(0, 50, 0.02, 0, 0.001, note="no warm-up")
    yield case(30, 50, 3, 0, 1, note="whole numbers")
    yield case(10, 11, 0.02, 10, 0.001, note="one step after the warm-up")
    yield case(4 + seed, 10, 0.02, 10, 0.0, note="all is warm-up")
    yield case(10, 10, 0.02, 10, 0.001 + seed, note="all was warm-up")
    yield case(8, 6, 0.02, 10, 0.001 + seed, note="the end comes before the warm-up's")
    yield case(25, 50, 0.02, 10, 0.0, note="a floor of 0")


LEARNING_RATE = Exercise(
    "learning_rate",
    SET,
    learning_rate,
    stages=(
        Stage("random plans", rate_shapes, tolerance=1e-5),
        Stage("odd plans", rate_odd, tolerance=1e-5),
    ),
    mistakes=(
        Mistake("The first step would learn nothing: steps count from 0, so the warm-up is (step + 1) / warmup.",
                partial(scheduled, begins=0)),
        Mistake("The fall is a straight line; it is half a wave of the cosine.",
                partial(scheduled, fall=lambda share: 1 - share)),
        Mistake("You take a quarter of the wave; from peak to floor it is half a wave, up to pi.",
                partial(scheduled, fall=lambda share: math.cos(math.pi * share / 2))),
        Mistake("The wave runs the wrong way: 1 at first, 0 at the end.",
                partial(scheduled, fall=lambda share: (1 - math.cos(math.pi * share)) / 2)),
        Mistake("There is no warm-up.",
                lambda step, steps, peak, warmup, floor: scheduled(step + warmup, steps + warmup, peak, warmup, floor)),
        Mistake("The fall ends at 0; it ends at the floor.",
                lambda step, steps, peak, warmup, floor: scheduled(step, steps, peak, warmup, 0)),
        Mistake("The fall counts from step 0; it begins where the warm-up ends.",
                lambda step, steps, peak, warmup, floor: scheduled(step, steps, peak, warmup, floor)
                if step < warmup else scheduled(step, steps, peak, 0, floor)),
        Mistake("After the last step the rate rises again: it stays at the floor.", partial(scheduled, clamp=False)),
        Mistake("The last step is steps - 1, and there the rate is the floor.",
                lambda step, steps, peak, warmup, floor: scheduled(step, steps + 1, peak, warmup, floor)),
    ),
    loose=True,
)  # fmt: skip
