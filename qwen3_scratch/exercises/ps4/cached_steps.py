"""ps4, second part: positions, and what is kept of earlier tokens. `forward_and_cache` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...config import Config
from ...model import Weights
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, text_ids, tiny
from .small_models import SET, copied, drawn_weights, small_config

# ---- row_positions ---------------------------------------------------------------------------


def row_positions(keep: Tensor, before: Tensor) -> Tensor:
    return (keep.long().cumsum(-1) - 1 + before[:, None]).masked_fill(~keep, 0)


def padded_left(g: torch.Generator, batch: int, seq: int) -> Tensor:
    return torch.arange(seq) >= randint(g, 0, seq, batch, 1)


def position_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        batch = randint(g, 2, 6)
        yield case(padded_left(g, batch, randint(g, 7, 12)), randint(g, 1, 30, batch), note="padded on the left")


def position_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(padded_left(g, 3, 9), torch.zeros(3, dtype=torch.long), note="an empty cache")
    yield case(padded_left(g, 3, 8).flip(-1), randint(g, 0, 9, 3), note="padded on the right")
    yield case(torch.ones(2, 5, dtype=torch.bool), randint(g, 0, 9, 2), note="no padding")
    yield case(torch.ones(4, 1, dtype=torch.bool), randint(g, 1, 99, 4), note="one new token for each row")
    yield case(torch.tensor([[False, True, False, True, True]]), randint(g, 0, 9, 1), note="padding in between")
    yield case(torch.zeros(1, 4, dtype=torch.bool), randint(g, 0, 9, 1), note="padding alone")
    yield case(torch.zeros(3, 1, dtype=torch.bool), randint(g, 0, 9, 3), note="one column of padding")
    yield case(torch.rand(3, 9, generator=g) < 0.5, randint(g, 10**5, 10**6, 3), note="a long cache")


def position_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):  # the slowest ratio counts: so short a reference may be held up by chance
        yield case(padded_left(g, 24, 400), randint(g, 0, 99, 24))


def columns(keep: Tensor, before: Tensor) -> Tensor:
    return (torch.arange(keep.shape[1]) + before[:, None]).masked_fill(~keep, 0)


def padding_counts_on(keep: Tensor, before: Tensor) -> Tensor:
    return keep.long().cumsum(-1) - 1 + before[:, None]


ROW_POSITIONS = Exercise(
    "row_positions",
    SET,
    row_positions,
    stages=(
        Stage("random padding", position_shapes),
        Stage("odd configurations", position_odd),
        Stage("at size", position_large, limit=40, advice="`cumsum` counts all rows at once"),
    ),
    loose=True,
    mistakes=(
        Mistake("You count columns, padding included; count a row's own tokens (`cumsum`).", columns),
        Mistake("You count columns, padding included; count a row's own tokens (`cumsum`).",
                lambda keep, before: (torch.arange(keep.shape[1]) + before[:, None]).expand(keep.shape)),
        Mistake("You begin at 0, whatever the cache holds; go on counting from `before`.",
                lambda keep, before: row_positions(keep, torch.zeros_like(before))),
        Mistake("You count from 1: a row's first token stands at `before`, not behind it.",
                lambda keep, before: row_positions(keep, before + 1)),
        Mistake("All rows go on from the longest; each has a count of its own in `before`.",
                lambda keep, before: row_positions(keep, before.max().expand(len(before)))),
        Mistake("Padding has a position here: it gets 0, everywhere.", padding_counts_on),
        Mistake("Padding has a position here: it gets 0, everywhere.",
                lambda keep, before: (keep.long().cumsum(-1) - 1).clamp(min=0) + before[:, None]),
        Mistake("You count down the batch; count along each row (dimension 1).",
                lambda keep, before: (keep.long().cumsum(0) - 1 + before[:, None]).masked_fill(~keep, 0)),
    ),
)  # fmt: skip

# ---- cached_step -----------------------------------------------------------------------------

Held = Sequence[tuple[Tensor, Tensor]]


def cached_step(weights: Weights, token_ids: Tensor, config: Config, held: Held) -> tuple[Tensor, Held]:
    return step(weights, token_ids, config, held)


def step(
    weights: Weights,
    token_ids: Tensor,
    config: Config,
    held: Held,
    *,
    first: Callable[[int], int] = lambda start: start,
    mask: Callable[..., Tensor] = model.attention_mask,
    join: Callable[[Tensor, Tensor], Tensor] = lambda old, new: torch.cat((old, new), dim=2),
    store: Callable[[Tensor, Tensor], Tensor] | None = None,
    last: int = -1,
) -> tuple[Tensor, Held]:
    """One pass over new tokens; what can be replaced are the places where it goes wrong."""
    start, new = held[0][0].shape[2], token_ids.shape[1]
    keys = torch.arange(start + new)[None]
    x, kept = model.embed(token_ids, weights.embed_tokens), []
    table = model.rope_table(config, torch.arange(new)[None] + first(start))

    def remember(number: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = held[number]
        kept.append(((store or join)(keys, k), (store or join)(values, v)))
        return join(keys, k), join(values, v)

    for number, layer in enumerate(weights.layers):
        seen = mask(keys[:, start:], keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, seen, partial(remember, number))
    x = model.rms_norm(x[:, last], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def nothing_held(config: Config, batch: int) -> list[tuple[Tensor, Tensor]]:
    empty = torch.zeros(batch, config.num_key_value_heads, 0, config.head_dim)
    return [(empty, empty.clone()) for _ in range(config.num_hidden_layers)]


def step_case(g: torch.Generator, held: int, new: int, note: str = "", batch: int = 2, **fixed: Any) -> Case:
    config = small_config(g, **fixed)
    weights, ids = drawn_weights(g, config), randint(g, 0, config.vocab_size, batch, held + new)
    kept: Held = nothing_held(config, batch)
    if held:
        kept = cached_step(weights, ids[:, :held], config, kept)[1]
    return case(weights, ids[:, held:], config, kept, note=note or f"{held} tokens held")


def step_without_windows(seed: int) -> Iterator[Case]:
    """No layer has a window, so that who has not come to windows yet may pass."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(5):
        yield step_case(g, randint(g, 4, 9), randint(g, 2, 4), layer_types=("full_attention",) * 2)


