"""What every domain shares: the Example record, surface noise for questions, and the system messages."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Example(NamedTuple):
    """One chat whose last message is the user's turn that is to be answered."""

    domain: str
    kind: str
    messages: list[dict[str, str]]
    thinking: str
    answer: str


Sampler = Callable[[random.Random, float], Example]  # from a difficulty between 0 and 1


def words(text: str) -> tuple[str, ...]:
    """The words of a text: word lists read better as plain text than as quoted strings."""
    return tuple(text.split())


def parts(text: str) -> tuple[str, ...]:
    """The parts of a text between bars, with single spaces inside."""
    return tuple(" ".join(part.split()) for part in text.split("|"))


# These words name people and things in more than one domain, so that each token is seen often.
GIRLS = ("Mia", "Ana", "Eva", "Lily", "Emma", "Sara", "Nora", "Rosa")
BOYS = ("Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Paul", "Peter")
# No thing or colour starts with a vowel: the article in "a red kite" is then always "a".
THINGS = ("kite", "ball", "book", "hat", "cup", "drum", "lamp", "key", "box", "coat", "bag", "boat", "doll",
          "bell")

OPENERS = ("Hey, ", "Hi! ", "Hello, ", "Question: ", "Quick question: ", "Can you tell me: ",
           "Please answer: ", "I have a question. ", "Okay, ", "So, ", "Now, ", "Please help me: ",
           "Here is my question: ")
IMPERATIVES = frozenset(words("""
    Tell Say Name Write Give Translate Put Define Show Evaluate Run Work Start Take Compute Calculate Find
    Explain Create Make Code Turn Describe Recommend Compare Count
    """))
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a tiny assistant.",
    "Answer the question of the user.",
    "Answer briefly and correctly.",
    "You are a friendly chat model.",
    "Be polite and short.",
)


def user(text: str) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def lower_first(text: str) -> str:
    """Lower-case the first letter, but leave the word "I" and a leading {slot} alone."""
    if text[:1] == "{" or text[:2] in ("I ", "I'"):
        return text
    return text[:1].lower() + text[1:]


def upper_first(text: str) -> str:
    """Upper-case the first letter and keep the rest (str.capitalize would lower names inside)."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun with "a" or "an": "a cow", "an owl", "an hour"."""
    return ("an " if noun[0].lower() in "aeiou" or noun.startswith("hour") else "a ") + noun


def noisy(rng: random.Random, template: str, fields: Mapping[str, object] | None = None, *,
          protect: bool = False, openers: bool = True) -> str:
    """Fill `template` and roughen its surface the way people type.

    Noise acts on the template before the slots are filled, so an expression in a slot stays as it is;
    `protect=True` keeps even the all-lower-case noise away from the slots.
    """
    draw = rng.random()
    if openers and draw < 0.15:
        if template.split(" ", 1)[0] in IMPERATIVES and rng.random() < 0.6:
            template = "Please " + lower_first(template)
        else:
            opener = rng.choice(OPENERS)
            template = opener + (lower_first(template) if opener[-2] in ",:" else template)
    elif openers and draw < 0.19 and template[-1] in "?.":
        template = template[:-1] + ", please" + template[-1]
    elif draw < 0.29:
        template = lower_first(template)
    if template[-1] in "?." and rng.random() < 0.1:
        template = template[:-1]
    lower = rng.random() < 0.1
    if lower:
        template = template.lower()  # the names of the slots are lower case anyway
    text = template.format(**(fields or {}))
    return text.lower() if lower and not protect else text
