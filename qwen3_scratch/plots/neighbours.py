"""What routes share with their neighbours, beside what the words alone give; and which experts answer together."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from matplotlib.colors import TwoSlopeNorm
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    PALE,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    legend_beside,
    new_figure,
    percent,
    rounded,
    small_multiples,
    span,
    styled,
)
from .experts import bars_of_layers

__all__ = ["beside_words", "co_activation"]

Estimate = tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]  # means, and half of their 95% intervals


def sides(mean: Float[Tensor, "rows"], half: Float[Tensor, "rows"], rows: Sequence[str], other: str, form: str) -> str:
    """In which rows a difference lies above 0, in which below, and in which its 95% interval holds 0.

    Differences of shares are told in points, that is in percent of all.
    """
    found = []
    for kind, there in {"more": mean > half, "less": mean < -half}.items():
        if there.any():
            by = span(mean[there].abs(), form)
            unit = "" if "%" not in form else " point" if by == "1%" else " points"
            found.append(f"{kind} than {other} {where(there, rows)} (by {by.replace('%', '')}{unit})")
    unsure = mean.abs() <= half
    return "; ".join([*found, f"no difference shown {where(unsure, rows)}"] if unsure.any() else found)


def where(there: Bool[Tensor, "rows"], rows: Sequence[str]) -> str:
    """Some of the rows by their names."""
    named = ", ".join(row for row, one in zip(rows, there.tolist(), strict=True) if one)
    return "everywhere" if there.all() and len(rows) > 1 else f"in {named}"


@styled
def beside_words(
    found: Mapping[str, Estimate],
    apart: Estimate,
    chance: Float[Tensor, "rows"],
    rows: Sequence[str],
    what: str,
    form: str = "{:.0%}",
) -> Figure:
    """Bars for what was measured and for what the words alone give, a pair a row; a broken line is chance.

    `apart` is the first less the second. The title begins with the range of the first, `what` goes on from there, and
    where `apart` lies beyond 0 ends it.
    """
    (first, measured), (second, _) = found.items()
    title = f"{span(measured[0], form)} {what}: {sides(*apart, rows, second, form)}"
    figure = new_figure(title, 7.6, 2.7)
    ax = figure.subplots()
    bars_of_layers(ax, found, range(len(rows)), (DARK, PALE))
    left, right = ([number + side for number in range(len(rows))] for side in (-0.42, 0.42))
    ax.hlines(chance.tolist(), left, right, color="black", lw=1.6, ls="--", label="chance")
    label_axis(ax.xaxis, rows, 5.2)
    ax.set(ylabel=("share" if "%" in form else "bits") + " (bars: 95%)", ylim=(0, None))
    if "%" in form:
        ax.yaxis.set_major_formatter(percent)
    legend_beside(figure, ax)
    figure.alt = f"Bars with 95% intervals for {first} and {second} in {', '.join(rows)}, and broken lines for chance, "
    figure.alt += f"{span(chance, form)}. {title}."
    figure.few_colours = True
    return figure


@styled
def co_activation(
    pairs: Float[Tensor, "layers experts experts"],
    chance: Float[Tensor, "layers experts experts"],
    layers: Sequence[int],
    again: tuple[int, int, int, float, float, int, int],
    numbers: Sequence[int] = (),
) -> Figure:
    """How often two experts answer the same token, as a multiple of what their loads alone would give.

    `again` is the `inside.neighbours.Pair` that stands in the title, asked on other questions than found it; its row
    is one of the layers `numbers`, where the tables are of some of them.
    """
    experts = pairs.shape[-1]
    row, one, two, times, half, both, of = again
    title = (
        f"Experts {one} and {two} of layer {(numbers or layers)[row]} answer together {times:.1f} ± {rounded(half)} "
    )
    title += f"times as often as by their loads, on questions that did not choose them ({both:,} of {of:,} tokens)"
    ratio = (pairs / chance.clamp(min=1e-9)).triu(1)  # the lower half says the same
    sure = ratio * (chance >= 10)  # of rarer pairs a multiple says little
    high = min(2.0, 0.15 * experts + 0.35)
    lines = (len(layers) + 3) // 4
    figure = new_figure(title, 2.2 + 1.55 * max(2, min(4, len(layers))), 0.9 + lines * (high + 0.5))
    top = max(2.0, float(sure.max()))
    norm = TwoSlopeNorm(1.0, 0.0, top)  # white is never, the middle by load
    upper = torch.ones(experts, experts).triu(1) > 0
    for number, (ax, first, last) in enumerate(small_multiples(figure, len(layers))):
        rows = enumerate(ratio[number].tolist())
        texts = [
            [f"{value:.1f}" if b > a and not 0.5 < value < 1.5 else "" for b, value in enumerate(line)]
            for a, line in rows
        ]
        image = heatmap(ax, ratio[number].where(upper, torch.nan), texts if experts <= 8 else (), norm=norm)
        ax.patch.set(hatch="////", edgecolor="0.8")  # no field: else it would be read as a pair that never meets
        ax.set(title=f"layer {layers[number]}", xlabel="expert" if last else "", ylabel="expert" if first else "")
        label_axis(ax.xaxis, range(experts) if last else [""], 1.4)
        label_axis(ax.yaxis, range(experts) if first else [""], high)
    colour_bar(figure, image, "times as often as by load", format="{x:g}")
    figure.alt = (
        f"{title}. For each layer a table of experts by experts, the darker the oftener; numbers stand below 0.5 "
    )
    figure.alt += "and above 1.5."
    return figure
