"""What the files of a checkpoint hold: where bytes lie, tensors to scale, active parameters, bits and rounding."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch, Patch, Rectangle
from torch import Tensor

from ..config import Config
from ..errors import Error
from .canvas import DARK, LIT, MIDDLE, PALE, SMALL, Figure, in_words, label_axis, new_figure, percent, spoken, styled
from .one_word import interval

__all__ = ["active_parameters", "changes_by_lead", "file_layout", "number_bits", "rounded_apart", "tensor_sizes"]

# Each part's shade and hatch: apart in grey too. A part that is not named here is drawn as OTHER.
SHADES = {
    "header": ("black", ""), "embedding": ("#eaf2fb", ""), "norms": (LIT, ""), "attention": (PALE, "////"),
    "router": (DARK, ""), "experts": (MIDDLE, ""), "feed-forward": (MIDDLE, ".."), "output head": ("#eaf2fb", "xx"),
}  # fmt: skip
OTHER = ("#bbbbbb", "||")
FORMATS = {"fp32": 8, "bf16": 8, "fp16": 5, "fp8": 4}  # bits of the exponent
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
THIN, APART = 0.004, 0.011  # of a strip: what is too thin to be seen, and the width of a triangle
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def _called(name: str) -> str:
    """The last part of a tensor's name; of the router, which is called like a matrix of an expert, more."""
    last = name.rpartition(".")[2]
    return "mlp.gate (router)" if last == "gate" else last


def _look(part: str) -> dict[str, Any]:
    shade, hatch = SHADES.get(part, OTHER)
    return {"fc": shade, "hatch": hatch, "ec": "black", "lw": 0.5}


def _strip(ax: Axes, segments: Sequence[tuple[str, int]], start: int, stop: int, scale: float, mark: float) -> None:
    """The stretch of a file from byte `start` to `stop`, neighbours of one part as one box; `scale` bytes are 1.

    A triangle at the height `mark` says where what is too thin to be seen lies: above the strip, or below it. One that
    would lie on its neighbour is moved beside it, if there is room.
    """
    at, last = 0, -math.inf
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
        if right - left < THIN * (stop - start):
            colour, form = _look(part)["fc"], "v" if mark > 1 else "^"
            middle, room = (left + right) / 2, APART * (stop - start)
            beside = max(middle, last + room)
            last = beside if beside < min(middle + 2 * room, stop) else middle  # among many it stays where it is
            ax.plot(last / scale, mark, form, ms=5, mfc=colour, mec="black", mew=0.5, clip_on=False)
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
    title = f"The largest part of the file: {largest} ({spoken(shares[largest])})"
    if "header" in shares and largest != "header":
        title += f"; the header is thin ({spoken(shares['header'])})"
    figure = new_figure(title, 8.6, 2.9)
    whole, near = figure.subplots(2, 1, gridspec_kw={"hspace": 0.12})
    whole.xaxis.tick_top()  # the space between the strips belongs to the lines that join them
    whole.xaxis.set_label_position("top")
    for ax, (start, stop), name, mark in ((whole, (0, total), "whole file", 1.1), (near, closer, "closer", -0.1)):
        scale, unit = next(found for found in UNITS if stop >= found[0])
        _strip(ax, segments, start, stop, scale, mark)
        ax.set_ylabel(name)
        ax.set_xlabel(f"place in the file ({unit})", fontsize=SMALL + 1)
        ax.locator_params(axis="x", nbins=6)
        ax.tick_params(labelsize=SMALL)
    whole.tick_params(axis="x", pad=9)  # the triangles lie between
    scale = next(found[0] for found in UNITS if total >= found[0])
    for byte, corner in zip(closer, (0, 1), strict=True):
        line = ConnectionPatch((byte / scale, 0), (corner, 1), "data", "axes fraction", axesA=whole, axesB=near)
        line.set(color="#555555", lw=0.9, ls=":", in_layout=False)
        figure.add_artist(line)
    handles = [Patch(**_look(part), label=part) for part in shares]
    legend = figure.legend(handles=handles, frameon=False, loc="outside right center", fontsize=SMALL + 1)
    legend.set_title("▼ too thin to see")
    legend.get_title().set_fontsize(SMALL + 1)
    figure.alt = f"A strip as long as the file, cut into its parts, and below it a piece of it enlarged. {title}."
    return figure


