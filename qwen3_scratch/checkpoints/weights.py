"""safetensors files <-> Weights: every tensor checked by name, shape and content before anything is computed."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..config import Config
from ..errors import Error, one_line, shown
from ..model import LayerWeights, Weights
from ..trust.memory import available_memory, size_text
from ..trust.shards import UNREADABLE, check_unchanged, damaged, open_file, stamp, tensor_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = ("F64", "F32", "BF16", "F16")  # how safetensors names the kinds of numbers read here
MOST_MISSING = 1000  # so many missing tensors are counted; sizes that imply 10^12 of them are not written out
IGNORED = ("rotary_emb.inv_freq",)  # older files carry this table, which is computed here


class Slot(NamedTuple):
    """One tensor of the hub's files, and the part of which tensor of the tree it fills."""

    name: str  # in the file
    field: str  # of Weights or LayerWeights
    shape: tuple[int, ...]
    part: tuple[int | slice, ...] = ()  # () is the whole; the stacked experts take one slice each
    cut: tuple[slice, ...] = ()  # which part of the file's tensor it is; () is the whole


def outer_slots(config: Config) -> list[Slot]:
    """The tensors outside the layers. A tied head has none of its own."""
    vocab, hidden = config.vocab_size, config.hidden_size
    slots = [Slot("model.embed_tokens.weight", "embed_tokens", (vocab, hidden))]
    slots += [] if config.tie_word_embeddings else [Slot("lm_head.weight", "lm_head", (vocab, hidden))]
    return [*slots, Slot("model.norm.weight", "norm", (hidden,))]


def layer_slots(config: Config, layer: int) -> Iterator[Slot]:
    """The tensors of one layer, experts one by one as on the hub."""
    hidden, head_dim, prefix = config.hidden_size, config.head_dim, f"model.layers.{layer}"
    q_dim, kv_dim = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield Slot(f"{prefix}.{name}.weight", name, (hidden,))
    for name in ("q_norm", "k_norm"):
        yield Slot(f"{prefix}.self_attn.{name}.weight", name, (head_dim,))
    projections = {"q": (q_dim, hidden), "k": (kv_dim, hidden), "v": (kv_dim, hidden), "o": (hidden, q_dim)}
    for letter, shape in projections.items():
        yield Slot(f"{prefix}.self_attn.{letter}_proj.weight", f"{letter}_proj", shape)
        if config.attention_bias:
            yield Slot(f"{prefix}.self_attn.{letter}_proj.bias", f"{letter}_bias", shape[:1])
    if config.is_sparse(layer):
        yield Slot(f"{prefix}.mlp.gate.weight", "router", (config.num_experts, hidden))
        for expert in range(config.num_experts):
            name = f"{prefix}.mlp.experts.{expert}"
            yield from _ffn_slots(name, hidden, config.moe_intermediate_size, (expert,))
    else:
        yield from _ffn_slots(f"{prefix}.mlp", hidden, config.intermediate_size, ())


def _ffn_slots(name: str, hidden: int, intermediate: int, part: tuple[int, ...]) -> Iterator[Slot]:
    gate, up = slice(0, intermediate), slice(intermediate, 2 * intermediate)
    yield Slot(f"{name}.gate_proj.weight", "gate_up_proj", (intermediate, hidden), (*part, gate))
    yield Slot(f"{name}.up_proj.weight", "gate_up_proj", (intermediate, hidden), (*part, up))
    yield Slot(f"{name}.down_proj.weight", "down_proj", (hidden, intermediate), part)


def all_slots(config: Config) -> Iterator[Slot]:
    yield from outer_slots(config)
    for layer in range(config.num_hidden_layers):
        yield from layer_slots(config, layer)


def empty_fields(slots: list[Slot], dtype: torch.dtype, device: torch.device | str | None) -> dict[str, Tensor]:
    """Uninitialised tensors of the tree's shapes: experts stacked, gate above up."""
    shapes: dict[str, tuple[int, ...]] = {}
    for slot in slots:
        shape = (2 * slot.shape[0], slot.shape[1]) if slot.field == "gate_up_proj" else slot.shape
        first = slot.part[0] if slot.part else None
        shapes[slot.field] = (first + 1, *shape) if isinstance(first, int) else shape  # the last expert decides
    return {field: torch.empty(shape, dtype=dtype, device=device) for field, shape in shapes.items()}


