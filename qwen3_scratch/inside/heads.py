"""What attention heads do, measured: where they look, what they copy, and what is lost without them.

A head is named by its layer and its number there: L1H4 is head 4 of layer 1, both counted from 0.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import Config
from ..errors import Error
from ..model import Ops, Weights, attention_mask, attention_weights, forward, gqa_attention
from ..tiny.lookups import Lookups
from ..tokenizer import Tokenizer
from ..tracing import trace

Head = tuple[int, int]  # layer, head


def even_weights(config: Config, seq: int) -> Float[Tensor, "layers 1 1 seq seq"]:
    """What a head without any preference would do: the same weight on every token that it may see."""
    positions = torch.arange(seq)[None]
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    seen = torch.stack([attention_mask(positions, positions, window) for window in windows]).float()
    return seen / seen.sum(-1, keepdim=True)


def shuffled_rows(
    tokenizer: Tokenizer, words: Sequence[str], period: int, rows: int = 24
) -> Int[Tensor, "rows period"]:
    """Rows of different words in random order, each word by its first token: only places tell where to look."""
    ids = torch.tensor([tokenizer.encode(f" {word}")[0] for word in words])
    draw = torch.Generator().manual_seed(0)
    return torch.stack([ids[torch.randperm(len(ids), generator=draw)[:period]] for _ in range(rows)])


def previous_token(looks: Float[Tensor, "layers batch heads seq seq"]) -> Float[Tensor, "layers heads"]:
    """Share of its weight that a token gives to the token before it, averaged over the tokens that have one."""
    return looks.diagonal(-1, -2, -1).mean((1, 3))


def continuing(looks: Float[Tensor, "layers batch heads seq seq"], period: int) -> Float[Tensor, "layers batch heads"]:
    """In a text that repeats after `period` tokens: share given to the token that followed this one the last time.

    Only the second half is asked, whose tokens have been there before. For any tokens its mean over the texts is the
    induction score (Olsson et al. 2022, arXiv:2209.11895).
    """
    return looks.diagonal(1 - period, -2, -1)[..., 1:].mean(-1)


def without(weights: Weights, config: Config, heads: Collection[Head]) -> Weights:
    """The same weights, but what the given heads gather is multiplied by zero: their columns of `o_proj`."""
    layers = list(weights.layers)
    for layer, head in heads:
        o_proj = layers[layer].o_proj.clone()
        o_proj[:, head * config.head_dim : (head + 1) * config.head_dim] = 0
        layers[layer] = layers[layer]._replace(o_proj=o_proj)
    return weights._replace(layers=tuple(layers))


def copying(
    weights: Weights, config: Config, token_ids: Int[Tensor, "batch seq"], words: Int[Tensor, "words"]
) -> Float[Tensor, "layers heads"]:
    """How often a head, looking at a word, raises that word's own logit most among all `words`.

    The value of the token it looks at goes through the head's part of `o_proj` and the model's head, which is the OV
    circuit of Elhage et al. 2021 on the values of a real pass. Chance is 1 / words. `token_ids` hold nothing else.
    """
    with trace() as t:
        forward(weights, token_ids, config, logits_to_keep=1)
    unembed = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    group = config.num_attention_heads // config.num_key_value_heads
    own = (token_ids[..., None] == words).int().argmax(-1)  # [batch, seq], which of the words
    found = []
    for layer, call in zip(weights.layers, t["gqa_attention"], strict=True):
        v = call.inputs["v"].repeat_interleave(group, dim=1)  # [batch, heads, seq, head_dim]
        out = layer.o_proj.unflatten(1, (-1, config.head_dim))  # [hidden, heads, head_dim]
        written = torch.einsum("bhsd,ehd->bhse", v, out)
        logits = F.linear(written * weights.norm, unembed[words])
        found.append((logits.argmax(-1) == own[:, None]).float().mean((0, 2)))
    return torch.stack(found)


def given_by_place(
    weights: Weights, config: Config, token_ids: Int[Tensor, "1 seq"], layer: int, words: Sequence[int]
) -> Float[Tensor, "words seq"]:
    """What each place gives to each word's logit after the last token, through the attention of one layer.

    Weight times value, through each head's part of `o_proj`, over the last norm's root mean square and times its
    weight: the layer's share in direct logit attribution (Elhage et al. 2021), split by place. A bias has no place.
    """
    with trace() as passed:
        forward(weights, token_ids, config, logits_to_keep=1)
    q, k, v, seen = passed["gqa_attention"][layer].inputs.values()
    looks = attention_weights(q, k, seen)[0, :, -1].float()  # [heads, seq]
    values = v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)[0].float()  # [heads, seq, head_dim]
    out = weights.layers[layer].o_proj.float().unflatten(1, (-1, config.head_dim))  # [hidden, heads, head_dim]
    added = torch.einsum("hp,hpd,ohd->po", looks, values, out)  # [seq, hidden]
    size = (passed["decoder_layer"][-1].output[0, -1].float().pow(2).mean() + config.rms_norm_eps).sqrt()
    unembed = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    return unembed[list(words)].float() @ (added / size * weights.norm.float()).T


def normed_terms(
    terms: Float[Tensor, "terms hidden"], weight: Float[Tensor, "hidden"], eps: float
) -> Float[Tensor, "terms hidden"]:
    """What each term adds to the normed sum of all: over the root mean square of that sum, times the norm's weight.

    The terms of direct logit attribution (Elhage et al. 2021), before the output head.
    """
    size = (terms.sum(0).pow(2).mean() + eps).sqrt()
    return terms / size * weight


def margins(weights: Weights, config: Config, lookups: Lookups, ops: Ops = Ops()) -> Float[Tensor, "texts"]:
    """Each text's mean over its steps of the right word's logit less the best other word's, in nats.

    Unlike a probability it does not stop at 1: one nat more makes the right word e times likelier beside the other.
    Below 0 another word wins. A logit difference, as in Wang et al. 2022, arXiv:2211.00593.
    """
    logits = forward(weights, lookups.token_ids, config, ops=ops)[lookups.text, lookups.query].float()
    right = logits.gather(1, lookups.answers[:, None])
    others = logits.scatter(1, lookups.answers[:, None], -torch.inf)
    return by_text(right[:, 0] - others.amax(1), lookups)


def by_text(values: Float[Tensor, "*heads steps"], lookups: Lookups) -> Float[Tensor, "*heads texts"]:
    """The mean over the steps of each text: a text's steps are not independent, its mean counts once."""
    texts = len(lookups.token_ids)
    total = values.new_zeros(*values.shape[:-1], texts).index_add(-1, lookups.text, values)
    return total / lookups.text.bincount(minlength=texts)


