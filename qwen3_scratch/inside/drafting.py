"""Drafts that are looked up in the text, in their plainest form, and what a pass over several tokens asks for.

`fast.drafts` does the same as fast as it goes; notebook A3 builds it from these.
"""

from collections.abc import Callable, Sequence
from time import process_time
from timeit import repeat
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from ..cache import KVCache
from ..checkpoints.checkpoint import Checkpoint
from ..fast.eager import writing_ops
from ..model import Ops, forward
from ..tracing import trace

Token = TypeVar("Token", str, int)


def kept(draft: Sequence[Token], picks: Sequence[Token]) -> list[Token]:
    """The guesses that stand, and the model's own token behind them: of `picks`, which has one token more."""
    right = 0
    while right < len(draft) and draft[right] == picks[right]:
        right += 1
    return list(picks[: right + 1])


def look_up(text: Sequence[Token], count: int = 3, longest: int = 3) -> list[Token]:
    """What followed the end of the text where it stood last before, at most `count`; [] where it is new.

    The last `longest` tokens are looked for first, then fewer, down to one.
    """
    for length in range(longest, 0, -1):
        for start in range(len(text) - length - 1, -1, -1):
            if text[start : start + length] == text[-length:]:
                return list(text[start + length :][:count])
    return []


def passes(prompt: list[int], answer: list[int]) -> list[list[int]]:
    """The pieces in which passes with looked-up drafts would bring an answer, behind its first token.

    That one comes from the prompt's own pass. What the model picks is the answer itself, so no model is asked.
    """
    pieces, text = list[list[int]](), prompt + answer[:1]
    while len(text) < len(prompt) + len(answer):
        rest = answer[len(text) - len(prompt) :]
        pieces.append(kept(look_up(text)[: len(rest) - 1], rest))
        text = text + pieces[-1]
    return pieces


def passes_by_size(prompt: list[int], answer: list[int]) -> list[tuple[int, int]]:
    """Of each of these passes, how many tokens it reads, the last one and the draft, and how many it gives."""
    found, text = list[tuple[int, int]](), prompt + answer[:1]
    for piece in passes(prompt, answer):
        found.append((1 + len(look_up(text)), len(piece)))
        text = text + piece
    return found


@torch.inference_mode()
def chosen_experts(checkpoint: Checkpoint, texts: Sequence[list[int]]) -> list[Bool[Tensor, "tokens layers experts"]]:
    """Of each text, which experts each token asks for in the layers that have a router; [] of a dense model."""
    found = []
    for text in texts:
        with trace() as recorded:
            row = torch.tensor([text], device=checkpoint.device)
            forward(checkpoint.weights, row, checkpoint.config, logits_to_keep=1)
        empty = torch.zeros(len(text), checkpoint.config.num_experts, dtype=torch.bool)
        masks = [empty.scatter(1, call.output.experts.cpu(), True) for call in recorded["moe_route"]]
        found += [torch.stack(masks, dim=1)] if masks else []
    return found


def share_asked(routes: Sequence[Bool[Tensor, "_ layers experts"]], count: int) -> float:
    """The share of a layer's experts that `count` tokens in a row ask for together, in the mean over texts."""
    return float(torch.stack([each.unfold(0, count, 1).any(-1).double().mean() for each in routes]).mean())


def further_experts(routes: Sequence[Bool[Tensor, "_ layers experts"]], count: int) -> float:
    """What `count` tokens in a row ask for beyond the experts of one, as a share of what independent tokens would, were
    all experts used alike: 1 if they share experts no more often than those, 0 if all ask for the same. At least two
    tokens, and experts that one does not ask for."""
    one = share_asked(routes, 1)
    return (share_asked(routes, count) - one) / (1 - (1 - one) ** count - one)


def needed_share(guesses: int, cost: float) -> float:
    """The share of guesses that must be right, each by the same chance whatever came before, so that a pass with so
    many gives as many tokens as it costs passes of one: a in 1 + a + ... + a^guesses = cost, to a millionth."""
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        share = (low + high) / 2
        enough = sum(share**place for place in range(guesses + 1)) >= cost
        low, high = (low, share) if enough else (share, high)
    return high


@torch.inference_mode()
def pass_times(
    checkpoint: Checkpoint,
    text: list[int],
    most: int = 5,
    steps: Callable[[Checkpoint, int], Ops] = writing_ops,
    timer: Callable[[], float] = process_time,
) -> list[float]:
    """Seconds of processor time for a pass over 1, 2, ... `most` tokens behind a text, as `generate` makes them or by
    other `steps`: the least of twenty times, since what else runs can only add."""
    cache = KVCache(checkpoint.config, 1, len(text) + most, dtype=checkpoint.dtype, device=checkpoint.device)
    forward(checkpoint.weights, torch.tensor([text], device=checkpoint.device), checkpoint.config, cache=cache)
    found = []
    for count in range(1, most + 1):
        row, ops = torch.tensor([text[-count:]], device=checkpoint.device), steps(checkpoint, count)

        def one_pass(row: Tensor = row, ops: Ops = ops) -> None:
            forward(checkpoint.weights, row, checkpoint.config, cache=cache, ops=ops)
            cache.rewind(row.shape[1])

        found.append(min(repeat(one_pass, timer=timer, number=3, repeat=20)) / 3)
    return found
