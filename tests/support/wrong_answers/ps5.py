"""Wrong answers to ps5_sampling_and_chat, and what has to be said of each."""

from collections.abc import Mapping, Sequence  # noqa: F401 (what the notebook gives)

import torch
from jaxtyping import Float, Int  # noqa: F401
from torch import Tensor  # noqa: F401

from . import ps5_text
from .ps5_text import *  # noqa: F403

# ---- temperature_softmax ---------------------------------------------------------------------


def temperature_softmax__multiplied(logits, temperature):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return (logits.float() * temperature).softmax(-1)


def temperature_softmax__after_the_softmax(logits, temperature):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    p = logits.float().softmax(-1) / temperature
    return p / p.sum(-1, keepdim=True)


def temperature_softmax__over_the_batch(logits, temperature):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return (logits.float() / temperature).softmax(0)


def temperature_softmax__divides_by_zero(logits, temperature):
    return (logits.float() / temperature).softmax(-1)


def temperature_softmax__overflows(logits, temperature):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    grown = (logits.float() / temperature).exp()
    return grown / grown.sum(-1, keepdim=True)


def temperature_softmax__in_bf16(logits, temperature):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return (logits / temperature).softmax(-1).float()


# ---- top_k_filter ----------------------------------------------------------------------------


def top_k_filter__kth_dropped(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits <= logits.topk(top_k).values[:, -1:], -torch.inf)


def top_k_filter__exactly_k(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    values, places = logits.topk(top_k)
    return torch.full_like(logits, -torch.inf).scatter(-1, places, values)


def top_k_filter__zero_for_infinity(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], 0.0)


def top_k_filter__border_of_the_first_row(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[0, -1], -torch.inf)


def top_k_filter__zero_forgotten(logits, top_k):
    top_k = min(top_k, logits.shape[-1])
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)


def top_k_filter__larger_forgotten(logits, top_k):
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf) if top_k else logits


def top_k_filter__in_place(logits, top_k):
    if 0 < top_k < logits.shape[-1]:
        logits[logits < logits.topk(top_k).values[:, -1:]] = -torch.inf
    return logits


# ---- top_p_filter ----------------------------------------------------------------------------


