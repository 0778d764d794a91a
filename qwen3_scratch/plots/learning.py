"""How a model learns: what counts in its loss, how its loss falls, and how evenly its experts are used."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from .boxes import draw_arrow
from .canvas import (
    DARK,
    GREY,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    label_axis,
    line_panels,
    new_figure,
    percent,
    small_multiples,
    styled,
)

__all__ = [
    "balance_bars",
    "balance_sweep",
    "load_curves",
    "loss_curve",
    "score_curves",
    "step_downhill",
    "target_losses",
]


def smooth(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours, over 4 % of them."""
    reach = len(values) // 50
    near = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in near]


@styled
def loss_curve(history: Sequence[Mapping[str, float | int]]) -> Figure:
    """A training record: each entry's `loss` (nats per target) and `balance` pale, their mean over 4 % of them dark.

    The mean begins where the first, steep values have left it: until then it would run far above its neighbours.
    """
    steps = [entry["step"] for entry in history]
    loss, balance = ([float(entry[name]) for entry in history] for name in ("loss", "balance"))
    title = f"The loss goes from {loss[0]:.2f} to {smooth(loss)[-1]:.2f} nats in {steps[-1]:,} steps"
    figure = new_figure(title, 7.0, 3.4)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    whole = 2 * (len(steps) // 50)  # twice a mean's reach
    for ax, values, label in zip(axes, (loss, balance), ("loss (nats per target)", "balance loss"), strict=True):
        ax.plot(steps, values, color=PALE, lw=0.8, label="as recorded")
        marker = "o" if len(steps) < 3 else None
        ax.plot(steps[whole:], smooth(values)[whole:], color=DARK, lw=1.5, marker=marker, ms=3, label="smoothed")
        ax.set_ylabel(label)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].legend(frameon=False, loc="upper right")
    axes[1].set_xlabel("step")
    figure.align_ylabels(axes)
    return figure


