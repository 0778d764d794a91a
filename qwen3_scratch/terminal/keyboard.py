"""How the terminal listens: prompts and turns of a chat whole, however long, from a person, a file or a pipe."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import Error

WIDE = "standard input is UTF-16 or holds zero bytes as that does, expected UTF-8: convert it, as `iconv` does"


def prepare_input() -> None:
    """Standard input as UTF-8 without the marks of other systems: a byte order mark, CR before each line break."""
    with suppress(AttributeError):  # closed, or replaced by something simpler
        stdin: Any = sys.stdin
        stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline=None)


def without_zero_bytes(text: str) -> str:
    """The same text. Raises Error where it holds zero bytes."""
    if "\0" in text:
        raise Error(WIDE)
    return text


def read_all() -> str:
    """All of standard input, less the line break at its end."""
    if sys.stdin is None:
        raise Error("standard input is closed, expected the prompt there: write it behind the command")
    return without_zero_bytes(sys.stdin.read().removesuffix("\n"))


@contextmanager
def lines_of_any_length() -> Iterator[None]:
    """While it lasts the terminal hands over characters, not lines: of a line it would keep 4,095 bytes.

    Line editing does so by itself while it waits; this is for what is pasted while the model speaks. Where there is
    no line editing lines stay what the terminal makes of them.
    """
    try:
        import readline
        import termios

        place = sys.stdin.fileno()
        before = termios.tcgetattr(place)
    except (ImportError, AttributeError, OSError, termios.error):  # no such platform, or no terminal
        yield
        return
    readline.parse_and_bind("set enable-bracketed-paste on")  # lines that are pasted at once are one message
    now = termios.tcgetattr(place)
    now[3] &= ~termios.ICANON
    now[6][termios.VMIN], now[6][termios.VTIME] = 1, 0
    termios.tcsetattr(place, termios.TCSANOW, now)
    try:
        yield
    finally:
        termios.tcsetattr(place, termios.TCSANOW, before)


@contextmanager
def output_on_the_terminal() -> Iterator[None]:
    """Line editing wants both ends on a terminal: with `chat | tee log` its output goes there while it reads."""
    if sys.stdout.isatty():
        yield
        return
    sys.stdout.flush()
    place = sys.stdout.fileno()
    terminal, kept = os.open(os.ttyname(sys.stdin.fileno()), os.O_WRONLY | os.O_NOCTTY), os.dup(place)
    os.dup2(terminal, place)
    try:
        yield
    finally:
        os.dup2(kept, place)
        os.close(kept)
        os.close(terminal)


def read_line() -> str | None:
    """What the person says next, or None where there is no more: a line, or several that were pasted at once."""
    try:
        if sys.stdin is not None and sys.stdin.isatty():
            with suppress(ImportError, OSError):  # line editing and history, where the platform has them
                import readline  # noqa: F401

                with output_on_the_terminal():  # it draws the line anew, so it has to know the prompt
                    return without_zero_bytes(input("> ")).strip()
        print("> ", end="", file=sys.stderr, flush=True)
        return without_zero_bytes(input()).strip()
    except (EOFError, KeyboardInterrupt, RuntimeError):  # the last: standard input is closed
        print(file=sys.stderr, flush=True)
        return None
