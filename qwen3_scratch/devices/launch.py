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
    count = tensor_parallel * expert_parallel
    if not started_by_torchrun():
        start = f"start with `torchrun --nproc-per-node {count} -m qwen3_scratch ...`"
        raise Error(f"{count} processes are needed and this is one alone: {start}")
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
        if count != world:
            needed = f"{tensor_parallel} x {expert_parallel} = {count}"
            raise Error(f"torchrun started {world} processes, expected tensor x expert = {needed}: make them equal")
        yield make_mesh(tensor_parallel, expert_parallel, device.partition(":")[0], timeout)
    except (Error, Lost, RuntimeError) as failure:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        network = isinstance(failure, Lost) or any(word in str(failure) for word in NETWORK)
        text = str(failure) if isinstance(failure, Error) else f"{type(failure).__name__}: {failure}"
        sentence = roll_call(store, rank, world, "" if network else text.partition("\n")[0], timeout)
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
        missing = []
        for other in range(world):
            if not store.check([f"reason/{other}"]):
                missing.append(other)
            elif text := store.get(f"reason/{other}").decode():
                return f"rank {other} of {world}: {text}"
        for other in missing:
            host, pid = store.get(f"process/{other}").decode().split()  # which each rank writes before anything else
            here = host == socket.gethostname()
            if here and not is_running(int(pid)):
                what = f"its process {pid} has ended before its work was done"
                return f"rank {other} of {world}: {what}: see what it wrote, or look for a full memory"
            if time.monotonic() > end and not here:
                return f"rank {other} of {world}: process {pid} on {host} does not answer: look at what it does there"
            if time.monotonic() > end:  # it would not hear torchrun either
                os.kill(int(pid), signal.SIGKILL)
                what = f"process {pid} did not answer for {timeout:g} s and was ended"
                return f"rank {other} of {world}: {what}: see why it waited"
        if not missing:
            return f"rank {rank} of {world}: asked to stop, or the connection broke while all ranks ran: start again"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def agree(value: Any) -> Any:
    """The value that the first rank has; a process alone agrees with itself."""
    agreed = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(agreed, src=0)
    return agreed[0]
