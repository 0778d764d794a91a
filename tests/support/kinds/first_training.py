"""Answers to ps7 of every kind: constants, gradients, inputs, edges and types, and right ones that go another way."""

import math

import torch
import torch.nn.functional as F

from . import CHANGED, CONSTANT, EDGE, FORBIDDEN, GRADIENT, MASK, TYPE, right, wrong


def nats_of(logits, targets, counts):
    used = counts > 0
    return F.cross_entropy(logits[used].float(), targets[used], reduction="none"), counts[used]


def advanced(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + eps), m, v


def trained(loss, weights, averages, step, rate, most, decay=lambda weight: 0.05 * (weight.ndim > 1)):
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    length = torch.stack([each.pow(2).sum() for each in gradients]).sum().sqrt()
    factor = min(1.0, most / float(length))
    found = [
        advanced(weight, factor * gradient, *held, step, rate, (0.9, 0.98), 1e-8, decay(weight))
        for weight, gradient, held in zip(weights, gradients, averages, strict=True)
    ]
    return value, [weight for weight, *_ in found], [(m, v) for _, m, v in found]


# ---- masks and constants ---------------------------------------------------------------------


@wrong(MASK)
def weighted_cross_entropy__only_what_counts_fully(logits, targets, counts):
    used = counts > 0.2
    nats = F.cross_entropy(logits[used].float(), targets[used], reduction="none")
    return (nats * counts[used]).sum() / counts[used].sum()


@wrong(MASK)
def balance_by_layer__padding_of_the_first_row(router_logits, num_experts, top_k, attention_mask=None):
    found = []
    for logits in router_logits:
        if attention_mask is not None:
            keep = attention_mask[:1].bool().expand(len(attention_mask), -1).flatten()
            logits = logits[keep]
        p = logits.float().softmax(-1)
        f = F.one_hot(p.topk(top_k).indices, num_experts).sum(1).float().mean(0)
        found.append(num_experts * (f * p.mean(0)).sum())
    return torch.stack(found)


@wrong(CONSTANT)
def adamw_step__betas_of_the_code(weight, gradient, m, v, step, rate, betas, eps, decay):
    return advanced(weight, gradient, m, v, step, rate, (0.9, 0.98), eps, decay)


@wrong(CONSTANT)
def adamw_step__eps_of_the_code(weight, gradient, m, v, step, rate, betas, eps, decay):
    return advanced(weight, gradient, m, v, step, rate, betas, 1e-8, decay)


@wrong(CONSTANT)
def clip_gradients__to_length_one(gradients, most):
    length = torch.stack([each.float().pow(2).sum() for each in gradients]).sum().sqrt()
    factor = min(1.0, 1 / float(length)) if length else 1.0
    return [factor * each for each in gradients], length


@wrong(CONSTANT)
def rms_norm_backward__eps_of_the_code(x, weight, eps, slope):
    root = (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    along = (slope * weight * x).mean(-1, keepdim=True)
    return slope * weight / root - x * along / root**3, (slope * x / root).reshape(-1, x.shape[-1]).sum(0)


@wrong(CONSTANT)
def training_step__decay_of_a_tenth(loss, weights, averages, step, rate, most):
    return trained(loss, weights, averages, step, rate, most, decay=lambda weight: 0.1 * (weight.ndim > 1))


# ---- gradients and inputs --------------------------------------------------------------------


@wrong(GRADIENT)
def weighted_cross_entropy__logits_detached(logits, targets, counts):
    nats, used = nats_of(logits.detach(), targets, counts)
    return (nats * used).sum() / used.sum()


@wrong(GRADIENT)
def balance_by_text__probabilities_detached(router_logits, chat, top_k):
    return balance_by_text__sums_by_index(router_logits.detach(), chat, top_k) + 0.0 * router_logits.float().sum()


@right(GRADIENT)
def balance_by_text__sums_by_index(router_logits, chat, top_k):
    p, kept = router_logits.float().softmax(-1), chat.flatten() >= 0
    chosen = torch.zeros_like(p).scatter(1, p.topk(top_k).indices, 1.0)
    text = (chat + (chat.max() + 1) * torch.arange(len(chat))[:, None]).flatten()[kept]
    found, number = text.unique(return_inverse=True)
    sums = (p.new_zeros(len(found), p.shape[1]).index_add(0, number, part[kept]) for part in (chosen, p))
    f, mean = (total / number.bincount()[:, None] for total in sums)
    return p.shape[1] * (f * mean).sum(-1).mean()


@wrong(CHANGED)
def balance_by_text__numbers_in_place(router_logits, chat, top_k):
    chat += torch.where(chat >= 0, 1000 * torch.arange(len(chat))[:, None], 0)
    return balance_by_text__sums_by_index(router_logits, chat, top_k)


@wrong(GRADIENT)
def balance_by_layer__probabilities_data(router_logits, num_experts, top_k, attention_mask=None):
    found = []
    for logits in router_logits:
        kept = logits if attention_mask is None else logits[attention_mask.flatten().bool()]
        p = kept.float().softmax(-1)
        f = F.one_hot(p.topk(top_k).indices, num_experts).sum(1).float().mean(0)
        found.append(num_experts * (f * p.data.mean(0)).sum())
    return torch.stack(found)


@wrong(CHANGED)
def clip_gradients__shortened_in_place(gradients, most):
    length = torch.stack([each.float().pow(2).sum() for each in gradients]).sum().sqrt()
    if length > most:
        for each in gradients:
            each.mul_(most / length)
    return list(gradients), length


@wrong(CHANGED)
def adamw_step__means_in_place(weight, gradient, m, v, step, rate, betas, eps, decay):
    m.mul_(betas[0]).add_(gradient, alpha=1 - betas[0])
    v.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + eps), m, v


