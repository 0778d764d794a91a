"""Writes RESULTS.md from the JSON of the last full runs: `python -m benchmarks.report`.

What was never run stands there as "not run"; rehearsals (`--quick`) and small shapes are passed over.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer

from qwen3_scratch import Error

from . import script
from .measure import ROOT, ratio, row_of
from .roofline import LAUNCHES, SHARE
from .script import digits, text

BENCHMARKS = ("decode", "prefill", "load", "context", "experts", "tiny", "roofline", "products", "int8", "lookup")
Results = Mapping[str, Mapping[str, Any]]  # benchmark -> its JSON
Folder = Annotated[Path, typer.Option(help="The folder with the JSON files.")]
Target = Annotated[Path, typer.Option(help="The file to write.")]


@dataclass(frozen=True)
class Goal:
    """One line of what is to be shown: a number from the results, and what it has to be."""

    what: str
    least: float
    aim: float
    value: Callable[[Results], float | None]
    unit: str = "×"
    low_is_good: bool = False

    def line(self, results: Results) -> dict[str, str]:
        found = self.value(results)
        sign = "≤" if self.low_is_good else "≥"
        shown = {"what": self.what, "least": f"{sign} {self.show(self.least)}", "aim": f"{sign} {self.show(self.aim)}"}
        if found is None:
            return {**shown, "found": "not run", "met": "not run"}
        reached = [found <= bound if self.low_is_good else found >= bound for bound in (self.least, self.aim)]
        met = "aim met" if reached[1] else "met" if reached[0] else "**not met**"
        return {**shown, "found": self.show(found), "met": met}

    def show(self, number: float) -> str:
        return (
            f"{100 * number:.4g}%"
            if self.unit == "%"
            else f"{number:,.0f}"
            if self.unit == "tok/s"
            else f"{number:.2f} ×"
        )


def main(folder: Folder = script.OUT, target: Target = ROOT / "benchmarks" / "RESULTS.md") -> None:
    results = read(folder)
    target.write_text(render(results), encoding="utf-8")
    print(f"wrote {target} from {len(results)} of {len(BENCHMARKS)} benchmarks")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Benchmark, with ` (SHAPE)` or ` (GPU)` where another -> JSON of its last full run; no rehearsal, nothing tiny."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text("utf-8"))
            shape, device = result.get("shape", "huihui"), result["machine"]["device"]
            marks = [f" ({shape})" * (shape != "huihui"), " (GPU)" * (device != "cpu")]
            result["rows"], result["figure"] = list(result["rows"]), path.with_suffix(".png").name
            if not result["quick"] and shape != "tiny":
                found["".join((result["benchmark"], *marks))] = result
        except (ValueError, KeyError, TypeError) as error:
            raise Error(f"{path}: is no result of a benchmark ({error!r}): delete it and run the benchmark") from None
    return found


def render(results: Results) -> str:
    """RESULTS.md: what was to be shown, a section a benchmark, and what never ran."""
    place = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False)
    place.filters |= {"digits": digits, "text": text}
    place.trim_blocks = place.lstrip_blocks = True
    place.keep_trailing_newline = True
    sections = [section(name, results.get(name)) for name in BENCHMARKS]
    sections += [section(name, result) for name, result in results.items() if name not in BENCHMARKS]
    goals, on_gpu = ([goal.line(results) for goal in each] for each in (GOALS, GPU_GOALS))
    for what, value in GPU_MEASURED.items():
        number = value(results)
        found = "not run" if number is None else digits(number)
        on_gpu.append(
            {"what": what, "least": "measured", "aim": "", "found": found, "met": found if number is None else ""}
        )
    return place.get_template("results.md.j2").render(sections=sections, goals=goals, on_gpu=on_gpu)


def section(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template shows of one benchmark: the table's columns and lines."""
    if found is None:
        return {"name": name, "found": None}
    cases = list(dict.fromkeys(key for row in found["rows"] for key in row["case"]))
    lines = []
    for row in found["rows"]:
        head = [text(row["case"].get(key)) for key in cases] + [row["name"]]
        if "not_run" in row:
            lines.append([*head, "not run", row["not_run"].replace("|", "/"), ""])
        else:
            span = f"{digits(row['low'])} to {digits(row['high'])}" if row["low"] != row["high"] else ""
            lines.append([*head, digits(row["median"]), span, row["unit"]])
    columns = [*cases, "contestant", "median", "lowest to highest", "unit"]
    return {"name": name, "found": found, "columns": columns, "lines": lines}


# ---- what is to be shown -------------------------------------------------------------------------


def over_best(benchmark: str, ours: str, peer: str, higher_is_faster: bool = True, **case: Any):
    """How many times as fast ours is as the best of a peer's ways, in the case."""

    def value(results: Results) -> float | None:
        rows = results.get(benchmark, {}).get("rows", [])
        mine = row_of(rows, ours, **case)
        others = [row for row in rows if row["name"].startswith(peer) and row.get("samples")]
        others = [row for row in others if case.items() <= row["case"].items()]
        if mine is None or not others:
            return None
        best = (max if higher_is_faster else min)(others, key=lambda row: row["median"])
        pair = (mine, best) if higher_is_faster else (best, mine)
        return ratio(*(row["samples"] for row in pair))

    return value


