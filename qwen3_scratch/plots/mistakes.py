"""What mistakes cost: divergence from the right model by token, and what is left of its answers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from .canvas import DARK, MIDDLE, SMALL, Figure, colour_bar, heatmap, label_axis, new_figure, styled

__all__ = ["divergence_map", "mistake_shares"]

LEAST, MOST = 1e-3, 10.0  # nats: the ends of the shades; below the first no one would notice
FORMS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "mfc": DARK},
    {"marker": "^", "mfc": "white"},
    {"marker": "s", "mfc": "none", "ms": 8},
)


@styled
def divergence_map(
    nats: Float[Tensor, "mistakes tokens"],
    agree: Bool[Tensor, "mistakes tokens"],
    names: Sequence[str],
    labels: Sequence[str],
    written: int | None = None,
) -> Figure:
    """Mistakes, the costliest on top, by tokens: how far each next token's distribution is from the right model's.

    A cross stands where another token is the likeliest. A bar stands before token `written`, the model's own first.
    """
    order = costliest_first(nats.mean(-1))
    count, length = nats.shape
    mild = int((agree.float().mean(-1) >= 0.9).sum())
    title = f"{mild} of {count} mistakes leave nine of ten next tokens of this text as they should be"
    high, wide = 0.17 * count, min(6.3, max(3.0, 0.12 * length))
    figure = new_figure(title, wide + 2.8, high + 1.5)
    ax = figure.subplots()
    image = heatmap(ax, nats[order].clamp(min=LEAST), norm=LogNorm(LEAST, MOST, clip=True))
    mark_cells(ax, ~agree[order], nats[order] > 0.3)
    if written is not None:
        ax.axvline(written - 0.5, color="black", lw=1.5, ls="--")
        ax.set_title("the answer", x=(written + 0.3) / length, fontsize=SMALL)
    label_axis(ax.xaxis, labels, wide)
    label_axis(ax.yaxis, [names[row] for row in order.tolist()], high)
    ax.set_xlabel("token that was read last (× another next token is the likeliest)")
    ticks = [0.001, 0.01, 0.1, 1, 10]
    bar = colour_bar(figure, image, "divergence (nats)", ticks=ticks, extend="max", format=None)
    bar.ax.set_yticklabels(["≤0.001", "0.01", "0.1", "1", "10"], fontsize=SMALL)
    bar.ax.minorticks_off()
    figure.alt = f"{title}. A row for each mistake, a column for each token, shaded by divergence"
    figure.alt += "; a dashed line where the answer begins." if written else "."
    return figure


def costliest_first(costs: Float[Tensor, "mistakes"]) -> Int[Tensor, "mistakes"]:
    """The order of mistakes; equal ones, as two names of one mistake, keep theirs, whatever rounding makes of them."""
    return costs.round(decimals=4).argsort(descending=True, stable=True)


def mark_cells(ax: Axes, marked: Bool[Tensor, "rows columns"], dark: Bool[Tensor, "rows columns"]) -> None:
    """A cross in each marked cell, white on dark and black on light."""
    for shade, colour in ((marked & dark, "white"), (marked & ~dark, "black")):
        rows, columns = shade.nonzero(as_tuple=True)
        ax.plot(columns.tolist(), rows.tolist(), "x", color=colour, ms=2.8, mew=0.8)


@styled
def mistake_shares(
    names: Sequence[str],
    shares: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] = MappingProxyType({}),
) -> Figure:
    """A line a mistake, and on it a mark for each kind of share (0 to 1) that is still right; at most three kinds.

    `intervals`: low and high end for each share of a kind, drawn as whiskers.
    """
    count = len(names)
    plain = [kind.split(" (")[0] for kind in shares]  # a number of cases stands in the legend alone
    counts = [sum(value >= 0.9 for value in values) for values in shares.values()]
    good = [f"{kind} in {found}" for kind, found in zip(plain, counts, strict=True)]
    title = f"Nine tenths or more are still right, of {count} mistakes: {', '.join(good)}"
    order = sorted(range(count), key=lambda row: [-values[row] for values in shares.values()])
    figure = new_figure(title, 8.4, 0.21 * count + 1.3)
    ax = figure.subplots()
    for place, row in enumerate(order):
        found = [values[row] for values in shares.values()]
        ax.plot((min(found), max(found)), (place, place), color="#bbbbbb", lw=0.8, ls=":", zorder=1)
    for number, (form, (kind, values)) in enumerate(zip(FORMS, shares.items(), strict=False)):
        apart = 0.24 * (number - (len(shares) - 1) / 2)  # whiskers of one row would hide each other
        options: dict[str, Any] = {"ls": "", "mec": DARK, "mew": 1.0, "ms": 5.0, "label": kind, "clip_on": False} | form
        places = [place + apart for place in range(count)]
        if kind in intervals:
            ends = [intervals[kind][row] for row in order]
            ax.hlines(places, *zip(*ends, strict=True), color=MIDDLE, lw=1.4, zorder=1.5)
        ax.plot([values[row] for row in order], places, **options)
    label_axis(ax.yaxis, [names[row] for row in order], 0.21 * count)
    ax.set(xlim=(-0.02, 1.02), ylim=(count - 0.4, -0.6), xlabel="share that is still right")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="x", color="#dddddd", lw=0.6)
    ax.set_axisbelow(True)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    figure.alt = f"{title}. A row for each mistake, on it a mark for each of: {', '.join(shares)}"
    figure.alt += "; whiskers are 95% intervals." if intervals else "."
    return figure
