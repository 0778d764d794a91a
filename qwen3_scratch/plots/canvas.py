"""What all figures share: sizes and shades, token labels, heat maps, panels. Nothing here touches pyplot.

Shades run from light (little) to dark (much) and read the same in grey; labels make spaces and line breaks visible.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import matplotlib.figure
import torch
from jaxtyping import Float, Int
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.colorbar import Colorbar
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage, imread, imsave
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from ..tokenizer import Tokenizer
from .drawn import MIME, drawn, outline

__all__ = ["Figure", "token_labels"]

FONT, SMALL = "DejaVu Sans", 7  # the font that matplotlib brings along; the size of labels in points
DARK, MIDDLE, PALE, LIT = "#08306b", "#4292c6", "#c6dbef", "#ffd27f"
GREY = "#777777"  # lines and edges that only help to read
# Form, marker, colour and width: lines are told apart by form, then by shade.
LINES = (("-", "o", DARK, 2.0), ("--", "s", MIDDLE, 1.6), (":", "^", "#555555", 1.6), ("-.", "v", DARK, 1.2))
STYLE = {
    "font.family": FONT, "font.size": 8.5, "axes.titlesize": 8.5, "axes.titlelocation": "left", "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "figure.titlesize": 10.5, "figure.titleweight": "bold", "text.parse_math": False, "image.cmap": "Blues",
}  # fmt: skip
SHARES = PowerNorm(0.5, 0, 1)  # the scale of attention weights, on which small ones stay visible
styled = style.context(["default", STYLE])  # as a decorator: the settings of one call, and of no other


class Figure(matplotlib.figure.Figure):
    """A Figure that shows itself at the end of a notebook cell, sharp on any screen, with no backend at work.

    Beside the picture a notebook keeps what it draws, so that another run can be compared by that, and in the
    picture's metadata `alt`: what is to be seen, for those who cannot see it.
    """

    alt = ""  # set by the function that draws; else the titles and axes are named
    few_colours = False  # set where there are no shades: 16 steps of each colour show the same in half of the bytes

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        png, about = self._repr_png_()  # first, since layout and ticks are settled while it is drawn
        shown = drawn(self)
        return {"image/png": png, MIME: shown}, {"image/png": about | {"alt": self.alt or outline(shown["texts"])}}

    @styled
    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=120)
        if self.few_colours:
            levels = (imread(io.BytesIO(file.getvalue())) * 15).round() / 15
            file = io.BytesIO()
            imsave(file, levels, format="png", pil_kwargs={"optimize": True})
        width, height = (round(inches * 96) for inches in self.get_size_inches())
        return file.getvalue(), {"width": width, "height": height}


def token_labels(tokenizer: Tokenizer | None, token_ids: Iterable[Any], limit: int = 12) -> list[str]:
    """A short text for each token: ␣ is a space, ⏎ a line break, hex digits are part of a character, □ has no glyph."""

    def label(token: int) -> str:
        raw = b"" if tokenizer is None else tokenizer.token_bytes(token)
        try:
            text = raw.decode() or f"#{token}"  # no tokenizer, or a row of the embedding behind its vocabulary
        except UnicodeDecodeError:
            text = f"<{raw.hex()}>"
        text = with_signs(text)
        return text if len(text) <= limit else text[: limit - 1] + "…"

    return [label(int(token)) for token in token_ids]


def with_signs(text: str) -> str:
    """Spaces, line breaks and tabs as signs, since " Tom" and "Tom" are two tokens; □ for what has no glyph."""
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(character if ord(character) in _glyphs() else "□" for character in text)


@cache
def _glyphs() -> Mapping[int, Any]:
    return font_manager.get_font(font_manager.findfont(FONT)).get_charmap()


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure, in inches, with its finding at the top left, wrapped to its width."""
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, int((width - 0.3) * 11.5)), x=0.1 / width, ha="left")
    return figure


