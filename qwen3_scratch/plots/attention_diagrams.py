"""Attention as diagrams: a weighted sum as vectors, softmax by blocks, two looks that make one, shapes on the way."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .boxes import draw_arrow
from .canvas import DARK, MIDDLE, PALE, SMALL, Figure, label_axis, new_figure, styled

__all__ = ["attention_shapes", "softmax_by_blocks", "two_looks", "weighted_sum"]


WHITE = {"fc": "white", "ec": "none", "pad": 0.8}  # behind a number in a bar


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


# ---- softmax by blocks -------------------------------------------------------------------------


@styled
def softmax_by_blocks(scores: Sequence[Sequence[int | float]], values: Sequence[Sequence[int | float]]) -> Figure:
    """What one query keeps after each block: a bar of height e^(s - m) for every key, m being the largest score so far.

    An outline says how high a bar was before a larger score came; above stand the sum of the bars and that of the
    values, each times its bar. The title says what became of the bars at the last block.
    """
    largest = [max(max(block) for block in scores[: at + 1]) for at in range(len(scores))]
    shrink = math.exp(largest[-2] - largest[-1]) if len(scores) > 1 else 1.0
    title = "No larger score comes: all that was kept stays as it is"
    title = f"A larger score comes: all that was kept shrinks to {shrink:.3g} times its size" if shrink < 1 else title
    figure = new_figure(title, 7.8, 2.6)
    count = sum(map(len, scores))
    for at, ax in enumerate(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]):
        read = [list(zip(*block, strict=True)) for block in zip(scores, values, strict=True)][: at + 1]
        keys = [key for block in read for key in block]  # (score, value)
        heights = [math.exp(score - largest[at]) for score, _ in keys]
        earlier = len(keys) - len(scores[at])
        shades = [PALE] * earlier + [MIDDLE] * len(scores[at])
        ax.bar(range(len(keys)), heights, color=shades, edgecolor=DARK, width=0.7)
        if earlier and largest[at] > largest[at - 1]:
            before = [math.exp(score - largest[at - 1]) for score, _ in keys[:earlier]]
            ax.bar(range(earlier), before, fill=False, edgecolor="#555555", ls=":", width=0.7)
        for place, height in enumerate(heights):
            ax.text(place, height / 2, f"{height:.2g}", ha="center", va="center", fontsize=SMALL, bbox=WHITE)
        total, gathered = sum(heights), sum(h * value for h, (_, value) in zip(heights, keys, strict=True))
        said = f"block {at + 1} read: m = ln {math.exp(largest[at]):.3g}, sum {total:.3g}"
        said = f"{said}\nweighted values {gathered:.3g}, output {gathered / total:.3g}"
        ax.set(title=said, xlim=(-0.6, count - 0.4), ylim=(0, 1.08), yticks=(0, 1))
        label_axis(ax.xaxis, [f"value {value:g}" for _, value in keys], 6.5 / len(scores) * len(keys) / count)
    figure.supylabel("exp(score - m)", fontsize=SMALL + 1)
    figure.alt = (
        f"A panel for each of {len(scores)} blocks, a bar for each key read so far, labelled with its value. {title}. "
        f"The last panel's weighted values and sum give the output {gathered / total:.3g}."
    )
    return figure


# ---- two looks -----------------------------------------------------------------------------------


@styled
def two_looks(labels: Sequence[str], found: int, layers: tuple[int, int] | None = None) -> Figure:
    """How the last token finds what came after an earlier one of its kind: two arches over the tokens.

    `found` is the place of what is found. In the first of `layers` the token there looks one back, and so its key can
    say what stood before it; in the second the last token looks for such a key. Without `layers` it is not known yet
    which they are.
    """
    earlier, later = [f"layer {layer}" for layer in layers] if layers else ["an earlier layer", "a later layer"]
    last = len(labels) - 1
    before = max(found - 1, 0)
    title = f"Two looks {'would ' if layers else ''}find “{labels[found]}”"
    title += f"{', if' if layers else ':'} its key says what stood before it"
    figure = new_figure(title, 9.0, 2.4)
    ax = figure.subplots()
    ax.set(xlim=(-0.5, last + 0.5), ylim=(0, 1.3))
    ax.spines[["left"]].set_visible(False)
    ax.set_yticks(())
    label_axis(ax.xaxis, labels, 8.4)
    arch(ax, last, found, 1.0, color=DARK, lw=2.0)
    arch(ax, found, before, 0.45, color=MIDDLE, lw=2.0)
    where: dict[str, Any] = {"fontsize": SMALL + 1, "va": "bottom"}
    first = f"1  {earlier}: “{labels[found]}” looks\none back: “{labels[before]}”"
    second = f"2  {later}: the last “{labels[last]}” looks for a key "
    second += f"that says “before me stood {labels[last]}”"
    outside = before > last / 4  # whether there is room before the arches; else within the large one
    ax.text(before - 0.3 if outside else found + 0.7, 0.12, first, ha="right" if outside else "left", **where)
    ax.text(last / 2, 1.06, second, ha="center", **where)
    figure.alt = (
        f"{len(labels)} tokens in a line. A small arch leads from “{labels[found]}” at place {found} to the token "
        f"before it, in {earlier}; a large one from the last token back to place {found}, in {later}."
    )
    return figure


def arch(ax: Axes, start: int, end: int, high: float, **look: Any) -> None:
    """A half ellipse from one place of the axis to another, with a head at its end."""
    turn = torch.linspace(0, math.pi, 60)
    x, y = (start + end) / 2 + (start - end) / 2 * turn.cos(), high * turn.sin()
    ax.plot(x[:-3], y[:-3], **look)
    style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11} | look
    ax.annotate("", (float(x[-1]), 0.0), (float(x[-4]), float(y[-4])), arrowprops=style)


# ---- every shape -------------------------------------------------------------------------------

STEP = 2.5  # from one column of tensors to the next
WIDE, HIGH = 1.15, 0.72  # of a tensor
ROWS = {"q": 1.45, "k": 0.0, "v": -1.45}  # where these three are drawn


@styled
def attention_shapes(hidden: int, heads: int, kv_heads: int, head_dim: int, seq: int) -> Figure:
    """Every tensor of attention with its shape, from `x` to what the layer adds: rows are tokens.

    Heads that share have one shade, and lines join query heads with the key head that they read, and this with its
    value head. Of many heads the first 16 are drawn. One text, so that the dimension of the batch is left out.
    """
    group, wide, narrow = heads // kv_heads, heads * head_dim, kv_heads * head_dim
    shared = f"{group} query heads share a key/value head" if group > 1 else "each head has its own"
    title = f"From {hidden} numbers a token to {heads} heads of {head_dim} and back: {shared}"
    figure = new_figure(title, 8.4, 3.9)
    ax = figure.subplots()
    ax.set(xlim=(-0.75, 4 * STEP + 0.75), ylim=(-2.55, 2.1))
    ax.set_axis_off()
    all_q = tuple(head // group % 2 if group > 1 else 0 for head in range(min(heads, 16)))
    all_kv = all_q[::group]
    tensor(ax, 0, 0, "x", (seq, hidden), (0,))
    for name, row in ROWS.items():
        shades, count = (all_q, heads) if name == "q" else (all_kv, kv_heads)
        tensor(ax, 1, row, f"{name}, one row", (seq, count * head_dim), shades)
        tensor(ax, 2, row, f"{name}, in heads", (count, seq, head_dim), shades, apart=True, beside=True)
        lead(ax, (0, 0), (1, row), f"{name}_proj")
        lead(ax, (1, row), (2, row), "cut" if name == "v" else "cut\nQK-norm\nrope")
    join_heads(ax, len(all_q), group)
    edge = squares(ax, 3, 0.72, "weights", (heads, seq, seq), all_q)
    tensor(ax, 3, -1.45, "gathered", (heads, seq, head_dim), all_q, apart=True, under=True)
    tensor(ax, 4, -1.45, "side by side", (seq, wide), all_q, under=True)
    tensor(ax, 4, 0.72, "to the stream", (seq, hidden), (0,))
    lead(ax, (2, 1.45), (3, 0.9), "")
    lead(ax, (2, 0), (3, 0.54), "")
    ax.text(3 * STEP, 1.07 + edge, "scores, mask, softmax", ha="center", va="center", fontsize=SMALL, style="italic")
    upright(ax, 3, 0.44 - edge, -1.04, "weights @ v")
    upright(ax, 4, -1.04, 0.1, "o_proj")
    lead(ax, (2, -1.45), (3, -1.45), "")
    lead(ax, (3, -1.45), (4, -1.45), "merge")
    key = (
        "neighbours of one shade share a key/value head; " * (group > 1)
        + "lines: a query head, its key head, its value head"
    )
    key += "; drawn: the first 16 query heads" * (heads > 16)
    ax.text(2 * STEP, -2.5, key, ha="center", va="bottom", fontsize=SMALL, color="#444444")
    figure.alt = (
        f"A diagram from left to right. x, {seq} tokens of {hidden} numbers, becomes q of {wide}, k and v of {narrow} "
        f"numbers; these are cut into {heads} and {kv_heads} heads of {head_dim}, and lines join each query "
        f"head with the key head and the value head that it reads; q and k give weights, {heads} squares, weights and "
        f"v what is gathered; the heads are put side by side and o_proj leads back to {hidden} numbers."
    )
    return figure


def join_heads(ax: Axes, heads: int, group: int) -> None:
    """Lines from each query head down to its key head, and from each key head down to its value head."""
    kv_heads = -(-heads // group)  # of a last group cut short, too
    for head in range(heads):
        ends = (middle(2, head, heads), middle(2, head // group, kv_heads))
        ax.plot(ends, (ROWS["q"] - HIGH / 2, ROWS["k"] + HIGH / 2), color="#555555", lw=0.7, zorder=1)
    for head in range(kv_heads):
        place = middle(2, head, kv_heads)
        ax.plot((place, place), (ROWS["k"] - HIGH / 2, ROWS["v"] + HIGH / 2), color="#555555", lw=0.7, zorder=1)


def squares(ax: Axes, column: int, row: int | float, name: str, shape: Sequence[int], shades: Sequence[int]) -> float:
    """The weights of each head as a square, in rows of up to four, with their name above and their shape below.

    Gives how far they reach up and down from the middle.
    """
    step, rows = 0.33, math.ceil(len(shades) / 4)
    for head, shade in enumerate(shades):
        down, right = divmod(head, 4)
        x = column * STEP + step * (right - min(len(shades), 4) / 2 + 0.08)
        y = row + step * 1.1 * (rows / 2 - down - 0.92)
        look: dict[str, Any] = {"fc": "white" if shade else PALE, "ec": DARK, "lw": 0.7}
        ax.add_patch(Rectangle((x, y), 0.84 * step, 0.92 * step, zorder=2, **look))
    edge = step * 1.1 * rows / 2 + 0.03
    where: dict[str, Any] = {"ha": "center", "fontsize": SMALL + 0.5, "weight": "bold"}
    ax.text(column * STEP, row + edge, name, va="bottom", **where)
    sizes = f"[{', '.join(map(str, shape))}]"
    ax.text(column * STEP, row - edge, sizes, ha="center", va="top", fontsize=SMALL)
    return edge


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
    beside: bool = False,
) -> None:
    """A tensor as a sheet whose parts are heads, or with its heads apart, with its name above and its shape below.

    `shades` has a 0 (shaded) or 1 (white) for each head; `under` puts the name below, too; `beside` puts both at the
    right, where lines to other heads leave no place above and below.
    """
    part = WIDE / len(shades) * (0.62 if apart else 1)
    for head, shade in enumerate(shades):
        corner = (middle(column, head, len(shades)) - part / 2, row - HIGH / 2)
        look: dict[str, Any] = {"fc": "white" if shade else PALE, "ec": DARK, "lw": 0.7 if apart else 0.25}
        ax.add_patch(Rectangle(corner, part, HIGH, zorder=2, **look))
    x, top = column * STEP, HIGH / 2 + 0.04
    if not apart:
        ax.add_patch(Rectangle((x - WIDE / 2, row - HIGH / 2), WIDE, HIGH, fill=False, ec=DARK, lw=0.8, zorder=3))
    sizes = f"[{', '.join(map(str, shape))}]"
    bold: dict[str, Any] = {"fontsize": SMALL + 0.5, "weight": "bold"}
    if beside:
        high = row + (0.42 if row > 0 else -0.2)  # away from the arrow, which leaves downwards from the first row
        ax.text(x + 0.66, high, name, ha="left", va="center", **bold)
        ax.text(x + 0.66, high - 0.2, sizes, ha="left", va="center", fontsize=SMALL)
    else:
        ax.text(x, row - top if under else row + top, name, ha="center", va="top" if under else "bottom", **bold)
        ax.text(x, row - top - 0.2 * under, sizes, ha="center", va="top", fontsize=SMALL)


def lead(ax: Axes, start: tuple[int, int | float], end: tuple[int, int | float], name: str) -> None:
    """An arrow from one tensor to the next, with the step that it stands for."""
    (x0, y0), (x1, y1) = (start[0] * STEP + 0.66, start[1]), (end[0] * STEP - 0.7, end[1])
    draw_arrow(ax, (x0, y0), (x1, y1), zorder=1)
    if name:
        where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "style": "italic"}
        back = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}
        ax.text((x0 + x1) / 2, (y0 + y1) / 2, name, bbox=back, **where)


def upright(ax: Axes, column: int, start: int | float, end: int | float, name: str) -> None:
    """An arrow up or down a column, with its step at the right."""
    draw_arrow(ax, (column * STEP, start), (column * STEP, end))
    where: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": SMALL, "style": "italic"}
    ax.text(column * STEP + 0.1, (start + end) / 2, name, **where)
