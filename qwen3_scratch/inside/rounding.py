"""The same texts through a model computed in two ways: which logits, experts and likeliest tokens become others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import Config
from ..model import Ops, Route, Weights, forward

PIECE = 64  # tokens whose logits are compared at a time: in fp64 those of all texts would take gigabytes


class Changes(NamedTuple):
    """Of each token, in the order of the texts, what the second way gives otherwise than the first."""

    differing: Float[Tensor, "tokens"]  # share of its logits
    distance: Float[Tensor, "tokens"]  # length of the difference of its logits
    length: Float[Tensor, "tokens"]  # of the first way's logits
    lead: Float[Tensor, "tokens"]  # of the first way's likeliest next token over the second likeliest, in logits
    likeliest: Bool[Tensor, "tokens"]  # True where another next token is the likeliest
    experts: Bool[Tensor, "layers tokens"]  # True where a router chose others; of its layers alone

    def report(self, written: Bool[Tensor, "tokens"]) -> str:
        """Two lines; likeliest tokens are counted apart where the model would write them itself (`written`)."""
        own, rest = (f"{int(self.likeliest[kind].sum())} of {int(kind.sum()):,}" for kind in (written, ~written))
        choices = f"{int(self.experts.sum())} of {self.experts.numel():,} choices (tokens times layers)"
        led = f"; they led by {self.lead[self.likeliest].median():.2f} (median)" if self.likeliest.any() else ""
        tokens = f"{own} in thinking and answers, {rest} before them{led}"
        return f"another expert: {choices}\nanother likeliest token: {tokens}"


@torch.inference_mode()
def changes(
    one: tuple[Weights, Ops],
    other: tuple[Weights, Ops],
    config: Config,
    texts: Sequence[Int[Tensor, "1 _"]],
    vocab_size: int | None = None,
) -> Changes:
    """Runs each text through both ways, `PIECE` tokens of logits in memory at a time.

    `vocab_size`: rows of the vocabulary beyond it, which stand for no token, are left out.
    """
    found, experts = [], []
    for ids in texts:
        (logits, chosen), (others, chosen_then) = (_run(*way, config, ids) for way in (one, other))
        experts += [torch.stack([(a != b).any(-1) for a, b in zip(chosen, chosen_then, strict=True)])] if chosen else []
        for pair in zip(logits.split(PIECE), others.split(PIECE), strict=True):
            found.append(_compared(*(each[:, :vocab_size].double() for each in pair)))
    columns = [torch.cat(column) for column in zip(*found, strict=True)]
    none = columns[-1].new_zeros(0, len(columns[-1]))  # a dense model chooses nothing
    return Changes._make([*columns, torch.cat(experts, 1) if experts else none])


def _compared(logits: Float[Tensor, "tokens vocab"], others: Float[Tensor, "tokens vocab"]) -> tuple[Tensor, ...]:
    first, second = logits.topk(2).values.T
    differing, distance = (others != logits).double().mean(-1), (others - logits).norm(dim=-1)
    return differing, distance, logits.norm(dim=-1), first - second, logits.argmax(-1) != others.argmax(-1)


def _run(
    weights: Weights, ops: Ops, config: Config, ids: Int[Tensor, "1 seq"]
) -> tuple[Float[Tensor, "seq vocab"], list[Int[Tensor, "seq top_k"]]]:
    """The logits at every token, and the experts that each router chose, in the order of their numbers."""
    experts: list[Tensor] = []

    def noted(*inputs: object) -> Route:
        routed = ops.route(*inputs)
        experts.append(routed.experts.sort(-1).values)
        return routed

    return forward(weights, ids, config, ops=ops._replace(route=noted))[0], experts
