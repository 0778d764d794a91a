"""Weights and texts -> files: a set of files is replaced as a whole, whatever interrupts the writing."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..config import Config
from ..errors import Error
from ..model import Weights
from ..trust.memory import size_text
from ..trust.shards import INDEX, SINGLE
from .adapters import SETTINGS, TENSORS
from .names import Slot, layer_slots, outer_slots
from .weights import empty_fields

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two writers apart
    fcntl = None  # type: ignore[assignment]

HEAD = "lm_head.weight"
MAX_SHARD_SIZE = 5_000_000_000  # bytes, as is usual on the hub
WEIGHT_FILES = (SINGLE, INDEX, "model-*-of-*.safetensors", SETTINGS, TENSORS)  # an adapter was merged, or was another's
TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "vocab.json", "merges.txt",
)  # fmt: skip
CHECKPOINT_FILES = (
    "config.json", "generation_config.json", *dict.fromkeys(name.split("/")[0] for name in TEXT_FILES), *WEIGHT_FILES,
)  # fmt: skip
# Without these no loader takes a folder for a checkpoint, so they are taken away first and come back last.
GATES = {"config.json": 2, INDEX: 1, SINGLE: 1}


def save_weights(folder: Path, weights: Weights, config: Config, *, max_shard_size: int = MAX_SHARD_SIZE) -> None:
    """Writes the hub's tensors, experts one by one: model.safetensors, or shards with an index above `max_shard_size`.

    Sizes are in bytes. The new files take the place of all weights in the folder together; see `replacing`. Raises
    Error for weights of other shapes than the config's, of which some would be lost or read back as others.
    """
    check_tree(weights, config)
    with replacing(folder, WEIGHT_FILES, needed=bytes_of(weights, config)) as new:
        write_weights(new, weights, config, max_shard_size)


def write_weights(folder: Path, weights: Weights, config: Config, max_shard_size: int = MAX_SHARD_SIZE) -> None:
    """The files of `save_weights` in an empty folder. Of a model on a GPU one shard at a time is copied to the CPU."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0  # of the last shard, in bytes
    for name, tensor in named_tensors(weights, config):
        if shards[-1] and size + tensor.nbytes > max_shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach()
        size += tensor.nbytes
    count = len(shards)
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)] if count > 1 else [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        with whole(folder / name) as partial:
            content = {name: tensor.cpu().contiguous() for name, tensor in shard.items()}
            if (head := content.get(HEAD)) is not None and head.data_ptr() in {
                tensor.data_ptr() for name, tensor in content.items() if name != HEAD
            }:  # the embedding's own memory, which the library would refuse
                content[HEAD] = head.clone()
            save_file(content, partial, metadata={"format": "pt"})
            partial.chmod(0o644)  # the library makes files that only their owner may read
    if count > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": bytes_of(weights, config)}, "weight_map": weight_map}
        write_json(folder / INDEX, index)


def named_tensors(weights: Weights, config: Config) -> Iterator[tuple[str, Tensor]]:
    """The hub's name of every tensor and its part of the tree, as a view; a head wherever the tree has one."""
    for slot in outer_slots(replace(config, tie_word_embeddings=weights.lm_head is None)):
        yield slot.name, getattr(weights, slot.field)[slot.part]
    for number, layer in enumerate(weights.layers):
        for slot in layer_slots(config, number):
            yield slot.name, getattr(layer, slot.field)[slot.part]


def check_tree(weights: Weights, config: Config) -> None:
    """Raises Error where a tensor has another shape than the config implies, is lacking, or has no name in the files.

    So it is for one of many devices' slices, and after a field of the config was replaced that the weights depend on.
    """
    layers = [(f"layer {n}: ", layer, list(layer_slots(config, n))) for n, layer in enumerate(weights.layers)]
    own_head = replace(config, tie_word_embeddings=weights.lm_head is None)
    parts: list[tuple[str, Any, list[Slot]]] = [("", weights, outer_slots(own_head)), *layers]
    for at, part, slots in parts:
        wanted = {name: list(tensor.shape) for name, tensor in empty_fields(slots, torch.float32, "meta").items()}
        there = {name: list(tensor.shape) for name, tensor in part._asdict().items() if isinstance(tensor, Tensor)}
        for name, held in part._asdict().items():
            if name in wanted and not isinstance(held, (Tensor, NoneType)):
                said = f"{at}{name} of the weights is a {type(held).__name__}, expected a tensor"
                raise Error(f"save: {said}: save the checkpoint as it was loaded, before rounding")
        for name in wanted | there:
            if (found := there.get(name)) != (expected := wanted.get(name)):
                said = f"{at}{name} of the weights is {found}, expected {expected}, as the config says"
                raise Error(f"save: {said}: take both from one model")


def bytes_of(weights: Weights, config: Config) -> int:
    return sum(tensor.nbytes for _, tensor in named_tensors(weights, config))


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file that is either the old one or the new one, never half of one."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends and goes when the block fails.

    Whoever else writes in the same folder is waited for. The bytes are forced to the disk before the name is given:
    else a power cut soon afterwards could leave the name on an empty file. Raises Error where the disk is full or the
    folder may not be written.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path), alone_in(path.parent):
        try:
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other thread or process writes in a folder, and keeps them out until the block ends.

    The system's lock is on the folder itself: it leaves no file behind, and ends with the process however that ends.
    A disk that knows no locks, as some that are shared over a network, is written to without.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextmanager
def replacing(folder: Path, patterns: Sequence[str], *, needed: int = 0) -> Iterator[Path]:
    """A folder to write a set of files to, which together take the place of those in `folder` that match `patterns`.

    Whoever else writes in the folder is waited for, so of two writers the later one's set is there, and all of it.
    Until all are complete nothing of the old set is touched, and an error or Ctrl-C leaves it as it was. Then the old
    files are moved aside and the new ones moved in. A process that is killed between the two leaves a folder without
    config.json or without weights, which nothing loads, and in it both sets: `old.partial` and `new.partial`.
    Raises Error where fewer than `needed` bytes are free, and what `whole` raises.
    """
    new = folder / "new.partial"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            try:
                shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
                new.mkdir()
                if (free := shutil.disk_usage(folder).free) < needed:
                    found = f"{size_text(needed)} are to be written, found {size_text(free)} free"
                    raise Error(f"{folder}: {found}, expected room beside the old files: make room or save elsewhere")
                yield new
                _swap(folder, new, [path.name for pattern in patterns for path in folder.glob(pattern)])
            finally:
                shutil.rmtree(new, ignore_errors=True)


def _swap(folder: Path, new: Path, old_names: Sequence[str]) -> None:
    aside = folder / "old.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    names = sorted((path.name for path in new.iterdir()), key=lambda name: GATES.get(name, 0))
    moves = [(folder / name, aside / name) for name in sorted(old_names, key=lambda name: -GATES.get(name, 0))]
    moves += [(new / name, folder / name) for name in names]
    try:
        for source, target in moves:
            os.replace(source, target)
    except BaseException:
        for source, target in reversed(moves):
            if target.exists() and not source.exists():
                os.replace(target, source)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What a failed write means to the person who asked for it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        there = next((above for above in (path, *path.parents) if above.is_dir()), Path())
        free = f"with {size_text(shutil.disk_usage(there).free)} free there"
        expected = "expected a folder with room that may be written to"
        raise Error(f"{path}: cannot be written ({reason}), {free}, {expected}: make room or save elsewhere") from None
