"""What a figure draws, in words and numbers. By these two runs of a notebook are compared, and not by their pixels.

A notebook keeps them under MIME beside the picture, and viewers pass over them. Numbers stand there as they are seen:
on a logarithmic axis as its decades, in a heat map as shades from 0 to 1. Of many numbers there is a digest.
"""

# matplotlib's annotations know less of artists than is asked of them here.
# mypy: disable-error-code="arg-type, union-attr, attr-defined, assignment, var-annotated"

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text

MIME = "application/vnd.qwen3-scratch.figure+json"
WHOLE = 100  # numbers; of more there remain QUANTILES and PROJECTIONS
QUANTILES = 9
PROJECTIONS = 8  # sums with fixed random factors: they move with any number that changes, or changes its place


def within(reach: float) -> str:
    """The `gid` of an artist whose numbers hang on rounding: how far they may move, as a share of the axis.

    On a logarithmic axis `reach` counts decades: within(1.0) compares orders of magnitude.
    """
    return f"within {reach:g}"


def drawn(figure: Figure) -> dict[str, dict[str, str]]:
    """Texts and numbers of a figure after it was drawn, each by its place, as in "0 title", that of the first panel."""
    texts = {"title": figure.get_suptitle(), "x": figure.get_supxlabel(), "y": figure.get_supylabel()}
    texts["legend"] = joined(text.get_text() for legend in figure.legends for text in legend.get_texts())
    numbers = {}
    for place, ax in enumerate(figure.axes):
        texts |= {f"{place} {name}": text for name, text in words_of(ax)}
        numbers |= {f"{place} {name}": text for name, text in numbers_of(ax)}
    return {"texts": {place: text for place, text in texts.items() if text}, "numbers": numbers}


def outline(texts: Mapping[str, str]) -> str:
    """A figure's title, and of each panel its own and its axes', as sentences: what a screen reader can say of it."""
    panels: dict[str, list[str]] = {}
    for place, text in texts.items():
        number, _, what = place.partition(" ")
        if what in ("title", "x", "y"):
            panels.setdefault(number, []).append(text.strip(" |") if what == "title" else f"{what}: {text}")
    said = [texts.get("title", ""), *(", ".join(part) for part in panels.values())]
    return " ".join(f"{' '.join(part.split()).rstrip('.')}." for part in said if part)


def joined(texts: Iterable[str]) -> str:
    found = list(texts)
    return " | ".join(found) if any(found) else ""


# ---- words -----------------------------------------------------------------------------------------


def words_of(ax: Axes) -> Iterator[tuple[str, str]]:
    """What is written in and around a panel, and the names of its scales and colours."""
    yield "title", joined(ax.get_title(side) for side in ("left", "center", "right"))
    for axis in (ax.xaxis, ax.yaxis):
        yield axis.axis_name, axis.get_label_text()
        yield f"{axis.axis_name} ticks", joined(label.get_text() for label in axis.get_ticklabels(which="both"))
        yield f"{axis.axis_name} scale", axis.get_scale().removeprefix("linear")
    cells = [plain(image.get_array()) for image in ax.images]
    yield "texts", joined(about(text, cells) for text in ax.texts)
    yield "legend", joined(text.get_text() for text in ax.get_legend().get_texts()) if ax.get_legend() else ""
    yield "colours", joined(image.get_cmap().name for image in ax.images)


def about(text: Text, images: Iterable[np.ndarray]) -> str:
    """The text, after "≈" where it rounds the value of the cell in which it stands, as a number or in percent."""
    (column, row), written = text.get_position(), text.get_text()
    for cells in images:
        try:
            value, number = float(cells[round(row), round(column)]), float(written)
        except (ValueError, IndexError):  # no number, or no cell
            continue
        if abs(100 * value - number) < 0.501 or abs(value - number) < 0.00501:
            return f"≈{written}"
    return written


# ---- numbers ---------------------------------------------------------------------------------------


