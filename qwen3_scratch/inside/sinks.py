"""Where a head looks that finds nothing: at a place, at a token, or elsewhere; and what is lost without that look."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..config import Config
from ..model import Ops, Weights, attention_mask
from ..tracing import head_weights

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


def shared_out(looks: Float[Tensor, "seq seq"], token_ids: Sequence[int], start: int) -> dict[str, float]:
    """What the tokens from `start` on give to some kinds of places: the mean of each kind, together 1.

    `looks` are a head's weights on one text. A place counts for the first kind that it is of.
    """
    ids, at = torch.tensor(token_ids), torch.arange(len(token_ids))
    back, met = at[:, None] - at, ids[:, None] == ids  # how far back a place lies; whether the same token stands there
    behind = F.pad(met, (1, -1))  # whether it stands in front of that place
    kinds = {
        "the first token": at.expand_as(back) == 0,
        "the token itself": back == 0,
        "the one before it": back == 1,
        "behind an earlier same token": behind & (back > 0),
        "an earlier same token": met & (back > 0),
        "all others": back > 0,
    }
    free, found = torch.ones_like(met), {}
    for kind, there in kinds.items():
        found[kind] = float((looks * (there & free)).sum(-1)[start:].mean())
        free = free & ~there
    return found


def hiding(place: int) -> Ops:
    """The steps of a pass over whole texts in which no later token sees the one at `place`."""

    def mask(positions: Tensor, key_positions: Tensor, window: int | None = None) -> Tensor:
        seen = attention_mask(positions, key_positions, window)
        seen[..., place + 1 :, place] = False
        return seen

    return Ops(mask=mask)
