"""How the cache fills: pass by pass, in one step, as a window's ring, under padded rows; and the work of a step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ..model import NEVER
from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    heatmap,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)
from .costs import short

__all__ = ["cache_growth", "cache_step", "padding_sides", "ring_steps", "step_work"]

MOST = 16  # rows or columns of a panel up to which words fit into its cells
NOTHING, KEPT, READ, GONE = range(4)  # what a cell of these drawings shows
SHADES = ListedColormap(["white", PALE, DARK, "#e9e9e9"])


def cells(ax: Axes, kinds: Tensor, texts: Sequence[Sequence[str]] = ()) -> None:
    """A panel of cells [rows, columns], each of one of the four kinds, with white lines between and texts in them."""
    rows, columns = kinds.shape
    heatmap(ax, kinds.float() / GONE, texts if max(rows, columns) <= MOST else (), cmap=SHADES, vmin=0, vmax=1)
    for row, column in (kinds == GONE).nonzero().tolist():
        corner = column - 0.5, row - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#999999", lw=0))
    wide = 1.2 if columns <= 2 * MOST else 0.3
    look: dict[str, Any] = {"color": "#999999", "lw": wide / 2, "clip_on": False}  # the outermost lines stay whole
    ax.hlines(torch.arange(rows + 1) - 0.5, -0.5, columns - 0.5, **look)
    ax.vlines(torch.arange(columns + 1) - 0.5, -0.5, rows - 0.5, **look)
    for text in ax.texts:  # one shade decides for itself which ink it takes
        column, row = text.get_position()
        text.set_color("white" if int(kinds[round(row), round(column)]) == READ else "black")


def say_shades(figure: Figure, read: str, kept: str, gone: str) -> None:
    """Below the figure, what its dark, pale and hatched cells are."""
    marks = [Patch(fc=DARK, label=read), Patch(fc=PALE, ec="#999999", label=kept)]
    marks.append(Patch(fc="#e9e9e9", ec="#999999", hatch="////", lw=0, label=gone))
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=3)


@styled
def cache_growth(prompt: int, new: int) -> Figure:
    """Pass by pass, which tokens run through the layers: without a cache, and with one.

    `prompt` tokens are given and `new` ones written. A row is a pass, a column a token. Dark: it is read, and makes
    query, key and value; pale: its key and value are held from an earlier pass.
    """
    tokens = prompt + new - 1  # the last new token is written, and read by no pass
    column, passes = torch.arange(tokens)[None], torch.arange(new)[:, None]
    there = column < prompt + passes
    first = torch.where(passes == 0, 0, prompt + passes - 1)  # of the tokens that are new in a pass
    alone = torch.where(there, READ, NOTHING)
    cached = torch.where(there & (column < first), KEPT, alone)
    totals = [int((kinds == READ).sum()) for kinds in (alone, cached)]
    title = f"To write {new} tokens after {prompt}, {totals[0]:,} are read without a cache, {totals[1]:,} with one"
    figure = new_figure(title, 9.2, 1.35 + 0.24 * min(new, MOST))
    phases = {
        "everything again": [f"pass {at}" for at in range(1, new + 1)],
        "with a cache": ["prefill", *[f"decode {at}" for at in range(1, new)]],
    }
    for ax, kinds, (name, rows) in zip(figure.subplots(1, 2), (alone, cached), phases.items(), strict=True):
        texts = [["", "k v", "q k v"][kind] for row in kinds.tolist() for kind in row]
        cells(ax, kinds, [texts[row * tokens : (row + 1) * tokens] for row in range(new)])
        label_axis(ax.xaxis, range(tokens), 3.8)
        label_axis(ax.yaxis, rows, 0.24 * min(new, MOST))
        ax.set(title=name, xlabel="token (by position)")
    marks = [
        Patch(fc=DARK, label="is read in this pass"),
        Patch(fc=PALE, ec="#999999", label="is held: only looked at"),
    ]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=2)
    figure.alt = (
        "Two grids of passes by tokens. Without a cache all tokens up to the pass are dark, a growing block; "
        f"with one the first pass is dark over {prompt} tokens, and then one dark cell a pass moves right past pale."
    )
    return figure


@styled
def cache_step(mask: Bool[Tensor, "new keys"]) -> Figure:
    """One step of a layer with a cache: above, which tokens have a query, a key and a value; below, who looks where.

    `mask` has a row for each new token, the last ones of all, and a column for each token; it is true where the new
    token may look. Dark is made in this step, pale is held from earlier ones.
    """
    new, keys = mask.shape
    held = keys - new
    fresh = torch.arange(keys) >= held
    made = torch.where(fresh, READ, KEPT).expand(3, keys).clone()  # rows: queries, keys, values
    made[0, :held] = NOTHING
    seen = torch.where(mask.cpu(), made[1], GONE)
    title = f"Of {keys} tokens {new} {'is' if new == 1 else 'are'} read: the others' keys and values are held"
    tall = 0.28 * min(new, MOST)
    figure = new_figure(title, max(6.4, min(9.2, 0.62 * keys + 3.0)), 2.5 + tall)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.84, tall])
    places = range(keys)
    cells(above, made, [[f"{name}{at}" if at >= held or name != "q" else "" for at in places] for name in "qkv"])
    cells(below, seen, [["looks" if sees else "" for sees in row] for row in mask.tolist()])
    label_axis(above.yaxis, ("queries", "keys", "values"), 0.84)
    label_axis(below.yaxis, [f"q{at}" for at in range(held, keys)], tall)
    label_axis(below.xaxis, places, 5.4)
    above.tick_params(axis="x", length=0, labelbottom=False)
    above.set_title("what attention works with")
    below.set(title="the mask: which of these keys each query may look at", xlabel="token (by position)")
    say_shades(figure, "made in this step", "held in the cache", "hidden")
    figure.alt = (
        f"Above, {keys} tokens with their queries, keys and values: dark for the last {new}; of the first {held} there "
        f"are only keys and values, pale. Below, a row for each query, with the {keys} keys that it may look at or not."
    )
    return figure


@styled
def ring_steps(held: Int[Tensor, "steps slots"]) -> Figure:
    """Where a sliding window's keys lie: a row for each step; left by position in the text, right by slot of the ring.

    `held` is the position of the token in each slot after each step, one token a step, and `NEVER` where there is none.
    """
    steps, slots = held.shape
    there = held != NEVER
    newest = torch.where(there, held, -1).amax(1)  # [steps]
    ring = torch.where(there, torch.where(held == newest[:, None], READ, KEPT), NOTHING)
    place, text = torch.arange(steps)[None], torch.full((steps, steps), NOTHING)
    for step in range(steps):
        seen = [at for at in held[step].tolist() if at != NEVER]
        text[step][place[0] <= newest[step]] = GONE
        text[step][seen] = KEPT
        text[step][newest[step]] = READ
    slot = int((held[-1] == newest[-1]).nonzero()[0, 0])
    old = int(held[-2, slot]) if steps > 1 and there[-2, slot] else None
    title = f"Token {int(newest[-1])} goes into slot {slot}"
    title += (
        f" and replaces token {old}, which the window has left behind" if old is not None else ", the next free one"
    )
    figure = new_figure(title, 8.6, 1.35 + 0.26 * min(steps, MOST))
    narrow = min(0.45, max(0.36, 2 * slots / (steps + 2 * slots)))
    left, right = figure.subplots(1, 2, width_ratios=[1 - narrow, narrow])
    tall = 0.26 * min(steps, MOST)
    cells(left, text, [[str(at) if kind else "" for at, kind in enumerate(row)] for row in text.tolist()])
    names = [["" if at == NEVER else str(at) for at in row] for row in held.tolist()]
    cells(right, ring, names)
    label_axis(left.xaxis, range(steps), 7.2 * (1 - narrow))
    label_axis(left.yaxis, range(steps), tall)
    label_axis(right.xaxis, range(slots), 7.2 * narrow)
    label_axis(right.yaxis, [""], tall)
    left.set(title="in the text", xlabel="token (by position)", ylabel="step")
    right.set(title="in the ring: which token a slot holds", xlabel="slot")
    say_shades(figure, "written now", "held", "overwritten")
    figure.alt = (
        f"A grid of steps by tokens, in which a band of {slots} held tokens moves right and leaves overwritten ones "
        f"behind, and a grid of steps by {slots} slots, in which the newest token goes round and replaces the oldest."
    )
    return figure


@styled
def padding_sides(rows: Sequence[Sequence[str]]) -> Figure:
    """A batch of rows of tokens, given as their labels, padded on the left and on the right.

    In a cell stand the token and its position, which counts the row's own tokens. Dark is where its next one goes.
    """
    longest, count = max(map(len, rows)), len(rows)
    wide, high = max(7.2, min(9.2, 0.7 * (longest + 1) + 1.6)), 1.5 + 0.84 * min(count, MOST)
    figure = new_figure(sides_title(rows), wide, high)
    panels = figure.subplots(2, 1)
    for ax, left in zip(panels, (True, False), strict=True):
        kinds, texts = torch.full((count, longest + 1), NOTHING), [[""] * (longest + 1) for _ in rows]
        for number, row in enumerate(rows):
            start = longest - len(row) if left else 0
            kinds[number, :longest] = GONE
            for at, label in enumerate([*row, "next"]):
                kinds[number, start + at] = KEPT if at < len(row) else READ
                texts[number][start + at] = f"{label}\n{at}"
        cells(ax, kinds, texts)
        label_axis(ax.xaxis, [""], 1.0)
        label_axis(ax.yaxis, [f"row {number}" for number in range(count)], 0.42 * min(count, MOST))
        ax.set_title(f"padded on the {'left' if left else 'right'}")
    marks = [Patch(fc="#e9e9e9", ec="#999999", hatch="////", lw=0, label="padding")]
    marks += [Patch(fc=PALE, ec="#999999", label="token, position"), Patch(fc=DARK, label="next token, position")]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=3)
    figure.alt = (
        "Rows of tokens with their positions. Padded on the left, hatched cells stand first and the next tokens of "
        "all rows lie in one column; padded on the right, each next token stands where its own row ends."
    )
    return figure


def sides_title(rows: Sequence[Sequence[str]]) -> str:
    """What the two panels show."""
    if len({len(row) for row in rows}) == 1:
        return "Rows of one length need no padding: all go on in one column"
    return "Padded on the left all rows end in one column, on the right each in its own"


@styled
def step_work(
    lengths: Sequence[int], operations: Mapping[str, Sequence[int]], looking_back: Sequence[int | float]
) -> Figure:
    """Work of one more token by length of the text, for two ways; beside it the second way alone, from zero.

    `operations` are counts of multiplications and additions: first of reading all again, then of a step with a cache.
    `looking_back` is the part of the latter that goes into keys and values held.
    """
    (again, cached), whole = operations, operations[list(operations)[1]]
    growth = [each[-1] / each[0] for each in operations.values()]
    title = f"From {lengths[0]:,} to {lengths[-1]:,} tokens a step with a cache grows {growth[1]:.3g}-fold, "
    figure = new_figure(f"{title}reading all again {growth[0]:,.0f}-fold", 9.0, 3.0)
    left, right = figure.subplots(1, 2)
    draw_lines(left, lengths, operations, lw=1.3)
    logarithmic(left.xaxis, base=2)
    logarithmic(left.yaxis, text=short)
    left.set(
        title="both, on logarithmic axes", xlabel="length of the text (tokens)", ylabel="operations for one more token"
    )
    left.legend(frameon=False, fontsize=SMALL + 0.5)
    fixed = [all_of_it - part for all_of_it, part in zip(whole, looking_back, strict=True)]
    right.fill_between(lengths, 0, fixed, color=PALE, lw=0)
    right.fill_between(lengths, fixed, whole, color=MIDDLE, lw=0)
    right.plot(lengths, whole, color=DARK, lw=1.3, ls="--", marker="s", ms=4)
    right.set(title=f"“{cached}” alone, from zero", xlabel="length of the text (tokens)", ylim=(0, 1.25 * max(whole)))
    right.set_xlim(0, None)
    right.yaxis.set_major_formatter(FuncFormatter(short))
    marks = [Patch(fc=MIDDLE, label="looking at what is held"), Patch(fc=PALE, label="products with the weights")]
    right.legend(handles=marks, frameon=False, fontsize=SMALL + 0.5, loc="upper left")
    figure.alt = (
        f"Left, the work of “{again}” rises with the length and lies above “{cached}”. Right, the work of “{cached}” "
        "is a constant layer of products with weights, and on it a wedge that grows evenly with the length."
    )
    return figure
