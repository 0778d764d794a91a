"""What drawings are made of: a sheet in inches, boxes with their text, and the lines and arrows between them."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from .canvas import DARK, SMALL, Figure

Point = tuple[int | float, int | float]  # of a drawing


def empty_axes(figure: Figure, width: float, height: float) -> Axes:
    """Axes for a drawing in inches, from the top left, with nothing around them."""
    ax = figure.subplots()
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


def box(ax: Axes, left: float, middle: float, width: float, text: str, high: float = 0.26, **look: Any) -> None:
    """A box of a drawing with its text, at the height `middle`."""
    options: dict[str, Any] = {"fc": "white", "ec": DARK, "lw": 0.8}
    ax.add_patch(Rectangle((left, middle - high / 2), width, high, **options | look))
    ax.text(left + width / 2, middle, text, fontsize=SMALL, ha="center", va="center")


def bend(ax: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    """A line from the left to the right that leaves and arrives level."""
    half = (start[0] + end[0]) / 2
    points = (start, (half, start[1]), (half, end[1]), end)
    path = Path(points, (Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4))
    ax.add_patch(PathPatch(path, fill=False, **{"zorder": 0} | look))


def draw_arrow(ax: Axes, start: Point, end: Point, **options: Any) -> None:
    """A thin arrow from one point to another, as diagrams have between their boxes."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "lw": 0.9, "color": "#555555"}, **options)
