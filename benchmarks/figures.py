"""Figures of results: bars of contestants by case, and lines over a length or a number."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from qwen3_scratch.plots.canvas import DARK, MIDDLE, PALE, SMALL, Figure, new_figure, styled

from .script import digits

LINES = (
    ("o-", DARK), ("s--", MIDDLE), ("^:", "#555555"), ("D-.", "black"), ("v-", "#777777"), ("P--", "#08519c"),
    ("X:", MIDDLE), ("<-.", "#555555"),
)  # fmt: skip
Spans = Mapping[str, tuple[float, float, float]]  # contestant -> median, lowest, highest


def spans(rows: Sequence[Mapping[str, Any]], case: Mapping[str, Any], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Contestant -> (median, lowest, highest), or None where it was not run, of a case's rows."""
    fitting = (row for row in rows if row["case"] == dict(case) and row["name"] not in leave_out)
    return {row["name"]: (row["median"], row["low"], row["high"]) if "median" in row else None for row in fitting}


@styled
def bars(
    title: str,
    panels: Mapping[str, Mapping[str, tuple[float, float, float] | None]],
    unit: str,
    *,
    ours: Sequence[str] = ("plain", "compiled"),
    bounds: Mapping[str, float] | None = None,
    bound_label: str = "read bandwidth allows",
    columns: int = 2,
) -> Figure:
    """A bar a contestant, ours darker, with the span of its rounds; a panel a case; a dashed line where a bound is."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    lines = -(-len(panels) // columns)
    figure = new_figure(title, 9.6, 0.75 + lines * (0.55 + 0.21 * len(names)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for ax in grid[len(panels) :]:
        ax.remove()
    for ax, (case, panel) in zip(grid, panels.items(), strict=False):
        bound = (bounds or {}).get(case)
        most = max([span[2] for span in panel.values() if span] + [bound or 0.0]) or 1.0
        for place, name in enumerate(names):
            span = panel.get(name)
            if span is None:
                ax.text(0.01 * most, place, "not run", style="italic", va="center", fontsize=SMALL)
                continue
            median, low, high = span
            ax.barh(place, median, color=MIDDLE if name in ours else PALE, edgecolor=DARK, lw=0.6, height=0.7)
            ax.plot([low, high], [place, place], color="black", lw=1)
            ax.annotate(digits(median), (high, place), (4, 0), textcoords="offset points", va="center", fontsize=SMALL)
        if bound:
            ax.axvline(bound, color="black", lw=1, ls="--", label=f"{bound_label}")
        ax.set_title(case)
        ax.set(xlim=(0, 1.18 * most), ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
        ax.set_yticklabels(names, fontsize=SMALL)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(lambda value, place: f"{value:,g}")
    figure.supxlabel(unit, fontsize=8.5)
    if bounds:
        handles = next(ax for ax in grid[: len(panels)] if ax.get_legend_handles_labels()[0])
        figure.legend(*handles.get_legend_handles_labels(), frameon=False, loc="outside lower right")
    return figure


@styled
def lines(
    title: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A line a contestant through (place, median, lowest, highest), both axes by powers; a panel a case."""
    figure = new_figure(title, 9.2, 3.9)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for ax, (case, panel) in zip(grid, panels.items(), strict=True):
        places = sorted({point[0] for points in panel.values() for point in points})
        for name, (form, colour) in zip(names, LINES, strict=False):
            if points := panel.get(name):
                x, median, low, high = zip(*points, strict=True)
                ax.plot(x, median, form, color=colour, ms=4, lw=1.2, label=name)
                ax.vlines(x, low, high, color=colour, lw=0.8)
        ax.set_title(case)
        ax.set(xscale="log", yscale="log", xlabel=xlabel)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, place: ""))
        ax.set_xticks(places, [f"{place:,.0f}" for place in places], fontsize=SMALL)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        ax.margins(0.06)
    grid[0].set_ylabel(ylabel)
    handles = {}
    for ax in grid:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=3)
    return figure
