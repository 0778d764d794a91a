"""ps5: how the next token is chosen, and the text around it (notebooks 02 and 10)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ... import sampling
from ...sampling import Sampling
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn
from .chat_text import RENDER_CHAT, SPLIT_THINKING
from .drawing import DRAW, OFF, REPETITION_PENALTY, SET, real_logits
from .stop_strings import STOP_STREAM

# ---- temperature_softmax ---------------------------------------------------------------------


def temperature_softmax(logits: Tensor, temperature: int | float) -> Tensor:
    return sampling.probabilities(logits, Sampling(temperature=temperature))


def warm_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for temperature in (0.2, 0.6, 1.0, 1.7, 3):
        yield case(3 * randn(g, randint(g, 2, 5), randint(g, 6, 15)), temperature)


def warm_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(3 * randn(g, 3, 9), 0, note="temperature 0")
    yield case(randn(g, 2, 7), 1e-6, note="nearly 0")
    for temperature in (1e-2, 1e-3, 1e-4, 1e-5):
        near = temperature * randn(g, 3, 7)
        yield case(near, temperature, note="nearly 0, and logits as near to each other")
    yield case(300 * randn(g, 2, 7), 0.5, note="large logits")
    for temperature in (0.05, 1, 7.5, 100):
        yield case(3 * randn(g, 2, 7), temperature, note=f"a temperature of {temperature}")
    barred = randn(g, 3, 8).masked_fill(torch.arange(8) > 4, OFF)
    yield case(barred, 0.7, note="tokens that are barred")
    yield case(barred, 0, note="tokens that are barred, temperature 0")
    yield case(4 * randn(g, 2, 30, dtype=torch.bfloat16), 0.3, note="bf16")


def warm_ties(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randint(g, 0, 3, 5, 9).float(), 0, note="temperature 0, equal logits")
    yield case(torch.zeros(2, 6), 0.0, note="temperature 0, all logits equal")


def in_order(result: Tensor) -> Tensor:
    """What counts where tokens are as likely as each other: how many have how much, not which."""
    return result.sort(-1).values


def warm_real(seed: int) -> Iterator[Case]:
    for temperature in (0.6, 0):
        yield case(real_logits(seed), temperature)


def no_zero(function: Callable[[Tensor, int | float], Tensor]) -> Callable[..., Tensor]:
    """A way that is wrong for every temperature but 0."""
    return lambda logits, temperature: (
        function(logits, temperature) if temperature else temperature_softmax(logits, temperature)
    )


def plain_exponential(logits: Tensor, temperature: int | float) -> Tensor:
    grown = (logits.float() / temperature).exp()
    return grown / grown.sum(-1, keepdim=True)


TEMPERATURE_SOFTMAX = Exercise(
    "temperature_softmax",
    SET,
    temperature_softmax,
    stages=(
        Stage("random logits", warm_shapes),
        Stage("odd configurations", warm_odd),
        Stage("ties", warm_ties, of=in_order),
        Stage("the real checkpoint's logits", warm_real),
    ),
    mistakes=(
        Mistake("You multiply by the temperature; divide by it: below 1 it sharpens.",
                no_zero(lambda logits, temperature: (logits * temperature).softmax(-1))),
        Mistake("The temperature changes nothing here: divide the logits by it, before the softmax.",
                no_zero(lambda logits, temperature: logits.softmax(-1))),
        Mistake("You divide the probabilities; divide the logits, before the softmax.",
                no_zero(lambda logits, temperature: logits.softmax(-1) / temperature)),
        Mistake("Your softmax runs over the batch; it runs over the vocabulary (the last dimension).",
                no_zero(lambda logits, temperature: (logits / temperature).softmax(0))),
        Mistake("Temperature 0 cannot divide: there the likeliest token gets 1 and all others 0.",
                lambda logits, temperature: (logits.float() / temperature).softmax(-1)),
        Mistake("Temperature 0 cannot divide: there the likeliest token gets 1 and all others 0.",
                lambda logits, temperature: logits.float().softmax(-1) if temperature == 0
                else temperature_softmax(logits, temperature)),
        Mistake("exp grows past the largest number: subtract the largest logit first, or use `softmax`.",
                no_zero(plain_exponential)),
        Mistake("Compute in fp32: the probabilities of thousands of tokens have no room in bf16.",
                no_zero(lambda logits, temperature: (logits / temperature).softmax(-1))),
        Mistake("Compute in fp32 from the start, not only in the end.",
                no_zero(lambda logits, temperature: (logits / temperature).softmax(-1).float())),
    ),
    own=(sampling.probabilities,),
)  # fmt: skip

# ---- top_k_filter ----------------------------------------------------------------------------


def top_k_filter(logits: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], OFF)


def top_k_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield case(2 * randn(g, randint(g, 2, 5), randint(g, 8, 15)), randint(g, 2, 6))


def top_k_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 2, 9), 0, note="0 keeps all")
    yield case(randn(g, 2, 9), 20, note="more than there are tokens")
    for top_k in (8, 9, 10):
        yield case(randn(g, 2, 9), top_k, note="about as many as there are tokens")
    for top_k in (60, 299, 1000):
        yield case(randn(g, 2, 300), top_k, note="a large vocabulary")
    yield case(randn(g, 3, 9), 1, note="one")
    yield case((randn(g, 3, 12)).round(), 4, note="equal logits")
    yield case(torch.full((2, 6), 1.5), 2, note="all logits equal")
    yield case(randn(g, 2, 8).masked_fill(torch.arange(8) > 2, OFF), 5, note="fewer than k that are not barred")
    yield case(-20 - randn(g, 2, 9).abs(), 3, note="all logits far below 0")


def top_k_real(seed: int) -> Iterator[Case]:
    for top_k in (1, 20):
        yield case(real_logits(seed), top_k)


def exactly_k(logits: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < logits.shape[-1]:
        return logits
    values, places = logits.topk(top_k)
    return torch.full_like(logits, OFF).scatter(-1, places, values)


def kth_dropped(logits: Tensor, top_k: int) -> Tensor:
    least = logits.topk(top_k).values[:, -1:] if 0 < top_k < logits.shape[-1] else logits
    return logits.masked_fill(logits <= least, OFF) if least is not logits else logits


def one_border(logits: Tensor, top_k: int) -> Tensor:
    least = logits.topk(top_k).values[0, -1] if 0 < top_k < logits.shape[-1] else OFF
    return logits.masked_fill(logits < least, OFF)


def border_of_all(logits: Tensor, top_k: int) -> Tensor:
    least = logits.flatten().topk(top_k).values[-1] if 0 < top_k < logits.shape[-1] else OFF
    return logits.masked_fill(logits < least, OFF)


def largest_dropped(logits: Tensor, top_k: int) -> Tensor:
    return -top_k_filter(-logits, top_k).masked_fill(top_k_filter(-logits, top_k) == OFF, torch.inf)


TOP_K_FILTER = Exercise(
    "top_k_filter",
    SET,
    top_k_filter,
    stages=(
        Stage("random logits", top_k_shapes),
        Stage("odd configurations", top_k_odd),
        Stage("the real checkpoint's logits", top_k_real),
    ),
    loose=True,
    mistakes=(
        Mistake("The k-th token itself is gone: drop what is less than it.", kth_dropped),
        Mistake("Tokens as likely as the k-th stay; you keep exactly k, and which ones is chance.", exactly_k),
        Mistake("What is dropped has a logit of 0; that is likelier than any below 0. It is minus infinity.",
                lambda logits, top_k: top_k_filter(logits, top_k).masked_fill(top_k_filter(logits, top_k) == OFF, 0)
                if 0 < top_k < logits.shape[-1] else logits),
        Mistake("You use the border of the first row for all; each row has its own (`values[:, -1:]`).", one_border),
        Mistake("You use one border for the whole batch; each row has its own.", border_of_all),
        Mistake("You keep the least likely tokens.", largest_dropped),
        Mistake("`top_k` 0 keeps all, and so does one that is larger than the vocabulary.",
                lambda logits, top_k: logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], OFF)),
        Mistake("`top_k` may be larger than the vocabulary: then all are kept.",
                lambda logits, top_k: logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], OFF)
                if top_k else logits),
        Mistake("You return probabilities; return logits, since further filters follow.",
                lambda logits, top_k: top_k_filter(logits, top_k).softmax(-1)),
        Mistake("You return the k values alone; return a logit for every token.",
                lambda logits, top_k: logits.topk(top_k).values),
    ),
    own=(sampling.probabilities,),
)  # fmt: skip

# ---- top_p_filter ----------------------------------------------------------------------------


def top_p_filter(logits: Tensor, top_p: int | float) -> Tensor:
    return nucleus(logits, top_p)


def until(ordered: Tensor, top_p: int | float) -> Tensor:
    return ordered.cumsum(-1) - ordered >= top_p


def nucleus(logits: Tensor, top_p: int | float, *, beyond: Callable[..., Tensor] = until, down: bool = True) -> Tensor:
    """The filter; `beyond` says what is dropped of the sorted probabilities."""
    if top_p >= 1:
        return logits
    ordered, order = logits.float().softmax(-1).sort(descending=down, stable=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, beyond(ordered, top_p))
    return logits.masked_fill(dropped, OFF)


def top_p_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for top_p in (0.3, 0.5, 0.6, 0.8, 0.9, 0.95):
        yield case(2 * randn(g, randint(g, 2, 5), randint(g, 8, 15)), top_p)


def top_p_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 2, 9), 1.0, note="1 keeps all")
    yield case(30 * randn(g, 4, 9), 1, note="1 keeps all, however unlikely")
    for top_p in (0.02, 0.2, 0.99, 0.9999):
        for scale in (2, 0.1):
            yield case(scale * randn(g, 3, 300), top_p, note=f"a top_p of {top_p}")
    yield case(randn(g, 3, 9), 1e-9, note="nearly 0 keeps the likeliest")
    sure = randn(g, 3, 8)
    sure[torch.arange(3), randint(g, 0, 8, 3)] = 12.0
    yield case(sure, 0.9, note="one token holds more than top_p")
    yield case(randn(g, 2, 8).masked_fill(torch.arange(8) > 4, OFF), 0.7, note="tokens that are barred")
    yield case(500 + 2 * randn(g, 2, 10), 0.8, note="large logits")
    for top_p in (0.9, 0.97):  # no two are equal, and many small ones are summed
        order = torch.rand(3, 200, generator=g).argsort(-1)
        yield case(((order - 100) / 32).bfloat16(), top_p, note="bf16: its sums have steps of 0.004 below 1")


def top_p_met(seed: int) -> Iterator[Case]:
    """Tokens that are equally likely, so that a sum meets top_p in every digit."""
    for alive, top_p in ((2, 0.5), (4, 0.25), (4, 0.5), (4, 0.75), (8, 0.125), (8, 0.5), (1, 0.9)):
        logits = torch.full((2, 9), OFF)
        logits[:, 9 - alive :] = float(seed)
        yield case(logits, top_p, note=f"{alive} tokens equally likely, the others barred")


def top_p_real(seed: int) -> Iterator[Case]:
    for top_p in (0.5, 0.95):
        yield case(real_logits(seed), top_p)


def top_p_large(seed: int) -> Iterator[Case]:
    yield case(randn(torch.Generator().manual_seed(seed), 4, 3000) / 3, 0.95)


def on_sorted_places(logits: Tensor, top_p: int | float) -> Tensor:
    ordered = logits.float().softmax(-1).sort(descending=True, stable=True).values
    return logits.masked_fill(until(ordered, top_p), OFF) if top_p < 1 else logits


def without_sorting(logits: Tensor, top_p: int | float) -> Tensor:
    return logits.masked_fill(until(logits.float().softmax(-1), top_p), OFF) if top_p < 1 else logits


def left_sorted(logits: Tensor, top_p: int | float) -> Tensor:
    return nucleus(logits, top_p).sort(descending=True, stable=True).values if top_p < 1 else logits


def in_own_type(logits: Tensor, top_p: int | float) -> Tensor:
    ordered, order = logits.softmax(-1).sort(descending=True, stable=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, until(ordered, top_p))
    return logits.masked_fill(dropped, OFF) if top_p < 1 else logits


def each_above(logits: Tensor, top_p: int | float) -> Tensor:
    return logits.masked_fill(logits.float().softmax(-1) < top_p, OFF) if top_p < 1 else logits


def summed_logits(logits: Tensor, top_p: int | float) -> Tensor:
    ordered, order = logits.sort(descending=True, stable=True)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, until(ordered, top_p))
    return logits.masked_fill(dropped, OFF) if top_p < 1 else logits


TOP_P_FILTER = Exercise(
    "top_p_filter",
    SET,
    top_p_filter,
    stages=(
        Stage("random logits", top_p_shapes),
        Stage("odd configurations", top_p_odd),
        Stage("a sum that meets top_p", top_p_met, of=in_order),
        Stage("the real checkpoint's logits", top_p_real),
        Stage("at size", top_p_large, limit=30, advice="`sort`, `cumsum` and `scatter` do all rows at once"),
    ),
    loose=True,
    mistakes=(
        Mistake("The token with which the sum crosses top_p stays; you drop it. Ask whether the sum before a token "
                "suffices.",
                lambda logits, top_p: nucleus(logits, top_p, beyond=lambda ordered, p: ordered.cumsum(-1) > p)),
        Mistake("You keep one token too many: drop a token if the sum before it already suffices.",
                lambda logits, top_p: nucleus(logits, top_p, beyond=lambda ordered, p: until(ordered, p)
                                              & until(ordered, p).roll(1, -1))),
        Mistake("The mask is for sorted tokens; bring it back to their own places (`scatter` with the order).",
                on_sorted_places),
        Mistake("Sort first: you add up the probabilities in the order of the vocabulary.", without_sorting),
        Mistake("The logits are left in sorted order; each belongs in its own place.", left_sorted),
        Mistake("You begin with the least likely tokens; sort descending.",
                lambda logits, top_p: nucleus(logits, top_p, down=False)),
        Mistake("You compare each token's own probability with top_p; it is the sum of the likelier ones that counts.",
                each_above),
        Mistake("You add up logits; add up probabilities.", summed_logits),
        Mistake("You add up in the type of the logits, where small probabilities are lost; compute in fp32.",
                in_own_type),
        Mistake("You return probabilities; return logits, since further filters follow.",
                lambda logits, top_p: nucleus(logits, top_p).softmax(-1)),
        Mistake("What is dropped has a logit of 0; that is likelier than any below 0. It is minus infinity.",
                lambda logits, top_p: torch.where(nucleus(logits, top_p) == OFF, 0.0, logits)),
    ),
    own=(sampling.probabilities,),
)  # fmt: skip

EXERCISES = (
    TEMPERATURE_SOFTMAX,
    TOP_K_FILTER,
    TOP_P_FILTER,
    REPETITION_PENALTY,
    DRAW,
    RENDER_CHAT,
    SPLIT_THINKING,
    STOP_STREAM,
)
