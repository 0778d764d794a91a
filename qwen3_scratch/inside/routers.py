"""What routers do, measured: which words they send where, what changes that, and what a topic adds.

An expert of a token is its first choice, the strongest one, unless more are named. Dense layers are left out: a layer
here is a row of a tensor, and `Reading.layers` has its number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoints.checkpoint import Checkpoint
from ..model import forward
from ..tiny import corpus
from ..tiny.evaluate import bits, chat_ids
from ..tracing import trace

FEWEST = 4  # times that a word must be read to be typical of any expert


class Reading(NamedTuple):
    """What the routers saw and chose at the tokens of many questions, one question after the other."""

    experts: Int[Tensor, "layers tokens top_k"]  # the strongest first
    seen: Float[Tensor, "layers tokens hidden"]  # the vectors that the routers were given
    token_ids: Int[Tensor, "tokens"]
    before: Int[Tensor, "2 tokens"]  # the token in front of each, and the one in front of that
    question: Int[Tensor, "tokens"]  # the number of its question
    domain: Int[Tensor, "tokens"]  # in the order of corpus.DOMAINS
    layers: tuple[int, ...]  # the numbers of the layers that have a router

    @property
    def first(self) -> Int[Tensor, "layers tokens"]:
        return self.experts[..., 0]


Part = Callable[[Checkpoint, corpus.Example], tuple[list[int], slice]]


@torch.inference_mode()
def read_questions(
    checkpoint: Checkpoint, examples: Sequence[corpus.Example], batch: int = 24, part: Part = chat_ids
) -> Reading:
    """The routes of every token of the examples' last questions, each read after the chat that led to it.

    Another `part` than the questions, `tiny.evaluate.answer_ids` for instance, gives the chat and where in it stands
    what is to be read.
    """
    chosen, seen, texts = [], [], []
    layers: tuple[int, ...] = ()
    for start in range(0, len(examples), batch):
        asked = examples[start : start + batch]
        chats = [part(checkpoint, example) for example in asked]
        token_ids = pad_sequence([torch.tensor(ids[: words.stop]) for ids, words in chats], batch_first=True)
        ends = torch.tensor([[words.start, words.stop] for _, words in chats])
        places = torch.arange(token_ids.shape[1])
        keep, inside = places < ends[:, 1:], (places >= ends[:, :1]) & (places < ends[:, 1:])
        with trace() as recorded:
            forward(checkpoint.weights, token_ids, checkpoint.config, attention_mask=keep, logits_to_keep=1)
        calls, of_question = recorded["moe_route"], inside.flatten()
        layers = tuple(call.layer or 0 for call in calls)
        chosen.append(torch.stack([call.output.experts[of_question] for call in calls]))
        seen.append(torch.stack([call.inputs["x"][of_question].float() for call in calls]))
        number = start + inside.nonzero()[:, 0]
        domains = torch.tensor([corpus.DOMAINS.index(example.domain) for example in asked])
        front = [token_ids.roll(back, 1)[inside] for back in (1, 2)]  # the template stands before every question
        texts.append(torch.stack((*front, token_ids[inside], number, domains[number - start])))
    *front, token_ids, question, domain = torch.cat(texts, 1)
    routes = torch.cat(chosen, 1), torch.cat(seen, 1)
    return Reading(*routes, token_ids, torch.stack(front), question, domain, layers)


# ---- shares and bits, with chance beside them ----------------------------------------------------


def numbered(*keys: Int[Tensor, "tokens"]) -> Int[Tensor, "tokens"]:
    """Each token's group, counted from 0: tokens that agree in all keys are one group."""
    return torch.stack(keys, 1).unique(dim=0, return_inverse=True)[1]


def tally(
    first: Int[Tensor, "layers tokens"],
    group: Int[Tensor, "tokens"],
    experts: int,
    counted: Bool[Tensor, "tokens"] | None = None,
) -> Float[Tensor, "layers groups experts"]:
    """How often each group of tokens chose each expert; `counted` leaves tokens out, but no group."""
    each = F.one_hot(first, experts).float() * (1.0 if counted is None else counted[:, None])
    return torch.zeros(len(first), int(group.max()) + 1, experts).index_add(1, group, each)


def mean_by_question(
    values: Bool[Tensor, "layers tokens"] | Float[Tensor, "layers tokens"], question: Int[Tensor, "tokens"]
) -> tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]:
    """The mean of some values of tokens (of truths: their share), and half of its 95% interval.

    Tokens of one question are not independent, so what is drawn are questions: the ratio of two sums over them.
    """
    if not len(question):
        return torch.zeros(len(values)), torch.zeros(len(values))
    group = numbered(question)
    counts = torch.zeros(int(group.max()) + 1).index_add(0, group, torch.ones(len(group)))
    sums = torch.zeros(len(values), len(counts)).index_add(1, group, values.float())
    mean = sums.sum(1) / counts.sum()
    apart = (sums - mean[:, None] * counts).square().sum(1) * len(counts) / max(1, len(counts) - 1)
    return mean, 1.96 * apart.sqrt() / counts.sum()


