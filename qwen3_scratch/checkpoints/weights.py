"""safetensors files <-> Weights: every tensor checked by name, shape and content before anything is computed."""

import math
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..config import Config
from ..errors import Error, of_kind, shown, whole_number
from ..model import LayerWeights, Weights
from ..trust.arguments import check_device
from ..trust.memory import available_memory, size_text
from ..trust.shards import (
    INDEX,
    SINGLE,
    UNREADABLE,
    check_unchanged,
    damaged,
    header_of,
    open_file,
    stamp,
    tensor_files,
)
from .adapters import Change, base_folder, read_adapter
from .names import STORED, UNQUANTISED, Slot, Source, all_slots, find_slots, layer_slots, outer_slots

__all__ = ["Slot", "all_slots", "layer_slots", "outer_slots"]  # from `names`, for whoever works on slots of weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALSO = {"float": "float32", "half": "float16"}  # as torch calls them too
STORED_AS = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # nothing is computed in 64 bits
PIECE = 2**22  # numbers that are compared at once
LARGE = 2**22  # numbers from which on a tensor is shared out among the workers
AT_ONCE = 2**15 - 1  # numbers that are copied and checked at once: the most that torch leaves to one thread


def slot_bytes(slot: Slot, dtype: torch.dtype) -> int:
    return math.prod(slot.shape) * dtype.itemsize


class Form(NamedTuple):
    """How a tensor of the tree is kept, by the name of its field, and the bytes that a slot of it then takes."""

    keep: Callable[[str, Tensor], Any] = lambda field, tensor: tensor
    size: Callable[[Slot, torch.dtype], int] = slot_bytes


AS_READ = Form()


def empty_fields(slots: list[Slot], dtype: torch.dtype, device: torch.device | str | None) -> dict[str, Tensor]:
    """Uninitialised tensors of the tree's shapes: experts stacked, gate above up."""
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in slots:
        shape = (2 * slot.shape[0], slot.shape[1]) if slot.field == "gate_up_proj" else slot.shape
        first = slot.part[0] if slot.part else None
        shapes[slot.field] = (first + 1, *shape) if isinstance(first, int) else shape  # the last expert decides
    return {field: torch.empty(shape, dtype=dtype, device=device) for field, shape in shapes.items()}


def init_weights(
    config: Config, *, seed: int = 0, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> Weights:
    """Random weights as one starts training with: normal with `initializer_range`, norms one, biases zero.

    `dtype` is one that `load_weights` takes, or torch.float64, for who checks gradients; None means the config's.
    """
    of_kind("init_weights", "config", config, Config)
    check_device(device)
    dtype = dtype if dtype is torch.float64 else dtype_of(config, "config", dtype)
    generator = torch.Generator().manual_seed(whole_number("init_weights", "seed", seed, least=-(2**63)))

    def drawn(slots: list[Slot]) -> dict[str, Tensor]:
        fields = empty_fields(slots, dtype, device)
        for name, tensor in fields.items():
            if name.endswith("norm"):
                tensor.fill_(1.0)
            elif name.endswith("bias"):
                tensor.zero_()
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * config.initializer_range)
        return fields

    outer = drawn(outer_slots(config))
    layers = (LayerWeights(**drawn(list(layer_slots(config, i)))) for i in range(config.num_hidden_layers))
    return Weights(layers=tuple(layers), **outer)