def looked(
    looks: Float[Tensor, "layers batch heads seq seq"], lookups: Lookups, places: Bool[Tensor, "steps seq"]
) -> Float[Tensor, "layers heads texts"]:
    """The share of its weight that each head gives to `places`, each text's mean over its steps.

    `looks` are of the look-ups' texts, or of one text (as `even_weights` are) that stands for all.
    """
    layers, _, heads, *size = looks.shape
    asked = looks.expand(layers, len(lookups.token_ids), heads, *size)[:, lookups.text, :, lookups.query]
    return by_text((asked * places[:, None, None]).sum(-1).permute(1, 2, 0), lookups)  # from [steps, layers, heads]


def mean_gathered(weights: Weights, config: Config, lookups: Lookups) -> Float[Tensor, "layers heads head_dim"]:
    """What each head gathers, averaged over all tokens up to each text's last look-up: nothing of any one story."""
    with trace() as t:
        forward(weights, lookups.token_ids, config, logits_to_keep=1)
    texts, seq = lookups.token_ids.shape
    last = torch.stack([lookups.query[lookups.text == text].max() for text in range(texts)])
    read = torch.arange(seq, device=last.device) <= last[:, None]  # [texts, seq], without the padding
    return torch.stack([call.output.transpose(1, 2)[read].mean(0) for call in t["gqa_attention"]])


