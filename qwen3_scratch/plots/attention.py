"""Who looks at whom: attention weights, head by head."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.colors import PowerNorm
from torch import Tensor

from .canvas import SMALL, Figure, colour_bar, heatmap, label_axis, new_figure, small_multiples, styled


@styled
def attention_maps(weights: Float[Tensor, "heads q_len k_len"], labels: Sequence[str]) -> Figure:
    """All heads of a layer, one panel each: how much each token (row) looks at each token before it (column).

    `labels` name the keys. A panel's title says where most of the head's weight goes, averaged over the tokens.
    """
    heads, q_len, k_len = weights.shape
    past = k_len - q_len
    places = {"itself": weights.diagonal(past, 1, 2), "the token before": weights.diagonal(past - 1, 1, 2)}
    places["the first token"] = weights[:, :, 0]
    found = [max((float(w[head].float().sum() / q_len), place) for place, w in places.items()) for head in range(heads)]
    share, place = max(found)
    title = f"In head {found.index((share, place))} a token gives {share:.0%} of its weight to {place}, on average"
    figure = new_figure(title, 2.0 + 1.8 * min(heads, 4), 1.4 + math.ceil(heads / 4) * 1.92)
    for head, (ax, first, last) in enumerate(small_multiples(figure, heads)):
        image = heatmap(ax, weights[head], norm=PowerNorm(0.5, 0, 1), aspect="equal" if q_len == k_len else "auto")
        ax.spines[:].set(visible=True, color="#bbbbbb")
        ax.set_title(f"head {head}: {found[head][0]:.0%} to {found[head][1]}", fontsize=SMALL)
        label_axis(ax.xaxis, labels if last else [""], 1.5)
        label_axis(ax.yaxis, labels[past:] if first else [""], 1.5)
    colour_bar(figure, image, "attention weight (a row sums to 100%)")
    return figure
