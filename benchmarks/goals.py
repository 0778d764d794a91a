"""What the benchmarks are to show: each goal a number from the results of one machine, and what it has to be."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .int8 import AS_LOADED, IN_8_BITS, KEPT
from .load import PEAK, TIME
from .lookup import COUNTED, DRAFTED, PLAIN
from .measure import ratio, row_of
from .roofline import LAUNCHES, SHARE
from .start import COMPILING, PACKAGE, TOKEN, TORCH

Results = Mapping[str, Mapping[str, Any]]  # benchmark -> its JSON
Value = Callable[[Results], float | None]
SHOWN = {
    "%": lambda x: f"{100 * x:.4g}%",
    "tok/s": lambda x: f"{x:,.0f}",
    "s": lambda x: f"{x:.2f} s",
    "": lambda x: f"{x:.2f}",
}


@dataclass(frozen=True)
class Goal:
    """One line of what is to be shown."""

    what: str
    least: float
    aim: float
    value: Value
    unit: str = "×"
    low_is_good: bool = False

    def bound(self, number: float) -> str:
        return f"{'≤' if self.low_is_good else '≥'} {self.show(number)}"

    def found(self, results: Results) -> str:
        """The number with what it says of the goal, or "not run"."""
        number = self.value(results)
        if number is None:
            return "not run"
        reached = [number <= bound if self.low_is_good else number >= bound for bound in (self.least, self.aim)]
        return f"{self.show(number)}, {'aim met' if reached[1] else 'met' if reached[0] else '**not met**'}"

    def show(self, number: float) -> str:
        return SHOWN.get(self.unit, lambda x: f"{x:.2f} ×")(number)


# ---- numbers from results ------------------------------------------------------------------------


def rows_of(results: Results, benchmark: str) -> list[Mapping[str, Any]]:
    return results.get(benchmark, {}).get("rows", [])


def over_best(benchmark: str, ours: str, peer: str, higher_is_faster: bool = True, **case: Any) -> Value:
    """How many times as fast ours is as the best of a peer's ways, in the case."""

    def value(results: Results) -> float | None:
        rows = rows_of(results, benchmark)
        mine = row_of(rows, ours, **case)
        others = [row for row in rows if row["name"].startswith(peer) and row.get("samples")]
        others = [row for row in others if case.items() <= row["case"].items()]
        if mine is None or not others:
            return None
        best = (max if higher_is_faster else min)(others, key=lambda row: row["median"])
        pair = (mine, best) if higher_is_faster else (best, mine)
        return ratio(*(row["samples"] for row in pair))

    return value


def over(benchmark: str, name: str, base: str, **case: Any) -> Value:
    """The one's number over the other's, in the case."""

    def value(results: Results) -> float | None:
        found = [row_of(rows_of(results, benchmark), each, **case) for each in (name, base)]
        return None if None in found else ratio(*(row["samples"] for row in found))

    return value


