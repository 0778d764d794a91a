"""ps5, last part: text that arrives in pieces and ends at a stop string. `sampling_and_chat` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ...checkpoints.checkpoint import tokenizer_of
from ...tiny.evaluate import questions
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, tiny
from .chat_text import words
from .drawing import SET


def stop_stream(pieces: Sequence[str], stops: Sequence[str]) -> list[str]:
    return streamed(pieces, stops)


def earliest(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, if there is one; of two that end together the longer."""
    ends = ((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
    return min(ends, default=(0, None))[1]


def started(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may be the start of a stop string."""
    sizes = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return max(sizes, default=0)


def streamed(
    pieces: Sequence[str],
    stops: Sequence[str],
    *,
    find: Callable[[str, Sequence[str]], int | None] = earliest,
    keep: Callable[[str, Sequence[str]], int] = started,
    rest: Callable[[str], str] = lambda held: held,
) -> list[str]:
    """What is shown after each piece, and at the end; `find` and `keep` are where it goes wrong."""
    held = ""
    shown: list[str] = []
    for piece in pieces:
        held += piece
        cut = find(held, stops)
        if cut is not None:
            return [*shown, held[:cut]]
        size = len(held) - keep(held, stops)
        shown.append(held[:size])
        held = held[size:]
    return [*shown, rest(held)]


def cut_up(g: torch.Generator, text: str) -> list[str]:
    """A text in pieces of one to three characters."""
    pieces = []
    while text:
        size = randint(g, 1, 4)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def streams(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(6):
        text, stop = words(g, 4, 7), ("END", "\n\n", "User:")[number % 3]
        more = f"{stop} {words(g, 1, 3)}" if number < 4 else ""
        yield case(cut_up(g, text + stop[:-1] + text[:3] + more), [stop], note=f"stop string {stop!r}")


def streams_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case([f"{words(g, 1, 3)}#", "# ", words(g, 1, 2)], ["##"], note="a stop string across two pieces")
    yield case(cut_up(g, f"{words(g, 1, 3)} aaab {words(g, 1, 3)}"), ["aab"], note="a start within a start")
    yield case([f"{words(g, 2, 3)} STOP, then END"], ["END", "STOP"], note="two stop strings in one piece")
    yield case(cut_up(g, f"{words(g, 2, 4)} EN"), ["END"], note="the end looks like a start")
    yield case(cut_up(g, words(g, 2, 5)), [], note="no stop string")
    yield case(cut_up(g, f"{words(g, 1, 3)}<<<"), ["<<end>>", "<|end|>"], note="starts of two lengths")
    yield case([], ["END"], note="no piece")
    longer = [f"{words(g, 1, 3)} ST", "OP END"]
    yield case(longer, ["STOPPED", "END", "#"], note="several stop strings, in no order")
    yield case([words(g, 1, 2), "", "<", "", "|end|> no"], ["<|end|>", "|"], note="pieces without a character")
    yield case([f"{words(g, 1, 2)} ENDING"], ["ENDING", "END"], note="one stop string begins another")
    yield case(["a", "b", "#"], ["#"], note="a stop string of one character, in the last piece")
    long = "<|a very long stop string|>"
    yield case(
        cut_up(g, f"{words(g, 1, 3)}{long[:-1]} {long}"), [long], note="a long stop string, first without its end"
    )
    yield case(cut_up(g, f"{words(g, 1, 2)} abababac"), ["ababac"], note="a stop string that repeats itself")
    yield case([f"{words(g, 1, 2)}E"], ["END"], note="one piece, which ends in a start")
    yield case(["E", "N", "D"], ["END"], note="nothing but the stop string")
    text = f"{words(g, 1, 2)} <a<b>c>"
    for pieces in ([text], [text[:-2], text[-2:]], list(text)):
        for stops in (["<a<b>c>", "<b>"], ["<b>", "<a<b>c>"]):
            yield case(pieces, stops, note="a stop string within another, which begins first and ends last")
    yield case([f"{words(g, 1, 2)} the end"], ["end", "the end"], note="two stop strings that end together")
    yield case(cut_up(g, f"END {words(g, 1, 3)}"), ["END"], note="the stop string comes first")


def streams_real(seed: int) -> Iterator[Case]:
    tokenizer = tokenizer_of(tiny())
    for example in questions("stories", 2, seed=400 + seed):
        text = example.messages[-1]["content"]
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        yield case(pieces, ["Who ", text[-30:-20]], note="tokens of a story")


def begins_first(text: str, stops: Sequence[str]) -> int | None:
    return min((text.find(stop) for stop in stops if stop in text), default=None)


def in_its_order(text: str, stops: Sequence[str]) -> int | None:
    return next((text.find(stop) for stop in stops if stop in text), None)


def stop_included(text: str, stops: Sequence[str]) -> int | None:
    return min(((text.find(stop), text.find(stop) + len(stop)) for stop in stops if stop in text), default=(0, None))[1]


def shortest(text: str, stops: Sequence[str]) -> int:
    sizes = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return min(sizes, default=0)


def longest_stop(text: str, stops: Sequence[str]) -> int:
    return min(len(text), max(map(len, stops), default=1) - 1)


def using(**parts: Any) -> Callable[..., list[str]]:
    return lambda pieces, stops: streamed(pieces, stops, **parts)


def all_of(text: str, stops: Sequence[str]) -> int:
    return len(text)


STOP_STREAM = Exercise(
    "stop_stream",
    SET,
    stop_stream,
    stages=(
        Stage("random pieces", streams),
        Stage("odd streams", streams_odd),
        Stage("the real checkpoint's tokens", streams_real),
    ),
    mistakes=(
        Mistake("A stop string may lie across pieces: hold back what it may begin with until that is certain.",
                using(keep=lambda text, stops: 0)),
        Mistake("You hold back as many characters as a stop string has, less one; hold back only what is its start.",
                using(keep=longest_stop)),
        Mistake("You show everything at the end; show after each piece what has become certain.", using(keep=all_of)),
        Mistake("The stop string is shown; the text ends before it.", using(find=stop_included)),
        Mistake("You take the first stop string of the list; take the one that comes first in the text.",
                using(find=in_its_order)),
        Mistake("You take the stop string that begins first; the one that is complete first counts, or the result "
                "depends on how the text was cut.", using(find=begins_first)),
        Mistake("Of several starts at the end the longest is held back; you hold back the shortest.",
                using(keep=shortest)),
        Mistake("What was held back is lost at the end: if no stop string came, it is text.",
                using(rest=lambda held: "")),
        Mistake("One entry is missing at the end: what was still held back, even if it is empty.",
                lambda pieces, stops: streamed(pieces, stops)[: len(pieces)]),
    ),
)  # fmt: skip
