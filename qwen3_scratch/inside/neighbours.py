"""What routes share with their neighbours: with the token before, with the next layer, with the other expert chosen.

As in `routers`, an expert of a token is its first choice unless more are named.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .routers import Reading, bits, mean_by_question, numbered, shuffled_within, tally


def kept_more(
    reading: Reading, draws: int = 20
) -> tuple[Float[Tensor, "layers"], Float[Tensor, "layers"], Float[Tensor, "layers"]]:
    """The share of tokens with the expert of the token before; how much more that is than where the tokens of each
    question have changed places, and half of its 95% interval."""
    draw = torch.Generator().manual_seed(0)
    same, whose = same_as_before(reading.first, reading.question)
    orders = [shuffled_within(reading.question, draw) for _ in range(draws)]
    mixed = [same_as_before(reading.first[:, order], reading.question)[0].float() for order in orders]
    return same.float().mean(1), *mean_by_question(same.float() - torch.stack(mixed).mean(0), whose)


def same_as_before(
    first: Int[Tensor, "layers tokens"], question: Int[Tensor, "tokens"]
) -> tuple[Bool[Tensor, "layers pairs"], Int[Tensor, "pairs"]]:
    """Of each token but a question's first: whether it takes the expert of the token before it; and its question."""
    inside = question[1:] == question[:-1]
    return (first[:, 1:] == first[:, :-1])[:, inside], question[1:][inside]


def told_next(
    first: Int[Tensor, "layers tokens"], question: Int[Tensor, "tokens"], experts: int, draws: int = 200
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """How many bits a layer's expert tells about the next layer's, and half of a 95% interval.

    By the bootstrap: questions are drawn with replacement, as often as there are some (Efron 1979).
    """
    if len(first) < 2:
        return torch.zeros(0), torch.zeros(0)
    pair, group = first[:-1] * experts + first[1:], numbered(question)
    each = tally(pair, group, experts**2)  # [pairs, questions, both]
    drawn = torch.randint(each.shape[1], (draws, each.shape[1]), generator=torch.Generator().manual_seed(0))
    times = F.one_hot(drawn, each.shape[1]).sum(1).float()
    again = bits(torch.einsum("sq,pqe->spe", times, each).unflatten(-1, (experts, experts)))
    return bits(next_layer(first, experts)), 1.96 * again.std(0)


def next_layer(
    first: Int[Tensor, "layers tokens"], experts: int, order: Int[Tensor, "tokens"] | None = None
) -> Float[Tensor, "pairs experts experts"]:
    """For each layer but the last: how often which expert there goes with which one of the next layer.

    With `order` the next layer's tokens change places first, which is a control.
    """
    later = first[1:] if order is None else first[1:, order]
    pair = first[:-1] * experts + later
    counts = torch.stack([each.bincount(minlength=experts**2) for each in pair]) if len(pair) else pair[:, :0]
    return counts.float().view(len(pair), experts, experts) if len(pair) else torch.zeros(0, experts, experts)


def told_beyond_words(
    reading: Reading, experts: int, fewest: int = 20, draws: int = 20
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """How many bits a layer's expert tells about the next layer's; how many of them the word does not tell as well,
    and half of their 95% interval.

    What the word tells is left where tokens change places with others of their word alone; a word that is met less
    than `fewest` times has none to change with and is left out.
    """
    draw, word = torch.Generator().manual_seed(0), numbered(reading.token_ids)
    common = word.bincount()[word] >= fewest
    kept, word = reading.first[:, common], word[common]
    within = [shuffled_within(word, draw) for _ in range(draws)]
    by_word = torch.stack([bits(next_layer(kept, experts, order)) for order in within]).mean(0)
    told, half = told_next(kept, reading.question[common], experts)
    return told, told - by_word, half


def together(experts: Int[Tensor, "layers tokens top_k"], count: int) -> Float[Tensor, "layers experts experts"]:
    """How many tokens choose both of two experts (co-activation); 0 for an expert and itself."""
    chosen = F.one_hot(experts, count).sum(2).float()
    return torch.einsum("lta,ltb->lab", chosen, chosen) * (1 - torch.eye(count))


def by_load(pairs: Float[Tensor, "layers experts experts"]) -> Float[Tensor, "layers experts experts"]:
    """The same table if only each expert's load decided: every row's sum is kept, and nothing else is known.

    Quasi-independence of a table whose diagonal is empty, by scaling rows and columns in turn (Goodman 1968).
    """
    wanted = pairs.sum(-1)
    table = (1 - torch.eye(pairs.shape[-1])).expand_as(pairs).clone()
    for _ in range(200):
        scale = (wanted / table.sum(-1).clamp(min=1e-9)).sqrt()
        table = table * scale[:, :, None] * scale[:, None, :]
    return table
