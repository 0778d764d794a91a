"""What experts are worth, measured: tokens are sent elsewhere, and answers are read as if nothing came after them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..model import LayerWeights, Ops, Route, expert_ffn, forward, moe_route
from ..tiny.evaluate import Chats, answer_losses
from ..tracing import trace

Vectors = Float[Tensor, "tokens dim"]
Router = Float[Tensor, "experts dim"]
Routing = Callable[[Tensor, Tensor, int, bool], Route]


# ---- other routes ------------------------------------------------------------------------------------


def in_layer(checkpoint: Checkpoint, layer: int, routing: Routing) -> Ops:
    """The steps in which the router of one layer chooses as `routing` does, and all others as usual."""
    its = checkpoint.weights.layers[layer].router

    def route(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
        chosen = routing if router is its else moe_route
        return chosen(x, router, top_k, norm_topk_prob)

    return Ops(route=route)


def losses_with(
    checkpoint: Checkpoint, chats: Sequence[Chats], top_k: int, norm_topk_prob: bool, ops: Ops = Ops()
) -> Float[Tensor, "chats"]:
    """Each chat's `answer_losses`, in nats a token, where a token goes to `top_k` experts, renormalised or not."""
    config = replace(checkpoint.config, num_experts_per_tok=top_k, norm_topk_prob=norm_topk_prob)
    return torch.cat([answer_losses(checkpoint.weights, config, some, ops) for some in chats])