@styled
def tensor_sizes(shapes: Mapping[str, Sequence[int]], stacked: Mapping[str, int] = {}) -> Figure:
    """Tensors of one layer to one scale, rows down and columns across; below, the whole layer as one bar by area.

    `stacked` says of how many alike a tensor is the first: in the bar all of them lie side by side, and a bracket above
    the matrices holds those of one expert.
    """
    if not shapes:
        raise Error("tensor_sizes: no tensors found, expected the names and shapes of one layer at least")
    sizes = {name: (shape[0] if len(shape) > 1 else 1, shape[-1]) for name, shape in shapes.items()}
    numbers = {name: rows * columns * stacked.get(name, 1) for name, (rows, columns) in sizes.items()}
    many = [name for name in sizes if stacked.get(name, 1) > 1]
    whole = sum(numbers.values())
    share = sum(numbers[name] for name in many) / whole
    title = f"The largest tensor of the layer is {max(numbers, key=numbers.__getitem__)}"
    title = f"{spoken(share)} of the layer's numbers are in its experts" if many else title
    tensors = [name for name in sizes if len(shapes[name]) > 1] or list(sizes)
    tensors = sorted(tensors, key=lambda name: name in many)[:9]  # else in the order given
    slots = [max(sizes[name][1] / max(map(max, sizes.values())), 0.62) for name in tensors]  # room for a name
    scale = 8.6 / (sum(slots) + 0.16 * len(slots))
    unit = scale / max(map(max, sizes.values()))
    high = 0.5 + max(sizes[name][0] for name in tensors) * unit
    copies = max((stacked[name] for name in many), default=0)
    figure = new_figure(title, 8.8, 2.3 + high)
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set(xlim=(0, 8.6), ylim=(high + 1.6, -0.25))
    left = 0.03
    bracket: list[float] = []
    for name, slot in zip(tensors, slots, strict=True):
        rows, columns = sizes[name]
        shape = ", ".join(f"{size:,}" for size in shapes[name])
        bracket += [left, left + columns * unit] if name in many else []
        for at, (text, weight) in enumerate(((_called(name), None), (f"[{shape}]", "bold"))):
            ax.text(left, 0.08 + 0.16 * at, text, va="center", fontsize=SMALL, weight=weight, parse_math=False)
        look: dict[str, Any] = {"fc": PALE if name in many else "white", "ec": DARK, "lw": 0.7}
        ax.add_patch(Rectangle((left, 0.38), columns * unit, max(rows * unit, 0.02), **look))
        left += (slot + 0.16) * scale
    if bracket:
        ax.plot([bracket[0], bracket[0], bracket[-1], bracket[-1]], [-0.03, -0.09, -0.09, -0.03], color=DARK, lw=0.9)
        ax.text(bracket[0], -0.17, f"one of {copies:,} experts", va="center", fontsize=SMALL)
    about = f"the whole layer by area: {len(sizes) - len(many)} single tensors"
    about += f", then {copies:,} experts of {len(many)} tensors each" if many else ""
    ax.text(0.03, high + 0.35, about, va="center", fontsize=SMALL + 1)
    left, wide, top, tall = 0.03, 8.4 / whole, high + 0.5, 0.75
    single = [name for name in sizes if name not in many]
    for name in sorted(single, key=lambda name: numbers[name] * wide <= 0.16):  # what is too thin for its name, last
        ax.add_patch(Rectangle((left, top), numbers[name] * wide, tall, fc="white", ec=DARK, lw=0.7))
        if numbers[name] * wide > 0.16:
            text, turn = _called(name), 0 if numbers[name] * wide > 0.45 else 90
            middle = left + numbers[name] * wide / 2
            ax.text(middle, top + tall / 2, text, ha="center", va="center", fontsize=SMALL, rotation=turn)
        left += numbers[name] * wide
    thin = [name for name in single if numbers[name] * wide <= 0.16]
    if thin and many:  # they come last of the single ones
        middle = left - sum(numbers[name] for name in thin) * wide / 2
        ax.plot([middle, middle], [top + tall, top + tall + 0.1], color=DARK, lw=0.9)
        names = ", ".join(dict.fromkeys("norms" if "norm" in name else _called(name) for name in thin))
        side = "right" if middle > 1.6 else "left"
        ax.text(middle, top + tall + 0.18, names, ha=side, va="center", fontsize=SMALL)
    step = sum(numbers[name] for name in many) * wide / max(copies, 1)
    for expert in range(copies):
        for at in range(len(many)):
            part = tall / len(many)
            line = 0.7 if copies <= 32 else 0.15
            ax.add_patch(Rectangle((left, top + at * part), step, part, fc=PALE, ec=DARK, lw=line))
        if step > 0.3:
            number = f"expert {expert}" if step > 0.75 else str(expert)
            ax.text(left + step / 2, top + tall + 0.18, number, ha="center", va="center", fontsize=SMALL)
        if step > 0.75 and expert == 0:
            for at, name in enumerate(many):
                height = top + (at + 0.5) * tall / len(many)
                ax.text(left + step / 2, height, _called(name), ha="center", va="center", fontsize=SMALL)
        left += step
    figure.alt = (
        f"{len(tensors)} matrices of a layer as rectangles to one scale, and the whole layer as one bar. {title}."
    )
    return figure