@styled
def score_curves(history: Sequence[Mapping[str, float | int]]) -> Figure:
    """How a training record's scores grow, a panel for each domain: answered with thinking, and directly.

    Entries that hold scores name them `domain/thinking` and `domain/direct`: shares of answers that are right.
    """
    scored = [entry for entry in history if any("/" in name for name in entry)]
    steps = [entry["step"] for entry in scored]
    domains = list(dict.fromkeys(name.partition("/")[0] for entry in scored for name in entry if "/" in name))
    half: dict[str, int | float] = {}
    for domain in domains:
        reached = [entry["step"] for entry in scored if entry.get(f"{domain}/thinking", 0) >= 0.5]
        half |= {domain: reached[0]} if reached else {}
    title = f"With thinking, half right is reached in {len(half)} of {len(domains)} domains"
    if half:
        last = max(half, key=half.__getitem__)
        title += f", last in “{last}”, by step {half[last]:,}"
    height = 1.0 + 1.25 * (1 + (len(domains) - 1) // 4)
    figure = new_figure(title, max(5.2, 1.0 + 1.95 * min(len(domains), 4)), max(2.3, height))
    for domain, (ax, first, _) in zip(domains, small_multiples(figure, len(domains)), strict=True):
        ways = {way: [entry.get(f"{domain}/{way}", float("nan")) for entry in scored] for way in ("thinking", "direct")}
        draw_lines(ax, steps, ways, lw=1.4, marker="o" if len(steps) < 3 else None, ms=3)
        ax.set(title=domain, ylim=(-0.04, 1.04), yticks=(0, 0.5, 1), xticks=(0, steps[-1]))
        ax.set_xticklabels(("0", f"{steps[-1]:,}"), fontsize=SMALL)
        ax.get_xticklabels()[1].set_horizontalalignment("right")
        ax.yaxis.set_major_formatter(percent)
        if not first:
            ax.set_yticklabels(())
    figure.supxlabel("step", fontsize=SMALL + 1)
    figure.supylabel("answers right", fontsize=SMALL + 1)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    return figure


@styled
def step_downhill(loss: Callable[[Tensor], Tensor], start: int | float, rate: int | float, name: str) -> Figure:
    """One step against the slope of a loss of one number: the curve, the slope at `start`, and where the step ends.

    The number moves by `rate` times the slope, against its sign; `loss` takes numbers of any shape.
    """
    here = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    before = loss(here)
    (slope,) = (each.item() for each in torch.autograd.grad(before, here))
    end = start - rate * slope
    first, last = before.item(), loss(torch.tensor(end, dtype=torch.float64)).item()
    title = f"At rate {rate:g}, a step against the slope of {slope:+.2f} takes the loss from {first:.2f} to {last:.2f}"
    title = title.replace("-", "−")
    figure = new_figure(title, 7.2, 2.8)
    ax, reach = figure.subplots(), 2.5 * max(abs(end - start), 0.1)
    places = torch.linspace(min(start, end) - reach, max(start, end) + reach, 101, dtype=torch.float64)
    ax.plot(places.tolist(), loss(places).tolist(), color=DARK, lw=1.6, label="loss")
    near = [start - 0.8 * reach, start + 0.8 * reach]
    ax.plot(near, [first + slope * (at - start) for at in near], "--", color=MIDDLE, lw=1.4, label="its slope here")
    ax.plot([start], [first], "o", color="black", ms=6, label="before the step")
    ax.plot([end], [last], "D", mfc="white", mec="black", ms=6, label="after it")
    ax.vlines((start, end), 0, (first, last), color=GREY, lw=0.6, ls=":")
    draw_arrow(ax, (start, first), (end, first))
    ax.set(xlabel=name, ylabel="nats", ylim=(0, None), xlim=(float(places[0]), float(places[-1])))
    figure.legend(frameon=False, loc="outside right center")
    figure.alt = f"The curve of a loss, its tangent at {start:.2f} and a step to {end:.2f}. {title}."
    return figure


@styled
def target_losses(
    nats: Float[Tensor, "tokens"], counts: Float[Tensor, "tokens"], labels: Sequence[str], chance: float
) -> Figure:
    """What each token of a text costs as a target, in nats, with how much it counts in the loss; long texts break.

    `counts` is 0 for a token that does not count; behind the others stands a column, also where they cost nothing. The
    dashed line is `chance`, the cost of knowing nothing. The title names the dearest of those that count fully.
    """
    nats, counts = nats.detach().float().cpu(), counts.float().cpu()
    full = counts == counts.max()
    dearest = int(nats.where(full, torch.tensor(-1.0)).argmax())
    others = full.clone()
    others[dearest] = False
    title = f"“{labels[dearest]}” costs {nats[dearest]:.2f} nats, most of what counts fully"
    title += f"; the rest costs {nats[others].mean():.2f} on average" if others.any() else ""
    figure, panels = line_panels(title, len(labels), 46, 0.17, 1.3)
    little, never = ~full & (counts > 0), counts == 0
    columns: tuple[tuple[Tensor, dict[str, Any]], ...] = (
        (full, {"color": "#e6e6e6", "label": "counts fully"}),
        (little, {"color": "white", "hatch": "/////", "edgecolor": "#b0b0b0", "lw": 0, "label": "counts a little"}),
    )
    high = 1.15 * max(chance, nats.max().item())
    for ax, part in panels:
        places = torch.arange(part.stop - part.start)
        for chosen, look in columns:
            ax.bar(places[chosen[part]].tolist(), high, 1.0, zorder=0, **look)
        for chosen, colour, name in ((full, DARK, ""), (little, MIDDLE, ""), (never, PALE, "does not count")):
            here = chosen[part]
            bars: dict[str, Any] = {"color": colour, "edgecolor": DARK, "lw": 0.4, "label": name}
            ax.bar(places[here].tolist(), nats[part][here].tolist(), 0.8, **bars)
        ax.axhline(chance, color="black", lw=0.9, ls="--", label="chance")
        ax.set(xlim=(-0.7, panels[0][1].stop - 0.3), ylim=(0, high), ylabel="nats")
        label_axis(ax.xaxis, labels[part], 0.16 * (part.stop - part.start))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=2 if len(labels) < 20 else 4)
    figure.alt = f"Each token's cost as a bar; behind what counts in the loss a column, hatched for a little. {title}."
    return figure


@styled
def balance_bars(share: Float[Tensor, "experts"], probability: Float[Tensor, "experts"]) -> Figure:
    """The two factors of the load-balancing loss beside each other: choices per token, and mean probability.

    Both are drawn as shares of all, so that even use is one line for both.
    """
    share, probability = share.detach().float().cpu(), probability.detach().float().cpu()
    experts, top_k = len(share), share.sum().item()
    loss = (experts * (share * probability).sum()).item()
    figure = new_figure(
        f"A balance loss of {loss:.2f}: even use gives {top_k:.3g}, the same experts for all up to {experts}",
        7.0,
        2.7,
    )
    ax, places = figure.subplots(), torch.arange(experts)
    ax.bar((places - 0.2).tolist(), (share / top_k).tolist(), 0.4, color=DARK, label="share of the choices, f / top_k")
    pale: dict[str, Any] = {"color": PALE, "edgecolor": DARK, "hatch": "//", "lw": 0.5}
    ax.bar((places + 0.2).tolist(), probability.tolist(), 0.4, label="mean probability, P", **pale)
    ax.axhline(1 / experts, color="black", lw=0.9, ls="--", label="even use")
    ax.set(xlabel="expert", ylabel="share", xlim=(-0.7, experts - 0.3))
    label_axis(ax.xaxis, range(experts), 6.0)
    ax.yaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


