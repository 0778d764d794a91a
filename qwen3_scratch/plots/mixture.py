"""The mixture layer and its dispatch drawn, and the loss at several top-k."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle
from torch import Tensor

from ..model import Route
from .boxes import bend, box, empty_axes
from .canvas import (  # fmt: skip
    DARK,
    GREY,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    half_interval,
    label_axis,
    logarithmic,
    new_figure,
    styled,
)

__all__ = ["dispatch_order", "mixture_layer", "top_k_loss"]


@styled
def mixture_layer(route: Route, labels: Sequence[str]) -> Figure:
    """A mixture layer at work: each token, the router's probabilities, the experts, and each token's weighted sum.

    Solid bars are chosen; a line is the thicker the more the answer counts. Of few experts the probabilities are
    written, and the numbers below them; of a sum the first two parts.
    """
    (tokens, experts), top_k = route.logits.shape, route.experts.shape[1]
    apart = 0.58 if experts <= 4 else 0.5
    high = apart * max(tokens, experts) + 0.6
    figure = new_figure(f"Each token goes to {top_k} of {experts} experts; all {experts} are stored", 7.6, high + 0.4)
    ax = empty_axes(figure, 7.4, high)
    for place, head in ((0.5, "token"), (2.0, "router: probabilities"), (4.4, "experts"), (6.4, "sum of the answers")):
        ax.text(place, 0.12, head, fontsize=SMALL, ha="center", va="center", style="italic")
    rows, columns = (
        [0.35 + (at + 0.5) * apart * max(tokens, experts) / count for at in range(count)] for count in (tokens, experts)
    )
    chosen_at_all = set(route.experts.flatten().tolist())
    for expert, y in enumerate(columns):
        look = {"fc": PALE} if expert in chosen_at_all else {"ls": "--", "ec": GREY}
        box(ax, 3.95, y, 0.9, f"expert {expert}", min(0.26, 0.3 * max(tokens, experts) / experts + 0.1), **look)
    shares = route.logits.float().softmax(-1).tolist()
    for token, y in enumerate(rows):
        box(ax, 0.05, y, 0.95, labels[token])
        bend(ax, (1.0, y), (1.3, y), ec="#555555", lw=0.8)
        weights, chosen = route.weights[token].tolist(), route.experts[token].tolist()
        share_bars(ax, y + 0.16, shares[token], chosen)
        for weight, expert in zip(weights, chosen, strict=True):
            look = {"ec": DARK if weight >= 0.5 else MIDDLE, "lw": 0.4 + 3 * weight}
            bend(ax, (2.7, y), (3.95, columns[expert]), **look)
            bend(ax, (4.85, columns[expert]), (5.75, y), **look)
        ax.add_patch(Circle((5.84, y), 0.09, fc="white", ec=DARK, lw=0.8))
        ax.text(5.84, y, "+", fontsize=SMALL, ha="center", va="center")
        parts = [f"{weight:.2f} E{expert}" for weight, expert in zip(weights[:2], chosen, strict=False)]
        ax.text(6.0, y, " + ".join(parts) + " + …" * (top_k > 2), fontsize=SMALL, va="center")
    key = "solid bar: chosen      line: thicker with more weight, dark from 0.5 on"
    ax.text(3.7, high - 0.12, key, fontsize=SMALL, ha="center", va="center", color="#444444")
    figure.alt = (
        f"{tokens} tokens at the left, {experts} experts in the middle, a sum for each token at the right. Beside "
        f"a token stand its {experts} probabilities; lines lead from it to {top_k} experts and from these to its sum."
    )
    return figure


def share_bars(ax: Axes, foot: float, shares: Sequence[float], chosen: Sequence[int]) -> None:
    """A token's probabilities as bars, an expert each; the chosen ones solid."""
    ax.plot((1.35, 2.65), (foot, foot), color="#555555", lw=0.6)
    wide = 1.3 / len(shares)
    for expert, share in enumerate(shares):
        left, middle = 1.35 + (expert + 0.15) * wide, 1.35 + (expert + 0.5) * wide
        face = DARK if expert in chosen else "white"
        ax.add_patch(Rectangle((left, foot - 0.34 * share), 0.7 * wide, 0.34 * share, fc=face, ec=DARK, lw=0.6))
        if len(shares) <= 4:
            ax.text(middle, foot - 0.34 * share - 0.02, f"{share:.3g}", fontsize=SMALL - 1, ha="center", va="bottom")
            ax.text(middle, foot + 0.02, f"E{expert}", fontsize=SMALL - 1, ha="center", va="top")


