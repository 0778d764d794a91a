"""The embedding as a map of words, and how the stream grows where nothing holds it back."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .canvas import (
    DARK,
    LIT,
    MIDDLE,
    SMALL,
    Figure,
    draw_lines,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)
from .chips import text_width

__all__ = ["embedding_map", "stream_growth"]

LOOKS = (("o", DARK), ("s", "white"), ("^", MIDDLE), ("D", LIT), ("v", DARK), ("P", "white"))  # of kinds of words


# ---- the map of words ------------------------------------------------------------------------------


@styled
def embedding_map(vectors: Float[Tensor, "words hidden"], labels: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Words in the plane in which their vectors differ most, with how much of their variance it shows on its axes.

    The title counts the words whose nearest neighbour on the map is of their kind.
    """
    vectors = vectors.float().cpu()
    centred = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:2] * directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)).sign()
    points = F.pad(centred @ directions.T, (0, 2 - len(directions)))  # [words, 2]
    shares = points.pow(2).sum(0) / centred.pow(2).sum().clamp(min=1e-12)
    figure = new_figure(_own_kind(points, kinds), 7.4, 5.0)
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
        f" Its two directions hold {shares[0]:.0%} and {shares[1]:.0%} of the variance."
    )
    return figure


def _own_kind(points: Tensor, kinds: Sequence[str]) -> str:
    """How many words have one of their own kind nearest on the map, and would by chance."""
    count = len(kinds)
    if count < 2:
        return "A word alone has no neighbour on the map"
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).argmin(-1).tolist()
    own = sum(kinds[at] == kind for at, kind in zip(nearest, kinds, strict=True))
    chance = sum(list(kinds).count(kind) - 1 for kind in kinds) / (count - 1)
    return f"On the map {own} of {count} words are nearest to their own kind (by chance {chance:.0f})"


Box = tuple[float, float, float, float]  # left, lower, right, upper


def _boxes(
    places: Float[Tensor, "words 2"], labels: Sequence[str], size: Float[Tensor, "2"]
) -> Iterator[tuple[int, Box]]:
    """The number of each label and its box in inches, so that nothing is written over; some find no place."""
    high = SMALL * 1.3 / 72
    taken: list[Box] = [(x - 0.05, y - 0.05, x + 0.05, y + 0.05) for x, y in places.tolist()]
    for number, (x, y) in enumerate(places.tolist()):
        wide = text_width(labels[number]) + 0.04
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
