"""What one decoding step calls and reads, and which share of the measured read bandwidth it reaches.

Bytes follow from the shapes: each weight that a token passes through once, and the keys and values before it.
Launches are counted by torch's profiler: on a GPU kernels; on a CPU calls of ATen operators from outside of others,
views included, and kernels that the compiler made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import contestants, figures, models, script
from .context import steppers
from .measure import BANDWIDTH, Contest, Row, compare, failure, row_of, seconds
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "What does a step call, what does it read, and how near is that to the roof?"
BEFORE = 17  # tokens that the cache holds
STEPS = 3  # steps of one measurement, as in context.py
SHARE, LAUNCHES, TIME = "share of the read bandwidth", "launches a step", "time of a step"


def main(
    rounds: Rounds = 7, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("roofline", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    folder = script.checkpoint_folder(run, shape, store)
    torch._inductor.config.cpp.enable_kernel_profile = True  # else its kernels on a CPU have no names to count
    run.asked["bytes"] = {}
    for dtype in ("bfloat16", "float32"):
        run.say(f"{dtype}: loading ...")
        checkpoint = models.load(folder, dtype, run.device)
        reference = contestants.transformers_model(checkpoint)
        reference.set_experts_implementation("eager")
        stepping, _ = steppers(checkpoint, reference, BEFORE, STEPS * run.rounds + 4)
        stepping = {name: step for name, step in stepping.items() if name != "plain, no cache"}
        read = models.weight_bytes(checkpoint.config, dtype) + models.cache_bytes(checkpoint.config, dtype, BEFORE)
        run.asked["bytes"][dtype] = read
        run.say(f"{dtype}: counting and measuring ...")
        absent = {name: failed for name, step in stepping.items() if (failed := failure(step))}
        stepping = {name: step for name, step in stepping.items() if name not in absent}
        counts = {name: launches(step, run.device) for name, step in stepping.items()}
        measures = {name: partial(seconds, step, run.device) for name, step in stepping.items()}
        contest = Contest({"dtype": dtype, "quantity": TIME}, measures, absent)
        rows = compare([contest], run.rounds, "s", device=run.device)
        run.add(rows)
        run.add(shares(rows, dtype, read))
        run.add([Row({"dtype": dtype, "quantity": LAUNCHES}, name, "calls", [count]) for name, count in counts.items()])
    run.finish(draw)


def shares(rows: list[Row], dtype: str, read: int) -> list[Row]:
    """Bytes over seconds over what reading reached in the same round."""
    (memory,) = (row.samples for row in rows if row.name == BANDWIDTH)
    found = []
    for row in rows:
        if row.samples and row.name != BANDWIDTH:
            share = [read / time / (1e9 * speed) for time, speed in zip(row.samples, memory, strict=True)]
            found.append(Row({"dtype": dtype, "quantity": SHARE}, row.name, "x", share))
    return found


def launches(step: Callable[[], Any], device: torch.device) -> int:
    """How often one step calls the device: kernels on a GPU, outermost operators and made kernels on a CPU."""
    activity = torch.profiler.ProfilerActivity
    on_gpu = device.type == "cuda"
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if on_gpu else [])]) as recorded:
        seconds(step, device)
    events = recorded.events()
    if on_gpu:
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return sum(is_call(event) and not within_call(event) for event in events)


def is_call(event: Any) -> bool:
    return event.name.startswith(("aten::", "cpp_", "graph_", "kernel")) and not event.name.startswith("aten::empty")


def within_call(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if is_call(parent):
            return True
        parent = parent.cpu_parent
    return False


def draw(found: dict[str, Any]):
    rows, panels = found["rows"], {}
    for quantity in (SHARE, LAUNCHES):
        for dtype in found["bytes"]:
            case = {"dtype": dtype, "quantity": quantity}
            panels[f"{dtype}: {quantity}"] = figures.spans(rows, case)
    names = [row["name"] for row in rows if row["case"] == {"dtype": "bfloat16", "quantity": SHARE}]
    best = "compiled" if "compiled" in names else "plain"
    share, calls = (row_of(rows, best, dtype="bfloat16", quantity=name)["median"] for name in (SHARE, LAUNCHES))
    title = (
        f"{best.capitalize()}: a step in bf16 calls {calls:,.0f} times, reads {found['bytes']['bfloat16'] / 1e9:.2f} GB"
    )
    return figures.bars(f"{title} and reaches {share:.0%} of the measured read bandwidth", panels, "")


if __name__ == "__main__":
    script.main(main)
