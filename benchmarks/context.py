"""Seconds of one more token by the length of the text before it: with a cache, without one, beside transformers.

Caches are filled with random keys and values, since what they hold does not change the time; weights are bf16.
Without a cache the whole text is computed again for each token, which is measured as far as it is bearable.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from qwen3_scratch import Checkpoint, forward
from qwen3_scratch.cache import KVCache

from . import contestants, figures, models, script
from .measure import BANDWIDTH, Contest, compare, now, row_of
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "What does one more token cost as the text grows?"
LENGTHS = (17, 512, 2048, 4096, 8192)
UNCACHED = 512  # tokens: the longest text that is computed anew
STEPS = 3  # tokens of one measurement
NO_CACHE = f"more than {UNCACHED} tokens anew for each token are not bearable"


def main(
    rounds: Rounds = 11, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("context", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    folder = script.checkpoint_folder(run, shape, store)
    checkpoint = models.load(folder, "bfloat16", run.device)
    reference = contestants.transformers_model(checkpoint)
    reference.set_experts_implementation("eager")
    contests = []
    for length in LENGTHS:
        run.say(f"caches of {length} tokens ...")
        stepping, absent = steppers(checkpoint, reference, length, run.rounds)
        measures = {name: partial(per_token, step, run.device) for name, step in stepping.items()}
        contests.append(Contest({"tokens before": length}, measures, absent))
    run.say(f"one more token after {LENGTHS} tokens, {run.rounds} rounds ...")
    run.add(compare(contests, run.rounds, "s", device=run.device))
    run.finish(draw)


def per_token(step: Callable[[], Any], device: torch.device) -> float:
    start = now(device)
    for _ in range(STEPS):
        step()
    return (now(device) - start) / STEPS


def steppers(
    checkpoint: Checkpoint, reference: Any, length: int, rounds: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Each a function that computes one more token after `length`, and a sentence for each that cannot."""
    room = length + STEPS * (rounds + 1)
    token = torch.zeros(1, dtype=torch.long, device=checkpoint.device)
    found: dict[str, Callable[[], Any]] = {}
    absent: dict[str, str] = {}
    for name, decoder in contestants.OURS.items():
        found[name] = stepper(decoder, checkpoint, full_cache(checkpoint, length, room), token)
    if length <= UNCACHED:
        found["plain, no cache"] = partial(uncached, checkpoint, length)
    else:
        absent["plain, no cache"] = NO_CACHE
    for kind in ("dynamic", "static"):
        cache = reference_cache(reference, kind, length, room)
        found[f"transformers, {kind} cache"] = partial(reference_step, reference, cache, token)
    return found, absent


def stepper(decoder: Callable, checkpoint: Checkpoint, cache: KVCache, token: torch.Tensor) -> Callable[[], Any]:
    """Always the same token, one place further on; what has to be compiled is at the first call."""
    made: list[Callable] = []

    def step() -> torch.Tensor:
        if not made:
            made.append(decoder(checkpoint, cache, greedy))
        return made[0](token)

    return step


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


@torch.inference_mode()
def full_cache(checkpoint: Checkpoint, length: int, room: int) -> KVCache:
    """A cache that holds `length` tokens of random keys and values."""
    cache = KVCache(checkpoint.config, 1, room, dtype=checkpoint.dtype, device=checkpoint.device)
    cache.extend(torch.arange(length, device=checkpoint.device)[None])
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    return cache


@torch.inference_mode()
def uncached(checkpoint: Checkpoint, length: int) -> torch.Tensor:
    token_ids = torch.zeros(1, length + 1, dtype=torch.long, device=checkpoint.device)
    return forward(checkpoint.weights, token_ids, checkpoint.config, logits_to_keep=1, ops=checkpoint.ops)


@torch.inference_mode()
def reference_cache(model: Any, kind: str, length: int, room: int) -> Any:
    from transformers import DynamicCache, StaticCache

    config = model.config
    cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=room)
    shape = (1, config.num_key_value_heads, length, config.head_dim)
    for layer in range(config.num_hidden_layers):
        k, v = (torch.randn(shape, dtype=model.dtype, device=model.device) for _ in range(2))
        cache.update(k, v, layer)
    return cache


@torch.inference_mode()
def reference_step(model: Any, cache: Any, token: torch.Tensor) -> torch.Tensor:
    return model(token[None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits


def draw(found: dict[str, Any]):
    series: dict[str, list] = {}
    for row in found["rows"]:
        if "median" in row and row["name"] != BANDWIDTH:
            point = (row["case"]["tokens before"], *(1e3 * row[key] for key in ("median", "low", "high")))
            series.setdefault(row["name"], []).append(point)
    fastest = "compiled" if "compiled" in series else "plain"
    first, last = (row_of(found["rows"], fastest, **{"tokens before": length}) for length in (LENGTHS[0], LENGTHS[-1]))
    title = f"After {LENGTHS[-1]:,} tokens one more costs {last['median'] / first['median']:.2f} times what it costs"
    title += f" after {LENGTHS[0]} ({fastest})"
    return figures.lines(title, {"bfloat16, batch 1": series}, "tokens before", "milliseconds for one more token")


if __name__ == "__main__":
    script.main(main)
