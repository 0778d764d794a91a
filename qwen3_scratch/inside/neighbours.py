"""What routes share with their neighbours: with the token before, with the next layer, with the other expert chosen.

As in `routers`, an expert of a token is its first choice unless more are named.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tiny.evaluate import bits
from .routers import mean_by_question, tally

FEWEST = 20  # times that a word must be read to have others of its kind to change places with
RARE = 10  # tokens that loads alone must give a pair: of rarer ones a multiple says little


# ---- the token before --------------------------------------------------------------------------------


def same_as_before(
    first: Int[Tensor, "layers tokens"], question: Int[Tensor, "tokens"]
) -> tuple[Bool[Tensor, "layers pairs"], Bool[Tensor, "tokens"]]:
    """Of each token but a question's first: whether it takes the expert of the token before it; and which they are."""
    behind = torch.cat((torch.zeros_like(question[:1]) > 0, question[1:] == question[:-1]))
    return (first == first.roll(1, 1))[:, behind], behind


def persistence(
    first: Int[Tensor, "layers tokens"], question: Int[Tensor, "tokens"], experts: int
) -> tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]:
    """The share of tokens that take the expert of the token before; and what the experts' shares alone would give.

    If two neighbours chose independently, both would take an expert with the product of its shares, its square: the
    sum over the experts, which is 1 / experts only where all are used alike.
    """
    same, _ = same_as_before(first, question)
    shares = F.one_hot(first, experts).float().mean(1)
    return same.float().mean(1), shares.square().sum(-1)


class Same(NamedTuple):
    """Whether tokens take the expert of the token before, and two chances of it."""

    same: Float[Tensor, "layers pairs"]  # 1 or 0
    by_words: Float[Tensor, "layers pairs"]  # if each went where its word goes elsewhere
    by_load: Float[Tensor, "layers"]  # if each went anywhere, by the experts' shares of these pairs
    question: Int[Tensor, "pairs"]


def same_by_words(
    first: Int[Tensor, "layers tokens"], word: Int[Tensor, "tokens"], question: Int[Tensor, "tokens"], experts: int
) -> Same:
    """Neighbours with the same expert, beside the chance of it by the words alone.

    The chance is that two tokens go to one expert if each goes where its word goes in the other half of the questions,
    as often as there, whatever stands around it. Pairs with a word not met there are left out.
    """
    same, behind = same_as_before(first, question)
    each, known = torch.zeros(*first.shape, experts), torch.zeros(len(question), dtype=torch.bool)
    for half in range(2):
        learn = question % 2 == half
        counts = tally(first, word, experts, learn)
        known |= ~learn & (counts[0].sum(-1) > 0)[word]
        each[:, ~learn] = (counts / counts.sum(-1, keepdim=True).clamp(min=1))[:, word[~learn]]
    chance = (each * each.roll(1, 1)).sum(-1)[:, behind]
    kept = (known & known.roll(1))[behind]
    chosen = F.one_hot(first, experts).float()
    shares = (part[:, behind][:, kept].mean(1) for part in (chosen, chosen.roll(1, 1)))
    return Same(
        same[:, kept].float(), chance[:, kept], torch.stack(list(shares)).prod(0).sum(-1), question[behind][kept]
    )


# ---- the next layer ----------------------------------------------------------------------------------


def shuffled_within(group: Int[Tensor, "tokens"], generator: torch.Generator) -> Int[Tensor, "tokens"]:
    """An order of the tokens in which each changes places with others of its group alone."""
    order = torch.empty_like(group)
    order[group.argsort(stable=True)] = (group + torch.rand(len(group), generator=generator).double()).argsort()
    return order


def next_layer(
    first: Int[Tensor, "layers tokens"], experts: int, order: Int[Tensor, "tokens"] | None = None
) -> Float[Tensor, "steps experts experts"]:
    """For each layer but the last: how often which expert there goes with which one of the next layer.

    With `order` the next layer's tokens change places first, which is a control.
    """
    later = first[1:] if order is None else first[1:, order]
    pair = first[:-1] * experts + later
    counts = torch.zeros(len(pair), experts**2).scatter_add(1, pair, torch.ones(pair.shape))
    return counts.unflatten(1, (experts, experts))


def mixed_within(
    one: Int[Tensor, "tokens"], two: Int[Tensor, "tokens"], group: Int[Tensor, "tokens"], experts: int
) -> Float[Tensor, "experts experts"]:
    """How often each expert of one layer would go with each of another, if tokens changed places within their groups.

    The mean over all orders of `shuffled_within`: of n tokens of a group, a with an expert here and b with one there,
    a * b / n have both.
    """
    here, there = tally(torch.stack((one, two)), group, experts)  # [groups, experts] each
    return here.T @ (there / here.sum(-1, keepdim=True).clamp(min=1))


