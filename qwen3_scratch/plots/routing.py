"""Which token goes to which expert, and what that costs: probabilities, route maps, flows, loads, what top-k cuts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..errors import Error
from ..generation import generate
from ..model import Route
from ..tracing import Trace, trace
from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    line_panels,
    new_figure,
    percent,
    small_multiples,
    styled,
    token_labels,
)

__all__ = [
    "answer_routes",
    "domain_footprint",
    "expert_load",
    "route_flow",
    "route_map",
    "router_probabilities",
    "routes",
    "silu_gate",
    "top_k_error",
]


def routes(source: Trace | Mapping[int, Route]) -> dict[int, Route]:
    """Layer number -> the Route of all tokens that a trace saw, pass after pass. Raises Error where there is none."""
    calls: Iterable[tuple[Any, Route]] = (  # any: what is called outside the layers has no number
        [(c.layer, c.output) for c in source["moe_route"]] if isinstance(source, Trace) else source.items()
    )
    found: dict[int, list[Route]] = {}
    for layer, route in calls:
        found.setdefault(layer, []).append(route)
    if not found:
        raise Error("routes: no call of moe_route found, expected a pass of a model with experts: this one is dense")
    return {layer: Route(*map(torch.cat, zip(*passes, strict=True))) for layer, passes in sorted(found.items())}


@styled
def route_map(source: Trace | Mapping[int, Route], labels: Sequence[str], written: int | None = None) -> Figure:
    """Tokens from left to right, layers from top to bottom: the numbers of the chosen experts, shaded by their weights.

    Long texts break into lines. A bar stands before token number `written`, the first that the model wrote itself.
    """
    found = routes(source)
    first = torch.stack([route.experts[:, 0] for route in found.values()], dim=1)  # [tokens, layers]
    if len(labels) != len(first):
        raise Error(f"route_map: {len(labels)} labels found, expected {len(first)}, one for each token of the trace")
    top = min(next(iter(found.values())).experts.shape[1], max(1, 64 // len(found)))  # choices that there is room for
    experts = torch.cat([route.experts[:, :top].T for route in found.values()])  # [layers * top, tokens]
    weights = torch.cat([route.weights[:, :top].T for route in found.values()])
    high = min(0.19 * len(experts), 12)
    count, paths = len(labels), len(first.unique(dim=0))
    title = f"{paths} distinct path{'s' * (paths > 1)} for {count} token{'s' * (count > 1)}"
    figure, panels = line_panels(f"{title} (first choices in {len(found)} layers)", count, 36, 0.21, high)
    for ax, part in panels:
        texts = experts[:, part].tolist() if len(experts) <= 100 else ()
        image = heatmap(ax, weights[:, part], texts, vmin=0, vmax=1)
        ends = -0.5, part.stop - part.start - 0.5
        ax.hlines([edge * top - 0.5 for edge in range(len(found) + 1)], *ends, color="#555555", lw=0.7, clip_on=False)
        if written is not None and part.start <= written < part.stop:
            ax.axvline(written - part.start - 0.5, color="black", lw=2.5)
        ax.set(xlim=(-0.5, panels[0][1].stop - 0.5), ylabel="layer")
        label_axis(ax.xaxis, labels[part], 0.2 * (part.stop - part.start))
        label_axis(ax.yaxis, found, high, (top - 1) / 2, top)
    colour_bar(figure, image, "weight of the expert" + f"\n(the first {top} choices of each layer)" * (top > 1))
    return figure


def answer_routes(checkpoint: Checkpoint, prompt: Any, **options: Any) -> Figure:
    """Answers a prompt and draws the route of every token that the model read or wrote. Options are `generate`'s."""
    with trace() as t:
        answer = generate(checkpoint, prompt, **options)
    seen = answer.prompt_ids + answer.token_ids[:-1]  # the last token was written, but never read
    return route_map(t, token_labels(checkpoint.tokenizer, seen), written=len(answer.prompt_ids))


