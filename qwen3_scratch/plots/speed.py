"""What bounds a step, and how fast it is: launches and kernels sketched, dispatch timed, stages against the bound."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from .canvas import (  # fmt: skip
    DARK,
    LIT,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    logarithmic,
    new_figure,
    small_multiples,
    spoken,
    styled,
)

__all__ = [
    "arithmetic_intensity", "dispatch_times", "distinct_experts", "eager_rows", "launch_sketch", "recorded_rows",
    "stage_speed",
]  # fmt: skip

Span = tuple[float, float]  # begins, takes


class Rows(NamedTuple):
    """What a CPU and its GPU do over time, in launches: each launch, each kernel, each wait of the CPU."""

    launches: list[Span]
    kernels: list[Span]
    waits: list[Span]

    def end(self) -> float:
        return max(begin + length for begin, length in (*self.launches, *self.kernels))


def eager_rows(kernels: Sequence[int | float], waits: Collection[int] = ()) -> Rows:
    """A launch for each kernel, by how many launches it takes; the CPU goes on at once, but for `waits`.

    After each of these kernels, counted from 0, it waits for the kernel's end, since it needs a value of it.
    """
    rows, cpu, gpu = Rows([], [], []), 0.0, 0.0
    for number, length in enumerate(kernels):
        rows.launches.append((cpu, 1.0))
        cpu += 1.0
        begin = max(cpu, gpu)
        rows.kernels.append((begin, float(length)))
        gpu = begin + length
        if number in waits:
            rows.waits.append((cpu, gpu - cpu))
            cpu = gpu
    return rows


def recorded_rows(kernels: Sequence[int | float]) -> Rows:
    """One launch of all kernels, which then follow each other."""
    begins = [1.0 + sum(kernels[:number]) for number in range(len(kernels))]
    return Rows([(0.0, 1.0)], list(zip(begins, map(float, kernels), strict=True)), [])


@styled
def launch_sketch(cases: Mapping[str, Rows]) -> Figure:
    """A pair of rows for each case on one axis of time: what the CPU launches, and the kernels that the GPU runs.

    A sketch, made of the numbers that it is given, and labelled so. A dashed line says when the later row ends.
    """
    title = (
        "A sketch, not measured: the longer row sets the time; a wait adds to it, a recorded list leaves launches out"
    )
    figure = new_figure(title, 8.8, 1.1 + 0.72 * len(cases))
    axes = figure.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
    end = max(rows.end() for rows in cases.values())
    for ax, (name, rows) in zip(axes, cases.items(), strict=True):
        looks = (LIT, "", "a launch"), (DARK, "", "a kernel"), ("white", "////", "the CPU waits")
        for row, spans, (colour, hatch, label) in zip((0, 1, 0), rows, looks, strict=True):
            look: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": "black", "lw": 0.6}
            if spans:
                begins, lengths = zip(*spans, strict=True)
                ax.barh([row] * len(spans), lengths, 0.72, begins, label=label, **look)
        ax.axvline(rows.end(), color="black", lw=1, ls="--", label="the step ends")
        ax.set(xlim=(0, 1.02 * end), ylim=(1.5, -0.5), yticks=(0, 1), yticklabels=("CPU", "GPU"))
        ax.set_title(f"{name}: ends after {rows.end():.3g}")
    axes[-1].set_xlabel("time, in launches")
    shown = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), frameon=False, loc="outside lower center", ncols=4)
    return figure


@styled
def dispatch_times(
    tokens: Sequence[int], experts: Sequence[int], seconds: Mapping[str, Float[Tensor, "experts tokens"]]
) -> Figure:
    """Time of one layer's experts by number of tokens, a line for each way of dispatch, a panel for each `experts`."""
    first = winners({name: times[:, 0].tolist() for name, times in seconds.items()})
    last = winners({name: times[:, -1].tolist() for name, times in seconds.items()})
    title = f"Fastest at {count(tokens[0], 'token')}: {first}"
    title += f"; at {count(tokens[-1], 'token')}: {last}" if len(tokens) > 1 else ""
    figure = new_figure(title, 9.2, 3.1 if len(experts) <= 4 else 5.4)
    panels = small_multiples(figure, len(experts))
    for row, ((ax, left, low), number) in enumerate(zip(panels, experts, strict=True)):
        draw_lines(ax, tokens, {name: (1e3 * times[row]).tolist() for name, times in seconds.items()}, lw=1.3)
        ax.set_title(count(number, "expert"))
        logarithmic(ax.xaxis, tokens)
        logarithmic(ax.yaxis)
        ax.margins(0.08)
        ax.set(xlabel="tokens" if low else "", ylabel="milliseconds for one layer" if left else "")
        if row:
            ax.sharey(panels[0][0])
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=4)
    return figure


def winners(seconds: Mapping[str, Sequence[float]]) -> str:
    """Which way is the fastest in how many cases, the most frequent first: “loop” (3 of 4), “grouped” (1 of 4)."""
    cases = list(zip(*seconds.values(), strict=True))
    best = [min(zip(case, seconds, strict=True))[1] for case in cases]
    often = sorted(dict.fromkeys(best), key=best.count, reverse=True)
    return ", ".join(f"“{name}” ({best.count(name)} of {len(cases)})" for name in often)


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


