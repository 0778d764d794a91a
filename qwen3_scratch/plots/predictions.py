"""What the model would say next, at its end and on the way there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..tokenizer import Tokenizer
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
    styled,
    token_labels,
)

__all__ = ["logit_lens", "next_token_bars", "residual_norms"]


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
            text.set_fontweight("bold" if same else "normal")
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
    ax.fill_between(depths, low, high, color=PALE, lw=0, label="its middle half")
    ax.plot(depths, middle, "o-", color=DARK, ms=4, label="stream")
    for (name, values), form in zip(added.items(), ("s--", "^:", "v-.", "x-"), strict=False):
        ax.plot(
            depths[1:], values.float().median(-1).values.tolist(), form, color=MIDDLE, ms=4, label=f"added by {name}"
        )
    label_axis(ax.xaxis, ["embedding", *(f"layer {number}" for number in depths[:-1])], 5.0)
    ax.set(ylabel="length (Euclidean norm)", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right center")
    return figure
