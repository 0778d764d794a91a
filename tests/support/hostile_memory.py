"""What would take all memory or all time if it were let, each tried in one process that has little of either.

    python tests/support/hostile_memory.py FOLDER

prints, as JSON, for each case the kind of error it ended in, its sentence, and the seconds it took.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hostile import INDEX, SINGLE, honest, safetensors, terabyte, write_config

from qwen3_scratch import load_checkpoint
from qwen3_scratch.trust.files import LARGEST_JSON, LARGEST_TABLE

ROOM = 2**30  # bytes of address space beyond what the process has once everything is imported


def config_of(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "config.json").write_bytes(content)

    return make


def long_config(folder: Path) -> None:
    """A gigabyte that takes no room on the disk."""
    write_config(folder)
    os.truncate(folder / "config.json", 10**9)


def filled(start: bytes, middle: bytes, end: bytes, size: int) -> bytes:
    return start + middle * ((size - len(start) - len(end)) // len(middle)) + end


def many_shards(count: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_config(folder)
        table = {f"t{number}": f"{number}.safetensors" for number in range(count)}
        (folder / INDEX).write_text(json.dumps({"weight_map": table}))

    return make


def weights_of(content: bytes, size: int = 0) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_config(folder)
        (folder / SINGLE).write_bytes(content)
        os.truncate(folder / SINGLE, max(size, len(content)))

    return make


def experts(folder: Path) -> None:
    honest(folder)
    write_config(folder, num_experts=2**31 - 1, num_hidden_layers=1000)


def closed(folder: Path) -> None:
    """A file that its reader may not read: root may, so the reader becomes somebody else."""
    honest(folder)
    (folder / SINGLE).chmod(0)
    for place in (folder, folder.parent):
        place.chmod(0o755)
    if os.geteuid() == 0:
        os.seteuid(65534)


LISTS = filled(b'{"model_type": [', b"[],", b"[]]}", LARGEST_JSON)
OBJECTS = filled(b'{"model_type": [', b"{},", b"{}]}", LARGEST_JSON)
NUMBERS = filled(b'{"model_type": [', b"1" * 4000 + b",", b"1]}", LARGEST_JSON)
ESCAPES = filled(b'{"model_type": "', rb"\ud83d\ude00", b'"}', LARGEST_JSON)
HEADER = filled(b'{"a": [', b"[],", b"[]]}", LARGEST_TABLE)
METADATA = filled(b'{"__metadata__": {"a": "', b"x", b'"}}', LARGEST_TABLE + 1)

# How the folder is made, and what the sentence says.
CASES = {
    "a config of 1 GB": (long_config, "1,000,000,000 bytes", "at most 10,000,000"),
    "a config of three million lists": (config_of(LISTS), "model_type is [[], [], "),
    "a config of three million objects": (config_of(OBJECTS), "model_type is [{}, {}, "),
    "a config of long numbers": (config_of(NUMBERS), "model_type is ["),
    "a config of one long word": (config_of(ESCAPES), "model_type is '", "qwen3_moe"),
    "a config 5,000,000 deep": (config_of(b"[" * 5_000_000), "JSON", "recursion"),
    "an index of 10^6 shards": (many_shards(10**6), INDEX, "bytes, expected at most 20,000,000"),
    "an index of 500,000 shards": (many_shards(500_000), "names 500,000 files, expected at most 10,000"),
    "a header of 2^63 bytes": (weights_of(safetensors({}, length=2**63)), "a header of 9,223,372,036,854,775,808"),
    "a header of 2^40 bytes in a file of 1.1 TB": (
        weights_of(safetensors({}, length=2**40), 2**40 + 8), "a header of 1,099,511,627,776 bytes", "at most 20"),
    "a header of six million lists": (weights_of(safetensors(HEADER)), "missing"),
    "a header with 20 MB of metadata": (weights_of(safetensors(METADATA)), "a header of 20,000,001 bytes"),
    "a config of 2^31 experts in 1,000 layers": (experts, "tensors, expected more than 1,0"),
    "an embedding of 1.1 TB that is there": (terabyte, "the weights take 1.10 TB", "left, expected room"),
    "weights that may not be read": (closed, "cannot be read (Permission denied)"),
}  # fmt: skip


def main(folder: Path) -> None:
    answers = {}
    for number, (name, (make, *_)) in enumerate(CASES.items()):
        if make not in (terabyte,):
            (folder / str(number)).mkdir()
        make(folder / str(number))
        before, start = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
        try:
            load_checkpoint(folder / str(number))
            kind, message = "loaded", ""
        except BaseException as error:
            kind, message = type(error).__name__, str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        answers[name] = kind, message, time.monotonic() - start
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
