"""What experts are for: tests of chance, guessed routes, a router's confidence, knock-outs, other top-k."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    logarithmic,
    new_figure,
    percent,
    small_multiples,
    styled,
)

__all__ = ["expert_knockouts", "information_test", "loss_by_top_k", "rank_shares", "route_guesses", "two_expert_weight"]

FORMS = (("o-", DARK), ("s--", MIDDLE), ("^:", "black"), ("v-.", "#8c8c8c"), ("x-", "#9ecae1"), ("D--", "#555555"))
HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--")


@styled
def information_test(
    measured: Float[Tensor, "layers"],
    shuffled: Float[Tensor, "shuffles layers"],
    random: Float[Tensor, "draws layers"],
    layers: Sequence[int] = (),
) -> Figure:
    """Bits that a layer's routes tell about a token's domain, beside the same with shuffled domains and random routers.

    The title counts the layers in which 5% of the draws or more reach what was measured. `layers` are the layers'
    numbers where they do not count from 0.
    """
    count, numbers = len(measured), list(layers) or list(range(len(measured)))
    often = [int(((chance >= measured).float().mean(0) >= 0.05).sum()) for chance in (shuffled, random)]
    title = f"Shuffles reach the measured bits in {often[0]} of {count} layers, random routers in {often[1]}"
    rows = math.ceil(count / 4)
    figure = new_figure(f"{title} (at least 5% of the draws)", 1.2 + 1.95 * max(2, min(count, 4)), 1.15 + 1.35 * rows)
    edge = 1.08 * max(float(part.max()) for part in (measured, shuffled, random))
    for number, (ax, first, last) in enumerate(small_multiples(figure, count)):
        options: dict[str, Any] = {"bins": 30, "range": (0, edge), "edgecolor": DARK, "lw": 0.4}
        ax.hist(shuffled[:, number].tolist(), weights=[1 / len(shuffled)] * len(shuffled), color=MIDDLE, **options)
        ax.hist(
            random[:, number].tolist(), weights=[1 / len(random)] * len(random), color=PALE, hatch="////", **options
        )
        ax.axvline(float(measured[number]), color="black", lw=2)
        ax.set(title=f"layer {numbers[number]}", xlim=(0, edge), xlabel="bits" if last else "")
        ax.set_ylabel("share of the draws" if first else "")
        ax.yaxis.set_major_formatter(percent)
        ax.tick_params(labelsize=SMALL)
    names = [f"{len(shuffled)} shuffles", f"{len(random)} random routers", "measured"]
    drawn: list[Any] = [*ax.containers, ax.lines[0]]
    figure.legend(drawn, names, loc="outside lower left", ncols=3, frameon=False)
    return figure


@styled
def route_guesses(right: Mapping[str, Float[Tensor, "layers"]], layers: Sequence[int] = ()) -> Figure:
    """The share of tokens whose strongest expert is guessed right, a bar for each thing that the guesser knows.

    The title says the means over the layers.
    """
    count = len(next(iter(right.values())))
    means = ", ".join(f"{name} {float(share.mean()):.0%}" for name, share in right.items())
    figure = new_figure(f"Guessed right, knowing {means}", 8.0, 2.9)
    ax, width = figure.subplots(), 0.8 / len(right)
    shades = ("white", PALE, MIDDLE, DARK)
    for row, (name, share) in enumerate(right.items()):
        places = [number + (row - (len(right) - 1) / 2) * width for number in range(count)]
        hatch, shade = HATCHES[row % len(HATCHES)], shades[row % len(shades)]
        ax.bar(places, share.tolist(), width, label=name, color=shade, edgecolor="black", lw=0.6, hatch=hatch)
    label_axis(ax.xaxis, [f"layer {number}" for number in list(layers) or range(count)], 6.0)
    ax.set(ylim=(0, 1), ylabel="share guessed right")
    ax.yaxis.set_major_formatter(percent)
    figure.legend(title="known:", frameon=False, loc="outside right center")
    return figure


@styled
def rank_shares(ranked: Float[Tensor, "layers experts"], top_k: int, layers: Sequence[int] = ()) -> Figure:
    """The router's mean probability for each token's first, second, ... expert; solid shades are the chosen `top_k`."""
    first, chosen = ranked[:, 0], ranked[:, :top_k].sum(-1)
    title = f"The first expert gets {span(first)} of the probability"
    title += f", the first {top_k} get {span(chosen)}" if top_k > 1 else ""
    figure = new_figure(title, 7.0, 1.3 + min(6.0, 0.25 * len(ranked)))
    ax, left = figure.subplots(), torch.zeros(len(ranked))
    for rank, share in enumerate(ranked.T):
        kept = rank < top_k
        colour, hatch = ((DARK, MIDDLE)[rank % 2], "") if kept else ("white", "////")
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.6}
        bars = ax.barh(range(len(ranked)), share.tolist(), left=left.tolist(), height=0.7, **look)
        if len(ranked) <= 12 and float(share.min()) >= 0.045:
            place: dict[str, Any] = {"bbox": {"fc": "white", "ec": "none", "pad": 0.6}, "fontsize": SMALL}
            ax.bar_label(bars, [f"{value:.0%}" for value in share.tolist()], label_type="center", **place)
        left = left + share
    label_axis(ax.yaxis, [f"layer {number}" for number in list(layers) or range(len(ranked))], 0.25 * len(ranked))
    ax.set(xlim=(0, 1), ylim=(len(ranked) - 0.5, -0.5))
    ax.set_xlabel("mean probability of a token's first, second, ... expert (hatched: not chosen)")
    ax.xaxis.set_major_formatter(percent)
    return figure


def span(shares: Float[Tensor, "layers"]) -> str:
    """The range of some shares, as in 54% to 69%."""
    low, high = f"{float(shares.min()):.0%}", f"{float(shares.max()):.0%}"
    return low if low == high else f"{low} to {high}"


@styled
def expert_knockouts(
    damage: Float[Tensor, "layers experts domains chats"], domains: Sequence[str], layers: Sequence[int] = ()
) -> Figure:
    """Layers by experts, one panel a domain: by how much the mean loss of a chat rises without the expert.

    `damage` is the rise in nats per token of each chat; what falls instead is drawn as 0. `layers` as elsewhere.
    """
    count, experts, _, chats = damage.shape
    numbers, mean = list(layers) or list(range(count)), damage.mean(-1)
    layer, expert, domain = (int(index) for index in torch.unravel_index(mean.argmax(), mean.shape))
    error = float(damage[layer, expert, domain].std(correction=min(1, chats - 1))) / math.sqrt(chats)
    title = f"Worst: “{domains[domain]}” without expert {expert} of layer {numbers[layer]} loses "
    title += f"{float(mean[layer, expert, domain]):.2g} ± {error:.1g} nats more per token"
    columns = min(3, len(domains))
    rows = math.ceil(len(domains) / columns)
    high = min(0.24 * count, 4.5)
    figure = new_figure(title, 1.9 + 2.3 * columns, max(2.4, 0.8 + rows * (0.5 + max(0.6, high))))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[len(domains) :]:
        ax.remove()
    top = max(float(mean.max()), 1e-6)
    for number, ax in enumerate(grid[: len(domains)]):
        values = mean[:, :, number]
        texts = [[short(value, top) for value in line] for line in values.tolist()] if experts <= 8 else ()
        image = heatmap(ax, values, texts, vmin=0, vmax=top)
        below = number + columns >= len(domains)
        ax.set(title=domains[number], xlabel="expert" if below else "", ylabel="" if number % columns else "layer")
        label_axis(ax.xaxis, range(experts) if below else [""], 2.1)
        label_axis(ax.yaxis, [""] if number % columns else numbers, high)
    plain = ScalarFormatter(useOffset=False)
    colour_bar(figure, image, "rise of the loss\n(nats per token)", shrink=0.8, format=plain)
    return figure


def short(value: float, top: float) -> str:
    """A value in two decimals without the leading zero; nothing where it is below a twentieth of the largest."""
    return f"{value:.2f}".removeprefix("0") if value >= top / 20 and value >= 0.005 else ""


@styled
def loss_by_top_k(
    losses: Mapping[str, Float[Tensor, "choices domains"]],
    top_k: Sequence[int],
    domains: Sequence[str],
    trained: tuple[str, int],
) -> Figure:
    """Mean losses of the domains at several numbers of experts per token, one panel for each way to weigh them.

    `trained` is the way and the number that the checkpoint was trained with; the title starts from there.
    """
    at = dict(zip(top_k, losses[trained[0]].mean(-1).tolist(), strict=True))
    others = ", ".join(f"{at[k]:.2g} with {k}" for k in dict.fromkeys((top_k[0], top_k[-1])) if k != trained[1])
    title = f"Mean loss: {at[trained[1]]:.2g} nats per token with the {trained[1]} of training" + f"; {others}" * bool(
        others
    )
    figure = new_figure(title, 7.6, 2.6)
    panels = figure.subplots(1, len(losses), squeeze=False, sharey=True)[0]
    every = torch.stack(list(losses.values()))
    for ax, (name, values) in zip(panels, losses.items(), strict=True):
        for column, domain in enumerate(domains):
            form, shade = FORMS[column % len(FORMS)]
            ax.plot(range(len(top_k)), values[:, column].tolist(), form, color=shade, ms=4, lw=1.1, label=domain)
        ax.axvline(top_k.index(trained[1]), color="#bbbbbb", lw=5, zorder=0)
        ax.set(title=name + " (as trained)" * (name == trained[0]), xlabel="experts per token")
        label_axis(ax.xaxis, top_k, 3.0)
    if float(every.min()) > 0 and every.max() > 3 * every.min():
        logarithmic(panels[0].yaxis, parts=(1, 3))
    panels[0].set_ylabel("loss, nats per token")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    return figure


@styled
def two_expert_weight(difference: Float[Tensor, "tokens"], weights: Float[Tensor, "tokens"]) -> Figure:
    """Two experts, top-1: the weight on the chosen one's answer against the logits' difference, both ways."""
    middle = float(weights.float().median())
    figure = new_figure(
        f"Not renormalised, half of the weights are below {middle:.2f}; renormalised all are 1", 7.2, 2.4
    )
    ax, edge = figure.subplots(), max(4.0, 1.05 * float(difference.abs().max()))
    x = torch.linspace(-edge, edge, 401)
    ax.plot(x.tolist(), torch.ones_like(x).tolist(), "--", color="black", lw=1.2, label="renormalised: 1")
    ax.plot(x.tolist(), x.abs().sigmoid().tolist(), "-", color=DARK, lw=1.2, label="not: sigmoid(|difference|)")
    ax.plot(
        difference.tolist(),
        weights.tolist(),
        "o",
        ms=3,
        mfc="none",
        mec=MIDDLE,
        mew=0.7,
        label="tokens, not renormalised",
    )
    ax.set(xlim=(-edge, edge), ylim=(0, 1.05), ylabel="weight on the answer")
    ax.set_xlabel("logit of expert 0 minus logit of expert 1")
    figure.legend(frameon=False, loc="outside right center")
    return figure
