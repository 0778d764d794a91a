"""Where heads look that find nothing: at a place or at a token."""

from collections.abc import Mapping, Sequence
from typing import Any

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


@styled
def carried_tokens(
    head: str, shares: Mapping[str, Float[Tensor, "places n"]], places: Sequence[int], even: float
) -> Figure:
    """What a head gives to tokens that are put at several places: a line a token, which is named.

    The first of the tokens is the usual one of place 0, and the title says what it gets there and elsewhere, and what
    others get there; `even` is what an even look gives.
    """
    (token, usual), *rest = shares.items()
    beyond = span(usual[1:].mean(1)) if len(usual) > 1 else "nothing"
    title = f"{head} gives {token} {spoken(float(usual[0].mean()))} in place 0, {beyond} elsewhere, another token in "
    title += f"place 0 at most {spoken(max(float(each[0].mean()) for _, each in rest))}; an even look: {spoken(even)}"
    figure = new_figure(title, 7.6, 2.9)
    ax = figure.subplots()
    for row, ((kind, values), (form, marker, colour, width)) in enumerate(zip(shares.items(), LINES, strict=False)):
        at = [number + 0.08 * (row - 1.5) for number in range(len(places))]
        look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": width, "ms": 4, "capsize": 2}
        ax.errorbar(at, values.mean(1).tolist(), half_interval(values).tolist(), label=kind, **look)
    ax.axhline(even, color=GREY, lw=0.9, ls="--", label="an even look")
    ax.set(ylabel="weight on it\n(bars: 95%)", xlabel="place of the token", ylim=(0, None))
    label_axis(ax.xaxis, places, 5.6)
    ax.yaxis.set_major_formatter(percent)
    legend_beside(figure, ax)
    figure.alt = f"A line for each of {', '.join(shares)} over the places where it stands. {title}."
    figure.few_colours = True
    return figure