def without(expert: int) -> Routing:
    """Routes as if one expert were not there: the next in line takes its place, and the shares of the rest grow."""

    def route(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
        kept = torch.tensor([each for each in range(len(router)) if each != expert], device=router.device)
        found = moe_route(x, router[kept], min(top_k, len(kept)), norm_topk_prob)
        return found._replace(experts=kept[found.experts])

    return route


def silenced(expert: int) -> Routing:
    """Routes as usual, but one expert counts nothing: nobody takes its place, and the shares of the rest stay."""

    def route(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
        found = moe_route(x, router, top_k, norm_topk_prob)
        return found._replace(weights=found.weights.masked_fill(found.experts == expert, 0.0))

    return route


def only_at(places: Bool[Tensor, "chats seq"], routing: Routing) -> Routing:
    """Routes as `routing` does at some tokens of one batch, and as usual at all others."""

    def route(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
        usual, there = moe_route(x, router, top_k, norm_topk_prob), places.flatten()[:, None]
        other = routing(x, router, top_k, norm_topk_prob)
        weights = torch.where(there, other.weights, usual.weights)
        return Route(weights, torch.where(there, other.experts, usual.experts), usual.logits)

    return route


def random_experts(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """Experts that are not a token's own, drawn for each token (its own too where there are too few)."""
    found = moe_route(x, router, top_k, norm_topk_prob)
    drawn = torch.rand(found.logits.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    drawn = drawn.scatter(1, found.experts, -drawn)  # its own come last
    return found._replace(experts=drawn.topk(top_k, dim=-1).indices)


def next_in_line(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """Each choice moves down by one, so that the first gets nothing; the weights stay."""
    found = moe_route(x, router, top_k, norm_topk_prob)
    line = found.logits.float().topk(min(top_k + 1, len(router)), dim=-1).indices
    return found._replace(experts=line[:, -top_k:])


def equal_weights(x: Vectors, router: Router, top_k: int, norm_topk_prob: bool) -> Route:
    """A token's own experts, each counting alike."""
    found = moe_route(x, router, top_k, norm_topk_prob)
    return found._replace(weights=found.weights.mean(-1, keepdim=True).expand_as(found.weights))


WAYS: dict[str, Routing] = {
    "random experts": random_experts,
    "the next in line": next_in_line,
    "equal weights": equal_weights,
}


def written_once(batches: Sequence[Chats]) -> tuple[Int[Tensor, "chats"], Int[Tensor, "texts"]]:
    """Which text is written in each chat of all batches, and in which batch each such text stands.

    Chats in which the same thinking and answer are written have one number: as evidence they count once.
    """
    numbers: dict[tuple[int, ...], int] = {}
    which: list[int] = []
    homes: list[int] = []
    for home, chats in enumerate(batches):
        for ids, written in zip(chats.token_ids, chats.written, strict=True):
            text = (home, *ids[written].tolist())
            if text not in numbers:
                homes.append(home)
            which.append(numbers.setdefault(text, len(numbers)))
    return torch.tensor(which), torch.tensor(homes)


def text_losses(
    checkpoint: Checkpoint, batches: Sequence[Chats], which: Int[Tensor, "chats"], ops: Ops = Ops()
) -> Float[Tensor, "texts"]:
    """The mean loss of the chats in which each text is written, in nats a token; `which` is as `written_once` says."""
    losses = [answer_losses(checkpoint.weights, checkpoint.config, chats, ops) for chats in batches]
    return torch.zeros(int(which.max()) + 1).index_add(0, which, torch.cat(losses)) / which.bincount()


def rises_at(
    checkpoint: Checkpoint, chats: Chats, layer: int, routing: Routing, places: Bool[Tensor, "chats seq"]
) -> Float[Tensor, "texts"]:
    """By how much each text's loss rises, in nats a token, where a layer routes otherwise at some tokens of a batch."""
    (which, _), way = written_once([chats]), in_layer(checkpoint, layer, only_at(places, routing))
    return text_losses(checkpoint, [chats], which, way) - text_losses(checkpoint, [chats], which)


# ---- what experts say --------------------------------------------------------------------------------


def answers(layer: LayerWeights, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "experts tokens hidden"]:
    """What each expert of a layer would answer to each token, whether it was chosen or not."""
    halves = (both.chunk(2) for both in layer.gate_up_proj)
    stacks = zip(halves, layer.down_proj, strict=True)
    return torch.stack([expert_ffn(x, gate, up, down) for (gate, up), down in stacks])


class Said(NamedTuple):
    """What experts add to the next token's logit, at the tokens after which the model writes."""

    lift: Float[Tensor, "layers tokens experts"]  # above the vocabulary's mean, each expert as if it counted fully
    experts: Int[Tensor, "layers tokens top_k"]  # those that were chosen
    token_ids: Int[Tensor, "tokens"]  # what is read there
    chat: Int[Tensor, "tokens"]  # the chat that a token stands in


@torch.inference_mode()
def through_the_lens(checkpoint: Checkpoint, chats: Chats, layers: Sequence[int]) -> Said:
    """Each expert's answers, sent through the last norm and the output head as if nothing came after them.

    Direct logit attribution: the norm divides by the size that the whole stream has at the end.
    """
    weights = checkpoint.weights
    with trace() as recorded:
        forward(weights, chats.token_ids, checkpoint.config, attention_mask=chats.keep, logits_to_keep=1)
    reads, written = chats.written[:, 1:], chats.token_ids[:, 1:][chats.written[:, 1:]]

    def at(part: Tensor) -> Tensor:  # a token's logits are of the one after it
        return part.view(*chats.token_ids.shape, -1)[:, :-1][reads]

    last = at(recorded["rms_norm"][-1].inputs["x"]).float()
    scale = weights.norm.float() / last.square().mean(-1, keepdim=True).add(checkpoint.config.rms_norm_eps).sqrt()
    unembed = (weights.embed_tokens if weights.lm_head is None else weights.lm_head).float()
    right = unembed[written] - unembed.mean(0)
    lift, chosen = [], []
    for call in recorded["moe_route"]:
        if call.layer is not None and call.layer in layers:
            said = answers(weights.layers[call.layer], at(call.inputs["x"])).float() * scale
            lift.append(torch.einsum("eth,th->te", said, right))
            chosen.append(at(call.output.experts))
    return Said(torch.stack(lift), torch.stack(chosen), at(chats.token_ids)[:, 0], reads.nonzero()[:, 0])


def lifts(said: Said) -> dict[str, Float[Tensor, "layers tokens"]]:
    """By how much the first choice raises the next token, and what those do that were not chosen."""
    left_out = torch.ones_like(said.lift).scatter(2, said.experts, 0.0) > 0  # [layers, tokens, experts]
    none = ~left_out.any(-1)

    best = said.lift.masked_fill(~left_out, -torch.inf).amax(-1).masked_fill(none, 0.0)
    return {
        "the first choice": said.lift.gather(2, said.experts[..., :1])[..., 0],
        "the mean of those not chosen": (said.lift * left_out).sum(-1) / left_out.sum(-1).clamp(min=1),
        "the best of those not chosen": best,
    }
