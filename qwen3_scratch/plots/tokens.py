"""Tokens as chips, the embedding as a map of words, and how the stream grows where nothing holds it back."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from ..errors import Error
from .canvas import (
    DARK,
    FONT,
    LIT,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)

__all__ = ["embedding_map", "stream_growth", "token_chips"]

BEGIN, END = "<|im_start|>", "<|im_end|>"
ROLES = {"user": PALE, "assistant": LIT}  # what others say is white
WIDE, HIGH, GAP = 8.2, 0.3, 0.05  # inches: a line of chips, a chip with the space around it, between two chips
LOOKS = (("o", DARK), ("s", "white"), ("^", MIDDLE), ("D", LIT), ("v", DARK), ("P", "white"))  # of kinds of words


# ---- chips -----------------------------------------------------------------------------------------


@styled
def token_chips(labels: Sequence[str], special: Sequence[bool], sent: Sequence[str] = ()) -> Figure:
    """A chip a token, dark where it is `special`; a chat has a block of lines for each turn, with the role before it.

    A turn begins at `<|im_start|>`, and its role is the rest of that line. Where the last turn is open an empty chip
    stands for what the model will write. With `sent`, the roles of the messages that were sent, the title says whether
    the tokens hold other turns than these. Raises Error where not every token is said to be special or not.
    """
    if len(labels) != len(special):
        raise Error(f"special: {len(special)} found, expected one for each of the {len(labels)} tokens")
    turns = _turns(labels)
    chat, open_end = BEGIN in labels, BEGIN in labels and END not in labels[turns[-1].start :]
    left, lines = 0.95 if chat else 0.1, 0
    chips: list[tuple[float, int, float, str, str, str]] = []  # left, line, width, label, shade, edge
    roles = []
    for turn in turns:
        texts = [*labels[turn.start : turn.stop], *(["…"] if open_end and turn is turns[-1] else [])]
        role = "".join(labels[turn.start + 1 : turn.stop]).partition("⏎")[0] if labels[turn.start] == BEGIN else ""
        roles.append((lines, role))
        at = left
        for number, text in enumerate(texts):
            wide = _inches(text) + 0.12
            if at + wide > left + WIDE and at > left:
                at, lines = left, lines + 1
            open_chip = number == len(turn)
            dark = not open_chip and special[turn.start + number]
            shade = DARK if dark else "white" if open_chip else ROLES.get(role, "white") if chat else PALE
            chips.append((at, lines, wide, text, shade, "--" if open_chip else "-"))
            at += wide + GAP
        lines += 1
    count, dark_ones = len(labels), sum(map(bool, special))
    if chat:
        turns_said = "1 turn" if len(roles) == 1 else f"{len(roles)} turns"
        title = f"{count} tokens in {turns_said}; {dark_ones} of them, the dark ones, are special"
        closed = [role for _, role in roles[: len(roles) - open_end]]
        title = _forged(closed, sent) if sent else title
    else:
        spaced = sum(label.startswith("␣") for label in labels)
        title = f"{count} tokens, {spaced} of which bring the space before them"
    figure = new_figure(title, left + WIDE + 0.15, 0.47 + HIGH * lines)
    figure.set_layout_engine("none")
    figure.suptitle(
        figure.get_suptitle(), x=0.1 / figure.get_figwidth(), y=1 - 0.08 / figure.get_figheight(), ha="left"
    )
    ax = figure.add_axes((0, 0, 1, (HIGH * lines + 0.1) / figure.get_figheight()))
    ax.set(xlim=(0, figure.get_figwidth()), ylim=(lines + 0.1 / HIGH, 0))
    ax.set_axis_off()
    for line, role in roles:
        ax.text(0.1, line + 0.5, role, va="center", weight="bold")
    for at, line, wide, text, shade, edge in chips:
        _chip(ax, at, line, wide, shade, edge)
        colour = "white" if shade == DARK else "black"
        ax.text(at + wide / 2, line + 0.49, text, ha="center", va="center", fontsize=SMALL, color=colour)
    said = (
        f"in turns of {', '.join(role for _, role in roles)}, special ones dark" if chat else "words with their space"
    )
    figure.alt = f"Each of {count} tokens as a chip, {said}" + ("; the last turn is open." if open_end else ".")
    return figure


def _forged(closed: Sequence[str], sent: Sequence[str]) -> str:
    """Whether there are turns that nobody sent: what was typed has then become one."""
    left = list(closed)
    for role in sent:
        if role in left:
            left.remove(role)
    if left:
        return f"What was typed became a turn of the {' and the '.join(left)}, which nobody sent"
    return f"What was typed stays within its turn: {len(sent)} sent, {len(closed)} seen"


def _turns(labels: Sequence[str]) -> list[range]:
    """Where each turn begins and ends; what stands before the first one is one of its own."""
    borders = sorted({0, *(number for number, label in enumerate(labels) if label == BEGIN)})
    return [range(low, high) for low, high in zip(borders, [*borders[1:], len(labels)], strict=True)]


def _chip(ax: Axes, left: float, line: int, wide: float, shade: str, edge: str) -> None:
    """A box with round corners; the axis counts inches along and lines down."""
    corners = "round,pad=0,rounding_size=0.05"
    look: dict[str, Any] = {"fc": shade, "ec": "#555555", "lw": 0.7, "ls": edge, "mutation_aspect": 1 / HIGH}
    ax.add_patch(FancyBboxPatch((left, line + 0.1), wide, 0.8, boxstyle=corners, **look))


def _inches(text: str) -> float:
    """How wide a label is."""
    font = font_manager.get_font(font_manager.findfont(FONT))
    font.set_size(SMALL, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 72


# ---- the map of words ------------------------------------------------------------------------------


@styled
def embedding_map(vectors: Float[Tensor, "words hidden"], labels: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Words in the plane in which their vectors differ most, with how much of their variance it shows on its axes.

    The title counts, in all dimensions, the words whose nearest neighbour (by the cosine) is of their own kind.
    """
    vectors = vectors.float().cpu()
    centred = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:2] * directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)).sign()
    points = F.pad(centred @ directions.T, (0, 2 - len(directions)))  # [words, 2]
    shares = points.pow(2).sum(0) / centred.pow(2).sum().clamp(min=1e-12)
    figure = new_figure(_own_kind(vectors, kinds), 7.4, 5.0)
    figure.set_layout_engine("none")  # so that the labels' places in inches are known
    ax = figure.add_axes((0.09, 0.11, 0.72, 0.8))
    low, high = points.min(0).values, points.max(0).values
    spread = (high - low).where(high > low, torch.ones(2))
    low, spread = low - 0.12 * spread, 1.24 * spread  # left lower corner and size of what is shown
    (left, under), (right, over) = low.tolist(), (low + spread).tolist()
    ax.set(xlim=(left, right), ylim=(under, over))
    names = list(dict.fromkeys(kinds))
    for number, name in enumerate(names):
        form, shade = LOOKS[number % len(LOOKS)]
        own = points[[kind == name for kind in kinds]]
        across, up = own.T.tolist()
        ax.scatter(across, up, s=32, marker=form, fc=shade, ec=DARK, lw=0.8, label=name, zorder=3)
    size = torch.tensor([0.72 * 7.4, 0.8 * 5.0])
    places = (points - low) / spread * size  # in inches
    for number, box in _boxes(places, labels, size):
        corners = torch.tensor(box).view(2, 2) / size * spread + low  # left lower, right upper
        (left, under), (right, over) = corners.tolist()
        x, y = points[number].tolist()
        ends = (x, min(max(x, left), right)), (y, min(max(y, under), over))
        ax.plot(*ends, color="#888888", lw=0.6, zorder=1)  # of a label far from its marker one sees it
        ax.text(left, under, labels[number], fontsize=SMALL, ha="left", va="bottom")
    ax.axhline(0, color="#bbbbbb", lw=0.6, zorder=0)
    ax.axvline(0, color="#bbbbbb", lw=0.6, zorder=0)
    ax.set_xlabel(f"first direction: {shares[0]:.0%} of the variance of these {len(labels)} words")
    ax.set_ylabel(f"second direction: {shares[1]:.0%}")
    figure.legend(frameon=False, loc="center right")
    figure.alt = (
        f"A map of {len(labels)} words of {len(names)} kinds ({', '.join(names)}), each kind with its own marker."
    )
    figure.alt += f" Its two directions hold {shares[0]:.0%} and {shares[1]:.0%} of the variance."
    return figure