@styled
def dispatch_order(
    experts: Int[Tensor, "tokens top_k"], weights: Float[Tensor, "tokens top_k"], labels: Sequence[str]
) -> Figure:
    """Dispatch as a permutation: the choices token by token, sorted by expert, and each token's weighted sum again.

    Neighbouring experts have lines of two forms, so that each one's can be followed; on its way back a line bears the
    weight of its answer.
    """
    (tokens, top_k), flat = experts.shape, experts.flatten()
    written = [f"× {weight:.2f}" for weight in weights.flatten().tolist()]
    order, called = flat.argsort(stable=True).tolist(), flat.unique().tolist()
    count, gap, step = len(order), 0.14, 0.24
    title = f"{count} choices of {tokens} token{'s' * (tokens > 1)}, sorted, are {len(called)} "
    title += f"call{'s' * (len(called) > 1)}: one for each expert that was chosen"
    high = 0.6 + step * count + gap * max(tokens, len(called))
    figure = new_figure(title, 7.6, high + 0.45)
    ax = empty_axes(figure, 7.4, high)
    for place, head in ((0.8, "choices, token by token"), (3.55, "sorted by expert"), (6.55, "weighted sum")):
        ax.text(place, 0.12, head, fontsize=SMALL, ha="center", va="center", style="italic")
    left = [0.45 + step * at + gap * (at // top_k) for at in range(count)]
    for at, expert in enumerate(flat.tolist()):
        box(ax, 0.1, left[at], 1.4, f"{labels[at // top_k]} → {expert}", step * 0.9)
    sums = [sum(left[token * top_k : (token + 1) * top_k]) / top_k for token in range(tokens)]
    for label, y in zip(labels, sums, strict=False):
        box(ax, 6.05, y, 1.0, label, step)
    at, y = 0, 0.45
    for rank, expert in enumerate(called):
        members = [choice for choice in order if int(flat[choice]) == expert]
        look = {"ec": (DARK, MIDDLE)[rank % 2], "ls": ("-", "--")[rank % 2], "lw": 1.3}
        for choice in members:
            box(ax, 3.05, y, 1.0, labels[choice // top_k], step * 0.9, fc=PALE)
            bend(ax, (1.5, left[choice]), (2.45, y), **look)
            ax.text(4.14, y, written[choice], fontsize=SMALL - 1, va="center")
            bend(ax, (4.53, y), (6.05, sums[choice // top_k]), **look)
            at, y = at + 1, y + step
        top = y - step * (len(members) + 0.5)
        ax.add_patch(Rectangle((2.45, top - 0.02), 1.64, step * len(members) + 0.04, fill=False, ec="black", lw=1.2))
        ax.text(2.74, top + step * len(members) / 2, f"expert {expert}", fontsize=SMALL, ha="center", va="center")
        y += gap
    key = "× weight of the answer. Solid and dashed lines, dark and light, only tell neighbouring experts apart."
    ax.text(3.7, high - 0.1, key, fontsize=SMALL, ha="center", va="center", color="#444444")
    figure.alt = (
        f"Left {count} boxes, a choice each, token by token; in the middle the same sorted into {len(called)} frames, "
        f"one for each expert; right the {tokens} tokens again. Lines show where each choice goes and, times its "
        f"weight, comes back."
    )
    return figure


@styled
def top_k_loss(
    losses: Float[Tensor, "choices chats"], top_k: Sequence[int], own: int, control: Float[Tensor, "chats"]
) -> Figure:
    """Each chat's loss over its own as trained, when other numbers of experts answer: geometric means, 95% intervals.

    `own` is the number of training; `control` the losses when as many as that are drawn at random, told in words, with
    their interval, since they lie far above.
    """
    base = losses[top_k.index(own)]
    ratio, ends = ratio_and_ends(losses, base)
    means = dict(zip(top_k, ratio, strict=True))
    (drawn,), ((below,), (above,)) = ratio_and_ends(control[None], base)
    said = [f"{ratio_text(means[k])} with {k}" for k in sorted({top_k[0], top_k[-1]} - {own})]
    said.append(f"{ratio_text(drawn)} with {own} at random")
    title = f"A chat's loss as a multiple of its own with the {own} chosen: {', '.join(said)}"
    figure = new_figure(f"{title} (n\u00a0=\u00a0{len(control)})", 7.6, 2.9)
    ax = figure.subplots()
    ax.errorbar(range(len(top_k)), ratio, ends, fmt="o-", color=DARK, ms=4, lw=1.2, capsize=3)
    ax.axvline(top_k.index(own), color="#e4e4e4", lw=9, zorder=0)
    ax.axhline(1, color="black", lw=0.6, zorder=0)
    logarithmic(ax.yaxis)
    low, high = ax.get_ylim()
    low, high = min(0.79, low), max(1.3, 1.2 * high)
    ax.set_ylim(low, high)
    if high < 8 * low:
        logarithmic(ax.yaxis, parts=(1, 1.2, 1.5, 2, 3, 5, 8))
    at, far = top_k.index(own), f"{own} at random, far above: × {ratio_text(drawn)}"
    far += f" (95%: {ratio_text(drawn - below)} to {ratio_text(drawn + above)})"
    side, align = (-0.1, "right") if len(top_k) > 1 and at == len(top_k) - 1 else (0.1, "left")
    for x, text, beside in ((at, "↑", "center"), (at + side, far, align)):
        ax.text(x, 0.99, text, fontsize=SMALL, transform=ax.get_xaxis_transform(), ha=beside, va="top")
    label_axis(ax.xaxis, top_k, 4.5)
    ax.set(xlabel="experts that answer (grey: number of training)", xlim=(-0.5, len(top_k) - 0.5))
    ax.set_ylabel("loss over loss as trained\n(geometric mean)")
    figure.alt = (
        f"A line of geometric means with paired 95% intervals over {len(top_k)} numbers of experts, on a "
        f"logarithmic axis with a line at 1. {title}, over {len(control)} chats."
    )
    return figure


def ratio_and_ends(
    losses: Float[Tensor, "choices chats"], base: Float[Tensor, "chats"]
) -> tuple[list[float], list[list[float]]]:
    """Each row's geometric mean of the chats' ratios to `base`, and how far its 95% interval reaches down and up."""
    logs = losses.double().cpu().log() - base.double().cpu().log()
    mean, factor = logs.mean(1).exp(), half_interval(logs).exp()
    return mean.tolist(), [(mean - mean / factor).tolist(), (mean * factor - mean).tolist()]


def ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f}"
