"""ps7: the gradients of a batch that is read in parts. `steps` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...model import forward
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, text_ids, tiny
from .losses import SET

Loss = Callable[[list[Tensor], Any], Tensor]
Shares = Callable[[Sequence[int | float]], Sequence[int | float]]


def by_size(sizes: Sequence[int | float]) -> Sequence[int | float]:
    return [size / sum(sizes) for size in sizes]


def all_alike(sizes: Sequence[int | float]) -> Sequence[int | float]:
    return [1 / len(sizes)] * len(sizes)


def gradients_in_parts(
    loss: Loss, weights: Sequence[Tensor], parts: Sequence[Any], sizes: Sequence[int | float]
) -> tuple[Tensor, list[Tensor]]:
    return added(loss, weights, parts, sizes)


def added(
    loss: Loss,
    weights: Sequence[Tensor],
    parts: Sequence[Any],
    sizes: Sequence[int | float],
    *,
    shares: Shares = by_size,
    of_value: Shares | None = None,
    empty: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The sums over parts, each times its share; `shares` are where they go wrong. `empty` parts are read as well."""
    value, gradients = torch.zeros(()), [torch.zeros_like(weight) for weight in weights]
    each = zip(parts, sizes, shares(sizes), (of_value or shares)(sizes), strict=True)
    for part, size, share, value_share in each:
        if size or empty:
            slopes, mean = torch.func.grad_and_value(loss)(list(weights), part)
            value = value + value_share * mean
            gradients = [held + share * slope for held, slope in zip(gradients, slopes, strict=True)]
    return value, gradients


def mean_surprise(weights: list[Tensor], part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What a small network's targets cost, weighted by how much each counts; NaN where none does."""
    x, targets, counts = part
    first, bias, second = weights
    nats = F.cross_entropy(torch.tanh(x @ first + bias) @ second, targets, reduction="none")
    return (nats * counts).sum() / counts.sum()


def parts_case(g: torch.Generator, *lengths: int, unit: float = 1.0, note: str = "") -> Case:
    """Parts of so many tokens that count, among others that do not."""
    rows, inner, out = randint(g, 3, 7), randint(g, 3, 9), randint(g, 3, 6)
    weights = [randn(g, rows, inner), randn(g, inner), randn(g, inner, out)]
    parts = []
    for length in lengths:
        seq = length + randint(g, 1, 4)
        order = torch.rand(seq, generator=g).argsort()
        parts.append((randn(g, seq, rows), randint(g, 0, out, seq), unit * (order < length).float()))
    sizes = [unit * length if unit != 1 else length for length in lengths]
    return case(mean_surprise, weights, parts, sizes, note=note or f"tokens that count: {[*lengths]}")


def part_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield parts_case(g, *(randint(g, 1, 12) for _ in range(randint(g, 2, 5))), 13)


def part_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield parts_case(g, 5, note="one part")
    yield parts_case(g, 4, 4, 4, note="parts of one size")
    yield parts_case(g, 1, 40, note="a part of one token beside one of forty")
    yield parts_case(g, 2, 7, 3, unit=0.25, note="tokens that count a quarter")
    yield parts_case(g, *(1 + number % 3 for number in range(20)), note="twenty parts")


def part_empty(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield parts_case(g, 3, 0, 5, note="nothing of the second part counts")
    yield parts_case(g, 0, 4, 6, note="nothing of the first part counts")
    yield parts_case(g, 0, 4, 0, note="one part alone counts")


class Surprise:
    """The embedded checkpoint's loss on a text, of its weights as a list."""

    def __init__(self) -> None:
        leaves, self.form = tree_flatten(tiny().weights)
        self.placed = [leaf is not None for leaf in leaves]

    def __call__(self, weights: list[Tensor], ids: Tensor) -> Tensor:
        rest = iter(weights)
        model_weights = tree_unflatten([next(rest) if placed else None for placed in self.placed], self.form)
        return F.cross_entropy(forward(model_weights, ids, tiny().config)[0, :-1], ids[0, 1:])

    def __repr__(self) -> str:
        return "loss"


def part_real(seed: int) -> Iterator[Case]:
    leaves = [leaf.clone() for leaf in tree_flatten(tiny().weights)[0] if leaf is not None]
    ids = text_ids(seed, 16)
    yield case(Surprise(), leaves, [ids[:, :4], ids[:, 4:]], [3, 11], note="two texts")


GRADIENTS_IN_PARTS = Exercise(
    "gradients_in_parts",
    SET,
    gradients_in_parts,
    stages=(
        Stage("a small network", part_shapes, tolerance=5e-5),
        Stage("odd configurations", part_odd, tolerance=5e-5),
        Stage("parts in which nothing counts", part_empty, tolerance=5e-5),
        Stage("the real checkpoint", part_real, tolerance=1e-4),
    ),
    mistakes=(
        Mistake("Parts count alike here, so that a token of a short part counts more: weigh each part by its size.",
                partial(added, shares=all_alike)),
        Mistake("Parts count alike here, so that a token of a short part counts more: weigh each part by its size.",
                partial(added, shares=lambda sizes: [1 / sum(size > 0 for size in sizes)] * len(sizes))),
        Mistake("The loss is weighed by size, the gradients are not: both need it.",
                partial(added, shares=all_alike, of_value=by_size)),
        Mistake("The gradients are weighed by size, the loss is not: both need it.",
                partial(added, of_value=all_alike)),
        Mistake("This is a sum over parts; it has to be the mean over all that counts: divide by all sizes together.",
                partial(added, shares=lambda sizes: [1] * len(sizes))),
        Mistake("Sizes have to be divided by their sum.", partial(added, shares=lambda sizes: sizes)),
        Mistake("Divide by the sum of the sizes, not by the number of parts.",
                partial(added, shares=lambda sizes: [size / len(sizes) for size in sizes])),
        Mistake("Where nothing counts the mean is NaN, and 0 times NaN is NaN: leave such a part out.",
                partial(added, empty=True)),
    ),
    may=(mean_surprise, Surprise.__call__),
    loose=True,
)  # fmt: skip
