"""One model on many devices: who holds what, what that takes of each, and what it costs to send."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..checkpoints.weights import Slot, all_slots
from ..config import Config
from ..devices.slices import Place, check_split, own_slot
from .boxes import draw_arrow
from .canvas import (
    LINES,
    LIT,
    MIDDLE,
    SMALL,
    Figure,
    draw_lines,
    heatmap,
    logarithmic,
    new_figure,
    spoken,
    styled,
)

__all__ = [
    "device_memory", "device_shares", "dispatch_cost", "feed_forward_cut", "ring_sums", "token_times",
]  # fmt: skip

NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm")


class Part(NamedTuple):
    """What one rank holds of one kind of tensor, as shares of the whole: from, to."""

    numbers: int = 0
    cut: tuple[float, float] = (0.0, 0.0)
    experts: tuple[float, float] = (0.0, 1.0)


def row_of(slot: Slot) -> str:
    """The row of the table in which a tensor counts: all norms share one, experts stand apart from dense layers."""
    if slot.field in NORMS:
        return "norms"
    if slot.field in ("gate_up_proj", "down_proj"):
        return f"{slot.field}, {'experts' if isinstance(slot.part[0] if slot.part else None, int) else 'dense'}"
    return slot.field


def part_of(config: Config, place: Place, slots: Sequence[Slot]) -> Part:
    """What a rank holds of the tensors of one row, which are all cut alike."""
    held = [(slot, own) for slot in slots if (own := own_slot(config, place, slot)) is not None]
    if not held or not all(held[0][1].shape):
        return Part()
    slot, own = held[0]
    cut = (0.0, 1.0)
    for at, size in zip(own.cut, slot.shape, strict=False):
        start, stop, _ = at.indices(size)
        if stop - start < size:
            cut = (start / size, stop / size)
    numbers = [slot.part[0] for slot, _ in held if slot.part and isinstance(slot.part[0], int)]
    experts = (min(numbers) / config.num_experts, (max(numbers) + 1) / config.num_experts) if numbers else (0.0, 1.0)
    return Part(sum(math.prod(own.shape) for _, own in held), cut, experts)


def share_text(parts: Sequence[Part], whole: int) -> str:
    """1/4 on each; all on each; or the most and the least where ranks differ."""
    shares = sorted({Fraction(part.numbers, whole).limit_denominator(64) for part in parts})
    texts = ["all" if share == 1 else "none" if share == 0 else str(share) for share in (shares[0], shares[-1])]
    return f"{texts[0]} on each" if texts[0] == texts[1] else f"{texts[1]} or {texts[0]}"


@styled
def device_shares(config: Config, tensors: int, experts: int) -> Figure:
    """A row a kind of tensor, a column a rank of the grid: each frame is the whole, filled with what the rank holds.

    From left to right lie heads, intermediate numbers or vocabulary, from top to bottom experts. At the left stands
    how much of the model the row is. Raises Error where the sizes do not divide (`parallel.check_split`).
    """
    check_split(config, tensors, experts)
    places = [Place(row, column, tensors, experts) for row in range(tensors) for column in range(experts)]
    rows: dict[str, list[Slot]] = {}
    for slot in all_slots(config):
        rows.setdefault(row_of(slot), []).append(slot)
    parts = {name: [part_of(config, place, slots) for place in places] for name, slots in rows.items()}
    wholes = {name: sum(math.prod(slot.shape) for slot in slots) for name, slots in rows.items()}
    total = sum(wholes.values())
    shares = [sum(each[rank].numbers for each in parts.values()) / total for rank in range(len(places))]
    copied = [name for name, each in parts.items() if all(part.numbers == wholes[name] for part in each)]
    least, most = f"{min(shares):.1%}", f"{max(shares):.1%}"
    title = f"Each of {tensors} x {experts} ranks holds {most if least == most else f'{least} to {most}'} of the model"
    title += f"; whole on each: {', '.join(copied)}" if copied and len(places) > 1 else ""
    wide = min(1.3, 5.6 / len(places))
    figure = new_figure(title, max(5.4, 3.2 + wide * len(places)), 1.05 + 0.3 * len(rows))
    ax = figure.subplots()
    for place, name in enumerate(rows):
        for rank, part in enumerate(parts[name]):
            draw_held(ax, rank + 0.5, place, 0.9, rows=part.experts, columns=part.cut)
        ax.text(len(places) + 0.08, place + 0.5, share_text(parts[name], wholes[name]), va="center", fontsize=SMALL)
    ax.set(xlim=(-0.04, len(places) + 0.04), ylim=(len(rows), 0))
    ax.spines[:].set_visible(False)
    ax.set_yticks([at + 0.5 for at in range(len(rows))], [f"{name}  {spoken(wholes[name] / total)}" for name in rows])
    few = len(places) <= 10
    names = [f"{rank}\nt {place.tensor}, e {place.expert}" if few else f"{rank}" for rank, place in enumerate(places)]
    ax.set_xticks([at + 0.5 for at in range(len(places))], names)
    ax.set_xlabel("rank, with its place in the grid: t tensor, e expert")
    ax.tick_params(length=0, labelsize=SMALL)
    return figure


@styled
def feed_forward_cut(hidden: int, intermediate: int, devices: int) -> Figure:
    """A lane a device: frames are whole tensors, filled with what it holds or computes; at the right the sum of all.

    Rows lie from top to bottom, columns from left to right. Hatched are the terms, the only numbers that are sent.
    """
    title = "Rows of gate and up make the numbers that the same columns of down read: only terms of y are sent"
    figure = new_figure(title, 8.8, 1.15 + 0.75 * devices)
    ax = figure.subplots()
    stops = [intermediate * device // devices for device in range(devices + 1)]
    names = {0.1: f"x\n[{hidden}]", 1.3: f"gate, up\n2 x [{intermediate}, {hidden}]"}
    names |= {2.5: f"silu(Gx) · Ux\n[{intermediate}]", 3.7: f"down\n[{hidden}, {intermediate}]"}
    names |= {4.9: f"a term of y\n[{hidden}]", 6.2: f"y, the sum,\non each [{hidden}]"}
    middle = devices / 2
    for lane, ends in enumerate(pairwise(stops)):
        first, last = (end / intermediate for end in ends)
        draw_held(ax, 0.1, lane)
        draw_held(ax, 1.3, lane, 0.7, rows=(first, last))
        draw_held(ax, 2.5, lane, rows=(first, last))
        draw_held(ax, 3.7, lane, 0.7, columns=(first, last))
        draw_held(ax, 4.9, lane, hatch="//////")
        for left, right in ((0.3, 0.85), (1.75, 2.3), (2.7, 3.25), (4.15, 4.7)):
            draw_arrow(ax, (left, lane + 0.5), (right, lane + 0.5))
        draw_arrow(ax, (5.1, lane + 0.5), (6.0, middle))
    draw_held(ax, 6.2, middle - 0.5)
    ax.set(xlim=(-0.1, 6.7), ylim=(devices, 0))
    ax.set_xticks(list(names), list(names.values()))
    ax.set_yticks([lane + 0.5 for lane in range(devices)], [f"device {lane}" for lane in range(devices)])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=SMALL)
    held = [f"device {lane} holds {first} to {last - 1}" for lane, (first, last) in enumerate(pairwise(stops))]
    figure.alt = f"{title}. Of {intermediate} rows and columns {', '.join(held)}; each makes a term of all of y."
    return figure


def draw_held(
    ax: Axes,
    centre: float,
    row: int | float,
    wide: float = 0.16,
    rows: tuple[float, float] = (0.0, 1.0),
    columns: tuple[float, float] = (0.0, 1.0),
    hatch: str = "",
) -> None:
    """A frame for a whole tensor and in it, by rows and columns, what one device has of it."""
    left, top, high = centre - wide / 2, row + 0.12, 0.76
    corner = left + columns[0] * wide, top + rows[0] * high
    size = (columns[1] - columns[0]) * wide, (rows[1] - rows[0]) * high
    look: dict[str, Any] = {"fc": "white", "ec": MIDDLE, "hatch": hatch} if hatch else {"fc": MIDDLE, "ec": "none"}
    ax.add_patch(Rectangle(corner, *size, **look))
    ax.add_patch(Rectangle((left, top), wide, high, fc="none", ec="#555555", lw=0.7))


@styled
def ring_sums(counts: Int[Tensor, "steps ranks parts"]) -> Figure:
    """A panel a step, a row a rank: of how many ranks' numbers each part is the sum. Framed is what has just come.

    The first panel is the beginning, the next step 0. The title says after how many steps each rank holds a whole
    part, and all of them, or how few parts are whole in the end.
    """
    steps, ranks, parts = counts.shape
    whole = counts == ranks
    some, every = (int(done.int().argmax()) for done in (whole.any(2).all(1), whole.all(2).all(1)))
    took = f"{some} step{'s' * (some != 1)}"
    title = f"Around a ring of {ranks} each rank holds one whole part after {took}, all parts after {every}"
    if not whole[-1].all():
        title = f"Around a ring of {ranks} only {int(whole[-1].sum())} of {ranks * parts} parts are whole in the end"
    columns = min(steps, 7)
    figure = new_figure(title, max(5.6, 0.7 + 1.17 * columns), 0.55 + 1.35 * math.ceil(steps / columns))
    grid = figure.subplots(math.ceil(steps / columns), columns, squeeze=False).ravel()
    for ax in grid[steps:]:
        ax.remove()
    for step, ax in enumerate(grid[:steps]):
        heatmap(ax, counts[step], counts[step].tolist(), vmin=0, vmax=ranks)
        for rank, part in (counts[step] != counts[max(0, step - 1)]).nonzero().tolist():
            for edge, width in (("black", 2.8), (LIT, 1.3)):  # one of the two stands out on any shade, in grey too
                ax.add_patch(Rectangle((part - 0.46, rank - 0.46), 0.92, 0.92, fc="none", ec=edge, lw=width))
        ax.set(title=f"step {step - 1}" if step else "at first", xticks=range(parts), yticks=range(ranks))
        ax.set_xlabel("part", fontsize=SMALL)
        ax.set_ylabel("" if step % columns else "rank", fontsize=SMALL)
        ax.tick_params(length=0, labelsize=SMALL)
    figure.alt = f"{title}. A panel a step: rows are ranks, columns parts; a number says how many ranks a part sums."
    return figure


@styled
def device_memory(held: Mapping[str, Mapping[str, Mapping[int, int | float]]], limits: Sequence[int]) -> Figure:
    """Bytes on each device by number of devices: model -> way to cut -> devices -> bytes, a panel a model.

    `limits` are the memories of devices, in GB. The title says which of the numbers of devices that are given is the
    smallest that is enough, for devices of each kind.
    """
    found: list[str] = []
    tried = sorted({count for ways in held.values() for sizes in ways.values() for count in sizes})
    named = ", ".join(map(str, tried)) if len(tried) < 5 else f"{', '.join(map(str, tried[:3]))} … {tried[-1]}"
    for model, ways in held.items():
        pairs = [pair for sizes in ways.values() for pair in sizes.items()]
        needs = []
        for limit in limits:
            enough = [count for count, size in pairs if size <= limit * 1e9]
            needs.append(f"{min(enough)} x {limit}" if enough else f"over {max(pairs)[0]} x {limit}")
        found.append(f"{model} {'' if found else 'fits '}into {' or '.join(needs)} GB")
    figure = new_figure(f"Of {named} devices, {', '.join(found)}", 8.8, 3.4)
    axes = figure.subplots(1, len(held), sharey=True, squeeze=False)[0]
    for ax, (model, ways) in zip(axes, held.items(), strict=True):
        for (way, sizes), (form, marker, colour, _) in zip(ways.items(), LINES, strict=False):
            look = {"marker": marker, "color": colour, "ms": 4, "lw": 1.3, "label": way}
            ax.plot(list(sizes), [size / 1e9 for size in sizes.values()], form, **look)
        counts = sorted({count for sizes in ways.values() for count in sizes})
        logarithmic(ax.xaxis, counts, base=2)
        logarithmic(ax.yaxis, parts=(1, 3))
        ax.set(title=model, xlabel="devices")
        for limit in limits:
            ax.axhline(limit, color="black", lw=0.8, ls=(0, (6, 3)), zorder=0)
            name = {"xy": (1, limit), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(f"{limit} GB", **name, xytext=(3, 0), va="center", fontsize=SMALL)
    axes[0].set_ylabel("GB on each device")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


@styled
def token_times(
    ranks: Sequence[int], cases: Mapping[str, tuple[Sequence[int | float], Sequence[int | float]]]
) -> Figure:
    """Seconds of a pass by number of ranks: the work of a rank, and on top what it sends, a panel a case.

    A case is its seconds of work and of sending, for each number of ranks; its name is what is passed and, on a second
    line, the link. The least sum is bold; the title says where it is not that of the first number of ranks. Six cases
    stand in two rows.
    """
    totals = {case: [sum(pair) for pair in zip(*times, strict=True)] for case, times in cases.items()}
    best = {case: ranks[min(range(len(ranks)), key=times.__getitem__)] for case, times in totals.items()}
    named = {case: case.replace("\n", " ") for case in cases}
    title = f"Around a ring sharing pays {where_it_pays({case: count != ranks[0] for case, count in best.items()})}"
    rows = 1 + (len(cases) > 4 and len(cases) % 2 == 0)
    figure = new_figure(title, 8.8, 1.2 + 2 * rows)
    axes = list(figure.subplots(rows, len(cases) // rows, squeeze=False).flat)
    for ax, (case, times) in zip(axes, cases.items(), strict=True):
        low, high = ([1e3 * time for time in each] for each in times)
        ax.bar(range(len(ranks)), low, 0.7, color=MIDDLE, ec="black", lw=0.6, label="a rank's work")
        look: dict[str, Any] = {"color": LIT, "ec": "black", "lw": 0.6, "hatch": "///", "label": "to send sums"}
        ax.bar(range(len(ranks)), high, 0.7, low, **look)
        for at, total in enumerate(totals[case]):
            weight: Any = {"weight": "bold" if ranks[at] == best[case] else "normal", "ha": "center"}
            ax.annotate(f"{1e3 * total:.3g}", (at, 1e3 * total), (0, 2), textcoords="offset points", **weight)
        ax.set(title=case, xlabel="ranks", ylim=(0, 1.13e3 * max(totals[case])))
        ax.set_xticks(range(len(ranks)), [f"{count}" for count in ranks])
    axes[0].set_ylabel("milliseconds")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    told = (f"{named[case]}: {', '.join(f'{1e3 * time:.3g}' for time in times)}" for case, times in totals.items())
    figure.alt = f"{title}. Milliseconds on {', '.join(map(str, ranks))} ranks, {'; '.join(told)}."
    return figure


def where_it_pays(pays: Mapping[str, bool]) -> str:
    """The links over which something pays, and for which of their cases; a case is named “what”, or “what\\nlink”."""
    links: dict[str, dict[str, bool]] = {}
    for case, pay in pays.items():
        what, _, link = case.partition("\n")
        links.setdefault(link, {})[what] = pay
    told = []
    for link, cases in links.items():
        found = [what for what, pay in cases.items() if pay]
        some = f"only for {' and '.join(found)}" if found else "nowhere"
        told.append(f"{link} {some if len(found) < len(cases) else 'in every case'}".strip())
    return ", ".join(told)


@styled
def dispatch_cost(
    owners: Sequence[int],
    adding: Sequence[int | float],
    sending: Mapping[str, Sequence[int | float]],
    gathering: Sequence[int | float],
) -> Figure:
    """Vectors that a rank sends for each token of a layer, by number of ranks that own experts.

    `adding` answers up; ways of `sending` tokens to owners and back; `gathering` all rows at the end, which the left
    panel counts in. Titles say from how many ranks on each way of sending is the cheaper.
    """
    ways = {"with the gathering": [1.0] * len(owners), "without it": [0.0] * len(owners)}
    costs = {
        way: {
            name: [cost + count * rows for cost, count, rows in zip(each, counted, gathering, strict=True)]
            for name, each in sending.items()
        }
        for way, counted in ways.items()
    }
    found = {way: [first_below(owners, each, adding) for each in lines.values()] for way, lines in costs.items()}
    named = [f"{first} at {name}" for first, name in zip(found["with the gathering"], sending, strict=True)]
    named[0] = named[0].replace(" at", " ranks on at", 1)
    title = f"Sending wins from {', '.join(named)}, with the gathering counted in"
    figure = new_figure(title, 8.8, 3.5)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (way, lines) in zip(axes, costs.items(), strict=True):
        ax.plot(owners, adding, "-", color="black", lw=2.2, label="a sum, any top-k")
        draw_lines(ax, owners, lines, lw=1.3, markevery=max(1, len(owners) // 8))
        ax.set(title=f"{way}: from {', '.join(found[way])} ranks on", xlabel="ranks that own experts", ylim=(0, None))
    axes[0].set_ylabel("vectors sent by a rank\nfor each token of a layer")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def first_below(places: Sequence[int], values: Sequence[int | float], others: Sequence[int | float]) -> str:
    """The first place from which on all values stay below the others; “never” where there is none."""
    first = "never"
    for place, value, other in reversed(list(zip(places, values, others, strict=True))):
        if value >= other:
            break
        first = str(place)
    return first