def over_place(benchmark: str, ours: str, places: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Value:
    """How many times the second case costs what the first one costs; both are measured in the same rounds."""

    def value(results: Results) -> float | None:
        found = [row_of(rows_of(results, benchmark), ours, **case) for case in places]
        return None if None in found else ratio(found[1]["samples"], found[0]["samples"])

    return value


def cases(results: Results, benchmark: str, name: str) -> list[Mapping[str, Any]]:
    """The cases in which the contestant was run."""
    return [row["case"] for row in rows_of(results, benchmark) if row["name"] == name and row.get("samples")]


def worst(benchmark: str, ours: str, peer: str, higher_is_faster: bool = True) -> Value:
    """The least of `over_best` over all cases."""

    def value(results: Results) -> float | None:
        each = (over_best(benchmark, ours, peer, higher_is_faster, **case) for case in cases(results, benchmark, ours))
        return min((found for one in each if (found := one(results)) is not None), default=None)

    return value


def median_of(benchmark: str, name: str, **case: Any) -> Value:
    def value(results: Results) -> float | None:
        row = row_of(rows_of(results, benchmark), name, **case)
        return None if row is None else row["median"]

    return value


def beyond(name: str, base: str) -> Value:
    """Seconds of a fresh process beyond those of another one."""

    def value(results: Results) -> float | None:
        pair = [row_of(rows_of(results, "start"), each) for each in (name, base)]
        if None in pair:
            return None
        return statistics.median(a - b for a, b in zip(*(row["samples"] for row in pair), strict=True))

    return value


def answers_with_drafts(results: Results) -> float | None:
    """Seconds of all domains' answers with drafts over those without, compiled; the median of the rounds' ratios."""
    domains = dict.fromkeys(case["domain"] for case in cases(results, "lookup", DRAFTED))
    found = []
    for name in (DRAFTED, PLAIN):
        rows = [row_of(rows_of(results, "lookup"), name, domain=domain, decoding="compiled") for domain in domains]
        found.append([sum(each) for each in zip(*(row["samples"] for row in rows if row), strict=True)])
    return ratio(*found) if all(found) else None


def on_gpu(gpu: str, value: Value) -> Value:
    """The value, where the GPU of the run is of this name."""

    def only(results: Results) -> float | None:
        name = results.get("decode (GPU)", {}).get("machine", {}).get("gpu") or ""
        return value(results) if gpu in name else None

    return only


# ---- what is to be shown -------------------------------------------------------------------------

BF16, FP32 = {"dtype": "bfloat16", "batch": 1}, {"dtype": "float32", "batch": 1}
LENGTHS = ({"tokens before": 17}, {"tokens before": 4096})
FEW_AND_MANY = ({"experts": 2, "tokens": 1}, {"experts": 128, "tokens": 1})
DOMAINS = {"stories": "stories", "python": "Python", "arithmetic": "arithmetic"}
LEAST_OVER_LLAMA = {"float32": {1: 1.1, 4: 1.0, 16: 1.0}, "bfloat16": {1: 1.0, 4: 1.0, 16: 1.0}}

GOALS = (
    Goal("bf16, batch 1: share of the read speed", 0.75, 0.9,
         median_of("roofline", "compiled", dtype="bfloat16", quantity=SHARE), unit="%"),
    Goal("bf16, batch 1: compiled over transformers' best", 2.5, 3.5,
         over_best("decode", "compiled", "transformers", **BF16)),
    Goal("fp32, batch 1: compiled over transformers' best", 1.7, 2.0,
         over_best("decode", "compiled", "transformers", **FP32)),
    Goal("bf16, batch 1: plain over transformers' best", 1.1, 1.4,
         over_best("decode", "plain", "transformers", **BF16)),
    *(Goal(f"{'bf16' if dtype == 'bfloat16' else 'fp32'}, batch {batch}: compiled over llama.cpp", least, 1.2,
           over_best("decode", "compiled", "llama.cpp", dtype=dtype, batch=batch))
      for dtype, bounds in LEAST_OVER_LLAMA.items() for batch, least in bounds.items()),
    Goal("compiled over plain, at its worst type and batch", 1.0, 1.2, worst("decode", "compiled", "plain")),
    *(Goal(f"tokens a pass with drafts from the text, {name}", 1.5, 2.5,
           median_of("lookup", DRAFTED, domain=domain, quantity=COUNTED), unit="")
      for domain, name in DOMAINS.items()),
    Goal("seconds of answers with drafts over those without, compiled", 0.75, 0.5, answers_with_drafts,
         low_is_good=True),
    Goal("8 bits over bf16, batch 1", 1.3, 1.5, over("int8", IN_8_BITS, AS_LOADED, **BF16)),
    Goal("8 bits over bf16, batch 4", 1.5, 1.5,
         over("int8", IN_8_BITS, AS_LOADED, dtype="bfloat16", batch=4)),
    Goal("8 bits: greedy tokens of the embedded checkpoint that stay", 0.99, 0.99,
         median_of("int8", IN_8_BITS, **KEPT), unit="%"),
    Goal("loading: seconds over transformers'", 1.1, 0.8,
         over("load", "ours", "transformers", quantity=TIME), low_is_good=True),
    Goal("loading: peak of memory over the file", 1.05, 1.02, median_of("load", "ours", quantity=PEAK),
         low_is_good=True),
    Goal("a fresh process: the package beyond torch", 0.3, 0.3, beyond(PACKAGE, TORCH), "s", low_is_good=True),
    Goal("a fresh process: the first token beyond torch", 1.5, 0.8, beyond(TOKEN, TORCH), "s", low_is_good=True),
    Goal("a second process: compiling", 4.0, 2.0, median_of("start", COMPILING), "s", low_is_good=True),
    Goal("prompts over transformers' best, at the worst type and length", 1.05, 1.3,
         worst("prefill", "ours", "transformers", higher_is_faster=False)),
    Goal("a token after 4,096 over one after 17, compiled", 1.5, 1.2, over_place("context", "compiled", LENGTHS),
         low_is_good=True),
    Goal("a block of 128 experts over one of 2, top-2, one token, compiled", 1.5, 1.1,
         over_place("experts", "compiled", FEW_AND_MANY), low_is_good=True),
)  # fmt: skip
DEFAULT = "transformers generate, grouped_mm (default)"
GPU_GOALS = (
    Goal("H100, batch 1, bf16", 800, 1200, on_gpu("H100", median_of("decode (GPU)", "compiled", **BF16)), "tok/s"),
    Goal("H100, batch 1, bf16, over transformers' default generate", 10, 10,
         on_gpu("H100", over_best("decode (GPU)", "compiled", DEFAULT, **BF16))),
    Goal("H200, batch 1, bf16", 900, 900, on_gpu("H200", median_of("decode (GPU)", "compiled", **BF16)), "tok/s"),
)  # fmt: skip
GPU_MEASURED = {
    "batch 64, bf16, tokens/s": median_of("decode (GPU)", "compiled", dtype="bfloat16", batch=64),
    "128 experts top-8, batch 1, bf16, tokens/s": median_of("decode (top-8) (GPU)", "compiled", **BF16),
    "launches a step, bf16": median_of("roofline (GPU)", "compiled", dtype="bfloat16", quantity=LAUNCHES),
}
