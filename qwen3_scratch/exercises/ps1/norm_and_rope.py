"""ps1: merges, what is near, the norm, and how a token knows where it stands (notebooks 02, 03 and 05)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...inside import wrong_steps
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded, tiny
from .clocks import POSITION_OF
from .merges import LEARN_MERGES
from .positions import INVERSE_FREQUENCIES, KEYS_AT_DISTANCE, ROPE_TABLE, SET, TO_HALVES, YARN_FREQUENCIES

EPS = 1e-6

# ---- rms_norm --------------------------------------------------------------------------------


def norm_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for rank in (1, 2, 3, 4) * 3:
        shape = [randint(g, 4, 8) for _ in range(rank)]
        yield case(2 * randn(g, *shape) + 1, randn(g, shape[-1]), EPS)


def norm_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 3, 1), randn(g, 1), EPS, note="one number to a vector")
    yield case(1e-3 * randn(g, 4, 8), randn(g, 8), EPS, note="numbers so small that eps counts")
    yield case(randn(g, 4, 8), randn(g, 8), 0.5, note="a large eps")
    yield case(1e-3 * randn(g, 4, 8), randn(g, 8), 0.0, note="an eps of 0")
    yield case(randn(g, 4, 8), randn(g, 8), 1, note="an eps of 1, an int")
    for eps in (1e-12, 1e-3, 20.0):
        yield case(eps**0.5 * randn(g, 4, 8), randn(g, 8), eps, note=f"an eps of {eps:g}")
    yield case(torch.zeros(2, 8), randn(g, 8), EPS, note="zeros")
    yield case(randn(g, 8, 2, 6).transpose(0, 2), randn(g, 8), EPS, note="transposed in memory")
    yield case(
        300 + randn(g, 5, 8, dtype=torch.float16), randn(g, 8, dtype=torch.float16), EPS, note="squares past fp16"
    )


def norm_bf16(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield case(3 * randn(g, 9, 64, dtype=torch.bfloat16), randn(g, 64, dtype=torch.bfloat16), EPS)


def norm_real(seed: int) -> Iterator[Case]:
    for call in recorded("rms_norm", seed)[::5]:
        x, weight, eps = call.inputs.values()
        yield case(x.clone(), weight.clone(), eps)


def norm_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 2, 1024, 64), randn(g, 64), EPS)


def sum_for_mean(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * F.normalize(x.float(), dim=-1, eps=eps).to(x.dtype)


def mean_over_everything(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean() + eps)).to(x.dtype)


def mean_over_tokens(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-2, keepdim=True) + eps)).to(x.dtype)


def no_weight(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, torch.ones_like(weight), eps)


def eps_left_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, weight, 0.0)


def eps_of_the_paper(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x, weight, EPS)


def no_root(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x.float() / (x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def norm_in_own_type(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def weight_before_cast(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return model.rms_norm(x.float(), weight.float(), eps).to(x.dtype)


RMS_NORM = Exercise(
    "rms_norm",
    SET,
    model.rms_norm,
    stages=(
        Stage("random shapes", norm_shapes),
        Stage("odd configurations", norm_odd),
        Stage("bf16", norm_bf16, tolerance=0, share=0.02),
        Stage("the real checkpoint's activations", norm_real),
        trained(norm_shapes),
        Stage("at size", norm_large, limit=30, advice="`mean(-1, keepdim=True)` does all tokens at once"),
    ),
    mistakes=(
        Mistake("You divide by the root of the sum of squares; it is the root of their mean.", sum_for_mean),
        Mistake("You take one mean over the whole tensor; each vector has its own (`mean(-1, keepdim=True)`).",
                mean_over_everything),
        Mistake("You average over the tokens; average within each vector, along the last dimension.", mean_over_tokens),
        Mistake("You subtract the mean as LayerNorm does; RMSNorm only divides.", wrong_steps.layer_norm),
        Mistake("The weight is missing: multiply by it after dividing.", no_weight),
        Mistake("You multiply by 1 + weight, as Gemma does; here it is weight alone.", wrong_steps.weight_plus_one),
        Mistake("You divide by the mean square; its square root is missing.", no_root),
        Mistake("Is your eps inside the root? It is added to the mean square, before the root.",
                wrong_steps.eps_outside_root),
        Mistake("eps is missing: add it to the mean square.", eps_left_out),
        Mistake("You use an eps of your own; take the argument.", eps_of_the_paper),
        Mistake("You compute in the type of x: its squares lose digits or overflow. Divide in fp32 (`x.float()`) and "
                "return to the type of x afterwards.", norm_in_own_type),
        Mistake("You multiply the weight in fp32 and cast last; the model casts first and multiplies the weight after.",
                weight_before_cast),
    ),
    own=(model.rms_norm, F.rms_norm, torch.rms_norm),
)  # fmt: skip

# ---- rope ------------------------------------------------------------------------------------


def table(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].float() / 100.0 ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rope_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        batch, heads, seq, half = (randint(g, 2, 6) for _ in range(4))
        positions = randint(g, 0, 300, batch, seq)
        yield case(randn(g, batch, heads, seq, 2 * half), *table(positions, 2 * half))


def rope_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 1, 1, 2), *table(randint(g, 1, 9, 1, 1), 2), note="one token, one head, one pair")
    yield case(randn(g, 3, 2, 5, 8), *table(torch.arange(5)[None], 8), note="one table for all rows of the batch")
    yield case(randn(g, 2, 5, 3, 8).transpose(1, 2), *table(randint(g, 0, 9, 2, 5), 8), note="transposed in memory")
    yield case(randn(g, 2, 3, 3, 8), *table(torch.arange(3).expand(2, 3) + 7, 8), note="as many heads as tokens")
    cos, sin = table(randint(g, 0, 9, 2, 5), 8)
    yield case(randn(g, 2, 3, 5, 8), 1.2 * cos, 1.2 * sin, note="a table scaled by yarn")
    yield case(randn(g, 2, 3, 5, 8, dtype=torch.bfloat16), cos, sin, note="bf16 with a table in fp32")


def rope_real(seed: int) -> Iterator[Case]:
    for call in recorded("rope", seed)[::3]:
        yield case(*(value.clone() for value in call.inputs.values()))


def rope_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 4, 512, 64), *table(torch.arange(512)[None], 64))


def turned_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return model.rope(x, cos, -sin)


def not_negated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos[:, None].to(x.dtype) + x.roll(x.shape[-1] // 2, -1) * sin[:, None].to(x.dtype)


def by_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return model.rope(x.transpose(1, 2), cos, sin).transpose(1, 2)


def first_row_for_all(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return model.rope(x, cos[:1], sin[:1])


def only_first_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((model.rope(x, cos, sin)[..., :half], x[..., half:]), -1)


def neighbours_with_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos[:, None].to(x.dtype) + turned * sin[:, None].to(x.dtype)


def rope_wide(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return model.rope(x.float(), cos, sin)


NEIGHBOURS = "You turn neighbours (0, 1), (2, 3), ...; this model pairs i with i + head_dim/2."
ROPE = Exercise(
    "rope",
    SET,
    model.rope,
    stages=(
        Stage("random shapes", rope_shapes),
        Stage("odd configurations", rope_odd),
        Stage("the real checkpoint's activations", rope_real),
        trained(rope_shapes, "cos", "sin"),
        Stage("at size", rope_large, limit=30, advice="turn all tokens and heads in two products, without a loop"),
    ),
    mistakes=(
        Mistake(NEIGHBOURS, wrong_steps.interleaved_rope),
        Mistake(NEIGHBOURS, neighbours_with_halves),
        Mistake("You turn the other way: beside (a, b) belongs (-b, a), not (b, -a).", turned_backwards),
        Mistake("A sign is missing: beside (a, b) belongs (-b, a), not (b, a).", not_negated),
        Mistake("You give each head the angle of its number; the angle goes with the token (`cos[:, None]`).", by_head),
        Mistake("You turn every row of the batch by the positions of the first.", first_row_for_all),
        Mistake("The second half of each head is still as it was: it turns too.", only_first_half),
        Mistake("The table's fp32 has made the result fp32: bring cos and sin to the type of x.", rope_wide),
    ),
    own=(model.rope,),
)  # fmt: skip


# ---- cosines ---------------------------------------------------------------------------------


def cosines(table: Tensor, token: int) -> Tensor:
    directions = F.normalize(table.float(), dim=-1)
    return directions @ directions[token]


def cosine_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        rows = randint(g, 5, 20)
        yield case(randn(g, rows, randint(g, 3, 9)) * (3 * randn(g, rows, 1)).exp(), randint(g, 0, rows))


def cosine_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    zeros = randn(g, 6, 4)
    zeros[2] = 0
    yield case(zeros, 4, note="a row of zeros")
    yield case(zeros, 2, note="the token's own row is zeros")
    yield case(randn(g, 1, 5), 0, note="one row")
    yield case(randn(g, 5, 1), 3, note="one number to a row")
    yield case(randn(g, 8, 6).T, 1, note="transposed in memory")
    yield case(randn(g, 20, 64, dtype=torch.bfloat16), 19, note="bf16")


def cosine_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield case(tiny().weights.embed_tokens.clone(), randint(g, 0, 2000))


def cosine_large(seed: int) -> Iterator[Case]:
    yield case(randn(torch.Generator().manual_seed(seed), 4000, 32), 7)


COSINES = Exercise(
    "cosines",
    SET,
    cosines,
    stages=(
        Stage("random shapes", cosine_shapes),
        Stage("odd configurations", cosine_odd),
        Stage("the real checkpoint's rows", cosine_real),
        Stage("at size", cosine_large, limit=30, advice="one product asks all rows at once, without a loop"),
    ),
    mistakes=(
        Mistake("These are the products alone: divide by both lengths.",
                lambda table, token: table.float() @ table[token].float()),
        Mistake("You divide by one length only; a cosine has both below it.",
                lambda table, token: table.float() @ F.normalize(table[token].float(), dim=-1)),
        Mistake("You divide by one length only; a cosine has both below it.",
                lambda table, token: F.normalize(table.float(), dim=-1) @ table[token].float()),
        Mistake("You norm the columns; a row is a vector, so its length runs along the last dimension.",
                lambda table, token: F.normalize(table.float(), dim=0) @ F.normalize(table.float(), dim=0)[token]),
        Mistake("Compute in fp32.",
                lambda table, token: F.normalize(table, dim=-1) @ F.normalize(table, dim=-1)[token]),
    ),
)  # fmt: skip

EXERCISES = (
    LEARN_MERGES, COSINES, RMS_NORM, INVERSE_FREQUENCIES, ROPE_TABLE, ROPE, KEYS_AT_DISTANCE, POSITION_OF, TO_HALVES,
    YARN_FREQUENCIES,
)  # fmt: skip