class ToldNext(NamedTuple):
    """What a layer's expert tells about the next layer's, in bits, for each layer but the last."""

    bits: Float[Tensor, "steps"]
    by_word: Float[Tensor, "steps"]  # what is left where tokens change places with others of their word
    shuffled: Float[Tensor, "steps"]  # and what is left where they change places with any
    half: Float[Tensor, "steps"]  # half of the 95% interval of `bits`
    half_by_word: Float[Tensor, "steps"]
    half_beyond: Float[Tensor, "steps"]  # and of `bits - by_word`
    tokens: int  # counted


def told_next(
    first: Int[Tensor, "layers tokens"], word: Int[Tensor, "tokens"], question: Int[Tensor, "tokens"], experts: int,
    draws: int = 200,
) -> ToldNext:  # fmt: skip
    """How many bits a layer's expert tells about the next layer's, and how many of them the word tells as well.

    If the word alone decided both, tokens of one word could change places in the next layer, and nothing would be
    lost. A word that is read less than FEWEST times has too few to change with and is left out. Intervals are by the
    bootstrap: questions are drawn with replacement, as often as there are some (Efron 1979).
    """
    generator = torch.Generator().manual_seed(0)
    common = word.bincount()[word] >= FEWEST
    first, word, question = first[:, common], word[common], question[common]
    if not first[1:].numel():  # one layer, or rare words alone
        none = torch.zeros(len(first[1:]))
        return ToldNext(none, none, none, none, none, none, len(word))

    def told(first: Tensor, group: Tensor) -> Tensor:
        return bits(next_layer(first, experts, shuffled_within(group, generator)))

    def mean(group: Tensor) -> Tensor:
        return torch.stack([told(first, group) for _ in range(20)]).mean(0)

    of_question = [(question == one).nonzero()[:, 0] for one in question.unique().tolist()]
    found = []
    for _ in range(draws):
        drawn = torch.randint(len(of_question), (len(of_question),), generator=generator).tolist()
        some = torch.cat([of_question[one] for one in drawn])
        whole, by_word = bits(next_layer(first[:, some], experts)), told(first[:, some], word[some])
        found.append(torch.stack((whole, by_word, whole - by_word)))
    half, half_by_word, half_beyond = 1.96 * torch.stack(found).std(0)
    whole, by_word = bits(next_layer(first, experts)), mean(word)
    shuffled = mean(torch.zeros_like(word))
    return ToldNext(whole, by_word, shuffled, half, half_by_word, half_beyond, len(word))


# ---- the other expert --------------------------------------------------------------------------------


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


def by_load_within(
    experts: Int[Tensor, "tokens top_k"], group: Int[Tensor, "tokens"], count: int, here: Bool[Tensor, "tokens"]
) -> Float[Tensor, "experts experts"]:
    """How many tokens `here` would choose both of two experts if the loads decided that their group has elsewhere.

    The sum of `by_load` over the groups. With words as groups it keeps which experts a word has, and leaves out which
    of them go together: of a word with few tokens elsewhere these are hardly apart. One with none gives 0.
    """
    chosen = F.one_hot(experts, count).sum(1).float()
    both = chosen[:, :, None] * chosen[:, None, :] * (1 - torch.eye(count))
    groups = int(group.max()) + 1
    tables = torch.zeros(groups, count, count).index_add(0, group[~here], both[~here])
    asked, known = (group[its].bincount(minlength=groups) for its in (here, ~here))
    met = (asked > 0) & (tables.sum((1, 2)) > 0)
    return (by_load(tables[met]) * (asked / known.clamp(min=1))[met, None, None]).sum(0)


class Pair(NamedTuple):
    """Two experts of a layer, found on one half of the questions, and how they go together on the other half."""

    row: int
    one: int
    two: int
    times: float  # as often as by load
    half: float  # half of the 95% interval of `times`
    tokens: int  # of the other half that choose both
    of: int  # of so many


def strongest_pair(
    experts: Int[Tensor, "layers tokens top_k"], question: Int[Tensor, "tokens"], count: int
) -> Pair | None:
    """The pair that one half of the questions shows most above its loads, asked on the other half.

    The highest of many multiples is high by chance, too: so it is chosen on questions that do not measure it. None
    where a token has one expert, or no pair is expected RARE times.
    """
    learn = question % 2 == 0
    pairs, others = (together(experts[:, its], count) for its in (learn, ~learn))
    chance = by_load(pairs)
    ratio = torch.where(chance >= RARE, pairs / chance.clamp(min=1e-9), 0.0).triu(1)
    if experts.shape[-1] < 2 or not ratio.any():
        return None
    row, one, two = (int(at) for at in torch.unravel_index(ratio.argmax(), ratio.shape))
    both = ((experts[row] == one).any(-1) & (experts[row] == two).any(-1))[~learn]
    share, half = mean_by_question(both[None], question[~learn])
    expected = max(float(by_load(others)[row, one, two]), 1e-9) / len(both)
    return Pair(row, one, two, float(share) / expected, float(half) / expected, int(both.sum()), len(both))
