"""How a model learns: its loss, and how evenly its experts are used."""

from collections.abc import Mapping, Sequence

from .canvas import DARK, PALE, Figure, new_figure, styled


@styled
def loss_curve(history: Sequence[Mapping[str, float | int]]) -> Figure:
    """A training record: each entry's `loss` (nats per target) and `balance` pale, their mean over 4 % of them dark."""
    steps, reach = [entry["step"] for entry in history], len(history) // 50

    def smooth(values: list[float]) -> list[float]:
        near = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
        return [sum(window) / len(window) for window in near]

    loss, balance = ([float(entry[name]) for entry in history] for name in ("loss", "balance"))
    title = f"The loss goes from {smooth(loss)[0]:.2f} to {smooth(loss)[-1]:.2f} nats in {steps[-1]:,} steps"
    figure = new_figure(title, 7.0, 3.4)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for ax, values, label in zip(axes, (loss, balance), ("loss (nats per target)", "balance loss"), strict=True):
        ax.plot(steps, values, color=PALE, lw=0.8)
        ax.plot(steps, smooth(values), color=DARK, lw=1.5, marker="o" if len(steps) < 3 else None, ms=3)
        ax.set_ylabel(label)
    axes[0].set_ylim(0, None)
    axes[1].set_xlabel("step")
    figure.align_ylabels(axes)
    return figure
