"""What shows that heads look words up: their cost in nats alone and together, which way they are reached, and when."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from .boxes import box, draw_arrow
from .canvas import (  # fmt: skip
    DARK,
    LIT,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    half_interval,
    label_axis,
    legend_beside,
    new_figure,
    percent,
    span,
    spoken,
    styled,
)
from .heads import head_name
from .one_word import interval

__all__ = [
    "copying_and_looking", "group_costs", "head_costs", "heads_over_training", "lent_part", "ways_in",
]  # fmt: skip

LOOKS = ((DARK, None), (PALE, "////"), ("white", None))  # of bars that stand side by side
Head = tuple[int, int]


def bars(ax: Axes, groups: Mapping[str, Float[Tensor, "bars n"]]) -> None:
    """Bars side by side, one of each group at every place, as high as their means, with 95% intervals."""
    wide = 0.8 / len(groups)
    for number, ((name, values), (face, hatch)) in enumerate(zip(groups.items(), LOOKS, strict=False)):
        places = [place + wide * (number + 0.5) - 0.4 for place in range(len(values))]
        error: dict[str, Any] = {"yerr": half_interval(values).tolist(), "error_kw": {"lw": 0.9, "capsize": 1.5}}
        heights = values.mean(1).tolist()
        ax.bar(places, heights, wide, fc=face, ec=DARK, hatch=hatch, lw=0.5, label=name, **error)


def names_of_all(count: int, heads: int) -> list[str]:
    """A label for each of `count` heads, `heads` a layer: where they are few, the layer only with its first one."""
    names = [head_name(*divmod(number, heads)) for number in range(count)]
    return [f"H{at % heads}" if count <= 36 and at % heads else name for at, name in enumerate(names)]


def named(heads: Sequence[Head]) -> str:
    """L1H0, L1H1 and L1H4."""
    *most, last = [head_name(*at) for at in heads]
    return f"{', '.join(most)} and {last}" if most else last


@styled
def head_costs(
    zero: Float[Tensor, "layers heads n"],
    mean: Float[Tensor, "layers heads n"],
    marked: Collection[Head],
    margin: float,
) -> Figure:
    """By how many nats the right word's margin falls without each head, its output zero or its mean instead.

    `marked` are the heads that look words up, dark. Where more than `margin` is lost another word wins.
    """
    heads, n = zero.shape[1:]
    costs, means = zero.flatten(0, 1), mean.flatten(0, 1)
    ours = {layer * heads + head for layer, head in marked}
    worst = int(costs.mean(1).argmax())
    most = max((float(costs[number].mean()) for number in ours), default=0.0)
    title = f"Without {head_name(*divmod(worst, heads))} alone the margin goes from {margin:.1f} nats"
    title += f" to {margin - float(costs[worst].mean()):.1f}; a look-up head costs at most {most:.1f}"
    figure = new_figure(title, 9.0, 3.0)
    ax = figure.subplots()
    shades = [DARK if number in ours else PALE for number in range(len(costs))]
    look: dict[str, Any] = {"ec": MIDDLE, "lw": 0.5, "error_kw": {"lw": 0.9, "capsize": 1.5}}
    ax.bar(range(len(costs)), costs.mean(1).tolist(), 0.8, color=shades, yerr=half_interval(costs).tolist(), **look)
    ax.plot(
        range(len(costs)), means.mean(1).tolist(), "D", ms=3.5, mfc="white", mec="black", ls="", label="by its mean"
    )
    ax.axhline(margin, color="black", lw=0.9, ls="--", label="all of the margin:\nabove, another\nword wins")
    ax.axhline(0, color="black", lw=0.6)
    label_axis(ax.xaxis, names_of_all(len(costs), heads), 7.2)
    ax.set(xlim=(-0.7, len(costs) - 0.3), ylabel="nats of margin lost")
    ax.set_xlabel(f"the head replaced by zero (n = {n} stories; whiskers: the bar's 95% interval; dark: look-up heads)")
    legend_beside(figure, ax)
    figure.alt = f"A bar for each head, dark for those that look words up, and a diamond for the mean. {title}."
    return figure


@styled
def group_costs(
    costs: Float[Tensor, "groups n"], groups: Sequence[tuple[Head, ...]], found: tuple[Head, ...]
) -> Figure:
    """What each group of so many heads of one layer is worth, sorted; darker, the more of `found` are in it.

    `found` is the group that is marked by its looks.
    """
    means = costs.mean(1)
    order = means.argsort(descending=True).tolist()
    at, ours = order.index(groups.index(found)), float(means[groups.index(found)])
    rank = "the most" if at == 0 else f"rank {at + 1}"
    title = f"{named(found)} cost {ours:.1f} nats, {rank} of {len(groups)} groups"
    size, n = len(found), costs.shape[1]
    shared = [len({*found} & {*groups[number]}) for number in order]  # look-up heads in each group
    best = next((place for place in range(len(order)) if place != at), None)
    if best is not None:
        rank = "next" if at == 0 else "best other"
        title += f"; {rank}, with {shared[best]} of them: {float(means[order[best]]):.1f}"
    figure = new_figure(title, 8.6, 2.6)
    ax = figure.subplots()
    for count in sorted({*shared}, reverse=True):
        places = [place for place, each in enumerate(shared) if each == count]
        some = costs[[order[place] for place in places]]
        error: dict[str, Any] = {"yerr": half_interval(some).tolist(), "error_kw": {"lw": 0.7}}
        look: dict[str, Any] = {"color": colormaps["Blues"](count / size), "ec": MIDDLE, "lw": 0.4}
        label = f"{count} look-up head" + ("" if count == 1 else "s")
        ax.bar(places, some.mean(1).tolist(), 0.85, label=label, **look, **error)
    ax.axhline(0, color="black", lw=0.6)
    ax.set(xlim=(-0.7, len(order) - 0.3), xticks=(), ylabel="nats of margin lost")
    ax.set_xlabel(f"every {size} heads of layer {found[0][0]}, sorted (n = {n} stories, whiskers: 95%)")
    legend_beside(figure, ax)
    figure.alt = f"Sorted bars, one for each group of heads, darker with more look-up heads in it. {title}."
    return figure


@styled
def lent_part(missing: Head, layer: int, lent: str = "keys") -> Figure:
    """How a patched pass is made: one of queries, keys and values of a layer comes from a pass without a head."""
    name = head_name(*missing)
    figure = new_figure(f"If the look is lost, layer {layer} hears {name} through its {lent}", 8.4, 2.6)
    ax = figure.subplots()
    ax.set(xlim=(0, 10), ylim=(-0.3, 4.1))
    ax.set_axis_off()
    for bottom, title, heads in (2.3, "the whole pass", "with all heads"), (0, "a second pass", f"without {name}"):
        ax.text(0.1, bottom + 1.5, title, fontsize=SMALL + 1.5, style="italic", va="center")
        box(ax, 0.1, bottom + 0.6, 2.4, f"layer {missing[0]}\n{heads}", high=0.9, fc=LIT if bottom == 0 else "white")
        for at, part in enumerate(("queries", "keys", "values")):
            middle, used = bottom + 1.2 - 0.6 * at, (part == lent) == (bottom == 0)
            look: dict[str, Any] = {} if used else {"ec": "#bbbbbb", "ls": ":"}
            box(ax, 3.5, middle, 1.4, part, high=0.46, fc=LIT if used and bottom == 0 else "white", **look)
            draw_arrow(ax, (2.5, bottom + 0.6), (3.5, middle))
            if used:
                draw_arrow(ax, (4.9, middle), (6.6, 2.9 + 0.25 * (1 - at)))
    box(ax, 6.6, 2.9, 1.7, f"layer {layer}\nattends", high=1.0)
    ax.text(8.5, 2.9, "where does it look?\nwhat is the margin?", fontsize=SMALL + 1.5, va="center")
    figure.alt = (
        f"Two passes, one above the other. Layer {layer} of the whole pass takes its {lent} from the second pass, "
        f"which lacks {name}, and the other two parts from its own."
    )
    figure.few_colours = True
    return figure


@styled
def ways_in(
    looks: Mapping[str, Float[Tensor, "removed n"]],
    costs: Mapping[str, Float[Tensor, "removed n"]],
    removed: Sequence[Head],
    whole: float,
) -> Figure:
    """Above: the weight that look-up heads give to the right word when one part of their input lacks a head.

    Below: nats of margin lost. `looks` and `costs` have a group for each part, by the same names; `whole` is the
    weight with all heads there.
    """
    said = []
    for name, values in looks.items():
        worst = int(values.mean(1).argmin())
        said.append(f"{spoken(float(values[worst].mean()))} with {head_name(*removed[worst])} missing from {name}")
    title = f"Of {spoken(whole)} on the right word there stay " + ", ".join(said)
    figure = new_figure(title, 8.6, 4.2)
    above, below = figure.subplots(2, 1, sharex=True)
    bars(above, looks)
    above.axhline(whole, color="black", ls="--", lw=0.9)
    above.set(ylim=(0, 1), ylabel="weight on\nthe right word")
    above.yaxis.set_major_formatter(percent)
    bars(below, costs)
    below.axhline(0, color="black", lw=0.6)
    label_axis(below.xaxis, [head_name(*at) for at in removed], 6.0)
    n = next(iter(looks.values())).shape[1]
    below.set(ylabel="nats of\nmargin lost", xlabel=f"the head that this part lacks (n = {n} stories, bars: 95%)")
    legend_beside(figure, below)
    figure.alt = f"Two panels of bars for each removed head: weight on the right word, and margin lost. {title}."
    return figure


@styled
def copying_and_looking(
    copied: Float[Tensor, "layers heads"], looked: Float[Tensor, "layers heads"], layer: int, words: int
) -> Figure:
    """A mark for each head: how much it looks words up, and how often it raises the word that it looks at.

    Raised most among so many `words`. Heads of `layer` are dark.
    """
    seeks, rest = looked[layer] > 0.5, [at for at in range(len(copied)) if at != layer]
    groups = {"look-up heads": copied[layer][seeks], f"the others of layer {layer}": copied[layer][~seeks]}
    said = [f"{name} in {span(shares)}" for name, shares in groups.items() if len(shares)]
    title = f"Raised most is the word looked at: by {', by '.join(said)}"
    title += f", by all other heads in at most {spoken(float(copied[rest].max()))}" if rest else ""
    figure = new_figure(title, 7.6, 3.2)
    ax = figure.subplots()
    ax.plot(looked[rest].flatten(), copied[rest].flatten(), "o", mfc=PALE, mec=MIDDLE, ms=5, label="other layers")
    ax.plot(looked[layer], copied[layer], "s", color=DARK, ms=6, label=f"layer {layer}")
    ax.axhline(1 / words, color="black", ls="--", lw=0.9, label=f"chance: 1 of {words}")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.08), xlabel="weight on the word to copy, in stories")
    ax.set_ylabel(f"of {words} words' logits\nits own is raised most")
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    legend_beside(figure, ax)
    figure.alt = f"A mark for each head by looking (across) and copying (up). {title}."
    figure.few_colours = True
    return figure


@styled
def heads_over_training(
    steps: Int[Tensor, "steps"],
    look_ups: Float[Tensor, "steps layers heads"],
    scored: Mapping[int, float],
    chance: float,
    asked: int = 40,
) -> Figure:
    """How much each head looks words up in the course of training, and which share of stories is answered right.

    `scored` gives that share, of `asked` stories, at some steps. Heads that end above one half are dark.
    """
    heads, at = look_ups.shape[2], steps.tolist()
    lines = look_ups.flatten(1)
    found = (lines[-1] > 0.5).nonzero()[:, 0].tolist()
    first = sorted(at[int((lines[:, number] > 0.5).int().argmax())] for number in found)
    title = "No head looks words up at the end"
    if found:
        one, together = len(found) == 1, first[0] == first[-1]
        title = f"{len(found)} look-up head{'' if one else 's'}, {'' if one else 'all ' if together else 'the first '}"
        title += f"by step {first[0]:,}" + ("" if together else f", the last by step {first[-1]:,}")
        after = [step for step in sorted(scored) if step >= first[-1]]
        if after:
            title += f"; when stories are next asked, at step {after[0]:,}, {spoken(scored[after[0]])} are right"
    figure = new_figure(title, 8.4, 2.9)
    ax = figure.subplots()
    for number in range(lines.shape[1]):
        dark = number in found
        label = "look-up heads" if found and number == found[0] else "other heads" if number == quiet(found) else None
        ax.plot(at, lines[:, number].tolist(), color=DARK if dark else PALE, lw=1.5 if dark else 0.8, label=label)
    if scored:
        shares = list(scored.values())
        ends = [interval(round(share * asked), asked) for share in shares]
        error = [[max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)]]
        error += [[max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)]]
        look: dict[str, Any] = {"color": "black", "ms": 4, "lw": 1.0, "elinewidth": 0.7, "capsize": 1.5}
        ax.errorbar(list(scored), shares, error, fmt="s--", label="stories\nanswered right", **look)
    ax.axhline(chance, color="black", ls=":", lw=1.0, label="an even look")
    often = f" every {apart(sorted(scored))}" if len(scored) > 1 else ""
    grid = f"heads scored every {apart(at)} steps; {asked} stories asked{often}"
    ax.set(
        ylim=(0, 1.04),
        xlabel=f"training step of one run ({grid}; bars: 95%)",
        ylabel="weight on the word to copy;\nshare of stories",
    )
    ax.yaxis.set_major_formatter(percent)
    legend_beside(figure, ax)
    names = named([divmod(number, heads) for number in found]) if found else "none"
    figure.alt = f"A line for each head over the steps, dark for {names}, and the stories' share. {title}."
    return figure


def apart(steps: Sequence[int]) -> int:
    """The usual distance of steps in order."""
    return sorted(later - step for step, later in pairwise(steps))[len(steps) // 2 - 1] if len(steps) > 1 else 0


def quiet(found: Sequence[int]) -> int:
    """The first number that is not among them."""
    return next(number for number in range(len(found) + 1) if number not in found)
