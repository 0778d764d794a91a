"""What a piece of work starts on its device, in which order, and where its time goes, by PyTorch's profiler; and the
operations of a pass, by its counter."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.autograd import profiler
from torch.utils.flop_counter import FlopCounterMode

from ..cache import KVCache
from ..checkpoints.checkpoint import Checkpoint
from ..model import Ops, attention_weights, forward

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
# Neither computes nor copies, nor is a view by its schema.
BOOKKEEPING = {
    "_local_scalar_dense", "_unsafe_view", "can_cast", "empty", "empty_like", "empty_strided", "is_nonzero", "item",
    "promote_types", "resize_", "result_type", "scalar_tensor", "set_",
}  # fmt: skip
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


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


def calls(work: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The operators that one call of `work` runs, in their order, each with the shapes of its tensors.

    What is recorded once and then replayed must be the same list at every call, views and parts of operators included.
    """
    with quiet(), profiler.profile(use_kineto=False, record_shapes=True) as seen:
        work()
    ordered = sorted(seen.function_events, key=lambda event: event.time_range.start)
    return [(event.name, event.input_shapes) for event in ordered]


def time_shares(work: Callable[[], Any], rounds: int = 15) -> dict[str, float]:
    """Where one call of `work` spends the CPU's time, as shares of 1: in products of matrices, in other operators that
    compute, in views and what wraps the others, and between operators, which is Python.

    Of each the least of `rounds` calls counts, since what else runs only adds; one call before warms up. The profiler's
    own time lies in all four, so that shares are rough. On a GPU the first three are the CPU's part alone: there
    operators only start kernels.
    """
    work()
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with quiet(), profiler.profile(use_kineto=False) as seen:
            start = perf_counter()
            work()
            whole = 1e6 * (perf_counter() - start)
        spent = dict.fromkeys(("products", "other computing", "views, wrappers"), 0.0)
        for event in seen.function_events:
            spent[kind_of(event)] += event.self_cpu_time_total
        found.append(spent | {"between operators": max(0.0, whole - sum(spent.values()))})
    least = {kind: min(spent[kind] for spent in found) for kind in found[0]}
    return {kind: time / sum(least.values()) for kind, time in least.items()}


def kind_of(event: Any) -> str:
    """What an event's own time, without that of the events in it, goes to."""
    if event.name in PRODUCTS:
        return "products"
    alone = computes(event.name) and not any(map(innermost, event.cpu_children))
    return "other computing" if alone else "views, wrappers"


def capture(work: Callable[[], Any]) -> Callable[[], None]:
    """Records, on a GPU, the kernels that `work` starts; each call of what is returned replays them by one launch.

    They read and write the same memory each time, so what is to change between calls is written there before. `work`
    runs three times beforehand, since libraries set themselves up at their first calls, and is not run while recorded.
    Source: the section on CUDA graphs in PyTorch's notes on CUDA.
    """
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        work()
    return graph.replay


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


def operations(checkpoint: Checkpoint, token_ids: Int[Tensor, "batch seq"], cache: KVCache | None = None) -> int:
    """Multiplications and additions of the products in one pass, with the head at the last token alone.

    Attention runs as plain products, since PyTorch does not count its CPU kernel; so what the mask hides counts, too.
    """
    with FlopCounterMode(display=False) as counter:
        ops = Ops(attention=plain_attention)
        forward(checkpoint.weights, token_ids, checkpoint.config, cache=cache, logits_to_keep=1, ops=ops)
    return counter.get_total_flops()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """`gqa_attention` in two products."""
    return attention_weights(q, k, mask) @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
