"""Which token goes to which expert: probabilities, route maps, loads; and the gate of an expert."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from matplotlib.patches import Rectangle
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..errors import Error
from ..generation import generate
from ..model import Route
from ..tracing import Trace, trace
from .canvas import (  # fmt: skip
    DARK,
    MIDDLE,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    line_panels,
    new_figure,
    percent,
    styled,
    token_labels,
)

__all__ = [
    "answer_routes",
    "expert_load",
    "route_map",
    "router_probabilities",
    "routes",
    "silu_gate",
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
def expert_load(counts: Float[Tensor, "layers experts"], layers: Sequence[int]) -> Figure:
    """Layers by experts: the share of a layer's choices that each expert got, of how often each was chosen.

    `layers` are the numbers of the layers.
    """
    experts, share = counts.shape[1], counts / counts.sum(-1, keepdim=True)
    row, best = divmod(int(share.argmax()), experts)
    title = f"Layer {layers[row]} sends {share[row, best]:.0%} of its choices to expert {best}"
    title += f"; an even share is {1 / experts:.1%} (n\u00a0=\u00a0{int(counts[row].sum()):,} a layer)"
    width, height = min(9.0, 4.5 + 0.3 * experts), min(8.0, 0.3 * len(counts))
    figure = new_figure(title, width, 1.2 + max(0.6, height))
    ax = figure.subplots()
    image = heatmap(ax, share, None if experts <= 16 else (), vmin=0)
    label_axis(ax.xaxis, range(experts), width * 0.7)
    label_axis(ax.yaxis, layers, height)
    ax.set(xlabel="expert", ylabel="layer")
    colour_bar(figure, image, "share of the choices")
    return figure


@styled
def router_probabilities(
    probabilities: Float[Tensor, "tokens experts"],
    chosen: Int[Tensor, "tokens top_k"],
    labels: Sequence[str],
    marked: Sequence[int] = (),
    kind: str = "marked tokens",
) -> Figure:
    """Experts by tokens of one layer: the router's probabilities; the chosen ones framed, with their percents.

    Triangles point at the `marked` columns, which are a `kind` of tokens; the title says where most of them go first.
    """
    count, experts = probabilities.shape
    sent = chosen.flatten().bincount(minlength=experts)
    token, best = divmod(int(probabilities.argmax()), experts)
    title = f"Expert {int(sent.argmax())} is chosen by {int(sent.max())} of {count} tokens, an even share is "
    title += f"{chosen.numel() / experts:.3g}; the router is surest of “{labels[token]}”: "
    title += f"{float(probabilities[token, best]):.0%} for expert {best}"
    if marked:
        first = chosen[list(marked), 0].bincount(minlength=experts)
        theirs = int(first.argmax())
        also = int((chosen[:, 0] == theirs).sum()) - int(first.max())
        title = f"{int(first.max())} of {len(marked)} {kind} go first to expert {theirs}, "
        title += f"and so do {also} of {count - len(marked)} other tokens"
    high = min(max(0.2 * experts, 1.6), 9.0)
    figure, panels = line_panels(title, count, 36, 0.27, high)
    for ax, part in panels:
        columns = [at - part.start for at in marked if part.start <= at < part.stop]
        if columns:
            ax.plot(columns, [-0.75] * len(columns), "v", color="black", ms=5, clip_on=False)
        texts = [[""] * (part.stop - part.start) for _ in range(experts)]
        for column, experts_of in enumerate(chosen[part].tolist()):
            for expert in experts_of:
                texts[expert][column] = f"{100 * float(probabilities[part][column, expert]):.0f}"
                ax.add_patch(Rectangle((column - 0.46, expert - 0.46), 0.92, 0.92, fill=False, ec="black", lw=0.9))
        image = heatmap(ax, probabilities[part].T, texts if experts <= 32 else (), vmin=0, vmax=1)
        ax.set(xlim=(-0.5, panels[0][1].stop - 0.5), ylabel="expert")
        label_axis(ax.xaxis, labels[part], 0.26 * (part.stop - part.start))
        for text in ax.get_xticklabels():
            text.set_rotation(90 if len(text.get_text()) > 2 else 0)  # a character after a blank is upright, too
        label_axis(ax.yaxis, range(experts), high)
    colour_bar(figure, image, "router's probability")
    figure.alt = (
        f"A column for each of {count} tokens, a row for each of {experts} experts, shaded by probability; "
        f"the {chosen.shape[1]} chosen of each column are framed. Expert {int(sent.argmax())} has most frames."
        + f" Triangles mark the columns of {len(marked)} {kind}."
        * bool(marked)
    )
    return figure


@styled
def silu_gate(gate: Float[Tensor, "tokens intermediate"]) -> Figure:
    """silu(x) = x sigmoid(x), and below it where the gates of an expert lie: how often which x occurs."""
    gate = gate.detach().float().cpu().flatten()
    title = f"{float((gate < 0).float().mean()):.0%} of the gates are negative; silu turns them into −0.28 to 0"
    figure = new_figure(title, 6.5, 3.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    edge = max(4.0, float(gate.abs().quantile(0.999)))
    beyond = int((gate.abs() > edge).sum())
    x = torch.linspace(-edge, edge, 201)
    above.plot(x.tolist(), F.silu(x).tolist(), color=DARK)
    above.axhline(0, color="#999999", lw=0.6)
    above.set(ylabel="what silu makes of it")
    width = 2 * edge / 40
    counts = ((gate + edge) / width).long().clamp(0, 39).bincount(minlength=40) / len(gate)
    below.bar((x[:-1:5] + width / 2).tolist(), counts.tolist(), width, color=MIDDLE, edgecolor=DARK, lw=0.4)
    below.set(ylabel="share of gates")
    below.set_xlabel(
        "gate, before silu" + f" ({beyond} of {len(gate):,} lie farther out: in the last bars)" * bool(beyond)
    )
    below.yaxis.set_major_formatter(percent)
    figure.alt = (
        "silu gives large numbers back, nearly, and dips a little below 0 for negative ones; under it a histogram of "
        "an expert's gates, which lie on both sides of 0."
    )
    return figure
