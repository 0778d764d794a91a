"""An upcycled mixture: its making, how near its dense model, what training gains, when it matters who answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor

from .boxes import bend, box, draw_arrow, empty_axes
from .canvas import (
    DARK,
    GREY,
    LINES,
    LIT,
    MIDDLE,
    PALE,
    SMALL,
    Figure,
    half_interval,
    logarithmic,
    new_figure,
    percent,
    student,
    styled,
)

__all__ = ["agreement_bars", "branches_mixed", "routed_losses", "trained_on", "upcycled_layer"]


@styled
def upcycled_layer(experts: int) -> Figure:
    """A dense layer beside itself upcycled: attention is kept, the feed-forward copied, the router new.

    Of more than six experts the first four and the last are drawn. A frame around them is what attention feeds.
    """
    names = [f"expert {number}" for number in range(experts)]
    names = names if experts <= 6 else [*names[:4], "…", names[-1]]
    rows = [1.42 + 0.36 * at for at in range(len(names))]
    middle = (rows[0] + rows[-1]) / 2
    many = f"{experts} equal experts" if experts > 1 else "1 expert"
    title = f"The feed-forward becomes {many}, the router is new, all else is kept"
    figure = new_figure(title, 7.6, rows[-1] + 0.8)
    ax = empty_axes(figure, 7.4, rows[-1] + 0.4)
    for left, wide, head in ((0.1, 1.8, "a dense layer"), (4.2, 3.1, "the same layer, upcycled")):
        ax.add_patch(Rectangle((left, 0.28), wide, rows[-1], fc="#f4f4f4", ec="none", zorder=-1))
        ax.text(left + wide / 2, 0.12, head, fontsize=SMALL, ha="center", va="center", style="italic")
    box(ax, 0.4, 0.6, 1.2, "attention")
    box(ax, 0.4, middle, 1.2, "feed-forward", fc=PALE)
    box(ax, 4.5, 0.6, 1.2, "attention")
    box(ax, 6.2, middle, 0.9, "router", fc=LIT)
    bend(ax, (1.6, 0.6), (4.5, 0.6), ec=MIDDLE, lw=1.3)
    for name, y in zip(names, rows, strict=True):
        box(ax, 4.5, y, 1.2, name, fc=PALE)
        bend(ax, (1.6, middle), (4.5, y), ec=MIDDLE, lw=1.3)
        draw_arrow(ax, (6.2, middle), (5.72, y))
    draw_arrow(ax, (1.0, 0.73), (1.0, middle - 0.13))
    frame: dict[str, Any] = {"fc": "none", "ec": "#555555", "lw": 0.9, "ls": (0, (4, 2))}
    ax.add_patch(Rectangle((4.36, rows[0] - 0.25), 1.48, rows[-1] - rows[0] + 0.5, **frame))
    draw_arrow(ax, (5.1, 0.73), (5.1, rows[0] - 0.25))
    ax.plot((5.7, 6.65), (0.6, 0.6), color="#555555", lw=0.9)  # the router reads what the experts read
    draw_arrow(ax, (6.65, 0.57), (6.65, middle - 0.13))
    for x, y, word in ((3.05, 0.6, "kept"), (3.05, middle, "copied"), (6.65, middle + 0.25, "new, chooses")):
        plain = {"fc": "white" if x < 4 else "none", "ec": "none"}
        ax.text(x, y, word, fontsize=SMALL, ha="center", va="center", style="italic", bbox=plain)
    figure.alt = (
        f"{title}. Left a dense layer, attention and a feed-forward; right the same layer, with attention, a router "
        f"and {many}. Lines lead from attention to attention, kept, and from the feed-forward to each expert, copied; "
        "arrows from attention to the router and to a frame around the experts, and from the router to each expert."
    )
    figure.few_colours = True
    return figure


@styled
def branches_mixed(domains: Sequence[str]) -> Figure:
    """Branch, train, mix: copies of a feed-forward, each trained on its own domain, then experts of a mixture."""
    rows = [0.75 + 0.4 * at for at in range(len(domains))]
    middle = (rows[0] + rows[-1]) / 2
    title = "Copies are trained apart, each on its own domain, and become the experts of one model"
    figure = new_figure(title, 8.0, rows[-1] + 0.8)
    ax = empty_axes(figure, 7.8, rows[-1] + 0.4)
    for left, wide, head in ((0.1, 1.6, "a dense model"), (2.5, 1.9, "its copies"), (5.0, 2.7, "one mixture")):
        ax.add_patch(Rectangle((left, 0.38), wide, rows[-1] - 0.12, fc="#f4f4f4", ec="none", zorder=-1))
        ax.text(left + wide / 2, 0.2, head, fontsize=SMALL, ha="center", va="center", style="italic")
    box(ax, 0.3, middle, 1.2, "feed-forward", fc=PALE)
    box(ax, 6.7, middle, 0.8, "router", fc=LIT)
    for domain, y in zip(domains, rows, strict=True):
        box(ax, 2.7, y, 1.5, f"trained on {domain}", fc=PALE)
        box(ax, 5.2, y, 1.1, f"{domain} expert", fc=PALE)
        bend(ax, (1.5, middle), (2.7, y), ec=MIDDLE, lw=1.3)
        bend(ax, (4.2, y), (5.2, y), ec=MIDDLE, lw=1.3)
        draw_arrow(ax, (6.7, middle), (6.3, y))
    figure.alt = (
        f"{title}. From a dense model's feed-forward lines lead to its copies, trained on {', '.join(domains)}, and"
        " from each to an expert of a mixture, among which a router chooses."
    )
    figure.few_colours = True
    return figure


@styled
def agreement_bars(agreement: Mapping[str, float], count: int) -> Figure:
    """Share of `count` tokens at which each variant finds the same next token likeliest as the dense model."""
    worst = min(agreement, key=agreement.__getitem__)
    exact = sum(share == 1 for share in agreement.values())
    title = f"{exact} of {len(agreement)} agree with the dense model at every token;"
    title += f" “{worst}” at {agreement[worst]:.0%}"
    figure = new_figure(title, 8.2, 0.9 + 0.3 * len(agreement))
    ax, shares = figure.subplots(), list(agreement.values())
    bars = ax.barh(range(len(shares)), shares, color=PALE, edgecolor=DARK, lw=0.7, height=0.7)
    for bar, share in zip(bars, shares, strict=True):
        bar.set_hatch("" if share == 1 else "///")
    ax.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=SMALL)
    label = f"same next token as the dense model (n = {count:,})"
    ax.set(xlim=(0, 1.1), ylim=(len(shares) - 0.4, -0.6), xticks=(0, 0.5, 1), xlabel=label)
    ax.set_yticks(range(len(shares)), list(agreement))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(percent)
    return figure


@styled
def routed_losses(
    domains: Sequence[str],
    fixed: Mapping[str, Float[Tensor, "domains chats"]],
    random: Float[Tensor, "seeds domains"],
    trained: Float[Tensor, "seeds domains"],
) -> Figure:
    """A panel a domain, with the loss of each `fixed` model, a mean over chats, and of each router before and after.

    The last of `fixed` is what a router reaches that sends every token to its domain's own expert: the dashed line.
    """
    best = [*fixed.values()][-1].mean(1)  # [domains]
    shares = ((random - trained).mean(0) / (random.mean(0) - best)).tolist()
    won = " and ".join(f"{share:.0%} on “{domain}”" for share, domain in zip(shares, domains, strict=True))
    times = " and ".join(f"{each:.2g}" for each in (trained.mean(0) / best).tolist())
    title = f"Trained routers win back {won} of what random ones lose to a domain's expert; their loss is still"
    title += f" {times} times that expert's"
    names = [*fixed, "random routers", "the same, trained"]
    figure = new_figure(title, 1.9 + 3.4 * len(domains), 1.1 + 0.28 * len(names))
    for number, (ax, domain) in enumerate(
        zip(figure.subplots(1, len(domains), sharey=True, squeeze=False)[0], domains, strict=True)
    ):
        for row, values in enumerate(fixed.values()):
            mean, half = float(values[number].mean()), float(half_interval(values[number][None]))
            ax.plot((max(mean - half, mean / 3), mean + half), (row, row), color=MIDDLE, lw=2)
            ax.plot(mean, row, "s", color=DARK, ms=5)
        rows = range(len(fixed), len(names))
        for seen in zip(*(each[:, number].tolist() for each in (random, trained)), strict=True):
            ax.plot(seen, rows, color="#bbbbbb", lw=0.8, zorder=1)
            ax.plot(seen, rows, "o", ms=4.5, mfc="none", mec=DARK, mew=0.9)
        ax.axvline(float(best[number]), color=GREY, lw=0.9, ls="--", zorder=0)
        logarithmic(ax.xaxis, parts=(1, 3))
        ax.set(title=domain, ylim=(len(names) - 0.5, -0.5), xlabel="loss of answers (nats a token)")
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
    figure.alt = (
        f"{title}. Rows: {', '.join(names)}; a panel a domain. Squares are means over chats with 95% intervals,"
    )
    figure.alt += " circles routers, joined by a line from random to trained."
    return figure


@styled
def trained_on(
    steps: Sequence[int], apart: Mapping[str, Float[Tensor, "seeds looks"]], distance: Mapping[str, Sequence[float]]
) -> Figure:
    """Mixtures trained on beside their dense model: left the loss, less the dense one's, right how far experts part.

    `apart` is in nats a token, paired by seed: a thin line a seed, the mean thick, with Student's 95% interval of it
    at the end. `distance` is a mean over seeds.
    """
    ends = torch.stack([each[:, -1].double() for each in apart.values()])  # [ways, seeds]
    halves = half_interval(ends, student(ends.shape[1])).tolist()
    found = list(zip(apart, ends.mean(1).tolist(), halves, strict=True))
    groups = {
        "above the dense model": [name for name, mean, half in found if mean > half],
        "below the dense model": [name for name, mean, half in found if mean < -half],
        "not to be told from the dense model": [name for name, mean, half in found if abs(mean) <= half],
    }
    told = [f"{where}: “{'” and “'.join(names)}”" for where, names in groups.items() if names]
    title = f"After {steps[-1]:,} steps {'; '.join(told)}"
    figure = new_figure(f"{title} (n\u00a0=\u00a0{ends.shape[1]}\u00a0seeds)", 8.6, 3.6)
    left, right = figure.subplots(1, 2)
    ticks = steps[:: -(-len(steps) // 8)]
    for number, ((name, each), (form, marker, colour, width)) in enumerate(zip(apart.items(), LINES, strict=False)):
        look = {"ls": form, "color": colour}
        for seed in each.tolist():
            left.plot(steps, seed, lw=0.6, alpha=0.55, **look)
        left.plot(steps, each.mean(0).tolist(), marker=marker, ms=4, lw=width, label=name, **look)
        place = steps[-1] * (1.03 + 0.025 * number)
        left.errorbar([place], [found[number][1]], yerr=[halves[number]], fmt=marker, ms=4, color=colour, capsize=2)
        right.plot(steps, distance[name], marker=marker, ms=4, lw=width, label=name, **look)
    left.axhline(0, color="black", lw=0.8)
    left.set(xlabel="step (thin lines: each seed)", ylabel="nats a token,\nless the dense model's", xticks=ticks)
    right.set(xlabel="step", ylabel="distance of the two experts,\nover their length", xticks=ticks, ylim=(0, None))
    figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    figure.alt = f"{title}. Left the difference over {steps[-1]:,} steps, right the distance of the experts, which"
    figure.alt += f" grows from 0: a line for each of {', '.join(apart)}. At the end"
    figure.alt += f" {', '.join(f'{mean:+.3f} ± {half:.3f}' for _, mean, half in found)} nats."
    figure.few_colours = True
    return figure
