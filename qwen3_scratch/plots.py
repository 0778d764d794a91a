"""Figures drawn from a trace or from tensors. Each function returns a matplotlib Figure and never calls show().

Titles state what the numbers say, shades run from light (little) to dark (much) and read the same in grey, and
token labels make spaces and line breaks visible. Nothing here touches pyplot or matplotlib's global settings.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.colors import PowerNorm
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from .canvas import (
    DARK,
    LIT,
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
from .checkpoint import Checkpoint
from .errors import Error
from .generate import generate
from .model import Route
from .tokenizer import Tokenizer
from .trace import Trace, trace

# Where in the model a notebook stands. All sizes in inches.
BOXES = (  # part, left, bottom, width, height, text, notebook
    ("text", 0.15, 2.4, 1.15, 0.4, "text", ""), ("tokens", 0.15, 1.45, 1.15, 0.5, "chat, tokens", "02"),
    ("embedding", 0.15, 0.4, 1.15, 0.5, "embedding", "03"), ("rms_norm", 1.92, 1.1, 0.82, 0.5, "rms_norm", "03"),
    ("qkv", 1.92, 1.95, 0.6, 0.5, "q, k, v", "05"), ("qk_norm", 2.62, 1.95, 0.74, 0.5, "QK-norm", "05"),
    ("rope", 3.46, 1.95, 0.52, 0.5, "rope", "04"), ("attention", 4.08, 1.95, 0.94, 0.5, "attention", "05"),
    ("cache", 3.66, 1.1, 0.86, 0.5, "k, v cache", "08"), ("rms_norm", 5.24, 1.1, 0.82, 0.5, "rms_norm", "03"),
    ("router", 5.24, 1.95, 0.7, 0.5, "router", "06"), ("experts", 6.2, 1.95, 0.88, 0.5, "experts", "06"),
    ("rms_norm", 7.7, 0.4, 1.15, 0.5, "rms_norm", "03"), ("head", 7.7, 1.1, 1.15, 0.5, "head", "07"),
    ("sampling", 7.7, 1.8, 1.15, 0.5, "sampling", "08"), ("text", 7.7, 2.5, 1.15, 0.36, "text", ""),
)  # fmt: skip
STREAM, SUMS, LAYER = 0.65, (4.78, 6.64), (1.72, 0.28, 5.6, 2.56)
ARROWS = (  # from x, y to x, y
    (0.725, 2.4, 0.725, 1.95), (0.725, 1.45, 0.725, 0.9), (1.3, STREAM, 4.69, STREAM), (4.87, STREAM, 6.55, STREAM),
    (6.73, STREAM, 7.7, STREAM), (2.22, STREAM, 2.22, 1.1), (2.22, 1.6, 2.22, 1.95), (2.52, 2.2, 2.62, 2.2),
    (3.36, 2.2, 3.46, 2.2), (3.98, 2.2, 4.08, 2.2), (4.3, 1.6, 4.3, 1.95), (4.78, 1.95, 4.78, 0.74),
    (5.59, STREAM, 5.59, 1.1), (5.59, 1.6, 5.59, 1.95), (5.94, 2.2, 6.2, 2.2), (6.64, 1.95, 6.64, 0.74),
    (8.275, 0.9, 8.275, 1.1), (8.275, 1.6, 8.275, 1.8), (8.275, 2.3, 8.275, 2.5), (0.725, 3.08, 0.725, 2.8),
)  # fmt: skip
PARTS = ("decoder_layer", "residual_stream", *dict.fromkeys(box[0] for box in BOXES))


@styled
def model_map(highlight: str | Collection[str] = (), title: str = "") -> Figure:
    """The way from text to text through the model, each box with its notebook's number, and the given PARTS lit."""
    lit = {highlight} if isinstance(highlight, str) else set(highlight)
    if lit - set(PARTS):
        raise Error(f"highlight: {sorted(lit - set(PARTS))[0]!r} found, expected parts of {', '.join(PARTS)}")
    where = f"Where this notebook stands: {', '.join(part for part in PARTS if part in lit)}"
    title = title or (where if lit else "From text to text: what the notebooks build")
    figure = Figure((9, 3.6))
    figure.suptitle(textwrap.shorten(title, 95, placeholder=" …"), x=0.15 / 9, y=0.975, ha="left")
    ax = figure.add_axes((0, 0, 1, 3.2 / 3.6), xlim=(0, 9), ylim=(0, 3.2))
    ax.set_axis_off()

    def box(part, left, bottom, width, height, shade, plain, **options):
        colours = {"fc": shade, "ec": "black", "lw": 2} if part in lit else {"fc": plain, "ec": "#777777", "lw": 0.8}
        corners = "round,pad=0,rounding_size=0.07"
        ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=corners, **colours, **options))

    def write(x, y, text, part="", **options):
        ax.text(x, y, text, **{"ha": "center", "va": "center", "weight": "bold" if part in lit else None} | options)

    box("decoder_layer", *LAYER, "#fff1d0", "#f4f4f4", zorder=0)
    write(1.84, 2.66, "decoder_layer, once for each layer", "decoder_layer", ha="left")
    write(7.18, 2.66, "07", fontsize=SMALL)
    write(3.4, 0.46, "residual stream", "residual_stream", fontsize=SMALL)
    ax.plot((8.275, 8.275, 0.725), (2.86, 3.08, 3.08), color="#555555", lw=0.9)
    write(4.5, 3.08, "the new token is read next", fontsize=SMALL, bbox={"fc": "white", "ec": "none"})
    on = "residual_stream" in lit
    for *start, x, y in ARROWS:
        line = {"color": "black", "lw": 2.2} if on and start[1] == y == STREAM else {"color": "#555555", "lw": 0.9}
        ax.add_patch(FancyArrowPatch(start, (x, y), arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, **line))
    for x in SUMS:
        ax.plot(x, STREAM, "o", ms=13, mfc=LIT if on else "white", mec="black", mew=0.8)
        write(x, STREAM - 0.01, "+", fontsize=11)
    for part, left, bottom, width, height, text, notebook in BOXES:
        box(part, left, bottom, width, height, LIT, "white", zorder=2)
        write(left + width / 2, bottom + height * (0.66 if notebook else 0.48), text, part)
        write(left + width / 2, bottom + height * 0.26, notebook, fontsize=SMALL, color="#333333")
    return figure


