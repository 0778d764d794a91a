"""safetensors files <-> Weights: every tensor checked by name, shape and content before anything is computed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import Config, read_json
from .errors import Error
from .tree import LayerWeights, Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_SHARD_SIZE = 5_000_000_000  # bytes, as is usual on the hub
STORED = ("F64", "F32", "BF16", "F16")  # how safetensors names the kinds of numbers read here
INDEX = "model.safetensors.index.json"
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
    for letter, rows, columns in (
        ("q", q_dim, hidden), ("k", kv_dim, hidden), ("v", kv_dim, hidden), ("o", hidden, q_dim)
    ):  # fmt: skip
        yield Slot(f"{prefix}.self_attn.{letter}_proj.weight", f"{letter}_proj", (rows, columns))
        if config.attention_bias:
            yield Slot(f"{prefix}.self_attn.{letter}_proj.bias", f"{letter}_bias", (rows,))
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


def all_slots(config: Config) -> list[Slot]:
    layers = (slot for layer in range(config.num_hidden_layers) for slot in layer_slots(config, layer))
    return [*outer_slots(config), *layers]


def empty_fields(slots: list[Slot], dtype: torch.dtype, device: torch.device | str | None) -> dict:
    """Uninitialised tensors of the tree's shapes: experts stacked, gate above up."""
    shapes = {}
    for slot in slots:
        shape = (2 * slot.shape[0], slot.shape[1]) if slot.field == "gate_up_proj" else slot.shape
        stacked = slot.part and isinstance(slot.part[0], int)
        shapes[slot.field] = (slot.part[0] + 1, *shape) if stacked else shape  # the last expert decides
    return {field: torch.empty(shape, dtype=dtype, device=device) for field, shape in shapes.items()}


