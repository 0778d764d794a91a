"""What routers are found to do: words of experts, other routes, what is said without an expert."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from matplotlib.patches import Rectangle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    GREY,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    half_interval,
    heatmap,
    label_axis,
    legend_beside,
    new_figure,
    rounded,
    spoken,
    styled,
    with_signs,
)

__all__ = ["changes_of_loss", "expert_words", "said_without"]
MOST_ROWS = 16  # experts that a table of words shows


def table_of_words(
    title: str, columns: Mapping[str, Sequence[Sequence[str]]], shares: Sequence[Sequence[float]]
) -> Figure:
    """Experts from top to bottom, and in each column the words that belong to them, as many as there is room for.

    At the right edge of each cell its share; below a half the cell is grey.
    """
    count = min(MOST_ROWS, max(map(len, columns.values())))
    wide, step = min(6.0, 8.6 / len(columns)), 0.22
    figure = new_figure(title, 0.9 + wide * len(columns), 0.75 + step * (count + 1))
    ax = figure.subplots()
    ax.set(xlim=(0, len(columns) * wide), ylim=(count, -1), xticks=(), yticks=())
    ax.set_axis_off()
    for column, (head, rows) in enumerate(columns.items()):
        ax.text(column * wide + 0.08, -0.5, head, fontsize=SMALL + 1, va="center", style="italic")
        for row, (words, share) in enumerate(zip(rows[:count], shares[column], strict=False)):
            look: dict[str, Any] = {"fc": PALE if share >= 0.5 else "#e4e4e4", "ec": "none", "alpha": 0.6}
            ax.add_patch(Rectangle((column * wide, row), wide - 0.06, 0.92, **look))
            many = "" if math.isnan(share) else f"{share:.0%}"
            ax.text((column + 1) * wide - 0.1, row + 0.5, many, fontsize=SMALL, va="center", ha="right")
            room, shown = int((wide - 0.55) / (SMALL * 0.62 / 72)), ""
            for word in dict.fromkeys(map(with_signs, words)):
                longer = f"{shown}   {word}" if shown else word
                shown = longer if len(longer) <= room else shown
            ax.text(column * wide + 0.08, row + 0.5, shown, fontsize=SMALL, va="center")
    for row in range(count):
        ax.text(-0.06, row + 0.5, f"expert {row}", fontsize=SMALL, va="center", ha="right")
    return figure


@styled
def expert_words(
    words: Mapping[int, Sequence[Sequence[str]]],
    shares: Mapping[int, Sequence[float]],
    share: Float[Tensor, "2"],
    half: Float[Tensor, "2"],
    whose: Int[Tensor, "tokens"],
) -> Figure:
    """The words typical of each expert, a column a layer, each cell with its share of these words on other texts; and
    of all such tokens the share that went there, and that which went to the layer's busiest expert.

    `whose` is the text that each token stands in.
    """
    experts = len(next(iter(words.values())))
    pairs = zip(share.tolist(), half.tolist(), strict=True)
    there, busiest = (f"{spoken(one)} ± {rounded(100 * by)}%" for one, by in pairs)
    title = f"{there} of these words' tokens go to their expert on the other questions, too; to the busiest expert of "
    title += f"a layer go {busiest} (n\u00a0=\u00a0{len(whose):,} tokens in {len(words)} "
    title += f"layer{'s' * (len(words) > 1)}, {len(whose.unique())} questions)"
    columns = {f"layer {layer}": rows for layer, rows in words.items()}
    figure = table_of_words(title, columns, [shares[layer] for layer in words])
    figure.alt = f"A table of {len(words)} layers and {experts} experts, in each cell its typical words and the share "
    figure.alt += f"of their tokens that goes there; grey where that is less than half. {title}."
    figure.few_colours = True
    return figure


@styled
def changes_of_loss(changes: Mapping[str, Float[Tensor, "places texts"]], places: Sequence[str], own: str) -> Figure:
    """By how much each text's loss rises, compared with the `own` way: the mean and its 95% interval, at each place."""
    found = {name: (rise.double().mean(1), half_interval(rise.double())) for name, rise in changes.items()}
    sure = {name: mean.where(mean > half, 0.0) for name, (mean, half) in found.items()}
    worst = max(sure, key=lambda name: float(sure[name].max()))
    mildest = min(found, key=lambda name: float(found[name][0].max()))
    row = int(sure[worst].argmax())
    title = f"Largest sure rise: {worst}, {float(sure[worst][row]):.2g} ± {rounded(float(found[worst][1][row]))} nats "
    title += f"a token at {places[row]}"
    title = title if sure[worst][row] > 0 else "No rise whose interval leaves out 0"
    title += f"; {mildest}: at most {float(found[mildest][0].max()):.2g}" * (worst != mildest)
    count = next(iter(changes.values())).shape[1]
    figure = new_figure(f"{title} (n\u00a0=\u00a0{count} texts)", 7.2, 2.7)
    ax = figure.subplots()
    looks = (("o", DARK, "black"), ("s", MIDDLE, "black"), ("^", "white", "black"), ("D", "#999999", "black"))
    for number, ((name, (mean, half)), (form, face, edge)) in enumerate(zip(found.items(), looks, strict=False)):
        at = [place + 0.16 * (number - (len(found) - 1) / 2) for place in range(len(places))]
        look: dict[str, Any] = {"fmt": form, "mfc": face, "mec": edge, "ecolor": "#555555", "ms": 5, "capsize": 3}
        ax.errorbar(at, mean.tolist(), half.tolist(), label=name, **look)
    ax.axhline(0, color=GREY, lw=0.8)
    label_axis(ax.xaxis, places, 5.0)
    ax.set(ylabel="rise of the loss,\nnats a token", xlim=(-0.5, len(places) - 0.5))
    legend_beside(figure, ax, title=f"instead of {own}")
    figure.alt = f"{title}. Points with 95% intervals for {', '.join(changes)} at {', '.join(places)}; 0 is no change."
    figure.few_colours = True
    return figure


@styled
def said_without(
    said: Sequence[Sequence[Sequence[str]]],
    right: Bool[Tensor, "signs first second"],
    signs: Mapping[str, str],
    gone: str,
    second: Sequence[int],
) -> Figure:
    """What is said for every pair of digits without one expert, `gone`: a panel a sign, dark where it is right.

    `signs` has for each sign the name of what it makes, `second` the digits of the columns.
    """
    parts = zip(right.flatten(1).sum(1).tolist(), signs.values(), strict=True)
    told = [f"{count} of {right[0].numel()} {name}" for count, name in parts]
    title = f"{', '.join(told)} stay right without {gone}"
    figure = new_figure(title, 7.6, 2.9)
    axes = figure.subplots(1, len(signs), squeeze=False)[0]
    for ax, sign, texts, there in zip(axes, signs, said, right, strict=True):
        written = [[with_signs(text if len(text) < 4 else f"{text[:2]}…") for text in row] for row in texts]
        heatmap(ax, 0.08 + 0.82 * there.float(), written, vmin=0, vmax=1)
        label_axis(ax.xaxis, second, 2.0)
        label_axis(ax.yaxis, range(right.shape[1]), 2.0)
        ax.set_title(f"a {sign} b", fontsize=SMALL + 1, loc="left")
        ax.set(xlabel="b", ylabel="a" if ax is axes[0] else "")
    figure.alt = f"{title}. For each sign a table of two digits, in each cell what is said; dark where that is right."
    figure.few_colours = True
    return figure
