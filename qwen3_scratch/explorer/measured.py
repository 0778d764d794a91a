"""What experts are for, measured once when the page is written: their favourite words, and what they cost to lose."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..inside.experts import in_layer, without
from ..model import Ops, forward
from ..tiny.corpus import DOMAINS
from ..tiny.evaluate import Chats, answer_losses, padded_chats, questions
from ..tracing import trace

FAVOURITES = 8  # words of an expert
FEWEST = 3  # times that a word must stand in the questions to be anybody's favourite
MOST_EXPERTS = 64  # of all layers together: of more none is switched off, since each takes a pass


@torch.inference_mode()
def measured(checkpoint: Checkpoint, count: int) -> dict[str, Any]:
    """domains, questions, favourites and costs, over `count` held-out questions of each domain with answers.

    favourites[layer][expert] are [word, times it went there as the first choice, times it was read];
    costs[layer][expert][domain] how much the mean loss of the answers rises without the expert, in nats a token (None
    where there are too many experts). Layers without experts have no entry (None).
    """
    asked = {domain: questions(domain, count) for domain in DOMAINS} if count else {}
    config = checkpoint.config
    sparse = [layer for layer in range(config.num_hidden_layers) if config.is_sparse(layer)]
    none: list[Any] = [None] * config.num_hidden_layers
    if not asked or not sparse:
        return {"domains": list(DOMAINS), "questions": count, "favourites": none, "costs": None}
    batches = [padded_chats(checkpoint, examples) for examples in asked.values()]
    costs = None
    if len(sparse) * config.num_experts <= MOST_EXPERTS and config.num_experts > 1:
        whole = losses(checkpoint, batches)
        costs = [None if layer not in sparse else
                 [rounded(losses(checkpoint, batches, in_layer(checkpoint, layer, without(expert))) - whole)
                  for expert in range(config.num_experts)] for layer in range(config.num_hidden_layers)]  # fmt: skip
    rows = [ids[keep].tolist() for chats in batches for ids, keep in zip(chats.token_ids, chats.keep, strict=True)]
    found = favourites(checkpoint, rows)
    return {"domains": list(DOMAINS), "questions": count, "favourites": found, "costs": costs}


def losses(checkpoint: Checkpoint, batches: Sequence[Chats], ops: Ops = Ops()) -> Tensor:
    """The mean loss of the answers of each batch, in nats a token."""
    config = checkpoint.config
    return torch.stack([answer_losses(checkpoint.weights, config, chats, ops).mean() for chats in batches])


def rounded(numbers: Tensor) -> list[float]:
    return [round(number, 4) for number in numbers.tolist()]


def favourites(checkpoint: Checkpoint, rows: list[list[int]]) -> list[list[list[tuple[str, int, int]]] | None]:
    """For each expert the words that it is the first choice of far more often than other experts' share explains.

    A word's rank is times * log(its share here / the expert's share of all words).
    """
    config, tokenizer = checkpoint.config, tokenizer_of(checkpoint)
    read = Counter(token for row in rows for token in row)
    first = [[Counter[int]() for _ in range(config.num_experts)] for _ in range(config.num_hidden_layers)]
    sparse = set()
    for row in rows:
        with trace() as recorded:
            forward(checkpoint.weights, torch.tensor([row]), config, logits_to_keep=1)
        for call in recorded["moe_route"]:
            sparse.add(call.layer)
            for token, expert in zip(row, call.output.experts[:, 0].tolist(), strict=True):
                first[call.layer or 0][expert][token] += 1
    total = sum(read.values())

    def best(own: Counter[int]) -> list[tuple[str, int, int]]:
        share = sum(own.values()) / total
        known = [token for token in own if read[token] >= FEWEST and token not in tokenizer.added]
        rank = {token: (own[token] * math.log(own[token] / read[token] / share), -token) for token in known}
        ranked = sorted(known, key=rank.__getitem__, reverse=True)[:FAVOURITES]
        return [(tokenizer.decode([token]), own[token], read[token]) for token in ranked]

    return [[best(own) for own in first[layer]] if layer in sparse else None for layer in range(len(first))]
