"""What a piece of work starts on its device, counted by PyTorch's profiler."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.autograd import profiler

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
# Neither computes nor copies, nor is a view by its schema.
BOOKKEEPING = {
    "_local_scalar_dense", "_unsafe_view", "can_cast", "empty", "empty_like", "empty_strided", "is_nonzero", "item",
    "promote_types", "resize_", "result_type", "scalar_tensor", "set_",
}  # fmt: skip


class Started(NamedTuple):
    """How often the CPU told the device to begin, what ran there, and how often the CPU asked for a value."""

    launches: int
    kernels: int
    waits: int


def started(work: Callable[[], Any], device: torch.device | str = "cpu") -> Started:
    """Counts what one call of `work` starts, after a call that warms up.

    On a GPU these are kernels, copies included; a recorded graph is one launch of many. A CPU has no kernels: there it
    counts operators that compute or copy and hold no other, also within a compiled or composed one, and as waits only
    those that give a single value (`item`), since the rest of what Python reads leaves no trace.
    """
    work()
    if torch.device(device).type != "cuda":
        with quiet(), profiler.profile(use_kineto=False) as seen:  # the other one takes seconds to begin
            work()
        events = seen.function_events
        kernels = sum(innermost(event) for event in events if event.cpu_parent is None)
        return Started(kernels, kernels, sum(event.name == "aten::_local_scalar_dense" for event in events))
    torch.cuda.synchronize(device)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with quiet(), torch.profiler.profile(activities=kinds) as recorded:
        work()
        torch.cuda.synchronize(device)
    events = recorded.events()
    names = [event.name for event in events]
    on_gpu = sum(event.device_type.name == "CUDA" for event in events)
    return Started(sum(name.startswith(LAUNCHES) for name in names), on_gpu, sum(name in WAITS for name in names))


@contextmanager
def quiet() -> Iterator[None]:
    """The profiler does not write down, on standard error, when it begins and ends; the environment stays as it was."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = before or "99"
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ |= {} if before is None else {name: before}


def innermost(event: Any) -> int:
    """How many operators within an event compute and hold none that does."""
    return sum(map(innermost, event.cpu_children)) or int(computes(event.name))


def computes(name: str) -> bool:
    operator = name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, operator, None) if operator != name else None
    if packet is None or operator in BOOKKEEPING:
        return False
    return not any(getattr(packet, overload).is_view for overload in packet.overloads())
