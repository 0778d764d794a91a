"""What a piece of work pays for: questions, launches and their order, bytes; how long it takes; and the operations of
a pass, by PyTorch's counter."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.autograd import profiler
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..cache import KVCache
from ..checkpoints.checkpoint import Checkpoint
from ..config import Config
from ..model import Ops, attention_weights, forward

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
QUESTIONS = {Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__}
PICKED = {"embedding", "index", "index_select", "gather"}  # read no more than what they pick
COMPILED = "cpp_fused"  # in the name of each function that the compiler wrote for a CPU
LONG, ENOUGH = 5.0, 15  # seconds and rounds: a large model is not measured for minutes
# Neither computes nor copies, nor is a view by its schema.
BOOKKEEPING = {
    "_local_scalar_dense", "_unsafe_view", "can_cast", "empty", "empty_like", "empty_strided", "is_nonzero", "item",
    "promote_types", "resize_", "result_type", "scalar_tensor", "set_",
}  # fmt: skip


class Bill(NamedTuple):
    """What one call pays for: values that its code asks for, calls that differ from those of the next one, launches,
    and bytes that its operators read and write."""

    questions: int
    changing: int
    launches: int
    bytes: int

    def __str__(self) -> str:
        words = f"{self.questions:2} questions, {self.changing:3} changing calls, {self.launches:4} launches"
        return f"{words}, {self.bytes / 1e6:5.1f} MB"


def bill(work: Callable[[], Any], device: torch.device | str = "cpu") -> Bill:
    """Counts all four, by five calls of `work`.

    Of what is compiled the loops are launches only under `seen_when_compiled`, and their bytes are never seen.
    """
    with Tape() as tape:
        work()
    with Asked() as asked:
        work()
    changing = sum(a != b for a, b in zip_longest(calls(work), calls(work)))
    return Bill(asked.times, changing, started(work, device).launches, sum(map(moved, tape.entries)))


class Asked(TorchFunctionMode):
    """Counts how often Python asks a tensor for a value; what an operator asks inside is not seen."""

    times = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += function in QUESTIONS
        return function(*args, **(kwargs or {}))


class Call(NamedTuple):
    """An operator that was called, with what and what came of it."""

    operator: Any
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    outputs: Any


class Tape(TorchDispatchMode):
    """Writes down every operator that is called, and keeps all tensors, so that no memory is used for another."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Call] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.entries.append(Call(operator, args, kwargs or {}, operator(*args, **(kwargs or {}))))
        return self.entries[-1].outputs


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def writes(call: Call) -> list[Tensor]:
    """The new tensors of a call: none if it gives a view, or writes into what it was given."""
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors((call.inputs, call.options))}
    return [tensor for tensor in tensors(call.outputs) if tensor.untyped_storage().data_ptr() not in given]


def moved(call: Call) -> int:
    """Bytes that an operator reads and writes, each tensor once; a view moves none."""
    name, out = call.operator.overloadpacket.__name__, sum(tensor.nbytes for tensor in writes(call))
    if name == "index_copy_":
        return 2 * int(call.inputs[3].nbytes)  # only what is put in, not all that it is put into
    if name in PICKED:
        return 2 * out
    read = sum(tensor.nbytes for tensor in tensors((call.inputs, call.options)))
    return read + out if out or call.operator._schema.is_mutable else 0


def seen_when_compiled() -> AbstractContextManager[None]:
    """What is compiled for a CPU meanwhile says its name when it runs, so that `started` can count it."""
    from torch._inductor import config  # takes a second, and only who compiles needs it

    return config.patch({"cpp.enable_kernel_profile": True})


class Started(NamedTuple):
    """How often the CPU told the device to begin, what ran there, and how often the CPU asked for a value."""

    launches: int
    kernels: int
    waits: int


def started(work: Callable[[], Any], device: torch.device | str = "cpu") -> Started:
    """Counts what one call of `work` starts, after a call that warms up.

    On a GPU these are kernels, copies included; a recorded graph is one launch of many. A CPU has no kernels: there it
    counts operators that compute or copy and hold no other, also within a composed one, and compiled functions under
    `seen_when_compiled`; and as waits only those that give a single value (`item`), also within an operator, since the
    rest of what Python reads leaves no trace.
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


def least_seconds(
    ways: Mapping[str, Callable[[], Any]], rounds: int = 15, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Seconds that one call of each way takes: the least of `rounds`, since what else runs only adds.

    The ways take turns, after two rounds that warm up. Once all together took LONG seconds, ENOUGH rounds are enough.
    On a GPU a call ends when the device has done its work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        if number >= ENOUGH + 2 and sum(map(sum, seconds.values())) > LONG:
            break
        for name, work in ways.items():
            start = perf_counter()
            work()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)  # a GPU says "done" before it is
            seconds[name].append(perf_counter() - start)
    return {name: min(each[2:]) for name, each in seconds.items()}


def read_speed(size: int | float, device: torch.device | str = "cpu") -> float:
    """Bytes a second at which a sum reads `size` bytes of fp32, at least 64 MB in all, again and again.

    What is smaller than a processor's own cache stays there between two readings, and is read faster than memory is.
    """
    block, times = torch.ones(int(size) // 4, device=device), 1 + int(64e6 / size)
    (seconds,) = least_seconds({"": lambda: [block.sum() for _ in range(times)]}, 9, device).values()
    return times * block.nbytes / seconds


def weights_read(config: Config, itemsize: int = 4) -> int:
    """Bytes of weights that a step with one token reads: the active ones, and one row of an embedding that is not the
    head, too."""
    unread = 0 if config.tie_word_embeddings else (config.vocab_size - 1) * config.hidden_size
    return itemsize * (config.num_parameters(active=True) - unread)


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
    if COMPILED in name:
        return True
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
