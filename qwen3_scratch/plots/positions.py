"""Pairs that turn: by hand, as clocks, as halves of a head, and over distances that training never showed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Arc, Circle, Rectangle
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    GREY,
    LINES,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    half_interval,
    label_axis,
    logarithmic,
    new_figure,
    percent,
    spoken,
    styled,
)
from .one_word import interval

__all__ = [
    "clock_hands",
    "halves_and_neighbours",
    "looks_by_distance",
    "one_pair",
    "pair_wavelengths",
    "score_waves",
]


@styled
def one_pair(
    query: Float[Tensor, "2"], key: Float[Tensor, "2"], places: Sequence[tuple[int, int]], speed: int | float
) -> Figure:
    """A query and a key of two numbers, each turned to its position, as arrows; a panel for each pair of positions.

    `speed` is in radians per position, `places` are positions of query and key. The arc is the angle from key to query,
    which counts as turns do: against the clock.
    """
    apart = [m - n for m, n in places]
    again = len(set(apart)) < len(apart)
    title = "The same distance gives the same angle and the same score" if again else "The distance sets the angle"
    title += " (from k to q, anticlockwise)"
    figure = new_figure(title, max(5.2, 2.15 * len(places)), 2.95)
    lengths = float(query.float().norm()), float(key.float().norm())
    starts, reach = [math.atan2(float(part[1]), float(part[0])) for part in (query, key)], 1.32 * max(lengths)
    for ax, (m, n) in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        ends = [start + speed * place for start, place in zip(starts, (m, n), strict=True)]
        between = (ends[0] - ends[1] + math.pi) % (2 * math.pi) - math.pi  # the query's angle, seen from the key
        aside = math.copysign(max(0.0, 0.12 - abs(between) / 2), between)  # so that names of close arrows part
        for name, angle, length, colour, width in zip("qk", ends, lengths, (DARK, MIDDLE), (2.4, 1.3), strict=True):
            tip = length * math.cos(angle), length * math.sin(angle)
            style = {"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", tip, (0, 0), arrowprops=style)
            beside = angle + (aside if name == "q" else -aside)
            place = 1.17 * length * math.cos(beside), 1.17 * length * math.sin(beside)
            ax.text(*place, name, ha="center", va="center", weight="bold")
        low, half = min(ends[1], ends[1] + between), ends[1] + between / 2
        degrees = {"theta1": math.degrees(low), "theta2": math.degrees(low + abs(between))}
        ax.add_patch(Arc((0, 0), 0.5 * reach, 0.5 * reach, color="black", lw=1, **degrees))
        ax.text(0.45 * reach * math.cos(half), 0.45 * reach * math.sin(half), f"{math.degrees(between):.0f}°",
                ha="center", va="center", fontsize=SMALL)  # fmt: skip
        score = lengths[0] * lengths[1] * math.cos(between)
        ax.set(title=f"query at {m}, key at {n}", xlabel=f"distance {m - n}: score {score:.3g}", aspect="equal")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        ax.axhline(0, color=PALE, lw=0.7, zorder=0)
        ax.axvline(0, color=PALE, lw=0.7, zorder=0)
        ax.spines[:].set_visible(False)
    figure.alt = "Arrows q and k from one point, in a panel for each pair of positions: "
    figure.alt += "where the distance is the same, both have turned on together and the angle between them is the same."
    return figure


@styled
def clock_hands(frequencies: Float[Tensor, "pairs"], positions: Sequence[int]) -> Figure:
    """Pairs as clocks: a row for each position, a column for each of at most eight pairs, a hand that points right at
    position 0 and turns on against the clock, as the pair does."""
    pairs = sorted({round(at) for at in torch.linspace(0, len(frequencies) - 1, min(8, len(frequencies))).tolist()})
    speeds = frequencies.float().cpu()
    still = int((speeds[pairs] * max(positions) < math.pi / 36).sum())
    far = max(positions)
    near = min((place for place in positions if place), default=far)
    turned = [math.degrees(float(speeds[pair]) * place) for pair, place in ((pairs[0], near), (pairs[-1], far))]
    title = f"Pair {pairs[0]} has turned {turned[0]:.0f}° by position {near:,}, "
    title += f"pair {pairs[-1]} only {turned[1]:.1f}° by {far:,}" if turned[1] < turned[0] else "the others like it"
    high, wide = 0.52 * len(positions), max(5.6, 0.62 * len(pairs) + 1.0)
    figure = new_figure(title, wide, high + 0.95)
    ax = figure.subplots()
    for row, position in enumerate(positions):
        for column, pair in enumerate(pairs):
            angle = float(speeds[pair]) * position
            ax.add_patch(Circle((column, row), 0.4, fc="white", ec="#aaaaaa", lw=0.8))
            tip = column + 0.38 * math.cos(angle), row - 0.38 * math.sin(angle)  # rows count downwards
            ax.plot((column, tip[0]), (row, tip[1]), color=DARK, lw=2)
            ax.plot(column, row, "o", color=DARK, ms=2.5)
    ax.set(xlim=(-0.5, len(pairs) - 0.5), ylim=(len(positions) - 0.5, -0.5), aspect="equal")
    label_axis(ax.xaxis, pairs, 0.62 * len(pairs))
    label_axis(ax.yaxis, [f"{position:,}" for position in positions], high)
    ax.set(xlabel="pair: fast to the left, slow to the right (from the right, anticlockwise)", ylabel="position")
    ax.spines[:].set_visible(False)
    shown = ", ".join(map(str, pairs))
    figure.alt = f"A clock for each of the pairs {shown} at positions up to {max(positions)}: "
    figure.alt += f"in each row the hands to the right have turned less, those of {still} slow pairs still point right."
    return figure


@styled
def pair_wavelengths(frequencies: Float[Tensor, "pairs"], longest: int) -> Figure:
    """After how many positions each pair has turned once, on a logarithmic axis, beside the longest text; hollow marks
    are the pairs that do not come round in it."""
    waves = 2 * math.pi / frequencies.float().cpu()
    far = (waves > longest).nonzero().flatten().tolist()
    slow = len(far)
    figure = new_figure(f"{slow} of {len(waves)} pairs do not complete one turn within {longest:,} positions", 7.6, 2.9)
    ax = figure.subplots()
    draw_lines(ax, range(len(waves)), {"comes round": waves.tolist()})
    ax.plot(far, waves[far].tolist(), "o", mfc="white", mec=DARK, ms=6, label="does not")
    ax.axhline(longest, color=GREY, lw=0.9, ls=(0, (6, 3)), label=f"{longest:,} positions")
    logarithmic(ax.yaxis)
    ax.set(xlabel="pair", ylabel="positions for one turn")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"Positions for one turn by pair, from {waves.min():,.0f} up to {waves.max():,.0f}; "
    figure.alt += f"a dashed line at {longest:,} has {slow} pairs above it, with hollow marks."
    return figure


@styled
def halves_and_neighbours(head_dim: int = 8) -> Figure:
    """The numbers of one head as boxes, the pairs that halves make above them, and below those that neighbours make."""
    pairs = head_dim // 2
    halves = [(pair, pair + pairs) for pair in range(pairs)]
    neighbours = [(2 * pair, 2 * pair + 1) for pair in range(pairs)]
    shared = len(set(halves) & set(neighbours))
    title = f"Of {pairs} pairs, halves and neighbours have {shared or 'none'} in common"
    figure = new_figure(title, max(5.6, 0.72 * head_dim + 1.1), 3.1)
    ax = figure.subplots()
    forms = ("-", "--", ":", "-.")
    for number in range(head_dim):
        ax.add_patch(Rectangle((number - 0.4, -0.3), 0.8, 0.6, fc="#f4f4f4", ec=GREY, lw=0.8))
        ax.text(number, 0, f"{number}", ha="center", va="center")
    for way, side in ((halves, 1), (neighbours, -1)):
        for pair, (low, high) in enumerate(way):
            level = side * (0.62 + (0.36 * pair if side > 0 else 0.0))
            look: dict[str, Any] = {"color": DARK, "lw": 1.5, "ls": forms[pair % 4]}
            ax.plot((low, low, high, high), (0.3 * side, level, level, 0.3 * side), **look)
            place = high - 0.5 if side > 0 else (low + high) / 2
            ax.text(place, level + 0.04 * side, f"pair {pair}", ha="center", fontsize=SMALL,
                    va="bottom" if side > 0 else "top")  # fmt: skip
    top = 0.62 + 0.36 * (pairs - 1) + 0.36
    ax.text(-0.75, (0.3 + top) / 2, "halves", ha="right", va="center", weight="bold")
    ax.text(-0.75, -0.62, "neighbours", ha="right", va="center", weight="bold")
    ax.set(xlim=(-2.2, head_dim - 0.4), ylim=(-1.1, top))
    ax.set_axis_off()
    figure.alt = f"A row of {head_dim} boxes, the numbers of a head. Brackets above join each number of the first "
    figure.alt += "half with the one at the same place of the second; those below each even number with the next one."
    return figure


@styled
def looks_by_distance(
    turned: Float[Tensor, "texts heads seq seq"],
    still: Float[Tensor, "texts heads seq seq"],
    most: int = 12,
) -> Figure:
    """The weight that one head gives to each distance up to `most`, with rope and with the same queries and keys
    unturned, with 95% intervals: the head of these that gives most to the token before."""
    turned, still = (by_distance(weights, most) for weights in (turned, still))  # [heads, distances, texts]
    head = int(turned[:, 1].mean(-1).argmax())
    shares = [float(part[head, 1].mean()) for part in (turned, still)]
    title = f"Head {head} gives the token before {spoken(shares[0])} of its weight, unturned {spoken(shares[1])}"
    figure = new_figure(title, 8.0, 2.9)
    ax = figure.subplots()
    lines = {"turned by position": turned[head], "not turned": still[head]}
    draw_with_intervals(ax, range(turned.shape[1]), lines, 0.12)
    label_axis(ax.xaxis, range(turned.shape[1]), 4.5)
    ax.set(xlabel=f"distance from the query back to the key (n = {turned.shape[2]} texts, bars: 95%)")
    ax.set(ylabel="weight", ylim=(0, None))
    ax.yaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"The weight that one head gives by distance, a line with rope and one without. {title}."
    return figure


@styled
def score_waves(
    query: Float[Tensor, "head_dim"],
    key: Float[Tensor, "head_dim"],
    frequencies: Float[Tensor, "pairs"],
    names: tuple[str, str],
    farthest: int = 60,
) -> Figure:
    """The score of one query with one key, both yet unturned, if the key stood 0 to `farthest` tokens before it: the
    sum over all pairs and, below it, the term of the pair that changes most with the distance and the sum of the rest.

    `names` are those of the tokens of query and key.
    """
    waves = pair_terms(query, key, frequencies, farthest)
    total = waves.sum(1)
    widest, best = int((waves.amax(0) - waves.amin(0)).argmax()), int(total.argmax())
    term = waves[:, widest]
    title = f"“{names[0]}” with “{names[1]}” scores highest at distance {best}: "
    title += f"{term[best]:.1f} from pair {widest}, {total[best] - term[best]:.1f} from the rest"
    terms = {f"pair {widest}": term.tolist(), "all other pairs": (total - term).tolist()}
    figure = new_figure(title, 8.4, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_lines(upper, range(farthest + 1), {"sum of all pairs": total.tolist()})
    draw_lines(lower, range(farthest + 1), terms)
    for ax, label in ((upper, "score"), (lower, "terms")):
        for line in ax.lines:
            line.set_marker("")
        ax.axhline(0, color=GREY, lw=0.7, zorder=0)
        ax.set(ylabel=label)
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    lower.set(xlabel="distance from the query back to the key")
    figure.alt = f"Above, the score by distance; below, {', '.join(terms)}. {title}."
    return figure


def pair_terms(
    query: Float[Tensor, "head_dim"], key: Float[Tensor, "head_dim"], frequencies: Float[Tensor, "pairs"], farthest: int
) -> Float[Tensor, "distances pairs"]:
    """What each pair adds to the score at each distance: pairs are halves, and the root is divided by."""
    a, b = (vector.double().cpu().unflatten(0, (2, -1)) for vector in (query, key))  # [2, pairs] each
    angles = torch.arange(farthest + 1)[:, None] * frequencies.double().cpu()
    along, across = (a * b).sum(0), b[0] * a[1] - b[1] * a[0]
    return (along * angles.cos() - across * angles.sin()) / math.sqrt(len(query))


def by_distance(weights: Float[Tensor, "texts heads seq seq"], most: int) -> Float[Tensor, "heads distances texts"]:
    """The mean weight at each distance back, of the queries that have a key at every distance."""
    most = min(most, weights.shape[-1] - 1)
    back = [weights.diagonal(-far, 2, 3)[..., most - far :].mean(-1) for far in range(most + 1)]
    return torch.stack(back).permute(2, 0, 1)


def draw_with_intervals(
    ax: Axes, places: Sequence[int | float], lines: Mapping[str, Float[Tensor, "places n"]], aside: float
) -> None:
    """The mean of each row of shares with its interval, a line for each name, each a little aside of the one before.

    Wilson's interval where a share counts hits and misses; it never leaves 0 to 1, and means are cut there, too.
    """
    for number, (name, values) in enumerate(lines.items()):
        form, marker, colour, width = LINES[number % 4]
        look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": width, "ms": 4}
        moved = [place + aside * number for place in places]
        middle, half = values.mean(1), half_interval(values)
        ends = torch.stack(((middle - half).clamp(min=0), (middle + half).clamp(max=1)), 1)
        for row in ((values == 0) | (values == 1)).all(1).nonzero().flatten().tolist():
            ends[row] = torch.tensor(interval(int(values[row].sum()), values.shape[1]))
        error = (ends - middle[:, None]).abs().T.tolist()
        ax.errorbar(moved, middle.tolist(), error, label=name, elinewidth=0.9, capsize=2, **look)