def _own_kind(vectors: Tensor, kinds: Sequence[str]) -> str:
    """How many words lie nearest to one of their own kind, and how many would by chance."""
    count = len(kinds)
    if count < 2:
        return "A word alone has no neighbour on the map"
    unit = F.normalize(vectors, dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(-math.inf).argmax(-1).tolist()
    own = sum(kinds[at] == kind for at, kind in zip(nearest, kinds, strict=True))
    chance = sum(list(kinds).count(kind) - 1 for kind in kinds) / (count - 1)
    found = f"all {count} words" if own == count else f"{own} of {count} words"
    return f"In {vectors.shape[-1]} dimensions {found} are nearest to one of their kind (by chance {chance:.0f})"


Box = tuple[float, float, float, float]  # left, lower, right, upper


def _boxes(
    places: Float[Tensor, "words 2"], labels: Sequence[str], size: Float[Tensor, "2"]
) -> Iterator[tuple[int, Box]]:
    """The number of each label and its box in inches, so that nothing is written over; some find no place."""
    high = SMALL * 1.3 / 72
    taken: list[Box] = [(x - 0.05, y - 0.05, x + 0.05, y + 0.05) for x, y in places.tolist()]
    for number, (x, y) in enumerate(places.tolist()):
        wide = _inches(labels[number]) + 0.04
        for away in (0.07, 0.13, 0.2, 0.28):
            right, left, above, below = x + away, x - away - wide, y + away / 2, y - away / 2 - high
            beside = [(right, y - high / 2), (left, y - high / 2), (x - wide / 2, y + away)]
            beside += [(x - wide / 2, y - away - high)]
            beside += [(side, level) for side in (right, left) for level in (above, below)]
            boxes = [(a, b, a + wide, b + high) for a, b in beside]
            free = [box for box in boxes if _is_free(box, taken, size.tolist())]
            if free:
                taken.append(free[0])
                yield number, free[0]
                break


def _is_free(box: Box, taken: Sequence[Box], size: Sequence[float]) -> bool:
    inside = box[0] > 0 and box[1] > 0 and box[2] < size[0] and box[3] < size[1]
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )


