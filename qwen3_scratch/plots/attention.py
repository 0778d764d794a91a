"""Who looks at whom: masks, scores, attention weights, and which heads share keys and values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.image import AxesImage
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
    line_panels,
    new_figure,
    percent,
    small_multiples,
    styled,
)

__all__ = ["attention_maps", "attention_steps", "head_lengths", "head_sharing", "mask_panels", "token_looks"]

HIDDEN = "#e9e9e9"  # what a mask hides
SIGNED = LinearSegmentedColormap.from_list("signed", ["#8c510a", "white", DARK])  # below 0, 0, above


@styled
def attention_maps(weights: Float[Tensor, "heads q_len k_len"], labels: Sequence[str]) -> Figure:
    """All heads of a layer, one panel each: how much each token (row) looks at each token before it (column).

    `labels` name the keys. A panel's title says where most of the head's weight goes, averaged over the tokens.
    """
    heads, q_len, k_len = weights.shape
    past = k_len - q_len
    places = {"itself": weights.diagonal(past, 1, 2), "the token before": weights.diagonal(past - 1, 1, 2)}
    places["the first token"] = weights[:, :, 0]
    found = [max((float(w[head].float().sum() / q_len), place) for place, w in places.items()) for head in range(heads)]
    share, place = max(found)
    title = f"In head {found.index((share, place))} a token gives {share:.0%} of its weight to {place}, on average"
    figure = new_figure(title, 2.0 + 1.8 * min(heads, 4), 1.4 + math.ceil(heads / 4) * 1.92)
    for head, (ax, first, last) in enumerate(small_multiples(figure, heads)):
        image = heatmap(ax, weights[head], norm=SHARES, aspect="equal" if q_len == k_len else "auto")
        ax.spines[:].set(visible=True, color="#bbbbbb")
        ax.set_title(f"head {head}: {found[head][0]:.0%} to {found[head][1]}", fontsize=SMALL)
        label_axis(ax.xaxis, labels if last else [""], 1.5)
        label_axis(ax.yaxis, labels[past:] if first else [""], 1.5)
    colour_bar(figure, image, "attention weight (a row sums to 100%)")
    return figure


@styled
def head_lengths(
    before: Float[Tensor, "heads seq"],
    after: Float[Tensor, "heads seq"],
    name: str,
    root: float = 0.0,
    bound: float = 0.0,
) -> Figure:
    """Lengths of the vectors `name` in each head, before and after QK-norm: bars from shortest to longest token.

    A line is drawn at `root`, the length that the norm gives before its weights are multiplied on, and another one at
    `bound`, which no length after them is above.
    """
    spread = [float(lengths.max() / lengths.min()) for lengths in (before, after)]
    before_it, after_it = (f"{each:.1f} times" for each in spread)
    title = f"Before QK-norm the longest {name} is {before_it} as long as the shortest, after it {after_it}"
    figure = new_figure(title, 8.0, 2.7)
    ax, heads = figure.subplots(), range(len(before))
    for lengths, side, hatch, colour in ((before, -0.19, "///", PALE), (after, 0.19, "", MIDDLE)):
        low, middle, high = lengths.float().cpu().quantile(torch.tensor([0.0, 0.5, 1.0]), dim=-1)
        places = [head + side for head in heads]
        label = f"{'before' if side < 0 else 'after'} (shortest to longest)"
        spans = (high - low).tolist()
        ax.bar(places, spans, 0.34, low.tolist(), color=colour, edgecolor=DARK, hatch=hatch, lw=0.6, label=label)
        ax.plot(places, middle.tolist(), "_", color="black", ms=9, mew=1.6, label="median" if side > 0 else None)
    if root:
        ax.axhline(root, color="black", ls="--", lw=1.0, label=f"√head_dim = {root:.1f}")
    if bound:
        ax.axhline(bound, color="black", ls=":", lw=1.6, label=f"√head_dim · max|w| = {bound:.1f}")
    label_axis(ax.xaxis, heads, 6.4)
    ax.set(xlabel="head", ylabel=f"length of {name}", xlim=(-0.6, len(before) - 0.4), ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"Two bars for each of {len(before)} heads, from the shortest {name} to the longest. {title}."
    return figure


@styled
def attention_steps(
    scores: Float[Tensor, "q_len k_len"],
    mask: Bool[Tensor, "q_len k_len"],
    weights: Float[Tensor, "q_len k_len"],
    labels: Sequence[str],
) -> Figure:
    """One head in two panels: the scores that the mask lets through, and their softmax. Rows look, columns are looked
    at; `labels` name the columns, and the last of them the rows, each with its place. Up to 24 keys have their numbers
    written: scores rounded, weights from 10% on.
    """
    q_len, k_len = scores.shape
    best = int(weights[-1].argmax())
    title = f"The last token, “{labels[-1]}”, gives {float(weights[-1, best]):.0%} of its weight to “{labels[best]}”, "
    figure = new_figure(f"{title}place {best}", 9.3, 5.0)
    panels = figure.subplots(1, 2)
    most = float(scores[mask].abs().max())
    rounded = [[f"{score:.0f}".replace("-0", "0") for score in line] for line in scores.tolist()]
    percents = [[f"{100 * share:.0f}" if share >= 0.095 else "" for share in line] for line in weights.tolist()]
    looks: tuple[dict[str, Any], ...] = (dict(cmap=SIGNED, vmin=-most, vmax=most), dict(vmin=0, vmax=1))
    units = "score: brown is below 0, blue above", "weight (a row sums to 100%; written from 10% on)"
    for ax, values, texts, look, unit in zip(panels, (scores, weights), (rounded, percents), looks, units, strict=True):
        ax.patch.set(facecolor=HIDDEN, hatch="///", edgecolor="#bbbbbb", linewidth=0)
        kept = values.float().masked_fill(~mask, torch.nan)
        image = heatmap(ax, kept, (), **look)
        for query, key in mask.nonzero().tolist() if k_len <= 24 else ():
            ink = "white" if ink_is_light(image, float(values[query, key])) else "black"
            cell = ax.text(key, query, texts[query][key], ha="center", va="center", fontsize=6.3, color=ink)
            cell.set_in_layout(False)
        rows = [f"{label} {k_len - q_len + at}" for at, label in enumerate(labels[k_len - q_len :])]
        label_axis(ax.xaxis, range(k_len), 3.5)
        label_axis(ax.yaxis, rows if ax is panels[0] else [""], 3.5)
        ax.set(xlabel="key: is looked at (its place)", ylabel="query: looks" if ax is panels[0] else "")
        below = {"ax": ax, "location": "bottom", "shrink": 0.9, "aspect": 30, "pad": 0.02}
        colour_bar(figure, image, unit, **below, format=percent if ax is panels[1] else None)
    for ax, step in zip(panels, ("1  scores; hatched is hidden by the mask", "2  softmax of each row"), strict=True):
        ax.set_title(step)
    figure.alt = "Scores of one head as a square whose later half is hatched, and beside it their softmax. "
    figure.alt += f"{title}place {best}."
    return figure


def ink_is_light(image: AxesImage, value: int | float) -> bool:
    """Whether what is written on this shade is to be white."""
    norm: Any = image.norm  # the library annotates it for arrays alone
    red, green, blue, _ = image.cmap(norm(value))
    return bool(0.3 * red + 0.59 * green + 0.11 * blue < 0.5)


@styled
def mask_panels(masks: Mapping[str, Bool[Tensor, "seq seq"]]) -> Figure:
    """Masks of as many queries as keys side by side, dark where a query (row) may look at a key (column).

    The title says whether any query sees a later key, and which mask hides earlier ones. A query that does not see
    itself is a pad, of which it says nothing.
    """
    ahead = any(bool(mask.triu(1)[mask.diagonal()].any()) for mask in masks.values())
    less = ", ".join(f"“{name}”" for name, mask in masks.items() if bool((~mask).tril(-1)[mask.diagonal()].any()))
    title = "A query sees later keys" if ahead else "No query sees a later key"
    title += f"; {less} hides earlier ones, too" if less else ", and every query all earlier ones"
    figure = new_figure(title, max(5.2, 0.8 + 2.7 * len(masks)), 3.9)
    panels = figure.subplots(1, len(masks), squeeze=False)[0]
    counts = [f"{name}: {int(mask.sum())} of {mask.numel()} pairs" for name, mask in masks.items()]
    for ax, count, mask in zip(panels, counts, masks.values(), strict=True):
        seq = len(mask)
        heatmap(ax, mask.float(), cmap=ListedColormap([HIDDEN, DARK]), vmin=0, vmax=1)
        wide = 0.8 if seq <= 24 else 0.0  # closer lines would hide what they part
        ax.hlines(torch.arange(seq + 1) - 0.5, -0.5, seq - 0.5, color="white", lw=wide)
        ax.vlines(torch.arange(seq + 1) - 0.5, -0.5, seq - 0.5, color="white", lw=wide)
        ax.set(title=count, xlabel="key", ylabel="query" if ax is panels[0] else "")
        label_axis(ax.xaxis, range(seq), 2.0)
        label_axis(ax.yaxis, range(seq) if ax is panels[0] else [""], 2.0)
    figure.alt = f"Squares of queries by keys, dark where a query may look. {title}. {', '.join(counts)}."
    return figure


@styled
def head_sharing(heads: int, kinds: Mapping[str, int], cache_bytes: Sequence[int], of: str = "") -> Figure:
    """Which query head reads which key/value head, one panel for each kind of attention: what it does, its kv heads.

    `cache_bytes` says for each kind how many bytes the keys and values of one token take, `of` in how many layers and
    which type.
    """
    most, least = max(cache_bytes), min(cache_bytes)
    title = f"From {_bytes(most)} a token down to {_bytes(least)}: fewer key/value heads, a smaller cache"
    figure = new_figure(title, 9.0, 2.6)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for ax, (name, kv_heads), size in zip(panels, kinds.items(), cache_bytes, strict=True):
        ax.spines[:].set_visible(False)
        kind = "MHA" if kv_heads == heads else "MQA" if kv_heads == 1 else "GQA"
        ax.set(xlim=(-0.5, heads - 0.5), ylim=(-0.2, 1.2), title=f"{kind}: {name}")
        ax.set(xlabel=f"cache: {_bytes(size)} a token" + f"\n({of})" * bool(of))
        ax.set_xticks(())
        ax.set_yticks((0, 1), (f"{kv_heads} k, v", f"{heads} q") if heads > 1 else ("k, v", "q"), fontsize=SMALL)
        ax.tick_params(length=0)
        group, side, step = heads // kv_heads, min(15.0, 140 / heads), math.ceil(heads / 16)  # side: points of a square
        for head in range(heads):
            shared = head // group
            ax.plot((head, (shared + 0.5) * group - 0.5), (1, 0), color="#555555", lw=0.9, zorder=0)
            _square(ax, head, 1, side, "white", "" if head % step else head)
        for shared in range(kv_heads):
            number = "" if shared % step and kv_heads > 16 else shared
            _square(ax, (shared + 0.5) * group - 0.5, 0, side, PALE, number)
    below = ", ".join(map(str, kinds.values()))
    figure.alt = f"{heads} query heads above, lines from them down to {below} key/value heads. {title}."
    return figure


def _square(ax: Axes, x: int | float, y: int, side: float, shade: str, text: object) -> None:
    ax.plot(x, y, "s", ms=side, mfc=shade, mec=DARK, mew=0.8)
    ax.text(x, y - 0.01, str(text), ha="center", va="center", fontsize=min(SMALL, 0.55 * side))


def _bytes(count: int) -> str:
    return f"{count:,} bytes" if count < 10_000 else f"{count / 1000:,.0f} kB"


@styled
def token_looks(weights: Float[Tensor, "heads k_len"], labels: Sequence[str], token: str) -> Figure:
    """What one token looks at in all heads of a layer: heads by keys, whole percents written out from 1% on.

    The key that one head looks at most is framed; above each column is its place in the text.
    """
    head, best = divmod(int(weights.argmax()), weights.shape[1])
    agree = int((weights.argmax(-1) == best).sum())
    heads = f"{agree} of {len(weights)} heads look" if agree > 1 else f"1 of {len(weights)} heads looks"
    title = f"From “{token}” {heads} most at “{labels[best]}”, place {best}; "
    title += f"head {head} gives it {weights[head, best]:.0%}"
    high = min(max(0.19 * len(weights), 1.6), 9.0)
    figure, panels = line_panels(title, len(labels), 28, 0.3, high + 0.2)
    for ax, part in panels:
        texts = [
            [f"{100 * share:.0f}" if share >= 0.01 else "" for share in line] for line in weights[:, part].tolist()
        ]
        image = heatmap(ax, weights[:, part], texts if len(weights) <= 40 else (), vmin=0, vmax=1)
        ax.set(xlim=(-0.5, panels[0][1].stop - 0.5), ylabel="head")
        label_axis(ax.xaxis, labels[part], 0.29 * (part.stop - part.start))
        label_axis(ax.yaxis, range(len(weights)), high)
        above = ax.secondary_xaxis("top")
        above.set_xticks(range(part.stop - part.start), [str(place) for place in range(part.start, part.stop)])
        above.tick_params(length=0, labelsize=SMALL, pad=1)
        above.spines[:].set_visible(False)
        if part.start <= best < part.stop:
            ax.add_patch(Rectangle((best - part.start - 0.5, -0.5), 1, len(weights), fill=False, ec="black", lw=1.4))
    colour_bar(figure, image, "weight (a row sums to 100%)")
    figure.alt = f"A row for each head, a column for each token that is looked at; dark is much weight. {title}."
    return figure
