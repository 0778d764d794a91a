"""Vectors and their lengths: what is near in the embedding, and what a norm does to the residual stream."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    GREY,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)

__all__ = [
    "norm_inputs",
    "norm_weights",
    "token_similarity",
]


# What points apart is orange and stays pale in grey, so that dark means alike.
APART_OR_ALIKE = LinearSegmentedColormap.from_list(
    "apart or alike", [(0, "#f0a030"), (0.5, "white"), (0.75, "#6baed6"), (1, DARK)]
)


@styled
def token_similarity(
    vectors: Float[Tensor, "tokens hidden"], labels: Sequence[str], groups: Sequence[int] = ()
) -> Figure:
    """The cosine of each token's vector with each other's, every pair once. `groups`: sizes of blocks of one kind.

    A cosine is 1 for the same direction, 0 at a right angle, and below 0 where two point apart.
    """
    cosines = F.normalize(vectors.float().cpu(), dim=-1)
    cosines = cosines @ cosines.T
    count = len(labels)
    sizes = torch.tensor([size for size in (*groups, count - sum(groups)) if size])
    kind = torch.arange(len(sizes)).repeat_interleave(sizes)
    pairs, same = torch.ones(count, count).tril(-1).bool(), kind[:, None] == kind
    inside, across = (cosines[pairs & where] for where in (same, ~same))
    title = f"Mean cosine: {mean(inside):.2f} within a kind"
    title += f", {mean(across):.2f} between kinds" if len(across) else ""
    size = min(6.0, max(2.8, 0.24 * count))
    figure = new_figure(title, size + 2.1, size + 1.0)
    ax = figure.subplots()
    top = max(float(cosines[pairs].abs().max()), 1e-3) if pairs.any() else 1.0
    shown = cosines.masked_fill(~pairs, math.nan)
    image = heatmap(ax, shown, vmin=-top, vmax=top, aspect="equal", cmap=APART_OR_ALIKE)
    for row, column in pairs.nonzero().tolist() if count <= 24 else ():
        value = float(cosines[row, column])
        look: dict[str, Any] = {"fontsize": 6.3, "color": "white" if value > 0.6 * top else "black"}
        ax.text(column, row, str(round(100 * value)), ha="center", va="center", **look)
    for edge in sizes.cumsum(0)[:-1].tolist():
        ax.plot((-0.5, edge - 0.5), (edge - 0.5, edge - 0.5), color="black", lw=1)
        ax.plot((edge - 0.5, edge - 0.5), (edge - 0.5, count - 0.5), color="black", lw=1)
    label_axis(ax.xaxis, labels, size * 0.85)
    label_axis(ax.yaxis, labels, size * 0.85)
    colour_bar(figure, image, "cosine (in the cells: hundredths)" if count <= 24 else "cosine", format=None)
    figure.alt = f"The cosine of each pair of {count} tokens as a shade, every pair once; lines part kinds. {title}."
    return figure


@styled
def norm_inputs(before: Float[Tensor, "norms tokens"], labels: Sequence[str]) -> Figure:
    """The root mean square of the vectors that come to each norm, on a logarithmic axis.

    Dots are medians over the tokens, lines go from the smallest to the largest. Division brings all to the dotted 1.
    """
    before = before.float().cpu()
    middle = before.median(-1).values
    least, most = int(middle.argmin()), int(middle.argmax())
    title = f"The norms read vectors of size {middle[least]:.2g} to {middle[most]:.2g}"
    if len(middle) > 1:
        growth = middle[1:] / middle[:-1]
        at = int(growth.argmax())
        title += f"; most growth, {growth[at]:.0f}-fold, from “{labels[at]}” to “{labels[at + 1]}”"
    figure = new_figure(title, 7.4, 3.3)
    ax = figure.subplots()
    reach = torch.stack((middle - before.min(-1).values, before.max(-1).values - middle)).tolist()
    name = f"median and range\nof {before.shape[1]} tokens"
    ax.errorbar(range(len(middle)), middle.tolist(), reach, fmt="o", color=DARK, ms=5, lw=1, capsize=2, label=name)
    logarithmic(ax.yaxis)
    ax.set(ylabel="root mean square", xlim=(-0.6, len(labels) - 0.4))
    ax.axhline(1, color=GREY, lw=1, ls=":", label="after the division")
    label_axis(ax.xaxis, labels, 5.6)
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"A dot with a line for each of {len(labels)} norms, on a logarithmic axis. {title}."
    return figure


@styled
def norm_weights(weights: Float[Tensor, "norms channels"], labels: Sequence[str]) -> Figure:
    """The factors that each norm has learned: their middle and their range over the channels."""
    weights = weights.float().cpu()
    norms, channels = weights.shape
    low, middle, top = weights.min(-1).values, weights.median(-1).values, weights.max(-1).values
    first = int(middle.argmax())
    rest = torch.cat((middle[:first], middle[first + 1 :]))
    title = f"“{labels[first]}” turns its channels up most: {middle[first]:.2f}"
    title += f" at the median, elsewhere {rest.min():.2f} to {rest.max():.2f}" if len(rest) else ""
    high = min(6.0, max(1.0, 0.24 * norms))
    figure = new_figure(title, 7.4, high + 0.9)
    ax = figure.subplots()
    reach = torch.stack((middle - low, top - middle)).tolist()
    ax.errorbar(middle.tolist(), range(norms), xerr=reach, fmt="o", color=DARK, ms=4, lw=1, capsize=2)
    ax.axvline(1, color=GREY, lw=1, ls=":")
    label_axis(ax.yaxis, labels, high)
    ax.set(ylim=(norms - 0.4, -0.6), xlabel=f"factor of a channel (dot: median, line: all {channels} channels)")
    figure.alt = f"A dot with a line for each of {norms} norms. {title}."
    return figure


def round_up(value: float) -> float:
    """Up to the next half of its first digit, as 1.2 to 1.5 and 0.031 to 0.035; nothing becomes 1."""
    half = 10 ** math.floor(math.log10(value)) / 2 if value else 1.0
    return max(1, math.ceil(value / half)) * half


def mean(values: Tensor) -> float:
    """Rounded to what a title shows, so that nothing is written as -0.00."""
    return round(float(values.mean()), 2) + 0.0 if len(values) else 0.0
