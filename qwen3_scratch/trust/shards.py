"""The safetensors files of a folder, one or sharded: which there are, which tensors they name, and that they rest."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import Error, first_of, one_line, shown
from .files import LARGEST_TABLE, check_file, json_object, no_pointer, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_SHARDS = 10_000  # the largest of the family comes in 118
AGAIN, MERGE = "convert or fetch the checkpoint", "merge it into one model with what wrote it, and save that"
STATE = ("optimizer", "scheduler", "rng_state", "random_states", "scaler", "training_args")  # no weights
OTHERS = (  # what may lie there instead of weights, the likeliest first: file names, what they are, what to do
    ("*.part *.incomplete *.crdownload *.aria2 .cache/huggingface/download/*.incomplete",
     "the rest of a download that was cut off", "fetch the checkpoint again"),
    ("model-*-of-*.safetensors", "of which the index is lacking", f"fetch the index, {INDEX}, too"),
    ("*.safetensors", "which is no name that is looked for", f"call it {SINGLE} if it is the whole model"),
    (f"*/{SINGLE} */{INDEX}", "in a folder within", "name that folder"),
    ("openvino*.xml", "which is OpenVINO's format", AGAIN),
    ("*.bin *.pt *.pth *.ckpt", "which is a pickle and is never opened", AGAIN),
    ("*.gguf", "which is llama.cpp's format and mostly quantised", AGAIN),
    ("*.onnx */*.onnx", "which is ONNX's format", AGAIN),
    ("*.h5", "which is TensorFlow's format", AGAIN), ("*.msgpack", "which is Flax's format", AGAIN),
    ("*.npz", "which is numpy's format", AGAIN), ("*.engine", "which is TensorRT's format", AGAIN),
    ("*.distcp */*.distcp", "which is torch.distributed's format", MERGE),
    ("global_step*/*.pt", "which is DeepSpeed's format", MERGE),
)  # fmt: skip
UNREADABLE = (SafetensorError, OSError, ValueError, RuntimeError, MemoryError)  # what the library and torch say


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor, from the files' own headers; the index says which files there are, no more.

    What the index says of a tensor is not believed: the reference does not ask it either.
    """
    single, index = folder / SINGLE, folder / INDEX
    if os.path.lexists(single):  # a link that leads nowhere is refused, and not passed over
        paths = [single]
    elif os.path.lexists(index):
        paths = [folder / name for name in sorted(set(shard_table(index).values()))]
    else:
        found, advice = instead_of_weights(folder)
        raise Error(f"{folder}: {found}, expected {SINGLE} or {INDEX}: {advice}")
    files: dict[str, Path] = {}
    headers: dict[Path, dict[str, Any]] = {}
    for path in paths:
        if not os.path.lexists(path):
            raise Error(f"{path}: no such file, though the index names it: fetch the checkpoint again")
        headers[path] = header_of(path)
        for name in headers[path]:
            if name in files and not same_bytes(*((each, headers[each][name]) for each in (files[name], path))):
                found = f"tensor {one_line(name)} stands in {files[name].name} too, with other numbers"
                raise Error(f"{path}: {found}, expected once: fetch the files of one checkpoint again")
            files.setdefault(name, path)
    return files


def instead_of_weights(folder: Path) -> tuple[str, str]:
    """What lies in a folder in the place of weights, and what to do."""
    for patterns, what, advice in OTHERS:
        paths = [path.relative_to(folder) for pattern in patterns.split() for path in sorted(folder.glob(pattern))]
        if names := [str(path) for path in paths if not path.name.startswith(STATE)]:
            return f"only {first_of(names)}, {what}", advice
    return "no weights", AGAIN


def same_bytes(one: tuple[Path, Any], other: tuple[Path, Any]) -> bool:
    """Whether two files hold the same tensor, of which each one's header has the entry; read in pieces."""
    try:
        spans = [tuple(int(place) for place in entry["data_offsets"]) for _, entry in (one, other)]
        kinds = [{key: value for key, value in entry.items() if key != "data_offsets"} for _, entry in (one, other)]
        if kinds[0] != kinds[1] or (left := spans[0][1] - spans[0][0]) != spans[1][1] - spans[1][0]:
            return False
        with one[0].open("rb") as first, other[0].open("rb") as second:
            for file, (start, _) in zip((first, second), spans, strict=True):
                file.seek(8 + int.from_bytes(file.read(8), "little") + start)
            while left > 0:
                size = min(left, 2**20)
                if (piece := first.read(size)) != second.read(size) or len(piece) < size:
                    return False
                left -= size
    except (AttributeError, TypeError, ValueError, KeyError, OSError):  # no header that the library would believe
        return False
    return True


def shard_table(index: Path) -> dict[str, str]:
    """The index's table of tensor to file, each a name that can only be a file beside it."""
    table = read_json(index, LARGEST_TABLE).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise Error(f"{index}: weight_map is no table of tensor to file name: fetch the file again")
    names = set(table.values())
    if len(names) > MOST_SHARDS:
        raise Error(f"{index}: names {len(names):,} files, expected at most {MOST_SHARDS:,}: fetch the file again")
    for name in names:
        plain = Path(name).name == name and "\\" not in name and name.isprintable() and len(name) < 256
        if not plain or not name.endswith(".safetensors"):
            found = f"names the file {shown(name)}"
            raise Error(f"{index}: {found}, expected a plain *.safetensors name in this folder: do not trust it")
    return table


def header_of(path: Path) -> dict[str, Any]:
    """What a file's header says of each tensor, each named once: the library would take the last of two without a word.

    A safetensors file begins with eight bytes, the length of the header in bytes, and the header, a JSON object.
    """
    size = check_file(path).st_size
    try:
        with path.open("rb") as file:
            no_pointer(path, file)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            if length > LARGEST_TABLE:
                raise ValueError(f"a header of {length:,} bytes, expected at most {LARGEST_TABLE:,}")
            entries = json_object(file.read(length))
            return {name: entry for name, entry in entries.items() if name != "__metadata__"}
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
    except Error:  # git-lfs's note, which has said so
        raise
    except ValueError as error:
        raise damaged(path, error) from None


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file: which it is, its bytes, and when it was written, in nanoseconds; None: it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def check_unchanged(path: Path, before: tuple[int, int, int] | None) -> None:
    """A file that is cut while it is read ends the process, since it is mapped: so this is asked before each tensor."""
    if stamp(path) != before:
        raise Error(f"{path}: has changed while it was read, expected it to rest: wait for what writes it, load again")


def open_file(path: Path, framework: str = "pt") -> safe_open:
    """The library's own view of a file, whose entries it has found to lie one behind another to the end of the file."""
    try:
        return safe_open(path, framework=framework)
    except UNREADABLE as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: BaseException) -> Error:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        found = f"cannot be mapped ({one_line(error)}), expected memory for the whole file"
        return Error(f"{path}: {found}: free some, or split the file into shards")
    found = f"is no readable safetensors file ({one_line(error)})"
    return Error(f"{path}: {found}: it is cut off or damaged, fetch it again")
