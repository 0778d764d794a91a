"""How text becomes tokens: the merges of one word, and how much text a token holds."""

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from ..errors import Error
from .canvas import DARK, LIT, MIDDLE, PALE, SMALL, Figure, new_figure, styled

__all__ = ["bytes_per_token", "merge_steps"]


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
    return figure


def _borders(pieces: Sequence[str]) -> set[int]:
    """Where one piece ends and the next begins."""
    ends, at = set(), 0
    for piece in pieces:
        at += len(piece)
        ends.add(at)
    return ends


@styled
def bytes_per_token(groups: Mapping[str, Sequence[int]]) -> Figure:
    """How many bytes a token holds on average, for each group of token lengths in bytes, from most to fewest."""
    means = {name: sum(lengths) / len(lengths) for name, lengths in groups.items()}
    order = sorted(means, key=means.__getitem__, reverse=True)
    most, fewest = order[0], order[-1]
    title = f"A token holds {means[most]:.1f} bytes of “{most}” and {means[fewest]:.1f} of “{fewest}”"
    figure = new_figure(title, 7.2, 0.9 + 0.25 * len(order))
    ax = figure.subplots()
    shades = [MIDDLE, *[PALE] * (len(order) - 2), LIT][: len(order)]
    bars = ax.barh(range(len(order)), [means[name] for name in order], 0.7, color=shades, ec=DARK, lw=0.6)
    ax.bar_label(bars, [f"{means[name]:.1f}" for name in order], padding=3, fontsize=SMALL)
    ax.set(xlim=(0, 1.12 * means[most]), ylim=(len(order) - 0.4, -0.6), xlabel="bytes in a token, on average")
    ax.set_yticks(range(len(order)), order)
    return figure
