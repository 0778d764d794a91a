"""How predictions become text: what a cache saves and holds, and how the next token is chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from ..tokenizer import Tokenizer
from .canvas import (  # fmt: skip
    DARK,
    LIT,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    logarithmic,
    new_figure,
    percent,
    styled,
    token_labels,
)

__all__ = ["cache_size", "decoding_cost", "inverse_draw", "sampling_steps", "shares_right"]

HATCHES = (("", PALE), ("///", MIDDLE), ("...", "white"), ("xxx", PALE))


def short(number: int | float, place: int | None = None) -> str:
    """1.2k, 34M, 5.6G: a count in three digits at most."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


@styled
def decoding_cost(lengths: Sequence[int], operations: Mapping[str, Sequence[int | float]]) -> Figure:
    """Work by length of the text, one line for each way of decoding: for one more token, and for all up to there.

    `lengths` are counts of tokens, read or written; `operations` are those of one step at each length. Between two
    lengths the work of a step is taken to change evenly.
    """
    totals = {}
    for name, each in operations.items():
        steps = torch.tensor(lengths, dtype=torch.float64)
        between = (torch.tensor(each[1:]) + torch.tensor(each[:-1])) / 2 * steps.diff()
        totals[name] = [0.0, *between.cumsum(0).tolist()]
    last = {name: total[-1] for name, total in totals.items()}
    most, least = max(last, key=last.__getitem__), min(last, key=last.__getitem__)
    ratio = last[most] / last[least] if last[least] else 1.0
    new = lengths[-1] - lengths[0]
    title = f"After {new:,} new tokens “{most}” has done {ratio:,.0f} times the work of “{least}”"
    figure = new_figure(title, 8.6, 2.9)
    for ax, values, label in zip(
        figure.subplots(1, 2), (operations, totals), ("operations for one more token", "operations so far"), strict=True
    ):
        shown = slice(0 if values is operations else 1, None)
        draw_lines(ax, lengths[shown], {name: each[shown] for name, each in values.items()}, lw=1.3)
        ax.set(xlabel="length of the text (tokens)", ylabel=label)
        if values is operations or not new:
            ax.set_ylim(0, None)
            ax.yaxis.set_major_formatter(FuncFormatter(short))
        else:
            logarithmic(ax.yaxis, text=short)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


@styled
def cache_size(lengths: Sequence[int], sizes: Mapping[str, Sequence[int]]) -> Figure:
    """Bytes that keys and values take for one text of each length (tokens), one line for each way of keeping them."""
    last = {name: held[-1] for name, held in sizes.items()}
    most, least = max(last, key=last.__getitem__), min(last, key=last.__getitem__)
    title = f"At {lengths[-1]:,} tokens: {short(last[most])}B with “{most}”, {short(last[least])}B with “{least}”"
    figure = new_figure(title, 8.0, 3.0)
    ax = figure.subplots()
    draw_lines(ax, lengths, {f"{name}: {short(held[-1])}B": held for name, held in sizes.items()}, lw=1.3)
    ax.set(xlabel="length of the text (tokens)", ylabel="bytes of keys and values")
    logarithmic(ax.xaxis, base=2)
    logarithmic(ax.yaxis, text=lambda size: f"{short(size)}B")
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def sampling_steps(steps: Mapping[str, Float[Tensor, "vocab"]], tokenizer: Tokenizer | None, top: int = 14) -> Figure:
    """The distribution after each step of sampling, one panel each: the tokens that are likeliest in the first.

    A cross marks a token that can no longer be drawn; a panel's title says how many still can.
    """
    first, end = next(iter(steps.values())), list(steps.values())[-1]
    shown = first.topk(min(top, len(first))).indices
    left, before, best = int((end > 0).sum()), int((first > 0).sum()), int(end.argmax())
    (label,) = token_labels(tokenizer, [best])
    title = f"{left:,} of {before:,} tokens can still be drawn; “{label}” goes from"
    figure = new_figure(f"{title} {first[best]:.0%} to {end[best]:.0%}", 9.0, 0.9 + 0.19 * len(shown) + 0.3)
    most = max(float(values.max()) for values in steps.values())
    for ax, (name, values) in zip(figure.subplots(1, len(steps), squeeze=False)[0], steps.items(), strict=True):
        held, places = values[shown].tolist(), range(len(shown))
        ax.barh(places, held, color=PALE, edgecolor=DARK, lw=0.6, height=0.75)
        gone = [place for place in places if held[place] == 0]
        ax.plot([0.03 * most] * len(gone), gone, "x", color="black", ms=4)
        ax.set_title(f"{name}\n{int((values > 0).sum()):,} left", fontsize=SMALL + 0.5)
        ax.set(xlim=(0, 1.05 * most), ylim=(len(shown) - 0.4, -0.6))
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=(1, 2, 5, 10)))
        ax.xaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
        ax.tick_params(labelsize=SMALL)
        ax.set_yticks(places, token_labels(tokenizer, shown.tolist()) if ax is figure.axes[0] else [])
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("probability", fontsize=8.5)
    return figure


