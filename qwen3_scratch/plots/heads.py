"""What heads do: scores of all heads, the map of one, and what is lost when heads are knocked out."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from jaxtyping import Float
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    SHARES,
    SMALL,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    new_figure,
    percent,
    spoken,
    styled,
)

__all__ = ["head_damage", "head_map", "head_scores", "knock_outs", "right_and_wrong", "score_history"]

FOUND = 3  # times the score of an even look: what counts as a head that does a thing, and not as chance


def head_name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


@styled
def head_scores(scores: Float[Tensor, "layers heads"], what: str, chance: float) -> Figure:
    """A score for each head of each layer, the best one framed, beside what an even look over all tokens scores.

    `what` ends the sentence "a head gives so much of its weight to ...". A head counts as found from FOUND times
    `chance` on.
    """
    layers, heads = scores.shape
    values = scores.detach().float().cpu()
    layer, head = divmod(int(values.argmax()), heads)
    best, name = float(values.max()), head_name(layer, head)
    if best >= FOUND * chance:
        title = f"{name} gives {spoken(best)} of its weight to {what}; an even look would give {spoken(chance)}"
    else:
        title = f"No head seeks {what}: the best, {name}, gives {spoken(best)}, an even look {spoken(chance)}"
    high = min(0.3 * layers, 6.5)
    figure = new_figure(title, 7.8, high + 1.15)
    ax = figure.subplots()
    texts = None if layers <= 30 and heads <= 24 else ()
    image = heatmap(ax, values, texts, norm=PowerNorm(0.6, 0, max(best, 2 * chance)))
    for text in ax.texts:
        text.set_fontsize(SMALL + 0.5)
    ax.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec="black", lw=2, clip_on=False))
    label_axis(ax.xaxis, range(heads), 6.0)
    label_axis(ax.yaxis, range(layers), high)
    ax.set(xlabel="head (frame: the best)", ylabel="layer")
    colour_bar(figure, image, "share of the weight")
    return figure


@styled
def head_map(
    weights: Float[Tensor, "q_len k_len"], labels: Sequence[str], name: str, links: int = 4, start: int = 0
) -> Figure:
    """One head with readable labels: how much each token (row) looks at each token (column), and its strongest looks.

    `labels` name all keys; the queries are the last of them. `start` leaves out the columns before it, which are then
    counted in no link. A token that can only look at itself is not counted as a look.
    """
    values = weights.detach().float().cpu()[:, start:]
    q_len, k_len = values.shape
    labels, past = list(labels)[start:], k_len - q_len
    order = values.flatten().argsort(descending=True, stable=True).tolist()
    found = [divmod(place, k_len) for place in order if place // k_len + past + start > 0][:links] or [(0, 0)]
    lines = [f"{labels[past + q]} → {labels[k]}: {spoken(float(values[q, k]))}, {back(past + q - k)}" for q, k in found]
    q, k = found[0]
    title = f"{name} looks hardest from “{labels[past + q]}” at “{labels[k]}”, {back(past + q - k)}"
    title += f": {spoken(float(values[q, k]))}"
    wide, high = min(max(0.132 * k_len, 2.8), 6.0), min(max(0.132 * q_len, 2.0), 6.0)
    figure = new_figure(textwrap.fill(title, int((wide + 3.2) * 9)), wide + 3.4, high + 1.6)
    ax, side = figure.subplots(1, 2, width_ratios=(wide, 2.2))
    image = heatmap(ax, values, norm=SHARES, texts=())
    ax.spines[:].set(visible=True, color="#bbbbbb")
    label_axis(ax.xaxis, labels, wide)
    label_axis(ax.yaxis, labels[past:], high)
    ax.set(xlabel="looked at", ylabel="looking")
    side.set(xticks=(), yticks=())
    side.set_axis_off()
    side.set_title("the strongest looks", loc="left")
    side.text(0, 1, "\n".join(lines), va="top", fontsize=SMALL, linespacing=1.7, transform=side.transAxes)
    colour_bar(figure, image, "weight", ax=ax, ticks=(0, 0.1, 0.4, 1), shrink=1.0, aspect=20)
    return figure


def back(distance: int) -> str:
    return "itself" if distance == 0 else f"{distance} back"


@styled
def head_damage(
    left: Float[Tensor, "layers heads"], whole: float, marked: Collection[tuple[int, int]], what: str
) -> Figure:
    """The probability of the right word when one head is knocked out, for each head; `whole` is with all heads.

    `marked` are the heads that looked most, dark: are they the ones that are missed? `what` names them.
    """
    heads = left.shape[1]
    values = left.detach().double().cpu().flatten().round(decimals=3).tolist()  # finer than a picture shows
    ours = {layer * heads + head for layer, head in marked}
    worst = min(range(len(values)), key=values.__getitem__)
    lowest = min((values[number] for number in ours), default=whole)
    names = [head_name(*divmod(number, heads)) for number in range(len(values))]
    title = f"Without {names[worst]} the right word falls from {spoken(whole)} to {spoken(values[worst])}"
    title += f", one of the {what}" if worst in ours else f"; without one of the {what}, to {spoken(lowest)} at worst"
    figure = new_figure(textwrap.fill(title, 92), 9.0, 2.9)
    ax = figure.subplots()
    shades = [DARK if number in ours else PALE for number in range(len(values))]
    ax.bar(range(len(values)), values, color=shades, ec=MIDDLE, lw=0.5, width=0.8)
    ax.axhline(whole, color="black", lw=0.8, ls="--")
    few = len(names) <= 36
    label_axis(ax.xaxis, [f"H{n % heads}" if few and n % heads else name for n, name in enumerate(names)], 8.2)
    ax.set(ylim=(0, 1.08), xlim=(-0.7, len(values) - 0.3), ylabel="probability of the right word")
    ax.set_xlabel(f"the head knocked out (dark: {what}; dashed line: none knocked out)")
    ax.yaxis.set_major_formatter(percent)
    return figure


@styled
def knock_outs(left: Mapping[str, float], found: Sequence[str] = ()) -> Figure:
    """The probability of the right word that is left for each way of knocking out heads; the first is with all heads.

    Bars of the names in `found` are dark, the others hatched.
    """
    names, values = list(left), list(left.values())
    worst = min(range(len(values)), key=values.__getitem__)
    title = f"The right word: {spoken(values[0])} with {names[0]}, {spoken(values[worst])} without {names[worst]}"
    figure = new_figure(title, 7.4, 0.85 + 0.3 * len(names))
    ax = figure.subplots()
    for place, (name, value) in enumerate(left.items()):
        colour, hatch = (DARK, None) if name in found else (PALE, None if place == 0 else "////")
        bar = ax.barh(place, value, fc=colour, ec=MIDDLE, hatch=hatch, lw=0.6, height=0.66)
        ax.bar_label(bar, [spoken(value)], padding=3, fontsize=SMALL)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.12), xlabel="probability of the right word")
    ax.set_yticks(range(len(names)), [f"without {name}" if place else name for place, name in enumerate(names)])
    ax.xaxis.set_major_formatter(percent)
    return figure


@styled
def right_and_wrong(
    right: Float[Tensor, "layers heads"], wrong: Float[Tensor, "layers heads"], what: str, top: int = 5
) -> Figure:
    """For the heads that look most: their weight on the right place, beside that on a wrong one of the same kind.

    `what` is what stands there: "name". A head that gives both alike knows what kind of word it needs, not which one.
    """
    heads = right.shape[1]
    pairs = [(float(a), float(b)) for a, b in zip(right.flatten(), wrong.flatten(), strict=True)]
    order = sorted(range(len(pairs)), key=lambda number: -max(pairs[number]))[:top]
    names, (best, other) = [head_name(*divmod(number, heads)) for number in order], pairs[order[0]]
    title = f"{names[0]} gives {spoken(best)} of its weight to the right {what}, {spoken(other)} to a wrong one"
    figure = new_figure(title, 7.0, 2.7)
    ax = figure.subplots()
    for side, colour, hatch, label in ((0, DARK, None, "right"), (1, PALE, "////", "wrong")):
        places, values = [place + 0.4 * side - 0.2 for place in range(len(order))], [pairs[n][side] for n in order]
        label = f"the {label} {what}" if side == 0 else f"a {label} {what}"
        bars = ax.bar(places, values, 0.38, fc=colour, ec=MIDDLE, hatch=hatch, lw=0.6, label=label)
        ax.bar_label(bars, [f"{100 * value:.0f}" for value in values], padding=2, fontsize=SMALL)
    label_axis(ax.xaxis, names, 5.5)
    ax.set(
        ylim=(0, 1.12 * max(map(max, pairs))), ylabel="share of the weight", xlabel="head, those that look most first"
    )
    ax.yaxis.set_major_formatter(percent)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


@styled
def score_history(steps: Sequence[int], scores: Mapping[str, Sequence[float]], lessons: Mapping[int, str]) -> Figure:
    """Scores in the course of training; bands are lessons, each named and beginning at its step.

    The title names the lesson in which the first of the scores rose most.
    """
    first, values = next(iter(scores.items()))
    starts = sorted(lessons)
    edges = [*starts, max(*steps, starts[-1] + 1)]
    reached = [
        max([(at, v) for at, v in zip(steps, values, strict=True) if at <= edge] or [(0, 0.0)])[1] for edge in edges
    ]
    gains = [after - before for before, after in pairwise(reached)]
    most = max(range(len(gains)), key=gains.__getitem__)
    before, after, lesson = spoken(reached[most]), spoken(reached[most + 1]), lessons[starts[most]]
    title = f"{first.capitalize()} rise from {before} to {after} while the lesson is “{lesson}”"
    figure = new_figure(title, 8.0, 2.6)
    ax = figure.subplots()
    for number, (start, end) in enumerate(pairwise(edges)):
        ax.axvspan(start, end, fc="#f0f0f0" if number % 2 else "white", ec="none", zorder=0)
        text = textwrap.fill(lessons[start], max(6, int(13 * 6.0 * (end - start) / (edges[-1] - edges[0]))))
        ax.text((start + end) / 2, 1.24, text, ha="center", va="top", fontsize=SMALL)
    for (name, line), form in zip(scores.items(), ("o-", "s--", "^:", "v-."), strict=False):
        ax.plot(steps, line, form, color=DARK if name == first else MIDDLE, ms=3.5, lw=1.2, label=name)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.26), xlabel="training step", ylabel="share answered right")
    ax.set_yticks((0, 0.5, 1))
    ax.yaxis.set_major_formatter(percent)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