def load_weights(
    folder: str | Path,
    config: Config,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    own: Callable[[Slot], Slot | None] = lambda slot: slot,
    form: Form = AS_READ,
) -> Weights:
    """Reads `model.safetensors`, or the shards that an index names, straight into the stacked tree.

    `dtype` None or "auto" keeps the type that config.json names, else that of the first tensor, as the reference does
    (64 bits become 32). A head that differs from the embedding stays one of its own, whatever the config says of ties;
    an adapter in the folder is merged. What is read in another way than it stands there is told on standard error.

    Files are opened twice a layer and closed again, so the peak stays near the size of the weights themselves. `own`
    says which part of a tensor to read (None: nothing of it), as one of many devices does (`devices`); what it leaves
    out is not read from the disk. `form` may keep what was read in another form (`fast.load_int8`), layer by layer.

    Raises:
        Error: no safetensors file, an unreadable one, or a tensor that is missing, surplus, misshapen, quantised or
            not finite; an adapter that is not LoRA's; a dtype that is not computed in.
    """
    folder = Path(of_kind("load_weights", "folder", folder, str, os.PathLike))
    of_kind("load_weights", "config", config, Config)
    of_kind("load_weights", "form", form, Form)
    if not callable(own):
        raise Error(f"load_weights: own is {shown(own)}, expected a function: mend the argument")
    check_device(device)
    home = base_folder(folder)
    dtype, files = dtype_of(config, home, dtype), tensor_files(home)
    before = {path: stamp(path) for path in files.values()}
    found, untied = find_slots(files, config), replace(config, tie_word_embeddings=False)
    sources = {"lm_head.weight": found.head or found.sources["model.embed_tokens.weight"], **found.sources}
    changes = read_adapter(folder, {slot.name: slot for slot in outer_slots(untied)} | found.slots, config)
    # The largest tensors one by one, then layer by layer. All room is taken before anything is read: what reading
    # needs for a moment then lies behind the weights, and not between them, where it would leave holes.
    with_head = found.head is not None or bool(changes.keys() & {"lm_head.weight", "model.embed_tokens.weight"})
    whole = [[slot] for slot in outer_slots(untied if with_head else config)]
    whole += [list(layer_slots(config, layer)) for layer in range(config.num_hidden_layers)]
    parts = [[mine for slot in slots if (mine := own(slot)) is not None] for slots in whole]
    check_room(folder, [slot for slots in parts for slot in slots], dtype, device, form)
    check_stored(sources.values())
    for note in found.notes:
        print(note, file=sys.stderr)
    trees = [empty_fields(slots, dtype, device) for slots in parts]

    def into_form(fields: dict[str, Any]) -> None:
        for name in fields:
            fields[name] = form.keep(name, fields[name])

    def read(task: tuple[Tensor, Slot, Any]) -> None:
        target, slot, opened = task
        source = sources[slot.name]
        check_unchanged(source.path, before[source.path])
        with torch.inference_mode(inference):  # which each thread has for itself
            fill(target, slot, source, opened, changes.get(slot.name))

    inference, workers = torch.is_inference_mode_enabled(), torch.get_num_threads()
    for number, (fields, slots) in enumerate(
        zip(trees, parts, strict=True), start=config.num_hidden_layers - len(trees)
    ):
        for few in (slots[::2], slots[1::2]):  # what is read of a file stays in memory until it is closed
            with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
                paths = {sources[slot.name].path for slot in few}
                opened = {path: stack.enter_context(open_file(path)) for path in paths}
                tasks = [
                    (target, part, opened[sources[slot.name].path])
                    for slot in few  # an adapter's change is worked out once, for the whole tensor
                    for target, part in shared_out(
                        fields[slot.field][slot.part], slot, 1 if slot.name in changes else workers
                    )
                ]
                for _ in pool.map(read, tasks):  # a fault is raised here, the first in order
                    pass
        if number >= 0:  # a layer; head and embedding are compared first
            into_form(fields)
    for path in before:
        check_unchanged(path, before[path])
    outer = {name: tensor for fields in trees[: -config.num_hidden_layers] for name, tensor in fields.items()}
    if config.tie_word_embeddings and "lm_head" in outer and same_numbers(outer["lm_head"], outer["embed_tokens"]):
        del outer["lm_head"]
    into_form(outer)
    return Weights(layers=tuple(LayerWeights(**fields) for fields in trees[-config.num_hidden_layers :]), **outer)


