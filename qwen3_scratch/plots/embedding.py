"""How the stream grows where nothing holds it back."""

import math

from jaxtyping import Float
from torch import Tensor

from .canvas import Figure, draw_lines, label_axis, logarithmic, new_figure, styled

__all__ = ["stream_growth"]


@styled
def stream_growth(with_norm: Float[Tensor, "depths tokens"], without: Float[Tensor, "depths tokens"]) -> Figure:
    """The median length of the stream at each depth, with norms and without their division, on a logarithmic axis.

    What is no number any more, since it left the range of its type, is not drawn.
    """
    lines = {
        "with rms_norm": with_norm.float().median(-1).values.tolist(),
        "without its division": without.float().median(-1).values.tolist(),
    }
    kept, grown = lines.values()
    lost = next((depth for depth, length in enumerate(grown) if not math.isfinite(length)), None)
    if lost is None:
        title = f"Without the division the stream ends {_times(grown[-1] / max(kept[-1], 1e-30))} as long as with it"
    else:
        title = f"Without the division the stream leaves the range of numbers in layer {lost - 1}"
    figure = new_figure(title, 7.2, 3.0)
    ax = figure.subplots()
    depths = range(len(kept))
    draw_lines(ax, depths, {name: [*map(_drawable, values)] for name, values in lines.items()})
    logarithmic(ax.yaxis, text=_power)
    label_axis(ax.xaxis, ["embedding", *(f"layer {number}" for number in depths[:-1])], 5.0)
    ax.set(ylabel="length (median over the tokens)", xlim=(-0.3, len(kept) - 0.7), xlabel="the stream after")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"The length of the stream by depth, two lines on a logarithmic axis. {title}."
    return figure


def _drawable(length: float) -> float:
    return length if math.isfinite(length) and length > 0 else math.nan


def _times(ratio: float) -> str:
    """A factor as one says it: one digit of it, if it is large."""
    return f"{float(f'{ratio:.1g}'):,.0f} times" if ratio >= 100 else f"{ratio:.2g} times"


def _power(value: float) -> str:
    """A power of ten, with its exponent raised."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
