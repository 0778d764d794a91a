"""Tokens a second while decoding, by batch and kind of numbers: plain, compiled, transformers, llama.cpp.

The prompt has 17 random tokens; its own pass is not counted. All contestants compute the same function: before they
are timed, each one's greedy tokens in fp32 are held against the plain path, and whoever differs is not measured.
Batches take fewer rounds than single rows.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from qwen3_scratch import Checkpoint, Error, forward

from . import contestants, figures, llama, models, script
from .measure import BANDWIDTH, Contest, compare, failure, need, row_of
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "How many tokens a second does decoding give?"
PROMPT = 17
STEPS = {1: 16, 4: 8, 16: 6}  # batch -> steps of one measurement
ROUNDS_OF_BATCHES = 5  # at most, since their rounds take longer
STEPS_ON_GPU = {1: 128, 4: 64, 16: 64, 64: 64}
CHECKED = 16  # tokens that are compared
Batches = Annotated[list[int], typer.Option(help="Rows decoded together; once for each size. Without it all sizes.")]
TIE = 1e-4  # of the largest logit: fp32 in another order of adding moves one by up to 1e-5


def main(
    rounds: Rounds = 15, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE, batch: Batches = (),
) -> None:  # fmt: skip
    run = Run("decode", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    steps = STEPS_ON_GPU if run.device.type == "cuda" else STEPS
    need(set(batch) <= set(steps), f"--batch is {[*batch]}, expected some of {[*steps]}: choose among them")
    steps = {size: count for size, count in steps.items() if not batch or size in batch}
    folder = script.checkpoint_folder(run, shape, store)
    run.asked |= {"weight_bytes": {name: models.weight_bytes(models.SHAPES[shape], name) for name in models.DTYPES}}
    run.asked["llama_cpp_built_with"] = llama.system_info()
    wrong: dict[int, dict[str, str]] = {}
    for dtype in ("float32", "bfloat16"):  # fp32 first, since tokens are compared there
        measure_dtype(run, folder, dtype, steps, wrong)
        gc.collect()
    run.finish(draw)


def measure_dtype(
    run: Run, folder: Path, dtype: str, counts: Mapping[int, int], wrong: dict[int, dict[str, str]]
) -> None:
    run.say(f"{dtype}: loading ...")
    checkpoint = models.load(folder, dtype, run.device)
    reference = contestants.transformers_model(checkpoint)
    default = contestants.default_experts(reference)
    opened, missing = open_llama(run, folder, dtype)
    for batch, steps in counts.items():
        forms = {name: replace(checkpoint, decoder=decoder) for name, decoder in contestants.OURS.items()}
        decoders = {name: contestants.ours(form) for name, form in forms.items()}
        decoders |= contestants.transformers_decoders(reference, batch, default)
        decoders |= {} if opened is None else {"llama.cpp": opened.decoder()}
        prompts = models.random_prompts(checkpoint.config, batch, PROMPT)
        steps = min(steps, 4) if run.quick else steps
        run.say(f"{dtype}, batch {batch}: warming up and comparing {len(decoders)} contestants ...")
        if dtype == "float32":
            wrong[batch] = differing(decoders, prompts, checkpoint)
        absent = {**wrong[batch], **({"llama.cpp": missing} if missing else {})}
        right = {name: decode for name, decode in decoders.items() if name not in absent}
        measures = {name: partial(speed, decode, prompts, steps) for name, decode in right.items()}
        contest = Contest({"dtype": dtype, "batch": batch}, measures, absent)
        rounds = run.rounds if batch == 1 else min(run.rounds, ROUNDS_OF_BATCHES)
        run.add(compare([contest], rounds, "tokens/s", device=run.device))
    if opened is not None:
        opened.close()


def speed(decode: contestants.Decoder, prompts: contestants.Prompts, steps: int) -> float:
    return len(prompts) / decode(prompts, steps).seconds


def open_llama(run: Run, folder: Path, dtype: str) -> tuple[llama.Llama | None, str | None]:
    """The same weights in llama.cpp, or the sentence that says why not."""
    if run.device.type != "cpu":
        return None, "llama.cpp is measured on the CPU only"
    try:
        if llama.system_info() is None:
            raise Error(llama.NOT_INSTALLED)
        run.say(f"{dtype}: GGUF file (written once) ...")
        return llama.Llama(models.gguf_file(folder, dtype), dtype), None
    except Error as error:
        return None, str(error)


def differing(
    decoders: Mapping[str, contestants.Decoder], prompts: contestants.Prompts, checkpoint: Checkpoint
) -> dict[str, str]:
    """Who chooses other tokens than the plain path, and where; who fails will fail again when it is to be measured.

    Random weights give two tokens nearly the same logit now and then. Where the plain path itself sees no more than
    `TIE` between the two, either is right, and the row is not compared any further.
    """
    expected, found = decoders["plain"](prompts, CHECKED - 1).tokens, {}
    for name, decode in decoders.items():
        tokens: list[list[int]] = []
        failed = failure(lambda decode=decode, tokens=tokens: tokens.extend(decode(prompts, CHECKED - 1).tokens))
        if not failed and tokens != expected:
            for row, place in first_differences(tokens, expected):
                said = gap(checkpoint, [*prompts[row], *expected[row][:place]], tokens[row], expected[row], place)
                if said > TIE:
                    where = f"first in row {row} at token {place}, by {said:.0e} of the largest logit"
                    found.setdefault(name, f"its greedy tokens differ from the plain path's, {where}")
    return found


def gap(checkpoint: Checkpoint, text: list[int], found: list[int], expected: list[int], place: int) -> float:
    """How far apart the logits of the two tokens are, in units of the largest; infinite where one is missing."""
    if place >= min(len(found), len(expected)):
        return float("inf")
    ids = torch.tensor([text], device=checkpoint.device)
    with torch.inference_mode():
        logits = forward(checkpoint.weights, ids, checkpoint.config, logits_to_keep=1)[0, -1]
    return float((logits[expected[place]] - logits[found[place]]).abs() / logits.abs().max())


def first_differences(found: list[list[int]], expected: list[list[int]]) -> list[tuple[int, int]]:
    """Row and place of the first token that differs in each row; at the latest where the shorter row ends."""
    places = []
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        same = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
        if one != other:
            places.append((number, next(same, min(len(one), len(other)))))
    return places


def draw(found: dict[str, Any]):
    """The figure: speeds by case beside what the read bandwidth allows at batch 1."""
    rows = found["rows"]
    cases = list({str(row["case"]): row["case"] for row in rows}.values())
    panels, bounds = {}, {}
    for case in cases:
        name = f"{case['dtype']}, batch {case['batch']}"
        panels[name] = figures.spans(rows, case, leave_out=[BANDWIDTH])
        if case["batch"] == 1 and (read := row_of(rows, BANDWIDTH, **case)):
            bounds[name] = read["median"] * 1e9 / found["weight_bytes"][case["dtype"]]
    order = [f"{dtype}, batch {batch}" for batch in STEPS_ON_GPU for dtype in ("bfloat16", "float32")]
    panels = {name: panels[name] for name in order if name in panels}
    return figures.bars(title(rows), panels, "tokens a second", bounds=bounds)


def title(rows: list[dict[str, Any]]) -> str:
    """Our fastest at the smallest batch, in bf16 if that was measured, beside the fastest of each peer."""
    measured = [row for row in rows if "median" in row and row["name"] != BANDWIDTH]
    cases = {(row["case"]["batch"], row["case"]["dtype"]) for row in measured if row["name"] in ("plain", "compiled")}
    batch, dtype = min(cases)  # "bfloat16" before "float32"
    here = [row for row in measured if row["case"] == {"dtype": dtype, "batch": batch}]
    ours = max((row for row in here if row["name"] in ("plain", "compiled")), key=lambda row: row["median"])
    speed, kind = script.digits(ours["median"]), {"bfloat16": "bf16", "float32": "fp32"}[dtype]
    text = f"{ours['name'].capitalize()} decodes {speed} tokens a second in {kind} at batch {batch}"
    for peer in ("transformers", "llama.cpp"):
        others = [row["median"] for row in here if row["name"].startswith(peer)]
        if others:
            text += f", {ours['median'] / max(others):.2f} × {peer}"
    return text


if __name__ == "__main__":
    script.main(main)
