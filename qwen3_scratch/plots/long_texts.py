"""Longer texts: angles that training never showed, pairs that are slowed, and what a gap in the positions costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    GREY,
    LINES,
    SMALL,
    Figure,
    draw_lines,
    half_interval,
    label_axis,
    new_figure,
    styled,
)

__all__ = ["loss_over_gaps", "met_angles", "slowed_pairs"]


@styled
def met_angles(frequencies: Float[Tensor, "pairs"], trained: int, longer: int) -> Figure:
    """For some pairs the circle of their angles: dark what distances up to `trained` met, thin and dashed what is new
    up to `longer`. Written below is how often the pair turns within `trained`; the first that does not is shown too."""
    turns = frequencies.float().cpu() * trained / (2 * math.pi)
    new = int((turns < 1).sum())
    border = {int((turns < 1).long().argmax())} if new else set()
    pairs = sorted({round(at) for at in torch.linspace(0, len(turns) - 1, min(6, len(turns))).tolist()} | border)
    title = f"{new} of {len(turns)} pairs meet new angles beyond {trained:,} positions, the others have come round"
    figure = new_figure(title, max(5.6, 1.3 * len(pairs)), 2.45)
    for ax, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        met, all_of_it = (min(float(turns[pair]) * reach / trained, 1.0) for reach in (trained, longer))
        draw_arc(ax, 0.0, met, DARK, 6.0, "-")
        if all_of_it > met:
            draw_arc(ax, met, all_of_it, "#555555", 1.6, (0, (2, 1.2)))
        ax.add_patch(Circle((0, 0), 1, fc="none", ec="#cccccc", lw=0.6, zorder=0))
        ax.text(0, 0, "nothing\nnew" if met == 1 else "new", ha="center", va="center", fontsize=SMALL)
        ax.set(title=f"pair {pair}", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
        ax.set_xlabel(f"{turns[pair]:,.2g} turns", fontsize=SMALL)
        ax.spines[:].set_visible(False)
    marks = [
        Line2D([], [], color=DARK, lw=6, label=f"met at distances up to {trained:,}"),
        Line2D([], [], color="#555555", lw=1.6, ls=(0, (2, 1.2)), label=f"new, at distances up to {longer:,}"),
    ]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=2, handlelength=2.6)
    figure.alt = "A circle for each of some pairs. Those of fast pairs are dark all round; of slow ones a dark arc was "
    figure.alt += f"met within {trained:,} positions, and a dashed one beside it is new up to {longer:,}."
    return figure


def draw_arc(ax: Axes, begin: float, end: float, colour: str, width: float, form: object) -> None:
    """A part of the unit circle, from one share of a turn to another."""
    angles = 2 * math.pi * torch.linspace(begin, end, 100)
    ax.plot(angles.cos().tolist(), angles.sin().tolist(), color=colour, lw=width, ls=form, solid_capstyle="butt")


@styled
def slowed_pairs(frequencies: Mapping[str, Float[Tensor, "pairs"]]) -> Figure:
    """How fast each pair turns as a share of the first entry's speed, for each of the other entries."""
    first, *others = frequencies
    shares = {name: frequencies[name].float() / frequencies[first].float() for name in others}
    kept = {name: int((share > 0.995).sum()) for name, share in shares.items()}
    pairs = len(frequencies[first])
    counts = [f"{count} with {name}" for name, count in kept.items()]
    counts[0] = counts[0].replace(" ", f" of {pairs} pairs ", 1)
    figure = new_figure(f"Full speed is kept by {', '.join(counts)}", 7.2, 2.9)
    ax = figure.subplots()
    draw_lines(ax, range(pairs), {name: (100 * share).tolist() for name, share in shares.items()})
    ax.set(xlabel="pair", ylabel=f"speed (% of {first})", ylim=(0, 106))
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"The speed of each pair in percent of {first}, a line each for {', '.join(others)}; "
    figure.alt += f"at full speed are {', '.join(f'{count} ({name})' for name, count in kept.items())}."
    return figure


@styled
def loss_over_gaps(losses: Mapping[str, Float[Tensor, "gaps chats"]], gaps: Sequence[int]) -> Figure:
    """How much more an answer costs than with the first kind when its positions begin so many later than the question
    ends, chat by chat, with 95% intervals.

    The title says which lose less or more for sure at the last gap.
    """
    first, *others = losses
    apart = {name: losses[name] - losses[first] for name in others}  # [gaps, chats] each
    mean, error = (
        {name: how(each) for name, each in apart.items()} for how in (lambda each: each.mean(1), half_interval)
    )
    less = [name for name in others if mean[name][-1] + error[name][-1] < 0]
    more = [name for name in others if mean[name][-1] - error[name][-1] > 0]
    said = [f"{together(names)} {'lose' if len(names) > 1 else 'loses'} {how} than {first}"
            for names, how in ((less, "less"), (more, "more")) if names]  # fmt: skip
    title = f"At a gap of {gaps[-1]:,} {', '.join(said) or f'none can be told from {first}'}"
    figure = new_figure(title, 8.6, 3.2)
    ax = figure.subplots()
    ax.axhline(0, color=GREY, lw=0.9, ls=(0, (6, 3)), label=f"{first} itself")
    for number, name in enumerate(others):
        places = [at + 0.2 * (number - (len(others) - 1) / 2) for at in range(len(gaps))]
        look: dict[str, Any] = {"color": LINES[number][2], "ms": 5, "ls": "", "elinewidth": 1.1, "capsize": 2.5}
        look |= {"marker": LINES[number][1], "mfc": "white" if number % 2 else LINES[number][2]}
        ax.errorbar(places, mean[name].tolist(), error[name].tolist(), label=name, **look)
    label_axis(ax.xaxis, [f"{gap:,}" for gap in gaps], 6.4)
    ax.set(xlim=(-0.5, len(gaps) - 0.5), ylabel=f"loss minus that of {first} (nats)")
    ax.set_xlabel(f"positions left out before the answer (n = {losses[first].shape[1]} chats, bars: 95%)")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = (
        f"By how much the mean loss on the answers differs from that of {first}, for each size of a gap in the "
        f"positions before them, with intervals; a mark each for {', '.join(others)}. {title}."
    )
    return figure


def together(names: Sequence[str]) -> str:
    """Names as they are listed in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
