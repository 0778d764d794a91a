"""What heads do: scores of all heads, the map of one, and what becomes of a look when an earlier head is hidden or
says another word."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    LIT,
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

__all__ = ["followed_mark", "head_map", "head_scores", "hidden_looks"]

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
    colour_bar(figure, image, "share of the weight\n(shade grows like a root)")
    figure.alt = f"A table of heads by layer, shaded by the share of weight on {what}. {title}."
    return figure


@styled
def head_map(
    weights: Float[Tensor, "q_len k_len"],
    labels: Sequence[str],
    name: str,
    links: int = 4,
    start: int = 0,
    frame: tuple[int, int] | None = None,
) -> Figure:
    """One head with readable labels: how much each token (row) looks at each token (column), and its strongest looks.

    `labels` name all keys; the queries are the last of them. `start` leaves out the columns before it, which are then
    counted in no link. A token that can only look at itself is not counted as a look. `frame` marks one look, from a
    token to another by their numbers among `labels`, and the title tells that one in place of the strongest.
    """
    values = weights.detach().float().cpu()[:, start:]
    q_len, k_len = values.shape
    labels, past = list(labels)[start:], k_len - q_len
    order = values.flatten().argsort(descending=True, stable=True).tolist()
    found = [divmod(place, k_len) for place in order if place // k_len + past + start > 0][:links] or [(0, 0)]
    lines = [f"{labels[past + q]} → {labels[k]}: {spoken(float(values[q, k]))}, {back(past + q - k)}" for q, k in found]
    q, k = found[0] if frame is None else (frame[0] - start - past, frame[1] - start)
    hardest = "hardest " if frame is None else ""
    title = f"{name} looks {hardest}from “{labels[past + q]}” at “{labels[k]}”, {back(past + q - k)}"
    title += f": {spoken(float(values[q, k]))}"
    wide, high = min(max(0.132 * k_len, 2.8), 6.0), min(max(0.132 * q_len, 2.0), 6.0)
    figure = new_figure(textwrap.fill(title, int((wide + 3.2) * 9)), wide + 3.4, high + 1.6)
    ax, side = figure.subplots(1, 2, width_ratios=(wide, 2.2))
    image = heatmap(ax, values, norm=SHARES, texts=())
    ax.spines[:].set(visible=True, color="#bbbbbb")
    if frame is not None:
        ax.add_patch(Rectangle((-0.5, q - 0.5), k_len, 1, fill=False, ec="#888888", lw=0.9, clip_on=False))
        ax.add_patch(Rectangle((k - 0.5, q - 0.5), 1, 1, fill=False, ec="black", lw=2, clip_on=False))
    label_axis(ax.xaxis, labels, wide)
    label_axis(ax.yaxis, labels[past:], high)
    ax.set(xlabel="looked at", ylabel="looking")
    side.set(xticks=(), yticks=())
    side.set_axis_off()
    side.set_title("the strongest looks", loc="left")
    side.text(0, 1, "\n".join(lines), va="top", fontsize=SMALL, linespacing=1.7, transform=side.transAxes)
    colour_bar(figure, image, "weight (shade: its root)", ax=ax, ticks=(0, 0.1, 0.4, 1), shrink=1.0, aspect=20)
    figure.alt = f"A map of where {name} looks from each token, and a list of its strongest looks. {title}."
    return figure


def back(distance: int) -> str:
    return "itself" if distance == 0 else f"{distance} back"


@styled
def followed_mark(
    looks: Mapping[str, Float[Tensor, "seq"]],
    marks: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    read: str,
) -> Figure:
    """Where the last token looks, and the mark beside each word, as it is and with other marks.

    A panel for each key of `looks`. `labels` name the last tokens, `marks` what stands beside each of them; the
    weight on all tokens before is said. Marks that name the word `read` are framed: they are what its query fits.
    """
    start = len(next(iter(looks.values()))) - len(labels)
    tops = {name: int(look[start:].argmax()) for name, look in looks.items()}
    found = all(marks[name][top] == read for name, top in tops.items())
    said = [f"{spoken(float(looks[name][start + top]))} on “{labels[top]}”" for name, top in tops.items()]
    title = f"The look goes {'' if found else 'not always '}where “{read}” is the mark: {', then '.join(said)}"
    upright = max(map(len, labels)) * SMALL * 0.62 / 72 > 8.4 / len(labels)  # as `label_axis` turns what is below
    longer = max(0, max(len(mark) for beside in marks.values() for mark in beside) - 6)  # letters, where they stand
    low, high = (-1.1 - 0.15 * longer, 2.1 + 0.12 * longer) if upright else (-0.4, 1.6)
    figure = new_figure(title, 9.0, high * len(looks) + 0.5)
    panels = figure.subplots(len(looks), 1, squeeze=False)[:, 0]
    for ax, (name, look) in zip(panels, looks.items(), strict=True):
        shares, before = look[start:].tolist(), float(look[:start].sum())
        shades = [DARK if mark == read else PALE for mark in marks[name]]
        ax.bar(range(len(shares)), shares, 0.7, color=shades, ec=DARK, lw=0.5)
        ax.axhline(0, color="black", lw=0.6)
        for place, (share, mark) in enumerate(zip(shares, marks[name], strict=True)):
            where: dict[str, Any] = {"ha": "center", "fontsize": SMALL}
            if share >= 0.095:
                ax.text(place, share + 0.04, spoken(share), va="bottom", **where)
            frame = {"boxstyle": "square,pad=0.25", "fc": LIT, "ec": DARK, "lw": 0.8} if mark == read else None
            turned = 90 if upright and len(mark) > 1 else 0
            ax.text(place, low / 2, mark, va="center", rotation=turned, bbox=frame, **where)
        label_axis(ax.xaxis, labels, 8.4)
        ax.set(title=f"{name} (on all tokens before: {spoken(before)})", xlim=(-0.6, len(labels) - 0.4))
        ax.set(ylim=(low, 1.25), ylabel="weight")
        ax.set_yticks((low / 2, 0, 0.5, 1), ("marked:", "0%", "50%", "100%"))
    panels[-1].set_xlabel(f"the words that stand there (framed: “{read}” is the mark beside this word)")
    figure.alt = f"{len(looks)} panels of bars, one a word, and under each its mark. {title}."
    figure.few_colours = True
    return figure


@styled
def hidden_looks(
    looks: Mapping[str, Float[Tensor, "ways heads"]],
    heads: Mapping[str, Sequence[int]],
    ways: Sequence[str],
    said: Mapping[str, Sequence[str]],
) -> Figure:
    """What heads still give to the word to be found, with nothing hidden and with looks of an earlier layer hidden.

    A panel for each key of `looks`; `heads` are their numbers, which stand over the bars, `ways` what was hidden,
    `said` what was predicted then.
    """
    means = [each.float().mean(1).tolist() for each in looks.values() if each.numel()]
    falls = [f"{spoken(first)} to {spoken(second)}" for first, second, *_ in means]
    title = f"With {ways[1]} hidden, the weight on the name changes from {' and from '.join(falls)}"
    title = title if falls else "No head gives the name more than half of its weight"
    figure = new_figure(title, 9.0, 3.0)
    panels = figure.subplots(1, len(looks), sharey=True, squeeze=False)[0]
    for ax, (name, shares) in zip(panels, looks.items(), strict=True):
        wide = 0.8 / max(len(heads[name]), 1)
        for number, head in enumerate(heads[name]):
            places = [way + wide * (number + 0.5) - 0.4 for way in range(len(ways))]
            heights = shares[:, number].tolist()
            ax.bar(places, heights, 0.85 * wide, color=[DARK if way != 1 else MIDDLE for way in range(len(ways))])
            for place, height in zip(places, heights, strict=True):
                ax.text(place, height + 0.015, str(head), ha="center", va="bottom", fontsize=SMALL)
        ticks = [f"{way}\n→ {word}" for way, word in zip(ways, said[name], strict=True)]
        ax.set_xticks(range(len(ways)), ticks, fontsize=SMALL + 0.5)
        ax.tick_params(axis="x", length=0)
        ax.set(title=name, xlim=(-0.5, len(ways) - 0.5), ylim=(0, 1.12))
        ax.set_xlabel("hidden → predicted (over a bar: its head)")
        ax.yaxis.set_major_formatter(percent)
    panels[0].set_ylabel("weight on the name")
    figure.alt = (
        f"Bars for {' and '.join(looks)}: each head's weight on the name, with {', '.join(ways)} hidden. {title}."
    )
    return figure
