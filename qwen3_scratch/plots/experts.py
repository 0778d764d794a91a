"""What experts are for: tests of chance, guessed routes, knock-outs."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from ..model import Route
from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    Figure,
    by_group,
    colour_bar,
    heatmap,
    label_axis,
    layers_named,
    new_figure,
    percent,
    rounded,
    span,
    styled,
)
from .routing import route_map

__all__ = [
    "domain_experts", "expert_knockouts", "expert_lifts", "route_guesses", "word_routes",
]  # fmt: skip

HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--")


@styled
def word_routes(routes: Mapping[int, Route], labels: Sequence[str]) -> Figure:
    """The routes of a text, titled by the words that stand in it more than once: where they keep their expert."""
    figure = route_map(routes, labels)
    again = [[at for at, one in enumerate(labels) if one == label] for label in dict.fromkeys(labels)]
    again = [places for places in again if len(places) > 1]
    if not again:
        return figure
    kept = {
        layer: sum(len(route.experts[places, 0].unique()) == 1 for places in again) for layer, route in routes.items()
    }
    how = {
        "keep{} their expert": [layer for layer, count in kept.items() if count == len(again)],
        "change{} it": [layer for layer, count in kept.items() if count == 0],
        "part{} ways": [layer for layer, count in kept.items() if 0 < count < len(again)],
    }
    who = {1: f"The repeated “{labels[again[0][0]]}”", 2: "Both repeated words"}
    one = len(again) == 1
    said = [f"{verb.format('s' * one)} in {layers_named(layers)}" for verb, layers in how.items() if layers]
    title = f"{who.get(len(again), f'All {len(again)} repeated words')} {', '.join(said[:-1])}"
    title = f"{title} and {said[-1]}" if len(said) > 1 else title + said[-1]
    title = title.replace("their", "its") if one else title
    wide = figure.get_figwidth()
    figure.suptitle(textwrap.fill(title, int((wide - 0.3) * 11.5)), x=0.1 / wide, ha="left")
    figure.alt = f"{title}. Columns are tokens, rows the choices of each layer, numbers experts, shaded by weight."
    return figure


@styled
def domain_experts(counts: Float[Tensor, "domains experts"], domains: Sequence[str], layer: int) -> Figure:
    """Domain by expert in one layer: the share of a domain's tokens that each expert gets, in percent.

    The title says whose tokens are most of one domain, and which expert gets most of several domains.
    """
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    title = f"Layer {layer}: {who_reads(share, domains)}"
    high = 0.24 * len(domains)
    figure = new_figure(title, 7.2, max(2.4, 1.0 + high))
    ax = figure.subplots()
    image = heatmap(ax, share, None if share.shape[1] <= 16 else (), vmin=0)
    ax.set(xlabel="expert")
    label_axis(ax.xaxis, range(share.shape[1]), 4.2)
    label_axis(ax.yaxis, domains, high)
    colour_bar(figure, image, "share of the\ndomain's tokens")
    figure.alt = f"{title}. Rows are domains, columns experts; numbers are shares in percent, dark is much."
    return figure


def who_reads(share: Float[Tensor, "domains experts"], domains: Sequence[str]) -> str:
    """The expert that reads most of all from one domain, and the one that gets most of several domains, in words."""
    part, home = (share / share.sum(0).clamp(min=1e-9)).max(0)  # of each expert's tokens, domains weighing the same
    one, many = int(part.argmax()), (share > 0.5).sum(0)
    where, busy = domains[int(home[one])], int(many.argmax())
    alone, several = bool(part[one] > 0.995), int(many[busy])
    title = f"{part[one]:.0%} of expert {one}'s tokens are from {where}"
    title = f"expert {one} reads {where} alone" if alone else title
    return f"{title}, expert {busy} {'' if alone else 'reads '}most of {several} domains" if several > 1 else title


@styled
def route_guesses(
    right: Mapping[str, tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]],
    tokens: int,
    layers: Sequence[int] = (),
) -> Figure:
    """The share of tokens whose expert is guessed right, and half of its interval, a bar for each thing that is known.

    The title says the means over the layers of each thing alone, and of the best pair (a name with +).
    """
    count = len(next(iter(right.values()))[0])
    means = {name: float(share.mean()) for name, (share, _) in right.items()}
    ranked = sorted(means, key=lambda name: means[name], reverse=True)
    alone, pairs = [name for name in ranked if "+" not in name], [name for name in ranked if "+" in name]
    title = f"{means[alone[0]]:.0%} of the experts are guessed right from the {alone[0]} alone"
    title += "".join(f", {means[name]:.0%} from {name}" for name in alone[1:])
    title += "".join(f"; {means[name]:.0%} from {name}" for name in pairs[:1])
    figure = new_figure(f"{title} (n\u00a0=\u00a0{tokens:,})", 7.6, 2.5)
    ax = figure.subplots()
    bars_of_layers(ax, right, list(layers) or range(count))
    ax.set(ylim=(0, 1), ylabel="share guessed right")
    ax.yaxis.set_major_formatter(percent)
    figure.legend(title="known:", frameon=False, loc="outside right center")
    said = ", ".join(f"{name} {mean:.0%}" for name, mean in means.items())
    figure.alt = f"Bars with 95% intervals for each layer. Means of all layers, by what is known: {said}."
    figure.few_colours = True
    return figure


def bars_of_layers(
    ax: Axes,
    values: Mapping[str, tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]],
    layers: Sequence[int],
    shades: Sequence[str] = ("white", PALE, MIDDLE, DARK),
) -> None:
    """A bar for each name in each layer, as high as its mean, with its interval."""
    width = 0.8 / len(values)
    for row, (name, (mean, half)) in enumerate(values.items()):
        places = [number + (row - (len(values) - 1) / 2) * width for number in range(len(layers))]
        hatch, shade = HATCHES[row % len(HATCHES)], shades[row % len(shades)]
        look: dict[str, Any] = {"color": shade, "edgecolor": "black", "lw": 0.6, "hatch": hatch}
        ax.bar(places, mean.tolist(), width, label=name, **look)
        ax.errorbar(places, mean.tolist(), half.tolist(), fmt="none", ecolor="black", elinewidth=1.0, capsize=2)
    label_axis(ax.xaxis, [f"layer {number}" for number in layers], 6.0)


@styled
def expert_lifts(
    lifts: Mapping[str, tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]],
    tokens: int,
    texts: int,
    layers: Sequence[int],
) -> Figure:
    """By how much experts raise the next token's logit, and half of its interval; the first of `lifts` is the choice's.

    The title says the range over the layers of the first and of the highest other.
    """
    (first, (chosen, _)), *others = lifts.items()
    best, (highest, _) = max(others, key=lambda one: float(one[1][0].mean()))
    title = f"{first.capitalize()} raises the next token's logit by {span(chosen, '{:.1f}')}, {best} by "
    title += f"{span(highest, '{:.1f}')} (n\u00a0=\u00a0{tokens:,} tokens of {texts} texts)"
    figure = new_figure(title, 7.6, 2.5)
    ax = figure.subplots()
    bars_of_layers(ax, lifts, layers, (DARK, PALE, "white"))
    ax.axhline(0, color="black", lw=0.6)
    ax.set(ylabel="rise of the next token's logit\n(bars: 95%)")
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"Bars with 95% intervals for {', '.join(lifts)} in each layer. {title}."
    figure.few_colours = True
    return figure


@styled
def expert_knockouts(
    damage: Float[Tensor, "layers experts texts"],
    domain: Int[Tensor, "texts"],
    domains: Sequence[str],
    layers: Sequence[int] = (),
) -> Figure:
    """Layers by experts, one panel a domain: by how much the mean loss of a domain's texts rises without the expert.

    `damage` is the rise in nats a token of each text, itself paired: the same text with and without. A number stands
    where its 95% interval lies above 0; all others are left white. `layers` as elsewhere.
    """
    count, experts, _ = damage.shape
    numbers, (mean, half) = list(layers) or list(range(count)), by_group(damage, domain)
    many = domain.bincount().tolist()
    above = mean - half > 0
    sure, cells, seen = int(above.sum()), mean.numel(), mean * above
    most = (seen if sure else mean).argmax()
    layer, expert, worst = (int(index) for index in torch.unravel_index(most, mean.shape))
    title = f"In {sure} of {cells} cases the loss rises with an interval above 0 (by chance: {0.025 * cells:.0f}); "
    title += f"most for “{domains[worst]}” without expert {expert} of layer {numbers[layer]}: "
    title += f"{float(mean[layer, expert, worst]):.2g} ± {rounded(float(half[layer, expert, worst]))} nats a token"
    columns = min(3, len(domains))
    rows = math.ceil(len(domains) / columns)
    high = min(0.24 * count, 4.5)
    figure = new_figure(title, 1.9 + 2.3 * columns, max(2.4, 0.9 + rows * (0.5 + max(0.6, high))))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[len(domains) :]:
        ax.remove()
    top = max(float(seen.max()), 1e-6)
    for number, ax in enumerate(grid[: len(domains)]):
        values = seen[:, :, number]
        pairs = zip(values.tolist(), above[:, :, number].tolist(), strict=True)
        texts = [[short(value, sure) for value, sure in zip(*line, strict=True)] for line in pairs]
        image = heatmap(ax, values, texts if experts <= 8 else (), vmin=0, vmax=top)
        below = number + columns >= len(domains)
        ax.set(
            title=f"{domains[number]} (n\u00a0=\u00a0{many[number]})",
            xlabel="expert" if below else "",
            ylabel="" if number % columns else "layer",
        )
        label_axis(ax.xaxis, range(experts) if below else [""], 2.1)
        label_axis(ax.yaxis, [""] if number % columns else numbers, high)
    plain = ScalarFormatter(useOffset=False)
    colour_bar(figure, image, "rise of the loss\n(nats a token)", shrink=0.8, format=plain)
    figure.alt = (
        f"{title}. A table of layers by experts for each of {len(domains)} domains, dark where the loss rises, "
    )
    figure.alt += "white where that is not sure."
    return figure


def short(value: float, sure: bool) -> str:
    """A value in two decimals without the leading zero, or that it is smaller; nothing where it is not sure."""
    return "" if not sure else f"{value:.2f}".removeprefix("0") if value >= 0.005 else "<.01"
