"""What mistakes cost: divergence from the right model by token, and which checks find them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from torch import Tensor

from .canvas import SMALL, Figure, colour_bar, heatmap, label_axis, new_figure, styled

__all__ = ["check_grid", "divergence_map"]

LEAST, MOST = 1e-3, 10.0  # nats: the ends of the shades; below the first no one would notice


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


def mark_cells(
    ax: Axes, marked: Bool[Tensor, "rows columns"], dark: Bool[Tensor, "rows columns"], size: float = 2.8
) -> None:
    """A cross in each marked cell, white on dark and black on light."""
    for shade, colour in ((marked & dark, "white"), (marked & ~dark, "black")):
        rows, columns = shade.nonzero(as_tuple=True)
        ax.plot(columns.tolist(), rows.tolist(), "x", color=colour, ms=size, mew=0.8)


@styled
def check_grid(names: Sequence[str], found: Mapping[str, Sequence[bool]], costs: Sequence[bool]) -> Figure:
    """Checks, those that find fewest on top, by mistakes, those that most checks find on the left; dark where found.

    A cross stands where a check lets a mistake pass that `costs` answers.
    """
    table = torch.tensor([[bool(each) for each in line] for line in found.values()])  # [checks, mistakes]
    rows, columns = table.sum(1).argsort(stable=True), table.sum(0).argsort(descending=True, stable=True)
    counts, checks = table.sum(1)[rows].tolist(), [list(found)[row] for row in rows.tolist()]
    ends = [f"“{checks[at]}” finds {counts[at] if counts[at] < len(names) else 'all'}" for at in (0, -1)]
    title = f"Of {len(names)} mistakes {', '.join(dict.fromkeys(ends))}"
    high, wide = 0.27 * len(checks), max(2.0, 0.25 * len(names))
    figure = new_figure(title, wide + 3.4, high + 2.2)
    ax = figure.subplots()
    heatmap(ax, table[rows][:, columns].float(), vmin=0, vmax=1.4)
    missed = (~table & torch.tensor([bool(each) for each in costs]))[rows][:, columns]
    mark_cells(ax, missed, torch.zeros_like(missed), 4.5)
    ax.set_xticks([at - 0.5 for at in range(1, len(names))], minor=True)
    ax.set_yticks([at - 0.5 for at in range(1, len(checks))], minor=True)
    ax.grid(which="minor", color="#cccccc", lw=0.6)
    ax.tick_params(which="minor", length=0)
    label_axis(ax.xaxis, [names[column] for column in columns.tolist()], wide)
    label_axis(ax.yaxis, checks, high)
    for row, count in enumerate(counts):
        ax.text(len(names) - 0.2, row, str(count), fontsize=SMALL, va="center")
    ax.text(len(names) - 0.2, -0.75, "found", fontsize=SMALL, va="center")
    ax.set_xlabel("dark: found · × passes, though answers are lost · light: passes, and no answer is lost")
    figure.alt = f"{title}. A row for each check, from {counts[0]} found to {counts[-1]}, and a column for each mistake"
    figure.alt += ": dark where it is found, a cross where it passes though answers are lost."
    return figure
