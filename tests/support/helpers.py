"""What these tests share: random checkpoints with a real tokenizer, a model that says what it is told, the terminal."""

import functools
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import jaxtyping
import torch
from reference import random_weights, small_config
from torch import Tensor
from torch.utils._pytree import tree_map

from qwen3_scratch import Checkpoint, Config, Tokenizer, Weights, read_config, read_tokenizer
from qwen3_scratch.tokenizer import BYTE_OF

ROOT = Path(__file__).parents[2]
PATIENCE = 1800  # seconds after which a process is taken to hang, however slow the machine
TINY = ROOT / "data" / "tiny-moe"  # of which the tokenizer and the sizes are used here, never what it has learned


@functools.cache
def tokenizer() -> Tokenizer:
    return read_tokenizer(TINY)


def checkpoint(seed: int = 0, generation_config: dict | None = None, **changes: Any) -> Checkpoint:
    """A model of random numbers that reads and writes text; `changes` are fields of its config."""
    sizes = dict(vocab_size=read_config(TINY).vocab_size, max_position_embeddings=512)
    sizes |= dict(num_hidden_layers=2, num_experts=4)
    config = small_config(**{**sizes, **changes})
    return Checkpoint(config, random_weights(config, seed), tokenizer(), generation_config or {}, TINY)


def each_tensor(weights: Weights, change: Callable[[Tensor], Tensor]) -> Weights:
    return tree_map(lambda tensor: tensor if tensor is None else change(tensor), weights)


def bytes_as_tokens(content: bytes) -> list[int]:
    """One token for each byte, as a model may write any text."""
    character_of = {byte: character for character, byte in BYTE_OF.items()}
    return [tokenizer().token_id(character_of[byte]) for byte in content]


class Script:
    """Stands in for `forward`: whatever it is asked, the next token is that of a script. It notes the prompts."""

    def __init__(self, text: str | Iterable[int]):
        self.tokens = tokenizer().encode(text) if isinstance(text, str) else list(text)
        self.calls, self.prompts = 0, []

    def __call__(self, weights: Any, token_ids: Tensor, config: Config, **_: Any) -> Tensor:
        if token_ids.shape[1] > 1:
            self.prompts.append(tokenizer().decode(token_ids[0].tolist()))
        logits = torch.zeros(len(token_ids), 1, config.vocab_size)
        logits[..., self.tokens[self.calls]] = 100.0
        self.calls += 1
        return logits


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed, though the arguments are wrong")


@contextmanager
def unchecked() -> Iterator[None]:
    """As users run it: the test run's check of argument types would answer before the package itself does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def largest_file(size: int):
    """A limit of the system's own: writing on beyond so many bytes of a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def command(monkeypatch: Any, capsys: Any, *words: str, stdin: str | bytes = "") -> Said:
    """Runs the command line within this process."""
    from qwen3_scratch.terminal import commands as cli

    monkeypatch.setattr(sys, "argv", ["qwen3-scratch", *words])
    content = stdin.encode() if isinstance(stdin, str) else stdin
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
    capsys.readouterr()
    try:
        cli.main()
    except SystemExit as end:
        return Said(int(end.code or 0), *capsys.readouterr())
    raise AssertionError("main() returned, expected it to exit")


def process(*words: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
    """A Python process of its own, with one thread and the package as users import it."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.Popen([sys.executable, *words], env=settings, text=True, **options)


def finished(*words: str, timeout: float = PATIENCE, **options: Any) -> Said:
    """The same, run to its end."""
    running = process(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, err = running.communicate(timeout=timeout)
    finally:
        running.kill()
    return Said(running.returncode, out, err)


def read_until(stream: IO[str], end: str) -> str:
    """What a process says up to `end`, for which is waited."""
    text = ""
    while not text.endswith(end):
        piece = stream.read(1)
        assert piece, f"{end!r} expected after {text!r}, and the process has ended"
        text += piece
    return text


def torchrun(count: int, *words: object, **options: Any) -> subprocess.CompletedProcess:
    """The same on so many ranks, with one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", count, *words]
    options |= {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "timeout": PATIENCE}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def joined(pieces: Sequence[Any], *, thinking: bool) -> str:
    return "".join(piece for piece in pieces if piece.thinking == thinking)


def interrupted_after(steps: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, in whose call after so many Ctrl-C is pressed."""
    calls: list[int] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        found = forward(*args, **options)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return found

    return interrupted
