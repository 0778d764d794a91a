"""Wrong answers to ps7: losses, a gradient, clipping, rates and steps as they go wrong, with what must be said."""

import math
from collections.abc import Callable, Sequence  # noqa: F401 (what the notebook imports)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int  # noqa: F401
from torch import Tensor  # noqa: F401

# ---- weighted_cross_entropy ------------------------------------------------------------------


def weighted_cross_entropy__counts_forgotten(logits, targets, counts):
    used = counts > 0
    return F.cross_entropy(logits[used].float(), targets[used])


def weighted_cross_entropy__over_all_tokens(logits, targets, counts):
    used = counts > 0
    nats = F.cross_entropy(logits[used].float(), targets[used], reduction="none")
    return (nats * counts[used]).sum() / len(counts)


def weighted_cross_entropy__looks_all_up(logits, targets, counts):
    nats = -logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return (nats * counts).sum() / counts.sum()


def weighted_cross_entropy__softmax_then_log(logits, targets, counts):
    used = counts > 0
    p = logits[used].float().softmax(-1).gather(-1, targets[used][:, None])[:, 0]
    return (-p.log() * counts[used]).sum() / counts[used].sum()


def weighted_cross_entropy__in_the_logits_type(logits, targets, counts):
    used = counts > 0
    nats = -logits[used].log_softmax(-1).gather(-1, targets[used][:, None])[:, 0]
    return (nats * counts[used].float()).sum() / counts[used].float().sum()


def weighted_cross_entropy__no_minus(logits, targets, counts):
    used = counts > 0
    logs = logits[used].float().log_softmax(-1).gather(-1, targets[used][:, None])[:, 0]
    return (logs * counts[used]).sum() / counts[used].sum()


# ---- balance_by_text -------------------------------------------------------------------------


def balance_by_text__no_factor(router_logits, chat, top_k):
    p, experts = router_logits.float().softmax(-1), router_logits.shape[-1]
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    text = torch.where(chat >= 0, chat + 1000 * torch.arange(len(chat))[:, None], -1).flatten()
    each = [(chosen[text == n].mean(0) * p[text == n].mean(0)).sum() for n in text[text >= 0].unique()]
    return torch.stack(each).mean()


def balance_by_text__padding_is_a_text(router_logits, chat, top_k):
    p, experts = router_logits.float().softmax(-1), router_logits.shape[-1]
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    text = (chat + 1000 * torch.arange(len(chat))[:, None]).flatten()
    each = [(chosen[text == n].mean(0) * p[text == n].mean(0)).sum() for n in text.unique()]
    return experts * torch.stack(each).mean()


def balance_by_text__rows_share_numbers(router_logits, chat, top_k):
    p, experts, text = router_logits.float().softmax(-1), router_logits.shape[-1], chat.flatten()
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    each = [(chosen[text == n].mean(0) * p[text == n].mean(0)).sum() for n in text[text >= 0].unique()]
    return experts * torch.stack(each).mean()


def balance_by_text__all_joined(router_logits, chat, top_k):
    p, experts = router_logits[chat.flatten() >= 0].float().softmax(-1), router_logits.shape[-1]
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    return experts * (chosen.mean(0) * p.mean(0)).sum()


def balance_by_text__longer_ones_count_more(router_logits, chat, top_k):
    p, experts = router_logits.float().softmax(-1), router_logits.shape[-1]
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    text = torch.where(chat >= 0, chat + 1000 * torch.arange(len(chat))[:, None], -1).flatten()
    total = 0.0
    for n in text[text >= 0].unique():
        here = text == n
        total = total + here.sum() * (chosen[here].mean(0) * p[here].mean(0)).sum()
    return experts * total / (text >= 0).sum()


def balance_by_text__counted_over_all(router_logits, chat, top_k):
    p, experts = router_logits.float().softmax(-1), router_logits.shape[-1]
    chosen = F.one_hot(p.topk(top_k).indices, experts).sum(1).float()
    text = torch.where(chat >= 0, chat + 1000 * torch.arange(len(chat))[:, None], -1).flatten()
    f = chosen[text >= 0].mean(0)
    return experts * torch.stack([(f * p[text == n].mean(0)).sum() for n in text[text >= 0].unique()]).mean()