@wrong(CHANGED)
def training_step__weights_in_place(loss, weights, averages, step, rate, most):
    value, new, held = trained(loss, weights, averages, step, rate, most)
    for weight, moved in zip(weights, new, strict=True):
        weight.copy_(moved)
    return value, list(weights), held


# ---- edges -----------------------------------------------------------------------------------


@wrong(EDGE)
def clip_gradients__nothing_to_divide(gradients, most):
    length = torch.stack([each.float().pow(2).sum() for each in gradients]).sum().sqrt()
    return [each / length * length.clamp(max=most) for each in gradients], length


@wrong(EDGE)
def learning_rate__one_step_too_many(step, steps, peak, warmup, floor):
    if step <= warmup:
        return peak * (step + 1) / max(1, warmup)
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


@wrong(EDGE)
def weighted_cross_entropy__minus_100_alone(logits, targets, counts):
    nats = F.cross_entropy(logits.float(), targets, reduction="none", ignore_index=-100)
    return (nats * counts).sum() / counts.sum()


@wrong(EDGE)
def training_step__vectors_of_one_row_decay(loss, weights, averages, step, rate, most):
    return trained(loss, weights, averages, step, rate, most, decay=lambda weight: 0.05 * (weight.numel() > 5))


# ---- what is forbidden, types, and right ways ------------------------------------------------


@wrong(FORBIDDEN)
def rms_norm_backward__by_backward(x, weight, eps, slope):
    with torch.enable_grad():
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        (weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()).backward(slope)
    return x.grad, weight.grad


@wrong(FORBIDDEN)
def rms_norm_backward__by_func_grad(x, weight, eps, slope):
    def loss(x, weight):
        return (weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * slope).sum()

    return torch.func.grad(loss, argnums=(0, 1))(x, weight)


@wrong(FORBIDDEN)
def training_step__by_torchs_optimiser(loss, weights, averages, step, rate, most):
    leaves = [weight.clone() for weight in weights]
    gradients, value = torch.func.grad_and_value(loss)(leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
    optimizer = torch.optim.AdamW(leaves, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    optimizer.step()
    return value, leaves, averages


@right(TYPE)
def learning_rate__a_tensor(step, steps, peak, warmup, floor):
    if step < warmup:
        return torch.tensor(peak * (step + 1) / warmup, dtype=torch.float64)
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return torch.tensor(floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2, dtype=torch.float64)


@right(TYPE)
def clip_gradients__a_tuple_and_a_number(gradients, most):
    length = sum(float(each.double().pow(2).sum()) for each in gradients) ** 0.5
    factor = most / length if length > most else 1.0
    return tuple(each * factor for each in gradients), length


@right(GRADIENT)
def weighted_cross_entropy__by_one_product(logits, targets, counts):
    rows = F.one_hot(targets.masked_fill(counts == 0, 0), logits.shape[1]).float()
    shares = counts / counts.sum()
    return -((rows * logits.float().log_softmax(-1)).sum(-1) * shares).sum()


@right(CHANGED)
def adamw_step__by_lerp(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = m.lerp(gradient, 1 - betas[0]), v.lerp(gradient * gradient, 1 - betas[1])
    under = (v / (1 - betas[1] ** step)).sqrt() + eps
    return weight - rate * decay * weight - rate / (1 - betas[0] ** step) * m / under, m, v


@right(FORBIDDEN)
def training_step__with_gradients_on(loss, weights, averages, step, rate, most):
    with torch.enable_grad():
        leaves = [weight.clone().requires_grad_() for weight in weights]
        value = loss(leaves)
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    gradients = [torch.zeros_like(w) if each is None else each for w, each in zip(weights, found, strict=True)]
    length = torch.stack([each.pow(2).sum() for each in gradients]).sum().sqrt()
    moved = [
        advanced(w, g * min(1.0, most / float(length)), *held, step, rate, (0.9, 0.98), 1e-8, 0.05 * (w.ndim > 1))
        for w, g, held in zip(weights, gradients, averages, strict=True)
    ]
    return value.detach(), [weight for weight, *_ in moved], [(m, v) for _, m, v in moved]


@right(EDGE)
def balance_by_layer__all_layers_at_once(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.stack(tuple(router_logits)).float()
    if attention_mask is not None:
        logits = logits[:, attention_mask.flatten().bool()]
    p = logits.softmax(-1)
    f = torch.zeros_like(p).scatter(-1, p.topk(top_k).indices, 1.0).mean(1)
    return num_experts * (f * p.mean(1)).sum(-1)
