"""A mixture of experts at its birth: how near it is to its dense model, and where random routers send its tokens."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from .canvas import DARK, MIDDLE, PALE, SMALL, Figure, new_figure, percent, styled

__all__ = ["agreement_bars", "router_splits"]


@styled
def agreement_bars(agreement: Mapping[str, float]) -> Figure:
    """Share of positions at which each variant finds the same next token likeliest as the dense model."""
    worst = min(agreement, key=agreement.__getitem__)
    exact = sum(share == 1 for share in agreement.values())
    title = f"{exact} of {len(agreement)} always agree with the dense model; “{worst}” on {agreement[worst]:.0%}"
    figure = new_figure(title, 8.2, 0.9 + 0.3 * len(agreement))
    ax, shares = figure.subplots(), list(agreement.values())
    bars = ax.barh(range(len(shares)), shares, color=PALE, edgecolor=DARK, lw=0.7, height=0.7)
    for bar, share in zip(bars, shares, strict=True):
        bar.set_hatch("" if share == 1 else "///")
    ax.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=SMALL)
    ax.set(
        xlim=(0, 1.1), ylim=(len(shares) - 0.4, -0.6), xticks=(0, 0.5, 1), xlabel="same next token as the dense model"
    )
    ax.set_yticks(range(len(shares)), list(agreement))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(percent)
    return figure


@styled
def router_splits(shares: Float[Tensor, "seeds layers"]) -> Figure:
    """Share of a layer's tokens that each of many random routers of two experts sends to expert 1, a dot a router.

    A bar marks the median of a layer; the dashed line is an even split.
    """
    low, high = float(shares.min()), float(shares.max())
    inner = shares.float().quantile(0.25).item(), shares.float().quantile(0.75).item()
    title = f"Random routers give expert 1 {low:.0%} to {high:.0%} of a layer's tokens,"
    title += f" half the routers {inner[0]:.0%} to {inner[1]:.0%}"
    figure = new_figure(title, max(8.4, 1.4 + 0.28 * shares.shape[1]), 2.8)
    ax, layers = figure.subplots(), range(shares.shape[1])
    for layer in layers:
        ax.plot([layer] * len(shares), shares[:, layer].tolist(), "o", ms=4, mfc="none", mec=MIDDLE, mew=0.8)
        middle = float(shares[:, layer].float().median())
        ax.plot((layer - 0.25, layer + 0.25), (middle, middle), color=DARK, lw=2)
    ax.axhline(0.5, color="#555555", lw=0.9, ls="--")
    ax.set(xlabel="layer", ylabel="share of tokens\nthat go to expert 1", ylim=(-0.03, 1.03))
    ax.set(
        xticks=list(layers)[:: max(1, len(layers) // 14)],
        yticks=(0, 0.25, 0.5, 0.75, 1),
        xlim=(-0.6, len(layers) - 0.4),
    )
    ax.yaxis.set_major_formatter(percent)
    return figure
