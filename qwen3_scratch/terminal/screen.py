"""How the terminal talks: answers to standard output, everything else to standard error, and quiet ends."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from rich.console import Console

from ..devices.launch import started_by_torchrun
from ..errors import Error
from ..generation import Generation
from ..text_stream import Piece

screen = Console(stderr=True, highlight=False, emoji=False)  # what a model says stays as it is, `:cat:` too


@contextmanager
def one_line_ends() -> Iterator[None]:
    """Whatever ends a command ends it with an exit code and at most one line on standard error.

    1 for an error, 130 after Ctrl-C and 143 after SIGTERM, as shells count; what is half written is taken away first.
    """
    try:
        with orderly_sigterm():
            yield
        return
    except Error as error:
        complain(error)
    except UnicodeDecodeError as error:
        complain(f"standard input is no text in {error.encoding} ({error.reason}): convert it")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stdout = None
    raise SystemExit(1)


@contextmanager
def orderly_sigterm() -> Iterator[None]:
    """SIGTERM unwinds what runs, as Ctrl-C does. Ranks of torchrun die at once: they may be waiting for each other."""

    def leave(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = None
    if not started_by_torchrun():
        with suppress(ValueError):  # not the main thread: then signals are another's to handle
            before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def complain(message: object) -> None:
    screen.quiet = False
    screen.print(f"error: {message}", markup=False, soft_wrap=True)


@contextmanager
def speaker(mesh: Any) -> Iterator[bool]:
    """Of many processes only the first writes, and is told that it is; the others compute the same."""
    if mesh is None or mesh.get_rank() == 0:
        yield True
        return
    screen.quiet = True
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        yield False


def read_line() -> str | None:
    """One line from the person, or None where there is no more."""
    with suppress(ImportError):  # line editing and history, where the platform has them
        import readline  # noqa: F401
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            return input("> ").strip()  # line editing draws the line anew, so it has to know the prompt
        screen.print("> ", end="")
        return input().strip()
    except (EOFError, KeyboardInterrupt):
        screen.print()
        return None


def show(pieces: Any) -> Generation:
    """Prints pieces as they come, thinking dimmed on standard error, the answer on standard output."""
    thought = False
    while True:
        try:
            piece: Piece = next(pieces)
        except StopIteration as end:
            print(flush=True)
            return end.value
        except KeyboardInterrupt:
            screen.print()  # what comes next starts on a line of its own
            raise
        if piece.thinking:
            screen.print(piece, end="", style="dim italic", markup=False, soft_wrap=True)
        else:
            if thought:
                screen.print("\n")
            print(piece, end="", flush=True)
        thought = piece.thinking
