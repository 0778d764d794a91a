"""How text becomes tokens: the merges of one word, and how many tokens one sentence takes in several languages."""

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from ..errors import Error
from .canvas import DARK, MIDDLE, PALE, SMALL, Figure, new_figure, styled

__all__ = ["merge_steps", "sentence_lengths"]


@styled
def merge_steps(steps: Sequence[Sequence[str]], ranks: Sequence[int]) -> Figure:
    """The pieces of a word before the first merge and after each one; `ranks` are those of the merges, in order.

    The piece that a merge has made is dark. Raises Error unless there is one rank for each merge.
    """
    if len(ranks) != len(steps) - 1:
        raise Error(f"ranks: {len(ranks)} found, expected one for each of the {len(steps) - 1} merges")
    first, last = len(steps[0]), len(steps[-1])
    count = {0: "no merge", 1: "one merge"}.get(len(ranks), f"{len(ranks)} merges")
    title = f"{count[0].upper()}{count[1:]}: {first} pieces become {last}, whose bytes are the same"
    figure = new_figure(title, max(5.2, 0.42 * first + 2.4), 0.7 + 0.27 * len(steps))
    ax = figure.subplots()
    ax.set_axis_off()
    for row, pieces in enumerate(steps):
        at = 0
        before = set() if row == 0 else _borders(steps[row - 1])
        for piece in pieces:
            made = row > 0 and any(at < border < at + len(piece) for border in before)
            shade = MIDDLE if made else PALE if len(piece) > 1 else "white"
            ax.add_patch(Rectangle((at + 0.04, row + 0.06), len(piece) - 0.08, 0.86, fc=shade, ec=DARK, lw=0.6))
            weight = "bold" if made else None
            colour = "white" if made else "black"
            ax.text(at + len(piece) / 2, row + 0.49, piece, ha="center", va="center", color=colour, weight=weight)
            at += len(piece)
        label = "bytes" if row == 0 else f"rank {ranks[row - 1]:,}"
        ax.text(-0.25, row + 0.49, label, ha="right", va="center", fontsize=SMALL)
    ax.set(xlim=(-0.13 * first - 1.9, first + 0.1), ylim=(len(steps), 0))
    figure.alt = f"A word of {first} pieces in a line, and below it a line for each merge, the last of {last} pieces."
    return figure


def _borders(pieces: Sequence[str]) -> set[int]:
    """Where one piece ends and the next begins."""
    ends, at = set(), 0
    for piece in pieces:
        at += len(piece)
        ends.add(at)
    return ends


@styled
def sentence_lengths(
    sizes: Mapping[str, tuple[int, int, int]], other: tuple[str, Mapping[str, int]] = ("", {})
) -> Figure:
    """How long each text is, in characters, bytes and tokens, from the fewest tokens to the most.

    White bars are bytes, which is what the tokens would be without any merge; the shaded part is left after merging.
    `other` is another tokenizer: its name, and how many tokens the texts take there, a mark on each bar.
    """
    order = sorted(sizes, key=lambda name: sizes[name][2])
    fewest, most = (sizes[name][2] for name in (order[0], order[-1]))
    title = f"The same sentence takes {fewest} tokens in {order[0]} and {most} in {order[-1]}"
    title = title if len(order) > 1 else f"This sentence takes {fewest} tokens"
    named, found = other
    if found:
        title += f", {min(found.values())} to {max(found.values())} with {named}"
    figure = new_figure(title, 7.4, 1.0 + 0.3 * len(order))
    ax = figure.subplots()
    places = range(len(order))
    ax.barh(places, [sizes[name][1] for name in order], 0.7, fc="white", ec=DARK, lw=0.6, label="bytes")
    ax.barh(places, [sizes[name][2] for name in order], 0.7, fc=PALE, ec=DARK, lw=0.6, label="tokens")
    if found:
        ends = [found[name] for name in order]
        ax.plot(ends, places, "D", color="black", ms=6, ls="none", label=f"tokens with\n{named}")
    for place, name in enumerate(order):
        characters, count, tokens = sizes[name]
        said = f"{characters} characters, {tokens / max(1, characters):.2f} tokens each"
        ax.text(max(count, tokens), place, f"  {said}", va="center", fontsize=SMALL)
    ax.set(xlim=(0, 1.5 * max(max(size) for size in sizes.values())), ylim=(len(order) - 0.4, -0.6))
    ax.set(xlabel="length of the sentence")
    ax.set_yticks(places, order)
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"For each of {len(order)} languages a bar of bytes and over it one of tokens. {title}."
    figure.alt += f" Marks stand where the bars of {named} would end." if found else ""
    return figure
