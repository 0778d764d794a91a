"""What a handed-out set calls: a check that stops nothing, points by stage, something to see, and what is open."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import Error
from . import exercises
from .checking import Exercise, Unwritten, Wrong

HIDDEN = "Hidden cases (the same stages, other numbers):"
"""The line that parts what students see from what only the graded notebook runs."""


def check(name: str, answer: Callable[..., Any]) -> None:
    """As `exercises.check`, but a wrong answer is said and not raised, so that the cells below run.

    Raises Error for a name that there is not.
    """
    try:
        known(name).check(answer)
    except Wrong as wrong:
        print(told(wrong))


def points(name: str, answer: Callable[..., Any], of: int) -> float:
    """What an answer earns on the hidden cases: half for the first stage, the other half shared by the others.

    Prints a line a stage. Where the first stage is not right there is nothing, whatever the others say: it is what the
    exercise asks for, and they are its edges. Raises Error for a name that there is not.
    """
    exercise, earned = known(name), 0.0
    print(HIDDEN)
    try:
        for share, (stage, found) in zip(shares(exercise), exercise.tried(answer, seed=1), strict=True):
            worth = round(share * of, 2)
            if isinstance(found, Wrong):
                print(told(found) if isinstance(found, Unwritten) else f"0 of {worth:g} · {told(found)}")
                if stage is exercise.stages[0]:
                    break
                continue
            print(f"{worth:g} of {worth:g} · {stage.title}")
            earned += share * of
    except Wrong as wrong:  # no function at all
        print(told(wrong))
    return round(earned, 2)


def shares(exercise: Exercise) -> list[float]:
    """What part of an exercise's points each stage is worth."""
    worth = [stage.worth for stage in exercise.stages[1:]]
    return [0.5, *(0.5 * each / sum(worth) for each in worth)] if worth else [1.0]


def what_is_open(set_name: str, written: Mapping[str, Any]) -> None:
    """Checks all exercises of a set once more and prints for each what is open; `written` are the notebook's names."""
    wanted = [exercise for exercise in exercises().values() if exercise.set == set_name]
    if not wanted:
        sets = dict.fromkeys(exercise.set for exercise in exercises().values())
        raise Error(f"what_is_open: found {set_name!r}, expected one of {', '.join(sets)}: mend the name")
    for exercise in wanted:
        print(f"{exercise.name:<{max(len(each.name) for each in wanted)}}  {state(exercise, written)}")


def see(draw: Callable[[], Any], written: Mapping[str, Any], *needed: str) -> Any:
    """What `draw` gives where the functions that it calls are right in their first stage; else None, and a line each
    that says what is open. Nothing that it raises stops a notebook."""
    reasons = {name: reason for name in needed if (reason := begun(known(name), written))}
    for name, reason in reasons.items():
        print(f"{name}: {reason}; there is something to see here once it is right")
    if reasons:
        return None
    try:
        with torch.no_grad():
            return draw()
    except Exception as error:
        print(f"nothing to see yet: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")


def begun(exercise: Exercise, written: Mapping[str, Any]) -> str | None:
    """Why an answer is open from its first stage on; None where that stage is right."""
    if exercise.name not in written:
        return "open: its cell was not run, or does not run"
    try:
        stage, found = next(exercise.tried(written[exercise.name]))
    except Wrong:
        return "open: it is no function"
    if isinstance(found, Unwritten):
        return "open: not written yet"
    return f"open from its first stage on ({stage.title})" if isinstance(found, Wrong) else None


def state(exercise: Exercise, written: Mapping[str, Any]) -> str:
    """How far an answer is: done, which stages are open, or not written yet."""
    if found := begun(exercise, written):
        return found
    wrong = [stage.title for stage, found in exercise.tried(written[exercise.name]) if isinstance(found, Wrong)]
    return f"open: {', '.join(wrong)}" if wrong else "done"


def told(wrong: Wrong) -> str:
    """What is wrong, each part on a line of its own."""
    if isinstance(wrong, Unwritten):
        return str(wrong)
    return "Not right: " + "\n".join(part for part in wrong.args if part)


def known(name: str) -> Exercise:
    """The exercise of a name. Raises Error for one that there is not."""
    if name not in (found := exercises()):
        raise Error(f"check: no exercise is called {name!r}, expected one of {', '.join(found)}: mend the name")
    return found[name]