def label_axis(axis: XAxis | YAxis, labels: Iterable[Any], inches: float, place: float = 0.0, apart: int = 1) -> None:
    """Labels along an axis of this length, from `place` on every `apart` cells; if short, every second, ..."""
    texts = [str(label) for label in labels]
    each, longest = inches / len(texts), max(map(len, texts))
    across, high = longest * SMALL * 0.62 / 72, SMALL * 1.25 / 72  # inches that a label takes
    upright = axis.axis_name == "x" and across > each and longest > 3
    step = max(1, math.ceil((across if axis.axis_name == "x" and not upright else high) / each))
    places = [place + apart * number for number in range(0, len(texts), step)]
    axis.set_ticks(places, texts[::step], fontsize=SMALL, parse_math=False)
    axis.set_tick_params(length=0, pad=3)
    for text in axis.get_ticklabels():
        text.set_rotation(90 if upright and len(text.get_text()) > 1 else 0)


def heatmap(ax: Axes, values: Tensor, texts: Iterable[Iterable[Any]] | None = (), **options: Any) -> AxesImage:
    """A cell a value [rows, columns]; in it a text (None: its percents), white on dark and black on light."""
    image = ax.imshow(values.detach().float().cpu().numpy(), **{"aspect": "auto"} | options)
    ax.spines[:].set_visible(False)
    texts = [[f"{100 * value:.0f}" for value in line] for line in values.tolist()] if texts is None else texts
    norm: Any = image.norm  # the library annotates it for arrays alone
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if norm(float(values[row, column])) > 0.6 else "black"
            cell = ax.text(column, row, str(text), ha="center", va="center", fontsize=6.3, color=colour)
            cell.set_in_layout(False)  # it lies within the axes; measuring thousands takes seconds
    return image


def percent(share: float, place: int | float | None = None) -> str:
    """A percentage for a tick of an axis."""
    return f"{100 * share:.3g}%"


def in_words(count: int) -> str:
    """A count in three digits, as one says it: 860 million."""
    size, name = next((found for found in ((1e9, "billion"), (1e6, "million")) if count >= found[0]), (1.0, ""))
    return f"{count / size:.3g} {name}" if name else f"{count:,}"


def spoken(share: float) -> str:
    """A percentage for a sentence: two digits, as far as they are more than a tenth of a percent."""
    return f"{share:,.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.0005 or share <= 0 else "<0.1%"


def span(values: Tensor, text: str = "{:.0%}") -> str:
    """The range of some numbers, as in 54% to 69%."""
    low, high = text.format(float(values.min())), text.format(float(values.max()))
    return low if low == high else f"{low} to {high}"


def rounded(half: float) -> str:
    """Half an interval by its first digit, or where that is a 1 by two: rounded to one, 0.014 would lose a third."""
    if half >= 10:
        return f"{half:.0f}"
    short = f"{half:.1g}"
    return f"{half:.2g}" if short.lstrip("0.").startswith("1") else short