def with_means(
    weights: Weights, config: Config, heads: Collection[Head], means: Float[Tensor, "layers heads head_dim"]
) -> Weights:
    """The same weights, but the given heads always gather their mean: their columns of `o_proj` move into its bias.

    Mean ablation, as in Wang et al. 2022 (arXiv:2211.00593): what a head adds on every text stays.
    """
    layers = list(without(weights, config, heads).layers)
    for layer, head in heads:
        own = weights.layers[layer].o_proj[:, head * config.head_dim : (head + 1) * config.head_dim]
        always = own @ means[layer, head].to(own.dtype)
        bias = layers[layer].o_bias
        layers[layer] = layers[layer]._replace(o_bias=always if bias is None else bias + always)
    return weights._replace(layers=tuple(layers))


class Patched(NamedTuple):
    """What a layer's heads do, and how sure the answer is, after a part of their input was exchanged."""

    looks: Float[Tensor, "heads texts"]  # weight on the word to copy
    margins: Float[Tensor, "texts"]


def attention_inputs(
    weights: Weights, config: Config, token_ids: Int[Tensor, "texts seq"], layer: int, ops: Ops = Ops()
) -> dict[str, Tensor]:
    """What the heads of one layer get in a pass: queries, keys, values and mask, as "q", "k", "v" and "mask"."""
    with trace() as t:
        forward(weights, token_ids, config, logits_to_keep=1, ops=ops)
    return dict(t["gqa_attention"][layer].inputs)


def lending(lent: Mapping[str, Tensor], layer: int, parts: str) -> Ops:
    """The steps of one pass in which a layer attends with queries, keys or values (`parts` of "qkv") of another."""
    calls = itertools.count()

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        given = {"q": q, "k": k, "v": v}
        if next(calls) == layer:
            given |= {part: lent[part] for part in parts}
        return gqa_attention(**given, mask=mask)

    return Ops(attention=attention)


def patched(weights: Weights, config: Config, lookups: Lookups, donor: Weights, layer: int, parts: str) -> Patched:
    """A pass of `weights` in which one layer takes its queries, keys or values (`parts` of "qkv") from one of `donor`.

    With a donor that lacks a head this asks along which way the head reaches the layer: path patching, as in
    Wang et al. 2022 (arXiv:2211.00593). All that comes before the layer, and its residual stream, stay whole.
    """
    steps = lending(attention_inputs(donor, config, lookups.token_ids, layer), layer, parts)
    with trace() as t:
        found = margins(weights, config, lookups, steps)
    call = t["gqa_attention"][layer].inputs
    looks = attention_weights(call["q"], call["k"], call["mask"]).float()
    return Patched(looked(looks[None], lookups, lookups.followers)[0], found)


def gathered_on(weights: Weights, config: Config, token_ids: Int[Tensor, "texts seq"], head: Head) -> Ops:
    """Operations with which `head` gathers in each whole pass what it gathers on these texts; all others as usual."""
    with trace() as t:
        forward(weights, token_ids, config, logits_to_keep=1)
    other, calls = t["gqa_attention"][head[0]].output[:, head[1]], itertools.count()

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        gathered = gqa_attention(q, k, v, mask=mask)
        if next(calls) % config.num_hidden_layers == head[0]:
            gathered = torch.cat((gathered[:, : head[1]], other[:, None], gathered[:, head[1] + 1 :]), dim=1)
        return gathered

    return Ops(attention=attention)


class Exchange(NamedTuple):
    """Look-ups, one step a text, and the same texts with another word of the notes in the place of the word read."""

    lookups: Lookups
    elsewhere: Bool[Tensor, "steps seq"]  # what follows that other word in the notes as they are
    in_notes: Int[Tensor, "steps seq"]  # the two words have changed places in the notes
    in_query: Int[Tensor, "steps seq"]  # the other word is read

    @property
    def other_answers(self) -> Int[Tensor, "steps"]:
        """The words that would be right behind the other word."""
        return self.lookups.token_ids[self.lookups.text, self.elsewhere.int().argmax(1)]

    @property
    def in_answers(self) -> Int[Tensor, "steps seq"]:
        """The texts in whose notes the words that are right behind the two have changed places."""
        ids, noted = self.lookups.token_ids, self.lookups.followers | self.lookups.others
        right, other = self.lookups.answers[:, None], self.other_answers[:, None]
        return torch.where(noted & (ids == right), other, torch.where(noted & (ids == other), right, ids))


