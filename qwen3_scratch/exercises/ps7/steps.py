"""ps7: what a training step is made of: clipping, a rate, losses, AdamW, the step, a gradient by hand (notebook 15)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...model import forward
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, text_ids, tiny
from .backward import RMS_NORM_BACKWARD
from .batch_parts import GRADIENTS_IN_PARTS
from .losses import BALANCE_BY_TEXT, SET, WEIGHTED_CROSS_ENTROPY
from .plans import CLIP_GRADIENTS, LEARNING_RATE, Tensors, clipped

Averages = Sequence[tuple[Tensor, Tensor]]

# ---- adamw_step ------------------------------------------------------------------------------

Numbers = tuple[float, float]


def adamw_step(
    weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: int, rate: float, betas: Numbers, eps: float,
    decay: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return moved(weight, gradient, m, v, step, rate, betas, eps, decay)


def moved(
    weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, step: int, rate: float, betas: Numbers, eps: float,
    decay: float, *, corrected: bool = True, outside: bool = True, joined: bool = False, shrink: float | None = None,
    swapped: bool = False, root: bool = True, later: int = 0, uphill: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The step; the options are where it goes wrong."""
    first, second = betas[::-1] if swapped else betas
    gradient = gradient + decay * weight if joined else gradient
    m, v = first * m + (1 - first) * gradient, second * v + (1 - second) * gradient**2
    count = step + later
    m_hat, v_hat = (m / (1 - first**count), v / (1 - second**count)) if corrected else (m, v)
    under = (v_hat.sqrt() + eps if outside else (v_hat + eps).sqrt()) if root else v_hat + eps
    kept = 1 - (rate * decay if shrink is None else shrink * decay) * (not joined)
    return kept * weight + uphill * rate * m_hat / under, m, v


def adam_case(g: torch.Generator, step: int, note: str = "", **changes: Any) -> Case:
    shape = [randint(g, 2, 7) for _ in range(randint(g, 1, 4))]
    weight, gradient, m, v = (randn(g, *shape) for _ in range(4))
    numbers: dict[str, Any] = dict(
        rate=randint(g, 1, 9) / 10, betas=(randint(g, 5, 9) / 10, randint(g, 91, 99) / 100), eps=1e-8,
        decay=randint(g, 1, 9) / 10,
    )  # fmt: skip
    held = (torch.zeros_like(weight), torch.zeros_like(weight)) if step == 1 else (m, v.abs() + 0.1)
    return case(weight, gradient, *held, step, **numbers | changes, note=note)


def adam_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(10):
        yield adam_case(g, 1 if number % 3 == 0 else randint(g, 2, 30))


def adam_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield adam_case(g, 1, note="the first step, a small rate", rate=1e-3, decay=0.1)
    yield adam_case(g, 5, note="no weight decay", decay=0.0)
    yield adam_case(g, 5, note="a large eps", eps=0.5)
    yield adam_case(g, 100_000, note="a late step")
    yield adam_case(g, 3, note="the betas of 15", betas=(0.9, 0.98))
    yield adam_case(g, 3, note="first beta above the second", betas=(0.99, 0.5))
    weight, _, m, v, *_ = adam_case(g, 4).args
    yield case(weight, torch.zeros_like(weight), m, v, 4, 0.3, (0.9, 0.98), 1e-8, 0.2, note="a gradient of 0")
    zeros = torch.zeros_like(weight)
    yield case(
        weight, zeros, zeros, zeros, 1, 0.3, (0.9, 0.98), 1e-8, 0.2, note="a weight that nothing has reached yet"
    )


ADAMW_STEP = Exercise(
    "adamw_step",
    SET,
    adamw_step,
    stages=(
        Stage("random numbers", adam_shapes),
        Stage("odd configurations", adam_odd),
    ),
    mistakes=(
        Mistake("m and v begin at 0, so early means are too small: divide by 1 - beta^step.",
                partial(moved, corrected=False)),
        Mistake("The correction counts steps from 1, not from 0 or 2.", partial(moved, later=1)),
        Mistake("eps stands outside the root: sqrt(v) + eps.", partial(moved, outside=False)),
        Mistake("The decay goes into the gradient, as in Adam; in AdamW it shrinks the weight by itself.",
                partial(moved, joined=True)),
        Mistake("The decay is multiplied by the rate: weight * (1 - rate * decay).", partial(moved, shrink=1.0)),
        Mistake("Weight decay is missing.", partial(moved, shrink=0.0)),
        Mistake("The betas are swapped: the first is that of m.", partial(moved, swapped=True)),
        Mistake("The root of v is missing.", partial(moved, root=False)),
        Mistake("You go with the gradient, up; the loss falls against it.", partial(moved, uphill=1)),
    ),
    own=(torch.optim.Adam.step,),
    loose=True,
)  # fmt: skip

# ---- training_step ---------------------------------------------------------------------------

BETAS, EPS, DECAY = (0.9, 0.98), 1e-8, 0.05


def training_step(
    loss: Callable[[list[Tensor]], Tensor], weights: Tensors, averages: Averages, step: int, rate: float, most: float
) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
    return stepped(loss, weights, averages, step, rate, most)