def top_p_filter__crossing_token_dropped(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(descending=True)
    beyond = ordered.cumsum(-1) > top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def top_p_filter__mask_left_sorted(logits, top_p):
    if top_p >= 1:
        return logits
    ordered = logits.softmax(-1).sort(descending=True).values
    return logits.masked_fill(ordered.cumsum(-1) - ordered >= top_p, -torch.inf)


def top_p_filter__not_sorted(logits, top_p):
    if top_p >= 1:
        return logits
    p = logits.softmax(-1)
    return logits.masked_fill(p.cumsum(-1) - p >= top_p, -torch.inf)


def top_p_filter__ascending(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort()
    beyond = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def top_p_filter__each_by_itself(logits, top_p):
    return logits.masked_fill(logits.softmax(-1) < top_p, -torch.inf) if top_p < 1 else logits


def top_p_filter__one_too_many(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p
    beyond = torch.cat((torch.zeros_like(beyond[:, :1]), beyond[:, :-1]), dim=-1)
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def top_p_filter__token_by_token(logits, top_p):
    if top_p >= 1:
        return logits
    found = torch.full_like(logits, -torch.inf)
    for row, p in enumerate(logits.softmax(-1)):
        reached = 0.0
        for token in p.argsort(descending=True):
            if reached >= top_p:
                break
            reached += float(p[token])
            found[row, token] = logits[row, token]
    return found


# ---- repetition_penalty ----------------------------------------------------------------------


def repetition_penalty__divides_all(logits, token_ids, penalty):
    return logits.scatter(1, token_ids, logits.gather(1, token_ids) / penalty)


def repetition_penalty__the_wrong_way_round(logits, token_ids, penalty):
    said = logits.gather(1, token_ids)
    return logits.scatter(1, token_ids, torch.where(said > 0, said * penalty, said / penalty))


def repetition_penalty__subtracted(logits, token_ids, penalty):
    return logits.scatter(1, token_ids, logits.gather(1, token_ids) - penalty)


def repetition_penalty__each_time(logits, token_ids, penalty):
    found = logits.clone()
    for column in token_ids.T:
        said = found.gather(1, column[:, None])
        found = found.scatter(1, column[:, None], torch.where(said > 0, said / penalty, said * penalty))
    return found


def repetition_penalty__any_row(logits, token_ids, penalty):
    found = logits.clone()
    said = logits[:, token_ids.flatten()]
    found[:, token_ids.flatten()] = torch.where(said > 0, said / penalty, said * penalty)
    return found


def repetition_penalty__all_tokens(logits, token_ids, penalty):
    return torch.where(logits > 0, logits / penalty, logits * penalty)


# ---- draw ------------------------------------------------------------------------------------


def draw__the_likeliest(probability, uniform):
    return probability.argmax(-1)


def draw__in_order_of_size(probability, uniform):
    ordered, order = probability.double().sort(descending=True)
    reached = ordered.cumsum(-1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return order.gather(-1, place)[:, 0]


def draw__one_number_for_all(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[0] * reached[:, -1:]).sum(-1)


def draw__off_by_one(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(-1) - 1


def draw__borders_on_the_wrong_side(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached < uniform[:, None] * reached[:, -1:]).sum(-1)


def draw__sum_taken_for_one(probability, uniform):
    return (probability.double().cumsum(-1) <= uniform[:, None]).sum(-1)


def draw__another_chance(probability, uniform):
    return torch.multinomial(probability, 1)[:, 0]


def draw__row_by_row(probability, uniform):
    found = []
    for p, u in zip(probability.double(), uniform, strict=True):
        reached, point, token = 0.0, float(u * p.sum()), 0
        for token in range(len(p)):
            reached += float(p[token])
            if reached > point:
                break
        found.append(token)
    return torch.tensor(found)


FRAGMENTS = {
    **ps5_text.FRAGMENTS,
    temperature_softmax__multiplied: "You multiply by the temperature",
    temperature_softmax__after_the_softmax: "The temperature changes nothing here",
    temperature_softmax__over_the_batch: "Your softmax runs over the batch",
    temperature_softmax__divides_by_zero: "Temperature 0 cannot divide",
    temperature_softmax__overflows: "exp grows past the largest number",
    temperature_softmax__in_bf16: "Compute in fp32",
    top_k_filter__kth_dropped: "The k-th token itself is gone",
    top_k_filter__exactly_k: "Tokens as likely as the k-th stay",
    top_k_filter__zero_for_infinity: "It is minus infinity",
    top_k_filter__border_of_the_first_row: "the border of the first row for all",
    top_k_filter__zero_forgotten: "0 keeps all",
    top_k_filter__larger_forgotten: "may be larger than the vocabulary",
    top_k_filter__in_place: "logits was changed in place",
    top_p_filter__crossing_token_dropped: "The token with which the sum crosses top_p stays",
    top_p_filter__mask_left_sorted: "The mask is for sorted tokens",
    top_p_filter__not_sorted: "Sort first",
    top_p_filter__ascending: "sort descending",
    top_p_filter__each_by_itself: "each token's own probability",
    top_p_filter__one_too_many: "You keep one token too many",
    top_p_filter__token_by_token: "times slower than it could be",
    repetition_penalty__divides_all: "multiply negative ones",
    repetition_penalty__the_wrong_way_round: "the wrong way round",
    repetition_penalty__subtracted: "You subtract the penalty",
    repetition_penalty__each_time: "once is meant",
    repetition_penalty__any_row: "each row has its own tokens",
    repetition_penalty__all_tokens: "Every token is penalised",
    draw__the_likeliest: "the number decides",
    draw__in_order_of_size: "in order of size",
    draw__one_number_for_all: "One number decides for all rows",
    draw__off_by_one: "You return the token before",
    draw__borders_on_the_wrong_side: "A stretch ends before its border",
    draw__sum_taken_for_one: "multiply the number by their sum",
    draw__another_chance: "this calls `multinomial`",
    draw__row_by_row: "times slower than it could be",
}
