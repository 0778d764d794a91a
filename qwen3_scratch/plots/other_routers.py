"""Ways to route beside each other: how evenly each uses its experts, and what loss it comes to."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.patches import Rectangle
from torch import Tensor

from .boxes import box, draw_arrow, empty_axes
from .canvas import (  # fmt: skip
    DARK,
    GREY,
    LIT,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    half_interval,
    new_figure,
    percent,
    spoken,
    student,
    styled,
)

__all__ = ["expert_places", "router_comparison", "router_loads", "router_ways"]

IDLE = 0.1  # of an even share: an expert with less counts as idle
FORMS = ("o", "s", "^", "D", "v")  # one a seed, so that pairs can be seen


def idle_experts(shares: Float[Tensor, "runs layers experts"]) -> int:
    """How many experts, over all runs and layers, get less than a tenth of an even share."""
    return int((shares * shares.shape[-1] < IDLE).sum())


@styled
def router_ways() -> Figure:
    """A mixture layer as a line of steps, and beside each step the other way to route that changes it."""
    figure = new_figure("Each of the four ways changes another step of the layer", 7.8, 2.9)
    ax = empty_axes(figure, 7.6, 2.5)
    steps = (("a token", 0.05), ("router:\nlogits", 1.3), ("choice:\ntop-k", 2.7), ("weights", 4.1),
             ("chosen\nexperts", 5.5), ("sum", 6.7))  # fmt: skip
    for text, left in steps:
        box(ax, left, 1.3, 0.85, text, 0.44)
    for (_, left), (_, right) in pairwise(steps):
        draw_arrow(ax, (left + 0.85, 1.3), (right, 1.3))
    for text, left in (("noise:\nadded in training", 1.3), ("moved bias: added\nfor the choice alone", 2.7),
                       ("capacity: who is\nfull weighs 0", 4.1)):  # fmt: skip
        box(ax, left - 0.25, 0.4, 1.35, text, 0.44, fc=LIT)
        draw_arrow(ax, (left + 0.425, 0.62), (left + 0.425, 1.08))
    box(ax, 2.7, 2.15, 2.25, "shared expert: answers every token", 0.36, fc=LIT)
    ax.plot((0.475, 0.475, 2.7), (1.52, 2.15, 2.15), color="#555555", lw=0.9)
    ax.plot((4.95, 7.125), (2.15, 2.15), color="#555555", lw=0.9)
    draw_arrow(ax, (7.125, 2.15), (7.125, 1.52))
    figure.alt = (
        "Boxes in a row: a token, the router's logits, the choice, the weights, the chosen experts, the sum. Noise "
        "points at the logits, the moved bias at the choice, the capacity at the weights; the shared expert leads "
        "past all of them from the token to the sum."
    )
    figure.few_colours = True
    return figure


@styled
def expert_places(asked: Int[Tensor, "choices"], experts: int, capacity: int, labels: Sequence[str]) -> Figure:
    """The places of each expert, a row for each: taken in the order of the choices, empty, and those turned away.

    A choice is labelled, if there is room; behind the bar stand those that found no place.
    """
    queues = [
        [label for label, one in zip(labels, asked.tolist(), strict=True) if one == row] for row in range(experts)
    ]
    lost, taken = (sum(map(len, part)) for part in ([q[capacity:] for q in queues], [q[:capacity] for q in queues]))
    title = (
        f"{lost} of {len(labels)} choices dropped, while {experts * capacity - taken} of {experts * capacity} places "
    )
    longest = max(capacity, *(len(queue) for queue in queues))
    apart = min(0.7, 7.0 / longest)  # inches a place
    texts = [[text if len(text) <= apart * 11 else "…" for text in queue] for queue in queues]
    figure = new_figure(f"{title}stay empty", max(5.2, 1.6 + apart * longest), 0.75 + 0.36 * experts)
    ax = figure.subplots()
    for row, queue in enumerate(queues):
        for place in range(max(capacity, len(queue))):
            look: dict[str, Any] = (
                {"fc": PALE, "ec": DARK} if place < len(queue) else {"fc": "white", "ec": GREY, "ls": "--"}
            )
            look = look if place < capacity else {"fc": "white", "ec": DARK, "hatch": "//////"}
            ax.add_patch(Rectangle((place + 0.06, row - 0.38), 0.88, 0.76, lw=0.8, **look))
            if place < len(queue):
                behind = {"fc": PALE if place < capacity else "white", "ec": "none", "pad": 1.0}
                ax.text(place + 0.5, row, texts[row][place], fontsize=SMALL, ha="center", va="center", bbox=behind)
    ax.axvline(capacity, color="black", lw=1.2)
    ax.set(xlim=(0, longest), ylim=(experts - 0.5, -0.5), xticks=())
    ax.set_xlabel(f"places of each expert: {capacity}; hatched: dropped", fontsize=SMALL + 1)
    ax.set_yticks(range(experts), [f"expert {row}" for row in range(experts)], fontsize=SMALL)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure.alt = f"{title}stay empty. A row of {capacity} boxes for each of {experts} experts, with who took each."
    figure.few_colours = True
    return figure


@styled
def router_loads(shares: Mapping[str, Float[Tensor, "runs layers experts"]]) -> Figure:
    """Each expert's share of its layer's choices, as times an even share, the busiest first: a panel for each way.

    Pale is one layer of one run, dark the mean over them; the dashed line is an even share.
    """
    idle = {name: idle_experts(each) for name, each in shares.items()}
    some = [f"{count} of {shares[name].numel()} with {name}" for name, count in idle.items() if count]
    none = len(idle) - len(some)
    title = "Idle experts, below a tenth of an even share: " + ", ".join(some)
    title += f"; none in the other\u00a0{none}" * (0 < none < len(idle)) if some else "none"
    columns = min(4 if len(shares) > 6 else 3, len(shares))
    rows = -(-len(shares) // columns)
    figure = new_figure(title, max(5.2, 0.6 + (2.35 if columns < 4 else 2.05) * columns), 0.9 + 1.45 * rows)
    high = 1.08 * max(float(each.max()) * each.shape[-1] for each in shares.values())
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[len(shares) :]:
        ax.remove()
    for number, (ax, (name, each)) in enumerate(zip(axes, shares.items(), strict=False)):
        times = (each.float() * each.shape[-1]).sort(-1, descending=True).values.flatten(0, 1)  # [lines, experts]
        ranks = range(1, times.shape[1] + 1)
        for line in times.tolist():
            ax.plot(ranks, line, color="#9ecae1", lw=0.9)
        ax.plot(ranks, times.mean(0).tolist(), "o-", color=DARK, lw=1.5, ms=2.5)
        ax.axhline(1, color="black", lw=0.8, ls="--")
        ax.set_title(f"{name}: {idle[name]} idle", fontsize=SMALL + 1)
        ax.set(ylim=(0, high), xlim=(0.4, times.shape[1] + 0.6))
        ax.set_xticks([1, times.shape[1]] if times.shape[1] > 1 else [1])
        if number + columns >= len(shares):
            ax.set_xlabel("expert, the busiest first")
    figure.supylabel("share, times an even one", fontsize=SMALL + 1)
    figure.alt = f"{title}. A falling curve for each of {', '.join(shares)}; the flatter, the more even the use."
    figure.few_colours = True
    return figure


@styled
def router_comparison(losses: Mapping[str, Sequence[float]], least: Mapping[str, Sequence[float]], base: str) -> Figure:
    """Ways to route, a row for each, a point for each seed: losses apart from the seed's own under `base`, and load.

    `losses` are in nats, paired by seed. `least` is what the least used expert gets, as times an even share. Bars are
    the means and, of the differences, Student's 95% interval of the mean.
    """
    seeds = len(losses[base])
    apart = {name: torch.tensor(each).double() - torch.tensor(losses[base]) for name, each in losses.items()}
    mean = {name: each.mean().item() for name, each in apart.items()}
    half = {name: half_interval(each[None], student(seeds)).item() for name, each in apart.items()}
    sure = {name: mean[name] for name in mean if seeds > 1 and abs(mean[name]) > half[name]}
    parts = [f"{value:+.2f} nats with {name}" for name, value in sorted(sure.items(), key=lambda pair: pair[1])]
    even = {name: sum(each) / len(each) for name, each in least.items()}
    worst, best = min(even, key=even.__getitem__), max(even, key=even.__getitem__)
    title = f"Compared with {base}, the loss is {' and '.join(parts)}; " if parts else ""
    title += f"no {'other ' * bool(parts)}difference of the loss is sure (n\u00a0=\u00a0{seeds} seeds); the least used "
    title += f"expert gets {spoken(even[worst])} of an even share with {worst}, {spoken(even[best])} with {best}"
    title = title[0].upper() + title[1:]
    figure = new_figure(title, 7.6, 1.5 + 0.32 * len(losses))
    left, right = figure.subplots(1, 2, sharey=True)
    bar = f"mean, 95% interval (t, n = {seeds})" if seeds > 1 else "mean"
    rows = {name: len(losses) - 1 - row for row, name in enumerate(losses)}
    spread = [0.16 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    for name, row in rows.items():
        for ax, values in ((left, apart[name].tolist()), (right, least[name])):
            ax.axhline(row, color="#dddddd", lw=0.6, zorder=0)
            for seed, value in enumerate(values):
                look: dict[str, Any] = {"ms": 4, "mfc": "white", "mec": MIDDLE, "label": f"seed {seed}"}
                ax.plot([value], [row + spread[seed]], FORMS[seed % len(FORMS)], **look)
        left.errorbar([mean[name]], [row], xerr=[half[name]], fmt="|", ms=11, color=DARK, capsize=3, label=bar)
        right.plot([even[name]], [row], "|", ms=11, mew=1.5, color=DARK)
    left.axvline(0, color="black", lw=0.8, ls="--")
    left.set_yticks(list(rows.values()), list(rows))
    left.set(xlabel=f"nats a token, apart from {base}", ylim=(-0.6, len(rows) - 0.4))
    right.set(xlabel="least used expert, of an even share", xlim=(-0.03, None))
    right.xaxis.set_major_formatter(percent)
    for ax in (left, right):
        ax.tick_params(axis="y", length=0)
    handles, names = left.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    figure.legend(by_name.values(), by_name, frameon=False, loc="outside lower center", ncols=seeds + 1)
    figure.alt = f"{title}. At the left points and intervals, at the right points, for {', '.join(losses)}."
    figure.few_colours = True
    return figure
