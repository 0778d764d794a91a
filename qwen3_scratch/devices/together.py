"""A function run by several processes from within one, as a notebook needs it, and the bytes that they write."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from inspect import getsource
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoints.checkpoint import Checkpoint
from ..config import Config
from ..errors import Error
from ..model import forward
from .slices import DISPATCH, parallel_ops

HEAD = """import json, os, sys, torch, torch.distributed as dist
from qwen3_scratch import forward, generate, read_config
from qwen3_scratch.devices.launch import ranks
from qwen3_scratch.devices.slices import load_slices, make_mesh
from qwen3_scratch.devices.together import bytes_of_passes
"""
"""The names that a function may use which `on_ranks` runs, besides its own."""


def on_ranks(work: Callable[..., Any], count: int, *arguments: Any, timeout: int | float = 600) -> list[Any]:
    """What `work(*arguments)` gives in each of `count` processes that torchrun starts, in the order of their ranks.

    Its source becomes a script, so that of names from outside it knows those of HEAD. Arguments go there as JSON, what
    it gives comes back as `torch.save` writes it. Raises Error where a process fails, with the last line that was
    written, or where all together take longer than `timeout` seconds.
    """
    with TemporaryDirectory() as folder:
        script = Path(folder) / "work.py"
        keep = f"torch.save({work.__name__}(*json.loads(sys.argv[1])), sys.argv[2] + os.environ['RANK'])\n"
        script.write_text(f"{HEAD}\n\n{getsource(work)}\n\n{keep}", encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [str(script), json.dumps(arguments), f"{folder}/rank"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "FORCE_COLOR": ""}
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=env, **pipes) as torchrun:
            try:
                said = torchrun.communicate(timeout=timeout)[1]
            except subprocess.TimeoutExpired:
                torchrun.terminate()  # it ends those that it started
                late = f"{work.__name__} on {count} ranks: not done after {timeout:g} s"
                raise Error(f"{late}, expected an end by then: see where it waits, or pass more seconds") from None
        if torchrun.returncode:
            raise Error(f"{work.__name__} on {count} ranks: {reason(said)}: mend the function")
        return [torch.load(script.with_name(f"rank{rank}")) for rank in range(count)]


def reason(written: str) -> str:
    """The line in which processes said why they failed: the last that names an error, torchrun's own left out."""
    lines = [line.partition("]:")[2] or line for line in written.splitlines() if "ChildFailedError" not in line]
    named = [line.strip() for line in lines if line.strip().partition(":")[0].endswith(("Error", "Exception"))]
    return named[-1] if named else "failed without a word"


def bytes_written() -> int:
    """Bytes that this process wrote so far, as Linux counts them; elsewhere 0."""
    counter = Path("/proc/self/io")
    return int(counter.read_text().split()[3]) if counter.exists() else 0


def bytes_of_passes(part: Checkpoint, whole: Config, mesh: DeviceMesh, ids: Sequence[int]) -> list[int]:
    """Bytes that this rank writes to read one token, and all of `ids` by each of the two forms of dispatch."""
    sent = []
    for end, form in ((1, "own-experts"), (len(ids), "own-experts"), (len(ids), "all-to-all")):
        ops, before = parallel_ops(whole, mesh, DISPATCH[form]), bytes_written()
        forward(part.weights, torch.tensor([ids[:end]]), part.config, logits_to_keep=1, ops=ops)
        sent.append(bytes_written() - before)
    return sent
