"""Many processes as one run: torchrun starts them, here they find each other, and say in one sentence who failed.

The sentence comes from whichever rank finds out first. Ranks meet in torchrun's own key-value store, which
outlives any of them: there each leaves its reason for stopping, and one that leaves nothing has died or hangs.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ..errors import Error
from .slices import check_grid, make_mesh

TIMEOUT = 600  # seconds that a rank waits for one that is slow: disks are uneven, and a checkpoint takes minutes
NOTICE = 5  # seconds between two looks at whether the others are still there
ROLL_CALL = 5  # seconds in which each rank that still runs has found out as well


class Lost(BaseException):
    """Another rank is gone or no longer answers, or torchrun asks this one to stop."""


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def ranks(
    tensor_parallel: int, expert_parallel: int, device: str = "cpu", timeout: int | float = TIMEOUT
) -> Iterator[DeviceMesh]:
    """The grid of all ranks that torchrun started, for the time of a `with`.

    Raises Error on one rank, with the reason of whichever rank failed first, and ends the others quietly with exit
    status 1: where the grid does not hold as many ranks as were started, where a rank raises Error, where one has ended
    (noticed within 15 s), and where one that runs does not answer for `timeout` seconds; on this machine it is ended.
    """
    check_grid(tensor_parallel, expert_parallel)
    count = tensor_parallel * expert_parallel
    if not started_by_torchrun():
        start = f"start with `torchrun --nproc-per-node {count} -m qwen3_scratch ...`"
        raise Error(f"{count} processes are needed and this is one alone: {start}")
    if not timeout > 0:
        raise Error(f"timeout is {timeout}, expected seconds above 0: mend the argument")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(device)
    rank, world, store = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), meeting_place()
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    with noticing(store, rank, world) as (over, told):
        try:
            gather(store, world, timeout)
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
            if count != world:
                needed = f"{tensor_parallel} x {expert_parallel} = {count}"
                raise Error(f"torchrun started {world} processes, expected tensor x expert = {needed}: make them equal")
            yield make_mesh(tensor_parallel, expert_parallel, device.partition(":")[0], timeout)
            store.set(f"left/{rank}", "")
        except BaseException as failure:
            over.set()
            reason = "" if from_others(failure) else reason_of(failure)
            if not isinstance(failure, (Error, Lost, RuntimeError)):  # a mistake in the program shows itself
                store.set(f"reason/{rank}", reason)
                raise
            sentence = roll_call(store, rank, world, reason, timeout)
            # torchrun stops all when it sees that one has ended: the sentence is not to be cut off by that.
            if store.add("speakers", 1) > 1:  # another rank says it
                told.wait(2 * ROLL_CALL)
                raise SystemExit(1) from None
            if not reason:
                told.wait(ROLL_CALL)
            raise Error(sentence) from None
        finally:
            with suppress(Exception):
                dist.destroy_process_group()


def meeting_place() -> dist.Store:
    client = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"qwen3_scratch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", client)


def gather(store: dist.Store, world: int, timeout: int | float) -> None:
    """Waits until all ranks have come. In Python, since a signal is not heard while torch waits."""
    end = time.monotonic() + timeout
    while not all(store.check([f"process/{other}"]) for other in range(world)):
        if time.monotonic() > end:
            raise Lost
        time.sleep(0.05)


def reason_of(failure: BaseException) -> str:
    text = str(failure) if isinstance(failure, Error) else f"{type(failure).__name__}: {failure}"
    return text.partition("\n")[0]


def from_others(failure: BaseException) -> bool:
    """Whether a rank stops because of others: torch has a type for some of these errors, the rest it raises itself."""
    innermost = [frame for frame, _ in walk_tb(failure.__traceback__)][-1:]
    theirs = isinstance(failure, RuntimeError) and not isinstance(failure, torch.OutOfMemoryError)
    return isinstance(failure, (Lost, dist.DistError)) or (theirs and any(map(in_torch_distributed, innermost)))


def in_torch_distributed(frame: FrameType | None) -> bool:
    return frame is not None and str(frame.f_globals.get("__name__")).startswith("torch.distributed")


@contextmanager
def noticing(store: dist.Store, rank: int, world: int) -> Iterator[tuple[threading.Event, threading.Event]]:
    """While it is open, SIGTERM raises Lost, and a thread sends it where a rank has gone; what was there is put back.

    Of the two events that it gives the first says that the run is over, so that neither happens any more; the second,
    that SIGTERM has come.
    """
    over, told, main = threading.Event(), threading.Event(), threading.current_thread() is threading.main_thread()

    def lost(number: int, frame: FrameType | None) -> None:
        told.set()
        if not over.is_set():
            over.set()
            raise Lost

    watcher = threading.Thread(target=watch, args=(store, rank, world, over, threading.get_ident()), daemon=True)
    watcher.start()
    before = signal.signal(signal.SIGTERM, lost) if main else None  # Python allows it nowhere else
    try:
        yield over, told
    finally:
        over.set()
        watcher.join(ROLL_CALL)  # one that still asks the store when Python ends would abort the process
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def watch(store: dist.Store, rank: int, world: int, over: threading.Event, watched: int) -> None:
    """Looks now and then whether the others are there, for a rank that does not speak with them, loading for instance.

    To one that has failed it answers in the place of the `watched` thread, where that only waits for others.
    """
    with suppress(RuntimeError):  # torchrun has ended, and its store with it
        others = [other for other in range(world) if other != rank]
        while not over.wait(NOTICE):
            if any(has_ended(store, other) for other in others) and not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            only_waits = in_torch_distributed(sys._current_frames().get(watched))
            if only_waits and any(store.check([f"reason/{other}"]) for other in others):
                store.set(f"reason/{rank}", "")


def has_ended(store: dist.Store, other: int) -> bool:
    """Whether a rank of this machine has ended without a word."""
    if not store.check([f"process/{other}"]) or any(store.check([f"{word}/{other}"]) for word in ("left", "reason")):
        return False
    host, pid = store.get(f"process/{other}").decode().split()
    return host == socket.gethostname() and not is_running(int(pid))


def roll_call(store: dist.Store, rank: int, world: int, reason: str, timeout: int | float) -> str:
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
            who, late = f"rank {other} of {world}", time.monotonic() > end
            if not store.check([f"process/{other}"]):
                if late:
                    return f"{who}: has not come: see what it wrote, or what it waits for"
                continue
            host, pid = store.get(f"process/{other}").decode().split()
            here = host == socket.gethostname()
            if here and not is_running(int(pid)):
                what = f"its process {pid} has ended before its work was done"
                return f"{who}: {what}: see what it wrote, or look for a full memory"
            if late and not here:
                return f"{who}: process {pid} on {host} does not answer: look at what it does there"
            if late:  # it would not hear torchrun either
                os.kill(int(pid), signal.SIGKILL)
                return f"{who}: process {pid} did not answer for {timeout:g} s and was ended: see why it waited"
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
