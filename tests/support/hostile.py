"""Checkpoints as somebody would make them who means harm, or whose disk does."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from reference import random_weights, small_config

from qwen3_scratch import Error
from qwen3_scratch.checkpoints.saving import save_weights

CONFIG = small_config(hidden_size=128, num_hidden_layers=1, tie_word_embeddings=True)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def honest(folder: Path, **shards: int) -> Path:
    """A small checkpoint that loads; `max_shard_size` in bytes breaks it into shards."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, random_weights(CONFIG), CONFIG, **shards)
    write_config(folder)
    return folder


def write_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict() | changes), encoding="utf-8")


def safetensors(header: dict | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file whose header says what it likes, its own length included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), start: int = 0, end: int = 8) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def parts_of(content: bytes) -> tuple[dict, bytes]:
    """The header and the numbers of an honest file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def terabyte(folder: Path) -> Path:
    """An embedding of 2^31 rows that is all there, in a file of 1.1 TB without a block on the disk."""
    rows = 2**31 - 1
    header, numbers = parts_of((honest(folder) / SINGLE).read_bytes())
    name = "model.embed_tokens.weight"
    old, new = header[name]["data_offsets"], 4 * rows * CONFIG.hidden_size
    tensors = {key: value for key, value in header.items() if key not in (name, "__metadata__")}
    kept, position = b"", 0
    for tensor in tensors.values():  # the small ones first, and what is only claimed behind them
        start, end = tensor["data_offsets"]
        kept, tensor["data_offsets"] = kept + numbers[start:end], [position, position + end - start]
        position += end - start
    assert len(numbers) - len(kept) == old[1] - old[0]
    tensors[name] = entry("F32", (rows, CONFIG.hidden_size), position, position + new)
    content = safetensors(tensors, kept)
    (folder / SINGLE).write_bytes(content)
    os.truncate(folder / SINGLE, len(content) + new)
    write_config(folder, vocab_size=rows)
    return folder


def check_sentence(message: str, *parts: str) -> None:
    """One line of a length that one reads, with every part in it, and with what to do."""
    assert message.isprintable(), message
    assert len(message) < 800, len(message)
    assert any(word in message for word in ("expected", "fetch", "mend", "check")), message
    for part in parts:
        assert part in message, message


def refused(act: Any, path: Path, *parts: str) -> None:
    """It ends in our own error, whose sentence begins with the path."""
    with pytest.raises(Error) as caught:
        act()
    assert type(caught.value) is Error
    assert str(caught.value).startswith(str(path)), caught.value
    check_sentence(str(caught.value), *parts)
