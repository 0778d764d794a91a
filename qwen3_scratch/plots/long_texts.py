"""Longer texts: angles that training never showed, pairs that are slowed, and what it then costs to answer."""

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
    MIDDLE,
    SMALL,
    Figure,
    draw_lines,
    half_interval,
    label_axis,
    new_figure,
    student,
    styled,
)

__all__ = ["mean_losses", "met_angles", "slowed_pairs", "trained_longer"]


@styled
def met_angles(frequencies: Float[Tensor, "pairs"], usual: int, met: int, longer: int) -> Figure:
    """For some pairs the circle of their angles: dark what half the chats met, which have up to `usual` tokens, paler
    what the longest of those sampled, with `met` tokens, adds, thin and dashed what is new up to `longer`. Written
    below is how often the pair turns within `met`; the first that does not come round is shown too. Pairs that turn
    less than a quarter even within `longer` are left out: their arcs would be too short to be told apart."""
    turns = frequencies.float().cpu() * met / (2 * math.pi)
    new = int((turns < 1).sum())
    border = {int((turns < 1).long().argmax())} if new else set()
    legible = max(1, int((turns * longer / met >= 0.25).sum()))
    pairs = sorted({round(at) for at in torch.linspace(0, legible - 1, min(6, legible)).tolist()} | border)
    title = f"{new} of {len(turns)} pairs do not come round within the {met:,} tokens of the longest chat sampled"
    width = max(7.4, 1.3 * len(pairs))
    figure = new_figure(title, width, 1.3 + width / len(pairs))  # as high as a circle is wide, and its words
    looks: tuple[dict[str, Any], ...] = (
        {"color": DARK, "lw": 6, "ls": "-", "label": f"met in half the chats, up to {usual:,}"},
        {"color": MIDDLE, "lw": 6, "ls": "-", "label": f"in the longest sampled, up to {met:,}"},
        {"color": "#555555", "lw": 1.6, "ls": (0, (2, 1.2)), "label": f"new, up to {longer:,}"},
    )
    for ax, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        ends = [min(float(turns[pair]) * reach / met, 1.0) for reach in (usual, met, longer)]
        for begin, end, look in zip([0.0, *ends], ends, looks, strict=False):
            if end > begin:
                draw_arc(ax, begin, end, look)
        ax.add_patch(Circle((0, 0), 1, fc="none", ec="#cccccc", lw=0.6, zorder=0))
        ax.text(0, 0, "nothing\nnew" if ends[1] == 1 else "new", ha="center", va="center", fontsize=SMALL)
        ax.set(title=f"pair {pair}", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
        ax.set_xlabel(f"{turns[pair]:,.2g} turns\nwithin {met:,}", fontsize=SMALL)
        ax.spines[:].set_visible(False)
    marks = [Line2D([], [], **look) for look in looks]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=3, handlelength=2.6)
    figure.alt = f"A circle for each of some pairs: dark what half the chats met, within {usual:,} positions, paler "
    figure.alt += f"what the longest adds up to {met:,}, dashed what is new up to {longer:,}. {title}."
    return figure


def draw_arc(ax: Axes, begin: float, end: float, look: Mapping[str, Any]) -> None:
    """A part of the unit circle, from one share of a turn to another."""
    angles = 2 * math.pi * torch.linspace(begin, end, 100)
    ax.plot(angles.cos().tolist(), angles.sin().tolist(), solid_capstyle="butt", **look)


@styled
def slowed_pairs(shapes: Mapping[str, Mapping[str, Float[Tensor, "pairs"]]]) -> Figure:
    """For each shape, how fast each pair turns as a share of the first entry's speed, a line for each other entry.

    The title counts the pairs that keep their speed with the last entry, the heading of each part those with all.
    """
    wide = 4.6 * len(shapes) + 1.2
    counted, told = [], []
    shares = {}
    for shape, frequencies in shapes.items():
        first, *others = frequencies
        shares[shape] = {name: frequencies[name].float() / frequencies[first].float() for name in others}
        kept = {name: int((share > 0.995).sum()) for name, share in shares[shape].items()}
        counted.append(f"{kept[others[-1]]} of {len(frequencies[first])} pairs {shape}")
        told.append(f"{shape}, at full speed: {', '.join(f'{count} with {name}' for name, count in kept.items())}")
    figure = new_figure(f"{others[-1]} keeps the full speed of {', of '.join(counted)}", wide, 2.9)
    axes = figure.subplots(1, len(shapes), squeeze=False, sharey=True)[0]
    for ax, heading, each in zip(axes, told, shares.values(), strict=True):
        pairs = len(each[others[-1]])
        draw_lines(ax, range(pairs), {name: (100 * share).tolist() for name, share in each.items()})
        ax.set_title(heading, fontsize=SMALL + 1)
        ax.set(xlabel="pair", ylim=(0, 106))
    axes[0].set_ylabel(f"speed (% of {first})")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside right center")
    figure.alt = f"The speed of each pair in percent of {first}, a line each for {', '.join(others)}; "
    figure.alt += f"{'; '.join(told)}."
    return figure


