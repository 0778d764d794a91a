"""ps1: where a vector stood, read off its pairs as off the hands of a clock. `norm_and_rope` lists the whole set."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import model
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, recorded, tiny
from .positions import SET, inverse_frequencies, rope_table


def position_of(
    x: Float[Tensor, "count head_dim"],
    y: Float[Tensor, "count head_dim"],
    frequencies: Float[Tensor, "pairs"],
    longest: int,
) -> Int[Tensor, "count"]:
    """The position, below `longest`, at which each x comes nearest to y once it is turned."""
    along, across = both_products(x, y)
    angles = torch.arange(longest)[:, None] * frequencies  # [longest, pairs]
    return (along @ angles.cos().T + across @ angles.sin().T).argmax(-1)


def both_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair its squared length times cosine and sine of the angle by which it was turned."""
    (a, b), (c, e) = (part.float().chunk(2, dim=-1) for part in (x, y))
    return a * c + b * e, a * e - b * c


def turned_to(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    cos, sin = rope_table(positions[None], frequencies)
    return model.rope(x[None, None], cos, sin)[0, 0]


def clock_case(g: torch.Generator, pairs: int, longest: int, note: str = "", count: int = 6) -> Case:
    x, positions = randn(g, count, 2 * pairs), randint(g, 0, longest, count)
    frequencies = inverse_frequencies(2 * pairs, float(randint(g, 500, 20000)))
    return case(x, turned_to(x, positions, frequencies), frequencies, longest, note=note)


def clocks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield clock_case(g, randint(g, 6, 17), randint(g, 300, 1500))


def clocks_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    x, positions = randn(g, 6, 2), randint(g, 0, 6, 6)
    yield case(x, turned_to(x, positions, torch.ones(1)), torch.ones(1), 6, note="one pair, six positions")
    yield clock_case(g, 8, 1, note="one position")
    yield clock_case(g, 8, 400, count=1, note="one vector")
    x, positions, speeds = randn(g, 6, 16), randint(g, 0, 400, 6), inverse_frequencies(16, 1000.0 + seed)
    yield case(x, turned_to(x, positions, speeds), speeds, int(positions.max()) + 1, note="the last position occurs")
    slow_first = speeds.flip(0)
    yield case(x, turned_to(x, positions, slow_first), slow_first, 400, note="speeds in another order")
    for pair in (0, 7):
        rest = x.masked_fill(torch.arange(16) % 8 == pair, 0.0)
        yield case(rest, turned_to(rest, positions, speeds), speeds, 400, note=f"pair {pair} holds zeros")
    sizes = torch.tensor([1e-3, 1, 1e3, 1, 1e-3, 50])[:, None]
    yield case(sizes * x, turned_to(sizes * x, positions, speeds), speeds, 400, note="long vectors and short ones")


def clocks_rounded(seed: int) -> Iterator[Case]:
    """In bf16 a slow hand is off by many positions; what the fast ones say is right."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        x, positions = randn(g, 6, 32, dtype=torch.bfloat16), randint(g, 0, 800, 6)
        frequencies = inverse_frequencies(32, float(randint(g, 500, 20000)))
        yield case(x, turned_to(x.float(), positions, frequencies).bfloat16(), frequencies, 800, note="bf16")


def clocks_real(seed: int) -> Iterator[Case]:
    config = tiny().config
    frequencies = inverse_frequencies(config.head_dim, config.rope_parameters["rope_theta"])
    for number, call in enumerate(recorded("rope", seed)):
        x, y = (part[0, number % part.shape[1]].clone() for part in (call.inputs["x"], call.output))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        yield case(x[order], y[order], frequencies, config.max_position_embeddings, note="a head's tokens, shuffled")


def clocks_large(seed: int) -> Iterator[Case]:
    yield clock_case(torch.Generator().manual_seed(seed), 8, 1000, count=64)


def by_one_pair(which: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Angle over speed, of one pair alone."""

    def position(x: Tensor, y: Tensor, frequencies: Tensor, longest: int) -> Tensor:
        along, across = (part[:, which(frequencies)] for part in both_products(x, y))
        angle = torch.atan2(across, along) % (2 * math.pi)
        return (angle / frequencies[which(frequencies)]).round().long()

    return position


def mean_of_pairs(x: Tensor, y: Tensor, frequencies: Tensor, longest: int) -> Tensor:
    along, across = both_products(x, y)
    return (torch.atan2(across, along) % (2 * math.pi) / frequencies).mean(-1).round().long()


def of_neighbours(x: Tensor, y: Tensor, frequencies: Tensor, longest: int) -> Tensor:
    x, y = (torch.cat((part[:, ::2], part[:, 1::2]), -1) for part in (x, y))
    return position_of(x, y, frequencies, longest)


POSITION_OF = Exercise(
    "position_of",
    SET,
    position_of,
    stages=(
        Stage("random clocks", clocks),
        Stage("odd configurations", clocks_odd),
        Stage("rounded vectors", clocks_rounded),
        Stage("the real checkpoint's queries and keys", clocks_real),
        Stage("at size", clocks_large, limit=40, advice="the angles of all positions are one product"),
    ),
    mistakes=(
        Mistake("You read the fastest pair alone, which has come round by then: ask the others, too.",
                by_one_pair(lambda frequencies: frequencies.argmax())),
        Mistake("You read pair 0 alone: ask all of them.", by_one_pair(lambda frequencies: torch.tensor(0))),
        Mistake("You read the slowest pair alone, which hardly moves, so a rounding is many positions.",
                by_one_pair(lambda frequencies: frequencies.argmin())),
        Mistake("You read the last pair alone: ask all of them.", by_one_pair(lambda frequencies: torch.tensor(-1))),
        Mistake("A mean over pairs does not help: fast ones have come round, and each says another position.",
                mean_of_pairs),
        Mistake("You turn the wrong way: y is x turned forward.", lambda x, y, *rest: position_of(y, x, *rest)),
        Mistake("Pairs are halves here: (x[i], x[i + head_dim/2]), not neighbours.", of_neighbours),
        Mistake("Positions begin at 0; you count from 1.", lambda *given: position_of(*given) + 1),
        Mistake("You leave out the last position: `longest` - 1 may occur.",
                lambda x, y, frequencies, longest: position_of(x, y, frequencies, max(longest - 1, 1))),
    ),
    loose=True,
)  # fmt: skip
