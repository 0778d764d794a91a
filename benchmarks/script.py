"""What every script of this folder shares: its options, a table on the terminal, JSON and a figure on the disk."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from qwen3_scratch import Error
from qwen3_scratch.checkpoints.saving import write_json

from . import models
from .measure import ROOT, Row, describe, need

RESULTS = ROOT / "benchmarks" / "results"  # a folder for each machine
OUT: Path | None = None  # that of this machine
QUICK = 2  # rounds of a rehearsal
Rounds = Annotated[int, typer.Option(min=1, help="How often each contestant is measured: A B C A B C ...")]
Quick = Annotated[bool, typer.Option("--quick", help="Two rounds, a rehearsal: never entered into RESULTS.md.")]
Shape = Annotated[str, typer.Option(help="Of random weights: `huihui` (1.7 GB in bf16), `top-8` (18 GB), `tiny`.")]
Device = Annotated[str, typer.Option(help="`auto` takes a GPU where there is one; else `cpu` or `cuda`.")]
Out = Annotated[
    Path | None, typer.Option(help="The folder for the JSON and the figure; else this machine's in benchmarks/results.")
]
Store = Annotated[Path, typer.Option(help="The folder that keeps the random checkpoints.")]


def main(function: Callable[..., None]) -> None:
    """Runs a script from its command line; an error is one line and exit code 1."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the terminal does
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=(sys.modules[function.__module__].__doc__ or "").replace("\n", " "))(function)
    try:
        app()
    except Error as error:
        print(error, file=sys.stderr)
        sys.exit(1)


class Run:
    """One run of a script: what was asked for, the machine it began on, and the rows that have been measured."""

    def __init__(
        self, name: str, question: str, *, rounds: int, quick: bool, device: str, out: Path | None, **asked: Any
    ):
        self.name, self.question, self.quick = name, question, quick
        self.rounds = min(rounds, QUICK) if quick else rounds
        self.device = torch.device(pick(device))
        self.asked = asked
        self.where = describe(self.device)
        self.out = out or RESULTS / place(self.where["machine"])
        self.rows: list[Row] = []

    def say(self, text: str) -> None:
        """Progress, on standard error."""
        print(text, file=sys.stderr, flush=True)

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        head = {"benchmark": self.name, "question": self.question, "quick": self.quick, "rounds": self.rounds}
        return {**head, **self.asked, **self.where, "rows": rows}

    def finish(self, draw: Callable[[dict[str, Any]], Any]) -> None:
        """Prints the table; writes NAME.json and NAME.png, with shape, device and `quick` in the name where unusual."""
        found = self.to_dict()
        Console(width=None if sys.stdout.isatty() else 120).print(table(found))
        self.out.mkdir(parents=True, exist_ok=True)
        shape = self.asked.get("shape", "huihui")
        marks = (shape if shape != "huihui" else "", "cuda" if self.device.type == "cuda" else "", "quick" * self.quick)
        stem = str(self.out / ".".join(filter(None, (self.name, *marks))))
        draw(found).savefig(f"{stem}.png", dpi=150)
        write_json(Path(f"{stem}.json"), found)
        self.say(f"wrote {stem}.json and {stem}.png")


def place(machine: Mapping[str, Any]) -> str:
    """The name of a machine's folder: that of its GPU if one was used, else that of its processor."""
    name = machine["cpu"] if machine["device"] == "cpu" else machine["gpu"]
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor", "", name.lower())).strip("-")


def pick(device: str) -> str:
    """`auto` becomes the GPU where there is one; Error for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    need(device in ("cpu", "cuda"), f"device is {device!r}, expected auto, cpu or cuda: choose one of them")
    need(device == "cpu" or torch.cuda.is_available(), "device is 'cuda', and this machine has none: choose cpu")
    return device


def checkpoint_folder(run: Run, shape: str, store: Path) -> Path:
    run.say(f"random checkpoint of shape {shape} in {store} (made once) ...")
    return models.random_checkpoint(shape, store)


def table(found: dict[str, Any]) -> Table:
    """The rows of a result for the terminal: the case, the contestant, the median and the span of its rounds."""
    cases = list(dict.fromkeys(key for row in found["rows"] for key in row["case"]))
    title = f"{found['question']} ({found['rounds']} rounds{', quick' if found['quick'] else ''})"
    shown = Table(title=title, title_justify="left")
    for name in (*cases, "contestant", "median", "lowest", "highest", "unit"):
        shown.add_column(name, justify="right" if name in ("median", "lowest", "highest") else "left")
    before = None
    for row in found["rows"]:
        if before is not None and row["case"] != before:
            shown.add_section()
        before = row["case"]
        case = [text(row["case"].get(key)) for key in cases]
        if "not_run" in row:
            shown.add_row(*case, row["name"], "not run", "", "", row["not_run"])
        else:
            shown.add_row(*case, row["name"], *(digits(row[key]) for key in ("median", "low", "high")), row["unit"])
    return shown


def text(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def digits(value: int | float) -> str:
    """Three digits that count, and no more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
