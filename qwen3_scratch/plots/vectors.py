"""Vectors and their lengths: what is near in the embedding, and what a norm does to the residual stream."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    Figure,
    colour_bar,
    draw_lines,
    heatmap,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)
from .drawn import within

__all__ = [
    "norm_weights",
    "norms_before_after",
    "norms_in_the_plane",
    "rounding_errors",
    "token_similarity",
    "vector_lengths",
]


@styled
def token_similarity(
    vectors: Float[Tensor, "tokens hidden"], labels: Sequence[str], groups: Sequence[int] = ()
) -> Figure:
    """The cosine of each token's vector with each other's. `groups` are the sizes of blocks of one kind, in order.

    A cosine is 1 for the same direction, 0 for directions that have nothing in common.
    """
    cosines = F.normalize(vectors.float(), dim=-1)
    cosines = cosines @ cosines.T
    count = len(labels)
    sizes = torch.tensor([size for size in (*groups, count - sum(groups)) if size])
    kind = torch.arange(len(sizes)).repeat_interleave(sizes)
    pairs, same = torch.ones(count, count).triu(1).bool(), kind[:, None] == kind
    inside, across = (cosines[pairs & where] for where in (same, ~same))
    title = f"Mean cosine: {mean(inside):.2f} within a kind"
    title += f", {mean(across):.2f} between kinds" if len(across) else ""
    size = min(6.0, max(2.8, 0.24 * count))
    figure = new_figure(title, size + 2.1, size + 1.0)
    ax = figure.subplots()
    # What is least similar is white: shades would waste half their range on the diagonal's 1.
    top = float(cosines[pairs].max()) if pairs.any() else 1.0
    texts = [[round(100 * value) for value in line] for line in cosines.tolist()] if count <= 24 else ()
    image = heatmap(ax, cosines, texts, vmin=min(0.0, top - 0.1), vmax=top, aspect="equal")
    for edge in sizes.cumsum(0)[:-1].tolist():
        ax.axhline(edge - 0.5, color="black", lw=1)
        ax.axvline(edge - 0.5, color="black", lw=1)
    label_axis(ax.xaxis, labels, size * 0.85)
    label_axis(ax.yaxis, labels, size * 0.85)
    colour_bar(figure, image, "cosine (in the cells: hundredths)" if texts else "cosine", format=None)
    return figure


@styled
def vector_lengths(lengths: Float[Tensor, "vectors"], what: str = "rows of the embedding") -> Figure:
    """How many vectors have which length (Euclidean norm)."""
    values = lengths.float().cpu()
    low, middle, high = values.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    figure = new_figure(f"Nine of ten {what} are {low:.2f} to {high:.2f} long, half are below {middle:.2f}", 7.0, 2.4)
    ax = figure.subplots()
    ax.hist(values.tolist(), bins=60, color=PALE, edgecolor=DARK, lw=0.4)
    ax.axvline(middle, color="black", lw=1.2, ls="--")
    ax.set(xlabel="length (Euclidean norm); the dashed line is the median", ylabel=f"number of {what.split()[0]}")
    ax.set_xlim(0, None)
    return figure


@styled
def norms_in_the_plane(points: Float[Tensor, "points 2"]) -> Figure:
    """Vectors of two numbers before and after: divided by their root mean square, and made by LayerNorm."""
    points = points.float().cpu()
    by_rms = points / points.pow(2).mean(-1, keepdim=True).sqrt()
    by_layer = F.layer_norm(points, (2,), eps=0.0)
    ends = len((by_layer * 100).round().unique(dim=0))
    title = f"rms_norm keeps all {len(points)} directions, LayerNorm in two dimensions keeps {ends}"
    figure = new_figure(title, 7.6, 4.0)
    reach = 1.15 * float(points.abs().max())
    for ax, name, after in zip(figure.subplots(1, 2), ("rms_norm", "LayerNorm"), (by_rms, by_layer), strict=True):
        for start, end in zip(points.tolist(), after.tolist(), strict=True):
            ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#999999", "lw": 0.8})
        if name == "rms_norm":
            angles = torch.linspace(0, 2 * math.pi, 200)
            ax.plot(math.sqrt(2) * angles.cos(), math.sqrt(2) * angles.sin(), color=MIDDLE, lw=1, zorder=0)
        else:
            ax.plot((-reach, reach), (reach, -reach), color=MIDDLE, lw=1, ls="--", zorder=0)
        ax.scatter(*points.T.tolist(), s=26, fc="white", ec=DARK, label="before")
        ax.scatter(*after.T.tolist(), s=34, marker="s", color=DARK, label="after")
        ax.set(title=name, xlabel="first number", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    figure.axes[0].set_ylabel("second number")
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside right center")
    return figure


@styled
def norms_before_after(
    before: Float[Tensor, "norms tokens"], after: Float[Tensor, "norms tokens"], labels: Sequence[str]
) -> Figure:
    """The root mean square of the vectors that go into each norm and that come out of it, on a logarithmic axis.

    Markers are medians over the tokens, bars go from the shortest to the longest vector.
    """
    low, high = (f"{float(end):.2g}" for end in after.aminmax())
    title = f"The root mean square goes from {before.min():.2g} to {before.max():.2g}"
    title += f"; after the norms it is {low}" if low == high else f"; after the norms from {low} to {high}"
    figure = new_figure(title, 7.4, 3.3)
    ax = figure.subplots()
    for values, name, form, colour, shift in ((before, "before", "o", DARK, -0.1), (after, "after", "s", MIDDLE, 0.1)):
        values = values.float().cpu()
        middle = values.median(-1).values
        reach = torch.stack((middle - values.min(-1).values, values.max(-1).values - middle)).tolist()
        places = [number + shift for number in range(len(middle))]
        look: dict[str, Any] = {"mfc": colour if form == "o" else "white", "ms": 5, "lw": 1, "capsize": 2}
        ax.errorbar(places, middle.tolist(), reach, fmt=form, label=name, color=colour, **look)
    logarithmic(ax.yaxis)
    ax.set(ylabel="root mean square", xlim=(-0.6, len(labels) - 0.4))
    ax.axhline(1, color="#777777", lw=0.8, ls=":")
    label_axis(ax.xaxis, labels, 5.6)
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def norm_weights(weights: Float[Tensor, "norms channels"], labels: Sequence[str]) -> Figure:
    """The factor that each norm has learned for each channel; beside it, its middle and its range over the channels."""
    weights = weights.float().cpu()
    norms, channels = weights.shape
    up, down = (divmod(int(place), channels) for place in (weights.argmax(), weights.argmin()))
    title = f"The factors go from {weights[down]:.2f} (channel {down[1]}, {labels[down[0]]})"
    title += f" to {weights[up]:.2f} (channel {up[1]}, {labels[up[0]]})"
    high = min(6.0, max(1.0, 0.26 * norms))
    figure = new_figure(title, 8.8, high + 1.3)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    image = heatmap(left, weights, interpolation="nearest")
    label_axis(left.yaxis, labels, high)
    left.set(xlabel="channel")
    low, middle, top = weights.min(-1).values, weights.median(-1).values, weights.max(-1).values
    right.errorbar(
        middle, range(norms), xerr=torch.stack((middle - low, top - middle)), fmt="o", color=DARK, ms=4, lw=1
    )
    right.axvline(1, color="#777777", lw=0.8, ls=":")
    right.set(ylim=left.get_ylim(), yticks=[], xlabel="factor (range, median)")
    colour_bar(figure, image, "factor", format=None)
    return figure


@styled
def rounding_errors(errors: Mapping[str, Float[Tensor, "entries"]]) -> Figure:
    """For each way of computing, the share of the entries whose relative error is at most what the axis says."""
    worst = {name: float(values.float().max()) for name, values in errors.items()}
    most, least = max(worst, key=worst.__getitem__), min(worst, key=worst.__getitem__)
    title = f"The largest error is {worst[most]:.1%} for “{most}”"
    title += f" and {worst[least]:.1%} for “{least}”" if most != least else ""
    figure = new_figure(title, 7.4, 3.2)
    ax = figure.subplots()
    # The largest error is one entry's and hangs on rounding, as do a few in a thousand: the axis must not move with it.
    places = torch.linspace(0, round_up(worst[most]), 200)
    reached = {}
    for name, values in errors.items():
        share = torch.searchsorted(values.float().cpu().sort().values, places, right=True) / len(values)
        reached[name] = (100 * share).tolist()
    draw_lines(ax, (100 * places).tolist(), reached, marker=None, gid=within(0.01))
    ax.set(xlabel="relative error of an entry (%)", ylabel="entries at or below it (%)", ylim=(0, 103), xlim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    return figure


def round_up(value: float) -> float:
    """Up to the next half of its first digit, as 1.2 to 1.5 and 0.031 to 0.035; nothing becomes 1."""
    half = 10 ** math.floor(math.log10(value)) / 2 if value else 1.0
    return max(1, math.ceil(value / half)) * half


def mean(values: Tensor) -> float:
    """Rounded to what a title shows, so that nothing is written as -0.00."""
    return round(float(values.mean()), 2) + 0.0 if len(values) else 0.0
