"""What bounds a step, and how long it takes: launches and dispatch sketched, stages against the bound."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .boxes import box, empty_axes
from .canvas import (  # fmt: skip
    DARK,
    LIT,
    PALE,
    SMALL,
    Figure,
    draw_lines,
    logarithmic,
    new_figure,
    styled,
)

__all__ = [
    "arithmetic_intensity", "dispatch_forms", "eager_rows", "launch_sketch", "longer_of_two", "recorded_rows",
    "stage_times",
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
    title = "A sketch, not measured: the longer row sets the time"
    title += "; a wait adds to it" * any(rows.waits for rows in cases.values())
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


Block = list[int]  # tokens whose vectors one matrix multiplies


@styled
def dispatch_forms(chosen: Sequence[int], experts: int, grouped: bool = True) -> Figure:
    """The same products in two or three forms, a panel each: a frame is a call, in it tokens beside their matrix.

    `chosen` is the one expert of each token; tokens are A, B and so on. Dashed matrices are copies.
    """
    each = [[token] for token in range(len(chosen))]
    groups = [[token for token, one in enumerate(chosen) if one == expert] for expert in sorted(set(chosen))]
    ends = ", ".join(str(sum(one <= expert for one in chosen)) for expert in range(experts))
    forms: dict[str, tuple[list[list[Block]], str]] = {
        "loop": ([[block] for block in groups], "asks how many rows each expert has"),
        "gathered": ([each], "copies; its code asks for nothing"),
        "grouped": ([groups], f"sorts; its code hands over the ends {ends}"),
    }
    if not grouped:
        del forms["grouped"]
    calls = [len(form) for form, _ in forms.values()]
    title = f"Each matrix's products by {', '.join(map(str, calls[:-1]))} and {calls[-1]} calls (frames)"
    title += "; only the loop's code asks for values"
    high = 0.85 + 0.3 * len(chosen) + 0.16 * max(calls)
    figure = new_figure(title, 8.8, high + 0.3)
    ax = empty_axes(figure, 8.8, high)
    for number, (name, (form, note)) in enumerate(forms.items()):
        left, top = 0.1 + 8.7 / len(forms) * number, 0.3
        ax.text(left, 0.12, name, fontsize=SMALL + 1.5, va="center", weight="bold")
        for call in form:
            top = draw_call(ax, left, top, call, chosen, copied=name == "gathered", wide=8.7 / len(forms) - 1)
        read = sum(map(len, form))
        for line, text in enumerate((f"{count(len(form), 'call')}, {read} matri{'x' if read == 1 else 'ces'}", note)):
            ax.text(left, high - 0.34 + 0.18 * line, text, fontsize=SMALL, va="center")
    told = (f"{name}: {count(len(form), 'call')}, {note}" for name, (form, note) in forms.items())
    figure.alt = f"{title}. Tokens choose experts {', '.join(map(str, chosen))}. {'; '.join(told)}."
    return figure


def draw_call(
    ax: Axes, left: float, top: float, call: list[Block], chosen: Sequence[int], copied: bool, wide: float
) -> float:
    """A frame with the blocks of one call, from `top` down; gives where the next one begins."""
    row = top + 0.05
    for block in call:
        high, shade = 0.3 * len(block), (PALE, "white", LIT)[chosen[block[0]] % 3]
        for token in block:
            box(ax, left + 0.08, row + 0.15, 0.3, chr(ord("A") + token), 0.24)
            row += 0.3
        look: dict[str, Any] = {"fc": shade, "ls": "--" if copied else "-"}
        ax.text(left + 0.5, row - high / 2, "·", fontsize=SMALL + 3, ha="center", va="center")
        name = "copy of " * copied + f"expert {chosen[block[0]]}"
        box(ax, left + 0.62, row - high / 2, wide - 0.7, name, high - 0.06, **look)
    ax.add_patch(Rectangle((left, top), wide, row + 0.05 - top, fc="none", ec="black", lw=1.3))
    return row + 0.05 + 0.06


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


@styled
def stage_times(
    measured: Mapping[str, int | float | None], estimated: Mapping[str, int | float], bound: int | float
) -> Figure:
    """Milliseconds that each stage takes for a step (None: not run here), an estimate, and the bound that reading sets.

    All are given in seconds. The distance from a bar's end to its diamond is what the estimate misses.
    """
    run = {name: seconds for name, seconds in measured.items() if seconds is not None}
    best = min(run, key=run.__getitem__)
    title = f"“{best}” is the fastest stage here: {1e3 * run[best]:.3g} ms a step, {over(run[best], bound)} the bound"
    figure = new_figure(title, 8.8, 1.5 + 0.34 * len(measured))
    ax, names = figure.subplots(), list(measured)
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": SMALL + 0.5}
    for row, seconds in enumerate(measured.values()):
        if seconds is None:
            ax.annotate("not run here", (1.01, row), style="italic", **beside)
        else:
            ax.annotate(f"{1e3 * seconds:.3g} ms ({over(seconds, bound)})", (1.01, row), **beside)
    bars: dict[str, Any] = {"color": PALE, "edgecolor": "black", "lw": 0.8, "label": "measured"}
    ax.barh([names.index(name) for name in run], [1e3 * seconds for seconds in run.values()], 0.55, **bars)
    look: dict[str, Any] = {"marker": "D", "mfc": LIT, "mec": "black", "mew": 0.8, "ms": 7, "ls": "none"}
    rows = [names.index(name) for name in estimated]
    ax.plot([1e3 * seconds for seconds in estimated.values()], rows, label="first estimate", **look)
    ax.axvline(1e3 * bound, color="black", lw=1.2, ls="--", label=f"bound by bytes: {1e3 * bound:.3g} ms")
    ax.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names)
    ax.set_xlim(0, 1.08e3 * max(bound, *run.values(), *estimated.values()))
    ax.set_xlabel("milliseconds a step (in brackets: times the bound)")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    told = [f"{name} {1e3 * run[name]:.3g} ms measured, {1e3 * estimated[name]:.3g} estimated" for name in estimated]
    figure.alt = f"{title}. {'; '.join(told)}. The bound by bytes: {1e3 * bound:.3g} ms."
    return figure


def over(seconds: float, bound: float) -> str:
    return f"{float(f'{seconds / bound:.2g}'):,g} times"


@styled
def longer_of_two(tokens: Sequence[int], reading: Sequence[int | float], computing: Sequence[int | float]) -> Figure:
    """Milliseconds of a step by its tokens: to read, to compute, and as a broad band the longer of both, the step.

    The title says from about how many tokens on arithmetic takes longer. Both axes are logarithmic.
    """
    ratio = [work / read for work, read in zip(computing, reading, strict=True)]
    met = crossing(tokens, ratio, 1)
    title = f"Arithmetic sets the time from {met:,} tokens on" if met else "Reading sets the time at all these sizes"
    figure = new_figure(title, 8.8, 3.2)
    ax = figure.subplots()
    step = [max(pair) for pair in zip(reading, computing, strict=True)]
    ax.plot(tokens, step, color=LIT, lw=9, solid_capstyle="round", label="the step: the longer of both")
    draw_lines(ax, tokens, {"to read the weights": reading, "to multiply and add": computing}, lw=1.4)
    logarithmic(ax.xaxis, tokens)
    logarithmic(ax.yaxis, parts=(1, 2, 5))
    ax.margins(0.08)
    ax.set(xlabel="tokens in a step", ylabel="milliseconds")
    figure.legend(frameon=False, loc="outside right center")
    told = (f"{count(many, 'token')} {time:.3g}" for many, time in zip(tokens, step, strict=True))
    figure.alt = f"{title}. Milliseconds of a step, the longer of reading and computing: {', '.join(told)}."
    return figure


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
    never = {
        name: "never" if values[-1] == values[0] else f"over {tokens[-1]:,}" for name, values in operations.items()
    }
    texts = [f"{f'{number:,}' if number else never[name]} ({name})" for name, number in reached.items()]
    title = f"Reading these no longer bounds {machine} from about so many tokens on: {', '.join(texts)}"
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
