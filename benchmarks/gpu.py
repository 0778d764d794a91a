"""All that a machine with a GPU is asked, in one run of at most MINUTES, most important first, without a network.

Each part is a process of its own with a limit; what it printed and measured lies in OUT, and GPU.md says what became
of each. What a part needs and is not installed is taken from WHEELS (`pip download` fills such a folder), or the part
is left out with a sentence. `--rehearsal` runs the same lines on the CPU and the tiny shape.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from qwen3_scratch.checkpoints.saving import write_json

from . import models, script
from .measure import ROOT, describe, need
from .script import Store

LAST = "17_topk_moe_on_gpu"
HEAD = 120  # lines of a part's output that GPU.md shows
Minutes = Annotated[float, typer.Option(help="All parts together; who has not begun by then is left out.")]
Wheels = Annotated[Path | None, typer.Option(help="A folder of wheels for packages that are not installed.")]
Rehearsal = Annotated[bool, typer.Option("--rehearsal", help="On the CPU and the tiny shape; nothing is a result.")]
Only = Annotated[list[str], typer.Option(help="Names of parts, else all.")]
OutFolder = Annotated[Path, typer.Option(help="The folder for everything; OUT/gpu.tar.gz holds it in one file.")]


class Part(NamedTuple):
    """One question as a command of Python: at most so many seconds, with what it imports besides the package's own."""

    name: str
    words: Sequence[str]
    seconds: float
    needs: Sequence[str] = ()


class Ended(NamedTuple):
    """What became of a part: "done", or why not, after how many seconds."""

    name: str
    how: str
    seconds: float


def parts(out: Path, rehearsal: bool) -> list[Part]:
    """In the order of their weight: a machine may be taken back at any time."""
    small = ["--quick", "--shape", "tiny", "--device", "cpu"] if rehearsal else ["--device", "cuda"]

    def measured(name: str, seconds: float, *words: str, folder: str = "") -> Part:
        place = ["--out", str(out / (folder or name)), *(["--rounds", "3"] if not rehearsal else [])]
        return Part(folder or name, ["-m", f"benchmarks.{name}", *small, *place, *words], seconds, ["transformers"])

    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/fast/test_gpu.py"]
    tests += ["-k", "logits or drawn"] if rehearsal else []
    notebook = ["-m", "benchmarks.gpu", "notebook", str(out / f"{LAST}.ipynb")]
    top_8 = ["--shape", "tiny" if rehearsal else "top-8"]
    return [
        measured("decode", 150, "--batch", "1", folder="decode-1"),
        Part("tests", tests, 150, ["pytest", "hypothesis"]),
        Part(LAST, notebook, 120, ["nbclient", "nbformat", "ipykernel"]),
        measured("roofline", 90),
        measured("experts", 60, *top_8),
        measured("decode", 90, "--batch", "4" if rehearsal else "64", folder="decode-64"),
        measured("prefill", 60),
        measured("decode", 90, "--batch", "16", folder="decode-16"),
        measured("decode", 90, "--batch", "4", folder="decode-4"),
    ]


def main(
    out: OutFolder = ROOT / "build" / "gpu", minutes: Minutes = 8.0, wheels: Wheels = None,
    rehearsal: Rehearsal = False, store: Store = models.STORE, only: Only = (),
) -> None:  # fmt: skip
    need(rehearsal or torch.cuda.is_available(), "this machine has no GPU that torch sees: --rehearsal runs without")
    asked = parts(out, rehearsal)
    unknown = {*only} - {part.name for part in asked}
    need(not unknown, f"--only names {', '.join(sorted(unknown))}, expected some of {[part.name for part in asked]}")
    out.mkdir(parents=True, exist_ok=True)
    env, end, ended = surroundings(out, wheels, rehearsal), time.monotonic() + 60 * minutes, []
    for part in asked if not only else [part for part in asked if part.name in only]:
        words = [*part.words, *(["--store", str(store)] if takes_store(part) else [])]
        ended.append(run(part._replace(words=words), out, env, end - time.monotonic()))
        print(f"{ended[-1].name}: {ended[-1].how} ({ended[-1].seconds:.0f} s)", file=sys.stderr, flush=True)
        write_page(out, ended, rehearsal)  # after each part: what is there when the machine goes back is whole
    print(out / "GPU.md")
    sys.exit(any(each.how != "done" for each in ended))


