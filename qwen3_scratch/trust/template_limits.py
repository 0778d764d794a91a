"""What a chat template may use up: a budget for each rendering, and what is asked before something is computed.

A template is a program of others. Values that it makes are bounded in size, so that any one step is short; each step,
call, filter and operator pays a little, and what it makes is paid for by its size, so that there are not too many.
"""

import re
import time
import types
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import SandboxedFormatter
from jinja2.utils import Namespace

LARGEST = 2**23  # characters of one value or of the whole text: two million tokens, more than any model reads
WORK = 2**27  # what one rendering may spend: a character made costs 1, an item 8, a step 16, a call 64
SECONDS = 30  # and how long it may take, for what the prices misjudge
DEEPEST = 100  # lists in lists in lists ...
WIDEST = 10_000  # characters that a number may ask for, as center(80) does
LARGEST_INTEGER = 16_384  # bits
ITEM, STEP, CALL = 8, 16, 64


class Budget:
    """What one rendering has left."""

    def __init__(self):
        self.left, self.end = WORK, time.monotonic() + SECONDS

    def pay(self, price: int) -> None:
        self.left -= price
        if self.left < 0 or time.monotonic() > self.end:
            raise SecurityError("it computes too much, as a loop without end does")

    def made(self, value: Any) -> Any:
        """The same value, paid for by its size."""
        self.pay(STEP + (len(value) if type(value) is str else weigh(value)))
        room(len(value) if type(value) is str else 0)
        return value

    def steps(self, iterable: Iterable) -> Iterator:
        """The same items, each paid for. A loop over `loop` itself could be nested without bound."""
        if isinstance(iterable, LoopContext):
            raise SecurityError("it loops over its own loop")
        for item in iterable:
            self.pay(STEP)
            yield item


class Steps:
    """What a lazy filter gives, item by item, each paid for; true also where empty, as a generator is."""

    def __init__(self, budget: Budget, items: Iterator):
        self._budget, self._items = budget, items

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        return self._budget.made(next(self._items))


class Notes(Namespace):
    """Jinja's `namespace`, which prints as its name alone: one that holds others may print without end."""

    def __repr__(self) -> str:
        return "<Namespace>"


def room(size: int) -> None:
    if size > LARGEST:
        raise SecurityError(f"it makes a value larger than {LARGEST} characters")


def weigh(value: Any, depth: int = 0) -> int:
    """The size of a value, with all that it holds, as often as it holds it."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, int) and value.bit_length() > LARGEST_INTEGER:
        raise SecurityError(f"it makes an integer of more than {LARGEST_INTEGER} bits")
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        return 1
    if depth == DEEPEST:
        raise SecurityError(f"a value is nested more than {DEEPEST} deep")
    total = ITEM
    for item in chain(value, value.values() if isinstance(value, dict) else ()):
        total += ITEM + weigh(item, depth + 1)
        room(total)
    return total


# ---- what is asked before something is computed ----------------------------------------------


def narrow(*numbers: Any) -> None:
    if any(isinstance(number, int) and abs(number) > WIDEST for number in numbers):
        raise SecurityError(f"it asks for more than {WIDEST} characters at once")


def before_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        text = str(text)
        room(len(text) + text.count(old) * len(new))


def before_percent(text: str, values: Any) -> None:
    """`text % values`: each % may ask for a width, and by name for the same long value again."""
    if re.search(r"%[^%a-zA-Z]*\*", text):
        raise SecurityError("it asks for a width that only its values know")
    widest = max((int(digits) for digits in re.findall(r"\d+", text)), default=0)
    room(len(text) + text.count("%") * (widest + weigh(values)))


def before_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    narrow(width)
    wide = len(width) if isinstance(width, str) else int(width)
    room((str(text).count("\n") + 2) * max(wide, 1))


def before_times(left: Any, right: Any) -> None:
    for many, number in ((left, right), (right, left)):
        if isinstance(number, int) and not isinstance(many, (int, float)):
            room(weigh(many) * max(number, 0))


def before_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > LARGEST_INTEGER:
        raise SecurityError(f"it makes an integer of more than {LARGEST_INTEGER} bits")


def before_sum(_: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, (int, float)):
        raise SecurityError("it sums up what are no numbers")


def before_modulo(left: Any, right: Any) -> None:
    if isinstance(left, str):
        before_percent(left, right)


def before_format(text: Any, *values: Any, **named: Any) -> None:
    before_percent(str(text), named or values)


BEFORE_OPERATOR = {"*": before_times, "**": before_power, "%": before_modulo}
BEFORE_FILTER = {
    **dict.fromkeys(("center", "batch", "slice", "round"), lambda _, *args, **named: narrow(*args, *named.values())),
    "format": before_format, "indent": before_indent, "replace": before_replace, "sum": before_sum,
}  # fmt: skip
GIVES_WHAT_IS_THERE = {"attr", "count", "d", "default", "first", "last", "length", "max", "min", "get"}
# Of these the time grows faster than the text, and no chat template has been seen to use one.
LEFT_OUT = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
METHODS = {
    str: {
        "capitalize", "casefold", "center", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii",
        "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper",
        "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
        "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
        "upper", "zfill",
    },
    list: {"copy", "count", "index"},
    tuple: {"count", "index"},
    dict: {"copy", "get", "items", "keys", "values"},
    (int, float): {"is_integer"},
    (bytes, bytearray, type, types.GeneratorType): set(),
}  # fmt: skip


def before_call(function: Any, args: tuple) -> tuple:
    """The arguments of a call, if it is one of the methods of Python's own types that a text needs."""
    if not isinstance(function, (types.BuiltinMethodType, types.MethodType)):
        return args
    owner, name = function.__self__, function.__name__
    for kind, allowed in METHODS.items():
        if isinstance(owner, kind) and name not in allowed:
            raise SecurityError(f"access to method {name!r} is unsafe")
    if isinstance(owner, str) and name in ("center", "ljust", "rjust", "zfill"):
        narrow(*args)
    elif isinstance(owner, str) and name == "replace":
        before_replace(owner, *args)
    elif isinstance(owner, str) and name == "join" and args:
        items = list(args[0])
        room(weigh(items) + len(items) * len(owner))
        return (items,)
    return args


class Formatter(SandboxedFormatter):
    """`str.format` that leads nowhere and stays small."""

    def __init__(self, environment: jinja2.Environment):
        super().__init__(environment)
        self.made = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        narrow(*map(int, re.findall(r"\d+", format_spec)))
        text = super().format_field(value, format_spec)
        self.made += len(text)
        room(self.made)
        return text
