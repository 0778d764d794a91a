"""What attention heads do, measured: where they look, what they copy, and what is lost without them.

A head is named by its layer and its number there: L1H4 is head 4 of layer 1, both counted from 0.
"""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..config import Config
from ..model import Weights, attention_mask, forward
from ..tiny.lookups import Lookups
from ..tracing import trace

Head = tuple[int, int]  # layer, head


def even_weights(config: Config, seq: int) -> Float[Tensor, "layers 1 1 seq seq"]:
    """What a head without any preference would do: the same weight on every token that it may see."""
    positions = torch.arange(seq)[None]
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    seen = torch.stack([attention_mask(positions, positions, window) for window in windows]).float()
    return seen / seen.sum(-1, keepdim=True)


def previous_token(looks: Float[Tensor, "layers batch heads seq seq"]) -> Float[Tensor, "layers heads"]:
    """Share of its weight that a token gives to the token before it, averaged over the tokens that have one."""
    return looks.diagonal(-1, -2, -1).mean((1, 3))


def first_token(looks: Float[Tensor, "layers batch heads seq seq"]) -> Float[Tensor, "layers heads"]:
    """Share that a token gives to the first token: an attention sink (Xiao et al. 2023, arXiv:2309.17453)."""
    return looks[..., 1:, 0].mean((1, 3))


def induction(looks: Float[Tensor, "layers batch heads seq seq"], period: int) -> Float[Tensor, "layers heads"]:
    """In a text that repeats after `period` tokens: share given to the token that followed this one the last time.

    Only the second half is asked, whose tokens have been there before (Olsson et al. 2022, arXiv:2209.11895).
    """
    return looks.diagonal(1 - period, -2, -1)[..., 1:].mean((1, 3))


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


def right_word(weights: Weights, config: Config, lookups: Lookups) -> float:
    """The probability of the right word, averaged over the steps."""
    logits = forward(weights, lookups.token_ids, config)[lookups.text, lookups.query].float()
    return float(logits.softmax(-1).gather(1, lookups.answers[:, None]).mean())
