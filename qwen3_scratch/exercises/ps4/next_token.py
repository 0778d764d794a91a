"""ps4: how well a model predicts the next token. `forward_and_cache` lists the whole set."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, text_ids, tiny
from .small_models import SET


def perplexity(logits: Tensor, token_ids: Tensor, keep: Tensor) -> Tensor:
    return _perplexity(logits, token_ids, keep)


def surprise(logits: Tensor, token_ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of each next token [batch, seq - 1], and where token and predecessor are no padding."""
    found = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), token_ids[:, 1:].flatten(), reduction="none")
    return found.view(token_ids[:, 1:].shape), keep[:, 1:] & keep[:, :-1]


def _perplexity(logits: Tensor, token_ids: Tensor, keep: Tensor) -> Tensor:
    losses, counted = surprise(logits, token_ids, keep)
    return losses[counted].mean().exp()


def texts(g: torch.Generator, batch: int, seq: int, vocab: int, left: int = 0, right: int = 0) -> tuple[Tensor, ...]:
    """Logits, tokens, and what is no padding: up to `left` or `right` tokens less 1 on that side of each row."""
    columns = torch.arange(seq)
    keep = columns >= (randint(g, 1, left, batch, 1) if left else 0)
    keep = keep & (columns < seq - (randint(g, 1, right, batch, 1) if right else 0))
    return 2 * randn(g, batch, seq, vocab), randint(g, 0, vocab, batch, seq), keep.expand(batch, seq).clone()


def texts_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        yield case(*texts(g, randint(g, 2, 4), randint(g, 5, 9), randint(g, 10, 20)), note="no padding")
    for _ in range(4):
        yield case(*texts(g, 3, randint(g, 9, 13), randint(g, 10, 20), right=6), note="padding at the end")


def texts_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield case(*texts(g, 3, 10, 15, left=5), note="padding in front")
    yield case(*texts(g, 1, 2, 9), note="two tokens")
    one = torch.tensor([[False, True, True, False], [True, False, False, True]])
    yield case(randn(g, 2, 4, 9), randint(g, 0, 9, 2, 4), one, note="one pair in all")
    logits, ids, keep = texts(g, 2, 12, 30, left=3, right=3)
    yield case(logits.bfloat16(), ids, keep, note="logits in bf16, padding on both sides")
    yield case(100 * logits.sigmoid(), ids, keep, note="large logits")


def texts_between(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        logits, ids, _ = texts(g, 3, 12, 15)
        keep = torch.rand(3, 12, generator=g) < 0.6
        keep[:, 4:6] = True
        yield case(logits, ids, keep, note="padding in between")


def texts_real(seed: int) -> Iterator[Case]:
    ids = text_ids(seed, 60)
    yield case(model.forward(tiny().weights, ids, tiny().config), ids, torch.ones_like(ids, dtype=torch.bool))


def texts_large(seed: int) -> Iterator[Case]:
    yield case(*texts(torch.Generator().manual_seed(seed), 8, 300, 8, right=60))


def by_rows(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    losses, counted = surprise(logits, ids, keep)
    return torch.stack([row[mask].mean() for row, mask in zip(losses, counted, strict=True)])


def unshifted(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    return F.cross_entropy(logits[keep].float(), ids[keep]).exp()


def shifted_back(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    return _perplexity(logits.flip(1), ids.flip(1), keep.flip(1))


def behind_padding(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    return surprise(logits, ids, keep)[0][keep[:, 1:]].mean().exp()


def into_padding(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    return surprise(logits, ids, keep)[0][keep[:, :-1]].mean().exp()


def spread_over_padding(logits: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
    losses, counted = surprise(logits, ids, keep)
    return (losses * counted).mean().exp()


PERPLEXITY = Exercise(
    "perplexity",
    SET,
    perplexity,
    stages=(
        Stage("random logits", texts_shapes, tolerance=1e-4),
        Stage("odd configurations", texts_odd, tolerance=1e-4),
        Stage("padding anywhere", texts_between, tolerance=1e-4),
        Stage("the real checkpoint's logits", texts_real, tolerance=1e-4),
        Stage("at size", texts_large, tolerance=1e-4, limit=30, advice="`F.cross_entropy` takes all tokens at once"),
    ),
    loose=True,
    mistakes=(
        Mistake("You compare each token with the prediction made at its own place; the logits of a place predict the "
                "next token: shift by one.", unshifted),
        Mistake("You shift the wrong way: logits at place t belong to the token at t + 1.", shifted_back),
        Mistake("Padding is counted: keep only pairs of two real tokens.",
                lambda logits, ids, keep: _perplexity(logits, ids, torch.ones_like(keep))),
        Mistake("The prediction made at a padding token is counted: both tokens of a pair have to be kept.",
                behind_padding),
        Mistake("The step from the last token into padding is counted: both tokens of a pair have to be kept.",
                into_padding),
        Mistake("Padding adds nothing but is counted in the mean: divide by the number of pairs kept.",
                spread_over_padding),
        Mistake("This is the mean surprise; perplexity is its exponential.",
                lambda logits, ids, keep: _perplexity(logits, ids, keep).log()),
        Mistake("The surprise is in nats, so the base is e, not 2.",
                lambda logits, ids, keep: 2 ** _perplexity(logits, ids, keep).log()),
        Mistake("You average one perplexity for each row; average the surprise of all tokens first.",
                lambda logits, ids, keep: by_rows(logits, ids, keep).exp().mean()),
        Mistake("You average the rows' means; every token counts the same, whatever row it is in.",
                lambda logits, ids, keep: by_rows(logits, ids, keep).mean().exp()),
        Mistake("You sum the surprise; take its mean.",
                lambda logits, ids, keep: surprise(logits, ids, keep)[0][surprise(logits, ids, keep)[1]].sum().exp()),
        Mistake("`F.cross_entropy` takes logits; you give it probabilities, and it applies a softmax again.",
                lambda logits, ids, keep: _perplexity(logits.softmax(-1), ids, keep)),
        Mistake("You take the exponential before the mean; the mean comes first.",
                lambda logits, ids, keep: surprise(logits, ids, keep)[0].exp()[surprise(logits, ids, keep)[1]].mean()),
        Mistake("A minus is missing: p is small where the surprise is large.",
                lambda logits, ids, keep: 1 / _perplexity(logits, ids, keep)),
    ),
)  # fmt: skip
