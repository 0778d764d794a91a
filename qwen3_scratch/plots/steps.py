"""What a step pays for, stage by stage: the whole bill, a cache that keeps its shape, operations made one loop."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch, Rectangle

from .boxes import box, empty_axes
from .canvas import DARK, LIT, PALE, SMALL, Figure, new_figure, styled

__all__ = ["cache_slots", "one_loop", "step_bill"]

NEW: dict[str, Any] = {"fc": LIT, "ec": "black", "lw": 1.8, "zorder": 2}
HIDDEN: dict[str, Any] = {"hatch": "////", "ls": "--"}


@styled
def step_bill(
    bills: Mapping[str, Sequence[int | float]],
    columns: Sequence[str],
    put_in: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """A row for each stage, a panel for each thing that a step pays for, and the number at each bar.

    Bars are dark where less than half of the first stage's is left, and hatched where it is more than there. What was
    `put_in` rather than counted, by stage the columns, is hollow, its number in brackets. The title names what falls
    below that half anywhere, with the least number that was counted.
    """
    names, first = list(bills), next(iter(bills.values()))
    known = put_in or {}
    counted = {
        column: [each[at] for name, each in bills.items() if column not in known.get(name, ())]
        for at, column in enumerate(columns)
    }
    least = [min(each) for each in counted.values()]
    fell = [(column, a, b) for column, a, b in zip(columns, first, least, strict=True) if b < a / 2]
    said = ", ".join(f"{column} {a:,g} → {b:,g}" for column, a, b in fell)
    title = f"The least in any counted stage: {said}" if fell else "No stage takes half of anything away"
    figure = new_figure(title, 8.8, 1.3 + 0.32 * len(names))
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for at, (ax, column) in enumerate(zip(axes, columns, strict=True)):
        values = [each[at] for each in bills.values()]
        for row, value in enumerate(values):
            hollow, fell_here = column in known.get(names[row], ()), value < values[0] / 2
            look: dict[str, Any] = {"fc": DARK if fell_here else PALE, "ec": "black", "lw": 0.6}
            look |= {"fc": "none", "ls": "--"} if hollow else {}
            ax.barh(row, value, 0.62, hatch="////" if value > values[0] else "", **look)
            shown, weight = f" ({value:,g})" if hollow else f" {value:,g}", "bold" if fell_here and not hollow else None
            ax.annotate(shown, (value, row), va="center", fontsize=SMALL + 0.5, weight=weight)
        ax.set(xlim=(0, 1.4 * max([*values, 1e-9])), xticks=(), ylim=(len(names) - 0.5, -0.5))
        ax.set(yticks=range(len(names)), yticklabels=names)
        ax.set_title(column)
        ax.spines.bottom.set_visible(False)
    marks = [Patch(fc=DARK, ec="black", lw=0.6), Patch(fc=PALE, ec="black", lw=0.6, hatch="////")]
    labels = ["less than half of the first stage's (bold)", "more than the first stage's"]
    if known:
        marks.append(Patch(fc="none", ec="black", lw=0.6, ls="--"))
        labels.append("(not counted)")
    figure.legend(marks, labels, frameon=False, loc="outside lower center", ncols=3)
    rows = (f"{name}: " + ", ".join(map("{:,g}".format, each)) for name, each in bills.items())
    hollow_ones = "; ".join(f"{name}: {', '.join(each)}" for name, each in known.items())
    figure.alt = f"{title}. For each stage {', '.join(columns)}. {'; '.join(rows)}."
    figure.alt += f" Hollow, not counted, of {hollow_ones}." if known else ""
    return figure


@styled
def cache_slots(held: int, length: int, steps: int = 3) -> Figure:
    """Slots that attention is handed in some steps: on the left by a cache that grows, on the right by a static one.

    `held` tokens are there before the first of them. Hatched slots are hidden by the mask.
    """
    title = "A growing cache has another shape at each step, a static one never"
    figure = new_figure(title, 8.8, 0.75 + 0.34 * steps)
    ax = empty_axes(figure, 8.8, 0.4 + 0.34 * steps)
    wide = min(0.55, 3.3 / max(length, held + steps))
    for left, name in ((0.8, "growing"), (5.0, "static")):
        ax.text(left, 0.1, name, fontsize=SMALL + 1.5, va="center", weight="bold")
        for step in range(steps):
            now, middle = held + step, 0.42 + 0.34 * step
            handed = length if name == "static" else now + 1
            for slot in range(handed):
                look: dict[str, Any] = {"fc": PALE} if slot < now else NEW if slot == now else HIDDEN
                box(ax, left + wide * slot, middle, wide, str(slot) if slot <= now else "", **look)
            ax.text(left + wide * handed + 0.08, middle, f"{handed}", fontsize=SMALL + 0.5, va="center")
            if name == "growing":
                ax.text(0.1, middle, f"token {now}", fontsize=SMALL + 0.5, va="center")
    grown = ", ".join(str(held + step + 1) for step in range(steps))
    figure.alt = f"{title}: {grown} slots against always {length}, those after the newest hidden by the mask."
    return figure


Written = tuple[str, Sequence[str], str]  # a step's name, what it reads, what it writes down


@styled
def one_loop(steps: Sequence[Written]) -> Figure:
    """Steps one after the other, each a launch (a frame) that reads and writes memory, and the same as one loop."""
    made = {out for _, _, out in steps}
    inputs = list(dict.fromkeys(name for _, read, _ in steps for name in read if name not in made))
    fused: Written = (", ".join(name for name, _, _ in steps), inputs, steps[-1][2])
    passes = [sum(len(read) + 1 for _, read, _ in kind) for kind in (steps, [fused])]
    title = f"As one loop: 1 launch instead of {len(steps)}, {passes[1]} passes through memory instead of {passes[0]}"
    figure = new_figure(title, 8.8, 1.4)
    ax = empty_axes(figure, 8.8, 1.05)
    wide = min(0.95, 7.0 / (passes[0] + len(steps)))
    for middle, label, kind in ((0.25, "one by one", steps), (0.78, "as one loop", [fused])):
        ax.text(0.1, middle, label, fontsize=SMALL + 0.5, va="center")
        left = 1.15
        for name, read, out in kind:
            start = left
            size = wide * (1 if kind is steps else len(steps))
            cells = [(f"read {each}", wide, LIT) for each in read] + [
                (name, size, "white"),
                (f"write {out}", wide, LIT),
            ]
            for text, width, shade in cells:
                box(ax, left + 0.05, middle, width - 0.04, text, fc=shade)
                left += width
            ax.add_patch(Rectangle((start, middle - 0.19), left + 0.06 - start, 0.38, fc="none", ec="black", lw=1.3))
            left += 0.16
    rows = "; ".join(f"{name} reads {' and '.join(read)}, writes {out}" for name, read, out in steps)
    figure.alt = f"{title}. One by one: {rows}. As one loop: it reads {' and '.join(inputs)}, writes {fused[2]}."
    return figure
