"""The fast path: `model.py`'s own functions, compiled, for one new token a row at a time.

One decoder layer is compiled and serves all layers, since weights, cache and places come in as arguments; the length
of the text is a symbol in it. So warming up takes seconds, and nothing is compiled again as the text grows.
"""

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from .cache import KVCache
from .checkpoint import Checkpoint
from .checks import heads_per_kv_head
from .config import Config
from .dispatch import moe_all_experts, moe_grouped
from .errors import Error
from .model import Ops, Route, decoder_layer, expert_ffn, gqa_attention
from .tree import LayerWeights, Weights

# The most rows for which the sum below beats the library's product (measured: benchmarks/products.py).
MOST_ROWS = {torch.float32: 16, torch.bfloat16: 2, torch.float16: 2}
MOST_HEADS = 8  # that share a key/value head and are written out one by one


def streamed_sum(x: Float[Tensor, "*#rows columns"], weight: Float[Tensor, "*#rows columns"]) -> Float[Tensor, "*rows"]:
    """(weight * x) summed along columns in fp32: compiled, a loop that reads each weight once, as fast as memory can.

    Never use it uncompiled on a large matrix: it would write all the products down before it adds them.
    """
    return (weight * x).sum(-1, dtype=torch.float32).to(x.dtype)


def streamed_linear(
    x: Float[Tensor, "*batch columns"], weight: Float[Tensor, "out columns"], bias: Float[Tensor, "out"] | None = None
) -> Float[Tensor, "*batch out"]:
    """F.linear; for few rows as a sum, since the library's product reads weights at half of what memory can."""
    rows = x.flatten(0, -2)
    if len(rows) > MOST_ROWS.get(x.dtype, 0):
        return F.linear(x, weight, bias)
    out = streamed_sum(rows[None], weight[:, None]).t().reshape(*x.shape[:-1], len(weight))
    return out if bias is None else out + bias


def streamed_ffn(
    x: Float[Tensor, "n dim"],
    gate_proj: Float[Tensor, "intermediate dim"],
    up_proj: Float[Tensor, "intermediate dim"],
    down_proj: Float[Tensor, "dim intermediate"],
) -> Float[Tensor, "n dim"]:
    """`expert_ffn` of streamed products, for dense layers."""
    return streamed_linear(F.silu(streamed_linear(x, gate_proj)) * streamed_linear(x, up_proj), down_proj)


def moe_streamed(
    x: Float[Tensor, "tokens dim"],
    route: Route,
    gate_up_proj: Float[Tensor, "experts two_intermediate dim"],
    down_proj: Float[Tensor, "experts dim intermediate"],
    expert: Callable[..., Tensor] = expert_ffn,
) -> Float[Tensor, "tokens dim"]:
    """`moe` without a wait: compiled, each choice reads its expert's weights where they lie, with no copy of them.

    Where the choices are many more than the experts, reading each expert once is cheaper: then `moe_grouped`, or
    `moe_all_experts` in types whose grouped product cannot be compiled.
    """
    if len(x) > 1 and route.experts.numel() > 2 * len(gate_up_proj):
        once = moe_grouped if x.dtype == torch.bfloat16 else moe_all_experts
        return once(x, route, gate_up_proj, down_proj)
    gate, up = streamed_sum(x[:, None, None], gate_up_proj[route.experts]).chunk(2, dim=-1)
    answers = streamed_sum((F.silu(gate) * up)[:, :, None], down_proj[route.experts])  # [tokens, top_k, dim]
    return (answers * route.weights[..., None]).sum(dim=1)


Pick = Callable[[Tensor], Tensor]  # logits [batch, vocab] -> the tokens chosen [batch]
Advance = Callable[[Tensor], Tensor]  # tokens [batch] -> the tokens after them [batch]


def streamed_attention(
    q: Float[Tensor, "batch heads q_len head_dim"],
    k: Float[Tensor, "batch kv_heads k_len head_dim"],
    v: Float[Tensor, "batch kv_heads k_len head_dim"],
    mask: Bool[Tensor, "#batch 1 q_len k_len"],
) -> Float[Tensor, "batch heads q_len head_dim"]:
    """`gqa_attention` of one query on a CPU, where PyTorch's kernel reads the keys at a third of this speed.

    The group's heads are written out one by one, so that one loop reads each key once for all of them.
    """
    group = heads_per_kv_head(q, k)
    if q.device.type != "cpu" or group > MOST_HEADS:
        return gqa_attention(q, k, v, mask)
    grouped = q.unflatten(1, (-1, group)).squeeze(3)  # [batch, kv_heads, group, head_dim]
    scores = [(grouped[:, :, head, None] * k).sum(-1, dtype=torch.float32) for head in range(group)]
    weights = torch.stack(scores, dim=2) / q.shape[-1] ** 0.5
    weights = weights.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(v.dtype)  # [batch, kv_heads, group, k_len]
    if v.dtype != torch.float32:
        return (weights @ v).view(q.shape)
    heads = [(weights[:, :, head, :, None] * v).sum(-2) for head in range(group)]
    return torch.stack(heads, dim=2).view(q.shape)


STREAMED = Ops(
    linear=streamed_linear,
    head=streamed_linear,
    expert=streamed_ffn,
    moe=moe_streamed,
    attention=streamed_attention,
)


class Steps(NamedTuple):
    """The parts of a decoding step: a function for each layer, mostly one for all, and one for last norm and head."""

    layers: tuple[Callable[..., Tensor], ...]
    head: Callable[..., Tensor]


