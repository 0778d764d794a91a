"""What the files of a checkpoint hold: where their bytes lie, how many parameters a part has, the bits of one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from matplotlib.ticker import EngFormatter

from ..errors import Error
from .canvas import DARK, LIT, MIDDLE, PALE, SMALL, Figure, new_figure, percent, styled

__all__ = ["file_layout", "number_bits", "parameters_by_part"]

# Each part's shade and hatch: apart in grey too. A part that is not named here is drawn as OTHER.
SHADES = {
    "header": ("black", ""), "embedding": ("#eaf2fb", ""), "norms": (LIT, ""), "attention": (PALE, "////"),
    "router": (DARK, ""), "experts": (MIDDLE, ""), "feed-forward": (MIDDLE, ".."), "head": ("#eaf2fb", "xx"),
}  # fmt: skip
OTHER = ("#bbbbbb", "||")
FORMATS = (("fp32", torch.float32, 8, 23), ("bf16", torch.bfloat16, 8, 7), ("fp16", torch.float16, 5, 10))
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def _look(part: str) -> dict[str, Any]:
    shade, hatch = SHADES.get(part, OTHER)
    return {"fc": shade, "hatch": hatch, "ec": "black", "lw": 0.5}


def _strip(ax: Axes, segments: Sequence[tuple[str, int]], start: int, stop: int, scale: float) -> None:
    """The stretch of a file from byte `start` to `stop`, neighbours of one part as one box; `scale` bytes are 1."""
    at = 0
    drawn: list[tuple[str, int, int]] = []
    for part, size in segments:
        left, right = max(at, start), min(at + size, stop)
        if left < right:
            if drawn and drawn[-1][0] == part:
                drawn[-1] = (part, drawn[-1][1], right)
            else:
                drawn.append((part, left, right))
        at += size
    for part, left, right in drawn:
        ax.add_patch(Rectangle((left / scale, 0), (right - left) / scale, 1, **_look(part)))
    ax.set(xlim=(start / scale, stop / scale), ylim=(0, 1), yticks=[])
    ax.spines[:].set_visible(False)


@styled
def file_layout(segments: Sequence[tuple[str, int]], closer: tuple[int, int]) -> Figure:
    """A file as a strip: (part, bytes) in the order of the file, and below it the stretch `closer` (from, to byte).

    Raises Error if there are no segments or the stretch does not lie within them.
    """
    total = sum(size for _, size in segments)
    if not 0 <= closer[0] < closer[1] <= total:
        raise Error(f"closer: {closer} found, expected a stretch of the file's {total} bytes")
    shares = {part: sum(size for name, size in segments if name == part) / total for part, _ in segments}
    largest = max(shares, key=shares.__getitem__)
    title = f"The largest part of the file is “{largest}” with {percent(shares[largest])}"
    if "header" in shares and largest != "header":
        title += f"; the header takes {percent(shares['header'])}"
    figure = new_figure(title, 8.6, 2.9)
    whole, near = figure.subplots(2, 1)
    whole.xaxis.tick_top()  # the space between the strips belongs to the lines that join them
    whole.xaxis.set_label_position("top")
    for ax, (start, stop), name in ((whole, (0, total), "whole file"), (near, closer, "closer")):
        scale, unit = next(found for found in UNITS if stop >= found[0])
        _strip(ax, segments, start, stop, scale)
        ax.set_ylabel(name)
        ax.set_xlabel(f"place in the file ({unit})", fontsize=SMALL + 1)
        ax.locator_params(axis="x", nbins=6)
        ax.tick_params(labelsize=SMALL)
    scale = next(found[0] for found in UNITS if total >= found[0])
    for byte, corner in zip(closer, (0, 1), strict=True):
        line = ConnectionPatch((byte / scale, 0), (corner, 1), "data", "axes fraction", axesA=whole, axesB=near)
        line.set(color="#555555", lw=0.9, ls=":", in_layout=False)
        figure.add_artist(line)
    handles = [Patch(**_look(part), label=part) for part in shares]
    figure.legend(handles=handles, frameon=False, loc="outside right center", fontsize=SMALL + 1)
    return figure


@styled
def parameters_by_part(total: Mapping[str, int], active: Mapping[str, int]) -> Figure:
    """How many parameters each part has, and through how many of them one token passes.

    Raises Error if the two do not name the same parts.
    """
    if total.keys() != active.keys():
        raise Error(f"active: parts {sorted(active)} found, expected those of total, {sorted(total)}")
    everything, used = sum(total.values()), sum(active.values())
    largest = max(total, key=total.__getitem__)
    share = percent(total[largest] / everything)
    title = f"All parameters are active for a token; “{largest}” has {share} of them"
    if used < everything:
        title = f"{percent(used / everything)} of the parameters are active for a token"
        title += f"; {largest}: {share} of all, {percent(active[largest] / used)} of the active"
    figure = new_figure(title, 7.6, 0.9 + 0.42 * len(total))
    ax = figure.subplots()
    for values, offset, name, shade in ((total, -0.19, "total", PALE), (active, 0.19, "active for one token", MIDDLE)):
        places = [row + offset for row in range(len(values))]
        bars = ax.barh(places, list(values.values()), 0.36, ec="black", lw=0.5, label=name, fc=shade)
        ax.bar_label(bars, [f"{value:,}" for value in values.values()], padding=3, fontsize=SMALL)
    ax.set(xlim=(0, 1.22 * max(total.values())), ylim=(len(total) - 0.5, -0.5), xlabel="parameters")
    ax.set_yticks(range(len(total)), list(total))
    ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(frameon=False, loc="outside right center")
    return figure


def _bits(number: torch.Tensor) -> str:
    """The bits of one number, the sign first."""
    width = 8 * number.itemsize
    whole = number.view({16: torch.int16, 32: torch.int32}[width]).item()
    return f"{whole % 2**width:0{width}b}"


@styled
def number_bits(value: float) -> Figure:
    """One number in fp32, bf16 and fp16, bit by bit: sign, exponent, fraction, and what each of them makes of it."""
    numbers = [torch.tensor(value, dtype=torch.float32).to(dtype) for _, dtype, _, _ in FORMATS]
    full, brief = numbers[0].item(), numbers[1].item()
    off = abs(brief - full) / abs(full) if full else 0.0
    title = "bf16 keeps all exponent bits of fp32 and 7 of its 23 fraction bits: "
    title += f"this number is off by {percent(off)}" if off else "this number loses nothing"
    figure = new_figure(title, 8.6, 2.3)
    ax = figure.subplots()
    ax.set_axis_off()
    for row, (number, (name, _, exponent, _)) in enumerate(zip(numbers, FORMATS, strict=True)):
        bits = _bits(number)
        for column, bit in enumerate(bits):
            part = 0 if column == 0 else 1 if column <= exponent else 2
            shade = (DARK, PALE, "white")[part]
            ax.add_patch(Rectangle((column, row), 0.92, 0.72, ec="black", lw=0.5, fc=shade))
            colour = "white" if part == 0 else "black"
            ax.text(column + 0.46, row + 0.36, bit, ha="center", va="center", fontsize=SMALL, color=colour)
        ax.text(-0.6, row + 0.36, name, ha="right", va="center")
        ax.text(len(bits) + 0.4, row + 0.36, f"{number.item():.7g}", va="center")
    ax.set(xlim=(-3, 38), ylim=(3.7, -0.2))
    handles = [
        Patch(fc=DARK, ec="black", lw=0.5, label="sign"),
        Patch(fc=PALE, ec="black", lw=0.5, label="exponent"),
        Patch(fc="white", ec="black", lw=0.5, label="fraction"),
    ]
    ax.legend(handles=handles, frameon=False, ncols=3, loc="lower center", fontsize=SMALL + 1)
    return figure
