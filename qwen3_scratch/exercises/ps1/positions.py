"""ps1, continued: the speeds of the pairs, the table, heads that look back, and what longer texts need."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import model
from ...model import rope_frequencies, yarn_ramp
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, recorded, text_ids, tiny

SET = "ps1_norm_and_rope"

# ---- inverse_frequencies ---------------------------------------------------------------------


def inverse_frequencies(head_dim: int, theta: int | float) -> Float[Tensor, "pairs"]:
    """theta^(-2i / head_dim), in radians per position."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def speeds(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield case(2 * randint(g, 2, 65), float(randint(g, 10, 20000)))


def speeds_odd(seed: int) -> Iterator[Case]:
    yield case(2, 100.0 + seed, note="one pair")
    yield case(10, 37 + seed, note="theta is an int, and head_dim no power of two")
    yield case(8, 2.75 + seed / 8, note="theta is small and no whole number")
    yield case(256, 12345.678 + seed, note="theta is no whole number, and heads are wide")


def speeds_real(seed: int) -> Iterator[Case]:
    theta = tiny().config.rope_parameters["rope_theta"]
    yield case(tiny().config.head_dim, theta * (1 + seed), note="the embedded checkpoint" if not seed else "")
    yield case(128, 1e6 + seed, note="Qwen3 on the hub")


def half_exponent(head_dim: int, theta: int | float) -> Tensor:
    return 1.0 / theta ** (torch.arange(head_dim // 2).float() / head_dim)


def double_exponent(head_dim: int, theta: int | float) -> Tensor:
    return 1.0 / theta ** (2 * torch.arange(0, head_dim, 2).float() / head_dim)


INVERSE_FREQUENCIES = Exercise(
    "inverse_frequencies",
    SET,
    inverse_frequencies,
    stages=(
        Stage("random sizes", speeds, tolerance=1e-6),
        Stage("odd configurations", speeds_odd, tolerance=1e-6),
        Stage("the real checkpoint's numbers", speeds_real, tolerance=1e-6),
    ),
    mistakes=(
        Mistake("The exponent is 2i/head_dim; yours is i/head_dim.", half_exponent),
        Mistake("The exponent is 2i/head_dim; yours is 4i/head_dim: `arange(0, head_dim, 2)` has the 2 already.",
                double_exponent),
        Mistake("The exponent is negative: pairs turn slower and slower, theta^(-2i/head_dim).",
                lambda head_dim, theta: 1 / inverse_frequencies(head_dim, theta)),
        Mistake("There is one speed for each pair, so head_dim/2 of them; the table doubles them later.",
                lambda head_dim, theta: inverse_frequencies(head_dim, theta).repeat(2)),
        Mistake("There is one speed for each pair, so head_dim/2 of them.",
                lambda head_dim, theta: 1.0 / theta ** (torch.arange(head_dim).float() / head_dim)),
        Mistake("theta is an argument; you use 10000.", lambda head_dim, theta: inverse_frequencies(head_dim, 1e4)),
    ),
    own=(rope_frequencies, model.rope_table),
)  # fmt: skip

# ---- rope_table ------------------------------------------------------------------------------


def rope_table(
    positions: Int[Tensor, "batch seq"], frequencies: Float[Tensor, "pairs"]
) -> tuple[Float[Tensor, "batch seq head_dim"], Float[Tensor, "batch seq head_dim"]]:
    """cos and sin of position times frequency, the pairs' angles twice."""
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def tables(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        batch, seq, pairs = (randint(g, 2, 9) for _ in range(3))
        yield case(randint(g, 0, 300, batch, seq), inverse_frequencies(2 * pairs, float(randint(g, 10, 1000))))


def tables_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randint(g, 1, 99, 1, 1), inverse_frequencies(2, 10.0), note="one token, one pair")
    yield case(torch.arange(6)[None] + randint(g, 5, 99), inverse_frequencies(8, 50.0), note="a text that goes on")
    yield case(randint(g, 0, 99, 2, 5), inverse_frequencies(8, 50.0).flip(0), note="speeds in another order")
    yield case(randint(g, 10**4, 10**5, 2, 5), inverse_frequencies(8, 50.0), note="far into a long text")
    yield case(torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]) + seed, inverse_frequencies(6, 9.0), note="padding")


