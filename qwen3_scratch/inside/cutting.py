"""What it costs to cut a model over devices, counted: bytes on each, messages, steps around a ring, seconds at best."""

from collections.abc import Callable
from math import comb, prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int, Num
from torch import Tensor

from ..checkpoints.weights import layer_slots, outer_slots
from ..config import Config
from ..devices.slices import Place, check_split, own_config, own_slot, ring_seconds
from ..errors import Error

READ, COMPUTE = 3.35e12, 989e12
"""Bytes a second from its memory and operations a second in bf16 of an H100 (SXM), by its data sheet."""


def released() -> dict[str, Config]:
    """The two released mixtures of Qwen3, as their config.json has them (Qwen3 report, arXiv:2505.09388)."""
    common: dict[str, Any] = {"model_type": "qwen3_moe", "vocab_size": 151936, "num_key_value_heads": 4}
    common |= {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "moe_intermediate_size", "intermediate_size")
    sizes = {"Qwen3-30B-A3B": (2048, 48, 32, 768, 6144), "Qwen3-235B-A22B": (4096, 94, 64, 1536, 12288)}
    return {model: Config(**common | dict(zip(names, size, strict=True))) for model, size in sizes.items()}


def cache_numbers(config: Config, length: int) -> int:
    """Keys and values of a text of `length` tokens; a layer with a sliding window keeps only its window."""
    layers = range(config.num_hidden_layers)
    kept = sum(min(length, config.window(layer) or length) for layer in layers)
    return 2 * kept * config.num_key_value_heads * config.head_dim


def fits(config: Config, tensors: int, experts: int) -> bool:
    """Whether the sizes of a model divide by those of the grid."""
    try:
        check_split(config, tensors, experts)
    except Error:
        return False
    return True


def grids_of(config: Config, most: int) -> list[tuple[int, int]]:
    """The grids, tensor x expert, of as many ranks as can be had up to `most`, both numbers powers of two."""
    powers = [1 << at for at in range(most.bit_length())]
    found = [(t, e) for t in powers for e in powers if t * e <= most and fits(config, t, e)]
    return [grid for grid in found if prod(grid) == max(map(prod, found))]


def device_bytes(config: Config, tensors: int, experts: int, length: int) -> int:
    """Bytes in bf16 on the first device of a grid: its weights, and the cache of a text of `length` tokens.

    For models whose layers are all alike.
    """
    place, numbers = Place(0, 0, tensors, experts), []
    for slots in (outer_slots(config), layer_slots(config, 0)):
        mine = [own_slot(config, place, slot) for slot in slots]
        numbers.append(sum(prod(own.shape) for own in mine if own))
    cache = cache_numbers(own_config(config, place), length)
    return 2 * (numbers[0] + config.num_hidden_layers * numbers[1] + cache)


def ring_steps(
    x: Num[Tensor, "ranks parts"], part_of: Callable[[int, int, int], int]
) -> Num[Tensor, "steps ranks parts"]:
    """What each rank holds at first, and after each step of a sum around a ring.

    In every step rank r gets from rank r - 1 (rank 0 from the last) the part `part_of(r, step, ranks)`: in the first
    ranks - 1 steps it adds it to its own, in the others it takes it in place of its own.
    """
    ranks, held = len(x), [x]
    for step in range(2 * (ranks - 1)):
        after = held[-1].clone()
        for rank in range(ranks):
            part = part_of(rank, step, ranks)
            came = held[-1][rank - 1, part]
            after[rank, part] = came + after[rank, part] if step < ranks - 1 else came
        held.append(after)
    return torch.stack(held)


def part_that_comes(rank: int, step: int, ranks: int) -> int:
    """Which part a rank gets: the one that the rank before got in the step before."""
    return (rank - 1 - step) % ranks


def messages(config: Config, tensors: int, experts: int) -> int:
    """How often a rank sends for one token: gloo cuts each step of a sum in two, and the last gathers logits."""
    layers = config.num_hidden_layers
    sums = (tensors - 1) * (1 + 2 * layers)  # of the embedding, then two a layer
    sums += (experts - 1) * sum(config.is_sparse(layer) for layer in range(layers))
    return 4 * sums + 2 * (tensors - 1)


def sum_seconds(size: int | float, ranks: int, link: int | float, latency: int | float) -> int | float:
    """Seconds to sum `size` bytes over ranks: around a ring, or each sends all it has to all others at once.

    The faster of the two counts. A `link` takes so many bytes a second, `latency` seconds after it was told to.
    """
    return min(ring_seconds(size, ranks, link, latency)[0], latency + (ranks - 1) * size / link)


def pipeline_seconds(texts: int, hosts: int, work: int | float, send: int | float) -> int | float:
    """Seconds until the last of so many hosts, each with some of the layers, is done with the last text.

    A host works `work` seconds on a text and takes the next while it sends this one on, which takes `send` seconds. So
    after the first text one comes out in every step of the slower of the two.
    """
    slower = max(work, send) if hosts > 1 else work
    return hosts * work + (hosts - 1) * send + (texts - 1) * slower


def pipeline_starts(texts: int, hosts: int, work: int | float, send: int | float) -> list[list[int | float]]:
    """When each host (an inner list) begins with each text: once that is there, and the host is done with the last.

    The link between two hosts, too, carries one text at a time.
    """
    starts: list[list[int | float]] = [[text * work for text in range(texts)]]
    for _ in range(hosts - 1):
        there: int | float = 0
        mine: list[int | float] = []
        for begun in starts[-1]:
            there = max(there, begun + work) + send
            mine.append(max(there, mine[-1] + work) if mine else there)
        starts.append(mine)
    return starts


def vectors_sent(chosen: Int[Tensor, "tokens top_k"], each: int, ranks: int) -> Int[Tensor, "ranks ranks"]:
    """How many vectors each rank (row) sends to each owner of experts (column), a token only once to an owner.

    Rank 0 has the first tokens and owns experts 0 to `each` - 1, and so on; ranks have as many tokens as each other.
    What a rank keeps is counted, too, on the diagonal.
    """
    hit = F.one_hot(chosen // each, ranks).amax(1)  # [tokens, ranks]
    return hit.view(ranks, -1, ranks).sum(1)


def ranks_hit(ranks: int, k: int, experts: int) -> float:
    """How many ranks own some of a token's k experts, on average, if routing is even."""
    held = [experts * (rank + 1) // ranks - experts * rank // ranks for rank in range(ranks)]
    return sum(1 - comb(experts - own, k) / comb(experts, k) for own in held)


def expert_numbers(config: Config, tokens: int) -> float:
    """Numbers of the experts, in all layers, that some of so many tokens choose, on average, if routing is even."""
    sparse = sum(map(config.is_sparse, range(config.num_hidden_layers)))
    missed = (1 - config.num_experts_per_tok / config.num_experts) ** tokens
    return (1 - missed) * sparse * config.num_experts * 3 * config.hidden_size * config.moe_intermediate_size


def work_seconds(config: Config, tokens: int, size: int | float = 2) -> float:
    """The least time in which an H100 passes so many tokens through a mixture whose head is a matrix of its own.

    It is the larger of two: to read what is used of the weights, `size` bytes each, and to multiply by them, two
    operations a weight and token. The table of the embedding is looked up; attention's own products and the cache are
    left out.
    """
    used = config.num_parameters(active=True) - config.vocab_size * config.hidden_size
    read = used - expert_numbers(config, 1) + expert_numbers(config, tokens)
    return max(size * read / READ, 2 * used * tokens / COMPUTE)
