"""How predictions become text: what a cache saves and holds, and how the next token is chosen."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
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
    new_figure,
    percent,
    styled,
    token_labels,
)
from .one_word import interval

__all__ = ["answers_follow", "cache_size", "inverse_draw", "sampling_steps", "shares_right"]

HATCHES = (("", PALE), ("///", MIDDLE), ("...", "white"), ("xxx", PALE))


def short(number: int | float, place: int | None = None) -> str:
    """1.2k, 34M, 5.6G: a count in three digits at most."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def in_memory(size: int | float) -> str:
    """64 KiB, 2 MiB, 1.5 GiB: bytes by powers of 1,024."""
    for power, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= power:
            return f"{size / power:,.3g} {unit}"
    return f"{size:,.3g} bytes"


@styled
def cache_size(lengths: Sequence[int], sizes: Mapping[str, Sequence[int]]) -> Figure:
    """Bytes that keys and values take for one text of each length (tokens), one line for each way of keeping them.

    The title says which part each way takes of what the first takes.
    """
    last = {name: held[-1] for name, held in sizes.items()}
    first, *others = last
    shares = [f"1/{last[first] / max(last[name], 1):,.3g}" for name in others]
    shares[:1] = [f"{share} of “{first}”" for share in shares[:1]]
    parts = [f"“{name}” take {share}" for name, share in zip(others, shares, strict=True)]
    title = f"At {lengths[-1]:,} tokens {', '.join(parts)}"
    figure = new_figure(title, 8.6, 3.2)
    ax = figure.subplots()
    draw_lines(ax, lengths, {f"{name}: {in_memory(held[-1])}": held for name, held in sizes.items()}, lw=1.3)
    ax.set(xlabel="length of the text (tokens)", ylabel="memory for keys and values")
    ax.set(xlim=(0, None), ylim=(0, None))  # from zero: what grows alike for each token is a straight line
    ax.xaxis.set_major_formatter("{x:,.0f}")
    quarters = [last[first] * part / 4 for part in range(5)]
    ax.set_yticks(quarters, list(map(in_memory, quarters)))
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = (
        f"Memory by length of the text, a line each for {', '.join(sizes)}; "
        f"they end at {', '.join(map(in_memory, last.values()))}."
    )
    return figure


@styled
def sampling_steps(
    steps: Mapping[str, Float[Tensor, "vocab"]], named: Tokenizer | Sequence[str] | None, top: int = 14
) -> Figure:
    """The distribution after each step of sampling, one panel each: the tokens that are likeliest in the first.

    A cross marks a token that can no longer be drawn; a panel's title says how many still can. `named` is a tokenizer
    or a word for each token; beside few bars stand their percents.
    """
    first, end = next(iter(steps.values())), list(steps.values())[-1]
    shown = first.topk(min(top, len(first))).indices
    left, before, best = int((end > 0).sum()), int((first > 0).sum()), int(end.argmax())
    ids = [best, *shown.tolist()]
    best_label, *labels = [named[at] for at in ids] if isinstance(named, Sequence) else token_labels(named, ids)
    title = f"{left:,} of {before:,} tokens can still be drawn" if left < before else "Every token can still be drawn"
    title += f"; “{best_label}” goes from {first[best]:.0%} to {end[best]:.0%}"
    figure = new_figure(title, 9.0, 0.9 + 0.19 * len(shown) + 0.3)
    most = max(float(values.max()) for values in steps.values())
    for ax, (name, values) in zip(figure.subplots(1, len(steps), squeeze=False)[0], steps.items(), strict=True):
        held, places = values[shown].tolist(), range(len(shown))
        bars = ax.barh(places, held, color=PALE, edgecolor=DARK, lw=0.6, height=0.75)
        if len(shown) <= 6:
            ax.bar_label(bars, [f"{share:.0%}" if share else "" for share in held], padding=3, fontsize=SMALL)
        gone = [place for place in places if held[place] == 0]
        ax.plot([0.03 * most] * len(gone), gone, "x", color="black", ms=4)
        ax.set_title(f"{name}\n{int((values > 0).sum()):,} left", fontsize=SMALL + 0.5)
        ax.set(xlim=(0, (1.25 if len(shown) <= 6 else 1.05) * most), ylim=(len(shown) - 0.4, -0.6))
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=(1, 2, 5, 10)))
        ax.xaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
        ax.tick_params(labelsize=SMALL)
        ax.set_yticks(places, labels if ax is figure.axes[0] else [])
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("probability", fontsize=8.5)
    figure.alt = (
        f"Bars of the likeliest tokens after each of {len(steps)} steps: {', '.join(steps)}. {title}; what is crossed "
        "out cannot be drawn, and those that stay share what it had."
    )
    return figure


