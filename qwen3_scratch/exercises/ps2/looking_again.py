"""ps2, continued: who sees whom, measured from outside. `attention` lists the whole set."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ... import model
from ...config import Config
from ...model import LayerWeights, Table
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, recorded
from .attention_masks import SET
from .attention_scores import causal

# ---- influence -------------------------------------------------------------------------------


class Step:
    """What an answer calls as `step`: from the vectors of a text [seq, dim] to as many others."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __repr__(self) -> str:
        return "step"


Change = Callable[[Tensor, int], Tensor]


DRAWS = 20  # a threshold that hides every second draw then hides one link in a million


def influence(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.stack([measured(step, x) for _ in range(DRAWS)]).any(0)


def redrawn(x: Tensor, place: int) -> Tensor:
    """The text with another vector at this place, drawn anew."""
    return with_vector(x, place, torch.randn_like(x[place]))


def with_vector(x: Tensor, place: int, vector: Tensor) -> Tensor:
    return torch.where((torch.arange(len(x)) == place)[:, None], vector, x)


def measured(
    step: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    change: Change = redrawn,
    differs: Callable[[Tensor, Tensor], Tensor] = torch.ne,
) -> Tensor:
    """[seq, seq]: the places whose result differs (rows) once one place is changed (columns)."""
    before = step(x)
    return torch.stack([differs(step(change(x, place)), before).any(-1) for place in range(len(x))], dim=1)


def looking(x: Tensor, seen: Tensor, projections: Tensor, before: Callable[[Tensor], Tensor]) -> Tensor:
    """Attention of one head over a text; `projections` [3, dim, dim] are those of q, k and v."""
    q, k, v = before(x) @ projections
    return (model.attention_weights(q[None, None], k[None, None], seen) @ v)[0, 0]


def as_it_is(x: Tensor) -> Tensor:
    return x


def normed(x: Tensor) -> Tensor:
    """Of each vector its length does not count."""
    return model.rms_norm(x, torch.ones_like(x[0]), 0.0)


def second_half(x: Tensor) -> Tensor:
    """Of each vector half of the numbers are not read."""
    return x * (torch.arange(x.shape[-1]) >= x.shape[-1] // 2)


def attending(g: torch.Generator, x: Tensor, seen: Tensor, before: Callable[[Tensor], Tensor] = as_it_is) -> Step:
    dim = x.shape[-1]
    sizes = torch.tensor([0.5, 0.5, 1.0])[:, None, None]  # small scores, so that every key in sight is heard
    projections = sizes * randn(g, 3, dim, dim) / dim**0.5
    return Step(partial(looking, seen=seen, projections=projections, before=before))


def text(g: torch.Generator, seq: int) -> Tensor:
    return randn(g, seq, 2 * randint(g, 3, 6))


def leaking(seq: int, place: int) -> Tensor:
    """Causal, but that one place sees the next one."""
    seen = causal(seq, seq).clone()
    seen[0, 0, place, place + 1] = True
    return seen


def window_of(size: int, seq: int) -> Tensor:
    return causal(seq, seq) & ~causal(seq, seq).tril(-size)


def step_masks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        seq = randint(g, 5, 9)
        some = (torch.rand(1, 1, seq, seq, generator=g) < 0.5) | torch.eye(seq, dtype=torch.bool)
        for note, seen in (
            ("a causal mask", causal(seq, seq)),
            ("one place sees the next", leaking(seq, randint(g, 1, seq - 1))),
            ("a window of three", window_of(3, seq)),
            ("any places", some),
        ):
            x = text(g, seq)
            yield case(attending(g, x, seen), x, note=note)


def faintly(x: Tensor, at: int) -> Tensor:
    return x + 1e-3 * x[at]


def twice(x: Tensor, first: Step, second: Step) -> Tensor:
    return second(x + first(x))


def step_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    seen, x = leaking(7, randint(g, 0, 6)), text(g, 7)
    for step, note in (
        (partial(torch.matmul, other=randn(g, x.shape[-1], 5)), "each place by itself, and another width"),
        (partial(torch.flip, dims=(0,)), "the order turned round"),
        (partial(torch.cumsum, dim=0), "all places up to each"),
        (partial(faintly, at=randint(g, 0, 7)), "one place is heard faintly everywhere"),
        (torch.zeros_like, "nothing is read"),
    ):
        yield case(Step(step), randn(g, *x.shape), note=note)
    yield case(attending(g, x, causal(1, 1)), x[:1], note="one place")
    for before, note in ((normed, "vectors are normed first"), (second_half, "half of the numbers are read")):
        yield case(attending(g, x, seen, before), randn(g, *x.shape), note=note)
    blank = x.masked_fill((torch.arange(7) % 3 == seed % 3)[:, None], 0.0)
    yield case(attending(g, x, seen), blank, note="some places hold zeros")
    layers = [attending(g, x, window_of(2, 7)) for _ in range(2)]
    yield case(Step(partial(twice, first=layers[0], second=layers[1])), x, note="two layers with a window of two")


def cut_to_zero(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).relu()


def one_of_two(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).sign()


def summed(x: Tensor, of: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> Tensor:
    return of(x, weight).cumsum(0)


ONE_DRAW = "a threshold, behind which one draw may miss what another shows"


def step_thresholds(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for of in (cut_to_zero, one_of_two):
        for _ in range(2):
            x = text(g, 9)
            weight = randn(g, x.shape[-1], 1)
            yield case(Step(partial(summed, of=of, weight=weight)), x, note=ONE_DRAW)


def in_a_layer(x: Tensor, layer: LayerWeights, config: Config, table: Table, seen: Tensor) -> Tensor:
    return model.self_attention(x[None], layer, config, table, seen)[0]


def step_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number, seen, note in ((1, causal(9, 9), "its own mask"), (2, leaking(9, randint(g, 0, 8)), "with a leak")):
        given = recorded("self_attention", seed)[number].inputs
        table = tuple(part[:, :9] for part in given["table"])
        step = partial(in_a_layer, layer=given["layer"], config=given["config"], table=table, seen=seen)
        yield case(Step(step), given["x"][0, :9].clone(), note=note)


def not_a_number(x: Tensor, place: int) -> Tensor:
    return with_vector(x, place, torch.full_like(x[place], torch.nan))


def becoming_nan(found: Tensor, before: Tensor) -> Tensor:
    return found.isnan()


def by_change(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return partial(measured, change=lambda x, place: with_vector(x, place, change(x[place])))


INFLUENCE = Exercise(
    "influence",
    SET,
    influence,
    stages=(
        Stage("attention with masks", step_masks),
        Stage("odd configurations", step_odd),
        Stage("behind a threshold", step_thresholds),
        Stage("the real checkpoint's attention", step_real),
    ),
    mistakes=(
        Mistake("Rows and columns are swapped: row i says on what the result at place i hangs.",
                lambda step, x: influence(step, x).T),
        Mistake("You suppose that the mask is causal; run the step and see.",
                lambda step, x: torch.ones(len(x), len(x), dtype=torch.bool).tril()),
        Mistake("You change all later places with it; change one alone.",
                partial(measured, change=lambda x, place: torch.where(
                    (torch.arange(len(x)) >= place)[:, None], torch.randn_like(x[place]), x))),
        Mistake("Where vectors are normed, twice a vector is the vector: draw another one.",
                by_change(lambda vector: 2 * vector)),
        Mistake("A place may hold zeros already: draw another vector.", by_change(torch.zeros_like)),
        Mistake("A place may hold zeros already, and minus zero is zero: draw another vector.", by_change(torch.neg)),
        Mistake("The step may not read the number that you change: draw a whole vector anew.",
                by_change(lambda vector: vector + (torch.arange(len(vector)) == 0))),
        Mistake("NaN spreads through a weight of 0 as well (0 times NaN is NaN): draw another vector.",
                partial(measured, change=not_a_number, differs=becoming_nan)),
        Mistake("You overlook what is small: any difference counts, and where there is no way there is none at all.",
                partial(measured, differs=lambda found, before: (found - before).abs() > 0.02)),
    ),
    may=(Step.__call__,),
)  # fmt: skip
