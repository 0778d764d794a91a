"""The exercises of the course: `check("rope", my_rope)` says in any notebook what is right and what is not yet.

Each set has a folder, `ps1` to `ps7`; `checking` is how an answer is tried, `watching` what it does meanwhile,
`comparing` how two values differ, `material` what cases are made of, `sets` what a handed-out notebook calls. Uses the
model, generation, tracing, the embedded checkpoint and the mistakes of `inside`.
"""

from collections.abc import Callable
from typing import Any

from ..errors import Error
from .checking import Exercise, Passed, Wrong
from .comparing import difference
from .ps1 import norm_and_rope
from .ps2 import attention
from .ps3 import router_and_experts
from .ps4 import forward_and_cache
from .ps5 import sampling_and_chat
from .ps6 import find_the_bug
from .ps7 import steps

SETS = (norm_and_rope, attention, router_and_experts, forward_and_cache, sampling_and_chat, find_the_bug, steps)

__all__ = ["Wrong", "check", "compare", "exercises", "names"]


def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the sets."""
    return {exercise.name: exercise for module in SETS for exercise in module.EXERCISES}


def names() -> tuple[str, ...]:
    """What `check` knows."""
    return tuple(exercises())


def check(name: str, answer: Callable[..., Any], *, seed: int = 0, hidden: bool = False) -> Passed:
    """Compares a function with the one that exercise `name` asks for, on cases that grow harder.

    Prints a line a stage and raises Wrong at the first case that is not right, with the likely mistake. Another `seed`
    draws other cases; `hidden` adds those that only the graded notebook runs. Raises Error for an unknown name.
    """
    known = exercises()
    if name not in known:
        raise Error(f"check: no exercise is called {name!r}, expected one of {', '.join(known)}: mend the name")
    return known[name].check(answer, seed, hidden)


def compare(answer: Callable[..., Any], expected: Any, *arguments: Any) -> Passed:
    """Whether a function that a chapter asks for, and no set has, gives what is expected, within 1e-4 of the largest.

    Prints that it does, or that it is not written yet; raises Wrong, with the difference, where it does not. What is
    returned is true where it does.
    """
    try:
        found = answer(*arguments)
    except NotImplementedError:
        print(f"{answer.__name__}: not written yet: replace `raise NotImplementedError` by your code")
        return Passed()
    if wrong := difference(found, expected, 1e-4):
        raise Wrong(f"{answer.__name__}: {wrong}")
    print(f"{answer.__name__}: right")
    return Passed([("as expected", 1)])
