"""Hosts that hold some of the layers each and pass texts on: who works when; and what other ways to share take."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch, Rectangle

from .canvas import LIT, MIDDLE, PALE, SMALL, Figure, logarithmic, new_figure, styled

__all__ = ["pipeline_times", "way_times"]

TEXTS = (MIDDLE, PALE)  # their shades, in turns
WAITS: dict[str, Any] = {"fc": "white", "ec": "#999999", "hatch": "////", "lw": 0.0}


@styled
def pipeline_times(cases: Mapping[str, Sequence[Sequence[int | float]]], work: int | float) -> Figure:
    """A panel a case, a row a host, and in it a block for each text that it works on; hatched, it waits.

    A case holds the time at which each host begins with each text (`inside.cutting.pipeline_starts`); a text takes
    `work` on each. The title says how much of its time a host waits, until all are done.
    """
    ends = {case: starts[-1][-1] + work for case, starts in cases.items()}
    waits = {case: 1 - len(starts[0]) * work / ends[case] for case, starts in cases.items()}
    title = f"Hosts wait {', '.join(f'{share:.0%} of the time with {case}' for case, share in waits.items())}"
    rows = [len(starts) for starts in cases.values()]
    figure = new_figure(title, 8.8, 0.9 + sum(0.62 + 0.27 * count for count in rows))
    axes = figure.subplots(len(cases), 1, squeeze=False, sharex=True, height_ratios=[2 + count for count in rows])[:, 0]
    for ax, (case, starts) in zip(axes, cases.items(), strict=True):
        for host, begun in enumerate(starts):
            ax.add_patch(Rectangle((0, host + 0.1), ends[case], 0.8, **WAITS))
            for text, start in enumerate(begun):
                look: dict[str, Any] = {"fc": TEXTS[text % 2], "ec": "black", "lw": 0.6}
                ax.add_patch(Rectangle((start, host + 0.1), work, 0.8, **look))
                if 80 * work > max(ends.values()):
                    middle = start + work / 2, host + 0.5
                    ax.text(*middle, f"{text}", ha="center", va="center", fontsize=SMALL)
        ax.set(title=f"{case}: done after {ends[case]:g} ms", xlim=(0, max(ends.values())), ylim=(len(starts), 0))
        ax.set_yticks([host + 0.5 for host in range(len(starts))], [f"host {host}" for host in range(len(starts))])
        ax.tick_params(axis="y", length=0, labelsize=SMALL)
    axes[-1].set_xlabel("milliseconds")
    marks = [Patch(fc=MIDDLE, ec="black", lw=0.6), Patch(**WAITS)]
    labels = ["works on a text, whose number it bears", "waits"]
    figure.legend(marks, labels, frameon=False, loc="outside lower center", ncols=2)
    told = (f"{case}: {len(starts)} hosts are done after {ends[case]:g} ms" for case, starts in cases.items())
    figure.alt = f"{title}. A row a host, a block a text that it works on. {'; '.join(told)}."
    return figure


@styled
def way_times(ways: Sequence[str], cases: Mapping[str, Sequence[Sequence[int | float]]]) -> Figure:
    """Seconds to send and to work by way to share a model, points on a logarithmic axis, a panel a case.

    A case is a pair of seconds for each way, to send and to work; its sum is written at the right. What takes no time
    has no point. The title says which way is the fastest in each case.
    """
    totals = {case: [sum(pair) for pair in times] for case, times in cases.items()}
    told = {case: [f"{1e3 * x:,.0f}" if x > 0.1 else f"{1e3 * x:.3g}" for x in each] for case, each in totals.items()}
    best = (f"{case}: {ways[each.index(min(each))]}" for case, each in totals.items())
    title = f"The fastest for {'; for '.join(best)}"
    figure = new_figure(title, 8.8, 1.5 + 0.34 * len(ways))
    axes = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    looks: list[dict[str, Any]] = [{"marker": "D", "color": LIT, "label": "to send (no point: nothing is sent)"}]
    looks.append({"marker": "o", "color": MIDDLE, "label": "to work"})
    for ax, (case, times) in zip(axes, cases.items(), strict=True):
        shown = [1e3 * time for pair in times for time in pair if time > 0]
        logarithmic(ax.xaxis)
        for row in range(len(ways)):
            ax.axhline(row, color="#dddddd", lw=0.8, zorder=0)
        for part, look in enumerate(looks):
            seconds = [1e3 * pair[part] if pair[part] > 0 else math.nan for pair in times]
            places = [row + 0.26 * (part - 0.5) for row in range(len(ways))]
            ax.plot(seconds, places, ls="", mec="black", mew=0.7, ms=6, **look)
        for row, total in enumerate(told[case]):
            where = {"xy": (1, row), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(total, **where, xytext=(4, 0), va="center")
        ax.set(title=case, xlabel="milliseconds; at the right their sum", xlim=(min(shown) / 2, 2 * max(shown)))
        ax.set_ylim(len(ways) - 0.5, -0.5)
        ax.set_yticks(range(len(ways)), ways)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    rows = ("; ".join(map(": ".join, zip(ways, each, strict=True))) for each in told.values())
    each = ". ".join(f"Milliseconds of {case}: {row}" for case, row in zip(told, rows, strict=True))
    figure.alt = f"{title}. {each}."
    return figure
