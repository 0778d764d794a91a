"""How the terminal talks: answers to standard output, everything else to standard error, and quiet ends.

Whatever a model or a checkpoint says is made `visible` first, also where the output is a file or a pipe, since those
end on a terminal sooner or later.
"""

import codecs
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from rich.console import Console, RenderableType

from ..devices.launch import started_by_torchrun
from ..errors import Error
from ..generation import Generation
from ..text_stream import Piece
from .keyboard import WIDE

screen = Console(stderr=True, highlight=False, emoji=False)  # what a model says stays as it is, `:cat:` too
WIDTH = 80  # characters of a table's line; a narrower terminal breaks it, and nothing is left out

# What commands a terminal, but for line break and tab: drawn where Unicode has a picture of it (U+241B for escape),
# else spelled out; also what turns the direction of writing, so that a text reads otherwise than it runs.
TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
DRAWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\N{SYMBOL FOR DELETE}"}
DRAWN |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)} | {code: f"\\u{code:04x}" for code in TURNS}


def visible(text: object) -> str:
    """The text with everything drawn that would command the terminal."""
    return str(text).translate(DRAWN)


def say(text: object) -> None:
    """A line to standard output."""
    print(visible(text), flush=True)


def note(text: object, style: str | None = None) -> None:
    """A line to standard error, never broken: what is narrower than it breaks it by itself."""
    screen.print(visible(text), style=style, markup=False, soft_wrap=True)


def show_table(table: RenderableType) -> None:
    Console(stderr=True, highlight=False, emoji=False, quiet=screen.quiet, width=WIDTH).print(table)


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
        wide = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        complain(WIDE if wide else f"standard input is no text in {error.encoding} ({error.reason}): convert it")
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
    note(f"error: {message}".translate({ord("\n"): "\N{SYMBOL FOR NEWLINE}"}))


@contextmanager
def speaker(mesh: Any) -> Iterator[bool]:
    """Of many processes only the first writes, and is told that it is; the others compute the same."""
    if mesh is None or mesh.get_rank() == 0:
        yield True
        return
    screen.quiet = True
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
        yield False


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
            screen.print(visible(piece), end="", style="dim italic", markup=False, soft_wrap=True)
        else:
            if thought:
                screen.print("\n")
            print(visible(piece), end="", flush=True)
        thought = piece.thinking


def tell_why_short(found: Generation, advice: str) -> None:
    """One line where the answer was cut off, or where there is none."""
    count = len(found.token_ids)
    if found.cut_in_thinking and found.finish_reason == "length":
        note(f"(cut off after {count} tokens, within the thinking: no answer yet; {advice}, or --no-thinking)")
    elif found.finish_reason == "length":
        note(f"(cut off after {count} tokens; {advice})")
    elif not found.text.strip():
        where = "within the thinking" if found.cut_in_thinking else "without a word"
        note(f"(ended {where} after {count} tokens: there is no answer)")