class Bits(NamedTuple):
    """What routes tell about the domain, and what they would tell by chance and without learning, in bits."""

    measured: Float[Tensor, "layers"]
    shuffled: Float[Tensor, "draws layers"]
    random: Float[Tensor, "draws layers"]
    tokens: int  # counted: those whose key is met in two domains or more


def bits_given(counts: Float[Tensor, "layers keys domains experts"]) -> Float[Tensor, "layers"]:
    """Bits that a token's expert tells about its domain to one who knows its key, each domain weighing the same.

    The conditional mutual information I(expert; domain | key); one key for all: `tiny.evaluate.mutual_information`.
    """
    each = counts / counts.sum((1, 3), keepdim=True).clamp(min=1)
    joint = each / each.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return (joint.sum((2, 3)) * bits(joint)).sum(1)


def domain_bits(
    reading: Reading,
    routers: Sequence[Float[Tensor, "experts hidden"]],
    key: Int[Tensor, "tokens"],
    draws: tuple[int, int] = (200, 60),
) -> Bits:
    """`bits_given` a token's key, its word for instance, with two controls.

    Domains are shuffled among the questions that hold the same key, since the tokens of one are not independent; and
    random routers see the same vectors. A key that stands in one domain alone gives that away: its tokens are left out.
    """
    experts, domains = len(routers[0]), int(reading.domain.max()) + 1
    kept = (torch.stack((key, reading.domain), 1).unique(dim=0)[:, 0].bincount() > 1)[key]
    pairs, pair = torch.stack((numbered(key[kept]), reading.question[kept]), 1).unique(dim=0, return_inverse=True)
    keys = pairs[:, 0]  # in order
    home = torch.empty_like(keys).index_copy(0, pair, reading.domain[kept])

    def told(sent: Float[Tensor, "layers pairs experts"], home: Int[Tensor, "pairs"]) -> Float[Tensor, "layers"]:
        counts = torch.zeros(len(sent), (int(keys.max()) + 1) * domains, experts)
        return bits_given(counts.index_add(1, keys * domains + home, sent).unflatten(1, (-1, domains)))

    generator = torch.Generator().manual_seed(0)
    sent = tally(reading.first[:, kept], pair, experts)
    orders = ((keys + torch.rand(len(keys), generator=generator).double()).argsort() for _ in range(draws[0]))
    shuffled = torch.stack([told(sent, home[order]) for order in orders])
    drawn = (torch.randn(routers[0].shape, generator=generator) for _ in range(draws[1]))
    strongest = (F.linear(reading.seen[:, kept], router).argmax(-1) for router in drawn)
    random = torch.stack([told(tally(first, pair, experts), home) for first in strongest])
    return Bits(told(sent, home), shuffled, random, int(kept.sum()))


# ---- words -----------------------------------------------------------------------------------------


class Told(NamedTuple):
    """How often an expert is guessed right from the word alone, and by how much more often with a context."""

    share: float
    gain: float
    half: float  # half of the gain's 95% interval: the same tokens both ways


def told_by(reading: Reading, row: int, word: int, key: Int[Tensor, "tokens"], experts: int) -> Told:
    """For one word in one layer: what the `key` of each of its tokens, the token before for instance, adds."""
    its = reading.token_ids == word
    first, question, alone = reading.first[row : row + 1, its], reading.question[its], torch.zeros_like(key[its])
    without, by_key = (guessed(first, chain, question, experts).float() for chain in ([alone], [key[its], alone]))
    gain, half = mean_by_question(by_key - without, question)
    return Told(float(without.mean()), float(gain), float(half))


def by_context(
    reading: Reading, row: int, word: int, key: Int[Tensor, "tokens"], experts: int, most: int = 3
) -> list[tuple[int, int, int, int]]:
    """For one word: its commonest contexts, each with the expert that most of its tokens then go to, how many, of how
    many. Those met once or twice are left out."""
    its = reading.token_ids == word
    context, group = key[its].unique(return_inverse=True)
    counts = tally(reading.first[row : row + 1, its], group, experts)[0]
    order = counts.sum(-1).argsort(descending=True, stable=True)[:most].tolist()
    rows = [(int(context[at]), counts[at]) for at in order if counts[at].sum() > 2]
    return [(one, int(each.argmax()), int(each.max()), int(each.sum())) for one, each in rows]


