"""Where heads look that find nothing: at a place or at a token, and what it costs to hide it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    GREY,
    LINES,
    PALE,
    Figure,
    half_interval,
    label_axis,
    legend_beside,
    new_figure,
    percent,
    rounded,
    span,
    spoken,
    styled,
)

__all__ = ["carried_tokens", "hidden_places"]


@styled
def carried_tokens(
    shares: Mapping[str, Mapping[str, Float[Tensor, "places n"]]], places: Sequence[int], even: float
) -> Figure:
    """What each of two heads, a panel each, gives to tokens that are put at several places: a line a token.

    The first of the tokens is the usual one of place 0. The title says of the first head what this token gets, and of
    the second how much more any token gets in place 0 than elsewhere; `even` is what an even look gives.
    """
    (seeker, by_token), (other, anywhere) = shares.items()
    (token, usual), *rest = by_token.items()
    beyond = span(usual[1:].mean(1)) if len(usual) > 1 else "nothing"
    ratios = torch.stack([each[0].mean() / each[1:].mean() for each in anywhere.values()])
    title = f"{seeker} gives {token} {spoken(float(usual[0].mean()))} in place 0, {beyond} elsewhere, another token in "
    title += (
        f"place 0 at most {spoken(max(float(each[0].mean()) for _, each in rest))}; {other} gives what stands first "
    )
    title += f"{span(ratios, '{:.1f}')} times as much as elsewhere; an even look: {spoken(even)}"
    figure = new_figure(title, 8.4, 2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (name, tokens) in zip(panels, shares.items(), strict=True):
        for row, ((kind, values), (form, marker, colour, width)) in enumerate(zip(tokens.items(), LINES, strict=False)):
            at = [number + 0.08 * (row - 1.5) for number in range(len(places))]
            look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": width, "ms": 4, "capsize": 2}
            ax.errorbar(at, values.mean(1).tolist(), half_interval(values).tolist(), label=kind, **look)
        ax.axhline(even, color=GREY, lw=0.9, ls="--", label="an even look")
        ax.set(title=name, xlabel="place of the token", ylim=(0, None))
        label_axis(ax.xaxis, places, 2.8)
        ax.yaxis.set_major_formatter(percent)
    panels[0].set_ylabel("weight on it\n(bars: 95%)")
    legend_beside(figure, panels[0])
    figure.alt = f"Two panels, {seeker} and {other}, with a line for {', '.join(by_token)} over the places. {title}."
    figure.few_colours = True
    return figure


@styled
def hidden_places(
    hidden: Float[Tensor, "places n"],
    emptied: Float[Tensor, "places n"],
    labels: Sequence[str],
    margin: float,
) -> Figure:
    """What it costs that no head sees one of the first places, or that a look there gathers nothing, in nats.

    `labels` are what stands there, `n` texts; `margin` is what there is to lose.
    """
    means, halves = hidden.mean(1), half_interval(hidden)
    costs = f"{float(means[0]):.2f} ± {rounded(float(halves[0]))}"
    title = f"Hidden from all heads, “{labels[0]}” costs {costs} of {margin:.1f} nats"
    if len(labels) > 1:
        most = 1 + int(means[1:].argmax())
        title += f"; of the other places “{labels[most]}” costs most, {float(means[most]):.2f}"
    figure = new_figure(f"{title} (n = {hidden.shape[1]} stories)", 7.6, 2.7)
    ax = figure.subplots()
    looks = (("hidden", hidden, DARK, -0.2), ("seen, but\nempty", emptied, PALE, 0.2))
    for name, costs_of, shade, left in looks:
        error: dict[str, Any] = {"yerr": half_interval(costs_of).tolist(), "error_kw": {"lw": 1.0, "capsize": 2}}
        places = [place + left for place in range(len(labels))]
        ax.bar(places, costs_of.mean(1).tolist(), 0.38, color=shade, ec=DARK, lw=0.6, label=name, **error)
    ax.axhline(0, color=GREY, lw=0.8)
    label_axis(ax.xaxis, labels, 5.6)
    ax.set(ylabel="lost of the margin\n(nats, bars: 95%)", xlabel="what stands at the first places")
    legend_beside(figure, ax)
    figure.alt = f"For each of {len(labels)} places two bars with intervals, hidden and empty. {title}."
    figure.few_colours = True
    return figure
