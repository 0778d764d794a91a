"""Answers that look at a mask or a number of their own, written after the checks and without a look at them."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient

from . import CONSTANT, FINITE, MASK, right, wrong
from .first_masks_and_constants import attend, by_layer, layered, stepped, weigh

# ---- masks -----------------------------------------------------------------------------------


@wrong(MASK)
def attention_weights__what_any_row_sees(q, k, mask=None):
    return weigh(q, k, None if mask is None else mask.any(0, keepdim=True))


@wrong(MASK)
def attention_weights__what_any_head_sees(q, k, mask=None):
    return weigh(q, k, None if mask is None else mask.any(1, keepdim=True))


@wrong(MASK)
def gqa_attention__one_mask_for_each_group(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    if mask is not None and mask.shape[1] > 1:
        mask = mask[:, ::group].repeat_interleave(group, 1)
    return attend(q, k, v, mask)


@wrong(MASK)
def gqa_attention__a_prefix_of_the_mask(q, k, v, mask=None):
    if mask is not None:
        mask = torch.arange(k.shape[2]) < mask.sum(-1, keepdim=True)
    return attend(q, k, v, mask)


@right(MASK)
def gqa_attention__grouped_without_copies(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = q.unflatten(1, (-1, group)) @ k[:, :, None].mT / q.shape[-1] ** 0.5
    if mask is not None:
        mask = mask[:, :, None] if mask.shape[1] == 1 else mask.unflatten(1, (-1, group))
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v[:, :, None]).flatten(1, 2)


@wrong(MASK)
def self_attention__causal_on_top(x, layer, config, table, mask):
    return stepped(x, layer, config, table, mask & torch.ones_like(mask).tril())


@wrong(MASK)
def decoder_layer__mask_of_the_first_row(x, layer, config, table, mask):
    return layered(x, layer, config, table, mask[:1])


@wrong(MASK)
def perplexity__padding_taken_out_first(logits, token_ids, keep):
    parts = [(row[seen][:-1], ids[seen][1:]) for row, ids, seen in zip(logits, token_ids, keep, strict=True)]
    rows, ids = (torch.cat(part) for part in zip(*parts, strict=True))
    return F.cross_entropy(rows.float(), ids).exp()


@wrong(MASK)
def balance_by_layer__padding_of_the_last_row(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits))
    if attention_mask is not None:
        seen = attention_mask[-1:].bool().expand(attention_mask.shape)
        logits = logits[seen.flatten().repeat(len(router_logits))]
    return by_layer(logits, len(router_logits), num_experts, top_k)


@wrong(MASK)
def balance_by_layer__padding_in_the_probabilities(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits)).float()
    probabilities = logits.softmax(-1)
    chosen = F.one_hot(probabilities.topk(top_k).indices, num_experts).sum(1).float()
    if attention_mask is not None:
        chosen = chosen[attention_mask.flatten().bool().repeat(len(router_logits))]
    pairs = zip(*(each.chunk(len(router_logits)) for each in (chosen, probabilities)), strict=True)
    return torch.stack([num_experts * (f.mean(0) * p.mean(0)).sum() for f, p in pairs])


@right(MASK)
def balance_by_layer__weighted_by_the_mask(router_logits, num_experts, top_k, attention_mask=None):
    losses = []
    for logits in router_logits:
        probabilities, weight = logits.float().softmax(-1), torch.ones(len(logits))
        if attention_mask is not None:
            weight = attention_mask.flatten().float()
        weight = (weight / weight.sum())[:, None]
        chosen = F.one_hot(probabilities.topk(top_k).indices, num_experts).sum(1)
        losses.append(num_experts * ((chosen * weight).sum(0) * (probabilities * weight).sum(0)).sum())
    return torch.stack(losses)


@wrong(MASK)
def row_positions__behind_the_first_token_all_are(keep, before):
    begun = keep.long().cumsum(-1) > 0
    return (begun.long().cumsum(-1) - 1 + before[:, None]).masked_fill(~begun, 0) * keep


@wrong(MASK)
def patient_3__causal_by_itself(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        return attend(q, k, v, seen)

    mended = patient(3).mended(gqa_attention=gqa_attention)
    return "gqa_attention", mended.forward(weights, token_ids, config, **options)


@wrong(MASK)
def causal_mask__in_32_bits(positions, key_positions):
    return (key_positions.int()[:, None, :] <= positions.int()[:, :, None])[:, None]


# ---- constants -------------------------------------------------------------------------------


@wrong(CONSTANT)
def qk_norm__eps_of_the_code_for_keys(q, k, q_norm, k_norm, eps):
    q, k = (part.unflatten(-1, (-1, len(q_norm))) for part in (q, k))
    return model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, 1e-6).transpose(1, 2)


@wrong(CONSTANT)
def decoder_layer__eps_of_the_code_behind(x, layer, config, table, mask):
    x = x + model.self_attention(
        model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps), layer, config, table, mask
    )
    return x + model.feed_forward(model.rms_norm(x, layer.post_attention_layernorm, 1e-6), layer, config)


@wrong(CONSTANT)
def inverse_frequencies__a_whole_theta(head_dim, theta):
    return 1.0 / int(theta) ** (torch.arange(0, head_dim, 2).float() / head_dim)


@wrong(CONSTANT)
def yarn_frequencies__a_whole_factor(head_dim, theta, factor, trained):
    import math

    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    pairs = torch.arange(head_dim // 2).float()
    keep = 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds / round(factor) * (1 - keep)


@wrong(CONSTANT)
def top_k_filter__fifty_at_most(logits, top_k):
    top_k = min(top_k, 50)
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)


@wrong(CONSTANT)
def moe_route__eight_at_most(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(-1, dtype=torch.float32).topk(min(top_k, 8))
    weights = weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights
    return weights.to(x.dtype), experts, logits


@wrong(CONSTANT)
def repetition_penalty__two_at_most(logits, token_ids, penalty):
    said, penalty = logits.gather(1, token_ids), min(penalty, 2)
    return logits.scatter(1, token_ids, torch.where(said > 0, said / penalty, said * penalty))


@wrong(CONSTANT)
def patient_6__window_of_the_code(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        distance = positions[:, :, None] - key_positions[:, None, :]
        return ((distance >= 0) & (distance < (8 if window else 10**9)))[:, None]

    mended = patient(6).mended(attention_mask=attention_mask)
    return "attention_mask", mended.forward(weights, token_ids, config, **options)


@wrong(CONSTANT)
def greedy__a_hundred_words(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < most and not (written and written[-1] in stop_ids):
        written.append(int(read(new)[: min(vocabulary, 100)].argmax()))
        new = written[-1:]
    return written


# ---- hidden by a finite number ----------------------------------------------------------------


@wrong(FINITE)
def attention_weights__hidden_as_in_fp16(q, k, mask=None):
    return weigh(q, k, mask, hidden=torch.finfo(torch.float16).min)


@wrong(FINITE)
def attention_weights__hidden_by_a_large_power(q, k, mask=None):
    return weigh(q, k, mask, hidden=-1e20)


@wrong(FINITE)
def gqa_attention__a_small_weight_left(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores * mask - 1e6 * (~mask).to(scores.dtype)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.repeat_interleave(group, 1)


@wrong(FINITE)
def top_k_filter__the_lowest_number(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], torch.finfo(logits.dtype).min)


@right(FINITE)
def attention_weights__exponentials_of_what_is_seen(q, k, mask=None):
    scores = (q.float() @ k.float().mT) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.to(q.dtype).float().masked_fill(~mask, torch.finfo(torch.float32).min)
    grown = (scores - scores.amax(-1, keepdim=True)).exp()
    return (grown / grown.sum(-1, keepdim=True)).to(q.dtype)
