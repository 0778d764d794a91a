"""Two implementations side by side: what their logits cost, and the first call at which their traces part.

A way of reading says how a text goes through a model: at once, through a cache, behind padding. The right model gives
the same logits in each of them, a wrong one often in some alone.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile, zip_longest
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..cache import KVCache
from ..config import Config
from ..model import LayerWeights, Ops, Weights
from ..tracing import WATCHED, Call, Trace

OWN = {function.__name__ for function in WATCHED}  # what bears another name stands in for one of these
Ids = Sequence[int]
Forward = Callable[..., Float[Tensor, "batch kept vocab"]]


class Way(NamedTuple):
    """How a text is read: behind so many padding tokens, and how much of it in the first pass."""

    pads: int = 0
    first: float = 1.0  # share of the text; what is left comes one token at a time, through a cache


ONE_PASS, CACHED, ONE_BY_ONE = Way(), Way(first=0.5), Way(first=0.0)
PADDED, BATCHED = Way(pads=8), Way(pads=8, first=0.5)


def read(
    forward: Forward, weights: Weights, token_ids: Int[Tensor, "1 seq"], config: Config, way: Way = ONE_PASS
) -> Float[Tensor, "1 seq vocab"]:
    """The logits at every token of a text that is read in this way. For the right `forward` all ways are one."""
    padded = F.pad(token_ids, (way.pads, 0))
    keep = torch.arange(padded.shape[1], device=token_ids.device)[None] >= way.pads
    if way.first == 1:
        return forward(weights, padded, config, attention_mask=keep)[:, way.pads :]
    cache = KVCache(config, 1, padded.shape[1], dtype=weights.embed_tokens.dtype, device=token_ids.device)
    start = max(1, round(way.first * token_ids.shape[1]))
    sizes = [way.pads + start] + [1] * (token_ids.shape[1] - start)
    passes = zip(padded.split(sizes, 1), keep.split(sizes, 1), strict=True)
    logits = [forward(weights, ids, config, attention_mask=kept, cache=cache) for ids, kept in passes]
    return torch.cat(logits, dim=1)[:, way.pads :]


def write(
    forward: Forward, weights: Weights, prompts: Sequence[Ids], config: Config, count: int, stop: Ids = ()
) -> list[list[int]]:
    """The likeliest tokens after each prompt, `count` or up to a stop token; a batch, padded on the left.

    `forward` reads the prompts in one pass, then each new token through the cache.
    """
    dtype, device = weights.embed_tokens.dtype, weights.embed_tokens.device
    rows = [torch.tensor(prompt, device=device) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_side="left")
    pads = torch.tensor([[ids.shape[1] - len(row)] for row in rows], device=device)
    keep = torch.arange(ids.shape[1], device=device) >= pads
    cache = KVCache(config, len(prompts), ids.shape[1] + count, dtype=dtype, device=device)
    columns: list[list[int]] = []
    for _ in range(count):
        ids = forward(weights, ids, config, attention_mask=keep, cache=cache, logits_to_keep=1)[:, -1:].argmax(-1)
        keep = torch.ones_like(ids, dtype=torch.bool)
        columns.append(ids[:, 0].tolist())
        if all(not set(stop).isdisjoint(row) for row in zip(*columns, strict=True)):
            break
    return [list(takewhile(lambda token: token not in stop, row)) for row in zip(*columns, strict=True)]


def agreement(right: Float[Tensor, "*seq vocab"], wrong: Float[Tensor, "*seq vocab"]) -> Bool[Tensor, "*seq"]:
    """True where both find the same next token likeliest."""
    return right.argmax(-1) == wrong.argmax(-1)


def divergence(right: Float[Tensor, "*seq vocab"], wrong: Float[Tensor, "*seq vocab"]) -> Float[Tensor, "*seq"]:
    """Kullback-Leibler divergence of the next token's distribution, in nats: sum of p (log p - log q), p the right one.

    0: the same. It is what the wrong model's loss is higher by, on texts that the right model writes.
    """
    p, q = right.float().log_softmax(-1), wrong.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


class Difference(NamedTuple):
    """Where two traces part. Everything that was recorded before it is equal in both."""

    path: str  # layer 0 / self_attention / rope
    what: str  # "output", "input x", or "call" where only one of the two makes it
    distance: float  # of the tensors, in lengths of the first trace's; infinite where there is nothing to subtract
    calls: tuple[Call | None, Call | None]  # to look into

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def first_difference(right: Trace, wrong: Trace, tolerance: float = 0.0) -> Difference | None:
    """The first thing that differs, in the order of time: an input as a call begins, or its output as it ends.

    An output: the call itself has gone wrong, since its inputs and all calls within it agree. An input: whoever
    called has, between this call and the one before. None where all agree. A function that stands in for another
    is compared with it, if it was traced (`trace(my_rope)`), whatever its name and those of its arguments.
    `tolerance` is a distance in lengths of the first: 0 asks for equal bits, 1e-5 allows another order of fp32 sums.
    """
    count = max(len(right.roots), len(wrong.roots))
    for number, pair in enumerate(zip_longest(right.roots, wrong.roots)):
        found = _difference(*pair, tolerance)
        if found is not None:
            return found._replace(path=f"pass {number} / {found.path}") if count > 1 else found
    return None


def _difference(one: Call | None, two: Call | None, tolerance: float) -> Difference | None:
    if one is None or two is None or (one.name != two.name and {one.name, two.name} <= OWN):
        return Difference(_path(one or two), "call", torch.inf, (one, two))
    for name, first, second in zip(one.inputs, one.inputs.values(), two.inputs.values(), strict=False):
        if (far := _distance(first, second)) > tolerance:
            return Difference(_path(one), f"input {name}", far, (one, two))
    if one.name == two.name:  # what stands in for another may go about it in another way
        for pair in zip_longest(one.children, two.children):
            found = _difference(*pair, tolerance)
            if found is not None:
                return found
    far = _distance(one.output, two.output)
    return Difference(_path(one), "output", far, (one, two)) if far > tolerance else None


def _path(call: Call | None) -> str:
    """The calls that a call lies in, outermost first, without those that every path would begin with."""
    names = []
    while call is not None:
        names.append(f"layer {call.layer}" if call.name == "decoder_layer" else call.name)
        call = call.parent
    return " / ".join(name for name in names[::-1] if name not in ("forward", "hidden_states") or len(names) < 3)


def _distance(one: Any, two: Any) -> float:
    """0 for equal values; weights and functions, which are no data of a pass, count as equal."""
    if isinstance(one, (Weights, LayerWeights, Ops)):
        return 0.0
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape:
            return torch.inf
        if torch.equal(one, two):
            return 0.0
        far = (two.double() - one.double()).norm() / one.double().norm()
        return float(far.nan_to_num(torch.inf))
    if isinstance(one, tuple) and isinstance(two, tuple):
        return max((_distance(*pair) for pair in zip_longest(one, two)), default=0.0)
    if isinstance(one, (Tensor, bool, int, float, str, Config, type(None))):
        return 0.0 if type(one) is type(two) and one == two else torch.inf
    return 0.0
