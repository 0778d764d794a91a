"""ps2, second part: queries and keys, and how much each query looks at each key. `attention` lists the whole set."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...tracing import Call
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded
from .attention_masks import SET

EPS = 1e-6


def given(call: Call, *names: str) -> list[Any]:
    """Copies of what a recorded call was given."""
    return [torch.utils._pytree.tree_map_only(Tensor, torch.clone, call.inputs[name]) for name in names]


def causal(q_len: int, k_len: int) -> Tensor:
    return torch.ones(1, 1, q_len, k_len, dtype=torch.bool).tril(k_len - q_len)


def other_masks(g: torch.Generator, batch: int, heads: int, q_len: int, k_len: int) -> Iterator[tuple[str, Tensor]]:
    """Masks that are not the causal one; every query sees at least one key."""
    first = torch.arange(k_len) == 0
    for rows, columns in ((batch, heads), (batch, 1), (1, heads), (1, 1)):
        seen = torch.rand(rows, columns, q_len, k_len, generator=g) < 0.5
        yield "any keys, later ones too", seen | first
    yield "a prompt that sees all of itself", causal(q_len, k_len) | (torch.arange(k_len) < k_len - 1)
    yield "every key", torch.ones(1, 1, q_len, k_len, dtype=torch.bool)
    yield "later keys alone", (~causal(q_len, k_len)) | (torch.arange(k_len) == k_len - 1)
    yield "a window", causal(q_len, k_len) & causal(q_len, k_len).flip(-1, -2)
    yield "keys between padding", (first.roll(2) | first.roll(3)).expand(batch, 1, q_len, k_len)


def one_key_each(g: torch.Generator, q_len: int, k_len: int) -> Tensor:
    """A mask that shows each query one key."""
    return (torch.arange(k_len) == randint(g, 0, k_len, q_len, 1))[None, None]


# ---- qk_norm ---------------------------------------------------------------------------------


class Pair(NamedTuple):
    q: Tensor
    k: Tensor


def qk_norm(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> Pair:
    q, k = (part.unflatten(-1, (-1, len(q_norm))) for part in (q, k))
    return Pair(model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, eps).transpose(1, 2))


def projected(g: torch.Generator, batch: int, seq: int, heads: int, kv_heads: int, head_dim: int, **kind: Any) -> Case:
    q, k = randn(g, batch, seq, heads * head_dim, **kind), 3 * randn(g, batch, seq, kv_heads * head_dim, **kind)
    return case(q, k, randn(g, head_dim, **kind), randn(g, head_dim, **kind), EPS)


def qk_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        kv_heads = randint(g, 2, 4)
        yield projected(g, randint(g, 2, 4), randint(g, 5, 8), 2 * kv_heads, kv_heads, 2 * randint(g, 4, 7))


def qk_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for sizes, note in (
        ((1, 1, 1, 1, 2), "one token, one head"),
        ((3, 5, 4, 4, 8), "as many key heads as query heads"),
        ((2, 6, 6, 1, 8), "one key head for all"),
    ):
        args = projected(g, *sizes).args
        yield case(*args, note=note)
    bf16 = projected(g, 2, 5, 4, 2, 16, dtype=torch.bfloat16)
    yield case(*bf16.args, note="bf16")
    for eps in (0.5, 0.0):
        yield case(*projected(g, 2, 5, 4, 2, 8).args[:4], eps, note=f"an eps of {eps:g}")


def qk_real(seed: int) -> Iterator[Case]:
    for call in recorded("self_attention", seed):
        x, layer = given(call, "x", "layer")
        yield case(F.linear(x, layer.q_proj), F.linear(x, layer.k_proj), layer.q_norm, layer.k_norm, EPS)


def heads_by_view(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    q, k = (part.reshape(len(part), -1, part.shape[1], len(q_norm)) for part in (q, k))
    return model.rms_norm(q, q_norm, eps), model.rms_norm(k, k_norm, eps)


def heads_of_neighbours(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    q, k = (part.unflatten(-1, (len(q_norm), -1)).transpose(-1, -2) for part in (q, k))
    return model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, eps).transpose(1, 2)


def whole_width(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    q, k = (model.rms_norm(part, torch.ones_like(part[0, 0]), eps) for part in (q, k))
    q, k = (part.unflatten(-1, (-1, len(q_norm))).transpose(1, 2) for part in (q, k))
    return q * q_norm, k * k_norm


def split_only(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return tuple(part.unflatten(-1, (-1, len(q_norm))).transpose(1, 2) for part in (q, k))


def only_queries(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return qk_norm(q, k, q_norm, k_norm, eps)[0], split_only(q, k, q_norm, k_norm, eps)[1]


def one_weight(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return qk_norm(q, k, q_norm, q_norm, eps)


def weights_swapped(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return qk_norm(q, k, k_norm, q_norm, eps)


def not_moved(q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    q, k = qk_norm(q, k, q_norm, k_norm, eps)
    return q.transpose(1, 2), k.transpose(1, 2)


QK_NORM = Exercise(
    "qk_norm",
    SET,
    qk_norm,
    stages=(
        Stage("random shapes", qk_shapes),
        Stage("odd configurations", qk_odd),
        Stage("the real checkpoint's activations", qk_real),
        trained(qk_shapes),
    ),
    loose=True,
    mistakes=(
        Mistake("You cut heads out across tokens: split the last dimension first (`unflatten`), then swap seq and "
                "heads.", heads_by_view),
        Mistake("A head is `head_dim` neighbouring numbers; you take every so many-th.", heads_of_neighbours),
        Mistake("You norm all heads of a token as one vector; each head is normed by itself.", whole_width),
        Mistake("The norm is missing: use `model.rms_norm` on each head.", split_only),
        Mistake("The keys are not normed: queries and keys both are.", only_queries),
        Mistake("You norm the keys with the weight of the queries.", one_weight),
        Mistake("You have swapped the two weights.", weights_swapped),
        Mistake("Heads come before tokens in the result: swap dimensions 1 and 2.", not_moved),
    ),
)  # fmt: skip

# ---- attention_weights -----------------------------------------------------------------------


def weights_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(10):
        batch, heads, q_len, head_dim = (randint(g, 2, 6) for _ in range(4))
        k_len = q_len + randint(g, 1, 4)
        q, k = 2 * randn(g, batch, heads, q_len, head_dim), randn(g, batch, heads, k_len, head_dim)
        yield case(q, k, causal(q_len, k_len)) if number % 3 else case(q, k, note="no mask")


def weights_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 1, 1, 4), randn(g, 1, 1, 1, 4), note="one token, one head")
    yield case(randn(g, 2, 3, 1, 4), randn(g, 2, 3, 6, 4), causal(1, 6), note="one query after a cache of keys")
    rows = torch.rand(2, 1, 4, 6, generator=g) < 0.6
    rows[..., 0] = True
    yield case(randn(g, 2, 3, 4, 8), randn(g, 2, 3, 6, 8), rows, note="another mask for each row of the batch")
    heads = torch.rand(1, 3, 4, 6, generator=g) < 0.6
    heads[..., 0] = True
    yield case(randn(g, 2, 3, 4, 8), randn(g, 2, 3, 6, 8), heads, note="another mask for each head")
    blind = causal(5, 5).clone()
    blind[..., 0, :] = False
    yield case(randn(g, 2, 3, 5, 8), randn(g, 2, 3, 5, 8), blind, note="a pad that may look at nothing")
    q, k = randn(g, 2, 5, 3, 16, dtype=torch.bfloat16), randn(g, 2, 5, 3, 16, dtype=torch.bfloat16)
    yield case(q.transpose(1, 2), k.transpose(1, 2), causal(5, 5), note="bf16, transposed in memory")


def weights_of_large_scores(seed: int) -> Iterator[Case]:
    """All scores are about 106, whose exponential is no number of fp32; their differences are small."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        q, k = randn(g, 2, 3, 4, 8), randn(g, 2, 3, 6, 8)
        q[..., 0], k[..., 0] = 20.0, 15.0
        yield case(q, k, causal(4, 6))
    for size in (1e3, 1e5, 1e15):
        q, k = randn(g, 2, 3, 4, 8).abs() + 1, -randn(g, 2, 3, 6, 8).abs() - 1
        yield case(size * q, size * k, one_key_each(g, 4, 6), note="a seen score far below 0")


