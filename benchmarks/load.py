"""Seconds and memory to load a checkpoint: ours beside transformers, each time in a fresh process.

The peak is what the process held at most (VmHWM) above what it held with everything imported, over the size of the
files. The files are read once before, so that all find them in the system's cache; and each process has just used as
much memory, since a virtual machine may give away what nobody used for some seconds, and has to ask for it again.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from qwen3_scratch import Error

from . import figures, models, script
from .measure import BANDWIDTH, ROOT, Row, interleave, need, read_bandwidth
from .script import Out, Quick, Rounds, Run, Shape, Store

QUESTION = "What does loading take?"
TIME, PEAK = "time", "peak over file size"
CHILD = """
import json, sys, time
from pathlib import Path
import torch
{imports}
def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
torch.ones({touched}, dtype=torch.uint8)  # a virtual machine may give room away that nobody used for seconds
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before, start = high_water(), time.perf_counter()
held = {call}
print(json.dumps([time.perf_counter() - start, high_water() - before]))
"""
CONTESTANTS = {
    "ours": ("from qwen3_scratch import load_checkpoint", "load_checkpoint(sys.argv[1])"),
    "transformers": (
        "from transformers import Qwen3MoeForCausalLM\nfrom transformers.utils import logging\n"
        "logging.set_verbosity_error(); logging.disable_progress_bar()",
        "Qwen3MoeForCausalLM.from_pretrained(sys.argv[1], dtype='auto')",
    ),
}


def main(
    rounds: Rounds = 5, quick: Quick = False, shape: Shape = "huihui",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("load", QUESTION, rounds=rounds, quick=quick, device="cpu", out=out, shape=shape)
    need(Path("/proc/self/status").exists(), "the peak is read from Linux's /proc, and there is none: run it on Linux")
    folder = script.checkpoint_folder(run, shape, store)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    run.asked["file_bytes"] = size
    for path in folder.glob("*.safetensors"):
        path.read_bytes()
    peaks: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    measures = {name: partial(load_time, name, folder, peaks[name]) for name in CONTESTANTS}
    run.say("loading in fresh processes ...")
    samples = interleave({**measures, BANDWIDTH: read_bandwidth}, run.rounds)  # a fresh process is never warm
    for name, found in samples.items():
        run.add([Row({"quantity": TIME}, name, "GB/s" if name == BANDWIDTH else "s", found)])
    for name, found in peaks.items():
        run.add([Row({"quantity": PEAK}, name, "x", [peak / size for peak in found])])
    run.finish(draw)


def load_time(name: str, folder: Path, peaks: list[float]) -> float:
    """Seconds that a fresh process takes to load; its peak is noted beside. Raises Error where it fails."""
    imports, call = CONTESTANTS[name]
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    command = [sys.executable, "-c", CHILD.format(imports=imports, call=call, touched=size), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise Error(f"{folder}: {name} cannot load it ({last}): delete the folder, so that it is made anew")
    time, peak = json.loads(done.stdout.splitlines()[-1])
    peaks.append(peak)
    return time


def draw(found: dict[str, Any]):
    rows = found["rows"]
    names = {TIME: "seconds", PEAK: "peak of memory over size of the files"}
    panels = {label: figures.spans(rows, {"quantity": name}, leave_out=[BANDWIDTH]) for name, label in names.items()}
    time, peak = panels.values()
    title = f"Loading takes {peak['ours'][0]:.2f} times the file's size in memory, {peak['transformers'][0]:.2f} in"
    title += f" transformers, and {time['ours'][0] / time['transformers'][0]:.2f} times its seconds"
    return figures.bars(title, panels, "", ours=["ours"])


if __name__ == "__main__":
    script.main(main)
