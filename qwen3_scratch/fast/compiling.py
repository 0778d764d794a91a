"""The fast path: `model.py`'s own functions, compiled, for one new token a row at a time.

One decoder layer is compiled and serves all layers, since weights, cache and places come in as arguments; the length
of the text is a symbol in it. So warming up takes seconds, and nothing is compiled again as the text grows.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from ..cache import KVCache
from ..checkpoints.checkpoint import Advance, Checkpoint, Pick
from ..config import Config
from ..errors import Error
from ..model import LayerWeights, Ops, Table, Weights, decoder_layer
from .dispatch import Step
from .eager import eager_decoder
from .streamed import STREAMED


def layer_step(config: Config, ops: Ops) -> Step:
    """`decoder_layer` as a function of tensors alone; it writes the token's key and value into the given slot."""

    def step(
        x: Tensor, layer: LayerWeights, table: Table, mask: Tensor, keys: Tensor, values: Tensor, slot: Int[Tensor, "1"]
    ) -> Tensor:
        def write(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            held = mask.shape[-1]
            keys.index_copy_(2, slot, k)
            values.index_copy_(2, slot, v)
            return keys.narrow(2, 0, held), values.narrow(2, 0, held)

        return decoder_layer(x, layer, config, table, mask, write, ops)

    return step


def head_step(config: Config, ops: Ops) -> Step:
    def step(x: Tensor, norm: Tensor, head: Tensor) -> Tensor:
        return ops.head(ops.norm(x, norm, config.rms_norm_eps), head)[:, -1]

    return step


class Part:
    """A function that is compiled at its first call, for tensors of one form: the caller sees to that.

    Without that promise each call would look up what has been compiled and compare its arguments with it, all in
    Python: up to a tenth of a step.
    """

    def __init__(self, function: Step):
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        options |= {"size_asserts": False, "alignment_asserts": False}
        options |= {"cpp.enable_floating_point_contract_flag": "fast"}  # multiply and add in one instruction
        self.function = torch.compile(function, dynamic=False, fullgraph=True, options=options)
        self.compiled: Step | None = None

    def __call__(self, *tensors: Any) -> Tensor:
        if self.compiled is None:
            if not hasattr(self.function, "aot_compile"):  # torch gives the function back as it was
                raise torch._dynamo.exc.TorchDynamoException("compiling is switched off, or this torch is too old")
            compiled = self.function.aot_compile((tensors, {}))
            compiled.disable_guard_check()
            self.compiled = compiled
        return self.compiled(*tensors)


class Steps(NamedTuple):
    """The parts of a decoding step: one for each layer, mostly the same for all, and one for last norm and head."""

    layers: tuple[Part, ...]
    head: Part


def form(weights: Any) -> tuple[Any, ...]:
    """What the compiled code depends on: type, device, shape and strides of each tensor."""
    return tuple(t if t is None else (t.dtype, t.device, tuple(t.shape), t.stride()) for t in tree_leaves(weights))


@lru_cache(maxsize=256)
def part(
    step: Callable[[Config, Ops], Step], config: Config, ops: Ops, batch: int, threads: int, form: tuple[Any, ...]
) -> Part:
    """The compiled `layer_step` or `head_step` for weights of this form and so many threads: loops are dealt out to
    them when they are compiled. Kept as long as the process lives."""
    return Part(step(config, ops))


def compiled_steps(checkpoint: Checkpoint, batch: int, ops: Ops = STREAMED) -> Steps:
    """The parts for a checkpoint and a batch size; what has been compiled in this process is not compiled again."""
    weights, size = checkpoint.weights, (batch, torch.get_num_threads())
    layers = tuple(part(layer_step, checkpoint.config, ops, *size, form(layer)) for layer in weights.layers)
    return Steps(layers, part(head_step, checkpoint.config, ops, *size, form((weights.norm, head_of(weights)))))


def head_of(weights: Weights) -> Tensor:
    return weights.embed_tokens if weights.lm_head is None else weights.lm_head


def decode_step(
    steps: Steps, checkpoint: Checkpoint, tokens: Int[Tensor, "batch"], cache: KVCache, start: Int[Tensor, "1"]
) -> Float[Tensor, "batch vocab"]:
    """Reads one new token a row; the logits of the token after it. `start`: how many tokens the cache held before.

    `cache` is written in place. Nothing here waits for a value, so that a GPU can record the step once and replay it.
    """
    config, weights, ops = checkpoint.config, checkpoint.weights, checkpoint.ops
    positions = cache.upcoming[:, None].clone()
    slots = {capacity: start % capacity for capacity in cache.positions}
    for capacity, slot in slots.items():
        cache.positions[capacity].index_copy_(1, slot, positions)
    cache.upcoming.add_(1)
    x = ops.embed(tokens[:, None], weights.embed_tokens)
    table, masks = ops.table(config, positions), {}
    for number, layer in enumerate(weights.layers):
        window, slot = config.window(number), slots[cache.capacities[number]]
        if window not in masks:
            masks[window] = ops.mask(positions, cache.key_positions(number), window)
        x = steps.layers[number](x, layer, table, masks[window], cache.keys[number], cache.values[number], slot)
    return steps.head(x, weights.norm, head_of(weights))


def check_ops(ops: Ops) -> None:
    """Raises Error where a checkpoint brings steps of its own, which the compiled form would pass over silently."""
    other = next((name for name, step in ops._asdict().items() if step != getattr(Ops(), name)), None)
    if other is not None:
        raise Error(f"compiled: this checkpoint replaces the step {other!r}, expected the model's own: leave it out")


def warm_up(steps: Steps, checkpoint: Checkpoint, cache: KVCache) -> None:
    """Compiles what is not compiled yet, with a progress bar, by a call each; they write where the next token will."""
    config, weights, batch = checkpoint.config, checkpoint.weights, cache.batch
    cold = {layer: number for number, layer in enumerate(steps.layers) if layer.compiled is None}
    if not cold and steps.head.compiled is not None:
        return
    x = weights.embed_tokens[:1, None].expand(batch, 1, -1).clone()
    table = checkpoint.ops.table(config, cache.upcoming[:, None])
    with tqdm(total=len(cold) + 1, desc=f"Compiling for batch {batch}", unit="part", file=sys.stderr) as bar:
        for layer, number in cold.items():
            slot = torch.tensor([cache.length % cache.capacities[number]], device=x.device)
            held = min(cache.length + 1, cache.capacities[number])
            mask = torch.ones(batch, 1, 1, held, dtype=torch.bool, device=x.device)
            torch._dynamo.mark_dynamic(mask, 3)  # its size is a symbol for the compiler
            layer(x, weights.layers[number], table, mask, cache.keys[number], cache.values[number], slot)
            bar.update()
        steps.head(x, weights.norm, head_of(weights))
        bar.update()


@lru_cache(maxsize=1)
def say_once(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def compiled(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, which decodes by the compiled layer: faster after a warm-up of seconds, once a process.

    Raises Error for a slice of a model or one with steps of its own, which the compiled layer would pass over.
    """
    check_ops(checkpoint.ops)
    return replace(checkpoint, decoder=compiled_decoder)


def compiled_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick) -> Advance:
    """From one new token a row to the next, for a cache that holds the prompts; each call writes into it.

    Warms up first. On a GPU the whole step with the choice is recorded once, and a call replays it. Where nothing can
    be compiled, a sentence says so once and tokens come from the plain path.
    """
    check_ops(checkpoint.ops)
    return compiled_by(STREAMED, checkpoint, cache, pick) or eager_decoder(checkpoint, cache, pick)


@torch.inference_mode()
def compiled_by(ops: Ops, checkpoint: Checkpoint, cache: KVCache, pick: Pick) -> Advance | None:
    """The same by some form of the steps and weights that it reads; None, and a sentence, where nothing compiles."""
    steps = compiled_steps(checkpoint, cache.batch, ops)
    for tensor in (*cache.keys, *cache.values):
        torch._dynamo.mark_dynamic(tensor, 2)
    try:
        warm_up(steps, checkpoint, cache)
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        reason = str(error).strip().splitlines()[0]
        advice = "the plain path runs instead; install a C++ compiler such as g++ for the faster one"
        say_once(f"compiled: nothing can be compiled here ({reason}): {advice}")
        return None
    start = torch.tensor([cache.length], device=checkpoint.device)
    if checkpoint.device.type == "cuda":
        return recorded(steps, checkpoint, cache, pick, start)

    @torch.inference_mode()
    def advance(tokens: Tensor) -> Tensor:
        cache.start, cache.length = cache.length, cache.length + 1
        logits = decode_step(steps, checkpoint, tokens, cache, start)
        start.add_(1)
        return pick(logits)

    return advance


def recorded(steps: Steps, checkpoint: Checkpoint, cache: KVCache, pick: Pick, start: Tensor) -> Advance:
    """The whole step as one CUDA graph. It looks at every slot of the cache; the mask hides those not filled yet."""
    tokens = torch.zeros(cache.batch, dtype=torch.long, device=checkpoint.device)
    advance_in_place = whole_step(steps, checkpoint, cache, pick, start, tokens)
    before = cache.upcoming.clone(), start.clone()
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up at their first call, which cannot be recorded
        advance_in_place()
    torch.cuda.current_stream().wait_stream(side)
    cache.upcoming.copy_(before[0])
    start.copy_(before[1])
    with torch.cuda.graph(graph):
        advance_in_place()

    @torch.inference_mode()
    def advance(new: Tensor) -> Tensor:
        tokens.copy_(new)
        graph.replay()
        return tokens

    return advance


def whole_step(
    steps: Steps, checkpoint: Checkpoint, cache: KVCache, pick: Pick, start: Tensor, tokens: Tensor
) -> Callable[[], None]:
    """A function without arguments that reads `tokens` and writes the next ones there: fixed shapes, fixed places."""
    for tensor in (*cache.keys, *cache.values):
        tensor[:, :, cache.length :].zero_()  # a hidden slot weighs 0, but 0 times NaN is NaN
    cache.length = cache.max_length

    def advance_in_place() -> None:
        found = pick(decode_step(steps, checkpoint, tokens, cache, start))
        start.add_(1)
        tokens.copy_(found)

    return advance_in_place