def init_weights(
    config: Config,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Weights:
    """Random weights as one starts training with: normal with `initializer_range`, norms one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    dtype = dtype or _dtype_of(config, "config")

    def drawn(slots: list[Slot]) -> dict:
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
    it), as one of many devices does (`parallel.py`); what it leaves out is not read from the disk.

    Raises:
        Error: no safetensors file, an unreadable one, or a tensor that is missing, surplus, misshapen or not finite.
    """
    dtype = dtype or _dtype_of(config, folder)
    files = tensor_files(Path(folder))
    check_tensors(files, config)

    def mine(slots: Iterable[Slot]) -> list[Slot]:
        return [slot for slot in map(own, slots) if slot is not None]

    # The largest tensors one by one, then layer by layer. All room is taken before anything is read: what reading
    # needs for a moment then lies behind the weights, and not between them, where it would leave holes.
    parts = [[slot] for slot in mine(outer_slots(config))]
    parts += [mine(layer_slots(config, layer)) for layer in range(config.num_hidden_layers)]
    trees = [empty_fields(slots, dtype, device) for slots in parts]
    for fields, slots in zip(trees, parts, strict=True):
        for few in (slots[::2], slots[1::2]):  # what is read of a file stays in memory until it is closed
            with ExitStack() as stack:
                opened = {path: stack.enter_context(_open(path)) for path in {files[slot.name] for slot in few}}
                for slot in few:
                    fill(fields[slot.field][slot.part], slot, opened[files[slot.name]], files[slot.name])
    outer = {name: tensor for fields in trees[: -config.num_hidden_layers] for name, tensor in fields.items()}
    return Weights(layers=tuple(LayerWeights(**fields) for fields in trees[-config.num_hidden_layers :]), **outer)


def fill(target: Tensor, slot: Slot, file: Any, path: Path) -> None:
    """Copies a tensor of an open file, or the part of it that the slot asks for, into its place."""
    tensor = file.get_slice(slot.name)[slot.cut] if slot.cut else file.get_tensor(slot.name)
    target.copy_(tensor)
    if not all_finite(target):
        if all_finite(tensor):
            found, advice = f"a number too large for {target.dtype}", "choose another dtype"
        else:
            found, advice = "NaN or infinity", "fetch the file again"
        raise Error(f"{path}: tensor {slot.name} holds {found}, expected finite numbers: {advice}")


def all_finite(tensor: Tensor) -> bool:
    """In parts, since the check takes several times the memory of what it looks at."""
    return all(bool(part.isfinite().all()) for part in tensor.flatten().split(2**20))


def _dtype_of(config: Config, where: str | Path) -> torch.dtype:
    if config.dtype not in DTYPES:
        raise Error(f"{where}: dtype is {config.dtype!r}, expected one of {', '.join(DTYPES)}: pass dtype yourself")
    return DTYPES[config.dtype]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor, from the files' own headers; the index only says which files there are."""
    single, index = folder / "model.safetensors", folder / INDEX
    if single.exists():
        paths = [single]
    elif index.exists():
        paths = [folder / name for name in _shard_names(index)]
    else:
        pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt"))
        found = f"only {pickles[0]}, which is a pickle and is never opened" if pickles else "no weights"
        raise Error(f"{folder}: {found}, expected model.safetensors or {INDEX}: convert or fetch the checkpoint")
    files: dict[str, Path] = {}
    for path in paths:
        with _open(path) as opened:
            for name in opened.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if name in files:
                    raise Error(f"{path}: tensor {name} stands in {files[name].name} too, expected once: fetch again")
                files[name] = path
    return files


def _shard_names(index: Path) -> list[str]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise Error(f"{index}: weight_map is no table of tensor to file name: fetch the file again")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise Error(
                f"{index}: names the file {name!r}, expected a plain *.safetensors name in this folder: do not trust it"
            )
    return names


def check_tensors(files: dict[str, Path], config: Config) -> None:
    """Names and shapes of all tensors against what the config implies, from the headers alone."""
    slots = {slot.name: slot for slot in all_slots(config)}
    ignored = {
        name for name in files if name.endswith(IGNORED) or (config.tie_word_embeddings and name == "lm_head.weight")
    }
    where = next(iter(files.values())).parent if files else "the checkpoint"
    missing, surplus = sorted(slots.keys() - files.keys()), sorted(files.keys() - slots.keys() - ignored)
    for found, what, hint in (
        (missing, "missing", "the files are incomplete or of another config.json"),
        (surplus, "surplus", "config.json describes another model"),
    ):
        if found:
            others = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise Error(
                f"{where}: tensor {found[0]}{others} {what}, expected the {len(slots)} that config.json implies: {hint}"
            )
    for path in sorted(set(files.values())):
        with _open(path) as opened:
            for name in (name for name in slots if files[name] == path):
                kind, shape = opened.get_slice(name).get_dtype(), tuple(opened.get_slice(name).get_shape())
                if kind not in STORED:
                    expected = f"expected one of {', '.join(STORED)}"
                    raise Error(f"{path}: tensor {name} is stored as {kind}, {expected}: fetch weights not quantised")
                if shape != slots[name].shape:
                    expected = f"expected {list(slots[name].shape)} from config.json"
                    raise Error(
                        f"{path}: tensor {name} has shape {list(shape)}, {expected}: they are of different models"
                    )


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise Error(f"{path}: no such file, though the index names it: fetch the checkpoint again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise Error(
            f"{path}: is no readable safetensors file ({error}): it is cut off or damaged, fetch it again"
        ) from None


def save_weights(folder: Path, weights: Weights, config: Config, *, max_shard_size: int = MAX_SHARD_SIZE) -> None:
    """Writes the hub's tensors, experts one by one: model.safetensors, or shards with an index above `max_shard_size`.

    Sizes are in bytes. All files are written beside their names and renamed once all are complete.
    """
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in named_tensors(weights, config):
        if shards[-1] and sum(held.nbytes for held in shards[-1].values()) + tensor.nbytes > max_shard_size:
            shards.append({})
        shards[-1][name] = tensor.detach().cpu().contiguous()
    count = len(shards)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    names = names if count > 1 else ["model.safetensors"]
    partials = [folder / f"{name}.partial" for name in names]
    try:
        for shard, partial in zip(shards, partials, strict=True):
            save_file(shard, partial, metadata={"format": "pt"})
            partial.chmod(0o644)  # the library makes files that only their owner may read
        for partial in partials:
            os.replace(partial, partial.with_suffix(""))
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    if count > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        (folder / "model.safetensors").unlink(missing_ok=True)  # else it would be read instead of the shards


def named_tensors(weights: Weights, config: Config) -> Iterator[tuple[str, Tensor]]:
    """The hub's name of every tensor and its part of the tree, as a view."""
    for slot in outer_slots(config):
        yield slot.name, getattr(weights, slot.field)[slot.part]
    for number, layer in enumerate(weights.layers):
        for slot in layer_slots(config, number):
            yield slot.name, getattr(layer, slot.field)[slot.part]


def write_json(path: Path, content: dict) -> None:
    """A JSON file that is either the old one or the new one, never half of one."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def tensor_tree(weights: Weights) -> list[Tensor]:
    """All tensors of the tree, in a fixed order."""
    layers = [tensor for layer in weights.layers for tensor in layer if tensor is not None]
    outer = [weights.embed_tokens, *layers, weights.norm]
    return outer if weights.lm_head is None else [*outer, weights.lm_head]
