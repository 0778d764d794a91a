"""ps2, first part: who may look at whom. `attention` lists the whole set."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ... import model
from ...inside import wrong_steps
from ...model import NEVER
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, recorded

SET = "ps2_attention"
AT_SIZE = "compare all positions at once: `positions[:, :, None]` with `key_positions[:, None, :]`"


def causal_reference(positions: Tensor, key_positions: Tensor) -> Tensor:
    return model.attention_mask(positions, key_positions)


def drawn_positions(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that begin at different places, are padded on the left by different counts, and may come from a cache."""
    batch, k_len = randint(g, 2, 5), randint(g, 6, 12)
    q_len = randint(g, 1, k_len)
    pads = randint(g, 0, k_len - q_len + 1, batch, 1)
    pads[0] = 0
    start = randint(g, 0, 50, batch, 1)
    place = torch.arange(k_len).expand(batch, k_len)
    keys = start + (place - pads).clamp(min=0)
    return keys[:, -q_len:].clone(), keys.masked_fill(place < pads, NEVER)


def causal_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        yield case(*drawn_positions(g))


def causal_odd(seed: int) -> Iterator[Case]:
    for positions, key_positions, note in odd_positions(seed):
        yield case(positions, key_positions, note=note)


def odd_positions(seed: int) -> Iterator[tuple[Tensor, Tensor, str]]:
    g = torch.Generator().manual_seed(seed)
    one, start = torch.zeros(1, 1, dtype=torch.long), randint(g, 5, 40)
    yield one, one.clone(), "one token"
    row = torch.arange(8).expand(3, 8)
    yield start + row, start + row, "a text that does not begin at position 0"
    yield start + row[:, :1] + 7, start + row, "one query after a cache of keys"
    yield row, start + row, "keys of a later text: nobody may look"
    pads = (row - 3).clamp(min=0)
    yield pads, pads.masked_fill(row < 3, NEVER), "three pads on the left"
    yield row, row.masked_fill(row > 4, NEVER), "three pads on the right"
    order = torch.randperm(8, generator=g)
    yield start + row[:, -3:], start + row[:, order], "keys in the order of a rolling cache"


def real_masks() -> Iterator[tuple[Tensor, Tensor]]:
    for call in recorded("attention_mask", 0):
        yield call.inputs["positions"].clone(), call.inputs["key_positions"].clone()


def causal_real(seed: int) -> Iterator[Case]:
    for positions, key_positions in real_masks():
        yield case(positions, key_positions)


def causal_large(seed: int) -> Iterator[Case]:
    row = torch.arange(90).expand(2, 90)
    yield case(row.clone(), row.clone())


def strictly_before(positions: Tensor, key_positions: Tensor) -> Tensor:
    return (positions[:, :, None] > key_positions[:, None, :])[:, None]


def later_ones(positions: Tensor, key_positions: Tensor) -> Tensor:
    return (positions[:, :, None] <= key_positions[:, None, :])[:, None]


def hidden_ones(positions: Tensor, key_positions: Tensor) -> Tensor:
    return ~model.attention_mask(positions, key_positions)


def by_place(positions: Tensor, key_positions: Tensor) -> Tensor:
    shape = len(positions), 1, positions.shape[1], key_positions.shape[1]
    return torch.ones(shape, dtype=torch.bool).tril()


def by_place_from_the_end(positions: Tensor, key_positions: Tensor) -> Tensor:
    shape = len(positions), 1, positions.shape[1], key_positions.shape[1]
    return torch.ones(shape, dtype=torch.bool).tril(shape[-1] - shape[-2])


def pads_seen(positions: Tensor, key_positions: Tensor) -> Tensor:
    return model.attention_mask(positions, key_positions.masked_fill(key_positions == NEVER, -1))


def first_row(positions: Tensor, key_positions: Tensor) -> Tensor:
    return model.attention_mask(positions[:1].expand_as(positions), key_positions[:1].expand_as(key_positions))