def stepped(
    loss: Callable[[list[Tensor]], Tensor], weights: Tensors, averages: Averages, step: int, rate: float, most: float,
    *, decays: Callable[[Tensor], bool] = lambda weight: weight.ndim > 1, clip: bool = True, again: bool = False,
    update: Callable[..., Any] = moved,
) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:  # fmt: skip
    """The step; the options are where it goes wrong."""
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    if clip:
        gradients = clipped(gradients, most)[0]
    found = [
        update(weight, gradient, *held, step, rate, BETAS, EPS, DECAY * decays(weight))
        for weight, gradient, held in zip(weights, gradients, averages, strict=True)
    ]
    new = [weight for weight, *_ in found]
    return (loss(new) if again else value), new, [(m, v) for _, m, v in found]


def fitted(x: Tensor, y: Tensor, weights: list[Tensor]) -> Tensor:
    """How far a network of two matrices, with a bias and a scale, is from `y`."""
    first, bias, second, scale = weights
    return ((torch.tanh(x @ first + bias) @ second * scale - y) ** 2).mean()


def step_case(g: torch.Generator, step: int, most: float, scale: int | float = 1, note: str = "") -> Case:
    rows, inner, out = randint(g, 3, 7), randint(g, 3, 9), randint(g, 2, 5)
    weights = [randn(g, rows, inner), randn(g, inner), randn(g, inner, out), 1 + randn(g, out)]
    held = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    if step > 1:
        held = [(randn(g, *w.shape) / 9, randn(g, *w.shape).abs() / 9 + 0.01) for w in weights]
    loss = partial(fitted, randn(g, 9, rows), scale * randn(g, 9, out))
    return case(loss, weights, held, step, randint(g, 1, 9) / 100, most, note=note)


def step_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(8):
        yield step_case(g, 1 if number % 2 else randint(g, 2, 20), (0.1, 0.5, 1.0)[number % 3])


def step_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield step_case(g, 3, 1e6, note="a gradient far shorter than `most`")
    yield step_case(g, 7, 0.5, 100, note="a gradient far longer than `most`")
    weights = [randn(g, 4, 3), randn(g, 3), randn(g, 5, 2)]
    held = [(randn(g, *w.shape) / 9, randn(g, *w.shape).abs() + 0.1) for w in weights]
    yield case(unreached, weights, held, 4, 0.05, 1.0, note="the last weight is in no loss")


def unreached(weights: list[Tensor]) -> Tensor:
    return (weights[0] @ weights[1]).pow(2).sum()


def surprise_of(form: Any, ids: Tensor, leaves: list[Tensor]) -> Tensor:
    """The embedded checkpoint's loss on a text, of its weights as a list."""
    rest = iter(leaves)
    weights = tree_unflatten([leaf if leaf is None else next(rest) for leaf in form[0]], form[1])
    logits = forward(weights, ids, tiny().config)[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:])


def step_real(seed: int) -> Iterator[Case]:
    form = tree_flatten(tiny().weights)
    leaves = [leaf.clone() for leaf in form[0] if leaf is not None]
    held = [(torch.zeros_like(leaf), torch.zeros_like(leaf)) for leaf in leaves]
    placed = [leaf is not None or None for leaf in form[0]]
    yield case(partial(surprise_of, (placed, form[1]), text_ids(seed, 12)), leaves, held, 1, 1e-3, 1.0)


TRAINING_STEP = Exercise(
    "training_step",
    SET,
    training_step,
    stages=(
        Stage("a small network", step_shapes, tolerance=5e-5),
        Stage("odd configurations", step_odd, tolerance=5e-5),
        # Where a gradient is next to 0, the first step's direction is a matter of rounding.
        Stage("the real checkpoint", step_real, tolerance=1e-3),
    ),
    mistakes=(
        Mistake("The gradients are not clipped.", partial(stepped, clip=False)),
        Mistake("Norms and biases decay, too; only tensors of two or more dimensions do.",
                partial(stepped, decays=lambda weight: True)),
        Mistake("Nothing decays; tensors of two or more dimensions do.", partial(stepped, decays=lambda weight: False)),
        Mistake("The first part is the loss before the step.", partial(stepped, again=True)),
        Mistake("m and v are not corrected for their beginning at 0.",
                partial(stepped, update=partial(moved, corrected=False))),
        Mistake("You go up: the loss falls against the gradient.", partial(stepped, update=partial(moved, uphill=1))),
        Mistake("The betas are swapped: 0.9 is that of m, 0.98 that of v.",
                partial(stepped, update=partial(moved, swapped=True))),
    ),
    own=(torch.optim.Adam.step, torch.nn.utils.clip_grad_norm_),
    may=(fitted, unreached, surprise_of),
    loose=True,
)  # fmt: skip

EXERCISES = (
    CLIP_GRADIENTS,
    LEARNING_RATE,
    WEIGHTED_CROSS_ENTROPY,
    GRADIENTS_IN_PARTS,
    ADAMW_STEP,
    TRAINING_STEP,
    BALANCE_BY_TEXT,
    RMS_NORM_BACKWARD,
)
