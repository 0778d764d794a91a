"""Answers that go wrong where a number meets its threshold, and right ones in another type or container."""

import numpy as np
import torch
import torch.nn.functional as F

from qwen3_scratch import model

from . import EDGE, TYPE, right, wrong
from .first_gradients_and_inputs import combine
from .first_masks_and_constants import attend
from .whole import counted, merges_of, streamed

OFF = -torch.inf

# ---- edges -----------------------------------------------------------------------------------


@wrong(EDGE)
def top_p_filter__more_than_p(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = ordered.cumsum(-1) - ordered > top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), OFF)


@wrong(EDGE)
def temperature_softmax__greedy_below_a_thousandth(logits, temperature):
    logits = logits.float()
    if temperature < 1e-3:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits / temperature).softmax(-1)


@wrong(EDGE)
def temperature_softmax__all_of_the_likeliest(logits, temperature):
    logits = logits.float()
    if temperature == 0:
        return (logits == logits.amax(-1, keepdim=True)).float()
    return (logits / temperature).softmax(-1)


@wrong(EDGE)
def learn_merges__one_at_least(words, count):
    return merges_of(words, max(count, 1))


@wrong(EDGE)
def draw__in_single_precision(probability, uniform):
    reached = probability.float().cumsum(-1)
    return (reached <= uniform.float()[:, None] * reached[:, -1:]).sum(-1)


@wrong(EDGE)
def render_chat__every_turn_is_cut(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if "</think>" in said:
            said = said.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


@wrong(EDGE)
def kv_cache_bytes__a_window_is_always_full(config, batch, length, dtype):
    tokens = sum(config.window(number) or length for number in range(config.num_hidden_layers))
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


@wrong(EDGE)
def sliding_mask__one_is_none(positions, key_positions, window):
    distance = positions[:, :, None] - key_positions[:, None, :]
    return ((distance >= 0) & ((distance < window) | (window == 1)))[:, None]


@wrong(EDGE)
def repetition_penalty__none_below_1(logits, token_ids, penalty):
    said = logits.gather(1, token_ids)
    penalty = max(penalty, 1.0)
    return logits.scatter(1, token_ids, torch.where(said > 0, said / penalty, said * penalty))


@wrong(EDGE)
def stop_stream__begins_first(pieces, stops):
    return streamed(pieces, stops, cut=lambda found: min(begin for _, begin in found))


@wrong(EDGE)
def stop_stream__ends_together_the_shorter(pieces, stops):
    return streamed(pieces, stops, cut=lambda found: max(begin for end, begin in found if end == min(found)[0]))


# ---- types -----------------------------------------------------------------------------------


def routed(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
    weights = weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights
    return weights.to(x.dtype), experts, logits


@right(TYPE)
def moe_route__experts_in_32_bits(x, router, top_k, norm_topk_prob):
    weights, experts, logits = routed(x, router, top_k, norm_topk_prob)
    return weights, experts.int(), logits


@right(TYPE)
def moe_route__logits_in_fp32(x, router, top_k, norm_topk_prob):
    weights, experts, logits = routed(x, router, top_k, norm_topk_prob)
    return [weights, experts, logits.float()]


@wrong(TYPE)
def top_p_filter__summed_in_the_logits_type(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), OFF)


@wrong(TYPE)
def moe_route__weights_in_fp64(x, router, top_k, norm_topk_prob):
    weights, experts, logits = routed(x, router, top_k, norm_topk_prob)
    return weights.double(), experts, logits


@right(TYPE)
def draw__in_32_bits(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(-1, dtype=torch.int32)


@right(TYPE)
def draw__a_list(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(-1).tolist()


@right(TYPE)
def row_positions__in_32_bits(keep, before):
    return (keep.int().cumsum(-1, dtype=torch.int32) - 1 + before[:, None].int()) * keep


@right(TYPE)
def score__in_double(q, k, m, n, frequencies):
    (a, b), (c, e) = q.double().chunk(2, -1), k.double().chunk(2, -1)
    angle = (m - n) * frequencies.double()
    return ((a * c + b * e) * angle.cos() + (a * e - b * c) * angle.sin()).sum(-1)


@right(TYPE)
def kv_cache_bytes__of_numpy(config, batch, length, dtype):
    windows = [config.window(number) or length for number in range(config.num_hidden_layers)]
    tokens = np.minimum(windows, length).sum()
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


@right(TYPE)
def numbers_read__a_tensor(shapes, choices, num_experts):
    rest, fed = counted(shapes, choices, num_experts)
    return torch.tensor([rest, *fed]).sum()


@right(TYPE)
def gqa_attention__left_in_fp32(q, k, v, mask=None):
    return attend(q.float(), k.float(), v.float(), mask)


@right(TYPE)
def moe__in_double(x, weights, experts, gate_up_proj, down_proj):
    return combine(x.double(), weights.double(), experts, gate_up_proj.double(), down_proj.double())


@right(TYPE)
def perplexity__in_double(logits, token_ids, keep):
    counted = keep[:, :-1] & keep[:, 1:]
    return F.cross_entropy(logits[:, :-1][counted].double(), token_ids[:, 1:][counted]).exp()


@right(TYPE)
def top_k_filter__in_double(logits, top_k):
    logits = logits.double()
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.where(logits >= logits.topk(top_k).values[:, -1:], OFF)


@right(TYPE)
def greedy__ids_as_tensors(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < most and not (written and int(written[-1]) in stop_ids):
        written.append(read(new)[:vocabulary].argmax())
        new = [int(written[-1])]
    return written


@wrong(TYPE)
def expert_load__in_double(experts, num_experts):
    return experts.flatten().bincount(minlength=num_experts).double() / experts.numel()


@wrong(TYPE)
def causal_mask__as_numbers(positions, key_positions):
    return model.attention_mask(positions, key_positions).float()