def routes(source: Trace | Mapping[int, Route]) -> dict[int, Route]:
    """Layer number -> the Route of all tokens that a trace saw, pass after pass. Raises Error where there is none."""
    calls = [(c.layer, c.output) for c in source["moe_route"]] if isinstance(source, Trace) else source.items()
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


@styled
def next_token_bars(logits: Float[Tensor, "vocab"], tokenizer: Tokenizer | None, top: int = 8) -> Figure:
    """The most likely next tokens and their probabilities."""
    probabilities, ids = logits.float().softmax(-1).topk(min(top, len(logits)))
    values, labels = probabilities.tolist(), token_labels(tokenizer, ids.tolist())
    rest = max(0.0, 1 - sum(values))
    figure = new_figure(
        f"{values[0]:.0%} of the probability is on “{labels[0]}”, {rest:.0%} on tokens not shown", 6.5, 2.9
    )
    ax = figure.subplots()
    bars = ax.barh(range(len(ids)), values, color=[MIDDLE] + [PALE] * (len(ids) - 1), edgecolor=DARK, lw=0.6)
    texts = [f"{value:.1%}" if value >= 0.0005 else "<0.1%" for value in values]
    ax.bar_label(bars, texts, padding=3, fontsize=SMALL)
    ax.set(xlim=(0, 1.12 * values[0]), ylim=(len(ids) - 0.4, -0.6), xlabel="probability")
    ax.set_yticks(range(len(ids)), labels, parse_math=False)
    ax.xaxis.set_major_formatter(percent)
    return figure