def weights_other_masks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for note, mask in other_masks(g, 2, 3, 5, 7):
        yield case(randn(g, 2, 3, 5, 8), randn(g, 2, 3, 7, 8), mask, note=note)


def weights_real(seed: int) -> Iterator[Case]:
    for call in recorded("gqa_attention", seed):
        q, k, mask = given(call, "q", "k", "mask")
        yield case(q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1), mask)


def weights_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 4, 8, 96, 8), randn(g, 4, 8, 9, 8))  # many queries: a loop over them is what is looked for


def looks(scores: Callable[..., Tensor], dim: int = -1) -> Callable[..., Tensor]:
    """Attention weights from other scores, or softmaxed over another dimension."""

    def weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        found = scores(q, k, mask)
        return found.softmax(dim=dim, dtype=torch.float32).to(q.dtype)

    return weights


def scaled(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def lowest(scores: Tensor, mask: Tensor | None, value: float | None = None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min if value is None else value)


def by_exponentials(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    found = lowest(scaled(q, k), mask).exp()
    return found / found.sum(-1, keepdim=True)


def mask_after(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.attention_weights(q, k) if mask is None else model.attention_weights(q, k) * mask


def left_wide(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    return lowest(scaled(q, k), mask).softmax(dim=-1, dtype=torch.float32)


def needs_a_mask(q: Tensor, k: Tensor, mask: Any = None) -> Tensor:
    return model.attention_weights(q, k, ~(~mask))


ATTENTION_WEIGHTS = Exercise(
    "attention_weights",
    SET,
    model.attention_weights,
    stages=(
        Stage("random shapes", weights_shapes),
        Stage("odd configurations", weights_odd),
        Stage("other masks", weights_other_masks),
        Stage("large scores", weights_of_large_scores, tolerance=5e-5),  # their last digit is worth that much
        Stage("the real checkpoint's activations", weights_real),
        trained(weights_shapes),
        Stage("at size", weights_large, limit=60, advice="one product gives the scores of all heads and tokens"),
    ),
    mistakes=(
        Mistake("The scale is missing: divide the scores by the square root of head_dim.",
                looks(lambda q, k, mask: lowest(q @ k.transpose(-1, -2), mask))),
        Mistake("You divide by head_dim; divide by its square root.",
                looks(lambda q, k, mask: lowest(scaled(q, k) / q.shape[-1] ** 0.5, mask))),
        Mistake("You divide by the root of the width of all heads together; it is that of one head, head_dim.",
                looks(lambda q, k, mask: lowest(scaled(q, k) / q.shape[1] ** 0.5, mask))),
        Mistake("You divide by the root of the number of keys; it is that of head_dim.",
                looks(lambda q, k, mask: lowest(q @ k.transpose(-1, -2) / k.shape[-2] ** 0.5, mask))),
        Mistake("Your softmax runs over the queries; each query's weights over the keys sum to one (`dim=-1`).",
                looks(lambda q, k, mask: lowest(scaled(q, k), mask), dim=-2)),
        Mistake("Your softmax runs over the heads; each query's weights over the keys sum to one (`dim=-1`).",
                looks(lambda q, k, mask: lowest(scaled(q, k), mask), dim=1)),
        Mistake("The mask is not used.", looks(lambda q, k, mask: scaled(q, k))),
        Mistake("You hide what the mask lets through: True means that a query may look.",
                looks(lambda q, k, mask: lowest(scaled(q, k), None if mask is None else ~mask))),
        Mistake("A hidden score of 0 still gets weight, since exp(0) is 1: use the lowest number of its type.",
                looks(lambda q, k, mask: lowest(scaled(q, k), mask, 0.0))),
        Mistake("You add the mask as a number; a hidden score has to become the lowest number of its type.",
                looks(lambda q, k, mask: scaled(q, k) + (0 if mask is None else mask))),
        Mistake("You hide after the softmax, so the rows no longer sum to one: hide the scores before it.",
                mask_after),
        Mistake("-inf makes NaN of a row that may look at nothing: use the lowest number of the type "
                "(`torch.finfo`).", looks(lambda q, k, mask: lowest(scaled(q, k), mask, -torch.inf))),
        Mistake("An exponential overflows, or a row is all zeros: take `softmax`, which subtracts the largest first.",
                by_exponentials),
        Mistake("The softmax runs in fp32, and its result returns to the type of q.", left_wide),
        Mistake("`mask` may be None: then every key is seen.", needs_a_mask),
    ),
    own=(model.attention_weights, model.gqa_attention),
)  # fmt: skip