def in_line(noted: Bool[Tensor, "seq"]) -> Int[Tensor, "seq"]:
    """Which word of its line of notes each one is, from 1: of `Leo school white coat` the coat is the fourth."""
    places = torch.arange(len(noted), device=noted.device)
    return places - torch.where(noted, -1, places).cummax(0).values


def exchange_words(lookups: Lookups) -> Exchange:
    """For each step another word of the same notes and kind, drawn once, that what is right does not follow.

    A head that notes the word before notes another one, at its followers, `in_notes`. One that says which word is
    read says another one `in_query`. A word's kind is told by `in_line`: a coat changes places with a cup. Where the
    notes hold no such word, as those of one person hold no second name, any does.
    Raises Error where they hold none at all.
    """
    draw, ids = torch.Generator().manual_seed(0), lookups.token_ids[lookups.text]
    in_notes, in_query, elsewhere = ids.clone(), ids.clone(), torch.zeros_like(lookups.followers)
    noted = lookups.followers | lookups.others
    for step, (row, at) in enumerate(zip(ids, lookups.query.tolist(), strict=True)):
        places = noted[step].nonzero()[:, 0]
        behind = places[noted[step, places - 1]]  # words that another word of the notes stands before
        wrong = (row[behind] != row[at + 1]) & (row[behind - 1] != row[at]) & (row[behind - 1] != row[at + 1])
        same = row[:, None] == row[places]  # [seq, places]
        kind = torch.where(same, in_line(noted[step])[places], len(row)).amin(1)  # where a word stands first
        fit = wrong & (kind[behind - 1] == kind[at])
        behind_it = behind[fit if fit.any() else wrong]
        if not len(behind_it):
            raise Error("notes: no word found beside the two of this look-up, expected those of a second person, too")
        chosen = behind_it[torch.randint(len(behind_it), (), generator=draw)] - 1
        elsewhere[step, behind[row[behind - 1] == row[chosen]]] = True
        in_query[step, at] = row[chosen]
        in_notes[step, places[row[places] == row[at]]] = row[chosen]
        in_notes[step, places[row[places] == row[chosen]]] = row[at]
    alone = lookups._replace(token_ids=ids, text=torch.arange(len(ids), device=ids.device))
    return Exchange(alone, elsewhere, in_notes, in_query)


class Followed(NamedTuple):
    """What became of each step when a head said another word."""

    looks: Float[Tensor, "heads steps seq"]  # the weights of the word read
    words: Int[Tensor, "steps"]  # what the model writes behind it


def followed(weights: Weights, config: Config, exchange: Exchange, head: Head, layer: int, part: str) -> Followed:
    """Where the heads of `layer` look, and what is written, when `head` says the other word.

    In the keys (`part` "k") the head says what it says where the words have changed places in the notes, in the
    queries ("q") what it says where the other word is read, in the values ("v") what it says where the words behind
    the two have changed places. Without a part nothing is exchanged.
    """
    ids, at = exchange.lookups.token_ids, exchange.lookups.query
    others = {"k": exchange.in_notes, "q": exchange.in_query, "v": exchange.in_answers, "": ids}
    ops = gathered_on(weights, config, others[part], head)
    steps = lending(attention_inputs(weights, config, ids, layer, ops), layer, part)
    with trace() as t:
        logits = forward(weights, ids, config, ops=steps)
    call, every = t["gqa_attention"][layer].inputs, exchange.lookups.text
    looks = attention_weights(call["q"], call["k"], call["mask"]).float()
    return Followed(looks[every, :, at].transpose(0, 1), logits[every, at].argmax(-1))
