"""When routes settle while a model is trained."""

from jaxtyping import Float, Int
from torch import Tensor

from .canvas import GREY, LINES, Figure, draw_lines, legend_beside, new_figure, percent, span, styled

__all__ = ["routes_over_training"]


@styled
def routes_over_training(
    steps: Int[Tensor, "steps"],
    settled: Float[Tensor, "steps layers"],
    chance: Float[Tensor, "steps layers"],
    changed: Float[Tensor, "changes layers"],
    falls: int,
    counted: str,
) -> Figure:
    """The share of tokens that already have the expert of the last step, and beside it the share that have another one
    than when they were last asked: a line a layer.

    Shaded is chance by load; the learning rate falls from step `falls` on.
    """
    half = span(steps[(settled >= 0.5).int().argmax(0)], "{:,.0f}")
    still = changed[max(0, int((steps[1:] <= falls).sum()) - 1)]
    title = (
        f"Half of the tokens have their last expert by step {half} of {int(steps[-1]):,}; {span(still)} change theirs "
    )
    title += f"before the learning rate falls, {span(changed[-1])} at the end (n\u00a0=\u00a0{counted})"
    figure = new_figure(title, 8.4, 2.8)
    left, right = figure.subplots(1, 2)
    layers = range(min(settled.shape[1], len(LINES)))
    for ax, places, shares in ((left, steps, settled), (right, steps[1:], changed)):
        lines = {f"layer {layer}": shares[:, layer].tolist() for layer in layers}
        draw_lines(ax, places.tolist(), lines, marker=None)
        ax.axvline(falls, color=GREY, lw=0.9, ls="--", label="rate falls")
        ax.set(xlabel="step of training", xlim=(0, int(steps[-1])), ylim=(0, None))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_major_formatter(percent)
        ax.locator_params(axis="x", nbins=4)
    low, high = chance.amin(1).tolist(), chance.amax(1).tolist()
    left.fill_between(steps.tolist(), low, high, color="#cccccc", label="chance, by load")
    left.set(ylabel="have the last expert", ylim=(0, 1.02))
    right.set_ylabel("changed since\nthe last probe")
    legend_beside(figure, left)
    figure.alt = "Two panels of lines over the steps, a line a layer: tokens with their last expert, which rise, and "
    figure.alt += f"tokens that changed theirs. {title}. By load alone {span(chance)} would have the last expert."
    figure.few_colours = True
    return figure
