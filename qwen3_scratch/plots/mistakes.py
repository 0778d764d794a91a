"""What mistakes cost: difference from the right model by token, and which checks find them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from torch import Tensor

from .canvas import SMALL, Figure, colour_bar, heatmap, label_axis, new_figure, styled

__all__ = ["check_grid", "difference_map"]

MOST = 1.0  # of the largest logit: the dark end of the shades


@styled
def difference_map(
    far: Float[Tensor, "mistakes tokens"],
    agree: Bool[Tensor, "mistakes tokens"],
    names: Sequence[str],
    labels: Sequence[str],
    written: int | None = None,
    bound: float = 1e-4,
) -> Figure:
    """Mistakes by tokens: how far the logit is off that is furthest off, in parts of the largest; white up to `bound`.

    Those that begin first stand on top, by the first token beyond the bound, and of these the costliest. A cross stands
    where another token is the likeliest, a bar before token `written`, the model's own first.
    """
    count, length = far.shape
    begins = first_beyond(far, bound)
    order = earliest_first(far, begins)
    later = int((begins > 0).sum())
    title = f"{later} of {count} mistakes leave all logits of the first token as they should be"
    high, wide = 0.17 * count, min(6.3, max(3.0, 0.12 * length))
    figure = new_figure(title, wide + 2.8, high + 1.5)
    ax = figure.subplots()
    image = heatmap(ax, far[order].clamp(min=bound), norm=LogNorm(bound, MOST, clip=True))
    mark_cells(ax, ~agree[order], far[order] > 0.03)
    starts = begins[order]
    for row in (starts[1:] != starts[:-1]).nonzero().flatten().tolist():
        ax.axhline(row + 0.5, color="#777777", lw=0.6)
    if written is not None:
        ax.axvline(written - 0.5, color="black", lw=1.5, ls="--")
        ax.set_title("the answer", x=(written + 0.3) / length, fontsize=SMALL)
    label_axis(ax.xaxis, labels, wide)
    label_axis(ax.yaxis, [names[row] for row in order.tolist()], high)
    ax.set_xlabel("token that was read last (× another next token is the likeliest)")
    ticks = [bound * 10**at for at in range(round(math.log10(MOST / bound)) + 1)]
    bar = colour_bar(figure, image, "largest difference\n/ largest logit", ticks=ticks, extend="max", format=None)
    bar.ax.set_yticklabels([f"≤{ticks[0]:g}", *(f"{tick:g}" for tick in ticks[1:])], fontsize=SMALL)
    bar.ax.minorticks_off()
    figure.alt = f"{title}. A row for each mistake, a column for each token, shaded by how far a logit is off"
    figure.alt += "; rows that begin to differ earlier stand higher, with a thin line below those that begin together"
    figure.alt += "; a dashed line where the answer begins." if written else "."
    return figure


def first_beyond(far: Float[Tensor, "mistakes tokens"], bound: float) -> Int[Tensor, "mistakes"]:
    """The first token of each row that is beyond the bound; the number of tokens where none is."""
    beyond = torch.nn.functional.pad(far > bound, (0, 1), value=True)
    return beyond.int().argmax(-1)


def earliest_first(far: Float[Tensor, "mistakes tokens"], begins: Int[Tensor, "mistakes"]) -> Int[Tensor, "mistakes"]:
    """The order of mistakes, by where they begin and then by their mean.

    Equal ones, as two names of one mistake, keep theirs, whatever rounding makes of them.
    """
    costliest = far.mean(-1).round(decimals=4).argsort(descending=True, stable=True)
    return costliest[begins[costliest].argsort(stable=True)]


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
    figure = new_figure(title, max(6.0, wide + 3.4), high + 2.2)
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
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    for row, count in [*enumerate(counts), (-0.75, "found")]:
        ax.annotate(str(count), (1, row), (4, 0), fontsize=SMALL, **beside)
    legend = "dark: found · × passes, though answers are lost where the mistake shows · light: passes, none lost"
    figure.supxlabel(legend, fontsize=8.5)
    figure.alt = f"{title}. A row for each check, from {counts[0]} found to {counts[-1]}, and a column for each mistake"
    figure.alt += ": dark where it is found, a cross where it passes though answers are lost where the mistake shows."
    return figure
