"""Several tokens from one pass: what stands of a draft, and which guesses of another model are accepted."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from .canvas import DARK, LINES, LIT, MIDDLE, PALE, SMALL, Figure, new_figure, percent, spoken, styled

__all__ = ["draft_passes", "draft_yield", "overlap_bars"]

GIVEN: dict[str, Any] = {"fc": LIT, "ec": DARK, "lw": 1.9}
GONE: dict[str, Any] = {"fc": "white", "ec": "#999999", "hatch": "////", "lw": 0.7}  # what is thrown away


@styled
def draft_passes(drafts: Sequence[Sequence[str]], own: Sequence[str], before: Sequence[str]) -> Figure:
    """For each draft, read with the tokens `before`: its guesses, what the model picks in their place, and the cache.

    `own` is what the model would write by itself. A pick behind a wrong guess is one of another text: a question mark.
    """
    right = [len(draft) for draft in drafts]
    for number, draft in enumerate(drafts):
        wrong = (at for at, (guess, pick) in enumerate(zip(draft, own, strict=False)) if guess != pick)
        right[number] = next(wrong, len(draft))
    counts = [str(count + 1) for count in right]
    told = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
    title = f"A pass gives the guesses up to the first wrong one and one token more: here {told}"
    most = max(map(len, drafts)) + len(before) + 1
    longest = max(len(token) for tokens in (own, before, *drafts) for token in tokens)
    wide = max(0.42, 0.075 * longest + 0.1)
    figure = new_figure(title, max(7.4, len(drafts) * wide * most + 1.6), 2.3)
    axes = figure.subplots(1, len(drafts), squeeze=False)[0]
    for ax, draft, count in zip(axes, drafts, right, strict=True):
        start = len(before)
        for column, token in enumerate([*before, *draft]):
            stays = column < start + count
            box(ax, column, 0, token, fc=PALE if column < start else "white", ec=DARK)
            box(ax, column, 2, "", **({"fc": PALE, "ec": DARK} if stays else GONE))
        for column, pick in enumerate(own[: len(draft) + 1]):
            known = column <= count
            box(ax, start + column, 1, pick if known else "?", **(GIVEN if known else GONE))
            if column < len(draft) and known:
                ax.text(start + column, 0.5, "=" if column < count else "≠", ha="center", va="center", fontsize=9)
        ax.set(xlim=(-0.55, most - 0.45), ylim=(2.55, -0.55), xticks=[])
        ax.spines[:].set_visible(False)
        ax.set_title(f"gives: {' '.join(own[: count + 1])}", fontsize=SMALL + 1.5)
        rows = ["read", "picks", "cache"] if ax is axes[0] else ["", "", ""]
        ax.set_yticks(range(3), rows)
        ax.tick_params(length=0)
    looks = {"the last token, or right: stays": {"fc": PALE, "ec": DARK, "lw": 0.7}, "given by the pass": GIVEN}
    looks["wrong, or behind a wrong guess: thrown away"] = GONE
    handles = [Patch(label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=3)
    given = (" ".join(own[: count + 1]) for count in right)
    said = [f"of “{' '.join(draft)}” the pass gives “{pick}”" for draft, pick in zip(drafts, given, strict=True)]
    figure.alt = f"For each draft a row of guesses, the model's picks below, the cache below that: {'; '.join(said)}."
    return figure


def box(ax: Axes, column: int, row: int, text: str, **look: Any) -> None:
    """A cell of the grid with a token in it."""
    ax.add_patch(Rectangle((column - 0.46, row - 0.3), 0.92, 0.6, **{"lw": 0.7} | look))
    white = {"fc": "white", "ec": "none", "pad": 1.0} if look.get("hatch") and text else None
    ax.text(column, row, text, ha="center", va="center", fontsize=SMALL + 0.5, bbox=white)


@styled
def overlap_bars(p: Float[Tensor, "words"], q: Float[Tensor, "words"], words: Sequence[str]) -> Figure:
    """The chances `p` of a model and `q` of a guesser, one bar a word: what both have is accepted, the rest of `q` is
    not, and the rest of `p` is drawn in its place."""
    both = p.minimum(q)
    share = float(both.sum())
    title = f"The overlap, {spoken(share)}, is accepted; the rest is drawn where the guesser gives too little"
    figure = new_figure(title, 7.4, 1.4 + 0.36 * len(words))
    ax = figure.subplots()
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("guessed and accepted", {"fc": MIDDLE, "ec": DARK, "lw": 0.8}),
        ("not accepted, drawn then", {"fc": LIT, "ec": DARK, "hatch": "....", "lw": 0.8}),
        ("guessed, not accepted", GONE | {"ls": "--", "lw": 0.8}),
    )
    for row, (have, mine, theirs) in enumerate(zip(both.tolist(), p.tolist(), q.tolist(), strict=True)):
        for (_, look), size, left in zip(looks, (have, mine - have, theirs - have), (0, have, have), strict=True):
            if size > 1e-6:
                ax.barh(row, size, 0.66, left, **look)
        ax.text(max(mine, theirs), row, f"  {spoken(mine)} in the end", va="center", fontsize=SMALL + 0.5)
    ax.set(xlim=(0, 1.25 * float(p.maximum(q).max())), ylim=(len(words) - 0.4, -0.6), xlabel="chance")
    ax.set_yticks(range(len(words)), list(words))
    ax.xaxis.set_major_formatter(percent)
    handles = [Patch(label=name, **look) for name, look in looks]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=3)
    parts = zip(words, both.tolist(), (p - both).tolist(), strict=True)
    told = ", ".join(f"“{word}” {spoken(have)} + {spoken(lack)}" for word, have, lack in parts)
    figure.alt = f"A bar for each word, what is guessed and accepted and what is drawn otherwise: {told}. {title}."
    return figure


@styled
def draft_yield(gives: Mapping[str, Sequence[int | float]], reads: Mapping[str, Sequence[int | float]]) -> Figure:
    """What a pass with 0, 1, 2, ... guesses gives, in tokens, a marked line for each share of guesses that are right,
    and what it reads, in passes of one, a plain line for each model. A draft pays where it gives more than it reads.

    The title names for each model the shares with which some number of guesses gives at least 5% more, and with
    how many guesses, where not with all.
    """
    pays: dict[str, list[str]] = {model: [] for model in reads}
    for (model, read), (name, given) in product(reads.items(), gives.items()):
        gain = [at for at, (a, b) in enumerate(zip(given, read, strict=True)) if a >= 1.05 * b]
        many = "1 guess" if gain == [1] else f"{gain[0]} to {gain[-1]} guesses" if gain else ""
        pays[model] += [name if len(gain) == len(read) - 1 else f"{name} ({many})"] if gain else []
    told = [f"in {model} with {', '.join(names) or 'no share'}" for model, names in pays.items()]
    title = f"Drafts pay by 5% or more {'; '.join([told[0] + ' of guesses right', *told[1:]])}"
    figure = new_figure(title, 8.6, 3.0)
    ax = figure.subplots()
    for (model, read), (form, width) in zip(reads.items(), (("-", 3.2), ("--", 2.2), (":", 2.2)), strict=False):
        ax.plot(range(len(read)), read, ls=form, color="#999999", lw=width, label=f"read: {model}")
    for (name, given), (form, marker, colour, width) in zip(gives.items(), LINES, strict=False):
        look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": 0.8 * width, "ms": 4}
        ax.plot(range(len(given)), given, label=f"given: {name} are right", **look)
    ax.set(xlabel="guesses in a draft", ylabel="tokens given;\nread, in passes of one", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    lines = {f"given with {name} right": each for name, each in gives.items()}
    lines |= {f"read in {model}": each for model, each in reads.items()}
    ends = ", ".join(f"{name} {each[-1]:.2f}" for name, each in lines.items())
    figure.alt = f"Lines over the guesses in a draft, from 1 each; with the most guesses {ends}. {title}."
    return figure
