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
    MIDDLE,
    SMALL,
    Figure,
    draw_lines,
    half_interval,
    label_axis,
    new_figure,
    styled,
)

__all__ = ["loss_over_gaps", "mean_losses", "met_angles", "slowed_pairs", "trained_longer"]

CLEAR = 1.7  # times a 95% interval: where some twenty are compared, one is beyond that by chance once in twenty times


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
def loss_over_gaps(
    losses: Mapping[str, Float[Tensor, "gaps chats"]],
    gaps: Sequence[int],
    student: int | float = 1.96,
) -> Figure:
    """How much more an answer costs than with the first kind when its positions begin so many later than the question
    ends, chat by chat, with 95% intervals; `student` is their factor, larger where chats are few.

    The title says which lose more at every gap, and which less or more at the last, beyond `CLEAR` times the interval.
    Kinds that are far off from the rest have a panel of their own.
    """
    first, *others = losses
    apart = {name: losses[name] - losses[first] for name in others}  # [gaps, chats] each
    mean = {name: each.mean(1) for name, each in apart.items()}
    error = {name: half_interval(each, student) for name, each in apart.items()}
    clear = {name: CLEAR * each for name, each in error.items()}
    more = {name: mean[name] > clear[name] for name in others}  # [gaps] each
    always = [name for name in others if more[name].all()] if len(gaps) > 1 else []
    less = [name for name in others if mean[name][-1] + clear[name][-1] < 0]
    then = [name for name in others if more[name][-1] and name not in always]
    last = [f"{how} with {together(names)}" for names, how in ((less, "less"), (then, "more")) if names]
    told = [f"more with {together(always)} throughout"] if always else []
    if last or not always:
        told.append(f"at a gap of {gaps[-1]:,} {', '.join(last) or 'none can be told apart'}")
    title = f"Loss against {first}: {'; '.join(told)}"
    figure = new_figure(title, 9.6, 3.2)
    largest = {name: float(mean[name].abs().max()) for name in others}
    usual = sorted(largest.values())[(len(others) - 1) // 2] if others else 0.0
    far = [name for name in others if largest[name] > 3 * usual]
    panels = [names for names in (far, [name for name in others if name not in far]) if names] or [[]]
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, names in zip(axes, panels, strict=True):
        ax.axhline(0, color=GREY, lw=0.9, ls=(0, (6, 3)), label=None if ax is not axes[0] else first)
        for at, name in enumerate(names):
            places = [gap + 0.12 * (at - (len(names) - 1) / 2) for gap in range(len(gaps))]
            draw_marks(ax, places, mean[name], error[name], name, others.index(name))
        label_axis(ax.xaxis, [f"{gap:,}" for gap in gaps], 6.4 / len(panels))
        ax.set(xlim=(-0.5, len(gaps) - 0.5), title=together(names) if far else "")
        ax.set_xlabel("positions left out before the answer")
    axes[0].set_ylabel(f"loss minus that of {first} (nats)\nn = {losses[first].shape[1]} chats, whiskers: 95%")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = (
        f"By how much the mean loss on the answers differs from that of {first}, over the positions left out before "
        f"the answer, with intervals; a mark each for {', '.join(others)}. {title}."
    )
    return figure


def draw_marks(ax: Axes, places: Sequence[int | float], mean: Tensor, error: Tensor, name: str, number: int) -> None:
    """Marks with intervals, without a line between them; `number` chooses their look."""
    look: dict[str, Any] = {"color": LINES[number][2], "ms": 5, "ls": "", "elinewidth": 1.1, "capsize": 2.5}
    look |= {"marker": LINES[number][1], "mfc": "white" if number % 2 else LINES[number][2]}
    ax.errorbar(places, mean.tolist(), error.tolist(), label=name, **look)


@styled
def mean_losses(losses: Mapping[str, Float[Tensor, "chats"]], student: int | float = 1.96) -> Figure:
    """The mean loss on the answers in each setting, a row each, with its 95% interval; `student` is its factor.

    The title tells of the first and of the largest.
    """
    mean = {name: float(each.mean()) for name, each in losses.items()}
    error = {name: float(half_interval(each[None], student)) for name, each in losses.items()}
    first, worst = next(iter(mean)), max(mean, key=mean.__getitem__)
    title = f"An answer's token costs {mean[first]:.2f} nats with {first}"
    title += f", {mean[worst]:.2f} with {worst}" if worst != first else ", more than in any other row" * (len(mean) > 1)
    figure = new_figure(title, 7.6, 1.0 + 0.27 * len(mean))
    ax = figure.subplots()
    for row, name in enumerate(losses):
        ax.hlines(row, 0, mean[name], color="#bbbbbb", lw=0.8, zorder=0)
        ax.errorbar(mean[name], row, xerr=error[name], fmt="o", color=DARK, ms=5, elinewidth=1.1, capsize=2.5)
    ax.axvline(0, color=GREY, lw=0.8)
    label_axis(ax.yaxis, losses, 0.27 * len(mean))
    numbers = ax.secondary_yaxis("right")
    label_axis(numbers.yaxis, [f"{mean[name]:.2f} ± {error[name]:.2f}" for name in losses], 0.27 * len(mean))
    numbers.spines[:].set_visible(False)
    ax.set(ylim=(len(mean) - 0.4, -0.6), xlabel=f"loss (nats; n = {len(losses[first])} chats, whiskers: 95%)")
    told = "; ".join(f"{name} {mean[name]:.2f} ± {error[name]:.2f}" for name in losses)
    figure.alt = f"A dot with its interval for each row, the mean loss on the answers: {told}."
    return figure


@styled
def trained_longer(
    steps: Sequence[int],
    losses: Mapping[str, Mapping[str, Float[Tensor, "looks chats"]]],
    student: int | float = 1.96,
) -> Figure:
    """Mean losses over the steps of a training on longer rows: a panel for each way of asking, a line for each kind of
    rope, shaded the 95% interval, of which `student` is the factor. The title tells of the first way, before and after.
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
            mean, error = found.mean(1), half_interval(found, student)
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


def together(names: Sequence[str]) -> str:
    """Names as they are listed in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
