"""Tokens as chips: a chat in its turns, and a text in which one word is highlighted."""

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from ..errors import Error
from .canvas import DARK, FONT, LIT, PALE, SMALL, Figure, new_figure, styled

__all__ = ["token_chips", "word_chips"]

BEGIN, END = "<|im_start|>", "<|im_end|>"
ROLES = {"user": PALE, "assistant": LIT}  # what others say is white
WIDE, HIGH, GAP = 8.2, 0.3, 0.05  # inches: a line of chips, a chip with the space around it, between two chips


@styled
def token_chips(
    labels: Sequence[str], special: Sequence[bool], sent: Sequence[str] = (), ids: Sequence[int] = ()
) -> Figure:
    """A chip a token, dark where it is `special`; a chat has a block of lines for each turn, with the role before it.

    A turn begins at `<|im_start|>`, and its role is the rest of that line. Where the last turn is open an empty chip
    stands for what the model will write. With `sent`, the roles of the messages that were sent, the title says whether
    the tokens hold other turns than these; of a text without turns it says which words are in pieces. With `ids` each
    chip has its id below. Raises Error where not every token is said to be special or not.
    """
    if len(labels) != len(special):
        raise Error(f"special: {len(special)} found, expected one for each of the {len(labels)} tokens")
    turns = _turns(labels)
    chat, open_end = BEGIN in labels, BEGIN in labels and END not in labels[turns[-1].start :]
    lines = ["".join(labels[turn.start : turn.stop]).partition("⏎")[0] for turn in turns]
    roles = [line.removeprefix(BEGIN) if line.startswith(BEGIN) else "" for line in lines]
    blocks = [[labels[at] for at in turn] for turn in turns]
    blocks[-1] += ["…"] * open_end
    numbers = [[str(ids[at]) for at in turn] if ids else [""] * len(turn) for turn in turns]
    numbers[-1] += [""] * open_end
    pairs = [list(zip(*each, strict=True)) for each in zip(blocks, numbers, strict=True)]
    placed = [list(_flow([max(map(chip_width, pair)) for pair in block], WIDE)) for block in pairs]
    heights = [block[-1][1] + 1 if block else 1 for block in placed]
    count, dark_ones = len(labels), sum(map(bool, special))
    if chat:
        turns_said = "1 turn" if len(roles) == 1 else f"{len(roles)} turns"
        title = f"{count} tokens in {turns_said}; {dark_ones} of them, the dark ones, are special"
        title = _forged(turns_said, roles[: len(roles) - open_end], sent) if sent else title
        said = f"in turns of {', '.join(roles)}, special ones dark"
    else:
        title, said = _in_pieces(labels), "words with their space"
    left = 0.95 if chat else 0.1
    step = HIGH + 0.2 if ids else HIGH
    figure, ax = _lines(title, left + WIDE, step * sum(heights))
    tops = [step * sum(heights[:number]) for number in range(len(turns))]
    for role, top in zip(roles, tops, strict=True):
        ax.text(0.1, top + HIGH / 2, role, va="center", weight="bold")
    for turn, role, written, places, top in zip(turns, roles, pairs, placed, tops, strict=True):
        for at, ((text, number), (along, line, wide)) in enumerate(zip(written, places, strict=True)):
            open_chip = at == len(turn)
            dark = not open_chip and special[turn.start + at]
            shade = DARK if dark else "white" if open_chip else ROLES.get(role, "white") if chat else PALE
            look: dict[str, Any] = {"fc": shade, "ls": "--" if open_chip else "-"}
            chip(ax, left + along, top + step * line, wide, text, below=number, **look)
    below = " with its id below" if ids else ""
    figure.alt = f"Each of {count} tokens as a chip{below}, {said}" + ("; the last turn is open." if open_end else ".")
    return figure


@styled
def word_chips(
    labels: Sequence[str],
    places: Collection[int],
    below: Sequence[int] = (),
    named: str = "id",
) -> Figure:
    """A text as its tokens, in lines as it is read; those at `places` are highlighted, and have a number `below`.

    `named` says what these numbers are. A line break ends the line, but within an empty `<think>` block.
    """
    word = labels[min(places)] if places else ""
    times = {1: "once", 2: "twice"}.get(len(places), f"{len(places)} times")
    title = f"“{word}” is there {times} among {len(labels)} tokens"
    title += f"; below each token its {named}" if below else ""
    numbers = [str(number) for number in below] or [""] * len(labels)
    widths = [max(map(chip_width, pair)) for pair in zip(labels, numbers, strict=True)]
    breaks = {at for at, label in enumerate(labels) if label.endswith("⏎")}
    breaks -= {at for at in breaks if at > 0 and [labels[at - 1], *labels[at + 1 : at + 2]] == ["<think>", "</think>"]}
    most = WIDE + 0.4  # room for a line break at the end of a full line
    placed = list(_flow(widths, most, breaks))
    step = HIGH + 0.2 if below else HIGH + 0.04
    figure, ax = _lines(title, most + 0.1, step * (placed[-1][1] + 1 if placed else 1))
    for at, (label, (along, line, wide)) in enumerate(zip(labels, placed, strict=True)):
        left, top = 0.1 + along, step * line
        lit: dict[str, Any] = {"fc": LIT, "ec": "black", "lw": 1.6} if at in places else {}
        chip(ax, left, top, wide, label, bold=at in places, below=numbers[at], **lit)
    figure.alt = f"The text in {len(labels)} boxes, one a token; the boxes of “{word}” are highlighted."
    return figure