@styled
def stage_speed(
    measured: Mapping[str, int | float | None], predicted: Mapping[str, int | float], bound: int | float
) -> Figure:
    """Tokens a second of each stage (None: not run here), what was predicted, and the bound that reading sets.

    The axis is logarithmic: equal distances are equal factors.
    """
    run = {name: speed for name, speed in measured.items() if speed is not None}
    best = max(run, key=run.__getitem__)
    title = f"“{best}” is the fastest stage here: {run[best]:,.0f} tokens a second, {spoken(run[best] / bound)} of"
    figure = new_figure(f"{title} the bound", 8.8, 1.5 + 0.34 * len(measured))
    ax = figure.subplots()
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": SMALL + 0.5}
    for row, (name, speed) in enumerate(measured.items()):
        if speed is None:
            ax.annotate("not run here", (0.01, row), style="italic", **beside)
            continue
        ax.plot([speed, predicted.get(name, speed)], [row, row], color=PALE, lw=5, solid_capstyle="butt", zorder=1)
        ax.annotate(f"{speed:,.0f} ({spoken(speed / bound)})", (1.01, row), **beside)
    for label, marker, colour, values in (("predicted", "D", LIT, predicted), ("measured", "o", DARK, run)):
        rows = [list(measured).index(name) for name in values]
        look: dict[str, Any] = {"marker": marker, "mfc": colour, "mec": "black", "mew": 0.8, "ms": 6, "ls": "none"}
        ax.plot(list(values.values()), rows, label=label, **look)
    ax.axvline(bound, color="black", lw=1.2, ls="--", label=f"bound by bytes: {bound:,.0f} (100%)")
    logarithmic(ax.xaxis, parts=(1, 2, 5))
    ax.margins(0.06)
    ax.set(ylim=(len(measured) - 0.5, -0.5), yticks=range(len(measured)), yticklabels=list(measured))
    ax.set_xlabel("tokens a second, on a logarithmic axis")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


@styled
def distinct_experts(
    tokens: Sequence[int],
    expected: Sequence[int | float],
    measured: Float[Tensor, "layers tokens"],
    experts: int,
    highlight: int,
) -> Figure:
    """How many of a layer's experts a batch hits, by its tokens: if routing were even, and in each measured layer.

    `highlight` is one of `tokens`: the title says what is found there.
    """
    place = list(tokens).index(highlight)
    found = measured[:, place]
    title = f"{count(highlight, 'token')} hit {between(float(found.min()), float(found.max()))} of"
    title += f" {count(experts, 'expert')}, by layer; even routing would hit {expected[place]:.1f}"
    figure = new_figure(title, 8.0, 3.2)
    ax = figure.subplots()
    ax.fill_between(
        tokens,
        measured.min(0).values.tolist(),
        measured.max(0).values.tolist(),
        color=PALE,
        label="range of the layers",
    )
    ax.plot(tokens, measured.mean(0).tolist(), "o-", color=DARK, ms=4, lw=1.3, label="mean of the layers")
    ax.plot(tokens, list(expected), "s--", color="#555555", ms=4, lw=1.3, label="even routing")
    ax.axhline(experts, color="black", lw=0.8, ls=":", label="all experts")
    logarithmic(ax.xaxis, tokens)
    ax.set(xlabel="tokens in a step", ylabel="experts whose weights\nmust be read", ylim=(0, experts * 1.08))
    figure.legend(frameon=False, loc="outside right center")
    return figure


def between(low: float, high: float) -> str:
    least, most = f"{low:.1f}", f"{high:.1f}"
    return least if least == most else f"{least} to {most}"


@styled
def arithmetic_intensity(
    tokens: Sequence[int], operations: Mapping[str, Sequence[int | float]], balance: Mapping[str, int | float]
) -> Figure:
    """Operations for each byte read, by tokens in a step; `balance` is what a machine can do while it reads a byte.

    Below a machine's balance its arithmetic waits for its memory. The title names, for the first machine, from about
    how many tokens on that ends for each kind of layer.
    """
    machine, needed = next(iter(balance.items()))
    reached = {name: crossing(tokens, values, needed) for name, values in operations.items()}
    texts = [f"{f'{number:,}' if number else f'over {tokens[-1]:,}'} ({name})" for name, number in reached.items()]
    title = f"Memory no longer bounds {machine} from about so many tokens on: {', '.join(texts)}"
    figure = new_figure(title, 8.8, 3.5)
    ax = figure.subplots()
    draw_lines(ax, tokens, operations, lw=1.3)
    for (name, value), line in zip(balance.items(), ("--", ":", "-."), strict=False):
        ax.axhline(value, color="black", lw=1, ls=line, label=f"{name}: {value:,.0f}")
    logarithmic(ax.xaxis, tokens[::2])
    logarithmic(ax.yaxis)
    ax.margins(0.08)
    ax.set(xlabel="tokens in a step", ylabel="operations for each byte read")
    figure.legend(frameon=False, loc="outside right center")
    return figure


def crossing(places: Sequence[int], values: Sequence[int | float], needed: int | float) -> int | None:
    """Where growing values reach what is needed, to two digits: between two places as a line on logarithmic axes."""
    before = None
    for place, value in zip(places, values, strict=True):
        if value >= needed:
            if before is not None:
                share = math.log(needed / before[1]) / math.log(value / before[1])
                place = before[0] * (place / before[0]) ** share
            return int(float(f"{place:.2g}"))
        before = place, value
    return None
