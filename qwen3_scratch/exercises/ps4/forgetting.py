"""ps4: a step whose cache drops what no window sees any more. `forward_and_cache` lists the whole set."""

from collections.abc import Callable, Iterator
from dataclasses import replace
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
from .cached_steps import Held, nothing_held
from .small_models import SET, copied, drawn_weights, small_config


def forgetting_step(
    weights: Weights, token_ids: Tensor, config: Config, held: Held, before: int
) -> tuple[Tensor, Held]:
    return forgetting(weights, token_ids, config, held, before)


def last_seen(part: Tensor, window: int | None) -> Tensor:
    """The keys or values that a later token can still see: it is itself one of its window."""
    return part if window is None else part[:, :, max(0, part.shape[2] - window + 1) :]


def forgetting(
    weights: Weights,
    token_ids: Tensor,
    config: Config,
    held: Held,
    before: int,
    *,
    keep: Callable[[Tensor, int | None], Tensor] = last_seen,
    early: bool = False,
    first: Callable[[int, Held], int] = lambda before, held: before,
    begin: Callable[[int, int], int] = lambda before, count: before - count,
    window_of: Callable[[Config, int], int | None] = lambda config, number: config.window(number),
    mask: Callable[..., Tensor] = model.attention_mask,
) -> tuple[Tensor, Held]:
    """One pass over new tokens; what can be replaced are the places where it goes wrong."""
    seq, kept = token_ids.shape[1], []
    new = torch.arange(seq)[None] + first(before, held)

    def remember(number: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        both = [torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)]
        left = [keep(part, window_of(config, number)) for part in both]
        kept.append((left[0], left[1]))
        k, v = left if early else both
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        count = held[number][0].shape[2]
        keys = torch.arange(count + seq)[None] + begin(before, count)
        if early:
            keys = keep(keys[:, None], window_of(config, number))[:, 0]
        x = model.decoder_layer(
            x, layer, config, table, mask(new, keys, config.window(number)), partial(remember, number)
        )
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


SLIDING, FULL = "sliding_attention", "full_attention"


def forgetting_case(
    g: torch.Generator, before: int, new: int, window: int, kinds: tuple[str, ...] = (SLIDING, FULL), note: str = "",
    batch: int = 2, **fixed: Any,
) -> Case:  # fmt: skip
    layers = {"num_hidden_layers": len(kinds), "layer_types": kinds, "sliding_window": window}
    config = small_config(g, **layers, **fixed)
    weights, ids = drawn_weights(g, config), randint(g, 0, config.vocab_size, batch, before + new)
    kept: Held = nothing_held(config, batch)
    if before:
        kept = forgetting_step(weights, ids[:, :before], config, kept, 0)[1]
    note = note or f"{before} tokens before, a window of {window}"
    return case(weights, ids[:, before:], config, kept, before, note=note)


def forgetting_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(6):
        kinds = (SLIDING, FULL) if number % 2 else (FULL, SLIDING)
        yield forgetting_case(g, randint(g, 6, 10), randint(g, 2, 4), randint(g, 3, 6), kinds)


def forgetting_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield forgetting_case(g, 0, 6, 4, note="nothing read yet")
    yield forgetting_case(g, 0, 1, 3, note="the first token of all")
    yield forgetting_case(g, 7, 1, 4, note="one new token")
    yield forgetting_case(g, 5, 3, 1, note="a window of 1")
    yield forgetting_case(g, 5, 3, 2, note="a window of 2")
    yield forgetting_case(g, 4, 2, 50, note="a window that nothing has left yet")
    for more in (0, 1, 2):
        yield forgetting_case(g, 4, 2, 5 + more, note="a window about as long as the text")
    yield forgetting_case(g, 3, 9, 4, note="more new tokens than the window has")
    yield forgetting_case(g, 6, 2, 4, (SLIDING,) * 3, note="a window in every layer")
    yield forgetting_case(g, 6, 2, 4, (FULL, FULL), note="a window in no layer")
    yield forgetting_case(g, 6, 2, 3, (FULL, SLIDING, SLIDING, FULL), note="one row, four layers", batch=1)
    yield forgetting_case(g, 7, 3, 4, note="a head of its own", tie_word_embeddings=False)
    yield forgetting_case(g, 6, 2, 4, note="a large eps", rms_norm_eps=0.5)


def forgetting_real(seed: int) -> Iterator[Case]:
    """The embedded checkpoint with a window in every second layer, which it was not trained with."""
    weights, config, ids = tiny().weights, tiny().config, text_ids(seed, 30)
    kinds = tuple((SLIDING, FULL)[number % 2] for number in range(config.num_hidden_layers))
    config = replace(config, layer_types=kinds, use_sliding_window=True, sliding_window=8)
    kept = forgetting_step(weights, ids[:, :20], config, nothing_held(config, 1), 0)[1]
    for end in (21, 30):
        yield case(copied(weights), ids[:, 20:end], config, copied(kept), 20, note="20 tokens before, a window of 8")


def one_more(part: Tensor, window: int | None) -> Tensor:
    return last_seen(part, None if window is None else window + 1)


def one_less(part: Tensor, window: int | None) -> Tensor:
    return last_seen(part, None if window is None else max(1, window - 1))


def by_negative_start(part: Tensor, window: int | None) -> Tensor:
    return part if window is None else part[:, :, -(window - 1) :]


def oldest(part: Tensor, window: int | None) -> Tensor:
    return part if window is None else part[:, :, : window - 1]


def without_window(positions: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    return model.attention_mask(positions, keys)


FORGETTING_STEP = Exercise(
    "forgetting_step",
    SET,
    forgetting_step,
    stages=(
        Stage("random models", forgetting_shapes),
        Stage("odd configurations", forgetting_odd),
        Stage("the real checkpoint, with windows", forgetting_real),
    ),
    mistakes=(
        Mistake("Layers with a window hold tokens that no later one can see; drop them.",
                partial(forgetting, keep=lambda part, window: part)),
        Mistake("You keep one token too many: a later token is itself one of the `window` that it sees.",
                partial(forgetting, keep=one_more)),
        Mistake("You keep one token too few: the next token still sees `window` - 1 others.",
                partial(forgetting, keep=one_less)),
        Mistake("With a window of 1 nothing is kept, but `[-0:]` is everything: count from the front.",
                partial(forgetting, keep=by_negative_start)),
        Mistake("You keep the oldest tokens; what later ones see are the newest.", partial(forgetting, keep=oldest)),
        Mistake("You forget too early: the first of the new tokens see what the last does not. Give attention all.",
                partial(forgetting, early=True)),
        Mistake("You forget in layers without a window, too; they keep all (`config.window(number)` is None).",
                partial(forgetting, window_of=lambda config, number: config.sliding_window)),
        Mistake("In a layer with a window the first key held is not that of token 0: its keys end before `before`.",
                partial(forgetting, begin=lambda before, count: 0)),
        Mistake("You take for the new tokens' positions what a layer holds; it has forgotten some: take `before`.",
                partial(forgetting, first=lambda before, held: held[0][0].shape[2])),
        Mistake("You take for the new tokens' positions what a layer holds; it has forgotten some: take `before`.",
                partial(forgetting, first=lambda before, held: held[0][0].shape[2], begin=lambda before, count: 0)),
        Mistake("With several new tokens the early ones are held beside the late ones: the mask needs the window.",
                partial(forgetting, mask=without_window)),
    ),
    own=(model.forward, model.hidden_states),
    loose=True,
)  # fmt: skip