PLACES = "You go by the place in the row; go by the positions: rows may be padded, and a cache may come before them."
CAUSAL_MASK = Exercise(
    "causal_mask",
    SET,
    causal_reference,
    stages=(
        Stage("random positions", causal_shapes),
        Stage("odd configurations", causal_odd),
        Stage("the real checkpoint's positions", causal_real),
        Stage("at size", causal_large, limit=60, advice=AT_SIZE),
    ),
    mistakes=(
        Mistake("A token may look at itself: a distance of 0 is seen.", strictly_before),
        Mistake("You let tokens look at later ones; it is the earlier ones that they may see.", later_ones),
        Mistake("You have True where a key is hidden; here True means: may be looked at.", hidden_ones),
        Mistake(PLACES, by_place),
        Mistake(PLACES, by_place_from_the_end),
        Mistake("You let tokens look at pads: a key position of NEVER is later than any query.", pads_seen),
        Mistake("You use the positions of the first row for the whole batch.", first_row),
        Mistake("You let every token see all that are no padding, later ones too.", wrong_steps.no_causal_mask),
    ),
    own=(model.attention_mask,),
)

# ---- sliding_mask ----------------------------------------------------------------------------


def sliding_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 1000)
    for _ in range(10):
        yield case(*drawn_positions(g), randint(g, 2, 6))


def sliding_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 2000)
    for positions, key_positions, note in odd_positions(seed):
        yield case(positions, key_positions, randint(g, 2, 5), note=note)
    row = torch.arange(9).expand(2, 9)
    yield case(row, row.clone(), 1, note="a window of 1: every token sees itself alone")
    for window in (2, 8, 9, 10, 100):
        yield case(row, row.clone(), window, note="a window as long as the text, about that, or longer")


def sliding_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 3000)
    for positions, key_positions in real_masks():
        yield case(positions, key_positions, randint(g, 5, 40))


def sliding_large(seed: int) -> Iterator[Case]:
    row = torch.arange(90).expand(2, 90)
    yield case(row.clone(), row.clone(), 32)


def window_ignored(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return model.attention_mask(positions, key_positions)


def one_too_few(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return model.attention_mask(positions, key_positions, window - 1)


def both_sides(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return ((positions[:, :, None] - key_positions[:, None, :]).abs() < window)[:, None]


def only_the_window(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return (positions[:, :, None] - key_positions[:, None, :] < window)[:, None]


def sliding_by_place(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    ones = torch.ones(len(positions), 1, positions.shape[1], key_positions.shape[1], dtype=torch.bool)
    return ones.tril() & ones.triu(1 - window)


def sliding_by_place_from_the_end(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    ones = torch.ones(len(positions), 1, positions.shape[1], key_positions.shape[1], dtype=torch.bool)
    more = ones.shape[-1] - ones.shape[-2]
    return ones.tril(more) & ones.triu(more + 1 - window)


def complement(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return ~model.attention_mask(positions, key_positions, window)


def outside_the_window(positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    return model.attention_mask(positions, key_positions) & ~model.attention_mask(positions, key_positions, window)


ONE_OFF = "The window is off by one: it holds `window` tokens, the token itself included, so the distance is"
SLIDING_MASK = Exercise(
    "sliding_mask",
    SET,
    model.attention_mask,
    stages=(
        Stage("random positions", sliding_shapes),
        Stage("odd configurations", sliding_odd),
        Stage("the real checkpoint's positions", sliding_real),
        Stage("at size", sliding_large, limit=60, advice=AT_SIZE),
    ),
    mistakes=(
        Mistake(f"{ONE_OFF} less than `window`; you see one token too many.", wrong_steps.window_off_by_one),
        Mistake(f"{ONE_OFF} at most `window - 1`; you see one token too few.", one_too_few),
        Mistake("You leave the window out: this is the causal mask.", window_ignored),
        Mistake("You look to both sides: a key must not be later than its query either.", both_sides),
        Mistake("You check the window but not that a key is no later than its query.", only_the_window),
        Mistake("You see what lies outside the window; see what lies inside.", outside_the_window),
        Mistake("You have True where a key is hidden; here True means: may be looked at.", complement),
        Mistake(PLACES, sliding_by_place),
        Mistake(PLACES, sliding_by_place_from_the_end),
    ),
    own=(model.attention_mask,),
)