def shared_out(target: Tensor, slot: Slot, workers: int) -> list[tuple[Tensor, Slot]]:
    """A tensor that is much for one of the workers, such as the embedding, as rows for each of them."""
    if target.numel() < LARGE or slot.cut:
        return [(target, slot)]
    rows = -(-len(target) // workers)
    cuts = [slice(start, min(start + rows, len(target))) for start in range(0, len(target), rows)]
    return [(target[cut], slot._replace(cut=(cut,))) for cut in cuts]


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """torch.equal, whose answer it gives, needs a byte for each number; this takes them piece by piece."""
    return all(map(torch.equal, one.flatten().split(PIECE), other.flatten().split(PIECE)))


def check_room(
    folder: str | Path, slots: list[Slot], dtype: torch.dtype, device: torch.device | str | None, form: Form
) -> None:
    """Whether the device has room for them: Linux would hand it out all the same, and end the process later."""
    needed, left = sum(form.size(slot, dtype) for slot in slots), available_memory(device)
    if left is not None and needed > left:
        found = f"the weights take {size_text(needed)} in {dtype}, {device or 'cpu'} has {size_text(left)} left"
        raise Error(f"{folder}: {found}, expected room for all: choose a smaller dtype, or more devices")


def fill(target: Tensor, slot: Slot, source: Source, file: Any, change: Change | None = None) -> None:
    """Copies a tensor of an open file, or the part that the slot asks for, into its place; merged with a change."""
    path, part = source.path, source.within(slot.cut if change is None else ())
    try:
        tensor = file.get_slice(source.name)[part] if part else file.get_tensor(source.name)
        tensor = tensor if change is None else change.of(tensor)[slot.cut]
        finite = copy_and_check(target, tensor)
    except UNREADABLE as error:
        raise damaged(path, error) from None
    if not finite:
        where = f"{path}: tensor {source.name}" + (" merged with its adapter" if change else "")
        if all_finite(tensor):
            found, advice = f"a number too large for {target.dtype}", "choose another dtype"
        else:
            found, advice = "NaN or infinity", "fetch the file again"
        raise Error(f"{where} holds {found}, expected finite numbers: {advice}")


def copy_and_check(target: Tensor, tensor: Tensor) -> bool:
    """`target.copy_(tensor)` up to the first number that is not finite; whether there was none.

    On a CPU piece by piece, so that a piece is checked while the processor still has it, and so small that torch keeps
    it on this thread: whoever calls this on several then has none that waits for the others.
    """
    if target.device.type != "cpu" or target.ndim == 0:
        return all_finite(target.copy_(tensor))
    rows = max(1, AT_ONCE * len(target) // max(1, target.numel()))
    pieces = zip(target.split(rows), tensor.split(rows), strict=True)
    return all(all_finite(into.copy_(piece)) for into, piece in pieces)


def all_finite(tensor: Tensor) -> bool:
    """By the sum, which is not finite where any number is not; where it may only be too large, by the extremes."""
    return tensor.numel() == 0 or math.isfinite(tensor.sum()) or all(map(math.isfinite, tensor.aminmax()))


def dtype_of(config: Config, where: str | Path, asked: torch.dtype | str | None = None) -> torch.dtype:
    """The type to compute in: the one asked for, else what the config names, else that of the first tensor in `where`.

    Raises Error for a type in which this family is not computed.
    """
    if asked is not None and asked != "auto":
        name = ALSO.get(name := str(asked).removeprefix("torch."), name)
        if name not in DTYPES:
            expected = f"expected one of {', '.join(DTYPES)}, as torch has them or by name, or 'auto'"
            raise Error(f"dtype is {shown(asked)}, {expected}: mend the argument")
        return DTYPES[name]
    name = ALSO.get(config.dtype, config.dtype)
    if name == "auto":
        return stored_dtype(Path(where)) if isinstance(where, Path) else torch.float32
    if name not in DTYPES:
        raise Error(f"{where}: dtype is {shown(name)}, expected one of {', '.join(DTYPES)}: pass dtype yourself")
    return DTYPES[name]


def stored_dtype(folder: Path) -> torch.dtype:
    """That of the first tensor, by name, of the first file; fp32 where there is no file."""
    if not any((folder / name).exists() for name in (SINGLE, INDEX)):
        return torch.float32
    first = min(set(tensor_files(folder).values()))
    kinds = (entry.get("dtype") for _, entry in sorted(header_of(first).items()) if isinstance(entry, dict))
    return DTYPES[next((STORED_AS[kind] for kind in kinds if kind in STORED), "float32")]


def check_tensors(files: dict[str, Path], config: Config) -> None:
    """Names and shapes of all tensors against what the config implies, from the headers alone."""
    check_stored(find_slots(files, config).sources.values())


def check_stored(sources: Iterable[Source]) -> None:
    """How the files hold the tensors of these sources."""
    wanted = {(source.path, source.name): source.shape for source in sources}
    for path in sorted({path for path, _ in wanted}):
        with open_file(path, "numpy") as opened:  # torch would want memory for the whole file
            for name, shape in [(name, shape) for (at, name), shape in wanted.items() if at == path]:
                try:
                    header = opened.get_slice(name)
                    kind, stored = header.get_dtype(), header.get_shape()
                except UNREADABLE as error:
                    raise damaged(path, error) from None
                where = f"{path}: tensor {name}"
                if kind not in STORED:
                    found = f"is stored as {kind}, as quantised weights are"
                    raise Error(f"{where} {found}, expected one of {', '.join(STORED)}: {UNQUANTISED}")
                if tuple(stored) != shape:
                    found = f"{where} has shape {list(stored)}, expected {list(shape)} from config.json"
                    advice = "they are of different models"
                    if name.endswith(("embed_tokens.weight", "lm_head.weight")) and stored[1:] == [*shape[1:]]:
                        resized = f"where it was padded or resized, vocab_size in config.json is {stored[0]}"
                        advice = f"{resized}, else {advice}"
                    raise Error(f"{found}: {advice}")


def tensor_tree(weights: Weights | LayerWeights) -> list[Tensor]:
    """All tensors of the tree, or of one layer, in a fixed order."""
    return [tensor for tensor in tree_leaves(weights) if tensor is not None]
