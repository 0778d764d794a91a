"""The one family of errors that a user of this package can cause, and how its sentences quote what was found."""

import operator
import reprlib
from collections.abc import Sequence
from typing import Any


class Error(ValueError):
    """One sentence: what is wrong, where, what was found, what was expected, what to do."""

    def __str__(self) -> str:
        return _printable(super().__str__())  # names of files are quoted, too, and may hold a line break

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence, and not the way through our functions (an IPython hook)."""
        return [f"{type(self).__name__}: {self}"]


class _Short(reprlib.Repr):
    """repr, of lists their first entries and of strings their ends: what is quoted may be millions of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 100, 100

    def repr_int(self, number: int, level: int) -> str:
        return super().repr_int(number, level) if number.bit_length() < 1000 else "a number of hundreds of digits"


def shown(value: Any) -> str:
    """A value as a message quotes it: one line of at most some hundred characters."""
    return one_line(_Short().repr(value))


def one_line(text: object) -> str:
    """What a library says, or a name from a file: nothing in it breaks the line or commands the terminal."""
    found = _printable(str(text))
    return found if len(found) <= 300 else f"{found[:300]}..."


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def first_of(names: Sequence[str]) -> str:
    """The first of some names as a message quotes it, and how many more there are."""
    return one_line(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def whole_number(where: str, name: str, found: Any, least: int = 1) -> int:
    """A count as Python's own number, whoever's it is. Raises Error for what is none, or less than `least`."""
    try:
        number = operator.index(found)
    except TypeError:
        number = None
    if number is None or number < least or isinstance(found, bool):
        raise Error(
            f"{where}: {name} is {shown(found)}, expected a whole number of at least {least}: mend the argument"
        )
    return number


def of_kind(where: str, name: str, found: Any, *kinds: type) -> Any:
    """The argument itself. Raises Error for one of no such kind."""
    if not isinstance(found, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise Error(f"{where}: {name} is {shown(found)}, expected {expected}: mend the argument")
    return found


def true_or_false(where: str, name: str, found: Any) -> bool:
    """The argument, numpy's too, as Python's own. Raises Error for what is neither true nor false."""
    if type(found).__name__ not in ("bool", "bool_"):
        raise Error(f"{where}: {name} is {shown(found)}, expected true or false: mend the argument")
    return bool(found)
