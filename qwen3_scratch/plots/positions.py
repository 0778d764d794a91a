"""Where a token stands: how fast pairs turn, what that does to scores, and what happens far away."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    PALE,
    SMALL,
    Figure,
    colour_bar,
    draw_lines,
    heatmap,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)
from .drawn import within

__all__ = [
    "angle_errors",
    "divergence_by_position",
    "loss_by_gap",
    "pair_wavelengths",
    "rotation_map",
    "scores_by_distance",
    "slowed_pairs",
    "turning_pairs",
]


@styled
def turning_pairs(pair: Float[Tensor, "2"], frequencies: Mapping[str, float], positions: int = 8) -> Figure:
    """One pair of numbers as an arrow in the plane, turned for each position from 0 on; a panel a frequency.

    `frequencies` are radians per position, by the name that the panel bears.
    """
    names = list(frequencies)
    turns = [f"{name} by {math.degrees(speed):.3g}°" for name, speed in frequencies.items()]
    width = 0.6 + 3.0 * len(names)
    figure = new_figure(f"Each position turns {', '.join(turns)}; the length stays", width, 3.7)
    reach = 1.3 * float(pair.float().norm())
    for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        angles = math.atan2(pair[1], pair[0]) + frequencies[name] * torch.arange(positions)
        circle = torch.linspace(0, 2 * math.pi, 200)
        radius = float(pair.float().norm())
        ax.plot(radius * circle.cos(), radius * circle.sin(), color=PALE, lw=1, zorder=0)
        written: list[tuple[float, float]] = []
        for position, angle in enumerate(angles.tolist()):
            tip = radius * math.cos(angle), radius * math.sin(angle)
            style = {"arrowstyle": "-|>", "color": DARK if position == 0 else "#777777", "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", tip, (0, 0), arrowprops=style | {"lw": 2.2 if position == 0 else 0.9})
            place = 1.13 * tip[0], 1.13 * tip[1]
            if all(math.dist(place, other) > 0.17 * radius for other in written):
                ax.text(*place, str(position), ha="center", va="center", fontsize=SMALL)
                written.append(place)
        ax.set(
            title=name, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="first number of the pair"
        )
    figure.axes[0].set_ylabel("second number of the pair")
    return figure


@styled
def rotation_map(frequencies: Float[Tensor, "pairs"], positions: int = 64) -> Figure:
    """Pairs by positions: the cosine of the angle by which the position has turned the pair."""
    frequencies = frequencies.float().cpu()
    turns = frequencies * (positions - 1) / (2 * math.pi)
    title = f"In {positions} positions pair 0 turns {turns[0]:.3g} times"
    title += f", pair {len(turns) - 1} {turns[-1]:.2g} times" if len(turns) > 1 else ""
    high = min(4.5, max(0.8, 0.14 * len(turns)))
    figure = new_figure(title, 8.0, high + 1.1)
    ax = figure.subplots()
    angles = frequencies[:, None] * torch.arange(positions)
    image = heatmap(ax, angles.cos(), vmin=-1, vmax=1, interpolation="nearest")
    label_axis(ax.yaxis, range(len(turns)), high)
    ax.set(xlabel="position", ylabel="pair")
    colour_bar(figure, image, "cosine of the angle", format=None)
    return figure


@styled
def pair_wavelengths(frequencies: Float[Tensor, "pairs"], longest: int) -> Figure:
    """After how many positions each pair has turned once, on a logarithmic axis, beside the longest text."""
    waves = 2 * math.pi / frequencies.float().cpu()
    slow = int((waves > longest).sum())
    figure = new_figure(f"{slow} of {len(waves)} pairs do not turn once within {longest:,} positions", 7.2, 2.9)
    ax = figure.subplots()
    draw_lines(ax, range(len(waves)), {"wavelength": waves.tolist()})
    ax.axhline(longest, color="#777777", lw=0.9, ls=(0, (6, 3)), label=f"{longest:,} positions")
    logarithmic(ax.yaxis)
    ax.set(xlabel="pair", ylabel="positions for one turn")
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def slowed_pairs(frequencies: Mapping[str, Float[Tensor, "pairs"]]) -> Figure:
    """How fast each pair turns as a share of the first entry's speed, for each of the other entries."""
    first, *others = frequencies
    shares = {name: frequencies[name].float() / frequencies[first].float() for name in others}
    kept = {name: int((share > 0.995).sum()) for name, share in shares.items()}
    title = ", ".join(f"{name} keeps {count}" for name, count in kept.items())
    pairs = len(frequencies[first])
    figure = new_figure(f"Of {pairs} pairs {title} at full speed", 7.2, 2.9)
    ax = figure.subplots()
    draw_lines(ax, range(pairs), {name: (100 * share).tolist() for name, share in shares.items()})
    ax.set(xlabel="pair", ylabel=f"speed (% of {first})", ylim=(0, 106))
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def scores_by_distance(scores: Float[Tensor, "heads distances"], labels: Sequence[str]) -> Figure:
    """What a query and a key score by the distance between them: the head that varies most, and all heads as a band."""
    scores = scores.float().cpu()
    best = int((scores.amax(-1) - scores.amin(-1)).argmax())
    line = scores[best]
    high, low = int(line.argmax()), int(line.argmin())
    title = f"“{labels[best]}” scores {line[high]:.1f} at distance {high} and {line[low]:.1f} at distance {low}"
    figure = new_figure(title, 7.4, 3.1)
    ax = figure.subplots()
    if len(scores) > 1:
        low_edge, high_edge = scores.quantile(torch.tensor([0.1, 0.9]), dim=0).tolist()
        ax.fill_between(range(len(line)), low_edge, high_edge, color=PALE, lw=0, label="middle 80% of all")
        ax.plot(scores.mean(0).tolist(), "--", color="black", lw=1.5, label="mean of all")
    ax.plot(line.tolist(), color=DARK, lw=2.2, label=labels[best], marker="o" if len(line) < 3 else None)
    ax.axhline(0, color="#777777", lw=0.6)
    ax.set(xlabel="distance from the query back to the key (positions)", ylabel="score")
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def divergence_by_position(nats: Mapping[str, Float[Tensor, "positions"]], block: int = 5) -> Figure:
    """How far next-token distributions are from the true model's: means over blocks of positions, a line a change."""
    blocks = {name: [float(part.mean()) for part in values.split(block)] for name, values in nats.items()}
    first = " and ".join(f"{each[0]:.2f} ({name})" for name, each in blocks.items())
    later = [float(values[block:].mean()) if len(values) > block else 0.0 for values in nats.values()]
    title = (
        f"Nats off on the first {block} tokens: {first}; after them: {' and '.join(f'{each:.2f}' for each in later)}"
    )
    figure = new_figure(title, 7.4, 3.0)
    ax = figure.subplots()
    length = len(next(iter(nats.values())))
    starts = range(0, length, block)
    draw_lines(ax, starts, blocks)
    shown = starts[:: max(1, len(starts) // 10)]
    ax.set_xticks(shown, [f"{start}-{min(start + block, length) - 1}" for start in shown], fontsize=SMALL)
    ax.set(xlabel="positions", ylabel="divergence (nats)", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def angle_errors(errors: Mapping[str, Float[Tensor, "positions"]], positions: Sequence[int]) -> Figure:
    """By how many degrees the worst pair's angle is off at each position, on logarithmic axes."""
    found = {name: values.tolist() for name, values in errors.items()}
    ends = {name: values[-1] for name, values in found.items()}
    last = [f"{end:.0f}° ({name})" if end >= 10 else f"{end:.1g}° ({name})" for name, end in ends.items()]
    figure = new_figure(f"At position {positions[-1]:,} angles are off by up to {', '.join(last)}", 7.4, 3.2)
    ax = figure.subplots()
    draw_lines(ax, positions, found, gid=within(1.0))  # errors of rounding: no more than their magnitude comes again
    ax.axhline(90, color="#777777", lw=0.9, ls=(0, (6, 3)), label="a quarter turn")
    logarithmic(ax.xaxis, positions[::2], base=2)
    logarithmic(ax.yaxis)
    ax.set(xlabel="position", ylabel="error (degrees)", ylim=(1e-4, 2 * max(180, *ends.values())))
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def loss_by_gap(losses: Mapping[str, Sequence[float]], gaps: Sequence[int]) -> Figure:
    """What an answer costs when its positions begin so many later than its question ends, a line for each way."""
    last = {name: values[-1] for name, values in losses.items()}
    best = min(last, key=last.__getitem__)
    title = f"At a gap of {gaps[-1]:,} the loss is least with “{best}”, {last[best]:.2f} nats a token"
    figure = new_figure(f"{title}, and {losses[best][0]:.2f} without a gap", 7.4, 3.1)
    ax = figure.subplots()
    draw_lines(ax, range(len(gaps)), losses)
    label_axis(ax.xaxis, [f"{gap:,}" for gap in gaps], 5.0)
    ax.set(xlabel="positions left out between question and answer", ylabel="loss (nats per token)")
    ax.set_ylim(0, 1.08 * max(map(max, losses.values())) or 1)
    figure.legend(frameon=False, loc="outside right center")
    return figure
