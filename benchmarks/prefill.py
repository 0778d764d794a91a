"""Seconds to read a prompt of 17, 512 and 2,048 tokens: ours beside transformers, logits at the last place in both.

Both sides fill a key/value cache, as generating needs it; ours reads in chunks, which bounds its memory.
"""

import gc
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwen3_scratch import Checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast.eager import PREFILL_CHUNK, prefill

from . import contestants, figures, models, script
from .measure import BANDWIDTH, Contest, compare, seconds
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "How long does a prompt take?"
LENGTHS = (17, 512, 2048)


def main(
    rounds: Rounds = 3, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("prefill", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    folder = script.checkpoint_folder(run, shape, store)
    for dtype in ("bfloat16", "float32"):
        measure_dtype(run, folder, dtype)
        gc.collect()
    run.finish(draw)


def measure_dtype(run: Run, folder: Path, dtype: str) -> None:
    run.say(f"{dtype}: loading ...")
    checkpoint = models.load(folder, dtype, run.device)
    reference = contestants.transformers_model(checkpoint)
    default = contestants.default_experts(reference)
    for length in LENGTHS:
        (prompt,) = models.random_prompts(checkpoint.config, 1, length)
        calls = {"ours": partial(ours, checkpoint, prompt)}
        for experts in dict.fromkeys((default, "eager")):
            name = f"transformers, {experts}" + " (default)" * (experts == default)
            calls[name] = partial(theirs, reference, experts, prompt)
        run.say(f"{dtype}, {length} tokens ...")
        measures = {name: partial(seconds, call, run.device) for name, call in calls.items()}
        run.add(compare([Contest({"dtype": dtype, "tokens": length}, measures)], run.rounds, "s", device=run.device))


def ours(checkpoint: Checkpoint, prompt: list[int]) -> torch.Tensor:
    kind = dict(dtype=checkpoint.dtype, device=checkpoint.device)
    cache = KVCache(checkpoint.config, 1, len(prompt), chunk=PREFILL_CHUNK, **kind)
    return prefill(checkpoint, [prompt], cache)


@torch.inference_mode()
def theirs(model: Any, experts: str, prompt: list[int]) -> torch.Tensor:
    model.set_experts_implementation(experts)
    return model(torch.tensor([prompt], device=model.device), use_cache=True, logits_to_keep=1).logits[:, -1]


def draw(found: dict[str, Any]):
    """The figure: tokens a second, since seconds of 17 and of 2,048 tokens do not fit one scale."""
    panels = {}
    for case in {str(row["case"]): row["case"] for row in found["rows"]}.values():
        times = figures.spans(found["rows"], case, leave_out=[BANDWIDTH])
        speeds = {
            name: tuple(case["tokens"] / time for time in (span[0], span[2], span[1])) for name, span in times.items()
        }
        panels[f"{case['dtype']}, {case['tokens']:,} tokens"] = speeds
    ratios = [
        panel["ours"][0] / max(span[0] for name, span in panel.items() if name != "ours") for panel in panels.values()
    ]
    title = f"A prompt is read {min(ratios):.2f} to {max(ratios):.2f} times as fast as by transformers at its best"
    return figures.bars(title, panels, "tokens of the prompt a second", ours=["ours"], columns=3)


if __name__ == "__main__":
    script.main(main)
