"""ps3, second part: who does the work. `router_and_experts` lists the whole set."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...learning import training
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded, tiny

SET = "ps3_router_and_experts"


def chosen_experts(g: torch.Generator, tokens: int, experts: int, top_k: int) -> Tensor:
    """Distinct experts for each token, some of them preferred."""
    liked = torch.arange(experts) / 2
    return (randn(g, tokens, experts) + liked[torch.randperm(experts, generator=g)]).topk(top_k).indices


# ---- expert_load -----------------------------------------------------------------------------


def expert_load(experts: Tensor, num_experts: int) -> Tensor:
    return experts.flatten().bincount(minlength=num_experts) / experts.numel()


def load_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        num_experts, top_k = randint(g, 4, 12), randint(g, 2, 4)
        yield case(chosen_experts(g, randint(g, 10, 30), num_experts, top_k), num_experts)


def load_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randint(g, 0, 5, 9, 1), 5, note="one expert a token")
    yield case(chosen_experts(g, 2, 30, 3), 30, note="most experts get nothing, the last ones too")
    yield case(torch.zeros(7, 1, dtype=torch.long), 4, note="all tokens at expert 0")
    yield case(chosen_experts(g, 6, 4, 4), 4, note="every token at every expert")
    yield case(torch.zeros(3, 1, dtype=torch.long), 1, note="one expert")
    yield case(chosen_experts(g, 9, 300, 20), 300, note="20 of 300 experts")


def load_real(seed: int) -> Iterator[Case]:
    for call in recorded("moe_route", seed):
        yield case(call.output.experts.clone(), tiny().config.num_experts)


def load_large(seed: int) -> Iterator[Case]:
    yield case(chosen_experts(torch.Generator().manual_seed(seed), 4000, 16, 2), 16)


def only_those_used(experts: Tensor, num_experts: int) -> Tensor:
    return experts.flatten().bincount() / experts.numel()


def unique_ones(experts: Tensor, num_experts: int) -> Tensor:
    return experts.unique(return_counts=True)[1] / experts.numel()


EXPERT_LOAD = Exercise(
    "expert_load",
    SET,
    expert_load,
    stages=(
        Stage("random routes", load_shapes),
        Stage("odd configurations", load_odd),
        Stage("the real checkpoint's routes", load_real),
        Stage("at size", load_large, limit=100, advice="`bincount` counts all choices at once", worth=2),
    ),
    mistakes=(
        Mistake("These are counts; divide them by the number of choices.",
                lambda experts, num_experts: experts.flatten().bincount(minlength=num_experts)),
        Mistake("These are counts; divide them by the number of choices.",
                lambda experts, num_experts: experts.flatten().bincount(minlength=num_experts).float()),
        Mistake("You divide by the number of tokens, so the shares sum to top_k; divide by the number of choices.",
                lambda experts, num_experts: expert_load(experts, num_experts) * experts.shape[1]),
        Mistake("You count the first choice alone; every choice of a token counts.",
                lambda experts, num_experts: expert_load(experts[:, :1], num_experts)),
        Mistake("Experts that nobody chose are missing at the end: give `bincount` its `minlength`.", only_those_used),
        Mistake("Experts that nobody chose are missing: their share is 0.", unique_ones),
        Mistake("You divide by the number of experts that were used; divide by the number of choices.",
                lambda experts, num_experts: experts.flatten().bincount(minlength=num_experts) / len(experts.unique())),
        Mistake("You sort the shares; entry e belongs to expert e.",
                lambda experts, num_experts: expert_load(experts, num_experts).sort(descending=True).values),
    ),
)  # fmt: skip

# ---- router_entropy --------------------------------------------------------------------------


def router_entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.float().softmax(-1)).sum(-1)


def entropy_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield case(randint(g, 1, 4) * randn(g, randint(g, 5, 12), randint(g, 13, 20)))


def entropy_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 2), note="one token, two experts")
    yield case(torch.full((3, 8), 2.5), note="an undecided router")
    sure = randn(g, 5, 8)
    sure[torch.arange(5), randint(g, 0, 8, 5)] = 200.0
    yield case(sure, note="a router so sure that the other probabilities are 0")
    yield case(randn(g, 4, 1), note="one expert: nothing to choose")
    yield case(randn(g, 6, 9) + 100, note="large logits")
    yield case(3 * randn(g, 6, 8, dtype=torch.bfloat16), note="bf16")


def entropy_real(seed: int) -> Iterator[Case]:
    for call in recorded("moe_route", seed):
        yield case(call.output.logits.clone())


def entropy_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):  # one of them is timed well even on a busy machine
        yield case(randn(g, 3000, 4))


def no_number_at_zero(logits: Tensor) -> Tensor:
    probabilities = logits.float().softmax(-1)
    return -(probabilities * probabilities.log()).sum(-1)


ROUTER_ENTROPY = Exercise(
    "router_entropy",
    SET,
    router_entropy,
    stages=(
        # A sure router's entropy is next to 0, where the last digit of the probabilities decides.
        Stage("random logits", entropy_shapes),
        Stage("odd configurations", entropy_odd, tolerance=1e-4),
        Stage("the real checkpoint's logits", entropy_real, tolerance=1e-4),
        Stage("at size", entropy_large, limit=40, advice="`softmax` and `sum` work on all tokens at once"),
    ),
    mistakes=(
        Mistake("These are bits; nats are asked for: take the natural logarithm.",
                lambda logits: router_entropy(logits) / math.log(2)),
        Mistake("You divide by the largest possible entropy; nats are asked for, undivided.",
                lambda logits: router_entropy(logits) / math.log(logits.shape[-1])),
        Mistake("The sign is missing: the logarithm of a probability is negative, the entropy positive.",
                lambda logits: -router_entropy(logits)),
        Mistake("You average over the experts; the entropy is a sum.",
                lambda logits: router_entropy(logits) / logits.shape[-1]),
        Mistake("You average over the tokens; each token has an entropy of its own.",
                lambda logits: router_entropy(logits).mean()),
        Mistake("This is the entropy of the mean probabilities; each token has an entropy of its own.",
                lambda logits: torch.special.entr(logits.float().softmax(-1).mean(0)).sum()),
        Mistake("0 times the logarithm of 0 is NaN here: let it be 0 (`torch.special.entr`).", no_number_at_zero),
        Mistake("Compute in fp32 and leave the result there.",
                lambda logits: torch.special.entr(logits.softmax(-1)).sum(-1)),
        Mistake("Your softmax runs over the tokens; each token's probabilities sum to one.",
                lambda logits: torch.special.entr(logits.float().softmax(0)).sum(-1)),
        Mistake("This is e to the entropy, the number of equally likely experts; the entropy itself is asked for.",
                lambda logits: router_entropy(logits).exp()),
    ),
)  # fmt: skip

# ---- balance_by_layer ------------------------------------------------------------------------

Logits = Sequence[Tensor]


def balance_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(9):
        layers, batch, seq, experts = randint(g, 2, 4), randint(g, 2, 4), randint(g, 5, 9), randint(g, 6, 12)
        logits = tuple(2 * randn(g, batch * seq, experts) + randn(g, experts) for _ in range(layers))
        top_k = randint(g, 2, 4)
        mask = torch.arange(seq) < randint(g, 2, seq + 1, batch, 1)
        yield case(logits, experts, top_k, mask) if number % 3 else case(logits, experts, top_k, note="no padding")


def balance_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case([randn(g, 20, 8)], 8, 2, note="one layer, in a list")
    yield case((randn(g, 12, 2),), 2, 1, note="two experts, top-1")
    yield case((randn(g, 12, 4),), 4, 4, note="every token at every expert")
    yield case((20 * F.one_hot(torch.arange(16) % 8, 8).float(),), 8, 1, note="used evenly")
    yield case((20 * F.one_hot(torch.full((16,), 3), 8).float(),), 8, 1, note="one expert for all")
    yield case((randn(g, 12, 6), randn(g, 12, 6)), 6, 2, randint(g, 0, 2, 3, 4).clamp(max=1) | torch.eye(3, 4).long(),
               note="a mask of zeros and ones")  # fmt: skip
    yield case((randn(g, 30, 80),), 80, 20, note="20 of 80 experts")
    order = torch.rand(15, 9, generator=g).argsort(-1)  # no two experts of a token are equally liked, even in bf16
    yield case(((order / 2).bfloat16(),), 9, 3, note="bf16")


def balance_masks(seed: int) -> Iterator[Case]:
    """Padding anywhere, written in every way that the task allows."""
    g = torch.Generator().manual_seed(seed)
    for kind in (torch.bool, torch.long, torch.int32, torch.float32):
        logits = tuple(2 * randn(g, 18, 7) + randn(g, 7) for _ in range(3))
        mask = torch.rand(3, 6, generator=g) < 0.5
        mask[0, :3], mask[0, 3:] = False, True
        yield case(logits, 7, 2, mask.to(kind), note="padding in front, at the end and in between")
    yield case(
        [randn(g, 12, 5), randn(g, 12, 5)], 5, 3, torch.ones(2, 6, dtype=torch.bool), note="a mask that keeps all"
    )


def balance_real(seed: int) -> Iterator[Case]:
    logits, config = tuple(call.output.logits.clone() for call in recorded("moe_route", seed)), tiny().config
    yield case(logits, config.num_experts, config.num_experts_per_tok)
    for layer in logits:
        yield case((layer.clone(),), config.num_experts, config.num_experts_per_tok)


def balance(
    router_logits: Logits,
    num_experts: int,
    top_k: int,
    attention_mask: Tensor | None = None,
    use: Callable[[Tensor, Tensor, int], Tensor] = lambda f, p, top_k: len(f) * (f * p).sum(),
    kept: int | None = None,
) -> Tensor:
    """The loss made of f and P in another way, or of another number of choices."""
    keep = torch.ones(sum(map(len, router_logits)), dtype=torch.bool)
    if attention_mask is not None:
        keep = attention_mask.flatten().bool().repeat(len(router_logits))
    probabilities = torch.cat(tuple(router_logits)).float().softmax(-1)[keep]
    chosen = F.one_hot(probabilities.topk(kept or top_k).indices, num_experts).sum(1).float()
    return use(chosen.mean(0), probabilities.mean(0), top_k)


def balance_by_layer(
    router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None
) -> Tensor:
    losses = [training.load_balancing_loss([layer], num_experts, top_k, attention_mask) for layer in router_logits]
    return torch.stack(losses)


def layered(**changes: Any) -> Callable[..., Tensor]:
    """The losses of the layers, each made in another way."""

    def losses(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
        return torch.stack([balance((z,), num_experts, top_k, attention_mask, **changes) for z in router_logits])

    return losses


def padding_counted(
    router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None
) -> Tensor:
    return balance_by_layer(router_logits, num_experts, top_k)


def joined(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return balance(router_logits, num_experts, top_k, attention_mask).expand(len(router_logits))


def joined_to_one(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return balance(router_logits, num_experts, top_k, attention_mask)


def averaged(router_logits: Logits, num_experts: int, top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    return balance_by_layer(router_logits, num_experts, top_k, attention_mask).mean()


BALANCE_STAGES = (
    Stage("random logits", balance_shapes),
    Stage("odd configurations", balance_odd),
    Stage("padding anywhere", balance_masks),
    Stage("the real checkpoint's logits", balance_real),
    trained(balance_shapes),
)


def balance_mistakes(other: Callable[..., Callable[..., Tensor]]) -> tuple[Mistake, ...]:
    """What goes wrong within such a loss; `other` makes the answer in which it does, from a changed `balance`."""
    return (
        Mistake("The number of experts is missing as a factor: even use should give top_k.",
                other(use=lambda f, p, top_k: (f * p).sum())),
        Mistake("You divide by top_k: here f counts choices per token, and even use gives top_k, not 1.",
                other(use=lambda f, p, top_k: len(f) * (f * p).sum() / top_k)),
        Mistake("You average over the experts instead of adding them.",
                other(use=lambda f, p, top_k: (f * p).mean())),
        Mistake("You multiply f with f; one of the two is the mean probability P.",
                other(use=lambda f, p, top_k: len(f) * (f * f).sum())),
        Mistake("You multiply P with P; one of the two is f, the choices per token.",
                other(use=lambda f, p, top_k: len(f) * (p * p).sum())),
        Mistake("You count the first choice alone; all top_k of a token count.", other(kept=1)),
    )  # fmt: skip


BALANCE_BY_LAYER = Exercise(
    "balance_by_layer",
    SET,
    balance_by_layer,
    stages=BALANCE_STAGES,
    mistakes=(
        *balance_mistakes(layered),
        Mistake("Padding is counted: leave out the tokens where attention_mask is false.", padding_counted),
        Mistake("You join the tokens of all layers, so that one layer's favourite hides behind another's: each layer "
                "has a loss of its own.", joined),
        Mistake("You join the tokens of all layers, so that one layer's favourite hides behind another's: each layer "
                "has a loss of its own.", joined_to_one),
        Mistake("You average over the layers; give each one's loss.", averaged),
    ),
    own=(training.load_balancing_loss,),
)  # fmt: skip