@styled
def logit_lens(
    guesses: Sequence[Sequence[str]], chance: Float[Tensor, "depths tokens"], labels: Sequence[str]
) -> Figure:
    """Tokens by depths: the likeliest next token by the stream at each depth, embedding first, shaded by its chance.

    Bold is what the last layer says too. Long texts break into lines.
    """
    agree = [[guess == last for guess, last in zip(line, guesses[-1], strict=True)] for line in guesses]
    start, early = (sum(agree[depth]) / len(labels) for depth in (0, max(0, len(guesses) - 2)))
    title = f"One layer before the end {early:.0%} of the positions make the final guess, in the embedding {start:.0%}"
    high, depths = (
        min(0.24 * len(guesses), 9),
        ["embedding", *(f"layer {number}" for number in range(len(guesses) - 1))],
    )
    figure, panels = line_panels(title, len(labels), 13, 0.62, high)
    for ax, part in panels:
        image = heatmap(ax, chance[:, part], [line[part] for line in guesses], vmin=0, vmax=1, origin="lower")
        for text, same in zip(ax.texts, [same for line in agree for same in line[part]], strict=True):
            text.set_weight("bold" if same else "normal")
        ax.set_xlim(-0.5, panels[0][1].stop - 0.5)
        label_axis(ax.xaxis, labels[part], 0.6 * (part.stop - part.start))
        label_axis(ax.yaxis, depths, high)
    colour_bar(figure, image, "probability of the guess")
    return figure


@styled
def residual_norms(stream: Float[Tensor, "depths tokens"], **added: Float[Tensor, "layers tokens"]) -> Figure:
    """The length of the residual stream at each depth and of what each layer's steps add to it; depths are layers + 1.

    Lines are medians over the tokens; the band holds the middle half of them.
    """
    low, middle, high = stream.float().cpu().quantile(torch.tensor([0.25, 0.5, 0.75]), dim=-1).tolist()
    title = f"From the embedding to the last layer the stream grows {middle[-1] / max(middle[0], 1e-9):.1f}-fold"
    figure = new_figure(title, 7.0, 2.8)
    ax, depths = figure.subplots(), range(len(stream))
    ax.fill_between(depths, low, high, color=PALE, lw=0)
    ax.plot(depths, middle, "o-", color=DARK, ms=4, label="stream")
    for (name, values), form in zip(added.items(), ("s--", "^:", "v-.", "x-"), strict=False):
        ax.plot(
            depths[1:], values.float().median(-1).values.tolist(), form, color=MIDDLE, ms=4, label=f"added by {name}"
        )
    label_axis(ax.xaxis, ["embedding", *(f"layer {number}" for number in depths[:-1])], 5.0)
    ax.set(ylabel="length (Euclidean norm)", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    return figure


@styled
def loss_curve(history: Sequence[Mapping[str, float | int]]) -> Figure:
    """A training record: each entry's `loss` (nats per target) and `balance` pale, their mean over 4 % of them dark."""
    steps, reach = [entry["step"] for entry in history], len(history) // 50

    def smooth(values: list[float]) -> list[float]:
        near = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
        return [sum(window) / len(window) for window in near]

    loss, balance = ([float(entry[name]) for entry in history] for name in ("loss", "balance"))
    title = f"The loss goes from {smooth(loss)[0]:.2f} to {smooth(loss)[-1]:.2f} nats in {steps[-1]:,} steps"
    figure = new_figure(title, 7.0, 3.4)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for ax, values, label in zip(axes, (loss, balance), ("loss (nats per target)", "balance loss"), strict=True):
        ax.plot(steps, values, color=PALE, lw=0.8)
        ax.plot(steps, smooth(values), color=DARK, lw=1.5, marker="o" if len(steps) < 3 else None, ms=3)
        ax.set_ylabel(label)
    axes[0].set_ylim(0, None)
    axes[1].set_xlabel("step")
    figure.align_ylabels(axes)
    return figure
