"""Vectors and their lengths: what is near in the embedding, what adds up in the stream, what a norm does to it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from .attention_diagrams import arrow
from .canvas import (  # fmt: skip
    DARK,
    GREY,
    MIDDLE,
    SMALL,
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
    "stream_sum",
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
def stream_sum(parts: Float[Tensor, "parts 2"], names: Sequence[str], words: tuple[str, str]) -> Figure:
    """What is added to a stream of two numbers, end to end, and beside it what the output head reads of each sum.

    A word has an axis for its row: the first number is the logit of the first word. Division by the root mean square
    brings every sum to one circle, of radius √2, so that only its direction counts.
    """
    sums = parts.float().cpu().cumsum(0)
    normed = sums / sums.pow(2).mean(-1, keepdim=True).sqrt()
    said = [words[int(second > first)] if first != second else "neither" for first, second in normed.tolist()]
    title = f"After each part the head says: {', '.join(said)}"
    figure = new_figure(title, 8.6, 4.2)
    left, right = figure.subplots(1, 2)
    starts, most = torch.cat((torch.zeros(1, 2), sums[:-1])), 1.15 * float(sums.abs().max())
    for name, start, end in zip(names, starts, sums, strict=True):
        arrow(left, start, end, color=DARK, lw=2.0)
        step = end - start
        across = torch.stack((-step[1], step[0])) / step.norm()  # to the left of the arrow
        x, y = ((start + end) / 2 + 0.04 * most * across).tolist()
        side = "right" if across[0] < -0.5 else "left" if across[0] > 0.5 else "center"
        text = f"{name}\n[{', '.join(f'{number:g}' for number in step.tolist())}]"
        left.text(x, y, text, ha=side, va="bottom" if side == "center" else "center", fontsize=SMALL + 0.5)
    left.set(xlim=(-0.4 * most, most), ylim=(-0.12 * most, most), title="what is added, end to end")
    turn = torch.linspace(0, 2 * math.pi, 200)
    right.plot(2**0.5 * turn.cos(), 2**0.5 * turn.sin(), color=GREY, lw=0.9, ls="--")
    for name, point, word in zip(names, normed, said, strict=True):
        arrow(right, (0.0, 0.0), point, color=MIDDLE)
        text = f"after {name}: {word}\n({point[0]:.1f}, {point[1]:.1f})"
        right.text(*(1.1 * point).tolist(), text, ha="left", va="center", fontsize=SMALL + 0.5)
    right.set(xlim=(-0.3, 2.6), ylim=(-0.25, 2.07), title="each sum, divided by its root mean square")
    left.plot((0, most), (0, most), color=GREY, lw=1.0, ls=":")
    left.text(0.8 * most, 0.88 * most, "neither leads", ha="right", fontsize=SMALL + 0.5, style="italic")
    for ax, of in ((left, "number of the stream, of"), (right, "logit of")):
        ax.set_box_aspect(0.8)  # that of the limits: one scale on both axes
        ax.axhline(0, color="#dddddd", lw=0.6, zorder=0)
        ax.axvline(0, color="#dddddd", lw=0.6, zorder=0)
        ax.set(xlabel=f"{of} “{words[0]}”", ylabel=f"{of} “{words[1]}”")
        ax.tick_params(labelsize=SMALL)
    figure.alt = (
        f"Left, {len(parts)} arrows end to end in a plane with an axis for each of two words; right, arrows to a "
        f"circle in the directions of the sums. On the dotted diagonal neither word leads. {title}."
    )
    return figure


def round_up(value: float) -> float:
    """Up to the next half of its first digit, as 1.2 to 1.5 and 0.031 to 0.035; nothing becomes 1."""
    half = 10 ** math.floor(math.log10(value)) / 2 if value else 1.0
    return max(1, math.ceil(value / half)) * half


def mean(values: Tensor) -> float:
    """Rounded to what a title shows, so that nothing is written as -0.00."""
    return round(float(values.mean()), 2) + 0.0 if len(values) else 0.0
