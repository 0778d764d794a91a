"""ps2: queries, keys and values, who looks at whom, and what is gathered (notebooks 04 and 06)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...inside import wrong_steps
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded
from .attention_masks import CAUSAL_MASK, SET, SLIDING_MASK
from .attention_scores import ATTENTION_WEIGHTS, QK_NORM, causal, given, one_key_each, other_masks
from .keys_in_parts import ATTEND_MORE
from .looking_again import INFLUENCE
from .whole_step import MERGE_HEADS, SELF_ATTENTION

# ---- gqa_attention ---------------------------------------------------------------------------


def gqa_case(
    g: torch.Generator, batch: int, heads: int, kv_heads: int, q_len: int, k_len: int, head_dim: int, note: str = ""
) -> Case:
    k, v = (randn(g, batch, kv_heads, k_len, head_dim) for _ in range(2))
    return case(2 * randn(g, batch, heads, q_len, head_dim), k, v, causal(q_len, k_len), note=note)


def gqa_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        kv_heads, group, q_len = randint(g, 2, 4), randint(g, 2, 4), randint(g, 2, 6)
        yield gqa_case(g, randint(g, 2, 4), kv_heads * group, kv_heads, q_len, q_len + randint(g, 1, 4), 7)


def gqa_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield gqa_case(g, 2, 3, 3, 4, 5, 8, note="as many kv heads as query heads (MHA)")
    yield gqa_case(g, 2, 6, 1, 4, 5, 8, note="one kv head for all (MQA)")
    yield gqa_case(g, 2, 10, 2, 3, 5, 8, note="five query heads to each kv head")
    yield gqa_case(g, 3, 6, 2, 1, 9, 8, note="one query after a cache of keys")
    yield gqa_case(g, 1, 2, 2, 1, 1, 4, note="one token")
    q, k, v, _ = gqa_case(g, 2, 4, 2, 5, 7, 8).args
    yield case(q, k, v, note="no mask")
    seen = torch.rand(2, 1, 5, 7, generator=g) < 0.6
    seen[..., 0] = True
    yield case(q, k, v, seen, note="another mask for each row of the batch")
    q, k, v = (part.transpose(1, 2).contiguous().transpose(1, 2).bfloat16() for part in (q, k, v))
    yield case(q, k, v, seen, note="bf16, transposed in memory")


def gqa_other_masks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for note, mask in other_masks(g, 2, 6, 5, 7):
        yield case(*gqa_case(g, 2, 6, 2, 5, 7, 8).args[:3], mask, note=note)


def gqa_hidden(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for size in (1e3, 1e5, 1e15):
        q, k, v, _ = gqa_case(g, 2, 6, 2, 4, 6, 8).args
        yield case(
            size * (q.abs() + 1), -size * (k.abs() + 1), v, one_key_each(g, 4, 6), note="a seen score far below 0"
        )


def gqa_real(seed: int) -> Iterator[Case]:
    for call in recorded("gqa_attention", seed):
        yield case(*given(call, "q", "k", "v", "mask"))


def gqa_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    q, k, v, _ = gqa_case(g, 4, 8, 2, 96, 9, 8).args
    yield case(q, k, v)


def shared(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor) -> Tensor:
    """Attention in which the query heads read the key and value heads of these numbers."""
    return model.attention_weights(q, k[:, keys], mask) @ v[:, values]


def first_head_for_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    first = torch.zeros(q.shape[1], dtype=torch.long)
    return shared(q, k, v, mask, first, first)


def in_turn_and_in_groups(heads: int, kv_heads: int) -> tuple[Tensor, Tensor]:
    number = torch.arange(heads)
    return number % kv_heads, number // (heads // kv_heads)


def values_in_turn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    turn, grouped = in_turn_and_in_groups(q.shape[1], k.shape[1])
    return shared(q, k, v, mask, grouped, turn)


def keys_in_turn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    turn, grouped = in_turn_and_in_groups(q.shape[1], k.shape[1])
    return shared(q, k, v, mask, turn, grouped)


def pairs(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    number = (torch.arange(q.shape[1]) // 2).clamp(max=k.shape[1] - 1)
    return shared(q, k, v, mask, number, number)


def not_scaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q * q.shape[-1] ** 0.5, k, v, mask)


def unmasked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q, k, v)


def keys_gathered(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.attention_weights(q, k, mask) @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def mask_inverted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    group = q.shape[1] // k.shape[1]
    return model.attention_weights(q, k, None if mask is None else ~mask) @ v.repeat_interleave(group, dim=1)


def needs_a_mask(q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
    return model.gqa_attention(q, k, v, ~(~mask))


GROUPS = "query head h reads kv head h // (heads / kv_heads), neighbours together"
GQA_ATTENTION = Exercise(
    "gqa_attention",
    SET,
    model.gqa_attention,
    stages=(
        Stage("random shapes", gqa_shapes),
        Stage("odd configurations", gqa_odd),
        Stage("other masks", gqa_other_masks),
        Stage("large scores", gqa_hidden, tolerance=5e-5),
        Stage("the real checkpoint's activations", gqa_real),
        trained(gqa_shapes),
        Stage("at size", gqa_large, limit=60, advice="one product serves all heads and all queries"),
    ),
    mistakes=(
        Mistake(f"You lay the shared heads out as 0 1 0 1 (`repeat`): {GROUPS} (`repeat_interleave`).",
                wrong_steps.repeated_heads),
        Mistake(f"Keys are shared rightly but values in the order 0 1 0 1: {GROUPS}.", values_in_turn),
        Mistake(f"Values are shared rightly but keys in the order 0 1 0 1: {GROUPS}.", keys_in_turn),
        Mistake(f"The size of a group is that of one checkpoint (4): {GROUPS}.", wrong_steps.groups_of_four),
        Mistake(f"The size of a group is that of one checkpoint (2): {GROUPS}.", pairs),
        Mistake(f"All query heads read kv head 0: {GROUPS}.", first_head_for_all),
        Mistake("The scale is missing: divide the scores by the square root of head_dim.", not_scaled),
        Mistake("You divide by the root of the width of all heads together; it is that of one head, head_dim.",
                wrong_steps.scaled_by_all_heads),
        Mistake("The mask is not used.", unmasked),
        Mistake("You hide what the mask lets through: True means that a query may look.", mask_inverted),
        Mistake("You average the keys; keys are for finding, values are what is gathered.", keys_gathered),
        Mistake("`mask` may be None: then every key is seen.", needs_a_mask),
    ),
    own=(model.gqa_attention, F.scaled_dot_product_attention),
    loose=True,
)  # fmt: skip

EXERCISES = (
    QK_NORM, CAUSAL_MASK, SLIDING_MASK, ATTENTION_WEIGHTS, GQA_ATTENTION, MERGE_HEADS, SELF_ATTENTION, INFLUENCE,
    ATTEND_MORE,
)  # fmt: skip
