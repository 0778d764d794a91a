"""Where heads look that find nothing: at a place or at a token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .canvas import (  # fmt: skip
    GREY,
    LINES,
    Figure,
    half_interval,
    label_axis,
    legend_beside,
    new_figure,
    percent,
    span,
    spoken,
    styled,
)

__all__ = ["carried_tokens"]

GREY_LINE = "#8c8c8c"


@styled
def carried_tokens(shares: Mapping[str, Float[Tensor, "places n"]], places: Sequence[int], even: float) -> Figure:
    """What tokens get of a head that are put at several places: a line a token, named together with its head.

    The title says what they get in the first of the places and in the others; `even` is what an even look gives.
    """
    means = torch.stack([each.mean(1) for each in shares.values()])  # [tokens, places]
    title = f"Tokens get {span(means[:, 0])} of their best head in place {places[0]}, "
    title += f"{span(means[:, 1:]) if len(places) > 1 else 'nothing'} elsewhere; an even look: {spoken(even)}"
    figure = new_figure(title, 7.6, 2.9)
    ax = figure.subplots()
    lines = (*LINES[:3], (*LINES[3][:2], GREY_LINE, LINES[3][3]))  # a fourth must not look like the first
    for row, ((kind, values), (form, marker, colour, width)) in enumerate(zip(shares.items(), lines, strict=False)):
        at = [number + 0.08 * (row - 1.5) for number in range(len(places))]
        look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": width, "ms": 4, "capsize": 2}
        ax.errorbar(at, values.mean(1).tolist(), half_interval(values).tolist(), label=kind, **look)
    ax.axhline(even, color=GREY, lw=0.9, ls="--", label="an even look")
    ax.set(ylabel="weight on it\n(bars: 95%)", xlabel="place of the token", ylim=(0, None))
    label_axis(ax.xaxis, places, 5.6)
    ax.yaxis.set_major_formatter(percent)
    legend_beside(figure, ax)
    figure.alt = f"A line for each of {'; '.join(shares)} over the places where it stands. {title}."
    figure.few_colours = True
    return figure
