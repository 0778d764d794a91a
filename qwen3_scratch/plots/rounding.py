"""Sums that are rounded at each step."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from .canvas import Figure, draw_lines, new_figure, styled

__all__ = ["running_sums"]


@styled
def running_sums(sums: Mapping[str, Float[Tensor, "additions"]]) -> Figure:
    """Sums over the number of additions, from none on, a line for each way. The title tells of the first, where it
    ends and from which addition on it stays there."""
    (name, first), *_ = sums.items()
    last = float(first[-1])
    title = f"{name[0].upper()}{name[1:]} comes to {last:,g} and stays there, from addition "
    title += f"{int((first == first[-1]).int().argmax()):,} on"
    figure = new_figure(title, 7.4, 2.5)
    ax = figure.subplots()
    places = range(len(first))
    draw_lines(ax, places, {name: values.tolist() for name, values in sums.items()}, marker=None)
    ax.set(xlabel="additions of 1", ylabel="sum", xlim=(0, len(first) - 1), ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"Sums over the number of additions: {', '.join(sums)}. {title}."
    return figure
