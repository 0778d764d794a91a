"""What the model would say next, at its end and on the way there."""

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
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

__all__ = ["logit_lens", "next_token_bars"]

LIGHT = LinearSegmentedColormap.from_list("light", ("white", PALE, "#6baed6"))  # black is legible on all of it


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
    guesses: Sequence[Sequence[str]], final: Float[Tensor, "depths tokens"], labels: Sequence[str]
) -> Figure:
    """Tokens by depths: the likeliest next token by the stream at each depth, embedding first.

    Shaded by `final`, the probability there of what the last layer says; framed where it is the likeliest. Long texts
    break into lines.
    """
    agree = [[guess == last for guess, last in zip(line, guesses[-1], strict=True)] for line in guesses]
    start, early = (sum(agree[depth]) for depth in (0, max(0, len(guesses) - 2)))
    title = f"One layer before the end {early} of {len(labels)} guesses are the final ones, at the embedding {start}"
    depths = ["embedding", *(f"layer {number}" for number in range(len(guesses) - 1))]
    high = min(0.24 * len(guesses), 9)
    figure, panels = line_panels(title, len(labels), 13, 0.62, high)
    for ax, part in panels:
        texts = [line[part] for line in guesses]
        image = heatmap(ax, final[:, part], texts, vmin=0, vmax=1, origin="lower", cmap=LIGHT)
        for text in ax.texts:
            text.set(color="black")
        for depth, line in enumerate(agree):
            for column in (column for column, same in enumerate(line[part]) if same):
                ax.add_patch(Rectangle((column - 0.45, depth - 0.42), 0.9, 0.84, fc="none", ec=DARK, lw=1.3))
        ax.set_xlim(-0.5, panels[0][1].stop - 0.5)
        label_axis(ax.xaxis, labels[part], 0.6 * (part.stop - part.start))
        label_axis(ax.yaxis, depths, high)
    panels[-1][0].set_xlabel("token read (in the cells: the guess for the token after it; framed: the final guess)")
    colour_bar(figure, image, "probability of\nthe final guess")
    figure.alt = (
        f"{len(labels)} tokens by {len(guesses)} depths, in each cell the next token guessed there, framed where it is "
        f"the one of the last layer. The last column "
        f"reads, from the embedding on: {', '.join(line[-1] for line in guesses[:8])}."
    )
    return figure