def step_windows(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 50)  # other models than those without windows
    for _ in range(5):
        yield step_case(g, randint(g, 4, 9), randint(g, 2, 4))


def step_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield step_case(g, 0, 6, note="nothing held yet")
    yield step_case(g, 5, 1, note="one new token")
    yield step_case(g, 0, 1, note="the first token of all")
    yield step_case(g, 6, 2, note="one row, one layer", batch=1, num_hidden_layers=1)
    yield step_case(g, 7, 3, note="a head of its own", tie_word_embeddings=False)
    yield step_case(g, 4, 2, note="five layers", num_hidden_layers=5)
    yield step_case(g, 5, 2, note="a large eps", rms_norm_eps=0.5)
    for window in (1, 5, 40):
        yield step_case(g, 6, 3, note=f"a window of {window}", sliding_window=window)
    theta = {"rope_type": "default", "rope_theta": 300.0}
    yield step_case(g, 6, 2, note="another theta", rope_parameters=theta)


def step_real(seed: int) -> Iterator[Case]:
    weights, config, ids = tiny().weights, tiny().config, text_ids(seed, 30)
    kept = cached_step(weights, ids[:, :20], config, nothing_held(config, 1))[1]
    for end in (21, 30):
        yield case(copied(weights), ids[:, 20:end], config, copied(kept), note="20 tokens held")


def wide_open(positions: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    return torch.ones(1, 1, positions.shape[1], keys.shape[1], dtype=torch.bool)


def without_window(positions: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions, keys)


def new_keys_only(positions: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions, positions, window)


def counting_from_zero(positions: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions - positions[:, :1], keys, window)


CACHED_STEP = Exercise(
    "cached_step",
    SET,
    cached_step,
    stages=(
        Stage("random models without windows", step_without_windows),
        Stage("a window in every second layer", step_windows),
        Stage("odd configurations", step_odd),
        Stage("the real checkpoint", step_real),
    ),
    mistakes=(
        Mistake("The new tokens count from 0 again: the table needs positions from the count of held tokens on.",
                partial(step, first=lambda start: 0)),
        Mistake("Your positions are one too high: with n tokens held the first new one stands at n.",
                partial(step, first=lambda start: start + 1)),
        Mistake("New tokens see those that come after them: the mask has to hide these, in a cached step too.",
                partial(step, mask=wide_open)),
        Mistake("The mask has a column for each new key alone; it needs one for each held key as well.",
                partial(step, mask=new_keys_only)),
        Mistake("In your mask the new tokens stand at 0, so they hardly see what is held: use their positions.",
                partial(step, mask=counting_from_zero)),
        Mistake("Table and mask both count the new tokens from 0; they follow those that are held.",
                partial(step, first=lambda start: 0, mask=counting_from_zero)),
        Mistake("Layers with a sliding window see too far: give the mask `config.window(number)`.",
                partial(step, mask=without_window)),
        Mistake("You put the new keys before the held ones; they come after (`torch.cat((old, new), dim=2)`).",
                partial(step, join=lambda old, new: torch.cat((new, old), dim=2))),
        Mistake("You return the new keys and values alone; return those of all tokens.",
                partial(step, store=lambda old, new: new)),
        Mistake("You return the logits of the first new token; those of the last predict what comes next.",
                partial(step, last=0)),
        Mistake("Attention gets the new keys alone: `remember` has to return those of all tokens.",
                partial(step, join=lambda old, new: new, mask=new_keys_only,
                        store=lambda old, new: torch.cat((old, new), dim=2))),
    ),
    own=(model.forward, model.hidden_states),
    loose=True,
)  # fmt: skip