def over_place(benchmark: str, ours: str, places: tuple[Mapping[str, Any], Mapping[str, Any]]):
    """How many times the second case costs what the first one costs; both are measured in the same rounds."""

    def value(results: Results) -> float | None:
        found = [row_of(results.get(benchmark, {}).get("rows", []), ours, **case) for case in places]
        return None if None in found else ratio(found[1]["samples"], found[0]["samples"])

    return value


def prefill_worst(results: Results) -> float | None:
    """The length and kind of numbers in which we are slowest beside transformers' best."""
    cases = {str(row["case"]): row["case"] for row in results.get("prefill", {}).get("rows", [])}.values()
    found = [over_best("prefill", "ours", "transformers", higher_is_faster=False, **case)(results) for case in cases]
    return min((value for value in found if value is not None), default=None)


def median_of(benchmark: str, name: str, **case: Any):
    def value(results: Results) -> float | None:
        row = row_of(results.get(benchmark, {}).get("rows", []), name, **case)
        return None if row is None else row["median"]

    return value


def on_gpu(gpu: str, value: Callable[[Results], float | None]) -> Callable[[Results], float | None]:
    """The value, where the GPU of the run is of this name."""

    def only(results: Results) -> float | None:
        name = results.get("decode (GPU)", {}).get("machine", {}).get("gpu") or ""
        return value(results) if gpu in name else None

    return only


BF16, FP32 = {"dtype": "bfloat16", "batch": 1}, {"dtype": "float32", "batch": 1}
LENGTHS = ({"tokens before": 17}, {"tokens before": 4096})
FEW_AND_MANY = ({"experts": 2, "tokens": 1}, {"experts": 128, "tokens": 1})
GOALS = (
    Goal("decode bf16 over transformers' best", 2.5, 3.5, over_best("decode", "compiled", "transformers", **BF16)),
    Goal("decode bf16 over llama.cpp bf16", 0.95, 1.2, over_best("decode", "compiled", "llama.cpp", **BF16)),
    Goal(
        "decode bf16, share of measured read bandwidth", 0.65, 0.8,
        median_of("roofline", "compiled", dtype="bfloat16", quantity=SHARE), unit="%",
    ),
    Goal("decode fp32 over transformers' best", 1.7, 2.0, over_best("decode", "compiled", "transformers", **FP32)),
    Goal("plain decode bf16 over transformers' best", 1.1, 1.4, over_best("decode", "plain", "transformers", **BF16)),
    Goal("prefill over transformers' best, at the worst length", 1.0, 1.3, prefill_worst),
    Goal(
        "load: peak memory over checkpoint size", 1.25, 1.05,
        median_of("load", "ours", quantity="peak over file size"), low_is_good=True,
    ),
    Goal(
        "token after 4,096 over token after 17, compiled", 1.5, 1.2,
        over_place("context", "compiled", LENGTHS), low_is_good=True,
    ),
    Goal(
        "MoE block of 128 experts over 2, top-2, one token, compiled", 1.5, 1.1,
        over_place("experts", "compiled", FEW_AND_MANY), low_is_good=True,
    ),
    Goal("8-bit weights over bf16, compiled decode", 1.3, 1.3, over_best("int8", "in 8 bits", "as loaded", **BF16)),
    Goal(
        "8-bit weights: greedy tokens of the embedded checkpoint that stay", 0.99, 0.99,
        median_of("int8", "in 8 bits", quantity="greedy tokens of the embedded checkpoint that stay"), unit="%",
    ),
)  # fmt: skip
DEFAULT = "transformers generate, grouped_mm (default)"
GPU_GOALS = (
    Goal(
        "H100, batch 1, bf16", 800, 1200,
        on_gpu("H100", median_of("decode (GPU)", "compiled", **BF16)), unit="tok/s",
    ),
    Goal(
        "H100, batch 1, bf16, over transformers' default generate", 10, 10,
        on_gpu("H100", over_best("decode (GPU)", "compiled", DEFAULT, **BF16)),
    ),
    Goal(
        "H200, batch 1, bf16", 900, 900,
        on_gpu("H200", median_of("decode (GPU)", "compiled", **BF16)), unit="tok/s",
    ),
)  # fmt: skip
GPU_MEASURED = {
    "batch 64, bf16, tokens/s": median_of("decode (GPU)", "compiled", dtype="bfloat16", batch=64),
    "128 experts top-8, batch 1, bf16, tokens/s": median_of("decode (top-8) (GPU)", "compiled", **BF16),
    "launches a step, bf16": median_of("roofline (GPU)", "compiled", dtype="bfloat16", quantity=LAUNCHES),
}


if __name__ == "__main__":
    script.main(main)
