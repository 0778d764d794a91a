"""Records of experiments that take too long for a notebook: JSON of their settings, and a run on each line.

A script adds run after run, so that one that was stopped goes on; a notebook reads what is there.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.saving import write_text, writing
from ..config import Config
from ..errors import Error, one_line
from ..tokenizer import Tokenizer

# What a file that holds something else raises.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


def small_config(tokenizer: Tokenizer, num_experts_per_tok: int) -> Config:
    """Two layers of 16 narrow experts: enough for some to fall idle, and trained within a minute."""
    return Config(
        model_type="qwen3_moe", vocab_size=tokenizer.vocab_size, tie_word_embeddings=True,
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, initializer_range=0.05,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, norm_topk_prob=True,
        num_experts=16, num_experts_per_tok=num_experts_per_tok, moe_intermediate_size=32,
    )  # fmt: skip


def no_record(path: Path, what: str, script: str, error: object) -> Error:
    """The error for a file that holds no such record; `script` is the module of this room that makes it."""
    advice = f"make it with python -m qwen3_scratch.tiny.{script}"
    return Error(f"{path}: holds no {what} ({one_line(error)}), expected settings and what was measured: {advice}")


def read_record(path: Path, what: str, script: str, measured: Iterable[str]) -> dict[str, Any]:
    """The settings and runs of a record. Raises Error where there is none, or its runs lack what is `measured`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(run.keys() >= {*measured} for run in found["runs"]) and isinstance(found["settings"], dict):
            return found
        said: object = "its runs lack what was measured"
    except UNREADABLE as error:
        said = f"{type(error).__name__}: {error}"
    raise no_record(path, what, script, said)


def begun_record(
    path: Path, what: str, script: str, measured: Iterable[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The record as it stands, or one without runs. Raises Error where it was made with other settings."""
    settings = json.loads(json.dumps(settings))  # as a file gives them back
    if not path.exists():
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        return {"settings": settings, "runs": []}
    found = read_record(path, what, script, measured)
    if found["settings"] != settings:
        raise Error(f"{path}: is of other settings, expected those of this run: remove the file to start anew")
    return found


def write_record(path: Path, record: dict[str, Any]) -> None:
    runs = ",\n".join(json.dumps(run) for run in record["runs"])
    write_text(path, f'{{"settings": {json.dumps(record["settings"])},\n"runs": [\n{runs}\n]}}\n')


@contextmanager
def as_a_script() -> Iterator[None]:
    """What a script does within: in one thread, and an Error or Ctrl-C ends it with a line and a status."""
    torch.set_num_threads(1)  # products this small gain nothing from a second core
    try:
        yield
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the runs that are written", file=sys.stderr)
        raise SystemExit(130) from None