def takes_store(part: Part) -> bool:
    return any(word.startswith("benchmarks.") for word in part.words) and part.name not in ("experts", LAST)


def surroundings(out: Path, wheels: Path | None, rehearsal: bool) -> dict[str, str]:
    """The environment of a part: this checkout first, then what was taken from wheels, no network, no widgets."""
    env = os.environ | {"CI": "true", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    env |= {"QWEN3_SCRATCH_REHEARSE": "cpu"} if rehearsal else {}
    if wheels is not None:
        names = sorted({path.name.split("-")[0] for path in wheels.glob("*.whl")})
        missing = [name for name in names if importlib.util.find_spec(name.replace("-", "_")) is None]
        target = out / "packages"
        words = ["install", "--quiet", "--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", *words, *missing], check=False, timeout=120)
        env["PYTHONPATH"] += os.pathsep + str(target)
    return env


def run(part: Part, out: Path, env: dict[str, str], left: float) -> Ended:
    """One part to its end or its limit; what it printed lies in OUT/NAME.txt."""
    if left < 10:
        return Ended(part.name, "left out: the minutes are over", 0.0)
    found = subprocess.run([sys.executable, "-c", f"import {', '.join(part.needs)}"], env=env, capture_output=True)
    if part.needs and found.returncode:
        said = found.stderr.decode(errors="replace").strip().splitlines()[-1]
        return Ended(part.name, f"left out: {said}", 0.0)
    began, limit = time.monotonic(), min(part.seconds, left)
    with (out / f"{part.name}.txt").open("wb") as log:
        try:
            code = subprocess.run(
                [sys.executable, *part.words], env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=limit
            ).returncode
            how = "done" if code == 0 else f"failed with exit status {code}: see {part.name}.txt"
        except subprocess.TimeoutExpired:
            how = f"cut off after {limit:.0f} s: see {part.name}.txt"
    return Ended(part.name, how, time.monotonic() - began)


def write_page(out: Path, ended: Sequence[Ended], rehearsal: bool) -> None:
    """GPU.md and gpu.json: the machine, each part, and the end of what it printed; all in one archive."""
    machine: dict[str, Any] = describe(torch.device("cpu" if rehearsal else "cuda"))
    write_json(out / "gpu.json", {**machine, "rehearsal": rehearsal, "parts": [each._asdict() for each in ended]})
    lines = ["# What a GPU showed", ""]
    lines += ["**A rehearsal on the CPU: nothing here is a result.**", ""] if rehearsal else []
    lines += [f"{platform.platform()}, Python {platform.python_version()}.", "", "```"]
    lines += [*json.dumps(machine, indent=1).splitlines(), "```", "", "| part | | seconds |", "| --- | --- | --- |"]
    lines += [f"| {each.name} | {each.how} | {each.seconds:.0f} |" for each in ended]
    for each in ended:
        log = out / f"{each.name}.txt"
        said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        lines += ["", f"## {each.name}", "", "```", *said[-HEAD:], "```"]
    (out / "GPU.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = [path for path in out.iterdir() if path.name not in ("packages", "gpu.tar.gz")]
    with_all = out.parent / f".{out.name}-archive"
    shutil.rmtree(with_all, ignore_errors=True)
    for path in kept:
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        (with_all / "gpu").mkdir(parents=True, exist_ok=True)
        copy(path, with_all / "gpu" / path.name)
    archive = shutil.make_archive(str(with_all / "gpu"), "gztar", with_all, "gpu")
    os.replace(archive, out / "gpu.tar.gz")
    shutil.rmtree(with_all)


def run_notebook(target: Path) -> None:
    """The last notebook with its GPU cells, executed where it stands and written to `target`; raises at what fails."""
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "notebooks" / f"{LAST}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}})
    client.on_cell_executed = lambda **_: nbformat.write(notebook, target)  # the limit may come at any cell
    client.execute()


if __name__ == "__main__":
    if sys.argv[1:2] == ["notebook"]:
        run_notebook(Path(sys.argv[2]))
    else:
        script.main(main)