@styled
def active_parameters(configs: Mapping[str, Config]) -> Figure:
    """Each model's parameters as one bar from 0% to 100%: what every token uses, its experts, and those that idle.

    A mark ends the active ones, those that `Config.num_parameters` counts for one token. Raises Error without models.
    """
    if not configs:
        raise Error("configs: none found, expected the Config of one model at least")
    used = {name: each.num_parameters(active=True) / each.num_parameters() for name, each in configs.items()}
    low, high = (pick(used, key=used.__getitem__) for pick in (min, max))
    title = f"For one token {low} uses {spoken(used[low])} of its parameters"
    title += f", {high} {spoken(used[high])}" if low != high else ""
    figure = new_figure(title, 8.4, 1.5 + 0.5 * len(configs))
    ax = figure.subplots()
    names = ("embedding, head", "attention and the rest", "experts chosen", "experts that idle")
    looks = (("white", ".."), (PALE, "////"), (MIDDLE, ""), ("#eeeeee", ""))
    for row, (model, each) in enumerate(configs.items()):
        left, whole = 0.0, each.num_parameters()
        for part, name, (shade, hatch) in zip(parts_of(each), names, looks, strict=True):
            label = name if row == 0 else None
            ax.barh(row, part / whole, 0.6, left, color=shade, hatch=hatch, ec=DARK, lw=0.6, label=label)
            if part / whole > 0.045:
                box = {"fc": "white", "ec": "none", "pad": 1.2}
                ax.text(left + part / whole / 2, row, spoken(part / whole), ha="center", va="center", fontsize=SMALL)
                ax.texts[-1].set_bbox(box)
            left += part / whole
        ax.plot([used[model]] * 2, [row - 0.42, row + 0.36], color="black", lw=2.2)
    ax.set(
        xlim=(0, 1), ylim=(len(configs) - 0.5, -0.55), xlabel="share of all parameters (active: up to the thick mark)"
    )
    sizes = [in_words(each.num_parameters()) for each in configs.values()]
    ax.set_yticks(range(len(configs)), [f"{name}\n{size}" for name, size in zip(configs, sizes, strict=True)])
    ax.xaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=SMALL + 1)
    told = ", ".join(f"{name} {spoken(share)}" for name, share in used.items())
    figure.alt = f"A bar for each model, split by what a token uses and by experts that idle. Active: {told}."
    return figure


