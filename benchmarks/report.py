"""Writes RESULTS.md from the JSON of the last full runs: `python -m benchmarks.report`.

Each machine has its folder. What was never run stands there as "not run"; rehearsals (`--quick`) and small shapes are
passed over.
"""

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer

from qwen3_scratch import Error

from . import script
from .goals import GOALS, GPU_GOALS, GPU_MEASURED, Results, cases, over_best, rows_of
from .measure import BANDWIDTH, ROOT
from .script import digits, text

BENCHMARKS = ("decode", "prefill", "load", "start", "context", "experts", "tiny", "roofline", "products", "int8")
BENCHMARKS += ("lookup",)
Folder = Annotated[Path, typer.Option(help="The folder with a folder of JSON files for each machine.")]
Target = Annotated[Path, typer.Option(help="The file to write.")]


def main(folder: Folder = script.RESULTS, target: Target = ROOT / "benchmarks" / "RESULTS.md") -> None:
    machines = read(folder)
    target.write_text(render(machines), encoding="utf-8")
    print(f"wrote {target} from {sum(map(len, machines.values()))} results of {len(machines)} machines")


def read(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The results of each machine, by the name of its folder; a folder without any is passed over."""
    found = {each.name: read_machine(each) for each in sorted(folder.iterdir()) if each.is_dir()}
    return {name: results for name, results in found.items() if results}


def read_machine(folder: Path) -> dict[str, dict[str, Any]]:
    """Benchmark, with ` (SHAPE)` or ` (GPU)` where another -> JSON of its last full run; no rehearsal, nothing tiny."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text("utf-8"))
            shape, device = result.get("shape", "huihui"), result["machine"]["device"]
            marks = [f" ({shape})" * (shape != "huihui"), " (GPU)" * (device != "cpu")]
            result["rows"], result["figure"] = list(result["rows"]), f"{folder.name}/{path.stem}.png"
            if not result["quick"] and shape != "tiny":
                found["".join((result["benchmark"], *marks))] = result
        except (ValueError, KeyError, TypeError) as error:
            raise Error(f"{path}: is no result of a benchmark ({error!r}): delete it and run the benchmark") from None
    return found


def render(machines: Mapping[str, Results]) -> str:
    """RESULTS.md: the machines, what was to be shown, where a peer is ahead; then all tables, folded."""
    place = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False)
    place.filters |= {"digits": digits, "text": text}
    place.trim_blocks = place.lstrip_blocks = True
    place.keep_trailing_newline = True
    goals = [
        {"what": goal.what, "least": goal.bound(goal.least), "aim": goal.bound(goal.aim), "goal": goal}
        for goal in (*GOALS, *GPU_GOALS)
    ]
    everything = {name: result for results in machines.values() for name, result in results.items()}
    for goal in goals:
        shown = machines.values() if goal["goal"] in GOALS else [everything]
        goal["found"] = [goal["goal"].found(results) for results in shown]
    measured = {what: value(everything) for what, value in GPU_MEASURED.items()}
    return place.get_template("results.md.j2").render(
        machines=[{"name": title(results), **about(results)} for results in machines.values()],
        goals=goals[: len(GOALS)],
        on_gpu=goals[len(GOALS) :],
        measured={what: "not run" if found is None else digits(found) for what, found in measured.items()},
        ahead={title(results): lines for results in machines.values() if (lines := ahead(results))},
    )


def title(results: Results) -> str:
    """What a machine is called in the tables: its GPU, or its processor without what hypervisors make of the name."""
    machine = next(iter(results.values()))["machine"]
    name = machine["cpu"] if machine["device"] == "cpu" else machine["gpu"]
    return " ".join(re.sub(r"\(R\)|\(TM\)|Processor", "", name).split())


def about(results: Results) -> dict[str, Any]:
    """The machine, what it read in all runs, and a section for each benchmark."""
    machine = next(iter(results.values()))["machine"]
    reads = [row["median"] for found in results.values() for row in found["rows"] if row["name"] == BANDWIDTH]
    sections = [section(name, results.get(name)) for name in BENCHMARKS]
    sections += [section(name, result) for name, result in results.items() if name not in BENCHMARKS]
    days = sorted({found["date"][:10] for found in results.values()})
    known = {
        "instructions": machine.get("instructions", "not recorded"),
        "days": " to ".join({days[0]: 0, days[-1]: 0}),
    }
    read = f"{min(reads):.1f} to {max(reads):.1f} GB/s, {statistics.median(reads):.1f}" if reads else "not run"
    return {"machine": machine, "sections": sections, "read": read, **known}


def ahead(results: Results) -> list[str]:
    """A line for each case in which a peer's best is faster than ours."""
    found = []
    for benchmark, ours, peers, higher in (
        ("decode", "compiled", ("llama.cpp", "transformers"), True),
        ("prefill", "ours", ("transformers",), False),
        ("load", "ours", ("transformers",), False),
        ("tiny", "compiled", ("transformers",), True),
    ):
        for case in cases(results, benchmark, ours):
            if any(row["unit"] not in ("s", "tokens/s") for row in rows_of(results, benchmark) if row["case"] == case
                   and row["name"] == ours):  # fmt: skip
                continue
            for peer in peers:
                times = over_best(benchmark, ours, peer, higher, **case)(results)
                if times is not None and times < 1:
                    words = ", ".join(f"{key} {text(value)}" for key, value in case.items())
                    found.append(f"{benchmark} ({words}): {peer} is {1 / times:.2f} times as fast")
    return found


def section(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template shows of one benchmark: the table's columns and lines."""
    if found is None:
        return {"name": name, "found": None}
    keys = list(dict.fromkeys(key for row in found["rows"] for key in row["case"]))
    lines = []
    for row in found["rows"]:
        head = [text(row["case"].get(key)) for key in keys] + [row["name"]]
        if "not_run" in row:
            lines.append([*head, "not run", row["not_run"].replace("|", "/"), ""])
        else:
            span = f"{digits(row['low'])} to {digits(row['high'])}" if row["low"] != row["high"] else ""
            lines.append([*head, digits(row["median"]), span, row["unit"]])
    return {
        "name": name,
        "found": found,
        "columns": [*keys, "contestant", "median", "lowest to highest", "unit"],
        "lines": lines,
    }


if __name__ == "__main__":
    script.main(main)
