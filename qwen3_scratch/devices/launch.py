"""Many processes as one run: torchrun starts them, here they find each other, and say in one sentence who failed.

The sentence comes from whichever rank finds out first. Ranks meet in torchrun's own key-value store, which
outlives any of them: there each leaves its reason for stopping, and one that leaves nothing has died or hangs.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ..errors import Error
from .slices import make_mesh

TIMEOUT = 15  # seconds that a rank waits for the others within one step
ROLL_CALL = 5  # seconds in which each rank that still runs has found out as well
NETWORK = ("gloo", "NCCL", "Connection", "Socket")  # how errors of communication name themselves


class Lost(BaseException):
    """Another rank no longer answers, or torchrun asks this one to stop."""


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def ranks(
    tensor_parallel: int, expert_parallel: int, device: str = "cpu", timeout: float = TIMEOUT
) -> Iterator[DeviceMesh]:
    """The grid of all ranks that torchrun started, for the time of a `with`.

    Raises Error on one rank, with the reason of whichever rank failed first, and ends the others quietly with exit
    status 1: where the grid does not hold as many ranks as were started, and where a rank raises Error, ends, or does
    not answer for `timeout` seconds. A process that hangs on this machine is ended.
    """
    if not started_by_torchrun():
        count, call = tensor_parallel * expert_parallel, "torchrun --nproc-per-node"
        raise Error(
            f"{count} processes are needed and this is one alone: start with `{call} {count} -m qwen3_scratch ...`"
        )
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(device)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    client = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    store = dist.PrefixStore("qwen3_scratch", client)
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    signal.signal(signal.SIGTERM, _lost)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        if tensor_parallel * expert_parallel != world:
            needed = f"{tensor_parallel} x {expert_parallel} = {tensor_parallel * expert_parallel}"
            raise Error(f"torchrun started {world} processes, expected tensor x expert = {needed}: make them equal")
        yield make_mesh(tensor_parallel, expert_parallel, device.partition(":")[0], timeout)
    except (Error, Lost, RuntimeError) as failure:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        network = isinstance(failure, Lost) or any(word in str(failure) for word in NETWORK)
        reason = (
            "" if network else str(failure) if isinstance(failure, Error) else f"{type(failure).__name__}: {failure}"
        )
        sentence = roll_call(store, rank, world, reason.splitlines()[0] if reason else "", timeout)
        if store.add("speakers", 1) > 1:  # another rank has said it
            raise SystemExit(1) from None
        raise Error(sentence) from None
    finally:
        with suppress(Exception):
            dist.destroy_process_group()


def _lost(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Lost


def roll_call(store: dist.Store, rank: int, world: int, reason: str, timeout: float) -> str:
    """What went wrong, as soon as it is known: a rank's own reason, a process that has ended, or one that hangs."""
    store.set(f"reason/{rank}", reason)
    end = time.monotonic() + ROLL_CALL
    while True:
        here = [other for other in range(world) if store.check([f"reason/{other}"])]
        for other in here:
            if text := store.get(f"reason/{other}").decode():
                return f"rank {other} of {world}: {text}"
        missing = [other for other in range(world) if other not in here]
        for other in missing:
            host, pid = process_of(store, other)
            if host == socket.gethostname() and not is_running(pid):
                what = f"its process {pid} has ended before its work was done"
                return f"rank {other} of {world}: {what}: see what it wrote, or look for a full memory"
        if not missing:
            return f"rank {rank} of {world}: asked to stop, or the connection broke while all ranks ran: start again"
        if time.monotonic() > end:
            return hanging(store, missing[0], world, timeout)
        time.sleep(0.05)


def process_of(store: dist.Store, rank: int) -> tuple[str, int]:
    """Host and process id of a rank, which every rank writes before it does anything else."""
    host, pid = store.get(f"process/{rank}").decode().split()
    return host, int(pid)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def hanging(store: dist.Store, rank: int, world: int, timeout: float) -> str:
    """Names a rank that does not answer, and ends it if it is on this machine: it would not hear torchrun either."""
    host, pid = process_of(store, rank)
    if host != socket.gethostname():
        return f"rank {rank} of {world}: process {pid} on {host} does not answer: look at what it does there"
    os.kill(pid, signal.SIGKILL)
    return f"rank {rank} of {world}: process {pid} did not answer for {timeout:g} s and was ended: see why it waited"


def agree(value: Any) -> Any:
    """The value that the first rank has; a process alone agrees with itself."""
    if not dist.is_initialized():
        return value
    agreed = [value]
    dist.broadcast_object_list(agreed, src=0)
    return agreed[0]
