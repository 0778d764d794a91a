"""Where a head looks that finds nothing: whether at a place or at a token, and what is lost without it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import Config
from ..model import Ops, Weights, attention_mask, gqa_attention
from ..tiny.lookups import Lookups
from ..tracing import head_weights
from .heads import looked

PLACES = (0, 1, 2, 4, 8)  # where a token is put; who looks stands behind all of them


def carried(
    weights: Weights, config: Config, rest: Sequence[int], token: int, places: Sequence[int] = PLACES
) -> Float[Tensor, "places layers heads"]:
    """What each head gives to a token that is put into the text `rest` at each of some places.

    The mean over the same later tokens every time, those behind the last of the places, so that a share changes with
    the token and its place alone. An attention sink (Xiao et al. 2023, arXiv:2309.17453) is looked at in place 0.
    """
    texts = [[*rest[:place], token, *rest[place:]] for place in places]
    looks = head_weights(weights, config, torch.tensor(texts, device=weights.embed_tokens.device))
    on = [looks[:, row, :, max(places) + 1 :, place].mean(-1) for row, place in enumerate(places)]
    return torch.stack(on)


def shared_out(looks: Float[Tensor, "*heads seq seq"], behind: int) -> Float[Tensor, "*heads 4"]:
    """What the tokens from place `behind` on give to the first token, the one before, themselves, and all others."""
    kinds = looks[..., 0], looks.diagonal(-1, -2, -1), looks.diagonal(0, -2, -1)
    first, before, itself = (
        one[..., at:].mean(-1) for one, at in zip(kinds, (behind, behind - 1, behind), strict=True)
    )
    return torch.stack((first, before, itself, 1 - first - before - itself), -1)


def on_first(
    looks: Float[Tensor, "layers texts heads seq seq"], lookups: Lookups, behind: int
) -> tuple[Float[Tensor, "layers heads texts"], Float[Tensor, "layers heads texts"]]:
    """What heads give to the first token of each text while they look a word up; and before, from place `behind` on."""
    at_first = torch.zeros_like(lookups.followers)
    at_first[:, 0] = True
    starts = [int(lookups.query[lookups.text == text].min()) for text in range(looks.shape[1])]
    before = [looks[:, text, :, behind:start, 0].mean(-1) for text, start in enumerate(starts)]
    return looked(looks, lookups, at_first), torch.stack(before, -1)


def hiding(place: int) -> Ops:
    """The steps of a pass over whole texts in which no later token sees the one at `place`."""

    def mask(positions: Tensor, key_positions: Tensor, window: int | None = None) -> Tensor:
        seen = attention_mask(positions, key_positions, window)
        seen[..., place + 1 :, place] = False
        return seen

    return Ops(mask=mask)


def emptying(place: int) -> Ops:
    """The steps of a pass over whole texts in which a look at the token at `place` gathers zeros there."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        empty = torch.zeros_like(v[:, :, :1])
        return gqa_attention(q, k, torch.cat((v[:, :, :place], empty, v[:, :, place + 1 :]), dim=2), mask)

    return Ops(attention=attention)
