"""ps7, first part: the two losses of a training step (notebook 15). `steps` lists the whole set."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...learning import training
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded, text_ids
from ..ps3.expert_counts import BALANCE_STAGES, Logits, balance, balance_mistakes

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

# ---- load_balancing_loss ---------------------------------------------------------------------


def other(**changes: Any) -> Callable[..., Tensor]:
    def loss(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
        return balance(router_logits, num_experts, top_k, attention_mask, **changes)

    return loss


def padding_counted(
    router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None
) -> Tensor:
    return balance(router_logits, num_experts, top_k)


def layer_by_layer(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return torch.stack([balance((z,), num_experts, top_k, attention_mask) for z in router_logits]).mean()


def layers_summed(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return torch.stack([balance((z,), num_experts, top_k, attention_mask) for z in router_logits]).sum()


def one_layer_only(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return balance(router_logits[-1:], num_experts, top_k, attention_mask)


LOAD_BALANCING_LOSS = Exercise(
    "load_balancing_loss",
    SET,
    training.load_balancing_loss,
    stages=BALANCE_STAGES,
    mistakes=(
        *balance_mistakes(other),
        Mistake("Padding is counted: leave out the tokens where attention_mask is false.", padding_counted),
        Mistake("You take the loss layer by layer and average; here the tokens of all layers are joined first.",
                layer_by_layer),
        Mistake("You add the losses of the layers; here the tokens of all layers are joined first.", layers_summed),
        Mistake("You use one layer of the list; join the tokens of all.", one_layer_only),
    ),
    own=(training.load_balancing_loss,),
)  # fmt: skip