@styled
def inverse_draw(probability: Float[Tensor, "words"], uniform: float, words: Sequence[str], top: int = 12) -> Figure:
    """A draw: words, each with its stretch of the line from 0 to 1, and where a number falls.

    The likeliest `top` words are named; the others stand together where they are.
    """
    reached = probability.double().cumsum(-1)
    chosen = min(int(torch.searchsorted(reached, uniform * reached[-1], right=True)), len(reached) - 1)
    likely = probability.topk(min(top, int((probability > 0).sum()))).indices.tolist()
    named = sorted({*likely, chosen})
    label = words[chosen]
    title = f"The number {uniform:.2f} falls into the stretch of “{label}”, which is {probability[chosen]:.0%} long"
    figure = new_figure(title, 8.6, 0.9 + 0.19 * len(named) + 0.2)
    ax = figure.subplots()
    for place, token in enumerate(named):
        size, stop = float(probability[token]), float(reached[token])
        lit: dict[str, Any] = {"color": LIT, "hatch": "///"} if token == chosen else {"color": PALE}
        ax.barh(place, size, left=stop - size, edgecolor=DARK, lw=0.6, height=0.75, **lit)
        ax.hlines(place, 0, stop - size, color="#bbbbbb", lw=0.6, zorder=0)
    ax.axvline(uniform, color="black", lw=1.2, ls="--")
    ax.set(xlim=(0, 1), ylim=(len(named) - 0.4, -0.6), xlabel="chances laid end to end")
    ax.xaxis.set_major_formatter(percent)
    ax.set_yticks(range(len(named)), [words[token] for token in named], fontsize=SMALL + 1)
    ax.tick_params(axis="y", length=0)
    figure.alt = (
        "Words as stretches laid end to end from 0 to 1, each in a line of its own, and a dashed line at the "
        f"number drawn, which crosses the stretch of “{label}”."
    )
    return figure


@styled
def shares_right(
    right: Mapping[str, Mapping[str, int]],
    asked: int,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
    guessing: Mapping[str, float],
) -> Figure:
    """Share of right answers to `asked` questions of each group, a bar for each way of asking: group -> way -> count.

    Whiskers are `intervals` of the shares, from low to high; a dashed line is what a guess would get in the group.
    """
    ways = list(next(iter(right.values())))
    total = {way: sum(each[way] for each in right.values()) for way in ways}
    best, worst = max(ways, key=total.__getitem__), min(ways, key=total.__getitem__)
    apart = [group for group, each in intervals.items() if each[best][0] > each[worst][1]]
    where = "every group" if len(apart) == len(right) else " and ".join(f"“{group}”" for group in apart)
    title = f"“{best}” is right more often than “{worst}” in {where}"
    if not apart:
        title = f"With {asked} questions a group no way of asking can be told from the others"
    figure = new_figure(title, 8.6, 3.1)
    ax, wide = figure.subplots(), 0.8 / len(ways)
    for number, (way, (hatch, shade)) in enumerate(zip(ways, HATCHES, strict=False)):
        places = [at + (number - (len(ways) - 1) / 2) * wide for at in range(len(right))]
        heights = [each[way] / asked for each in right.values()]
        ax.bar(places, heights, wide * 0.92, color=shade, edgecolor=DARK, lw=0.8, hatch=hatch, label=way)
        for place, (low, high), height in zip(places, (each[way] for each in intervals.values()), heights, strict=True):
            ax.vlines(place, low, high, color="black", lw=1.4)
            ax.hlines((low, high), place - 0.035, place + 0.035, color="black", lw=1.4)
            ax.text(place, high + 0.03, f"{height:.0%}", ha="center", fontsize=SMALL)
    for at, group in enumerate(right):
        line = guessing[group], at - 0.45, at + 0.45
        ax.hlines(*line, color="black", ls="--", lw=1.2, label="_" if at else "a guess")
    names = [f"{group}\nn = {asked}" for group in right]
    ax.set_xticks(range(len(right)), names)
    ax.tick_params(axis="x", length=0)
    ax.set(ylim=(0, 1.16), yticks=(0, 0.5, 1), ylabel="answered exactly right")
    ax.yaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = (
        f"Bars of the share answered right for {' and '.join(right)}, each for {', '.join(ways)}, with "
        "whiskers for the interval and a dashed line for a guess."
    )
    return figure


@styled
def answers_follow(found: Mapping[str, Mapping[str, int]], asked: int) -> Figure:
    """Of `asked` answers after each kind of notes, how many say what the story, the notes or neither says, with 95%
    intervals (Wilson's): kind -> what is followed -> count. The title tells of the kind that leads away most."""
    first, second, *_ = next(iter(found.values()))
    away = max(found, key=lambda kind: found[kind][second] - found[kind][first])
    title = f"With “{away}” {found[away][second]} of {asked} answers follow {second}, {found[away][first]} {first}"
    figure = new_figure(title, 8.6, 3.0)
    ax, ways = figure.subplots(), list(next(iter(found.values())))
    wide = 0.8 / len(ways)
    for number, (way, (hatch, shade)) in enumerate(zip(ways, HATCHES, strict=False)):
        for at, each in enumerate(found.values()):
            place, (low, high) = at + (number - (len(ways) - 1) / 2) * wide, interval(each[way], asked)
            look: dict[str, Any] = {"color": shade, "edgecolor": DARK, "lw": 0.8, "hatch": hatch}
            ax.bar(place, each[way] / asked, wide * 0.92, label=f"{'_' * bool(at)}{way}", **look)
            ax.vlines(place, low, high, color="black", lw=1.4)
            ax.hlines((low, high), place - 0.035, place + 0.035, color="black", lw=1.4)
            ax.text(place, high + 0.03, str(each[way]), ha="center", fontsize=SMALL)
    ax.set_xticks(range(len(found)), [textwrap.fill(kind, 12) for kind in found])
    ax.tick_params(axis="x", length=0)
    ax.set(ylim=(0, 1.16), yticks=(0, 0.5, 1), ylabel=f"share of n = {asked} answers")
    ax.yaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside right center", title="answers as in")
    told = (f"{kind}: " + ", ".join(f"{each[way]} {way}" for way in ways) for kind, each in found.items())
    figure.alt = f"Bars with intervals of what {asked} answers follow. {'; '.join(told)}."
    return figure