# ---- rms_norm_backward -----------------------------------------------------------------------


def rms_norm_backward__root_held_fixed(x, weight, eps, slope):
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return slope * weight / root, (slope * x / root).reshape(-1, x.shape[-1]).sum(0)


def rms_norm_backward__sum_for_mean(x, weight, eps, slope):
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    along = (slope * weight * x).sum(-1, keepdim=True)
    return slope * weight / root - x * along / root**3, (slope * x / root).reshape(-1, x.shape[-1]).sum(0)


def rms_norm_backward__weight_left_out(x, weight, eps, slope):
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    along = (slope * x).mean(-1, keepdim=True)
    return slope / root - x * along / root**3, (slope * x / root).reshape(-1, x.shape[-1]).sum(0)


def rms_norm_backward__weights_not_summed(x, weight, eps, slope):
    root = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    along = (slope * weight * x).mean(-1, keepdim=True)
    return slope * weight / root - x * along / root**3, slope * x / root


def rms_norm_backward__by_autograd(x, weight, eps, slope):
    with torch.enable_grad():
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return torch.autograd.grad(y, (x, weight), slope)


def rms_norm_backward__by_vjp(x, weight, eps, slope):
    def norm(x, weight):
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    return torch.func.vjp(norm, x, weight)[1](slope)


# ---- clip_gradients --------------------------------------------------------------------------


def clip_gradients__each_by_itself(gradients, most):
    length = sum(each.float().pow(2).sum() for each in gradients).sqrt()
    return [each * min(1.0, most / float(each.norm() or 1.0)) for each in gradients], length


def clip_gradients__each_number(gradients, most):
    length = sum(each.float().pow(2).sum() for each in gradients).sqrt()
    return [each.clamp(-most, most) for each in gradients], length


def clip_gradients__lengths_added(gradients, most):
    length = sum(each.float().pow(2).sum().sqrt() for each in gradients)
    factor = most / length if length > most else 1.0
    return [each * factor for each in gradients], length


def clip_gradients__lengthens(gradients, most):
    length = sum(each.float().pow(2).sum() for each in gradients).sqrt()
    return [each * (most / length) if length else each.clone() for each in gradients], length


def clip_gradients__torchs_own(gradients, most):
    leaves = [torch.zeros_like(each) for each in gradients]
    for leaf, each in zip(leaves, gradients, strict=True):
        leaf.grad = each.clone()
    length = torch.nn.utils.clip_grad_norm_(leaves, most)
    return [leaf.grad for leaf in leaves], length


# ---- learning_rate ---------------------------------------------------------------------------


