"""What the model would say next, at its end and on the way there."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor

from ..tokenizer import Tokenizer
from .canvas import (  # fmt: skip
    DARK,
    GREY,
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

__all__ = ["logit_lens", "logit_parts", "next_token_bars"]


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
    break into lines. The title tells from which depth on the last guess stays, and where guesses settle later.
    """
    agree = [[guess == last for guess, last in zip(line, guesses[-1], strict=True)] for line in guesses]
    depths = ["embedding", *(f"layer {number}" for number in range(len(guesses) - 1))]
    settled = [max([0, *(d + 1 for d, same in enumerate(column) if not same)]) for column in zip(*agree, strict=True)]
    waiting = [column for column, depth in enumerate(settled) if depth > settled[-1]]
    title = f"“{guesses[-1][-1]}” is the guess from {depths[settled[-1]].replace('emb', 'the emb')} on; "
    if len(waiting) == 1:
        title += f"after “{labels[waiting[0]]}” the guess settles only in {depths[settled[waiting[0]]]}"
    else:
        title += f"{len(waiting) or 'none'} of {len(labels) - 1} guesses before it settle{'s' * (not waiting)} later"
    high = min(0.24 * len(guesses), 9)
    figure, panels = line_panels(title, len(labels), 13, 0.62, high)
    for ax, part in panels:
        texts = [line[part] for line in guesses]
        image = heatmap(ax, final[:, part], texts, vmin=0, vmax=1, origin="lower")
        for depth, line in enumerate(agree):
            for column in (column for column, same in enumerate(line[part]) if same):
                edge = "white" if final[depth, part][column] > 0.6 else DARK
                ax.add_patch(Rectangle((column - 0.43, depth - 0.4), 0.86, 0.8, fc="none", ec=edge, lw=1.3))
        ax.set_xlim(-0.5, panels[0][1].stop - 0.5)
        label_axis(ax.xaxis, labels[part], 0.6 * (part.stop - part.start))
        label_axis(ax.yaxis, depths, high)
        ax.set_ylabel("read upwards →")
    panels[-1][0].set_xlabel("token read (in the cells: the guess for the token after it; framed: the final guess)")
    colour_bar(figure, image, "probability of\nthe final guess")
    figure.alt = (
        f"{len(labels)} tokens by {len(guesses)} depths, in each cell the next token guessed there, framed where it is "
        f"the one of the last layer. The last column "
        f"reads, from the embedding on: {', '.join(line[-1] for line in guesses[:8])}."
    )
    return figure


def two_digits(value: float) -> str:
    """A number as it is spoken: two digits, and no power of ten before a million."""
    return f"{float(f'{value:.2g}'):,g}"


@styled
def logit_parts(
    names: Sequence[str], parts: Float[Tensor, "parts"], others: Float[Tensor, "parts"], words: tuple[str, str]
) -> Figure:
    """What each part of the stream adds to the logit of a word, one step a row, down to the whole logit.

    Beside it the same for the word's lead: its parts less those of a second word's logit.
    """
    lead = parts.float() - others.float()
    best, decisive = int(parts.argmax()), int(lead.argmax())
    first, second = names[best][:1].upper() + names[best][1:], names[decisive]
    title = f"{first} brings most, of the logit and of the lead"
    if best != decisive:
        title = f"{first} brings most of the logit, {second} most of the lead"
    high = 0.2 * (len(names) + 1)
    figure = new_figure(title, 7.8, 1.3 + high)
    panels = figure.subplots(1, 2)
    heads = f"logit of “{words[0]}”", f"lead over “{words[1]}”"
    for ax, values, head in zip(panels, (parts.float().tolist(), lead.tolist()), heads, strict=True):
        done = 0.0
        for row, value in enumerate(values):
            look: dict[str, Any] = {"fc": MIDDLE} if value >= 0 else {"fc": "white", "hatch": "////"}
            ax.barh(row, value, left=done, height=0.7, ec=DARK, lw=0.6, **look)
            done += value
            ax.plot((done, done), (row - 0.35, row + 1.35), color=GREY, lw=0.6)
        ax.barh(len(values), done, height=0.7, fc=DARK, ec=DARK)
        ax.use_sticky_edges = False
        ax.axvline(0, color="black", lw=0.6)
        label_axis(ax.yaxis, [*names, "sum"] if ax is panels[0] else [""] * (len(values) + 1), high)
        numbers = ax.secondary_yaxis("right")
        label_axis(
            numbers.yaxis, [f"{round(value, 1) + 0.0:+.1f}".replace("-", "−") for value in (*values, done)], high
        )
        numbers.spines[:].set_visible(False)
        ax.set(title=head, ylim=(len(values) + 0.6, -0.6), xlabel="added up (hatched: taken away)")
    figure.alt = (
        f"Two waterfalls of {len(names)} bars: the left adds up to the logit {float(parts.sum()):.1f} of “{words[0]}”, "
        f"the largest part {float(parts[best]):+.1f} from {names[best]}; the right to its lead "
        f"{float(lead.sum()):.1f} over “{words[1]}”, there {float(lead[decisive]):+.1f} from {names[decisive]}."
    )
    return figure
