"""ps7: a gradient by hand. `steps` lists the whole set."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, recorded
from .losses import SET


def rms_norm_backward(x: Tensor, weight: Tensor, eps: int | float, slope: Tensor) -> tuple[Tensor, Tensor]:
    return by_hand(x, weight, eps, slope)


def by_hand(
    x: Tensor,
    weight: Tensor,
    eps: int | float,
    slope: Tensor,
    *,
    through: bool = True,
    power: int = 3,
    with_weight: bool = True,
    sign: int = 1,
    add: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both gradients; the options are where they go wrong."""
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    reach = slope * weight if with_weight else slope
    along = (reach * x).sum(-1, keepdim=True) if add else (reach * x).mean(-1, keepdim=True)
    to_x = reach / root - sign * through * x * along / root**power
    return to_x, (slope * x / root).reshape(-1, x.shape[-1]).sum(0)


def back_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for rank in (2, 3, 4) * 3:
        shape = [randint(g, 4, 8) for _ in range(rank)]
        yield case(2 * randn(g, *shape) + 1, 1 + randn(g, shape[-1]), 1e-6, randn(g, *shape))


def back_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 6), randn(g, 6), 1e-6, randn(g, 1, 6), note="one vector")
    yield case(randn(g, 8), randn(g, 8), 1e-6, randn(g, 8), note="a vector without a dimension in front")
    yield case(randn(g, 5, 2), randn(g, 2), 1e-6, randn(g, 5, 2), note="two numbers to a vector")
    for eps in (0.0, 0.5, 20.0):
        yield case(randn(g, 4, 8), randn(g, 8), eps, randn(g, 4, 8), note=f"an eps of {eps:g}")
    yield case(1e-3 * randn(g, 4, 8), randn(g, 8), 1e-6, randn(g, 4, 8), note="numbers so small that eps counts")
    yield case(torch.zeros(2, 8), randn(g, 8), 1e-3, randn(g, 2, 8), note="zeros")
    x, slope = (randn(g, 8, 2, 6).transpose(0, 2) for _ in range(2))
    yield case(x, randn(g, 8), 1e-6, slope, note="transposed in memory")


def back_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for call in recorded("rms_norm", seed)[::6]:
        x, weight, eps = call.inputs.values()
        yield case(x.clone(), weight.clone(), eps, randn(g, *x.shape))


def back_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 2, 800, 32), randn(g, 32), 1e-6, randn(g, 2, 800, 32))


def mean_for_sum(x: Tensor, weight: Tensor, eps: int | float, slope: Tensor) -> tuple[Tensor, Tensor]:
    to_x, to_weight = by_hand(x, weight, eps, slope)
    return to_x, to_weight / (x.numel() // x.shape[-1])


def not_summed(x: Tensor, weight: Tensor, eps: int | float, slope: Tensor) -> tuple[Tensor, Tensor]:
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return by_hand(x, weight, eps, slope)[0], slope * x / root


def not_divided(x: Tensor, weight: Tensor, eps: int | float, slope: Tensor) -> tuple[Tensor, Tensor]:
    return by_hand(x, weight, eps, slope)[0], (slope * x).reshape(-1, x.shape[-1]).sum(0)


def root_of_the_batch(x: Tensor, weight: Tensor, eps: int | float, slope: Tensor) -> tuple[Tensor, Tensor]:
    to_x, to_weight = by_hand(x, weight, eps, slope)
    return to_x, to_weight * weight


RMS_NORM_BACKWARD = Exercise(
    "rms_norm_backward",
    SET,
    rms_norm_backward,
    stages=(
        Stage("random shapes", back_shapes, tolerance=5e-5),
        Stage("odd configurations", back_odd, tolerance=5e-5),
        Stage("the real checkpoint's activations", back_real, tolerance=5e-5),
        Stage("at size", back_large, tolerance=5e-5, limit=30, advice="all vectors go through the same few products"),
    ),
    mistakes=(
        Mistake("The root depends on x, too: growing x grows what it is divided by. A second term is missing.",
                lambda *given: by_hand(*given, through=False)),
        Mistake("The second term is taken away, not added: a longer x is divided by more.",
                lambda *given: by_hand(*given, sign=-1)),
        Mistake("In the second term the root stands to the third power: once for the division, twice for its slope.",
                lambda *given: by_hand(*given, power=2)),
        Mistake("In the second term the root stands to the third power: once for the division, twice for its slope.",
                lambda *given: by_hand(*given, power=1)),
        Mistake("The mean of squares has a slope of 2 x / dim: in the second term stands a mean, not a sum.",
                lambda *given: by_hand(*given, add=True)),
        Mistake("The weight is missing in the gradient of x: what comes back goes through the weight first.",
                lambda *given: by_hand(*given, with_weight=False)),
        Mistake("The gradient of the weight is a sum over all vectors, not their mean.", mean_for_sum),
        Mistake("One weight serves all vectors: its gradient is the sum over them, of the weight's own shape.",
                not_summed),
        Mistake("The weight multiplies x / root, not x: so does its gradient.", not_divided),
        Mistake("The weight does not stand in its own gradient.", root_of_the_batch),
        Mistake("The two gradients are swapped: that of x comes first.", lambda *given: by_hand(*given)[::-1]),
    ),
    own=(torch.autograd.grad, torch.autograd.backward, Tensor.backward, torch.func.grad, torch.func.vjp),
)  # fmt: skip
