"""Attention as diagrams: a weighted sum as vectors, every shape on the way, and what QK-norm keeps small."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    legend_beside,
    logarithmic,
    new_figure,
    styled,
)

__all__ = ["attention_shapes", "growing_scores", "weighted_sum"]


# ---- a weighted sum ----------------------------------------------------------------------------


@styled
def weighted_sum(weights: Float[Tensor, "keys"], values: Float[Tensor, "keys 2"], labels: Sequence[str]) -> Figure:
    """Values in the plane, and what is gathered: each value shortened to its weight, laid end to end.

    The title names the value that the sum lies nearest to.
    """
    parts = weights[:, None] * values
    ends = torch.cat((torch.zeros(1, 2), parts.float().cpu())).cumsum(0)
    total = ends[-1]
    nearest, most = int((values.float().cpu() - total).norm(dim=-1).argmin()), int(weights.argmax())
    where = f"lies nearest to the value of “{labels[nearest]}”"
    title = f"The sum {where}" + (", which has the largest weight" if nearest == most else "")
    figure = new_figure(title, 7.0, 3.5)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    everything = torch.cat((ends, values.float().cpu()))
    low, high = everything.amin(0), everything.amax(0)
    reach, (x, y) = 0.75 * float((high - low).max()), ((low + high) / 2).tolist()  # a square, with room for names
    left.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    for number, value in enumerate(values.float().cpu()):
        arrow(left, (0.0, 0.0), value, color=MIDDLE)
        arrow(right, (0.0, 0.0), value, color="#cccccc", ls=":")
        arrow(right, ends[number], ends[number + 1], color=MIDDLE)
        beyond = value + 0.2 * reach * value / max(float(value.norm()), 1e-6)
        name = f"{labels[number]}\n{float(weights[number]):.1%}"
        left.text(*beyond.tolist(), name, ha="center", va="center", fontsize=SMALL + 0.5)
    arrow(right, (0.0, 0.0), total, color=DARK, lw=2.4)
    for ax, name in ((left, "the values, and the weight of each"), (right, "shortened to their weights, end to end")):
        ax.set_aspect("equal")
        ax.axhline(0, color="#dddddd", lw=0.6, zorder=0)
        ax.axvline(0, color="#dddddd", lw=0.6, zorder=0)
        ax.set(title=name, xlabel="first number")
        ax.tick_params(labelsize=SMALL)
    left.set_ylabel("second number")
    figure.alt = (
        f"Left, {len(labels)} values as arrows from one point. Right, the same shortened to their weights, laid end "
        f"to end; the thick arrow to where they end is their sum, ({total[0]:.2f}, {total[1]:.2f}). It {where}."
    )
    return figure


def arrow(ax: Axes, start: Any, end: Any, **look: Any) -> None:
    """An arrow from one point of the plane to another."""
    (x0, y0), (x1, y1) = ([float(number) for number in point] for point in (start, end))
    style = {"arrowstyle": "-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9} | look
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=style)


# ---- every shape -------------------------------------------------------------------------------

STEP = 2.5  # from one column of tensors to the next
WIDE, HIGH = 1.15, 0.72  # of a tensor


@styled
def attention_shapes(hidden: int, heads: int, kv_heads: int, head_dim: int, seq: int) -> Figure:
    """Every tensor of attention with its shape, from `x` to what the layer adds: rows are tokens.

    Heads that share have one shade, and lines join query heads with the key head that they read. Of many heads the
    first 16 are drawn. One text, so that the dimension of the batch is left out.
    """
    shared = f"{heads // kv_heads} query heads share a key/value head" if heads > kv_heads else "each head has its own"
    title = f"From {hidden} numbers a token to {heads} heads of {head_dim} and back: {shared}"
    figure = new_figure(title, 9.6, 3.6)
    ax = figure.subplots()
    ax.set(xlim=(-0.75, 5 * STEP + 0.75), ylim=(-2.15, 2.1))
    ax.set_axis_off()
    wide, narrow, group = heads * head_dim, kv_heads * head_dim, heads // kv_heads
    all_q = tuple(head // group % 2 for head in range(min(heads, 16)))
    all_kv = all_q[::group]
    tensor(ax, 0, 0, "x", (seq, hidden), (0,))
    for row, (name, count, step) in {
        1.45: ("q", heads, "QK-norm\nrope"), 0.0: ("k", kv_heads, "QK-norm\nrope"), -1.45: ("v", kv_heads, "")
    }.items():  # fmt: skip
        shades = all_q if name == "q" else all_kv
        tensor(ax, 1, row, f"{name}, one row", (seq, wide if name == "q" else narrow), shades)
        tensor(ax, 2, row, f"{name}, in heads", (count, seq, head_dim), shades, apart=True, under=name == "k")
        lead(ax, (0, 0), (1, row), f"{name}_proj")
        lead(ax, (1, row), (2, row), f"cut\n{step}".strip())
    for head in range(len(all_q)):
        ends = (middle(2, head, len(all_q)), middle(2, head // group, len(all_kv)))
        ax.plot(ends, (1.45 - HIGH / 2, HIGH / 2), color="#555555", lw=0.7, zorder=1)
    tensor(ax, 3, 0.72, "weights", (heads, seq, seq), all_q, apart=True)
    tensor(ax, 4, -0.36, "gathered", (heads, seq, head_dim), all_q, apart=True)
    tensor(ax, 5, 1.0, "side by side", (seq, wide), all_q)
    tensor(ax, 5, -1.25, "to the stream", (seq, hidden), (0,))
    lead(ax, (2, 1.45), (3, 0.72), "")
    lead(ax, (2, 0), (3, 0.72), "")
    ax.text(3 * STEP, 1.72, "scores, mask,\nsoftmax", ha="center", va="center", fontsize=SMALL, style="italic")
    lead(ax, (3, 0.72), (4, -0.36), "")
    lead(ax, (2, -1.45), (4, -0.36), "")
    ax.text(4 * STEP, -1.22, "weights @ v", ha="center", va="center", fontsize=SMALL, style="italic")
    lead(ax, (4, -0.36), (5, 1.0), "merge")
    ax.annotate("", (5 * STEP, -0.62), (5 * STEP, 0.34), arrowprops={"arrowstyle": "->", "lw": 0.9, "color": "#555555"})
    ax.text(5 * STEP + 0.1, -0.14, "o_proj", ha="left", va="center", fontsize=SMALL, style="italic")
    if heads > 16:
        ax.text(2 * STEP, -2.13, "drawn: the first 16 query heads", ha="center", fontsize=SMALL, style="italic")
    figure.alt = (
        f"A diagram from left to right. x, {seq} tokens of {hidden} numbers, becomes q of {wide}, k and v of {narrow} "
        f"numbers; these are cut into {heads} and {kv_heads} heads of {head_dim}, and lines join each query "
        "head with the key head that it reads; q and k give weights, weights and v what is gathered; the heads are put "
        f"side by side and o_proj leads back to {hidden} numbers."
    )
    return figure


def middle(column: int, head: int, heads: int) -> float:
    """Where the middle of a head is drawn."""
    return column * STEP + WIDE * ((head + 0.5) / heads - 0.5)


def tensor(
    ax: Axes,
    column: int,
    row: int | float,
    name: str,
    shape: Sequence[int],
    shades: Sequence[int],
    apart: bool = False,
    under: bool = False,
) -> None:
    """A tensor as a sheet whose parts are heads, or with its heads apart, with its name above and its shape below.

    `shades` has a 0 (shaded) or 1 (white) for each head; `under` puts the name below, too.
    """
    part = WIDE / len(shades) * (0.62 if apart else 1)
    for head, shade in enumerate(shades):
        corner = (middle(column, head, len(shades)) - part / 2, row - HIGH / 2)
        look: dict[str, Any] = {"fc": "white" if shade else PALE, "ec": DARK, "lw": 0.7 if apart else 0.25}
        ax.add_patch(Rectangle(corner, part, HIGH, zorder=2, **look))
    x, top = column * STEP, HIGH / 2 + 0.04
    if not apart:
        ax.add_patch(Rectangle((x - WIDE / 2, row - HIGH / 2), WIDE, HIGH, fill=False, ec=DARK, lw=0.8, zorder=3))
    sizes, above = f"[{', '.join(map(str, shape))}]", not under and name.startswith("q, in heads")
    bold: dict[str, Any] = {"ha": "center", "fontsize": SMALL + 0.5, "weight": "bold"}
    if above:  # the place below is for lines to the keys
        ax.text(x, row + top + 0.2, name, va="bottom", **bold)
        ax.text(x, row + top, sizes, ha="center", va="bottom", fontsize=SMALL)
    else:
        ax.text(x, row - top if under else row + top, name, va="top" if under else "bottom", **bold)
        ax.text(x, row - top - 0.2 * under, sizes, ha="center", va="top", fontsize=SMALL)


def lead(ax: Axes, start: tuple[int, int | float], end: tuple[int, int | float], name: str) -> None:
    """An arrow from one tensor to the next, with the step that it stands for."""
    (x0, y0), (x1, y1) = (start[0] * STEP + 0.66, start[1]), (end[0] * STEP - 0.7, end[1])
    ax.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "lw": 0.9, "color": "#555555"}, zorder=1)
    if name:
        where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "style": "italic"}
        back = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}
        ax.text((x0 + x1) / 2, (y0 + y1) / 2, name, bbox=back, **where)


# ---- scores ------------------------------------------------------------------------------------


@styled
def growing_scores(
    factors: Sequence[int], without: Sequence[int | float], normed: Sequence[int | float], bound: int | float
) -> Figure:
    """The largest score when queries and keys are made `factors` times as large, and what QK-norm holds it below."""
    grown = [
        "the same" if each[-1] < 1.01 * each[0] else f"{each[-1] / each[0]:,.3g} times" for each in (without, normed)
    ]
    title = f"Queries and keys {factors[-1] / factors[0]:,.0f} times as large: "
    title += f"the largest score {grown[0]} without QK-norm, {grown[1]} with it"
    figure = new_figure(title, 8.2, 2.9)
    ax = figure.subplots()
    draw_lines(ax, factors, {"without QK-norm": without, "with QK-norm": normed})
    ax.axhline(bound, color="black", ls=":", lw=1.2, label=f"bound of QK-norm: {bound:,.3g}")
    logarithmic(ax.xaxis, factors, base=2)
    logarithmic(ax.yaxis, parts=(1, 3))
    ax.set(xlabel="queries and keys, so many times as large", ylabel="largest score of all heads")
    legend_beside(figure, ax)
    said = (without[0], without[-1], normed[0], normed[-1], bound)
    written = [f"{each:,.0f}" if each >= 100 else f"{each:.3g}" for each in said]
    figure.alt = f"Two lines over the factor. Without QK-norm the largest score goes from {written[0]} to {written[1]}"
    figure.alt += f"; with it from {written[2]} to {written[3]}. Dotted: the bound, {written[4]}."
    return figure