@styled
def load_curves(steps: Sequence[int], shares: Mapping[str, Float[Tensor, "checks layers experts"]]) -> Figure:
    """Each expert's share of a layer's choices over the steps: a row for each layer, a column for each run.

    Dark is the expert with the most at the end, dotted the one with the least; the dashed line is an even share. An
    expert with less than a tenth of an even share counts as idle.
    """
    layers, experts = next(iter(shares.values())).shape[1:]
    unused = [f"{int((found[-1] < 0.1 / experts).sum())} {name}" for name, found in shares.items()]
    most = [f"{found[-1].max():.0%}" for found in shares.values()]
    title = f"Of {layers * experts} experts end idle: {', '.join(unused)}; the busiest gets {' and '.join(most)}"
    figure = new_figure(f"{title} of its layer's choices", 7.8, 0.9 + 1.4 * layers)
    high = 1.06 * max(found.max().item() for found in shares.values())
    axes = figure.subplots(layers, len(shares), sharex=True, sharey=True, squeeze=False)
    for column, (name, found) in enumerate(shares.items()):
        for layer, ax in enumerate(axes[:, column]):
            end = found[-1, layer]
            first, last = int(end.argmax()), int(end.argmin())
            marker = "o" if len(steps) < 3 else None
            for expert, line in enumerate(found[:, layer].T.tolist()):
                ax.plot(steps, line, color=PALE if expert not in (first, last) else "none", lw=0.9, marker=marker, ms=2)
            ax.plot(steps, found[:, layer, first].tolist(), color=DARK, lw=1.8, label="most used at the end")
            ax.plot(steps, found[:, layer, last].tolist(), ":", color="black", lw=1.8, label="least used at the end")
            ax.axhline(1 / experts, color="black", lw=0.8, ls="--", label="even share")
            idle = int((end < 0.1 / experts).sum())
            ax.set(title=f"layer {layer}, {name}: {idle} of {experts} idle", ylim=(0, high))
            ax.yaxis.set_major_formatter(percent)
            if layer == layers - 1:
                ax.set_xlabel("step")
    figure.supylabel("share of the layer's choices", fontsize=SMALL + 1)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    return figure


@styled
def balance_sweep(
    weights: Sequence[float],
    apart: Float[Tensor, "weights seeds"],
    halves: Float[Tensor, "weights"],
    idle: Int[Tensor, "weights seeds"],
    experts: int,
    highlight: float,
) -> Figure:
    """What a weight of the balancing loss does, the first being none: a point each seed, a diamond their mean.

    Above, by how many nats a seed's loss is `apart` from that of the same seed under the first weight, with the half
    of an interval for the mean; below, how many of all `experts` are `idle`. The title says it of one weight.
    """
    at = list(weights).index(highlight)
    mean, half = apart[at].mean().item(), halves[at].item()
    unused = idle.float().mean(1)
    loss = f"the loss {'falls' if mean < 0 else 'rises'} by {abs(mean):.3f} ± {half:.3f} nats"
    if abs(mean) <= half:  # of the two as they are printed, so that a reader gets the same sum
        loss = f"the loss differs by at most {round(abs(mean), 3) + round(half, 3):.3f} nats (95%)"
    title = f"With a weight of {highlight:g}, {loss}; idle are {unused[at]:.1f} of {experts} experts in place of"
    figure = new_figure(f"{title} {unused[0]:.1f}", 7.4, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.yaxis.set_major_locator(MaxNLocator(5))
    places = torch.arange(len(weights))
    spread = torch.linspace(-0.18, 0.18, apart.shape[1])
    for ax, values in ((upper, apart), (lower, idle.float())):
        for place, row in zip(places.tolist(), values, strict=True):
            ax.plot((place + spread).tolist(), row.tolist(), "o", ms=3.5, mfc="none", mec=MIDDLE, label="one seed")
        ax.plot(places.tolist(), values.mean(1).tolist(), "D", ms=5, color=DARK, label="their mean")
    bars: dict[str, Any] = {"fmt": "none", "ecolor": DARK, "elinewidth": 1.4, "capsize": 4}
    upper.errorbar(places[1:].tolist(), apart[1:].mean(1).tolist(), halves[1:].tolist(), **bars)
    upper.axhline(0, color="black", lw=0.8, ls="--")
    upper.set_ylabel("nats per target,\napart from 0")
    lower.set(ylabel=f"idle experts\nof {experts}", xlabel="weight of the balancing loss", ylim=(-0.05 * experts, None))
    lower.set_xticks(places.tolist(), [f"{weight:g}" for weight in weights])
    lower.set_xlim(-0.5, len(weights) - 0.5)
    handles, names = upper.get_legend_handles_labels()
    figure.legend(handles[-2:], names[-2:], frameon=False, loc="outside lower center", ncols=2)
    return figure