@styled
def expert_load(source: Trace | Mapping[int, Route]) -> Figure:
    """Layers by experts: the share of a layer's choices that each expert got; beside it, how even that is."""
    found = routes(source)
    experts = next(iter(found.values())).logits.shape[1]
    counts = torch.stack([route.experts.flatten().bincount(minlength=experts) for route in found.values()])
    share = counts / counts.sum(-1, keepdim=True)
    row, best = divmod(int(share.argmax()), experts)
    title = f"Layer {list(found)[row]} sends {share[row, best]:.0%} of its choices to expert {best}"
    width, height = min(9.0, 4.5 + 0.4 * experts), min(8.0, 0.3 * len(found))
    figure = new_figure(f"{title}; an even share is {1 / experts:.1%}", width, 1.2 + max(0.6, height))
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    image = heatmap(left, share, None if experts <= 16 else (), vmin=0)
    label_axis(left.xaxis, range(experts), width * 0.5)
    label_axis(left.yaxis, found, height)
    left.set(xlabel="expert", ylabel="layer")
    entropy = torch.special.entr(share).sum(-1) / math.log(max(2, experts))
    right.barh(range(len(found)), entropy.tolist(), color=PALE, edgecolor=DARK, hatch="//", height=0.7)
    right.set(xlim=(0, 1), ylim=left.get_ylim(), xticks=(0, 0.5, 1), yticks=[], xlabel="evenness (entropy;\n1 is even)")
    colour_bar(figure, image, "share of the choices")
    return figure


@styled
def domain_footprint(
    counts: Int[Tensor, "layers domains experts"], domains: Sequence[str], layers: Sequence[int] = ()
) -> Figure:
    """Domain by expert, one panel a layer: the share of a domain's choices that each expert got.

    `layers` are the layers' numbers where they do not count from 0, as where some layers are dense.
    """
    count, _, experts = counts.shape
    numbers = list(layers) or list(range(count))
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    layer, domain, best = (int(index) for index in torch.unravel_index(share.argmax(), share.shape))
    title = f"Layer {numbers[layer]} sends {share.max():.0%} of its choices on “{domains[domain]}” to expert {best}"
    width, height = 2.4 + 1.75 * min(count, 4), 0.8 + math.ceil(count / 4) * (0.55 + 0.24 * len(domains))
    figure = new_figure(f"{title}; an even share is {1 / experts:.1%}", width, max(2.2, height))
    for row, (ax, first, last) in enumerate(small_multiples(figure, count)):
        image = heatmap(ax, share[row], None if experts <= 8 else (), vmin=0, vmax=float(share.max()))
        ax.set(title=f"layer {numbers[row]}", xlabel="expert" if last else "")
        label_axis(ax.xaxis, range(experts) if last else [""], 1.6)
        label_axis(ax.yaxis, domains if first else [""], 0.24 * len(domains))
    colour_bar(figure, image, "share of the choices")
    return figure


@styled
def router_probabilities(
    probabilities: Float[Tensor, "tokens experts"], chosen: Int[Tensor, "tokens top_k"], labels: Sequence[str]
) -> Figure:
    """Experts by tokens of one layer: the router's probabilities; the chosen ones framed, with their percents."""
    count, experts = probabilities.shape
    sent = chosen.flatten().bincount(minlength=experts)
    token, best = divmod(int(probabilities.argmax()), experts)
    title = f"Expert {int(sent.argmax())} is chosen by {int(sent.max())} of {count} tokens; the router is surest of"
    title += f" “{labels[token]}”: {float(probabilities[token, best]):.0%} for expert {best}"
    high = min(max(0.2 * experts, 1.6), 9.0)
    figure, panels = line_panels(title, count, 36, 0.27, high)
    for ax, part in panels:
        texts = [[""] * (part.stop - part.start) for _ in range(experts)]
        for column, experts_of in enumerate(chosen[part].tolist()):
            for expert in experts_of:
                texts[expert][column] = f"{100 * float(probabilities[part][column, expert]):.0f}"
                ax.add_patch(Rectangle((column - 0.46, expert - 0.46), 0.92, 0.92, fill=False, ec="black", lw=0.9))
        image = heatmap(ax, probabilities[part].T, texts if experts <= 32 else (), vmin=0, vmax=1)
        ax.set(xlim=(-0.5, panels[0][1].stop - 0.5), ylabel="expert")
        label_axis(ax.xaxis, labels[part], 0.26 * (part.stop - part.start))
        label_axis(ax.yaxis, range(experts), high)
    colour_bar(figure, image, "router's probability")
    return figure


