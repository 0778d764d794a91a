"""The map of the model that every notebook opens with."""

import textwrap
from collections.abc import Collection
from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ..errors import Error
from .canvas import GREY, LIT, SMALL, Figure, styled

__all__ = ["PARTS", "model_map"]

# Where in the model a notebook stands. All sizes in inches.
BOXES = (  # part, left, bottom, width, height, text, notebook
    ("text", 0.15, 2.4, 1.15, 0.4, "text", ""), ("tokens", 0.15, 1.45, 1.15, 0.5, "chat, tokens", "02"),
    ("embedding", 0.15, 0.4, 1.15, 0.5, "embedding", "03"), ("rms_norm", 1.9, 1.1, 0.82, 0.5, "rms_norm", "03"),
    ("qkv", 1.9, 1.98, 0.48, 0.5, "q, k", "04"), ("qkv", 2.88, 1.1, 0.36, 0.5, "v", "04"),
    ("qk_norm", 2.52, 1.98, 0.74, 0.5, "QK-norm", "06"), ("rope", 3.4, 1.98, 0.52, 0.5, "rope", "05"),
    ("cache", 3.4, 1.1, 0.8, 0.5, "k, v cache", "09"), ("attention", 4.3, 1.98, 0.88, 0.5, "attention", "04, 06"),
    ("o_proj", 4.44, 1.1, 0.68, 0.5, "o_proj", "04, 06"),
    ("rms_norm", 5.3, 1.1, 0.82, 0.5, "rms_norm", "03"), ("router", 5.36, 1.98, 0.7, 0.5, "router", "07"),
    ("experts", 6.26, 1.98, 0.88, 0.5, "experts", "07"), ("rms_norm", 7.7, 0.4, 1.15, 0.5, "rms_norm", "03"),
    ("head", 7.7, 1.1, 1.15, 0.5, "output head", "08"), ("sampling", 7.7, 1.8, 1.15, 0.5, "sampling", "10"),
    ("text", 7.7, 2.5, 1.15, 0.36, "text", ""),
)  # fmt: skip
STREAM, SUMS, LAYER = 0.65, (4.78, 6.7), (1.72, 0.28, 5.6, 2.56)
ARROWS = (  # from x, y to x, y
    (0.725, 2.4, 0.725, 1.95), (0.725, 1.45, 0.725, 0.9), (1.3, STREAM, 4.69, STREAM), (4.87, STREAM, 6.61, STREAM),
    (6.79, STREAM, 7.7, STREAM), (2.14, STREAM, 2.14, 1.1), (2.14, 1.6, 2.14, 1.98), (2.72, 1.35, 2.88, 1.35),
    (2.38, 2.23, 2.52, 2.23), (3.26, 2.23, 3.4, 2.23), (3.92, 2.23, 4.3, 2.23), (3.66, 1.98, 3.66, 1.6),
    (3.24, 1.35, 3.4, 1.35), (4.2, 1.5, 4.42, 1.98), (4.78, 1.98, 4.78, 1.6),
    (4.78, 1.1, 4.78, 0.74), (5.71, STREAM, 5.71, 1.1),
    (5.71, 1.6, 5.71, 1.98), (6.06, 2.23, 6.26, 2.23), (6.7, 1.98, 6.7, 0.74), (8.275, 0.9, 8.275, 1.1),
    (8.275, 1.6, 8.275, 1.8), (8.275, 2.3, 8.275, 2.5), (1.5, 0.8, 1.3, 0.8),
    (6.42, 1.35, 6.42, 1.98),
)  # fmt: skip
BACK = ((7.7, 7.51, 7.51, 1.5, 1.5), (2.05, 2.05, 3.06, 3.06, 0.8))  # the id that was drawn is read next
SIGNS = ((4.02, 2.32, "q"), (3.58, 1.79, "k"))  # on arrows: x, y, what passes
PARTS = ("decoder_layer", "residual_stream", *dict.fromkeys(box[0] for box in BOXES))


@styled
def model_map(highlight: str | Collection[str] = (), title: str = "") -> Figure:
    """The way from text to text through the model, each box with its notebook's number, and the given PARTS lit."""
    lit = {highlight} if isinstance(highlight, str) else set(highlight)
    if lit - set(PARTS):
        raise Error(f"highlight: {sorted(lit - set(PARTS))[0]!r} found, expected parts of {', '.join(PARTS)}")
    where = f"Where this notebook stands: {', '.join(part for part in PARTS if part in lit)}"
    title = title or (where if lit else "From text to text: what the notebooks build")
    figure = Figure((9, 3.6))
    figure.suptitle(textwrap.shorten(title, 95, placeholder=" …"), x=0.15 / 9, y=0.975, ha="left")
    ax = figure.add_axes((0, 0, 1, 3.2 / 3.6), xlim=(0, 9), ylim=(0, 3.2))
    ax.set_axis_off()

    def box(
        part: str, left: float, bottom: float, width: float, height: float, shade: str, plain: str, **options: Any
    ) -> None:
        face, edge, line = (shade, "black", 2.0) if part in lit else (plain, GREY, 0.8)
        look: dict[str, Any] = {"fc": face, "ec": edge, "lw": line}
        corners = "round,pad=0,rounding_size=0.07"
        ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=corners, **look | options))

    def write(x: float, y: float, text: str, part: str = "", **options: Any) -> None:
        ax.text(x, y, text, **{"ha": "center", "va": "center", "weight": "bold" if part in lit else None} | options)

    box("decoder_layer", *LAYER, "#fff1d0", "#f4f4f4", zorder=0)
    write(1.84, 2.66, "decoder_layer, once for each layer", "decoder_layer", ha="left")
    write(7.18, 2.66, "08", fontsize=SMALL)
    write(3.4, 0.46, "residual stream", "residual_stream", fontsize=SMALL)
    ax.plot(*BACK, color="#555555", lw=0.9)
    ax.plot((6.12, 6.42), (1.35, 1.35), color="#555555", lw=0.9)  # experts read what the router reads
    write(4.5, 3.06, "the id of the new token is read next", fontsize=SMALL, bbox={"fc": "white", "ec": "none"})
    for x, y, sign in SIGNS:
        write(x, y, sign, fontsize=SMALL, ha="left" if len(sign) > 1 else "center")
    on = "residual_stream" in lit
    for left, bottom, x, y in ARROWS:
        colour, width = ("black", 2.2) if on and bottom == y == STREAM else ("#555555", 0.9)
        look: dict[str, Any] = {"color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0}
        ax.add_patch(FancyArrowPatch((left, bottom), (x, y), arrowstyle="-|>", mutation_scale=8, **look))
    for x in SUMS:
        ax.plot(x, STREAM, "o", ms=13, mfc=LIT if on else "white", mec="black", mew=0.8)
        write(x, STREAM - 0.01, "+", fontsize=11)
    for part, left, bottom, width, height, text, notebook in BOXES:
        box(part, left, bottom, width, height, LIT, "white", zorder=2)
        write(left + width / 2, bottom + height * (0.66 if notebook else 0.48), text, part)
        write(left + width / 2, bottom + height * 0.26, notebook, fontsize=SMALL, color="#333333")
    marked = f"highlighted: {', '.join(part for part in PARTS if part in lit)}" if lit else "nothing is highlighted"
    figure.alt = f"The way from text through tokens, embedding, layers and output head to the next token; {marked}."
    return figure