def layer_step(config: Config, ops: Ops) -> Callable[..., Tensor]:
    """`decoder_layer` as a function of tensors alone; it writes the token's key and value into the given slot."""

    def step(
        x: Tensor,
        layer: LayerWeights,
        table: tuple[Tensor, Tensor],
        mask: Tensor,
        keys: Tensor,
        values: Tensor,
        slot: Int[Tensor, "1"],
    ) -> Tensor:
        def write(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            held = mask.shape[-1]
            keys.index_copy_(2, slot, k)
            values.index_copy_(2, slot, v)
            return keys.narrow(2, 0, held), values.narrow(2, 0, held)

        return decoder_layer(x, layer, config, table, mask, write, ops)

    return step


def head_step(config: Config, ops: Ops) -> Callable[..., Tensor]:
    def step(x: Tensor, norm: Tensor, head: Tensor) -> Tensor:
        return ops.head(ops.norm(x, norm, config.rms_norm_eps), head)[:, -1]

    return step


def plain_steps(config: Config) -> Steps:
    """The parts not compiled, to look at or to record otherwise."""
    return Steps((layer_step(config, STREAMED),) * config.num_hidden_layers, head_step(config, STREAMED))


class Part:
    """A function that is compiled at its first call, for tensors of one form: the caller sees to that.

    Without that promise each call would compare some hundred properties of its arguments, a twentieth of a step.
    """

    def __init__(self, function: Callable[..., Tensor]):
        # Other parts' graphs must not use up this one's share of graphs (torch before 2.13 has one share for all).
        alone = "isolate_recompiles" in inspect.signature(torch.compile).parameters
        options = {"isolate_recompiles": True} if alone else {}
        lengths = {"guard_filter_fn": lambda guards: [guard.guard_type == "SHAPE_ENV" for guard in guards]}
        self.function = torch.compile(function, dynamic=False, fullgraph=True, options=lengths, **options)
        self.warm = False

    def __call__(self, *tensors: Any) -> Tensor:
        found = self.function(*tensors)
        self.warm = True
        return found


def form(tensors: Iterable[Tensor | None]) -> tuple:
    """What the compiled code depends on: type, device, shape and strides of each tensor."""
    return tuple(t if t is None else (t.dtype, t.device, tuple(t.shape), t.stride()) for t in tensors)


@lru_cache(maxsize=256)
def part(step: Callable[[Config, Ops], Callable[..., Tensor]], config: Config, batch: int, tensors: tuple) -> Part:
    """The compiled `layer_step` or `head_step` for weights of this form. Kept as long as the process lives."""
    return Part(step(config, STREAMED))


def compiled_steps(checkpoint: Checkpoint, batch: int) -> Steps:
    """The parts for a checkpoint and a batch size; what has been compiled in this process is not compiled again."""
    config, weights = checkpoint.config, checkpoint.weights
    layers = tuple(part(layer_step, config, batch, form(layer)) for layer in weights.layers)
    return Steps(layers, part(head_step, config, batch, form((weights.norm, head_of(weights)))))


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
            masks[window] = of_any_length(ops.mask(positions, cache.key_positions(number), window), 3)
        x = steps.layers[number](x, layer, table, masks[window], cache.keys[number], cache.values[number], slot)
    return steps.head(x, weights.norm, head_of(weights))


def of_any_length(tensor: Tensor, dimension: int) -> Tensor:
    """The same tensor, with one size marked as a symbol for the compiler."""
    torch._dynamo.mark_dynamic(tensor, dimension)
    return tensor


def check_ops(ops: Ops) -> None:
    """Raises Error where a checkpoint brings steps of its own, which the compiled form would pass over silently."""
    other = next((name for name, step in ops._asdict().items() if step != getattr(Ops(), name)), None)
    if other is not None:
        raise Error(f"compiled: this checkpoint replaces the step {other!r}, expected the model's own: leave it out")


def warm_up(steps: Steps, checkpoint: Checkpoint, cache: KVCache) -> None:
    """Compiles what is not compiled yet, with a progress bar, by a call each; they write where the next token will."""
    config, weights, batch = checkpoint.config, checkpoint.weights, cache.batch
    cold = {layer: number for number, layer in enumerate(steps.layers) if not layer.warm}
    if not cold and steps.head.warm:
        return
    x = weights.embed_tokens[:1, None].expand(batch, 1, -1).clone()
    table = checkpoint.ops.table(config, cache.upcoming[:, None])
    with tqdm(total=len(cold) + 1, desc=f"Compiling for batch {batch}", unit="part", file=sys.stderr) as bar:
        for layer, number in cold.items():
            slot = torch.tensor([cache.length % cache.capacities[number]], device=x.device)
            held = min(cache.length + 1, cache.capacities[number])
            mask = of_any_length(torch.ones(batch, 1, 1, held, dtype=torch.bool, device=x.device), 3)
            layer(x, weights.layers[number], table, mask, cache.keys[number], cache.values[number], slot)
            bar.update()
        steps.head(x, weights.norm, head_of(weights))
        bar.update()


@lru_cache(maxsize=1)
def say_once(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


@torch.inference_mode()
def compiled_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick) -> Advance | None:
    """From one new token a row to the next, for a cache that holds the prompts; each call writes into it.

    Warms up first. On a GPU the whole step with the choice is recorded once, and a call replays it. None, and a
    sentence once, where nothing can be compiled.

    Raises Error for a slice of a model or one with steps of its own.
    """
    check_ops(checkpoint.ops)
    steps = compiled_steps(checkpoint, cache.batch)
    for tensor in (*cache.keys, *cache.values):
        of_any_length(tensor, 2)
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