@styled
def route_flow(route: Route, labels: Sequence[str]) -> Figure:
    """Tokens on the left, experts on the right, between them the routes of one layer: the thicker, the more weight.

    Experts that nobody chose are left out. The others stand where their tokens stand, so that few lines cross.
    """
    count, total = route.experts.shape[0], float(route.weights.float().sum())
    weight = torch.zeros(count, route.logits.shape[1]).scatter(1, route.experts.cpu(), route.weights.float().cpu())
    sent, received = (weight > 0).sum(0), weight.sum(0)
    centre = (weight * torch.arange(count)[:, None]).sum(0) / received.clamp(min=1e-9)
    order = sorted(
        (expert for expert in range(len(received)) if sent[expert]), key=lambda expert: float(centre[expert])
    )
    best = int(received.argmax())
    title = f"Expert {best} gets {float(received[best]) / total:.0%} of all weight"
    title += f", from {int(sent[best])} of {count} tokens"
    high = min(max(0.17 * max(count, len(order)), 1.0), 12.0)
    figure = new_figure(title, 6.4, 0.9 + high)
    left = figure.subplots()
    right = left.twinx()
    places = {expert: (rank + 0.5) * count / len(order) - 0.5 for rank, expert in enumerate(order)}
    for token, row in enumerate(weight.tolist()):
        for expert, share in ((expert, share) for expert, share in enumerate(row) if share):
            points = ((0, token), (0.5, token), (0.5, places[expert]), (1, places[expert]))
            path = Path(points, (Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4))
            strong = share >= 0.5  # only these with smooth edges, whose many shades fill a picture's file
            shade = {"ec": DARK if strong else MIDDLE, "aa": strong, "zorder": 2 if strong else 1}
            left.add_patch(PathPatch(path, fill=False, lw=0.3 + 4 * share, **shade))
    for ax in (left, right):
        ax.spines[:].set_visible(False)
        ax.set(xlim=(0, 1), xticks=())
    label_axis(left.yaxis, labels, high)
    texts = [f"expert {expert}: {int(sent[expert])} token{'s' * (int(sent[expert]) > 1)}" for expert in order]
    label_axis(right.yaxis, texts, high)
    left.set_ylim(count - 0.4, -0.6)
    right.set_ylim(*((edge + 0.5) * len(order) / count - 0.5 for edge in left.get_ylim()))
    left.set_xlabel("thickness: weight of the answer; dark: half of it or more")
    return figure


@styled
def silu_gate(gate: Float[Tensor, "tokens intermediate"]) -> Figure:
    """silu(x) = x sigmoid(x) beside relu, and below it where the gates of an expert lie: how often which x occurs."""
    gate = gate.detach().float().cpu().flatten()
    title = f"{float((gate < 0).float().mean()):.0%} of the gates are negative: silu leaves between −0.28 and 0 of them"
    figure = new_figure(title, 6.5, 3.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    edge = max(4.0, float(gate.abs().max()))
    x = torch.linspace(-edge, edge, 201)
    above.plot(x.tolist(), F.silu(x).tolist(), color=DARK, label="silu")
    above.plot(x.tolist(), x.relu().tolist(), ":", color="black", label="relu")
    above.axhline(0, color="#999999", lw=0.6)
    above.set(ylabel="what it becomes")
    above.legend(frameon=False)
    width = 2 * edge / 40
    counts = ((gate + edge) / width).long().clamp(0, 39).bincount(minlength=40) / len(gate)
    below.bar((x[:-1:5] + width / 2).tolist(), counts.tolist(), width, color=MIDDLE, edgecolor=DARK, lw=0.4)
    below.set(xlabel="gate, before silu", ylabel="share of gates")
    below.yaxis.set_major_formatter(percent)
    return figure


@styled
def top_k_error(
    kept: Float[Tensor, "layers experts"], renormalised: Float[Tensor, "layers experts"], top_k: int
) -> Figure:
    """How far the 1, 2, ... likeliest experts are from the mixture of all, by layer: with the router's probabilities
    as they are, and renormalised. Lines are means over the layers, bands reach from the lowest to the highest.
    """
    own, scaled = (float(errors[:, top_k - 1].mean()) for errors in (kept, renormalised))
    experts = kept.shape[1]
    title = f"Top-{top_k} of {experts} is {own:.0%} off the mixture of all experts, renormalised {scaled:.0%}"
    figure = new_figure(title, 6.5, 3.1)
    ax, ks = figure.subplots(), range(1, experts + 1)
    kinds = ((renormalised, "--", "renormalised to sum 1", "over the layers"), (kept, "-", "as they are", None))
    for errors, form, label, band in kinds:
        ax.fill_between(ks, errors.amin(0).tolist(), errors.amax(0).tolist(), color=PALE, lw=0, alpha=0.6, label=band)
        ax.plot(ks, errors.mean(0).tolist(), form, marker="o" if experts <= 16 else "", color=DARK, ms=4, label=label)
    ax.axvline(top_k, color="#777777", lw=0.8, ls=":")
    ax.text(top_k + 0.01 * experts, float(renormalised.max()), f"this model: {top_k}", fontsize=SMALL, va="top")
    label_axis(ax.xaxis, ks, 5.4, 1.0)
    ax.set(xlabel="experts that answer", ylabel="relative error", ylim=(0, None))
    ax.yaxis.set_major_formatter(percent)
    ax.legend(frameon=False, title="weights", alignment="left")
    return figure
