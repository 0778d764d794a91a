"""Answers to exercises that no chapter asks for: a clock, a step from outside, keys and batches in parts, a cache."""

from functools import partial

import numpy as np
import torch

from qwen3_scratch import model

from . import CHANGED, CONSTANT, EDGE, GRADIENT, TYPE, right, wrong

# ---- position_of -----------------------------------------------------------------------------


def fits(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    angles = torch.arange(longest)[:, None] * frequencies
    return (a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T


@right(TYPE)
def position_of__nearest_of_all_turned(x, y, frequencies, longest):
    angles = torch.arange(longest)[:, None] * frequencies
    a, b = x.float()[:, None].chunk(2, -1)
    turned = torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)
    return (turned - y.float()[:, None]).pow(2).sum(-1).argmin(-1).int()


@right(TYPE)
def position_of__complex_and_a_list(x, y, frequencies, longest):
    before, after = (torch.complex(*part.float().chunk(2, -1)) for part in (x, y))
    hands = torch.polar(torch.ones(longest, len(frequencies)), torch.arange(longest)[:, None] * frequencies)
    return ((before.conj() * after) @ hands.conj().T).real.argmax(-1).tolist()


@wrong(CONSTANT)
def position_of__up_to_a_thousand(x, y, frequencies, longest):
    return fits(x, y, frequencies, 1000).argmax(-1)


@wrong(CONSTANT)
def position_of__speeds_of_its_own(x, y, frequencies, longest):
    return fits(x, y, 1e4 ** -(torch.arange(0, x.shape[-1], 2) / x.shape[-1]), longest).argmax(-1)


@wrong(CONSTANT)
def position_of__the_last_four_hands(x, y, frequencies, longest):
    (a, b), (c, e) = ([half[:, -4:] for half in part.float().chunk(2, -1)] for part in (x, y))
    angles = torch.arange(longest)[:, None] * frequencies[-4:]
    return ((a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T).argmax(-1)


@wrong(EDGE)
def position_of__never_at_the_beginning(x, y, frequencies, longest):
    return fits(x, y, frequencies, longest)[:, 1:].argmax(-1) + 1 if longest > 1 else torch.zeros(len(x)).long()


# ---- influence -------------------------------------------------------------------------------


def heard(step, x, change):
    columns = []
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = change(x[place])
        columns.append((step(changed) != step(x)).any(-1))
    return torch.stack(columns, 1)


@wrong(EDGE)
def influence__by_jacobian(step, x):  # where a threshold cuts all off, nothing has a slope
    slopes = torch.func.jacrev(step)(x)  # [seq, width, seq, dim]
    return (slopes != 0).any(-1).any(1)


@right(EDGE)
def influence__reversed_and_shifted(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for shift in range(-20, 20):
        found |= heard(step, x, lambda x, by=shift: x.flip(0) * 3 + by * torch.cos(by * torch.arange(len(x))))
    return found


@right(EDGE)
def influence__close_within_rounding(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        for _ in range(25):
            changed = torch.where((torch.arange(len(x)) == place)[:, None], torch.randn_like(x), x)
            found[:, place] |= ~torch.isclose(step(changed), step(x), rtol=1e-5, atol=1e-6).all(-1)
    return found


@wrong(EDGE)
def influence__sign_turned(step, x):
    return heard(step, x, torch.neg)


@wrong(EDGE)
def influence__halved(step, x):
    return heard(step, x, lambda vector: vector / 2)


@wrong(EDGE)
def influence__itself_always(step, x):
    return heard(step, x, torch.randn_like) | torch.eye(len(x), dtype=torch.bool)


@wrong(EDGE)
def influence__rounded_to_two_digits(step, x):
    columns = []
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = torch.randn_like(x[place])
        columns.append((step(changed).round(decimals=2) != step(x).round(decimals=2)).any(-1))
    return torch.stack(columns, 1)


@wrong(TYPE)
def influence__zeros_and_ones(step, x):
    return heard(step, x, torch.randn_like).long()


@wrong(CHANGED)
def influence__changed_and_not_put_back(step, x):
    found = heard(step, x, torch.randn_like)
    x[0] = torch.randn_like(x[0])
    return found


# ---- attend_more -----------------------------------------------------------------------------


def more(q, k, v, held=None, scale=None):
    scores = q @ k.transpose(-1, -2) / (scale or q.shape[-1] ** 0.5)
    new, new_total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, new_total
    total = torch.logaddexp(held[1], new_total)
    return (held[1] - total).exp()[..., None] * held[0] + (new_total - total).exp()[..., None] * new, total


@right(GRADIENT)
def attend_more__held_as_one_more_key(q, k, v, held=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if held is None:
        return scores.softmax(-1) @ v, scores.logsumexp(-1)
    scores = torch.cat((held[1][..., None], scores), -1)
    weights = scores.softmax(-1)
    return weights[..., :1] * held[0] + weights[..., 1:] @ v, scores.logsumexp(-1)


@right(GRADIENT)
def attend_more__by_hand_with_the_largest_taken_off(q, k, v, held=None):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    largest = scores.amax(-1, keepdim=True)
    if held is not None:
        largest = torch.maximum(largest, held[1][..., None])
    powers = (scores - largest).exp()
    below, above = powers.sum(-1, keepdim=True), powers @ v
    if held is not None:
        share = (held[1][..., None] - largest).exp()
        below, above = below + share, above + share * held[0]
    return [above / below, (largest + below.log())[..., 0]]


@right(TYPE)
def attend_more__in_double(q, k, v, held=None):
    wide = None if held is None else tuple(part.double() for part in held)
    return more(q.double(), k.double(), v.double(), wide)


@wrong(CONSTANT)
def attend_more__scale_of_its_own(q, k, v, held=None):
    return more(q, k, v, held, scale=8**0.5)


@wrong(GRADIENT)
def attend_more__held_detached(q, k, v, held=None):
    return more(q, k, v, None if held is None else tuple(part.detach() for part in held))


@wrong(CHANGED)
def attend_more__held_written_to(q, k, v, held=None):
    result, total = more(q, k, v, held)
    if held is not None:
        held[0].copy_(result)
    return result, total


@wrong(EDGE)
def attend_more__totals_bounded(q, k, v, held=None):
    result, total = more(q, k, v, held)
    return result, total.clamp(-80, 80)


# ---- forgetting_step -------------------------------------------------------------------------


def forgot(weights, token_ids, config, held, before, most):
    """The step; `most` says how many tokens a layer of a window keeps."""
    places, kept = torch.arange(before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        count = k.shape[2] if window is None else min(k.shape[2], most(window))
        kept.append([part.narrow(2, part.shape[2] - count, count).clone() for part in (k, v)])
        return k, v

    new = places[:, before:]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = places[:, before - held[number][0].shape[2] :]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    head = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    return model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps) @ head.T, kept


@right(TYPE)
def forgetting_step__tensors_of_their_own(weights, token_ids, config, held, before):
    return forgot(weights, token_ids, config, held, before, lambda window: window - 1)


@wrong(EDGE)
def forgetting_step__one_token_at_least(weights, token_ids, config, held, before):
    return forgot(weights, token_ids, config, held, before, lambda window: max(1, window - 1))


@wrong(CONSTANT)
def forgetting_step__window_of_the_code(weights, token_ids, config, held, before):
    return forgot(weights, token_ids, config, held, before, lambda window: 3)


@wrong(CHANGED)
def forgetting_step__held_emptied(weights, token_ids, config, held, before):
    found = forgot(weights, token_ids, config, held, before, lambda window: window - 1)
    held.clear()
    return found


# ---- reuse -----------------------------------------------------------------------------------


@right(TYPE)
def reuse__by_tensors_and_tuples(held_ids, held, prompt):
    size = min(len(held_ids), len(prompt) - 1)
    equal = torch.tensor(held_ids[:size]) == torch.tensor(prompt[:size])
    same = int(equal.long().cumprod(0).sum())
    return tuple(prompt[same:]), tuple((k.narrow(2, 0, same).clone(), v.narrow(2, 0, same).clone()) for k, v in held)


@wrong(EDGE)
def reuse__first_token_taken_for_equal(held_ids, held, prompt):
    same = min(1, len(held_ids), len(prompt) - 1)
    while same < min(len(held_ids), len(prompt) - 1) and held_ids[same] == prompt[same]:
        same += 1
    return prompt[same:], [(k[:, :, :same], v[:, :, :same]) for k, v in held]


@wrong(CONSTANT)
def reuse__three_layers(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt) - 1) and held_ids[same] == prompt[same]:
        same += 1
    return prompt[same:], [(k[:, :, :same], v[:, :, :same]) for k, v in held[:3]]


# ---- gradients_in_parts ----------------------------------------------------------------------


@right(TYPE)
def gradients_in_parts__one_loss_of_all(loss, weights, parts, sizes):
    used = [(part, size / sum(sizes)) for part, size in zip(parts, sizes, strict=True) if size]
    slopes, value = torch.func.grad_and_value(lambda w: sum(share * loss(w, part) for part, share in used))(
        list(weights)
    )
    return value, slopes


@right(TYPE)
def gradients_in_parts__shares_by_numpy(loss, weights, parts, sizes):
    shares = np.array(sizes) / np.sum(sizes)
    found = [
        (float(share), torch.func.grad_and_value(loss)(list(weights), part))
        for share, part in zip(shares, parts, strict=True)
        if share > 0
    ]
    value = sum(share * mean for share, (_, mean) in found)
    return value, [sum(share * slopes[n] for share, (slopes, _) in found) for n in range(len(weights))]


@wrong(CHANGED)
def gradients_in_parts__weights_moved(loss, weights, parts, sizes):
    value, slopes = gradients_in_parts__one_loss_of_all(loss, weights, parts, sizes)
    for weight, slope in zip(weights, slopes, strict=True):
        weight -= slope
    return value, slopes


@wrong(EDGE)
def gradients_in_parts__small_parts_left_out(loss, weights, parts, sizes):
    kept = [(part, size) for part, size in zip(parts, sizes, strict=True) if size >= 1]
    if not kept:
        return torch.zeros(()), [torch.zeros_like(weight) for weight in weights]
    return gradients_in_parts__one_loss_of_all(loss, weights, *zip(*kept, strict=True))
