"""ps7: the two losses of a training step (notebook 15). `steps` lists the whole set."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...learning import training
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded, text_ids, tiny
from ..ps3.expert_counts import balance, balance_mistakes

SET = "ps7_training"

# ---- weighted_cross_entropy ------------------------------------------------------------------


def weighted_cross_entropy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    return weighed(logits, targets, counts)


def weighed(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    nats: Callable[[Tensor], Tensor] = lambda logits: -logits.float().log_softmax(-1),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda nats, counts: (nats * counts).sum() / counts.sum(),
) -> Tensor:
    """The loss; `nats` is what every token would cost [n, vocab], `mean` the mean of those that came."""
    chosen = counts > 0
    each = nats(logits)[chosen].gather(-1, targets[chosen, None].long())[:, 0]
    return mean(each, counts[chosen].float())


def entropy_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        n, vocab = randint(g, 5, 12), randint(g, 13, 20)
        yield case(2 * randn(g, n, vocab), randint(g, 0, vocab, n), torch.rand(n, generator=g) + 0.1)


def entropy_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 7), randint(g, 0, 7, 1), torch.tensor([0.3]), note="one token")
    yield case(randn(g, 6, 6), randint(g, 0, 6, 6), torch.ones(6), note="all count alike")
    yield case(300 * randn(g, 5, 9), randint(g, 0, 9, 5), torch.rand(5, generator=g) + 0.1, note="large logits")
    yield case(randn(g, 5, 9) - 1000, randint(g, 0, 9, 5), torch.rand(5, generator=g) + 0.1, note="logits far below 0")
    yield case(
        3 * randn(g, 8, 40, dtype=torch.bfloat16), randint(g, 0, 40, 8), torch.rand(8, generator=g) + 0.1, note="bf16"
    )
    yield case(randn(g, 5, 9), randint(g, 0, 9, 5), 1e-4 * (torch.rand(5, generator=g) + 0.1), note="small counts")


def entropy_left_out(seed: int) -> Iterator[Case]:
    """Targets that do not count may be anything, and must not be looked up."""
    g = torch.Generator().manual_seed(seed)
    for filler in (-100, -1, 10**6, 3):
        targets, counts = randint(g, 0, 9, 8), torch.rand(8, generator=g) + 0.1
        left_out = torch.arange(8) % 3 == seed % 3
        yield case(
            2 * randn(g, 8, 9), targets.masked_fill(left_out, filler), counts.masked_fill(left_out, 0.0),
            note=f"what does not count has the target {filler}",
        )  # fmt: skip


def entropy_real(seed: int) -> Iterator[Case]:
    (call,) = recorded("forward", seed)
    ids = text_ids(seed, 48)[0, 1:]
    yield case(call.output[0, :-1].clone(), ids, torch.where(torch.arange(len(ids)) < 20, 0.05, 1.0))


def entropy_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 2000, 8), randint(g, 0, 8, 2000), torch.rand(2000, generator=g))


def looked_up(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    each = -logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return (each * counts).sum() / counts.sum()


WEIGHTED_CROSS_ENTROPY = Exercise(
    "weighted_cross_entropy",
    SET,
    weighted_cross_entropy,
    stages=(
        Stage("random logits", entropy_shapes),
        Stage("odd configurations", entropy_odd),
        Stage("targets that do not count", entropy_left_out),
        Stage("the real checkpoint's logits", entropy_real),
        trained(entropy_shapes, "counts"),
        Stage("at size", entropy_large, limit=60, advice="`log_softmax` and `gather` work on all tokens at once"),
    ),
    mistakes=(
        Mistake("You divide by the number of tokens; divide by the sum of the counts.",
                lambda logits, targets, counts: weighed(
                    logits, targets, counts, mean=lambda nats, used: (nats * used).sum() / len(counts))),
        Mistake("The counts are not used: each token's loss is weighed by its own.",
                lambda logits, targets, counts: weighed(logits, targets, counts, mean=lambda nats, used: nats.mean())),
        Mistake("This is a sum; divide it by the sum of the counts.",
                lambda logits, targets, counts: weighed(
                    logits, targets, counts, mean=lambda nats, used: (nats * used).sum())),
        Mistake("A minus is missing: a likely token costs little.",
                lambda logits, targets, counts: -weighted_cross_entropy(logits, targets, counts)),
        Mistake("You take the probability; its logarithm is what costs.",
                lambda logits, targets, counts: weighed(logits, targets, counts,
                                                        nats=lambda logits: -logits.float().softmax(-1))),
        Mistake("These are bits; nats are asked for: the natural logarithm.",
                lambda *given: weighted_cross_entropy(*given) / torch.tensor(2).log()),
        Mistake("The logarithm of a softmax overflows or is minus infinity: take `log_softmax`.",
                lambda logits, targets, counts: weighed(logits, targets, counts,
                                                        nats=lambda logits: -logits.float().softmax(-1).log())),
        Mistake("An exponential overflows: take `log_softmax`, which subtracts the largest logit first.",
                lambda logits, targets, counts: weighed(
                    logits, targets, counts,
                    nats=lambda logits: logits.float().exp().sum(-1, keepdim=True).log() - logits.float())),
        Mistake("Compute in fp32: in the logits' own type most digits are lost.",
                lambda logits, targets, counts: weighed(logits, targets, counts,
                                                        nats=lambda logits: -logits.log_softmax(-1))),
        Mistake("A target that does not count may be any number: leave its row out before you look it up.", looked_up),
    ),
)  # fmt: skip

# ---- balance_by_text -------------------------------------------------------------------------


def texts(chat: Tensor) -> list[Tensor]:
    """Where each text stands: a mask [rows, seq] for each number of each row, padding left out."""
    rows = torch.arange(len(chat))[:, None]
    return [
        (chat == number) & (rows == row)
        for row, held in enumerate(chat)
        for number in held[held >= 0].unique().tolist()
    ]


def balance_by_text(router_logits: Tensor, text: Tensor, top_k: int) -> Tensor:
    return by_text(router_logits, text, top_k)


def by_text(
    router_logits: Tensor,
    chat: Tensor,
    top_k: int,
    *,
    parts: Callable[[Tensor], list[Tensor]] = texts,
    mean: Callable[[Tensor, Tensor], Tensor] = lambda losses, lengths: losses.mean(),
    **changes: Any,
) -> Tensor:
    """The loss; `parts` are the tokens that are counted together, `mean` what becomes of their losses."""
    masks = parts(chat)
    losses = [balance((router_logits,), router_logits.shape[-1], top_k, here, **changes) for here in masks]
    return mean(torch.stack(losses), torch.stack([here.sum() for here in masks]))


def packed(g: torch.Generator, rows: int, seq: int) -> Tensor:
    """Numbers of texts of many lengths, one after the other in each row, and padding behind them."""
    begins = torch.rand(rows, seq, generator=g) < 0.35
    begins[:, 0] = True
    chat = begins.long().cumsum(-1) - 1
    return chat.masked_fill(torch.arange(seq) >= randint(g, seq // 2, seq + 1, rows, 1), -1)


def text_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        rows, seq, experts = randint(g, 2, 4), randint(g, 8, 14), randint(g, 6, 12)
        yield case(2 * randn(g, rows * seq, experts) + randn(g, experts), packed(g, rows, seq), randint(g, 2, 4))


def text_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 12, 8), torch.zeros(1, 12, dtype=torch.long), 2, note="one text")
    yield case(randn(g, 12, 8), torch.arange(12).view(2, 6) % 6, 2, note="a token to a text")
    yield case(randn(g, 12, 4), packed(g, 2, 6), 4, note="every token at every expert")
    yield case(randn(g, 12, 2), packed(g, 2, 6), 1, note="two experts, top-1")
    yield case(20 * F.one_hot(torch.arange(16) // 2, 8).float(), torch.arange(16)[None] // 2, 1,
               note="each text its own expert")  # fmt: skip
    yield case(randn(g, 40, 80), packed(g, 2, 20), 20, note="20 of 80 experts")
    order = torch.rand(18, 9, generator=g).argsort(-1)  # no two experts of a token are equally liked, even in bf16
    yield case((order / 2).bfloat16(), packed(g, 2, 9), 3, note="bf16")


def text_padding(seed: int) -> Iterator[Case]:
    """Padding anywhere, rows without a text, numbers left out."""
    g = torch.Generator().manual_seed(seed)
    for note in ("padding in front and in between", "a row of padding alone", "numbers that are left out"):
        chat = packed(g, 3, 8)
        if note.startswith("padding"):
            chat = chat.masked_fill(torch.rand(3, 8, generator=g) < 0.4, -1)
            chat[0, :3] = torch.tensor([-1, 0, 0])
        elif note.startswith("a row"):
            chat[randint(g, 0, 3)] = -1
        else:
            chat = torch.where(chat >= 0, 3 * chat + 2, -1)
        yield case(2 * randn(g, 24, 7) + randn(g, 7), chat, 2, note=note)


def text_real(seed: int) -> Iterator[Case]:
    top_k = tiny().config.num_experts_per_tok
    for call in recorded("moe_route", seed):
        logits = call.output.logits.clone()
        yield case(logits, (torch.arange(len(logits)) // 9)[None], top_k)


def other(**changes: Any) -> Callable[..., Tensor]:
    return partial(by_text, **changes)


def counted_over_all(router_logits: Tensor, chat: Tensor, top_k: int) -> Tensor:
    """f is that of the whole batch, P that of each text."""
    probabilities = router_logits.float().softmax(-1)
    chosen = F.one_hot(probabilities.topk(top_k).indices, probabilities.shape[-1]).sum(1).float()
    f = chosen[(chat >= 0).flatten()].mean(0)
    each = [(f * probabilities[here.flatten()].mean(0)).sum() for here in texts(chat)]
    return len(f) * torch.stack(each).mean()


BALANCE_BY_TEXT = Exercise(
    "balance_by_text",
    SET,
    balance_by_text,
    stages=(
        Stage("random logits", text_shapes),
        Stage("odd configurations", text_odd),
        Stage("padding anywhere", text_padding),
        Stage("the real checkpoint's logits", text_real),
        trained(text_shapes),
    ),
    mistakes=(
        *balance_mistakes(other),
        Mistake("Padding is counted as a text: leave out the tokens whose number is -1.",
                other(parts=lambda chat: [*texts(chat), *([chat < 0] if (chat < 0).any() else [])])),
        Mistake("Padding is counted as a text: leave out the tokens whose number is -1.",
                other(parts=lambda chat: texts(chat + 1))),
        Mistake("Rows number their texts anew: text 0 of one row and text 0 of another are two texts.",
                other(parts=lambda chat: [chat == number for number in chat[chat >= 0].unique()])),
        Mistake("You join all texts: each has an f and a P of its own.", other(parts=lambda chat: [chat >= 0])),
        Mistake("You join the texts of a row: each has an f and a P of its own.",
                other(parts=lambda chat: texts(chat.clamp(max=0)))),
        Mistake("Longer texts count more here; take the mean over texts, long or short.",
                other(mean=lambda losses, lengths: (losses * lengths).sum() / lengths.sum())),
        Mistake("You add the texts' losses; take their mean.", other(mean=lambda losses, lengths: losses.sum())),
        Mistake("You count f over all texts; each text has its own.", counted_over_all),
    ),
    own=(training.load_balancing_loss,),
)  # fmt: skip