def tables_real(seed: int) -> Iterator[Case]:
    theta, length = tiny().config.rope_parameters["rope_theta"], text_ids(seed).shape[1]
    yield case(torch.arange(length)[None], inverse_frequencies(tiny().config.head_dim, theta))


def tables_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randint(g, 0, 300, 1, 4096), inverse_frequencies(16, 100.0))


def neighbours_doubled(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    angles = (positions[..., None].float() * frequencies).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def not_doubled(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def counted_from_zero(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    return rope_table(torch.arange(positions.shape[1]).expand_as(positions), frequencies)


ROPE_TABLE = Exercise(
    "rope_table",
    SET,
    rope_table,
    stages=(
        Stage("random shapes", tables, tolerance=1e-4),
        Stage("odd configurations", tables_odd, tolerance=1e-4),
        Stage("the real checkpoint's positions", tables_real, tolerance=1e-4),
        Stage("at size", tables_large, tolerance=1e-4, limit=30,
              advice="`positions[..., None] * frequencies` gives all angles at once"),
    ),
    mistakes=(
        Mistake("You repeat each angle beside itself (a, a, b, b); pairs are halves, so (a, b, a, b): `torch.cat`.",
                neighbours_doubled),
        Mistake("Each angle is needed twice, for the two numbers of its pair.", not_doubled),
        Mistake("You count the tokens yourself; the positions are given and need not begin at 0.", counted_from_zero),
        Mistake("cos comes first, then sin.", lambda *given: rope_table(*given)[::-1]),
    ),
    own=(model.rope_table,),
)  # fmt: skip

# ---- keys_at_distance ------------------------------------------------------------------------


def keys_at_distance(
    q: Float[Tensor, "heads head_dim"], distances: Int[Tensor, "heads"], frequencies: Float[Tensor, "pairs"]
) -> Float[Tensor, "heads head_dim"]:
    """Each query turned by its distance: a key so long that points there is liked best so many tokens back."""
    return turned(q, distances[:, None] * frequencies)


def turned(x: Float[Tensor, "heads head_dim"], angles: Float[Tensor, "heads pairs"]) -> Float[Tensor, "heads head_dim"]:
    (a, b), cos, sin = x.float().chunk(2, dim=-1), angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def looks_near(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        heads, pairs = randint(g, 3, 9), randint(g, 2, 9)
        q, distances = randn(g, heads, 2 * pairs), randint(g, 1, 40, heads)
        yield case(q, distances, inverse_frequencies(2 * pairs, float(randint(g, 10, 1000))))


def looks_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    q, distances, speeds = randn(g, 5, 8), randint(g, 1, 30, 5), inverse_frequencies(8, 50.0 + seed)
    yield case(q, torch.zeros_like(distances), speeds, note="every head looks at the token itself")
    yield case(q[:1], distances[:1], speeds, note="one head")
    yield case(q[:, :2], distances, torch.tensor([torch.pi / 2]), note="one pair, quarter turns")
    yield case(q, distances, speeds.flip(0), note="speeds in another order")
    yield case(q.masked_fill(torch.arange(8) % 4 == 1, 0.0), distances, speeds, note="one pair holds zeros")
    yield case(randn(g, 4, 8), torch.arange(4), speeds, note="as many heads as pairs")
    yield case(q, 500 * distances, speeds, note="far back")


def looks_real(seed: int) -> Iterator[Case]:
    """The embedded checkpoint's own queries, before rope."""
    g = torch.Generator().manual_seed(seed)
    speeds = inverse_frequencies(tiny().config.head_dim, tiny().config.rope_parameters["rope_theta"])
    for call in recorded("rope", seed)[:4]:
        q = call.inputs["x"][0, :, randint(g, 5, 40)].clone()
        yield case(q, randint(g, 1, 9, len(q)), speeds)


def of_neighbours(q: Tensor, distances: Tensor, frequencies: Tensor) -> Tensor:
    halves = torch.cat((q[:, ::2], q[:, 1::2]), -1)
    return turned(halves, distances[:, None] * frequencies).unflatten(-1, (2, -1)).transpose(1, 2).flatten(1)


KEYS_AT_DISTANCE = Exercise(
    "keys_at_distance",
    SET,
    keys_at_distance,
    stages=(
        Stage("random heads", looks_near, tolerance=1e-4),
        Stage("odd configurations", looks_odd, tolerance=1e-3),  # an angle of 15000 is good to 0.001
        Stage("the real checkpoint's queries", looks_real, tolerance=1e-4),
    ),
    mistakes=(
        Mistake("Your heads look ahead, to what comes later: a query further back in the text is turned less.",
                lambda q, distances, frequencies: keys_at_distance(q, -distances, frequencies)),
        Mistake("Your heads look at the token itself: the distance is missing.",
                lambda q, distances, frequencies: q),
        Mistake("All heads look as far back as the first; each has a distance of its own.",
                lambda q, distances, frequencies: keys_at_distance(q, distances[:1].expand_as(distances), frequencies)),
        Mistake("Each head looks as far back as its number says; the distances are given.",
                lambda q, distances, frequencies: keys_at_distance(q, torch.arange(len(q)), frequencies)),
        Mistake("Your keys point where they should, but are not as long as their queries.",
                lambda q, distances, frequencies: torch.nn.functional.normalize(
                    keys_at_distance(q, distances, frequencies), dim=-1)),
        Mistake("Pairs are halves here: (x[i], x[i + head_dim/2]), not neighbours.", of_neighbours),
    ),
    loose=True,
)  # fmt: skip

# ---- to_halves -------------------------------------------------------------------------------


def to_halves(weight: Float[Tensor, "rows hidden"], heads: int) -> Float[Tensor, "rows hidden"]:
    """The rows of a projection, so ordered in each head that neighbours become halves."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def weights(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        heads, pairs, hidden = randint(g, 2, 6), randint(g, 3, 9), randint(g, 2, 9)
        yield case(randn(g, heads * 2 * pairs, hidden), heads)


def weights_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 10, 3), 1, note="one head")
    yield case(randn(g, 8, 3), 4, note="one pair to a head: nothing moves")
    yield case(randn(g, 24, 5, dtype=torch.bfloat16), 2, note="bf16")
    yield case(randn(g, 5, 24).T, 3, note="transposed in memory")


def weights_real(seed: int) -> Iterator[Case]:
    layer = tiny().weights.layers[seed % len(tiny().weights.layers)]
    yield case(layer.q_proj.clone(), tiny().config.num_attention_heads, note="q_proj")
    yield case(layer.k_proj.clone(), tiny().config.num_key_value_heads, note="k_proj")


TO_HALVES = Exercise(
    "to_halves",
    SET,
    to_halves,
    stages=(
        Stage("random shapes", weights, tolerance=0),
        Stage("odd configurations", weights_odd, tolerance=0),
        Stage("the real checkpoint's projections", weights_real, tolerance=0),
    ),
    loose=True,
    mistakes=(
        Mistake("That is the way back, from halves to neighbours.",
                lambda weight, heads: weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)),
        Mistake("You reorder all rows as if they were one head; each head keeps its own.",
                lambda weight, heads: to_halves(weight, 1)),
        Mistake("You count head_dim and heads the wrong way round: a head is a block of neighbouring rows.",
                lambda weight, heads: to_halves(weight, weight.shape[0] // heads)),
        Mistake("Rows are what a projection gives out; you reorder its columns, which are what it reads.",
                lambda weight, heads: torch.cat((weight[:, ::2], weight[:, 1::2]), dim=1)),
        Mistake("This leaves everything where it was.", lambda weight, heads: weight),
    ),
)  # fmt: skip

# ---- yarn_frequencies ------------------------------------------------------------------------


def yarn_frequencies(head_dim: int, theta: int | float, factor: int | float, trained: int) -> Float[Tensor, "pairs"]:
    """What `rope_frequencies` gives for yarn with its usual 32 and 1 turns."""
    rope = dict(rope_type="yarn", rope_theta=theta, factor=factor, original_max_position_embeddings=trained)
    return rope_frequencies(replace(tiny().config, head_dim=head_dim, rope_parameters=rope), torch.tensor(1))[0]


def stretches(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        factor, trained = float(randint(g, 2, 9)), randint(g, 400, 5000)
        yield case(2 * randint(g, 12, 65), float(randint(g, 1000, 20000)), factor, trained)


def stretches_odd(seed: int) -> Iterator[Case]:
    yield case(32, 10000.0, 1.0, 4096 + seed, note="factor 1 changes nothing")
    yield case(32, 10000.0, 4.0, 100 + seed, note="no pair turns 32 times within so few tokens")
    yield case(16, 100.0, 4.0, 10**6 + seed, note="every pair turns often")
    yield case(48, 5432.1, 2.5, 2000 + seed, note="factor and theta are no whole numbers")
    yield case(64, 10000, 40, 4096 + seed, note="a large factor, and ints")


def stretches_real(seed: int) -> Iterator[Case]:
    config = tiny().config
    theta, trained = config.rope_parameters["rope_theta"], config.max_position_embeddings
    yield case(config.head_dim, theta, 4.0 + seed, trained, note="the embedded checkpoint")
    yield case(128, 1e6, 4.0 + seed, 32768, note="Qwen3 on the hub")


def blended(head_dim: int, theta: int | float, factor: int | float, keep: Tensor) -> Tensor:
    frequencies = inverse_frequencies(head_dim, theta)
    return frequencies * keep + frequencies / factor * (1 - keep)


def ramp(head_dim: int, theta: int | float, trained: int) -> Tensor:
    rope = dict(rope_type="yarn", rope_theta=theta, factor=2.0, original_max_position_embeddings=trained)
    return yarn_ramp(replace(tiny().config, head_dim=head_dim, rope_parameters=rope))


def unrounded(head_dim: int, theta: int | float, factor: int | float, trained: int) -> Tensor:
    first, last = (head_dim * math.log(trained / (t * 2 * math.pi)) / (2 * math.log(theta)) for t in (32, 1))
    first, last = max(first, 0), min(last, head_dim - 1)
    return blended(head_dim, theta, factor, 1 - ((torch.arange(head_dim // 2) - first) / (last - first)).clamp(0, 1))


YARN_FREQUENCIES = Exercise(
    "yarn_frequencies",
    SET,
    yarn_frequencies,
    stages=(
        Stage("random sizes", stretches, tolerance=1e-6),
        Stage("odd configurations", stretches_odd, tolerance=1e-6),
        Stage("real checkpoints", stretches_real, tolerance=1e-6),
    ),
    mistakes=(
        Mistake("You slow the fast pairs and keep the slow ones; it is the other way round.",
                lambda d, theta, factor, trained: blended(d, theta, factor, 1 - ramp(d, theta, trained))),
        Mistake("You slow every pair: that is linear scaling. Fast pairs stay as they were.",
                lambda d, theta, factor, trained: inverse_frequencies(d, theta) / factor),
        Mistake("You change no pair: slow ones are divided by the factor.",
                lambda d, theta, factor, trained: inverse_frequencies(d, theta)),
        Mistake("The ramp begins and ends at whole pairs: round its begin down and its end up.", unrounded),
        Mistake("You multiply by the factor; a longer text needs slower pairs, so divide.",
                lambda d, theta, factor, trained: blended(d, theta, 1 / factor, ramp(d, theta, trained))),
    ),
    own=(rope_frequencies, yarn_ramp),
)  # fmt: skip
