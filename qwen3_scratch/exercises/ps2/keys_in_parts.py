"""ps2, last part: attention over keys that come in parts. `attention` lists the whole set."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded
from .attention_masks import SET

# ---- attend_more -----------------------------------------------------------------------------


class Held(NamedTuple):
    result: Tensor
    log_total: Tensor


def attend_more(q: Tensor, k: Tensor, v: Tensor, held: Held | None = None) -> Held:
    return gathered(q, k, v, held)


def part_alone(q: Tensor, k: Tensor, v: Tensor) -> Held:
    """Attention over these keys alone, and the logarithm of the sum of its exponentials."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return Held(scores.softmax(-1) @ v, scores.logsumexp(-1))


def by_exponentials(old: Tensor, new: Tensor) -> Tensor:
    return (old.exp() + new.exp()).log()


def shares_of_totals(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.logaddexp(old, new)
    return (old - total).exp(), (new - total).exp()


def gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    held: Held | None = None,
    *,
    alone: Callable[[Tensor, Tensor, Tensor], Held] = part_alone,
    shares: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = shares_of_totals,
    total: Callable[[Tensor, Tensor], Tensor] = torch.logaddexp,
) -> Held:
    """What is held and one part more; the functions are where it goes wrong."""
    found = alone(q, k, v)
    if held is None:
        return found
    old, old_total = held
    a, b = shares(old_total, found.log_total)
    return Held(a[..., None] * old + b[..., None] * found.result, total(old_total, found.log_total))


def parts_case(g: torch.Generator, q_len: int, *sizes: int, note: str = "", scale: int | float = 1) -> Case:
    """Keys in parts of these sizes, all but the last of which are held."""
    batch, heads, head_dim = randint(g, 1, 3), randint(g, 2, 4), randint(g, 5, 9)
    q, held = scale * randn(g, batch, heads, q_len, head_dim), None
    for size in sizes:
        given = held
        k, v = randn(g, batch, heads, size, head_dim), randn(g, batch, heads, size, head_dim)
        held = attend_more(q, k, v, given)
    return case(q, k, v, given, note=note or f"keys in parts of {', '.join(map(str, sizes))}")


def part_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(9):
        sizes = [randint(g, 2, 8) for _ in range(number % 3 + 1)]
        yield parts_case(g, randint(g, 2, 5), 9, *sizes)
    yield parts_case(g, 3, 6, note="the first part")


def part_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield parts_case(g, 1, 1, 1, note="one query, parts of one key")
    yield parts_case(g, 2, 1, note="one key is all there is")
    yield parts_case(g, 3, 200, 1, note="a long part is held, one key is new")
    yield parts_case(g, 3, 1, 200, note="one key is held, a long part is new")
    yield parts_case(g, 4, 1, 2, 3, 4, 5, note="many parts")


def part_large(seed: int) -> Iterator[Case]:
    """Scores whose exponentials are no numbers of fp32, or all 0."""
    g = torch.Generator().manual_seed(seed)
    for scale in (100, 300):
        yield parts_case(g, 3, 4, 5, note="large scores", scale=scale)
    for sign in (1, -1):
        q, k, v = randn(g, 1, 2, 3, 8), randn(g, 1, 2, 5, 8), randn(g, 1, 2, 5, 8)
        q[..., 0], k[..., 0] = 20.0, 15.0 * sign
        held = attend_more(q, k, v)
        k, v = k + randn(g, 1, 2, 5, 8) / 50, randn(g, 1, 2, 5, 8)
        yield case(q, k, v, held, note=f"all scores near {106 * sign}")


def part_real(seed: int) -> Iterator[Case]:
    for call in recorded("gqa_attention", seed):
        q, k, v = (call.inputs[name].clone() for name in "qkv")
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
        yield case(q, k[:, :, 20:], v[:, :, 20:], attend_more(q, k[:, :, :20], v[:, :, :20]), note="20 keys are held")


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Held:
    return part_alone(q * q.shape[-1] ** 0.5, k, v)


def not_a_logarithm(q: Tensor, k: Tensor, v: Tensor) -> Held:
    found = part_alone(q, k, v)
    return Held(found.result, found.log_total.exp())


def halves(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(old, 0.5), torch.full_like(new, 0.5)


ATTEND_MORE = Exercise(
    "attend_more",
    SET,
    attend_more,
    stages=(
        Stage("random parts", part_shapes, tolerance=5e-5),
        Stage("odd configurations", part_odd, tolerance=5e-5),
        Stage("large scores", part_large, tolerance=1e-4),  # the last digit of a score of 500 is worth 3e-5
        Stage("the real checkpoint's activations", part_real, tolerance=5e-5),
        trained(part_shapes),
    ),
    mistakes=(
        Mistake("The two results do not count alike: each counts by its part of all exponentials.",
                partial(gathered, shares=halves)),
        Mistake("The totals are logarithms: take their exponentials for the shares.",
                partial(gathered, shares=lambda old, new: (old / (old + new), new / (old + new)))),
        Mistake("The shares are swapped: a result counts by its own total.",
                partial(gathered, shares=lambda old, new: shares_of_totals(new, old))),
        Mistake("The results are added; their shares have to sum to 1.",
                partial(gathered, shares=lambda old, new: (torch.ones_like(old), torch.ones_like(new)))),
        Mistake("The totals are logarithms: a sum of exponentials is not the sum of their logarithms.",
                partial(gathered, total=torch.add)),
        Mistake("The new total has to count what was held, too.", partial(gathered, total=lambda old, new: new)),
        Mistake("What was held is forgotten.", lambda q, k, v, held=None: part_alone(q, k, v)),
        Mistake("`log_total` is the logarithm of the sum of exponentials.", partial(gathered, alone=not_a_logarithm)),
        Mistake("The scale is missing: divide the scores by the square root of head_dim.",
                partial(gathered, alone=unscaled)),
        Mistake("An exponential overflows, or all are 0: subtract the larger total first (`logaddexp` does).",
                partial(gathered, total=by_exponentials,
                        shares=lambda old, new: (old.exp() / (old.exp() + new.exp()),
                                                 new.exp() / (old.exp() + new.exp())))),
    ),
    loose=True,
)  # fmt: skip
