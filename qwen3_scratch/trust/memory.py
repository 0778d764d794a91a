"""How many bytes a device still has to give, as far as the system says."""

from pathlib import Path
from types import TracebackType

import torch

from ..errors import Error

# A container's own limit and what it holds: control groups, version 2 and version 1.
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_memory(device: torch.device | str | None = None) -> int | None:
    """Bytes that can still be allocated on a device (None: the CPU), or None where the system does not say.

    On the CPU it is the least of what the machine has free (with what it would drop from its file cache), what the
    container's limit leaves, and what the process's own limit on its address space leaves. Linux hands out more than it
    has and ends the process later, so a large allocation is to be held against this before it is made.
    """
    device = torch.device("cpu" if device is None else device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    machine = _fields(Path("/proc/meminfo")).get("MemAvailable")
    known = [left for left in (machine, _container(), _process()) if left is not None]
    return max(0, min(known)) if known else None


class telling_too_little_memory:
    """Turns a device's refusal of memory into an Error that says for what, how much is free, and what would need less.

    A class, since the frames of a generator's exit would hold on to the refusal's traceback, and by it to every tensor
    of the functions that were under way: whoever keeps the Error could not try again with less.
    """

    def __init__(self, what: str, advice: str, device: torch.device | str | None = None):
        self.what, self.advice, self.device = what, advice, device

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        del traceback
        # On the CPU torch raises a bare RuntimeError, whose words tell.
        words = ("can't allocate memory", "not enough memory", "out of memory")
        told = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
        if error is not None and (told or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            error.__traceback__ = None
            free = available_memory(self.device)
            found = "" if free is None else f", {size_text(free)} are free"
            where = f"the memory of {self.device or 'cpu'} does not suffice{found}"
            raise Error(f"{self.what}: {where}: {self.advice}") from None


def size_text(count: int) -> str:
    """Bytes in the decimal units that the hub and disks use."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def _container() -> int | None:
    for limit, used in GROUPS:
        try:
            left = int(limit.read_text()) - int(used.read_text())
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
        # What the group holds of files would be dropped before anything is refused.
        stat = limit.with_name("memory.stat")
        cached = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
        return left + int(cached.get("inactive_file", 0)) + int(cached.get("active_file", 0))
    return None


def _process() -> int | None:
    try:
        import resource  # Unix only
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _fields(Path("/proc/self/status")).get("VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _fields(path: Path) -> dict[str, int]:
    """The lines `Name:  123 kB` of a file of /proc, in bytes."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
