"""A safetensors file so small that all of it can be drawn."""

import json
from math import prod
from typing import Any

import torch
from matplotlib.patches import Rectangle

from ..errors import Error
from .boxes import box, empty_axes
from .canvas import DARK, LIT, PALE, SMALL, Figure, new_figure, styled

__all__ = ["small_file"]

MOST = 8  # numbers that have room
SIGNS = slice(0, 12)  # of a name


@styled
def small_file(data: bytes) -> Figure:
    """All of a safetensors file: the eight bytes of its length, its table line by line, its numbers with their places.

    A tensor has one shade in the table and among the numbers. Raises Error unless all tensors are F32, with 1 to 8
    numbers together.
    """
    begin = 8 + int.from_bytes(data[:8], "little")
    table = {name: about for name, about in json.loads(data[8:begin]).items() if name != "__metadata__"}
    tensors = sorted(table.items(), key=lambda item: item[1]["data_offsets"])
    count = sum(prod(about["shape"]) for about in table.values())
    if not 1 <= count <= MOST or {about["dtype"] for about in table.values()} != {"F32"}:
        raise Error(f"small_file: {count} numbers found, expected 1 to {MOST}, all of type F32: draw a smaller file")
    title = f"All {len(data)} bytes of a file: a length, a table, then nothing but numbers"
    figure = new_figure(title, 8.6, 1.4 + 0.26 * len(tensors))
    ax = empty_axes(figure, 8.4, 0.95 + 0.26 * len(tensors))
    wide = min(0.74, 3.8 / count)  # of a number
    parts = {
        "length: 8 bytes": 0.6,
        f"table: {begin - 8} bytes": 2.67,
        f"numbers: {4 * count} bytes": 4.5 + wide * count / 2,
    }
    for name, place in parts.items():
        ax.text(place, 0.12, name, fontsize=SMALL, ha="center", va="center", style="italic")
    middle = 0.45 + 0.13 * len(tensors)
    box(ax, 0.1, middle, 1.0, f"{begin - 8}", 0.3)
    low = 0.45 + 0.26 * len(tensors)
    ax.add_patch(Rectangle((1.25, 0.41), 2.85, low - 0.37, fill=False, ec="black", lw=1.2))
    numbers = torch.frombuffer(bytearray(data[begin:]), dtype=torch.float32).tolist()
    for line, (name, about) in enumerate(tensors):
        start, stop = about["data_offsets"]
        look: dict[str, Any] = {"fc": (PALE, LIT)[line % 2]}
        said = f"{name[SIGNS]}:  F32  {about['shape']}  {start} to {stop}"
        box(ax, 1.29, 0.56 + 0.26 * line, 2.77, said, 0.22, **look)
        for at in range(start // 4, stop // 4):
            box(ax, 4.5 + wide * at, middle, wide, f"{numbers[at]:.3g}", 0.3, **look)
        if start < stop:
            name_at = 4.5 + wide * (start + stop) / 8
            ax.text(name_at, middle - 0.25, name[SIGNS][: 2 + stop - start], fontsize=SMALL, ha="center", va="center")
    for at in range(count + 1):
        ax.text(4.5 + wide * at, middle + 0.25, f"{4 * at}", fontsize=SMALL, ha="center", va="center")
    key = "place in bytes, counted from the end of the table"
    ax.text(4.5, low + 0.28, key, fontsize=SMALL, va="center", color=DARK)
    names = ", ".join(name for name, _ in tensors)
    figure.alt = (
        f"Three parts from left to right: 8 bytes that say {begin - 8}; a table with a line for each tensor, {names}, "
        f"with its type, shape and place; {count} numbers of 4 bytes, in the shade of their tensor's line."
    )
    return figure