# ---- growth ----------------------------------------------------------------------------------------


@styled
def stream_growth(with_norm: Float[Tensor, "depths tokens"], without: Float[Tensor, "depths tokens"]) -> Figure:
    """The median length of the stream at each depth, with norms and without their division, on a logarithmic axis.

    What is no number any more, since it left the range of its type, is not drawn.
    """
    lines = {
        "with rms_norm": with_norm.float().median(-1).values.tolist(),
        "without its division": without.float().median(-1).values.tolist(),
    }
    kept, grown = lines.values()
    lost = next((depth for depth, length in enumerate(grown) if not math.isfinite(length)), None)
    if lost is None:
        title = f"Without the division the stream ends {_times(grown[-1] / max(kept[-1], 1e-30))} as long as with it"
    else:
        title = f"Without the division the stream leaves the range of numbers in layer {lost - 1}"
    figure = new_figure(title, 7.2, 3.0)
    ax = figure.subplots()
    depths = range(len(kept))
    draw_lines(ax, depths, {name: [*map(_drawable, values)] for name, values in lines.items()})
    logarithmic(ax.yaxis, text=_power)
    label_axis(ax.xaxis, ["embedding", *(f"layer {number}" for number in depths[:-1])], 5.0)
    ax.set(ylabel="length (median over the tokens)", xlim=(-0.3, len(kept) - 0.7), xlabel="the stream after")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"The length of the stream by depth, two lines on a logarithmic axis. {title}."
    return figure


def _drawable(length: float) -> float:
    return length if math.isfinite(length) and length > 0 else math.nan


def _times(ratio: float) -> str:
    """A factor as one says it: one digit of it, if it is large."""
    return f"{float(f'{ratio:.1g}'):,.0f} times" if ratio >= 100 else f"{ratio:.2g} times"


def _power(value: float) -> str:
    """A power of ten, with its exponent raised."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
