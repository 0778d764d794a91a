"""Hosts that hold some of the layers each, and pass texts on: who works when."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch, Rectangle

from .canvas import LIT, MIDDLE, PALE, SMALL, Figure, new_figure, styled

__all__ = ["pipeline_times"]

TEXTS = (MIDDLE, PALE, LIT)  # their shades, in turns
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
                look: dict[str, Any] = {"fc": TEXTS[text % 3], "ec": "black", "lw": 0.6}
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
