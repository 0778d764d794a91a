"""The course of the embedded checkpoint: which chats it is trained on at which step, and how much of them counts."""

import random
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from . import LESSONS, SAMPLERS, code, examples, stories
from .common import Example, Sampler

THINKING_SHARE = 0.5  # of the chats are answered with thinking
# Answers and thinking carry the loss; of the question every fourth token counts a little, for the sake of its words.
PROMPT_EVERY, PROMPT_WEIGHT = 4, 0.05
CURRICULUM = 1000  # steps until stories and sums have their full length

SHARES = {"stories": 0.40, "arithmetic": 0.18, "python": 0.12, "facts": 0.07, "spanish": 0.14, "chat": 0.09}
EXERCISED = {**SHARES, "python": 0.10, "facts": 0.05, "spanish": 0.10, "chat": 0.06, "copying": 0.20}
LISTED = {**SHARES, "python": 0.12, "facts": 0.07, "spanish": 0.11, "chat": 0.06, "copying": 0.08, "retelling": 0.14}
LOOKED_UP = {**SHARES, "stories": 0.36, "facts": 0.06, "spanish": 0.10, "chat": 0.06,
             "retelling": 0.08, "looking_up": 0.14}
VARIED = {**LOOKED_UP, "stories": 0.40, "python": 0.14, "sums": 0.05, "retelling": 0.04, "looking_up": 0.05}

RINGS: dict[str, Sampler] = {**SAMPLERS, "stories": stories.sample, "python": code.sample}
QUOTES: dict[str, Sampler] = {**RINGS, "stories": partial(stories.sample, thinking=stories.quoted)}
LISTS: dict[str, Sampler] = {
    **RINGS, "stories": partial(stories.sample, thinking=partial(stories.noted, notes=stories.LIST)),
    "retelling": partial(stories.retelling, notes=stories.LIST), "looking_up": stories.answering_from_list}


class Lesson(NamedTuple):
    """What is trained on from a step on."""

    start: int
    shares: dict[str, float]
    samplers: dict[str, Sampler] = SAMPLERS


# Each lesson mends what the one before left at chance. Quoting a story's sentences taught templates, not look-ups.
# Copying taught the heads to find a word's follower. Lists were noted down well, but not looked up. In a ring every
# look-up is a step to a word's follower. Last come freer wordings.
COURSE = (
    Lesson(0, SHARES, QUOTES),
    Lesson(1250, EXERCISED, QUOTES),
    Lesson(2250, LISTED, LISTS),
    Lesson(2750, LOOKED_UP, LISTS),
    Lesson(3500, LOOKED_UP, RINGS),
    Lesson(4250, VARIED),
)


def chats_of(step: int, rng: random.Random) -> Iterator[tuple[Example, bool]]:
    """Chats without end as the lesson of a step has them, and whether each is answered with thinking."""
    lesson = next(lesson for lesson in reversed(COURSE) if lesson.start <= step)
    for example in examples(rng.getrandbits(64), domains=LESSONS, weights=lesson.shares,
                            difficulty=min(1.0, step / CURRICULUM), samplers=lesson.samplers):
        yield example, rng.random() < THINKING_SHARE


def target_weights(rng: random.Random, prompt: int, target: int) -> list[float]:
    """How much each token of a chat counts. The first is no target: nothing stands before it."""
    shown = [PROMPT_WEIGHT * (rng.randrange(PROMPT_EVERY) == 0) for _ in range(prompt - 1)]
    return [0.0, *shown, *[1.0] * target]


def first_texts(seed: int) -> Iterator[str]:
    """What is said in the first lesson's chats at their full length, with the roles that the chat format names."""
    for example in examples(seed, weights=SHARES, samplers=QUOTES):
        said = (f"{message['role']}\n{message['content']}" for message in example.messages)
        yield "\n".join([*said, "assistant", example.thinking, example.answer])
