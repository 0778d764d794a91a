"""A corpus without end: short chats in six small domains, made by rules from a seed.

Each domain is one file with a `sample(rng, difficulty)`. The share that is_held_out() picks never appears in
training, so a model can be tested on questions that it has not seen.
"""

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence

from . import arithmetic, chat, code, copying, facts, spanish, stories
from .common import SYSTEM_MESSAGES, Example, Sampler, assistant

__all__ = ["DOMAINS", "LESSONS", "Example", "Sampler", "examples", "is_correct", "is_held_out", "sample"]

DOMAINS = ("stories", "arithmetic", "python", "facts", "spanish", "chat")
LESSONS = (*DOMAINS, "sums", "copying", "retelling", "looking_up")  # what is no domain is never scored
SAMPLERS: dict[str, Sampler] = {
    "stories": stories.varied, "arithmetic": arithmetic.sample, "python": code.varied,
    "facts": facts.sample, "spanish": spanish.sample, "chat": chat.sample, "copying": copying.sample,
    "retelling": stories.retelling, "looking_up": stories.looking_up, "sums": arithmetic.plain}
SHORT = ("python", "facts", "spanish", "chat", "chat")


def exchange(rng: random.Random, difficulty: float) -> list[dict[str, str]]:
    """An earlier question and its answer, from any of the short domains.

    People greet first and change the subject, so every domain must also be met in the middle of a chat.
    The earlier question is never a held-out one: its answer stands in the text.
    """
    while True:
        earlier = SAMPLERS[rng.choice(SHORT)](rng, difficulty)
        if not is_held_out(earlier):
            return [*earlier.messages, assistant(earlier.answer)]


def sample(domain: str, rng: random.Random, *, difficulty: float = 1.0) -> Example:
    """One example of a domain, now and then after an earlier exchange or a system message."""
    example = SAMPLERS[domain](rng, difficulty)
    if rng.random() < 0.06:
        example = example._replace(messages=[*exchange(rng, difficulty), *example.messages])
    if rng.random() < 0.05:
        system = {"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}
        example = example._replace(messages=[system, *example.messages])
    return example


def examples(seed: int, *, held_out: bool = False, domains: Sequence[str] = DOMAINS,
             weights: Sequence[float] | Mapping[str, float] | None = None,
             difficulty: float = 1.0) -> Iterator[Example]:
    """Examples without end, the same for the same arguments; only held-out ones, or none of them.

    `weights` are the relative shares of the domains, in their order or by name (missing names weigh nothing).
    """
    rng = random.Random(seed)
    if isinstance(weights, Mapping):
        weights = [weights.get(domain, 0.0) for domain in domains]
    while True:
        # The domain is drawn once and kept until an example passes: rejection must not shift the shares.
        domain = rng.choices(domains, weights)[0]
        example = sample(domain, rng, difficulty=difficulty)
        while is_held_out(example) != held_out:
            example = sample(domain, rng, difficulty=difficulty)
        yield example


def normal(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())


def is_held_out(example: Example) -> bool:
    """One example in ten, by the text of its last user turn (hash() would change from run to run)."""
    return zlib.crc32(normal(example.messages[-1]["content"]).lower().encode()) % 10 == 0


def is_correct(example: Example, answer: str) -> bool:
    """Whether the answer is the expected one, up to white space."""
    return normal(answer) == normal(example.answer)
