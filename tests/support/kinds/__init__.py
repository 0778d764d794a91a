"""Answers of the kinds that a check has to tell apart, right ones among them, each named `exercise__what`.

Modules of `first` grew with the checks; those of `afterwards` were written without a look at them.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

MASK = "a mask ignored"
CONSTANT = "a constant of the code"
GRADIENT = "a result without gradient"
CHANGED = "an input changed"
EDGE = "a threshold at its edge"
FINITE = "scores hidden by a finite number"
FORBIDDEN = "what the text forbids"
TYPE = "another type or container"
KINDS = (MASK, CONSTANT, GRADIENT, CHANGED, EDGE, FINITE, FORBIDDEN, TYPE)


class Answer(NamedTuple):
    """One of a bank: what it answers, of which kind it is, and whether it is right."""

    exercise: str
    what: str
    kind: str
    right: bool
    function: Callable[..., Any]
    fresh: bool  # written after the checks, without a look at them


def wrong(kind: str, right: bool = False) -> Callable[[Any], Any]:
    """Marks an answer as a wrong one of a kind."""

    def marked(function: Any) -> Any:
        function.kind, function.right = kind, right
        return function

    return marked


def right(kind: str) -> Callable[[Any], Any]:
    """Marks an answer as a right one, which a check of that kind might refuse."""
    return wrong(kind, right=True)


def answers() -> list[Answer]:
    """All of them, in the order of their files."""
    found = []
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            if kind := getattr(value, "kind", None):
                exercise, what = value.__name__.split("__", 1)
                found.append(Answer(exercise, what, kind, value.right, value, module.startswith("afterwards")))
    return found