def parts_of(config: Config) -> tuple[int, int, int, int]:
    """Parameters of the embedding with the head, of what else every token uses, of experts chosen, of idle ones."""
    whole, active = config.num_parameters(), config.num_parameters(active=True)
    tables = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    sparse = sum(map(config.is_sparse, range(config.num_hidden_layers)))
    chosen = 3 * config.hidden_size * config.moe_intermediate_size * config.num_experts_per_tok * sparse
    return tables, active - tables - chosen, chosen, whole - active


def _bits(number: torch.Tensor) -> str:
    """The bits of one number, the sign first."""
    width = 8 * number.itemsize
    whole = number.view({8: torch.int8, 16: torch.int16, 32: torch.int32}[width]).item()
    return f"{whole % 2**width:0{width}b}"


@styled
def number_bits(value: float) -> Figure:
    """One number in fp32, bf16, fp16, fp8 (e4m3), bit by bit: sign, exponent, fraction, and what each makes of it.

    Bits of one kind stand below each other, and those of one worth within an exponent or a fraction.
    """
    numbers = [torch.tensor(value, dtype=torch.float32).to(dtype) for dtype in TYPES]
    title = "bf16 keeps the exponent of fp32 and few digits; fp16 more digits; fp8 little of both"
    figure = new_figure(title, 8.8, 3.0)
    ax = figure.subplots()
    ax.set_axis_off()
    for row, (number, (name, exponent)) in enumerate(zip(numbers, FORMATS.items(), strict=True)):
        for place, bit in enumerate(_bits(number)):
            part = 0 if place == 0 else 1 if place <= exponent else 2
            column = place + (8 - exponent if part else 0) + 0.6 * part  # a short exponent is missing its first bits
            shade = (DARK, PALE, "white")[part]
            ax.add_patch(Rectangle((column, row), 0.92, 0.72, ec="black", lw=0.5, fc=shade))
            colour = "white" if part == 0 else "black"
            ax.text(column + 0.46, row + 0.36, bit, ha="center", va="center", fontsize=SMALL, color=colour)
        ax.text(-0.6, row + 0.36, name, ha="right", va="center")
        ax.text(33.8, row + 0.36, f"{number.item():.7g}", va="center")
    added = numbers[1].abs().item() > abs(numbers[0].item())
    ax.plot([17.16, 17.16], [-0.2, 0.86], color="black", lw=2)  # behind the seventh bit of the fraction
    ax.plot([17.2, 18.12, 18.12, 17.2], [0, 0, 0.72, 0.72], color="black", lw=1.8)  # the bit after it
    said = f"bf16 ends here: {'one is added' if added else 'the rest is cut'}"
    ax.text(17.3, -0.35, said, va="center", fontsize=SMALL + 1)
    for middle, head in ((0.46, "sign"), (5.5, "exponent"), (13.7, "fraction")):
        ax.text(middle, -0.35, head, ha="center", va="center", fontsize=SMALL + 1)
    ax.set(xlim=(-3, 41), ylim=(4, -0.7))
    figure.alt = f"Four rows of bits, below each other by kind: {value:.7g} in fp32, in bf16, in fp16, in fp8. {title}."
    figure.alt += f" A line marks where bf16 ends: {'one is added there' if added else 'the rest is cut off'}."
    return figure


# ---- rounding ----------------------------------------------------------------------------------------