def layers_named(layers: Sequence[int]) -> str:
    """Some layers in a sentence, as in `layers 0 to 2 and 5`; many that stand apart are counted."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    if len(runs) > 4:
        return f"{len(layers)} layers"
    *most, last = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"layer{'s' * (len(layers) > 1)} " + " and ".join([", ".join(most)] * bool(most) + [last])


def legend_beside(figure: Figure, ax: Axes, **options: Any) -> None:
    """The entries of one panel, to the right of all."""
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside right center", **options)


def colour_bar(figure: Figure, image: AxesImage, label: str, **options: Any) -> Colorbar:
    """A bar beside all axes that says which shade is how many percent, or with `format=None` which number."""
    size = min(1.0, 2.2 / figure.get_figheight())
    usual: dict[str, Any] = {"ax": figure.axes, "shrink": size, "aspect": 14, "pad": 0.01, "format": percent}
    bar = figure.colorbar(image, label=label, **usual | options)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL)
    return bar


def half_interval(values: Float[Tensor, "rows n"], factor: int | float = 1.96) -> Float[Tensor, "rows"]:
    """Half of the 95% interval of each row's mean; none (0) of one value. Of few values `factor` is Student's."""
    count = values.shape[1]
    return factor * values.std(1, correction=int(count > 1)) / math.sqrt(count)


def with_interval(values: Float[Tensor, "n"], form: str = ".0%") -> str:
    """Their mean and half of its 95% interval in a sentence, as in 85% ± 4%."""
    mean, half = (f"{float(each):{form}}" for each in (values.mean(), half_interval(values[None])))
    return f"{mean} ± {half.strip()}"


FEW = {2: 12.7062, 3: 4.3027, 4: 3.1824}  # where the expansion falls short


def student(count: int) -> float:
    """Student's factor of a 95% interval of so many values, 1.96 of many: for more than four by its expansion in
    1 / (count - 1), Abramowitz & Stegun 26.7.5, which gives 2.77 for five, where tables have 2.78."""
    z, free = 1.959964, max(1, count - 1)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return FEW.get(count) or sum(term / free**power for power, term in enumerate(terms))


def by_group(
    values: Float[Tensor, "*cells n"], group: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "*cells groups"], Float[Tensor, "*cells groups"]]:
    """The mean of each group of values, and half of its 95% interval by Student's factor, since groups may be small."""
    parts = [values.reshape(-1, len(group))[:, group == number] for number in range(int(group.max()) + 1)]
    means = [part.mean(1) for part in parts]
    halves = [half_interval(part, student(part.shape[1])) for part in parts]
    shape = (*values.shape[:-1], len(parts))
    return torch.stack(means, 1).view(shape), torch.stack(halves, 1).view(shape)


def draw_lines(
    ax: Axes, places: Sequence[int | float], lines: Mapping[str, Sequence[int | float]], **options: Any
) -> None:
    """Up to four lines that differ in grey, with a marker at each place (`marker=None`: without), by name."""
    for (name, values), (form, marker, colour, width) in zip(lines.items(), LINES, strict=False):
        look: dict[str, Any] = {"ls": form, "marker": marker, "color": colour, "lw": width, "ms": 4}
        ax.plot(places, values, label=name, **look | options)


def logarithmic(
    axis: XAxis | YAxis,
    places: Sequence[int | float] = (),
    *,
    base: int = 10,
    parts: Sequence[int | float] = (),
    text: Callable[[float], str] = "{:,.10g}".format,
) -> None:
    """Powers of `base` along an axis, with numbers as they are spoken: at `places`, or at `parts` of each power."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base)
    axis.set_minor_locator(NullLocator())
    if parts:
        axis.set_major_locator(LogLocator(base, parts))
    axis.set_major_formatter(lambda value, place: text(value))
    if places:
        axis.set_ticks(places, [text(place) for place in places], fontsize=SMALL)


def line_panels(title: str, count: int, most: int, wide: float, high: float) -> tuple[Figure, list[tuple[Axes, slice]]]:
    """A panel a line of at most `most` of `count` tokens, each `wide` and the line `high` in inches, and its tokens."""
    lines = math.ceil(count / most)
    longest = math.ceil(count / lines)
    figure = new_figure(title, max(5.2, wide * longest + 1.7), max(2.6, 0.5 + lines * (0.9 + high)))
    figure.set_layout_engine("constrained", h_pad=0.08)
    axes = figure.subplots(lines, 1, squeeze=False)[:, 0]
    return figure, [(ax, slice(line * longest, min((line + 1) * longest, count))) for line, ax in enumerate(axes)]


def small_multiples(figure: Figure, count: int) -> list[tuple[Axes, bool, bool]]:
    """Axes in rows of four, each with whether it is the first of its row and whether it is the last of its column."""
    columns = min(count, 4)
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.remove()
    return [(ax, number % columns == 0, number + columns >= count) for number, ax in enumerate(grid[:count])]