def learning_rate__first_step_learns_nothing(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * step / warmup
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


def learning_rate__straight(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak + (floor - peak) * min(1.0, (step - warmup) / max(1, steps - 1 - warmup))


def learning_rate__one_step_late(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


def learning_rate__rises_again(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - 1 - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


def learning_rate__to_zero(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return peak * (1 + math.cos(math.pi * share)) / 2


# ---- adamw_step ------------------------------------------------------------------------------


def adamw_step__not_corrected(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    return weight * (1 - rate * decay) - rate * m / (v.sqrt() + eps), m, v


def adamw_step__decay_in_the_gradient(weight, gradient, m, v, step, rate, betas, eps, decay):
    gradient = gradient + decay * weight
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight - rate * m_hat / (v_hat.sqrt() + eps), m, v


def adamw_step__eps_in_the_root(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight * (1 - rate * decay) - rate * m_hat / (v_hat + eps).sqrt(), m, v


def adamw_step__hats_returned(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight * (1 - rate * decay) - rate * m_hat / (v_hat.sqrt() + eps), m_hat, v_hat


def adamw_step__decay_not_scaled(weight, gradient, m, v, step, rate, betas, eps, decay):
    m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return weight * (1 - decay) - rate * m_hat / (v_hat.sqrt() + eps), m, v


def adamw_step__torchs_own(weight, gradient, m, v, step, rate, betas, eps, decay):
    leaf = weight.clone()
    leaf.grad = gradient.clone()
    optimizer = torch.optim.AdamW([leaf], lr=rate, betas=betas, eps=eps, weight_decay=decay)
    optimizer.state[leaf] = {"step": torch.tensor(step - 1.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    return leaf, optimizer.state[leaf]["exp_avg"], optimizer.state[leaf]["exp_avg_sq"]


# ---- training_step ---------------------------------------------------------------------------


def training_step__not_clipped(loss, weights, averages, step, rate, most):
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    new, held = [], []
    for weight, gradient, (m, v) in zip(weights, gradients, averages, strict=True):
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        moved = (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)).sqrt() + 1e-8)
        new.append(weight * (1 - rate * 0.05 * (weight.ndim > 1)) - rate * moved)
        held.append((m, v))
    return value, new, held


def training_step__all_decay(loss, weights, averages, step, rate, most):
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    length = sum(each.pow(2).sum() for each in gradients).sqrt()
    new, held = [], []
    for weight, gradient, (m, v) in zip(weights, gradients, averages, strict=True):
        gradient = gradient * min(1.0, most / float(length))
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        moved = (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)).sqrt() + 1e-8)
        new.append(weight * (1 - rate * 0.05) - rate * moved)
        held.append((m, v))
    return value, new, held


def training_step__clipped_one_by_one(loss, weights, averages, step, rate, most):
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    new, held = [], []
    for weight, gradient, (m, v) in zip(weights, gradients, averages, strict=True):
        gradient = gradient * min(1.0, most / float(gradient.norm() or 1.0))
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        moved = (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)).sqrt() + 1e-8)
        new.append(weight * (1 - rate * 0.05 * (weight.ndim > 1)) - rate * moved)
        held.append((m, v))
    return value, new, held


def training_step__plain_descent(loss, weights, averages, step, rate, most):
    gradients, value = torch.func.grad_and_value(loss)(list(weights))
    return value, [w - rate * g for w, g in zip(weights, gradients, strict=True)], list(averages)


def training_step__gradients_off(loss, weights, averages, step, rate, most):
    leaves = [weight.clone().requires_grad_() for weight in weights]
    value = loss(leaves)
    value.backward()
    return value, [leaf - rate * leaf.grad for leaf in leaves], averages


# ---- gradients_in_parts ----------------------------------------------------------------------


def gradients_in_parts__mean_of_means(loss, weights, parts, sizes):
    found = [torch.func.grad_and_value(loss)(list(weights), part) for part in parts]
    value = sum(mean for _, mean in found) / len(parts)
    return value, [sum(slopes) / len(parts) for slopes in zip(*(each for each, _ in found), strict=True)]


def gradients_in_parts__sum_of_means(loss, weights, parts, sizes):
    found = [torch.func.grad_and_value(loss)(list(weights), part) for part in parts]
    return sum(mean for _, mean in found), [sum(slopes) for slopes in zip(*(each for each, _ in found), strict=True)]


def gradients_in_parts__only_the_loss_is_weighed(loss, weights, parts, sizes):
    found = [torch.func.grad_and_value(loss)(list(weights), part) for part in parts]
    value = sum(size * mean for size, (_, mean) in zip(sizes, found, strict=True)) / sum(sizes)
    return value, [sum(slopes) / len(parts) for slopes in zip(*(each for each, _ in found), strict=True)]


def gradients_in_parts__not_divided(loss, weights, parts, sizes):
    value, gradients = torch.zeros(()), [torch.zeros_like(weight) for weight in weights]
    for part, size in zip(parts, sizes, strict=True):
        if size:
            slopes, mean = torch.func.grad_and_value(loss)(list(weights), part)
            value = value + size * mean
            gradients = [held + size * slope for held, slope in zip(gradients, slopes, strict=True)]
    return value, gradients


def gradients_in_parts__empty_part_read(loss, weights, parts, sizes):
    value, gradients = torch.zeros(()), [torch.zeros_like(weight) for weight in weights]
    for part, size in zip(parts, sizes, strict=True):
        slopes, mean = torch.func.grad_and_value(loss)(list(weights), part)
        value = value + size / sum(sizes) * mean
        gradients = [held + size / sum(sizes) * slope for held, slope in zip(gradients, slopes, strict=True)]
    return value, gradients


def gradients_in_parts__empty_part_counts(loss, weights, parts, sizes):
    used = [part for part, size in zip(parts, sizes, strict=True) if size]
    found = [torch.func.grad_and_value(loss)(list(weights), part) for part in used]
    value = sum(mean for _, mean in found) / len(used)
    return value, [sum(slopes) / len(used) for slopes in zip(*(each for each, _ in found), strict=True)]


def gradients_in_parts__by_backward(loss, weights, parts, sizes):
    leaves = [weight.clone().requires_grad_() for weight in weights]
    value = sum(size * loss(leaves, part) for part, size in zip(parts, sizes, strict=True) if size) / sum(sizes)
    value.backward()
    return value, [leaf.grad for leaf in leaves]


FRAGMENTS = {
    weighted_cross_entropy__counts_forgotten: "The counts are not used",
    weighted_cross_entropy__over_all_tokens: "divide by the sum of the counts",
    weighted_cross_entropy__looks_all_up: "leave its row out before you look it up",
    weighted_cross_entropy__softmax_then_log: "take `log_softmax`",
    weighted_cross_entropy__in_the_logits_type: "Compute in fp32",
    weighted_cross_entropy__no_minus: "A minus is missing",
    balance_by_text__no_factor: "The number of experts is missing as a factor",
    balance_by_text__padding_is_a_text: "Padding is counted as a text",
    balance_by_text__rows_share_numbers: "Rows number their texts anew",
    balance_by_text__all_joined: "You join all texts",
    balance_by_text__longer_ones_count_more: "Longer texts count more here",
    balance_by_text__counted_over_all: "You count f over all texts",
    rms_norm_backward__root_held_fixed: "The root depends on x, too",
    rms_norm_backward__sum_for_mean: "stands a mean, not a sum",
    rms_norm_backward__weight_left_out: "The weight is missing in the gradient of x",
    rms_norm_backward__weights_not_summed: "its gradient is the sum over them",
    rms_norm_backward__by_autograd: "calls `grad`, which is the answer itself",
    rms_norm_backward__by_vjp: "calls `vjp`, which is the answer itself",
    clip_gradients__each_by_itself: "You clip each tensor by itself",
    clip_gradients__each_number: "You clip each number by itself",
    clip_gradients__lengths_added: "You add the lengths",
    clip_gradients__lengthens: "You lengthen what is shorter",
    clip_gradients__torchs_own: "which is the answer itself",
    learning_rate__first_step_learns_nothing: "The first step would learn nothing",
    learning_rate__straight: "The fall is a straight line",
    learning_rate__one_step_late: "The last step is steps - 1",
    learning_rate__rises_again: "it stays at the floor",
    learning_rate__to_zero: "it ends at the floor",
    adamw_step__not_corrected: "divide by 1 - beta^step",
    adamw_step__decay_in_the_gradient: "The decay goes into the gradient",
    adamw_step__eps_in_the_root: "eps stands outside the root",
    adamw_step__hats_returned: "part 1: ",
    adamw_step__decay_not_scaled: "The decay is multiplied by the rate",
    adamw_step__torchs_own: "calls `step`, which is the answer itself",
    training_step__not_clipped: "The gradients are not clipped",
    training_step__all_decay: "Norms and biases decay, too",
    training_step__clipped_one_by_one: "numbers differ",
    training_step__plain_descent: "numbers differ",
    training_step__gradients_off: "raised RuntimeError",
    gradients_in_parts__mean_of_means: "Parts count alike here",
    gradients_in_parts__sum_of_means: "This is a sum over parts",
    gradients_in_parts__only_the_loss_is_weighed: "the gradients are not: both need it",
    gradients_in_parts__not_divided: "Sizes have to be divided by their sum",
    gradients_in_parts__empty_part_read: "leave such a part out",
    gradients_in_parts__empty_part_counts: "Parts count alike here",
    gradients_in_parts__by_backward: "raised RuntimeError",
}