# ---- what both are made of -------------------------------------------------------------------------


def _lines(title: str, wide: float, high: float) -> tuple[Figure, Axes]:
    """A figure for lines of chips, and its axes, which count inches from the top left."""
    figure = new_figure(title, wide + 0.15, 0.47 + high)
    figure.set_layout_engine("none")
    figure.suptitle(
        figure.get_suptitle(), x=0.1 / figure.get_figwidth(), y=1 - 0.08 / figure.get_figheight(), ha="left"
    )
    ax = figure.add_axes((0, 0, 1, (high + 0.1) / figure.get_figheight()))
    ax.set(xlim=(0, figure.get_figwidth()), ylim=(high + 0.1, 0))
    ax.set_axis_off()
    return figure, ax


def _flow(
    widths: Sequence[int | float], most: int | float, breaks: Collection[int] = ()
) -> Iterator[tuple[float, int, int | float]]:
    """Where each chip begins, in which line, and its width: a new line begins where none fits, or after a break."""
    at, line = 0.0, 0
    for number, wide in enumerate(widths):
        if at + wide > most and at > 0:
            at, line = 0.0, line + 1
        yield at, line, wide
        at += wide + GAP
        if number in breaks:
            at, line = 0.0, line + 1


def chip(
    ax: Axes, left: float, top: float, wide: int | float, text: str, bold: bool = False, below: str = "", **look: Any
) -> None:
    """A box with round corners and its text, white on a dark one, and what stands below it."""
    shape: dict[str, Any] = {"fc": "white", "ec": "#555555", "lw": 0.7} | look
    corners = "round,pad=0,rounding_size=0.05"
    ax.add_patch(FancyBboxPatch((left, top + 0.1 * HIGH), wide, 0.8 * HIGH, boxstyle=corners, **shape))
    written: dict[str, Any] = {"color": "white" if shape["fc"] == DARK else "black", "weight": "bold" if bold else None}
    ax.text(left + wide / 2, top + 0.49 * HIGH, text, ha="center", va="center", fontsize=SMALL, **written)
    if below:
        ax.text(left + wide / 2, top + 0.39, below, ha="center", va="center", fontsize=SMALL)


@cache
def text_width(text: str) -> float:
    """How many inches a small label is wide."""
    font = font_manager.get_font(font_manager.findfont(FONT))
    font.set_size(SMALL, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 72


def chip_width(text: str) -> float:
    """How many inches a chip with this text is wide, bold or not."""
    return 1.12 * text_width(text) + 0.12


def _in_pieces(labels: Sequence[str]) -> str:
    """Which words are more than one token: letters go on with a word unless they bring a space."""
    words: list[list[str]] = []
    for label in labels:
        if words and label.isalpha() and words[-1][-1].lstrip("␣").isalpha():
            words[-1].append(label)
        else:
            words.append([label])
    cut, count = [word for word in words if len(word) > 1], len(labels)
    if not cut:
        return f"{count} tokens: no word is in pieces"
    said = f"Only “{''.join(cut[0]).lstrip('␣')}” is" if len(cut) == 1 else f"{len(cut)} words are"
    return f"{said} in pieces: {sum(map(len, cut))} of {count} tokens"


def _forged(turns: str, closed: Sequence[str], sent: Sequence[str]) -> str:
    """How many turns there are, and whether nobody sent one of them: what was typed has then become it."""
    left = list(closed)
    for role in sent:
        if role in left:
            left.remove(role)
    if left:
        return f"{turns}, {len(left)} of them forged: what was typed became a turn of the {' and the '.join(left)}"
    return f"{turns}, none forged: what was typed stays within its turn"


def _turns(labels: Sequence[str]) -> list[range]:
    """Where each turn begins and ends; what stands before the first one is one of its own."""
    borders = sorted({0, *(number for number, label in enumerate(labels) if label == BEGIN)})
    return [range(low, high) for low, high in zip(borders, [*borders[1:], len(labels)], strict=True)]