@styled
def inverse_draw(
    probability: Float[Tensor, "vocab"], uniform: float, tokenizer: Tokenizer | None, top: int = 12
) -> Figure:
    """A draw: tokens by id, each with its stretch of the line from 0 to 1, and where a number falls.

    The likeliest `top` tokens are named; the others stand together where they are.
    """
    reached = probability.double().cumsum(-1)
    chosen = min(int(torch.searchsorted(reached, uniform * reached[-1], right=True)), len(reached) - 1)
    likely = probability.topk(min(top, int((probability > 0).sum()))).indices.tolist()
    named = sorted({*likely, chosen})
    (label,) = token_labels(tokenizer, [chosen])
    title = f"The number {uniform:.2f} falls into the stretch of “{label}”, which is {probability[chosen]:.1%} long"
    figure = new_figure(title, 8.6, 0.9 + 0.19 * len(named) + 0.2)
    ax = figure.subplots()
    for place, token in enumerate(named):
        size, stop = float(probability[token]), float(reached[token])
        lit: dict[str, Any] = {"color": LIT, "hatch": "///"} if token == chosen else {"color": PALE}
        ax.barh(place, size, left=stop - size, edgecolor=DARK, lw=0.6, height=0.75, **lit)
        ax.hlines(place, 0, stop - size, color="#bbbbbb", lw=0.6, zorder=0)
    ax.axvline(uniform, color="black", lw=1.2, ls="--")
    ax.set(xlim=(0, 1), ylim=(len(named) - 0.4, -0.6), xlabel="cumulative probability (tokens by id)")
    ax.xaxis.set_major_formatter(percent)
    ax.set_yticks(range(len(named)), token_labels(tokenizer, named), fontsize=SMALL)
    ax.tick_params(axis="y", length=0)
    return figure


@styled
def shares_right(shares: Mapping[str, Mapping[str, float]], count: int) -> Figure:
    """Share of right answers to `count` questions of each group, a bar for each way of asking: group -> way -> share.

    The title names the group in which the ways differ most.
    """
    group = max(shares, key=lambda name: max(shares[name].values()) - min(shares[name].values()))
    best, worst = (choose(shares[group], key=shares[group].__getitem__) for choose in (max, min))
    title = f"{group.capitalize()}: “{best}” is right on {shares[group][best]:.0%} of {count}, "
    title += f"“{worst}” on {shares[group][worst]:.0%}"
    if shares[group][best] == shares[group][worst]:
        title = f"Every way of asking is right on {shares[group][best]:.0%} of {count} questions"
    ways = list(next(iter(shares.values())))
    figure = new_figure(title, 7.6, 2.7)
    ax, wide = figure.subplots(), 0.8 / len(ways)
    for number, (way, (hatch, shade)) in enumerate(zip(ways, HATCHES, strict=False)):
        places = [at + (number - (len(ways) - 1) / 2) * wide for at in range(len(shares))]
        heights = [each[way] for each in shares.values()]
        bars = ax.bar(places, heights, wide * 0.92, color=shade, edgecolor=DARK, lw=0.8, hatch=hatch, label=way)
        ax.bar_label(bars, [f"{height:.0%}" for height in heights], padding=2, fontsize=SMALL)
    ax.set_xticks(range(len(shares)), list(shares))
    ax.tick_params(axis="x", length=0)
    ax.set(ylim=(0, 1.12), yticks=(0, 0.5, 1), ylabel="answered exactly right")
    ax.yaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside right center")
    return figure
