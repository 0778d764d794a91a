"""The course of the embedded checkpoint: which chats it is trained on, and how much of them counts."""

import random
from collections.abc import Iterator

from . import LESSONS, examples
from .common import Example

THINKING_SHARE = 0.5  # of the chats are answered with thinking
# Answers and thinking carry the loss; of the question every fourth token counts a little, for the sake of its words.
PROMPT_EVERY, PROMPT_WEIGHT = 4, 0.05
CURRICULUM = 1000  # steps until stories and sums have their full length

# The same shares from the first step to the last. The exercises (copying, retelling, looking up) are there because
# stories alone ask for a look-up too rarely for the heads to find out how.
SHARES = {"stories": 0.34, "arithmetic": 0.15, "sums": 0.04, "python": 0.12, "facts": 0.05, "spanish": 0.09,
          "chat": 0.05, "copying": 0.08, "retelling": 0.04, "looking_up": 0.04}


def chats_of(step: int, rng: random.Random) -> Iterator[tuple[Example, bool]]:
    """Chats without end as a step has them, and whether each is answered with thinking."""
    difficulty = min(1.0, step / CURRICULUM)
    for example in examples(rng.getrandbits(64), domains=LESSONS, weights=SHARES, difficulty=difficulty):
        yield example, rng.random() < THINKING_SHARE


def target_weights(rng: random.Random, prompt: int, target: int) -> list[float]:
    """How much each token of a chat counts. The first is no target: nothing stands before it."""
    shown = [PROMPT_WEIGHT * (rng.randrange(PROMPT_EVERY) == 0) for _ in range(prompt - 1)]
    return [0.0, *shown, *[1.0] * target]


def first_texts(seed: int) -> Iterator[str]:
    """What is said in the domains' chats at their full length, with the roles that the chat format names."""
    for example in examples(seed, weights=SHARES):
        said = (f"{message['role']}\n{message['content']}" for message in example.messages)
        yield "\n".join([*said, "assistant", example.thinking, example.answer])