def numbers_of(ax: Axes) -> Iterator[tuple[str, str]]:
    """All that is drawn in a panel. Artists of one look are one array, so that a missing one changes its length."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        yield f"limits {axis.axis_name}", digest(*as_seen(np.array(limits), axis))
    groups: dict[tuple[str, str], list[np.ndarray]] = {}
    for artist in ax.get_children():
        if artist.get_visible() and artist is not ax.patch and not isinstance(artist, Spine):
            gid = str(artist.get_gid() or "")
            for name, values in values_of(artist):
                groups.setdefault((name, gid if gid.startswith("within ") else ""), []).append(values)
    for (name, reach), found in groups.items():
        if name.startswith(("shades", "ends")):
            yield name, digest(np.concatenate(found), reach)
            continue
        for axis, values in zip((ax.xaxis, ax.yaxis), np.concatenate(found).T, strict=True):
            seen, unit = as_seen(values, axis)
            yield f"{name} {axis.axis_name}", digest(seen, *filter(None, (unit, reach)))


def values_of(artist: Artist) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an artist, each with what it shows: shades of cells, or points [n, 2] of the panel."""
    if isinstance(artist, AxesImage):
        yield "shades", plain(artist.norm(artist.get_array()))
        yield "ends of shades", np.array(artist.get_clim(), float)
    elif isinstance(artist, Line2D):
        label = "" if artist.get_label().startswith("_") else f" “{artist.get_label()}”"
        look = f"{artist.get_linestyle()}{artist.get_marker()}".replace("None", "")
        yield f"line{label} {look} {to_hex(artist.get_color())}", points(artist.get_xydata())
    elif isinstance(artist, Rectangle):
        yield f"bar {to_hex(artist.get_facecolor())}", points(artist.get_bbox().get_points())
    elif isinstance(artist, Patch):
        path = artist.get_patch_transform().transform_path(artist.get_path())
        yield f"shape {to_hex(artist.get_facecolor())}", points(path.vertices)
    elif isinstance(artist, PathCollection):
        yield f"dot {to_hex(artist.get_facecolor()[0])}", points(artist.get_offsets())
    elif isinstance(artist, Collection) and not isinstance(artist, QuadMesh):  # these are the shades of a colour bar
        yield "area", points([corner for path in artist.get_paths() for corner in path.vertices])
    elif isinstance(artist, Annotation) and artist.arrow_patch:
        yield "arrow", points([artist.xy, artist.xyann])


def points(pairs: Iterable[Any]) -> np.ndarray:
    return plain(pairs).reshape(-1, 2)


def plain(values: Any) -> np.ndarray:
    """Numbers without a mask: NaN where nothing is drawn."""
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def as_seen(values: np.ndarray, axis: Axis) -> tuple[np.ndarray, str]:
    """On a logarithmic axis the decades, where nothing is lower than the axis begins; else the numbers themselves."""
    if axis.get_scale() != "log":
        return values, ""
    return np.log10(np.fmax(values, min(axis.get_view_interval()))), "decades"


def digest(values: np.ndarray, *remarks: str) -> str:
    """Shape and remarks, a colon, and the numbers, if they are few; else quantiles of them and projections."""
    head, flat = ", ".join((" x ".join(map(str, values.shape)), *filter(None, remarks))), values.ravel()
    if flat.size > WHOLE:
        head += ", in short"
        known = flat[np.isfinite(flat)] if np.isfinite(flat).any() else np.zeros(1)
        factors = np.random.RandomState(0).uniform(-1, 1, (PROJECTIONS, flat.size))  # the same in all versions of numpy
        sums = factors @ np.where(np.isfinite(flat), flat, 0) / math.sqrt(flat.size)
        flat = np.concatenate((np.quantile(known, np.linspace(0, 1, QUANTILES)), sums))
    return f"{head}: {' '.join(f'{number:.5g}' for number in flat)}"