@styled
def rounded_apart(found: Mapping[str, Float[Tensor, "entries"]], exact: Float[Tensor, "entries"]) -> Figure:
    """For each way of computing in 16 bits: how many entries are the number of its type that is nearest to the exact
    one, how many are its neighbour, how many lie further off. `exact` is in fp64.
    """
    shares = {name: steps_apart(values, exact) for name, values in found.items()}
    best, worst = (pick(shares, key=lambda name: shares[name][0]) for pick in (max, min))
    title = f"“{best}” gives the nearest number most often, “{worst}” least"
    figure = new_figure(title, 8.2, 1.2 + 0.38 * len(shares))
    ax = figure.subplots()
    looks = (("the nearest number", MIDDLE, ""), ("one step off", PALE, "///"), ("further off", LIT, ".."))
    for row, parts in enumerate(shares.values()):
        left = 0.0
        for share, (name, shade, hatch) in zip(parts, looks, strict=True):
            ax.barh(row, share, 0.66, left, color=shade, hatch=hatch, ec=DARK, lw=0.6, label=name if row == 0 else None)
            if share > 0.06:
                box = {"fc": "white", "ec": "none", "pad": 1.2}
                ax.text(left + share / 2, row, spoken(share), ha="center", va="center", fontsize=SMALL, bbox=box)
            left += share
        small = [f"{spoken(share)} {name}" for share, (name, *_) in zip(parts, looks, strict=True) if 0 < share <= 0.06]
        ax.text(1.01, row, ",\n".join(small), va="center", fontsize=SMALL)
    ax.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xlabel=f"share of {len(exact):,} entries")
    ax.set_yticks(range(len(shares)), list(shares))
    ax.xaxis.set_major_formatter(percent)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    figure.alt = f"A bar for each way of computing, split by how far its entries are from the exact ones. {title}."
    return figure


@styled
def changes_by_lead(lead: Float[Tensor, "tokens"], changed: Bool[Tensor, "tokens"]) -> Figure:
    """Next tokens by how far the likeliest led, in logits: which share became another one, with 95% intervals.

    The title tells of the largest lead that was lost.
    """
    edges = (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, math.inf)
    heads = ("below 1/64", "1/64 to 1/16", "1/16 to 1/4", "1/4 to 1", "1 to 4", "4 or more")
    inside = [(lead >= low) & (lead < high) for low, high in pairwise(edges)]
    counts = [(int((changed & here).sum()), int(here.sum())) for here in inside]
    title = f"{int(changed.sum())} of {len(lead):,} likeliest next tokens become others"
    title += f", none that led by more than {float(lead[changed].max()):.2f}" if changed.any() else ""
    figure = new_figure(title, 8.2, 2.7)
    ax = figure.subplots()
    for place, (hits, total) in enumerate(counts):
        low, high = interval(hits, total) if total else (0.0, 0.0)
        ax.bar(place, hits / max(total, 1), 0.7, color=PALE, ec=DARK, lw=0.8)
        ax.vlines(place, low, high, color="black", lw=1.4)
        ax.text(place, high + 0.02, f"{hits} of {total:,}", ha="center", fontsize=SMALL + 0.5)
    ax.set(ylim=(0, 1.12), yticks=(0, 0.5, 1), ylabel="become another\n(whiskers: 95%)")
    ax.yaxis.set_major_formatter(percent)
    label_axis(ax.xaxis, heads, 7.0)
    ax.set_xlabel("lead of the likeliest next token over the second (logits)")
    told = ", ".join(f"{head}: {hits} of {total}" for head, (hits, total) in zip(heads, counts, strict=True))
    figure.alt = f"A bar for each range of the lead, the share of next tokens that became others. {told}."
    return figure


def steps_apart(values: Float[Tensor, "entries"], exact: Float[Tensor, "entries"]) -> list[float]:
    """The shares of 16-bit `values` that are 0, 1, and 2 or more numbers of their type away from the nearest."""
    nearest = exact.to(values.dtype)
    apart = (ordered(values) - ordered(nearest)).abs()
    return [float(part.double().mean()) for part in (apart == 0, apart == 1, apart > 1)]


def ordered(values: Float[Tensor, "entries"]) -> Tensor:
    """16-bit floats as whole numbers in the same order, neighbours one apart; both zeros are 0."""
    bits = values.contiguous().view(torch.int16).long()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
