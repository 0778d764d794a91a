"""ps4: how much of a cache serves another prompt. `forward_and_cache` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, text_ids, tiny
from .cached_steps import Held, cached_step, nothing_held
from .small_models import SET, copied

Reused = tuple[list[int], Held]


def reuse(held_ids: Sequence[int], held: Held, prompt: list[int]) -> Reused:
    return kept_up_to(alike, held_ids, held, prompt)


def alike(held_ids: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens both begin with, one of the prompt left out at least."""
    return min(begun_alike(held_ids, prompt), len(prompt) - 1)


def begun_alike(held_ids: Sequence[int], prompt: Sequence[int]) -> int:
    differs = (place for place, pair in enumerate(zip(held_ids, prompt, strict=False)) if pair[0] != pair[1])
    return next(differs, min(len(held_ids), len(prompt)))


def kept_up_to(
    count: Callable[[Sequence[int], Sequence[int]], int], held_ids: Sequence[int], held: Held, prompt: list[int]
) -> Reused:
    """What is left to read, and the keys and values of as many tokens as `count` says."""
    n = count(held_ids, prompt)
    return prompt[n:], [(k[:, :, :n], v[:, :, :n]) for k, v in held]


def drawn_ids(g: torch.Generator, count: int) -> list[int]:
    return randint(g, 0, 6, count).tolist()  # few tokens, so that many are equal by chance


def prompt_case(g: torch.Generator, held_ids: list[int], prompt: list[int], note: str = "", layers: int = 3) -> Case:
    shape = (1, 2, len(held_ids), 4)
    held = [(randn(g, *shape), randn(g, *shape)) for _ in range(layers)]
    return case(held_ids, held, prompt, note=note or f"{alike(held_ids, prompt)} tokens in common")


def another(token: int) -> int:
    return (token + 1) % 6


def prompts(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        same, held_ids, prompt = (drawn_ids(g, randint(g, 3, 9)) for _ in range(3))
        yield prompt_case(g, [*same, another(prompt[0]), *held_ids], same + prompt)


def prompts_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    ids = drawn_ids(g, 8)
    yield prompt_case(g, ids, [*ids, *drawn_ids(g, 3)], note="the prompt goes on")
    yield prompt_case(g, ids, list(ids), note="the same prompt again")
    yield prompt_case(g, [*ids, *drawn_ids(g, 4)], list(ids), note="a shorter prompt, all of it held")
    yield prompt_case(g, ids, ids[:1], note="a prompt of one token")
    yield prompt_case(g, ids, [another(ids[0]), *ids[1:]], note="the first token differs, all others agree")
    yield prompt_case(g, ids, [*ids[:4], another(ids[4]), *ids[5:]], note="one token in between differs")
    yield prompt_case(g, ids, [another(ids[0]), *ids], note="the same, one token later")
    yield prompt_case(g, [], ids, note="nothing is held")
    yield prompt_case(g, ids, [*ids[:3], *drawn_ids(g, 900)], note="a long prompt", layers=1)


def prompts_real(seed: int) -> Iterator[Case]:
    weights, config, ids = tiny().weights, tiny().config, text_ids(seed, 30)
    held = cached_step(weights, ids, config, nothing_held(config, 1))[1]
    for place in (12, 29):
        changed = ids[0].tolist()
        changed[place] = (changed[place] + 1) % config.vocab_size
        yield case(ids[0].tolist(), copied(held), changed, note=f"token {place} differs")


def without_cut(held_ids: Sequence[int], held: Held, prompt: list[int]) -> Reused:
    return prompt[alike(held_ids, prompt) :], held


def cut_from_behind(held_ids: Sequence[int], held: Held, prompt: list[int]) -> Reused:
    n = alike(held_ids, prompt)
    return prompt[n:], [(k[:, :, len(held_ids) - n :], v[:, :, len(held_ids) - n :]) for k, v in held]


def other_dimension(held_ids: Sequence[int], held: Held, prompt: list[int]) -> Reused:
    n = alike(held_ids, prompt)
    return prompt[n:], [(k[:, :n], v[:, :n]) for k, v in held]


def by_negative_end(held_ids: Sequence[int], held: Held, prompt: list[int]) -> Reused:
    n = alike(held_ids, prompt)
    drop = len(held_ids) - n
    return prompt[n:], [(k[:, :, :-drop], v[:, :, :-drop]) for k, v in held]


REUSE = Exercise(
    "reuse",
    SET,
    reuse,
    stages=(
        Stage("prompts that begin alike", prompts),
        Stage("odd configurations", prompts_odd),
        Stage("the real checkpoint's cache", prompts_real),
    ),
    mistakes=(
        Mistake("Nothing is left to read, so there are no logits: keep one token less.",
                partial(kept_up_to, begun_alike)),
        Mistake("You count equal tokens anywhere; what stands behind the first difference was read after another text.",
                partial(kept_up_to, lambda held_ids, prompt: min(
                    sum(a == b for a, b in zip(held_ids, prompt, strict=False)), len(prompt) - 1))),
        Mistake("You read all of the prompt again: keep what both begin with.",
                partial(kept_up_to, lambda held_ids, prompt: 0)),
        Mistake("You keep what is held whole, though the prompt parts from it.",
                partial(kept_up_to, lambda held_ids, prompt: min(len(held_ids), len(prompt) - 1))),
        Mistake("The keys and values of what is not kept have to go, too.", without_cut),
        Mistake("You keep the last tokens; keep the first.", cut_from_behind),
        Mistake("Tokens lie along dimension 2 of [1, kv_heads, tokens, head_dim].", other_dimension),
        Mistake("Where nothing is to be dropped, `[:-0]` is empty: cut from the front, `[:, :, :count]`.",
                by_negative_end),
        Mistake("You keep one token too few: only a prompt that is held whole has to give one back.",
                partial(kept_up_to, lambda held_ids, prompt: max(begun_alike(held_ids, prompt) - 1, 0))),
    ),
    loose=True,
)  # fmt: skip
