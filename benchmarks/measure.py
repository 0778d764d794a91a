"""Measuring side by side: every round runs each contestant once, in the same order, and reads the memory besides.

On a shared machine absolute seconds mean nothing: only numbers of one round can be compared with each other.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qwen3_scratch import Error

ROOT = Path(__file__).parents[1]
BANDWIDTH = "read bandwidth"
BUFFER = 2**29  # bytes that are read to measure the memory: far more than any cache holds
PACKAGES = ("torch", "transformers", "llama-cpp-python", "gguf", "numpy")


@dataclass
class Row:
    """One line of a result: a contestant in a case, and a number a round, or the sentence why there is none."""

    case: dict[str, Any]
    name: str
    unit: str = ""
    samples: list[float] = field(default_factory=list)
    not_run: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the JSON file: with median, lowest and highest sample where there are any."""
        found = {name: value for name, value in asdict(self).items() if value not in (None, [], "")}
        if self.samples:
            found |= dict(median=self.median, low=min(self.samples), high=max(self.samples))
        return found


def interleave(measures: Mapping[Any, Callable[[], float]], rounds: int) -> dict[Any, list[float]]:
    """One number of each measure a round, always in the same order: A B C A B C ..."""
    samples: dict[Any, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


class Contest(NamedTuple):
    """A case, how each contestant of it is measured, and a sentence for each that cannot be."""

    case: Mapping[str, Any]
    measures: Mapping[str, Callable[[], float]]
    not_run: Mapping[str, str] = MappingProxyType({})


def compare(contests: Sequence[Contest], rounds: int, unit: str, *, device: torch.device | str = "cpu") -> list[Row]:
    """The contests of all cases round by round, so that cases can be compared, too: for each case a row for each
    measure, one for the memory read in the same rounds, one for each that was not run.

    Each is warmed up by one call; who fails there gets a row that says so and does not keep the others from running.
    """
    ready: dict[tuple[int, str], Callable[[], float]] = {}
    absent = [dict(contest.not_run) for contest in contests]
    for number, contest in enumerate(contests):
        for name, measure in contest.measures.items():
            if reason := failure(measure):
                absent[number][name] = reason
            else:
                ready[number, name] = measure
        ready[number, BANDWIDTH] = partial(read_bandwidth, str(device))
    samples, rows = interleave(ready, rounds), []
    for number, contest in enumerate(contests):
        case, names = dict(contest.case), [name for name in contest.measures if (number, name) in ready]
        rows += [Row(case, name, unit, samples[number, name]) for name in names]
        rows += [Row(case, name, unit, not_run=reason) for name, reason in absent[number].items()]
        rows.append(Row(case, BANDWIDTH, "GB/s", samples[number, BANDWIDTH]))
    return rows


def failure(function: Callable[[], Any]) -> str | None:
    """What went wrong when it was called, in one line, or None."""
    try:
        function()
    except Exception as error:  # of whatever kind: it is a contestant's, and is told in the results
        lines = str(error).strip().splitlines() or ["without a word"]
        return f"fails: {type(error).__name__}: {lines[0][:160]}"
    return None


def seconds(function: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Seconds that a call takes, until the device has done it."""
    now(device)
    start = time.perf_counter()
    function()
    return now(device) - start


def now(device: torch.device | str = "cpu") -> float:
    """The clock in seconds, once the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' ratios: what slows a whole round down slows both sides of it."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def read_bandwidth(device: str = "cpu", passes: int = 3) -> float:
    """Bytes a second, in 10^9, that plain reductions read from memory: the best of a few passes of each."""
    buffer = _buffer(device, BUFFER)
    each = [seconds(reader, device) for _ in range(passes) for reader in (buffer.sum, buffer.max)]
    return buffer.nbytes / min(each) / 1e9


@cache
def _buffer(device: str, size: int) -> Tensor:
    buffer = torch.ones(size // 8, dtype=torch.int64, device=device)  # of all kinds the least to compute a byte
    buffer.sum(), buffer.max()
    return buffer


# ---- what was measured, where and when ---------------------------------------------------------


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine, as far as the system says: processor, cores, threads used, memory, GPU, load before the run."""
    found = {
        "cpu": processor(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": str(device),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
    }
    return found


def processor() -> str:
    """The processor's name with family and model where Linux tells them, since hypervisors shorten the name."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or "unknown"
    pairs = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
    found = {key.strip(): value.strip() for key, value in pairs}
    name = found.get("model name", platform.machine())
    return f"{name} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"


def instructions() -> str:
    """The widest that torch computes with here, and what the processor multiplies matrices with, where Linux tells."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sorted(flags & {"amx_bf16", "amx_int8", "avx512_bf16"})])


def versions() -> dict[str, str]:
    """Of Python and of every package that takes part, where it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The commit that was measured, and whether any file of the package differed from it."""
    try:
        name = _git("rev-parse", "HEAD")
        return {
            "commit": name,
            "modified": bool(_git("status", "--porcelain", "--", "qwen3_scratch", "benchmarks/*.py")),
        }
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return {"commit": None, "modified": None}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def describe(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Everything that a reader of the numbers has to know, taken before the first of them is."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, **commit(), "machine": machine(device), "versions": versions()}


def row_of(rows: Sequence[Mapping[str, Any]], name: str, **case: Any) -> Mapping[str, Any] | None:
    """The row of a result's JSON with this name whose case has these entries, if it was run."""
    fitting = (row for row in rows if row["name"] == name and row.get("samples"))
    return next((row for row in fitting if case.items() <= row["case"].items()), None)


def need(condition: bool, sentence: str) -> None:
    """Raises Error with the sentence unless the condition holds."""
    if not condition:
        raise Error(sentence)
