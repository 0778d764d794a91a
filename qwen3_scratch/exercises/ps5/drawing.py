"""ps5, second part: what repetition costs, and the draw. `sampling_and_chat` lists the whole set."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ... import sampling
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, recorded, text_ids

SET = "ps5_sampling_and_chat"
OFF = -torch.inf


def real_logits(seed: int) -> Tensor:
    """What the embedded checkpoint predicts at some places of a text [rows, vocab]."""
    (call,) = recorded("forward", seed)
    return call.output[0, 5:45:10].clone()


# ---- repetition_penalty ----------------------------------------------------------------------


def repetition_penalty(logits: Tensor, token_ids: Tensor, penalty: int | float) -> Tensor:
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, token_ids, True)
    return sampling.penalise_repetition(logits, seen, penalty)


def penalty_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for penalty in (1.1, 1.3, 1.5, 2, 3):
        batch, vocab = randint(g, 2, 5), randint(g, 9, 15)
        tokens = torch.stack([torch.randperm(vocab, generator=g)[:4] for _ in range(batch)])
        yield case(2 * randn(g, batch, vocab), tokens, penalty, note="no token twice")


def penalty_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for penalty in (1.2, 2):
        yield case(2 * randn(g, 3, 7), randint(g, 0, 7, 3, 12), penalty, note="tokens that occur twice")
    yield case(randn(g, 2, 6), randint(g, 0, 6, 2, 3), 1.0, note="1 changes nothing")
    yield case(randn(g, 2, 9), randint(g, 0, 9, 2, 3), 0.8, note="below 1 makes them likelier")
    yield case(randn(g, 1, 9), randint(g, 0, 9, 1, 1), 1.5, note="one token")
    for penalty in (0.1, 10, 50.5):
        yield case(randn(g, 2, 9), randint(g, 0, 9, 2, 4), penalty, note=f"a penalty of {penalty}")
    yield case(randn(g, 2, 9), torch.zeros(2, 0, dtype=torch.long), 1.5, note="nothing said yet")
    yield case(torch.zeros(1, 5), torch.tensor([[1, 3]]), 1.5, note="logits of 0")


def penalty_real(seed: int) -> Iterator[Case]:
    yield case(real_logits(seed)[:1].clone(), text_ids(seed, 40), 1.1)


def on_all(logits: Tensor, token_ids: Tensor, penalty: int | float) -> Tensor:
    return sampling.penalise_repetition(logits, torch.ones_like(logits, dtype=torch.bool), penalty)


def once_each_time(logits: Tensor, token_ids: Tensor, penalty: int | float) -> Tensor:
    times = torch.zeros_like(logits).scatter_add(1, token_ids, torch.ones_like(token_ids, dtype=logits.dtype))
    return torch.where(logits > 0, logits / penalty**times, logits * penalty**times)


def by_every_row(logits: Tensor, token_ids: Tensor, penalty: int | float) -> Tensor:
    return repetition_penalty(logits, token_ids.flatten().expand(len(logits), -1), penalty)


def on_seen(change: Callable[[Tensor, int | float], Tensor]) -> Callable[..., Tensor]:
    def changed(logits: Tensor, token_ids: Tensor, penalty: int | float) -> Tensor:
        seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, token_ids, True)
        return torch.where(seen, change(logits, penalty), logits)

    return changed


REPETITION_PENALTY = Exercise(
    "repetition_penalty",
    SET,
    repetition_penalty,
    stages=(
        Stage("random logits", penalty_shapes),
        Stage("odd configurations", penalty_odd),
        Stage("the real checkpoint's logits", penalty_real),
    ),
    loose=True,
    mistakes=(
        Mistake("Dividing makes a negative logit larger, so the token likelier: multiply negative ones.",
                on_seen(lambda logits, penalty: logits / penalty)),
        Mistake("You multiply all; divide positive logits and multiply negative ones.",
                on_seen(lambda logits, penalty: logits * penalty)),
        Mistake("It works the wrong way round: divide positive logits and multiply negative ones.",
                lambda logits, token_ids, penalty: repetition_penalty(logits, token_ids, 1 / penalty)),
        Mistake("You subtract the penalty; it divides positive logits and multiplies negative ones.",
                on_seen(lambda logits, penalty: logits - penalty)),
        Mistake("A token that occurs twice is penalised twice; once is meant.", once_each_time),
        Mistake("Every token is penalised; only those that occur in its row's `token_ids`.", on_all),
        Mistake("You penalise what occurs in any row; each row has its own tokens.", by_every_row),
        Mistake("You penalise the newest token alone; every token that occurs counts.",
                lambda logits, token_ids, penalty: repetition_penalty(logits, token_ids[:, -1:], penalty)),
    ),
    own=(sampling.penalise_repetition,),
)  # fmt: skip

# ---- draw ------------------------------------------------------------------------------------


def draw(probability: Tensor, uniform: Tensor) -> Tensor:
    return sampling.draw(probability, uniform)


def distributions(g: torch.Generator, batch: int, vocab: int) -> Tensor:
    return (2 * randn(g, batch, vocab)).softmax(-1)


def numbers(g: torch.Generator, batch: int) -> Tensor:
    return torch.rand(batch, generator=g, dtype=torch.float64)


def draw_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        batch = randint(g, 5, 9)
        yield case(distributions(g, batch, randint(g, 10, 16)), numbers(g, batch))


def draw_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    few = distributions(g, 6, 9).masked_fill(torch.arange(9) % 3 != 1, 0.0)
    yield case(few / few.sum(-1, keepdim=True), numbers(g, 6), note="most tokens have probability 0")
    yield case(few / few.sum(-1, keepdim=True), torch.zeros(6, dtype=torch.float64), note="0 is drawn")
    almost = torch.full((6,), 1 - 1e-12, dtype=torch.float64)
    yield case(few / few.sum(-1, keepdim=True), almost, note="nearly 1 is drawn")
    yield case(0.9 * distributions(g, 6, 9), 0.9 + numbers(g, 6) / 10, note="the sum is 0.9")
    yield case(torch.tensor([[0.25, 0.25, 0.5]] * 3), torch.tensor([0.25, 0.5, 0.75]).double(), note="on a border")
    thin = torch.full((3, 1000), 1e-3)
    borders = thin.double().cumsum(-1)[:, [100, 500, 900]].diagonal() / thin.double().sum(-1)
    for shift in (-1e-12, 1e-12):
        yield case(thin, borders + shift, note="so near to a border that single precision does not tell")
    yield case(torch.eye(5)[randint(g, 0, 5, 4)], numbers(g, 4), note="one token is sure")
    yield case(distributions(g, 1, 7), numbers(g, 1), note="one row")


def draw_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield case((real_logits(seed) / 2).softmax(-1), numbers(g, 4))


def draw_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(distributions(g, 48, 300), numbers(g, 48))


def place(probability: Tensor, uniform: Tensor, *, scaled: bool = True, right: bool = True) -> Tensor:
    reached = probability.double().cumsum(-1)
    target = uniform.double()[:, None] * (reached[:, -1:] if scaled else 1)
    return torch.searchsorted(reached, target, right=right)[:, 0]


def in_order_of_size(probability: Tensor, uniform: Tensor) -> Tensor:
    ordered, order = probability.sort(descending=True, stable=True)
    return order.gather(-1, draw(ordered, uniform)[:, None])[:, 0]


DRAW = Exercise(
    "draw",
    SET,
    draw,
    stages=(
        Stage("random distributions", draw_shapes),
        Stage("odd configurations", draw_odd),
        Stage("the real checkpoint's distributions", draw_real),
        Stage("at size", draw_large, limit=30, advice="`cumsum` and one comparison do all rows at once"),
    ),
    loose=True,
    mistakes=(
        Mistake("You take the likeliest token; the number decides.", lambda p, uniform: p.argmax(-1)),
        Mistake("One number decides for all rows; each row has its own.",
                lambda probability, uniform: draw(probability, uniform[:1].expand(len(probability)))),
        Mistake("You lay the stretches in order of size; here they lie in the order of the vocabulary.",
                in_order_of_size),
        Mistake("You return the token before: count the stretches that end before the number, from 0.",
                lambda probability, uniform: draw(probability, uniform) - 1),
        Mistake("You return the token after the right one.", lambda p, uniform: draw(p, uniform) + 1),
        Mistake("A stretch ends before its border: where the number equals the sum reached, the next token is drawn "
                "(so a token of probability 0 never is).",
                lambda probability, uniform: place(probability, uniform, right=False)),
        Mistake("The probabilities need not sum to exactly 1: multiply the number by their sum.",
                lambda probability, uniform: place(probability, uniform, scaled=False)),
        Mistake("The probabilities need not sum to exactly 1: multiply the number by their sum.",
                lambda probability, uniform: place(probability, uniform, scaled=False).clamp(
                    max=probability.shape[-1] - 1)),
        Mistake("You go from the far end: the first token's stretch begins at 0.",
                lambda probability, uniform: draw(probability, 1 - uniform)),
        Mistake("The result has a dimension too many: one token for each row.",
                lambda probability, uniform: draw(probability, uniform)[:, None]),
    ),
    own=(sampling.draw, torch.multinomial),
)  # fmt: skip
