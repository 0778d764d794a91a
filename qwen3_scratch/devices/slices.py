"""One model on many devices: the functions of `model.py` on slices of the weights, and a sum where slices meet.

Ranks stand in a grid, a `DeviceMesh` of a tensor by an expert dimension. Along the tensor dimension attention is cut
by heads, every feed-forward by its intermediate numbers, embedding and head by rows of the vocabulary (Shoeybi et al.
2019, arXiv:1909.08053). Along the expert dimension whole experts are dealt out (Lepikhin et al. 2020,
arXiv:2006.16668). Norms and routers stand everywhere. Each rank reads its own slices from the files and nothing else.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.config_json import read_config
from ..checkpoints.weights import Slot, empty_fields, layer_slots, outer_slots
from ..config import Config
from ..errors import Error, whole_number
from ..fast.dispatch import Down, GateUp, Tokens
from ..hub.find import find_folder
from ..model import LayerWeights, Ops, Route, Weights, expert_ffn, moe

Hidden = Float[Tensor, "batch seq hidden"]
Rows = Float[Tensor, "own_vocab hidden"]  # of embedding or head

DIMENSIONS = ("tensor", "expert")


class Place(NamedTuple):
    """Where a rank stands in the grid, and how large the grid is."""

    tensor: int = 0
    expert: int = 0
    tensors: int = 1
    experts: int = 1


def make_mesh(
    tensor_parallel: int, expert_parallel: int, device: str = "cpu", timeout: int | float | None = None
) -> DeviceMesh:
    """The grid of all ranks of the running process group; ranks of one tensor group stand `expert_parallel` apart.

    `timeout` is how many seconds a rank waits for the others of its row or column.
    """
    grid = torch.arange(tensor_parallel * expert_parallel).view(tensor_parallel, expert_parallel)
    wait = None if timeout is None else timedelta(seconds=timeout)
    groups = [dist.new_subgroups_by_enumeration(lines.tolist(), timeout=wait)[0] for lines in (grid.T, grid)]
    return DeviceMesh.from_group(groups, device, mesh=grid, mesh_dim_names=DIMENSIONS)


def place_of(mesh: DeviceMesh) -> Place:
    return Place(*(mesh.get_local_rank(name) for name in DIMENSIONS), *(mesh.size(at) for at in range(2)))


def check_grid(tensors: int, experts: int) -> None:
    """Raises Error for what is no number of ranks."""
    for option, parts in (("tensor_parallel", tensors), ("expert_parallel", experts)):
        whole_number("devices", option, parts)


def check_split(config: Config, tensors: int, experts: int) -> None:
    """Raises Error where the sizes of a model do not divide by those of the grid."""
    check_grid(tensors, experts)
    kv_heads = config.num_key_value_heads
    layers = [config.is_sparse(layer) for layer in range(config.num_hidden_layers)]
    divided = [("tensor_parallel", tensors, "num_attention_heads")]
    if any(layers):
        divided += [("tensor_parallel", tensors, "moe_intermediate_size"), ("expert_parallel", experts, "num_experts")]
    if not all(layers):
        divided += [("tensor_parallel", tensors, "intermediate_size")]
    for option, parts, name in divided:
        if (size := getattr(config, name)) % parts:
            advice = "choose a number that divides it"
            raise Error(f"{option} is {parts}, expected a divisor of {name}, which is {size}: {advice}")
    if kv_heads % tensors and tensors % kv_heads:
        expected = f"a divisor or a multiple of num_key_value_heads, which is {kv_heads}"
        raise Error(f"tensor_parallel is {tensors}, expected {expected}: choose another number")
    if tensors > config.vocab_size:
        raise Error(f"tensor_parallel is {tensors}, expected at most the vocabulary, which is {config.vocab_size}")
    if not any(layers) and experts > 1:
        raise Error(f"expert_parallel is {experts}, expected 1: this model is dense and has no experts to deal out")


def rows_of(size: int, part: int, parts: int) -> slice:
    """The rows of one of `parts` equal parts; the last is shorter where they do not come out even."""
    each = -(-size // parts)
    return slice(min(part * each, size), min((part + 1) * each, size))


def kv_heads_of(config: Config, place: Place) -> slice:
    """A rank's key/value heads: its share, or the one that its query heads read, which other ranks then hold too."""
    heads = config.num_key_value_heads
    first, after = (number * heads // place.tensors for number in (place.tensor, place.tensor + 1))
    return slice(first, max(after, first + 1))


def own_slot(config: Config, place: Place, slot: Slot) -> Slot | None:
    """What a rank reads of one tensor of the files, and where in its own tensors it goes; None: nothing."""
    name, part = slot.field, slot.part
    if part and isinstance(part[0], int):
        mine = rows_of(config.num_experts, place.expert, place.experts)
        if not mine.start <= part[0] < mine.stop:
            return None
        part = (part[0] - mine.start, *part[1:])
    if name == "o_bias":  # the sum over the ranks must hold it once
        return slot if place.tensor == 0 else None
    share = partial(rows_of, part=place.tensor, parts=place.tensors)
    cut: tuple[slice, ...] = ()
    if name in ("k_proj", "k_bias", "v_proj", "v_bias"):
        heads, dim = kv_heads_of(config, place), config.head_dim
        cut = (slice(heads.start * dim, heads.stop * dim),)
    elif name in ("q_proj", "q_bias", "gate_up_proj", "embed_tokens", "lm_head"):
        cut = (share(slot.shape[0]),)
    elif name in ("o_proj", "down_proj"):
        cut = (slice(None), share(slot.shape[1]))
    shape = tuple(torch.empty(slot.shape, device="meta")[cut].shape)
    if name == "gate_up_proj" and isinstance(rows := part[-1], slice):  # gate above up, as in the whole
        second = rows.start > 0
        part = (*part[:-1], slice(second * shape[0], (second + 1) * shape[0]))
    return slot._replace(shape=shape, part=part, cut=cut)


def own_config(config: Config, place: Place) -> Config:
    """The config by which a rank runs: as many heads as it holds, so that its cache holds no others."""
    heads, kv_heads = config.num_attention_heads // place.tensors, kv_heads_of(config, place)
    return replace(config, num_attention_heads=heads, num_key_value_heads=kv_heads.stop - kv_heads.start)


def shard_weights(weights: Weights, config: Config, mesh: DeviceMesh | Place) -> Weights:
    """A rank's slices of weights that are in memory as a whole, copied so that the whole can go."""
    place = mesh if isinstance(mesh, Place) else place_of(mesh)
    check_split(config, place.tensors, place.experts)

    def cut(source: Weights | LayerWeights, slots: list[Slot]) -> dict[str, Tensor]:
        pairs = [(slot, own) for slot in slots if (own := own_slot(config, place, slot)) is not None]
        fields = empty_fields([own for _, own in pairs], source[0].dtype, source[0].device)
        for slot, own in pairs:
            fields[own.field][own.part] = getattr(source, slot.field)[slot.part][own.cut]
        return fields

    layers = [LayerWeights(**cut(layer, list(layer_slots(config, at)))) for at, layer in enumerate(weights.layers)]
    return Weights(layers=tuple(layers), **cut(weights, outer_slots(config)))


def all_sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of a group's tensors, on each of its ranks."""
    if group.size() > 1:
        x = x.contiguous()
        dist.all_reduce(x, group=group)
    return x


def own_embed(token_ids: Int[Tensor, "batch seq"], rows: Rows, first: int, group: dist.ProcessGroup) -> Hidden:
    """Rows that this rank holds, from number `first` on, zeros for the others; the sum puts them together."""
    local = token_ids - first
    mine = (local >= 0) & (local < len(rows))
    found = F.embedding(local.where(mine, 0), rows) if len(rows) else rows.new_zeros(*token_ids.shape, rows.shape[1])
    return all_sum(found * mine[..., None], group)


def own_head(x: Hidden, rows: Rows, vocab: int, group: dist.ProcessGroup) -> Float[Tensor, "batch seq vocab"]:
    """The logits of this rank's rows beside those of the others: the same numbers on every rank, so all draw alike."""
    logits = F.linear(x, rows)
    if group.size() == 1:
        return logits
    return all_rows(logits.flatten(0, 1).T, vocab, group).T.unflatten(0, x.shape[:2])


def own_experts(
    x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Callable[..., Tensor] = expert_ffn,
    *, group: dist.ProcessGroup,
) -> Tokens:  # fmt: skip
    """Every rank answers, for all tokens, with the experts that it holds; the sum combines the answers."""
    return all_sum(answers(x, route, gate_up_proj, down_proj, expert, group.rank() * len(down_proj)), group)


def answers(
    x: Tensor, route: Route, gate_up_proj: Tensor, down_proj: Tensor, expert: Callable[..., Tensor], first: int
) -> Float[Tensor, "tokens dim"]:
    """`moe` with the experts from number `first` on, as if the others answered zero."""
    local = route.experts - first
    token, choice = ((local >= 0) & (local < len(down_proj))).nonzero(as_tuple=True)
    mine = Route(route.weights[token, choice][:, None], local[token, choice][:, None], route.logits[token])
    done = moe(x.index_select(0, token), mine, gate_up_proj, down_proj, expert)
    return torch.zeros_like(x).index_add_(0, token, done)


def send_to_owners(
    x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Callable[..., Tensor] = expert_ffn,
    *, group: dist.ProcessGroup,
) -> Tokens:  # fmt: skip
    """Each rank takes its share of the tokens, sends each to the owners of its experts and gets the answers back.

    That is two `all_to_all_single` with as many rows for each rank as were chosen there. At the end every rank needs
    all tokens again, since attention works on all of them.
    """
    mine, top_k, each = rows_of(len(x), group.rank(), group.size()), route.experts.shape[1], len(down_proj)
    chosen, weights = route.experts[mine].flatten(), route.weights[mine].flatten()
    order = chosen.argsort(stable=True)  # by expert, so by owner
    sent = (chosen // each).bincount(minlength=group.size())
    taken = torch.empty_like(sent)
    dist.all_to_all_single(taken, sent, group=group)

    def exchange(rows: Tensor, counts: Tensor, others: Tensor) -> Tensor:
        got = rows.new_empty(int(others.sum()), *rows.shape[1:])
        dist.all_to_all_single(got, rows.contiguous(), others.tolist(), counts.tolist(), group=group)
        return got

    rows = exchange(x[mine].index_select(0, order // top_k), sent, taken)
    wanted = exchange(chosen[order] - (chosen[order] // each) * each, sent, taken)  # numbers as their owner counts
    alone = Route(torch.ones_like(wanted, dtype=x.dtype)[:, None], wanted[:, None], route.logits)
    done = exchange(moe(rows, alone, gate_up_proj, down_proj, expert), taken, sent)
    out = torch.zeros_like(x[mine]).index_add_(0, order // top_k, done * weights[order][:, None])
    return all_rows(out, len(x), group)


def all_rows(rows: Float[Tensor, "own dim"], count: int, group: dist.ProcessGroup) -> Float[Tensor, "all dim"]:
    """The rows of all ranks, in their order."""
    each = -(-count // group.size())
    padded = F.pad(rows, (0, 0, 0, each - len(rows))).contiguous()
    parts = [torch.empty_like(padded) for _ in range(group.size())]
    dist.all_gather(parts, padded, group=group)
    return torch.cat(parts)[:count]


DISPATCH = {"own-experts": own_experts, "all-to-all": send_to_owners}


def parallel_ops(config: Config, mesh: DeviceMesh, dispatch: Callable[..., Tensor] = own_experts) -> Ops:
    """The steps of `forward` on this rank's slices; `config` is that of the whole model."""
    if not callable(dispatch):
        names = " or ".join(way.__name__ for way in DISPATCH.values())
        raise Error(f"dispatch is {dispatch!r}, expected a function such as {names}: pass the function itself")
    place, (tensors, experts) = place_of(mesh), mesh.get_all_groups()
    first = rows_of(config.vocab_size, place.tensor, place.tensors).start
    return Ops(
        embed=partial(own_embed, first=first, group=tensors),
        head=partial(own_head, vocab=config.vocab_size, group=tensors),
        reduce=partial(all_sum, group=tensors),
        moe=partial(dispatch if place.experts > 1 else own_experts, group=experts),
    )


def traffic(config: Config, place: Place) -> dict[str, int]:
    """Numbers that a rank sends for one new token of one row, with `own_experts`: a count for each kind of meeting.

    A sum over n ranks sends 2 (n - 1) / n of the vector from each (reduced around a ring, then handed round); putting
    the parts of a vector together sends (n - 1) / n of it.
    """

    def ring(size: int, ranks: int) -> int:
        return (ranks - 1) * -(-size // ranks)

    summed, depth = 2 * ring(config.hidden_size, place.tensors), config.num_hidden_layers
    return {
        "embedding": summed,
        "attention": summed * depth,
        "feed-forward": summed * depth,
        "experts": 2 * ring(config.hidden_size, place.experts) * sum(map(config.is_sparse, range(depth))),
        "head": ring(config.vocab_size, place.tensors),
    }


def ring_seconds(
    size: int | float, ranks: int, link: int | float, latency: int | float
) -> tuple[int | float, int | float]:
    """Seconds that an `all_reduce` of `size` bytes takes around a ring, and the part of them that is latency.

    Each of its 2 (ranks - 1) steps sends a part of the size over a `link` of so many bytes a second, `latency` seconds
    after it was told to.
    """
    steps = 2 * (ranks - 1)
    return steps * (latency + size / ranks / link), steps * latency


def load_slices(
    name_or_path: str | Path | None, mesh: DeviceMesh, *, dispatch: Callable[..., Tensor] = own_experts,
    revision: str | None = None, **options: Any,
) -> Checkpoint:  # fmt: skip
    """A checkpoint of which this rank reads and holds its own slices; `generate`, `stream` and `forward` run on it.

    Every rank must call them with the same arguments, a seed included; each then gets the same answer. `forward`
    takes `ops=checkpoint.ops`. `options` are those of `load_checkpoint`. Raises Error for what that refuses and for
    sizes that do not divide.
    """
    place, folder = place_of(mesh), find_folder(name_or_path, revision)
    whole = read_config(folder)
    check_split(whole, place.tensors, place.experts)
    mine = partial(own_slot, whole, place), partial(own_config, place=place)
    found = load_checkpoint(folder, own=mine[0], runs_as=mine[1], **options)
    return replace(found, ops=parallel_ops(whole, mesh, dispatch))