@styled
def mean_losses(losses: Mapping[str, Mapping[str, Float[Tensor, "chats"]]], about: str | None = None) -> Figure:
    """The mean loss on the answers: a panel for each setting, in it a row for each way to read, with a 95% interval.

    The title tells what the way `about` costs in each setting next to the first way; without one, what costs most in
    the first setting and least in the last.
    """
    mean = {setting: {name: float(each.mean()) for name, each in rows.items()} for setting, rows in losses.items()}
    names = list(next(iter(mean.values())))
    tall = 0.27 * len(names)
    figure = new_figure(told_of(about, mean) if about else told_of_most(mean), 9.6, 1.2 + tall)
    axes = figure.subplots(1, len(losses), squeeze=False, sharex=True, sharey=True)[0]
    told = {}
    for ax, (setting, rows) in zip(axes, losses.items(), strict=True):
        error = {name: float(half_interval(each[None], student(len(each)))) for name, each in rows.items()}
        said = [f"{mean[setting][name]:.2f} ± {error[name]:.2f}" for name in names]
        for row, name in enumerate(names):
            ax.hlines(row, 0, mean[setting][name], color="#bbbbbb", lw=0.8, zorder=0)
            look: dict[str, Any] = {"fmt": "o", "color": DARK, "ms": 5, "elinewidth": 1.1, "capsize": 2.5}
            ax.errorbar(mean[setting][name], row, xerr=error[name], **look)
        ax.axvline(0, color=GREY, lw=0.8)
        label_axis(ax.yaxis, names, tall)
        numbers = ax.secondary_yaxis("right")
        label_axis(numbers.yaxis, said, tall)
        numbers.spines[:].set_visible(False)
        ax.set(ylim=(len(names) - 0.4, -0.6), title=setting)
        ax.set_xlabel(f"loss (nats; n = {len(rows[names[0]])} chats, whiskers: 95%)")
        told[setting] = ", ".join(f"{name} {number}" for name, number in zip(names, said, strict=True))
    axes[0].set_xlim(right=max(axes[0].get_xlim()[1], 0.05))  # where nothing costs anything, too
    figure.alt = "A dot with its interval for each row, the mean loss on the answers. "
    figure.alt += "; ".join(f"{setting}: {numbers}" for setting, numbers in told.items()) + "."
    return figure


def told_of(way: str, mean: Mapping[str, Mapping[str, float]]) -> str:
    """What a way costs in each setting, next to the first way."""
    first = next(iter(next(iter(mean.values()))))
    more = {setting: rows[way] - rows[first] for setting, rows in mean.items()}
    size = {setting: f"{abs(by):.2f} nats {'more' if by > 0 else 'less'}" for setting, by in more.items()}
    costs = (f"{size[setting] if abs(by) >= 0.005 else 'no more'} ({setting})" for setting, by in more.items())
    once = ", ".join(costs).partition(" nats")
    return f"Next to {first} {way} costs {once[0]}{once[1]}{once[2].replace(' nats', '')}"


def told_of_most(mean: Mapping[str, Mapping[str, float]]) -> str:
    """What costs most in the first setting and least in the last, next to the first way."""
    (first, near), (last, far) = next(iter(mean.items())), list(mean.items())[-1]
    name, worst, best = next(iter(near)), max(near, key=near.__getitem__), min(far, key=far.__getitem__)
    more, less = near[worst] - near[name], far[name] - far[best]
    most = f"{worst} costs {more:.2f} nats more than {name}" if more >= 0.005 else "no way costs more"
    least = f"{best} {less:.2f} less" if less >= 0.005 else f"no way costs less than {name}"
    return f"{first[0].upper()}{first[1:]}: {most}; {last}: {least}"


@styled
def trained_longer(
    steps: Sequence[int],
    losses: Mapping[str, Mapping[str, Float[Tensor, "looks chats"]]],
) -> Figure:
    """Mean losses over the steps of a training on longer rows: a panel for each way of asking, a line for each kind of
    rope, shaded the 95% interval. The title tells of the first way, before and after.
    """
    (way, kinds), *_ = losses.items()
    begins, ends = ([float(each[at].mean()) for each in kinds.values()] for at in (0, -1))
    title = f"{steps[-1]} steps on longer rows bring the loss {way} from {min(begins):.1f} nats and more "
    title += f"to {max(ends):.1f} at most"
    figure = new_figure(title, 9.6, 2.9)
    axes = figure.subplots(1, len(losses), squeeze=False, sharey=True)[0]
    for ax, (heading, each) in zip(axes, losses.items(), strict=True):
        draw_lines(ax, steps, {kind: found.mean(1).tolist() for kind, found in each.items()})
        for found, (_, _, colour, _) in zip(each.values(), LINES, strict=False):
            mean, error = found.mean(1), half_interval(found, student(found.shape[1]))
            ax.fill_between(steps, (mean - error).tolist(), (mean + error).tolist(), color=colour, alpha=0.15, lw=0)
        ax.set(title=heading, xlabel="step of training", xlim=(0, steps[-1]))
        ax.axhline(0, color=GREY, lw=0.6)
    axes[0].set_ylabel(f"loss (nats), n = {kinds[next(iter(kinds))].shape[1]} chats\nshaded: 95%")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside right center")
    told = {
        heading: ", ".join(f"{kind} {float(f[0].mean()):.2f} to {float(f[-1].mean()):.2f}" for kind, f in each.items())
        for heading, each in losses.items()
    }
    figure.alt = "Losses over the steps of a training, a panel for each way of asking. "
    figure.alt += "; ".join(f"{heading}: {said}" for heading, said in told.items()) + "."
    return figure
