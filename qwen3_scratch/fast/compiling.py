"""The fast path: `model.py`'s own functions, compiled, for one new token a row at a time, or a few.

One decoder layer is compiled and serves all layers, since weights, cache and places come in as arguments; the length
of the text is a symbol in it. So warming up takes seconds, and nothing is compiled again as the text grows. It is
compiled on tensors of its own, never on those of a text: so what was compiled does not depend on who came first.
"""

import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from inspect import unwrap
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from ..cache import KVCache
from ..checkpoints.checkpoint import Advance, Checkpoint, Pick
from ..config import Config
from ..errors import Error, of_kind
from ..model import LayerWeights, Ops, Table, Weights, decoder_layer
from .dispatch import Step
from .eager import eager_decoder
from .streamed import ASKED_ONCE, STREAMED

COMPILING = Lock()  # torch's compiler serves one thread at a time
LENGTHS = (257, 521)  # of the text, and of the cache, that a layer is compiled on: primes, so no product of sizes

OPTIONS = {
    "size_asserts": False,
    "alignment_asserts": False,
    "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
}


def layer_step(config: Config, ops: Ops) -> Step:
    """`decoder_layer` as a function of tensors alone; it writes the new keys and values into the given slots."""

    def step(
        x: Tensor,
        layer: LayerWeights,
        table: Table,
        mask: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Int[Tensor, "new"],
    ) -> Tensor:
        def write(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            held = mask.shape[-1]
            keys.index_copy_(2, slots, k)
            values.index_copy_(2, slots, v)
            return keys.narrow(2, 0, held), values.narrow(2, 0, held)

        return decoder_layer(x, layer, config, table, mask, write, ops)

    return step


def head_step(config: Config, ops: Ops) -> Step:
    def step(x: Tensor, norm: Tensor, head: Tensor) -> Tensor:
        return ops.head(ops.norm(x, norm, config.rms_norm_eps), head)

    return step


@lru_cache(maxsize=1)
def processor() -> str:
    """What code is compiled for: the instructions that torch uses here, and those that the processor has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def inductor(graph: torch.fx.GraphModule, inputs: list[Tensor], **_: Any) -> Any:
    """torch's own backend, so that what one process compiled the next one finds in torch's cache on the disk.

    A graph that is compiled ahead bears a name drawn at random, by which that cache would find it never again. Here it
    bears the processor's, which the cache does not ask for: code written for other vectors computes nonsense.
    """
    from torch._inductor.compile_fx import compile_fx  # a second, which only who compiles has to wait

    graph._backend_id = processor()  # type: ignore[assignment]
    return compile_fx(graph, inputs, config_patches=OPTIONS)


class Part:
    """A function that is compiled at its first call, for tensors of one form: the caller sees to that.

    Without that promise each call would look up what has been compiled and compare its arguments with it, all in
    Python: up to a tenth of a step.
    """

    def __init__(self, function: Step):
        for asked in ASKED_ONCE:  # here, since it loads the compiler, which takes longer than the rest of torch
            torch.compiler.assume_constant_result(asked)
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        self.function = torch.compile(function, backend=inductor, dynamic=False, fullgraph=True, options=options)
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


def form(tensors: Any) -> tuple[Any, ...]:
    """What the compiled code depends on: type, device, shape and strides of each tensor, and where it begins."""
    leaves = tree_leaves(tensors)
    return tuple(t if t is None else (t.dtype, t.device, *t.shape, t.stride(), t.data_ptr() % 16) for t in leaves)


def settings(device: torch.device) -> tuple[Any, ...]:
    """What the compiler reads of the process, and builds in: loops are dealt out to so many threads, for example."""
    autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    exact = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    return torch.get_num_threads(), torch.get_default_dtype(), autocast, *exact


@lru_cache(maxsize=256)
def part(
    step: Callable[[Config, Ops], Step], config: Config, ops: Ops, batch: int, new: int, *form_and_settings: Any
) -> Part:
    """The compiled `layer_step` or `head_step` for tensors of this form. Kept as long as the process lives."""
    return Part(step(config, ops))


def compiled_steps(checkpoint: Checkpoint, cache: KVCache, ops: Ops = STREAMED, new: int = 1) -> Steps:
    """The parts for a checkpoint and a cache of any length; what this process has compiled is not compiled again."""
    weights, now = checkpoint.weights, settings(checkpoint.device)
    kinds = [(keys.dtype, keys.device, keys.shape[1], keys.shape[3]) for keys in cache.keys]
    common = checkpoint.config, ops, cache.batch, new, now
    layers = (part(layer_step, *common, form(layer), kind) for layer, kind in zip(weights.layers, kinds, strict=True))
    return Steps(tuple(layers), part(head_step, *common, form((weights.norm, head_of(weights)))))


def head_of(weights: Weights) -> Tensor:
    return weights.embed_tokens if weights.lm_head is None else weights.lm_head


def decode_step(
    steps: Steps, checkpoint: Checkpoint, tokens: Int[Tensor, "batch new"], cache: KVCache, start: Int[Tensor, "1"]
) -> Float[Tensor, "batch new vocab"]:
    """Reads new tokens; the logits of the token after each. `start`: how many tokens the cache held before.

    `cache` is written in place. Nothing here waits for a value, so that a GPU can record the step once and replay it.
    """
    config, weights, ops = checkpoint.config, checkpoint.weights, checkpoint.ops
    new = torch.arange(tokens.shape[1], device=tokens.device)
    positions = cache.upcoming[:, None] + new
    slots = {capacity: (start + new) % capacity for capacity in cache.positions}
    for capacity, places in slots.items():
        cache.positions[capacity].index_copy_(1, places, positions)
    cache.upcoming.add_(len(new))
    x = ops.embed(tokens, weights.embed_tokens)
    table, masks = ops.table(config, positions), {}
    for number, layer in enumerate(weights.layers):
        window, places = config.window(number), slots[cache.capacities[number]]
        if window not in masks:
            masks[window] = ops.mask(positions, cache.key_positions(number), window)
        x = steps.layers[number](x, layer, table, masks[window], cache.keys[number], cache.values[number], places)
    return steps.head(x, weights.norm, head_of(weights))


def check_compilable(checkpoint: Checkpoint, ops: Ops = Ops()) -> None:
    """Raises Error where a checkpoint brings other steps than these, which the compiled form would pass over silently,
    or weights of several types, of which it would know only the first."""
    of_kind("compiled", "checkpoint", checkpoint, Checkpoint)
    steps: Any = zip(Ops._fields, checkpoint.ops, ops, strict=True)
    other = next((name for name, step, own in steps if unwrap(step) is not unwrap(own)), None)
    if other is not None:
        raise Error(f"compiled: this checkpoint replaces the step {other!r}, expected the model's own: leave it out")
    numbers = (
        weight for weight in tree_leaves(checkpoint.weights) if weight is not None and weight.dtype != torch.int8
    )
    types = sorted({str(weight.dtype) for weight in numbers})
    if len(types) > 1:
        found = f"weights of {' and '.join(types)} found"
        raise Error(f"compiled: {found}, expected one type: give load_checkpoint a dtype")


def lengths_like_no_other(*sized: Any) -> list[int]:
    """`LENGTHS`, or the next odd numbers that are none of these and no size of these tensors.

    The compiler takes equal sizes for one and the same, and a length that equals a fixed size for fixed.
    """
    leaves = [leaf for leaf in tree_leaves(sized) if leaf is not None]
    taken = {size for leaf in leaves for size in (leaf.shape if isinstance(leaf, Tensor) else (leaf,))}
    return [next(length for length in count(first, 2) if length not in taken) for first in LENGTHS]


def example(checkpoint: Checkpoint, cache: KVCache, number: int, new: int) -> tuple[Any, ...]:
    """What a layer is compiled on: tensors as a step hands them over, of lengths that nothing else has."""
    layer, batch, (_, kv_heads, _, head_dim) = checkpoint.weights.layers[number], cache.batch, cache.keys[number].shape
    x = checkpoint.weights.norm.new_zeros(batch, new, checkpoint.config.hidden_size)
    table = checkpoint.ops.table(checkpoint.config, torch.zeros(batch, new, dtype=torch.long, device=x.device))
    held, room = lengths_like_no_other(batch, new, kv_heads, head_dim, x, layer)
    mask = torch.ones(batch, 1, new, held, dtype=torch.bool, device=x.device)
    keys, values = (cache.keys[number].new_zeros(batch, kv_heads, room, head_dim) for _ in range(2))
    for tensor, at in ((mask, 3), (keys, 2), (values, 2)):
        torch._dynamo.mark_dynamic(tensor, at)  # this size is a symbol for the compiler
    return x, layer, table, mask, keys, values, torch.arange(held - new, held, device=x.device)


def warm_up(steps: Steps, checkpoint: Checkpoint, cache: KVCache, new: int = 1) -> None:
    """Compiles what is not compiled yet, with a progress bar, by a call each."""
    cold = {layer: number for number, layer in enumerate(steps.layers) if layer.compiled is None}
    if not cold and steps.head.compiled is not None:
        return
    size = f"{cache.batch}" + (f" of {new} tokens" if new > 1 else "")
    with tqdm(total=len(cold) + 1, desc=f"Compiling for batch {size}", unit="part", file=sys.stderr) as bar:
        for layer, number in cold.items():
            layer(*example(checkpoint, cache, number, new))
            bar.update()
        x = checkpoint.weights.norm.new_zeros(cache.batch, new, checkpoint.config.hidden_size)
        steps.head(x, checkpoint.weights.norm, head_of(checkpoint.weights))
        bar.update()


@lru_cache(maxsize=1)
def say_once(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def compiled(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, which decodes by the compiled layer: faster after a warm-up of seconds, once a process.

    Raises Error for a slice of a model or one with steps of its own, which the compiled layer would pass over.
    """
    check_compilable(checkpoint)
    return replace(checkpoint, decoder=compiled_decoder)


def compiled_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1) -> Advance:
    """From one new token a row to the next, or from a few, for a cache that holds the prompts; each call writes there.

    Warms up first. On a GPU the whole step with the choice is recorded once, and a call replays it. Where nothing can
    be compiled, a sentence says so once and tokens come from the plain path.
    """
    check_compilable(checkpoint)
    return compiled_by(STREAMED, checkpoint, cache, pick, new) or eager_decoder(checkpoint, cache, pick, new)