def guessed(
    first: Int[Tensor, "layers tokens"], chain: Sequence[Int[Tensor, "tokens"]], question: Int[Tensor, "tokens"],
    experts: int,
) -> Bool[Tensor, "layers tokens"]:  # fmt: skip
    """Whether each token's expert is the likeliest by the keys of the chain, from the longest to the shortest.

    One half of the questions teaches, the other is asked, and then the other way round. A key votes with its counts;
    one vote more is divided as the next shorter key would, which decides where the key was never met (back-off).
    """
    right = torch.zeros(first.shape, dtype=torch.bool)
    for half in range(2):
        learn = question % 2 == half
        likely = torch.full((len(first), int((~learn).sum()), experts), 1 / experts)
        for key in map(numbered, reversed(chain)):
            counts = tally(first, key, experts, learn)[:, key[~learn]]
            likely = (counts + likely) / (counts.sum(-1, keepdim=True) + 1)
        right[:, ~learn] = likely.argmax(-1) == first[:, ~learn]
    return right


def met(key: Int[Tensor, "tokens"], question: Int[Tensor, "tokens"]) -> float:
    """The share of tokens whose key also stands in the other half of the questions, where `guessed` learns."""
    halves = [question % 2 == half for half in range(2)]
    found = [torch.isin(key[half], key[~half]) for half in halves]
    return float(torch.cat(found).float().mean())


def typical_words(
    reading: Reading, texts: Sequence[str], experts: int, tokens: Bool[Tensor, "tokens"], most: int = 5
) -> dict[int, list[list[str]]]:
    """Of each layer's number, for each expert, the words that it gets far more often than its load explains.

    A word's rank is times * log(share of the word that goes there / share of all tokens that does), counted over some
    `tokens`; rare words are left out. `texts` are the tokens of the reading as they are written.
    """
    word = numbered(reading.token_ids)
    names = dict(zip(word.tolist(), texts, strict=True))
    counts = tally(reading.first, word, experts, tokens)  # [layers, words, experts]
    read, all_words = counts.sum(-1, keepdim=True), counts.sum(1, keepdim=True)
    apart = counts / read / (all_words / all_words.sum(-1, keepdim=True))
    rank = torch.where((counts > 0) & (read >= FEWEST), counts * apart.log(), 0.0)
    best = rank.transpose(1, 2).topk(min(most, rank.shape[1]), dim=-1)  # [layers, experts, most]
    return {
        layer: [[names[one] for one, value in zip(*pair, strict=True) if value > 0] for pair in zip(*each, strict=True)]
        for layer, *each in zip(reading.layers, best.indices.tolist(), best.values.tolist(), strict=True)
    }


def kept_words(
    reading: Reading,
    typical: Mapping[int, Sequence[Sequence[str]]],
    texts: Sequence[str],
    tokens: Bool[Tensor, "tokens"],
) -> tuple[Bool[Tensor, "2 found"], Int[Tensor, "found"], dict[int, list[float]]]:
    """Of some tokens, those that are a typical word in a layer: whether each goes to its expert, and whether it goes to
    the expert that most of the other tokens of its layer go to; and its question. At last, for each expert of a layer
    which share of its words' tokens goes there (nan where none is met).

    `typical` has for each layer's number the words of each expert; a word of several belongs to the one where it stands
    higher. `texts` are the tokens of the reading as they are written.
    """
    right, whose, shares = [], [], {}
    for row, layer in enumerate(reading.layers):
        if layer in typical:
            ranked = [(place, expert) for expert, words in enumerate(typical[layer]) for place in range(len(words))]
            home = {typical[layer][expert][place]: expert for place, expert in sorted(ranked, reverse=True)}
            found = [(at, home[texts[at]]) for at in tokens.nonzero()[:, 0].tolist() if texts[at] in home]
            sent, busiest = reading.first[row].tolist(), int(reading.first[row, ~tokens].bincount().argmax())
            right += [(sent[at] == expert, sent[at] == busiest) for at, expert in found]
            whose += [int(reading.question[at]) for at, _ in found]
            own = [
                [sent[at] == expert for at, home in found if home == expert] for expert in range(len(typical[layer]))
            ]
            shares[layer] = [sum(each) / len(each) if each else math.nan for each in own]
    return torch.tensor(right, dtype=torch.bool).view(-1, 2).T, torch.tensor(whose, dtype=torch.long), shares


def words_of(reading: Reading, row: int, expert: int, domain: int, most: int = 5) -> list[tuple[int, int]]:
    """What an expert reads of a domain, by first or later choice: the commonest token ids, and how often each."""
    its = reading.token_ids[(reading.experts[row] == expert).any(-1) & (reading.domain == domain)]
    tokens, counts = its.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:most]
    return [(int(tokens[at]), int(counts[at])) for at in order.tolist()]