def init_weights(
    config: Config, *, seed: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Weights:
    """Random weights as one starts training with: normal with `initializer_range`, norms one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    dtype = dtype or dtype_of(config, "config")

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
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    own: Callable[[Slot], Slot | None] = lambda slot: slot,
) -> Weights:
    """Reads `model.safetensors`, or the shards that an index names, straight into the stacked tree.

    `dtype` None keeps the type that config.json names. Files are opened twice a layer and closed again, so the
    peak stays near the size of the weights themselves. `own` says which part of a tensor to read (None: nothing of
    it), as one of many devices does (`devices`); what it leaves out is not read from the disk.

    Raises:
        Error: no safetensors file, an unreadable one, or a tensor that is missing, surplus, misshapen or not finite.
    """
    dtype = dtype or dtype_of(config, folder)
    files = tensor_files(Path(folder))
    before = {path: stamp(path) for path in files.values()}
    implied = check_names(files, config)
    # The largest tensors one by one, then layer by layer. All room is taken before anything is read: what reading
    # needs for a moment then lies behind the weights, and not between them, where it would leave holes.
    whole = [[slot] for slot in outer_slots(config)]
    whole += [list(layer_slots(config, layer)) for layer in range(config.num_hidden_layers)]
    parts = [[mine for slot in slots if (mine := own(slot)) is not None] for slots in whole]
    check_room(folder, [slot for slots in parts for slot in slots], dtype, device)
    check_stored(files, implied)
    trees = [empty_fields(slots, dtype, device) for slots in parts]
    for fields, slots in zip(trees, parts, strict=True):
        for few in (slots[::2], slots[1::2]):  # what is read of a file stays in memory until it is closed
            with ExitStack() as stack:
                opened = {path: stack.enter_context(open_file(path)) for path in {files[slot.name] for slot in few}}
                for slot in few:
                    path = files[slot.name]
                    check_unchanged(path, before[path])
                    fill(fields[slot.field][slot.part], slot, opened[path], path)
    for path in before:
        check_unchanged(path, before[path])
    outer = {name: tensor for fields in trees[: -config.num_hidden_layers] for name, tensor in fields.items()}
    return Weights(layers=tuple(LayerWeights(**fields) for fields in trees[-config.num_hidden_layers :]), **outer)


def check_room(folder: str | Path, slots: list[Slot], dtype: torch.dtype, device: torch.device | str | None) -> None:
    """Whether the device has room for them: Linux would hand it out all the same, and end the process later."""
    needed, left = sum(math.prod(slot.shape) for slot in slots) * dtype.itemsize, available_memory(device)
    if left is not None and needed > left:
        found = f"the weights take {size_text(needed)} in {dtype}, {device or 'cpu'} has {size_text(left)} left"
        raise Error(f"{folder}: {found}, expected room for all: choose a smaller dtype, or more devices")


def fill(target: Tensor, slot: Slot, file: Any, path: Path) -> None:
    """Copies a tensor of an open file, or the part of it that the slot asks for, into its place."""
    try:
        tensor = file.get_slice(slot.name)[slot.cut] if slot.cut else file.get_tensor(slot.name)
        target.copy_(tensor)
    except UNREADABLE as error:
        raise damaged(path, error) from None
    if not all_finite(target):
        if all_finite(tensor):
            found, advice = f"a number too large for {target.dtype}", "choose another dtype"
        else:
            found, advice = "NaN or infinity", "fetch the file again"
        raise Error(f"{path}: tensor {slot.name} holds {found}, expected finite numbers: {advice}")


def all_finite(tensor: Tensor) -> bool:
    """By the least and the largest number, which are NaN where any is: one pass without a copy."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def dtype_of(config: Config, where: str | Path) -> torch.dtype:
    if config.dtype not in DTYPES:
        expected = f"expected one of {', '.join(DTYPES)}"
        raise Error(f"{where}: dtype is {shown(config.dtype)}, {expected}: pass dtype yourself")
    return DTYPES[config.dtype]


def check_tensors(files: dict[str, Path], config: Config) -> None:
    """Names and shapes of all tensors against what the config implies, from the headers alone."""
    check_stored(files, check_names(files, config))


def check_names(files: dict[str, Path], config: Config) -> dict[str, Slot]:
    """The tensors that the config implies, by name, if these and no others are there."""
    where = next(iter(files.values())).parent if files else "the checkpoint"
    most = len(files) + MOST_MISSING
    slots = {slot.name: slot for slot in islice(all_slots(config), most)}
    if len(slots) == most:
        found = f"holds {len(files):,} tensors, expected more than {most - 1:,}, as config.json implies"
        raise Error(f"{where}: {found}: the files are incomplete or of another config.json")
    ignored = {name for name in files if name.endswith(IGNORED)}
    ignored |= {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = slots.keys() - files.keys(), "missing", "the files are incomplete or of another config.json"
    surplus = files.keys() - slots.keys() - ignored, "surplus", "config.json describes another model"
    for wrong, what, hint in (missing, surplus):
        if names := sorted(wrong):
            found = one_line(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f" {what}"
            raise Error(f"{where}: tensor {found}, expected the {len(slots)} that config.json implies: {hint}")
    return slots


def check_stored(files: dict[str, Path], slots: dict[str, Slot]) -> None:
    """How the files hold the tensors of these slots."""
    for path in sorted(set(files.values())):
        with open_file(path, "numpy") as opened:  # torch would want memory for the whole file
            for slot in (slot for slot in slots.values() if files[slot.name] == path):
                try:
                    header = opened.get_slice(slot.name)
                    kind, shape = header.get_dtype(), header.get_shape()
                except UNREADABLE as error:
                    raise damaged(path, error) from None
                where = f"{path}: tensor {slot.name}"
                if kind not in STORED:
                    expected = f"expected one of {', '.join(STORED)}"
                    raise Error(f"{where} is stored as {kind}, {expected}: fetch weights not quantised")
                if tuple(shape) != slot.shape:
                    expected = f"expected {list(slot.shape)} from config.json"
                    raise Error(f"{where} has shape {list(shape)}, {expected}: they are of different models")


def tensor_tree(weights: Weights) -> list[Tensor]:
    """All tensors of the tree, in a fixed order."""
    return [tensor for tensor in tree_leaves(weights) if tensor is not None]
