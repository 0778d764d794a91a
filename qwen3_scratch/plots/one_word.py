"""The first pictures: one word, followed from the question to the answer."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ..tokenizer import Tokenizer
from ..tracing import Trace
from .canvas import (  # fmt: skip
    DARK,
    GREY,
    MIDDLE,
    PALE,
    SHARES,
    SMALL,
    Figure,
    colour_bar,
    heatmap,
    label_axis,
    new_figure,
    percent,
    spoken,
    styled,
    token_labels,
)
from .routing import routes

__all__ = [
    "first_words",
    "right_with_notes",
    "word_experts",
    "word_heads",
    "word_vectors",
]


@styled
def word_vectors(
    vectors: Float[Tensor, "depths places hidden"],
    names: Sequence[str],
    others: Float[Tensor, "depths others hidden"] | None = None,
    shown: int = 24,
) -> Figure:
    """The first `shown` numbers of one word's vector at two places, each row to its own scale, and all cosines.

    Bars are the first of the places, dots the last. Likeness is the cosine of the whole vectors, at every depth;
    dashed is the mean cosine of the first and the last with `others`, the vectors of the other tokens.
    """
    wide = vectors.float().cpu()
    alike = F.cosine_similarity(wide[:, 0], wide[:, -1], dim=-1)
    title = "The word begins as the same numbers at both places; "
    steps = alike[:-1] - alike[1:]
    most = int(steps.argmax()) if len(steps) else 0
    parted = len(steps) > 0 and float(alike[-1]) < 0.99
    title += f"layer {most} parts them most" if parted else "no layer tells the two apart"
    depths = sorted({0, min(1, len(wide) - 1), len(wide) - 1})
    figure = new_figure(title, 8.8, 0.8 + 1.05 * len(depths))
    grid = figure.add_gridspec(len(depths), 2, width_ratios=(2.3, 1))
    for row, depth in enumerate(depths):
        ax = figure.add_subplot(grid[row, 0])
        first, last = (wide[depth, place, :shown].tolist() for place in (0, -1))
        ax.bar(range(len(first)), first, 0.72, color=PALE, ec=DARK, lw=0.6, label=names[0])
        ax.plot(range(len(last)), last, "o", ms=3.6, color=DARK, label=names[-1])
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set(xlim=(-0.8, len(first) - 0.2))
        ax.locator_params(axis="y", nbins=4)
        ax.tick_params(labelsize=SMALL)
        ax.set_title("from the table" if depth == 0 else f"after layer {depth - 1}", fontsize=SMALL + 1)
        label_axis(ax.xaxis, range(len(first)) if depth == depths[-1] else [""], 5.0)
    ax.set_xlabel(f"number in the vector, {len(first)} of {wide.shape[-1]} shown")
    handles, texts = ax.get_legend_handles_labels()
    cosines = figure.add_subplot(grid[:, 1])
    cosines.plot(range(len(alike)), alike.tolist(), "o-", color=DARK, lw=1.6, ms=4, label="of both places")
    if others is not None:
        ends, far = F.normalize(wide[:, [0, -1]], dim=-1), F.normalize(others.float().cpu(), dim=-1)
        usual = (ends @ far.transpose(1, 2)).mean((1, 2)).tolist()
        cosines.plot(range(len(usual)), usual, "s--", color=MIDDLE, lw=1.2, ms=3.5, label="mean with other tokens")
        cosines.legend(frameon=False, fontsize=SMALL, loc="upper right")
    for line in cosines.lines:
        at, end = np.asarray(line.get_xydata())[-1].tolist()
        cosines.annotate(f"{end:.2f}", (at, end), (0, 7), textcoords="offset points", ha="center")
    cosines.axhline(0, color=GREY, lw=0.6)
    cosines.set(ylim=(min(-0.05, float(alike.min()) - 0.05), 1.05), xlim=(-0.4, len(alike) - 0.6))
    cosines.set_title("cosine, all numbers", fontsize=SMALL + 1)
    label_axis(cosines.xaxis, ["table", *range(len(alike) - 1)], 2.2)
    cosines.set_xlabel("after layer")
    figure.legend(handles, texts, frameon=False, loc="outside lower left", ncols=2)
    figure.alt = (
        f"Left, {len(depths)} rows of numbers, bars for one place and dots for the other; right, their cosine, "
        f"which goes from {alike[0]:.2f} to {alike[-1]:.2f}. {title}."
    )
    return figure


@styled
def word_heads(weights: Float[Tensor, "layers heads k_len"], labels: Sequence[str], at: int) -> Figure:
    """What the last token of `labels` takes in from each token, in the layer of the head that looks most at the token
    `at`: a row for each head."""
    wide = weights.float().cpu()
    layer, head = divmod(int(wide[:, :, at].argmax()), wide.shape[1])
    values = wide[layer]
    title = f"In layer {layer} head {head} gives “{labels[at]}” {spoken(float(values[head, at]))}, "
    others = values[[row for row in range(len(values)) if row != head], at].tolist()
    title += f"any other head at most {spoken(max(others))}" if others else "the only head there"
    across, high = min(0.27 * len(labels), 8.0), min(max(0.22 * len(values), 0.8), 5.0)
    figure = new_figure(title, max(6.2, across + 1.7), 1.6 + high)
    ax = figure.subplots()
    texts = [[f"{100 * share:.0f}" if share >= 0.045 else "" for share in line] for line in values.tolist()]
    ax.add_patch(Rectangle((-0.5, -0.5), values.shape[1], len(values), fc="none", ec="#bbbbbb", lw=0.8))
    image = heatmap(ax, values, texts if len(values) <= 16 else (), norm=SHARES)
    label_axis(ax.xaxis, [f"{label} {place}" for place, label in enumerate(labels)], across)
    label_axis(ax.yaxis, range(len(values)), high)
    ax.set(ylabel=f"head of layer {layer}", xlabel="token and its place; in the cells percent, from 5 on")
    bar = colour_bar(figure, image, "attention (an uneven scale)")
    bar.set_ticks([0, 0.1, 0.3, 0.6, 1], labels=["0%", "10%", "30%", "60%", "100%"])
    figure.alt = f"A row for each head of layer {layer}, a column for each token up to “{labels[-1]}”, "
    figure.alt += f"darker where it looks more. {title}."
    return figure


@styled
def word_experts(source: Trace, places: Sequence[int], names: Sequence[str]) -> Figure:
    """Which experts one word goes to in each layer, at two places: a panel each, shaded by the expert's weight.

    The title tells how much weight the first and the last place share, and the first with all other tokens, in the
    mean over layers. A dense model has one feed-forward a layer, which is drawn as its only expert.
    """
    if source["moe_route"]:
        found = routes(source)
        total = next(iter(found.values())).logits.shape[1]
        empty = [torch.zeros(len(route.experts), total) for route in found.values()]
        stack = [
            zeros.scatter(1, route.experts.cpu(), route.weights.float().cpu())
            for zeros, route in zip(empty, found.values(), strict=True)
        ]
        given = F.normalize(torch.stack(stack), p=1, dim=-1)  # [layers, seq, experts]: shares of each token
        shared = torch.minimum(given[:, [places[0]]], given).sum(-1).mean(0)  # [seq]
        others = [place for place in range(len(shared)) if place not in places]
        chosen, layers = torch.stack(stack)[:, list(places)], list(found)  # [layers, places, experts]
        title = f"Same word, other place: {spoken(float(shared[places[-1]]))} of the weight goes to the same experts"
        title += f" (with other tokens {spoken(float(shared[others].mean()))})" if others else ""
    else:
        layers = sorted({call.layer or 0 for call in source["decoder_layer"]})
        chosen, total = torch.ones(len(layers), len(places), 1), 1
        title = "This checkpoint is dense: every word goes through the one feed-forward of each layer"
    high = min(max(0.24 * len(layers), 0.7), 7.0)
    figure = new_figure(title, 8.8, 1.25 + high)
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    for column, (ax, name) in enumerate(zip(panels, names, strict=True)):
        values = chosen[:, column]
        texts = [[f"{100 * weight:.0f}" if weight else "" for weight in line] for line in values.tolist()]
        image = heatmap(ax, values, texts if total <= 16 else (), vmin=0, vmax=1)
        ax.spines[:].set(visible=True, color="#bbbbbb")
        ax.set(title=name, xlabel="expert", ylabel="layer" if column == 0 else "")
        label_axis(ax.xaxis, range(total), 3.2)
        label_axis(ax.yaxis, layers if column == 0 else [""], high)
    colour_bar(figure, image, "weight of its answer")
    figure.alt = f"Layers by experts, a panel for each place of the word, dark where it was sent. {title}."
    return figure


@styled
def first_words(
    logits: Float[Tensor, "vocab"], tokenizer: Tokenizer | None, right: int, wrong: int, top: int = 6
) -> Figure:
    """The likeliest first words of an answer that is right if it begins with `right`, and wrong with `wrong`."""
    probabilities = logits.float().cpu().softmax(-1)
    values, ids = probabilities.topk(min(top, len(logits)))
    share = spoken(float(probabilities[right]))
    best, (good,) = int(ids[0]), token_labels(tokenizer, [right])
    said = {right: "right", wrong: "wrong"}.get(best, "neither of the two names")
    (label,) = token_labels(tokenizer, [best])
    title = f"The likeliest first word is “{label}”, and that is {said}"
    title += f": “{good}” gets {share}" if best != right else f", with {share}"
    figure = new_figure(title, 6.8, 0.9 + 0.28 * len(ids))
    ax = figure.subplots()
    for row, (value, token) in enumerate(zip(values.tolist(), ids.tolist(), strict=True)):
        hatch = "" if token == right else "////" if token == wrong else ""
        face = MIDDLE if token == right else PALE if token == wrong else "white"
        bar = ax.barh(row, value, 0.72, color=face, hatch=hatch, ec=DARK, lw=0.6)
        ax.bar_label(bar, [spoken(value)], padding=3, fontsize=SMALL)
    ax.set(xlim=(0, 1.14 * max(float(values[0]), 1e-6)), ylim=(len(ids) - 0.4, -0.6), xlabel="probability")
    ax.set_yticks(range(len(ids)), token_labels(tokenizer, ids.tolist()), parse_math=False)
    ax.xaxis.set_major_formatter(percent)
    names = ("right", "wrong", "other words")
    looks = ((MIDDLE, ""), (PALE, "////"), ("white", ""))
    handles = [
        Patch(fc=face, hatch=hatch, ec=DARK, lw=0.6, label=name)
        for name, (face, hatch) in zip(names, looks, strict=True)
    ]
    figure.legend(handles=handles, frameon=False, loc="outside right center")
    figure.alt = f"Bars of probability for the likeliest first words. {title}."
    return figure


@styled
def right_with_notes(right: Mapping[str, Sequence[bool]], guess: float) -> Figure:
    """Which share of the same questions each way of answering gets right, with 95% intervals (Wilson's).

    `guess` is the share that a guess among the names of the question would get.
    """
    found = {name: interval(sum(each), len(each)) for name, each in right.items()}
    (one, first), *_, (two, second) = found.items()
    title = f"Answers {one} and answers {two} cannot be told apart by so few questions"
    for better, worse, (low, _), (_, high) in ((one, two, first, second), (two, one, second, first)):
        title = f"Answers {better} are right more often than answers {worse}" if low > high else title
    figure = new_figure(title, 7.4, 1.05 + 0.42 * len(right))
    ax = figure.subplots()
    for row, (each, (low, high)) in enumerate(zip(right.values(), found.values(), strict=True)):
        ax.barh(row, sum(each) / len(each), 0.62, color=PALE, ec=DARK, lw=0.8)
        ax.plot((low, high), (row, row), "|-", color="black", lw=1.4, ms=9)
        ax.text(1.03, row, f"{sum(each)} of {len(each)}", va="center")
    ax.axvline(guess, color="black", ls="--", lw=1.2, label="a guess at\none of the names")
    ax.plot((), (), "|-", color="black", lw=1.4, ms=9, label="95% interval")
    ax.set(xlim=(0, 1.0), ylim=(len(right) - 0.5, -0.5), xlabel="questions answered right")
    ax.set_yticks(range(len(right)), list(right))
    ax.xaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside right center")
    told = ", ".join(f"{sum(each)} of {len(each)} {name}" for name, each in right.items())
    figure.alt = (
        f"Bars of the share answered right, with intervals: {told}; a guess would get {spoken(guess)}. {title}."
    )
    return figure


def interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Low and high end of the 95% interval of a share, of which `hits` of `n` were seen (Wilson 1927)."""
    middle, half = hits + z**2 / 2, z * (hits * (n - hits) / n + z**2 / 4) ** 0.5
    return max(0.0, (middle - half) / (n + z**2)), min(1.0, (middle + half) / (n + z**2))