@torch.inference_mode()
def compiled_by(ops: Ops, checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1) -> Advance | None:
    """The same by some form of the steps and weights that it reads; None, and a sentence, where nothing compiles."""
    try:
        with COMPILING:
            steps = compiled_steps(checkpoint, cache, ops, new)
            warm_up(steps, checkpoint, cache, new)
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        reason = str(error).strip().splitlines()[0]
        advice = "the plain path runs instead; install a C++ compiler such as g++ for the faster one"
        say_once(f"compiled: nothing can be compiled here ({reason}): {advice}")
        return None
    start = torch.tensor([cache.length], device=checkpoint.device)
    if checkpoint.device.type == "cuda" and new == 1:
        with torch.cuda.device(checkpoint.device):  # else streams and the recording are those of the current one
            return recorded(steps, checkpoint, cache, pick, start)

    @torch.inference_mode()
    def advance(tokens: Tensor) -> Tensor:
        cache.check_room(len(tokens), new)
        start.fill_(cache.length)
        cache.length += new
        logits = decode_step(steps, checkpoint, tokens.view(-1, new), cache, start)
        return pick(logits if new > 1 else logits[:, -1])

    return advance


def recorded(steps: Steps, checkpoint: Checkpoint, cache: KVCache, pick: Pick, start: Tensor) -> Advance:
    """The whole step as one CUDA graph. It looks at every slot of the cache; the mask hides those not filled yet."""
    tokens = torch.zeros(cache.batch, dtype=torch.long, device=checkpoint.device)
    advance_in_place = whole_step(steps, checkpoint, cache, pick, start, tokens)
    before = cache.upcoming.clone()
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up at their first call, which cannot be recorded
        advance_in_place()
    torch.cuda.current_stream().wait_stream(side)
    cache.upcoming.copy_(before)
    with torch.cuda.graph(graph):
        advance_in_place()

    @torch.inference_mode()
    def advance(new: Tensor) -> Tensor:
        cache.check_room(len(new), 1)
        start.fill_(cache.length)
        tokens.copy_(new)
        graph.replay()
        cache.length += 1
        return tokens

    return advance


def whole_step(
    steps: Steps, checkpoint: Checkpoint, cache: KVCache, pick: Pick, start: Tensor, tokens: Tensor
) -> Callable[[], None]:
    """A function without arguments that reads `tokens` and writes the next ones there: fixed shapes, fixed places."""
    for tensor in (*cache.keys, *cache.values):
        tensor[:, :, cache.length :].zero_()  # a hidden slot weighs 0, but 0 times NaN is NaN

    def advance_in_place() -> None:
        held, cache.length = cache.length, cache.max_length  # as if all slots were filled
        tokens.copy_(pick(decode_step(steps, checkpoint, tokens[:, None], cache, start)[:, -1]))
        cache.length = held

    return advance_in_place
