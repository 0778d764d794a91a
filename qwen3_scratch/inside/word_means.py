"""What routes would tell about the domain, were routers shown nothing but the word: a third control.

The other two, shuffled domains and random routers, are in `routers`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tiny.evaluate import mutual_information
from .routers import Reading, numbered, tally


class ByWords(NamedTuple):
    """What routes tell about the domain, beside what words' mean vectors alone would make them tell, in bits."""

    measured: Float[Tensor, "layers"]
    by_words: Float[Tensor, "layers"]
    shuffled: Float[Tensor, "layers"]  # the mean over other orders of the domains
    half: Float[Tensor, "layers"]  # half of the 95% interval of `measured`
    half_by_words: Float[Tensor, "layers"]
    half_beyond: Float[Tensor, "layers"]  # and of `measured - by_words`
    tokens: int  # counted: those whose word is met in the other half of the questions


def by_word_means(
    reading: Reading, routers: Sequence[Float[Tensor, "experts hidden"]]
) -> tuple[Int[Tensor, "layers tokens"], Bool[Tensor, "tokens"]]:
    """Where trained routers would send each token, were they shown its word's mean vector: no context is left.

    The mean is that of the other half of the questions, so that no token takes part in its own; and whether its word
    is met there at all.
    """
    word, found = numbered(reading.token_ids), torch.zeros_like(reading.first)
    known = torch.zeros(len(word), dtype=torch.bool)
    for half in range(2):
        asked = reading.question % 2 == half
        count = word[~asked].bincount(minlength=int(word.max()) + 1)
        known |= asked & (count > 0)[word]
        for row, (seen, router) in enumerate(zip(reading.seen, routers, strict=True)):
            sums = torch.zeros(len(count), seen.shape[1]).index_add(0, word[~asked], seen[~asked])
            strongest = F.linear(sums / count[:, None].clamp(min=1), router.float()).argmax(-1)
            found[row, asked] = strongest[word[asked]]
    return found, known


def bits_by_words(reading: Reading, routers: Sequence[Float[Tensor, "experts hidden"]], draws: int = 200) -> ByWords:
    """A third control of `mutual_information` between domain and expert, beside those of `domain_bits`.

    Intervals are by the bootstrap: of each domain as many questions are drawn as it has, with replacement (Efron 1979).
    """
    sent, known = by_word_means(reading, routers)
    domain, question = reading.domain[known], numbered(reading.question[known])
    both = torch.cat((reading.first[:, known], sent[:, known]))
    each = tally(both, question, len(routers[0]))  # [2 layers, questions, experts]
    home = domain.new_empty(each.shape[1]).index_copy(0, question, domain)

    def told(home: Int[Tensor, "questions"], each: Float[Tensor, "rows questions experts"]) -> Float[Tensor, "rows"]:
        counts = torch.zeros(len(each), int(domain.max()) + 1, each.shape[2]).index_add(1, home, each)
        return mutual_information(counts)

    generator = torch.Generator().manual_seed(0)
    other = [told(home[torch.randperm(len(home), generator=generator)], each) for _ in range(draws)]
    parts = [(home == one).nonzero()[:, 0] for one in home.unique().tolist()]
    again = []
    for _ in range(draws):
        drawn = torch.cat([part[torch.randint(len(part), part.shape, generator=generator)] for part in parts])
        again.append(told(home[drawn], each[:, drawn]).view(2, -1))
    measured, by_words = told(home, each).view(2, -1)
    spread = torch.stack(again)  # [draws, 2, layers]
    half, half_by_words, half_beyond = (
        1.96 * one.std(0) for one in (spread[:, 0], spread[:, 1], spread[:, 0] - spread[:, 1])
    )
    chance = torch.stack(other).mean(0).view(2, -1)[0]
    return ByWords(measured, by_words, chance, half, half_by_words, half_beyond, int(known.sum()))
