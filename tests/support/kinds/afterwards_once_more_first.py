"""A second round of answers of all kinds, written after the checks had been mended by the first."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient

from . import CONSTANT, GRADIENT, MASK, right, wrong
from .first_masks_and_constants import attend, balance, by_layer, layered, read, stepped, weigh
from .whole import counted, merges_of

LOWEST = torch.finfo(torch.float32).min

# ---- masks -----------------------------------------------------------------------------------


@wrong(MASK)
def attention_weights__rows_that_see_all_see_what_came_before(q, k, mask=None):
    if mask is not None:
        rows = mask.all(-1, keepdim=True)
        mask = mask & (~rows | torch.ones_like(mask).tril(k.shape[2] - q.shape[2]))
    return weigh(q, k, mask)


@wrong(MASK)
def gqa_attention__itself_always_seen(q, k, v, mask=None):
    if mask is not None:
        mask = mask | torch.eye(k.shape[2], dtype=torch.bool)[-q.shape[2] :]
    return attend(q, k, v, mask)


@wrong(MASK)
def gqa_attention__columns_that_the_last_query_sees(q, k, v, mask=None):
    if mask is not None:
        mask = torch.ones_like(mask).tril(k.shape[2] - q.shape[2]) & mask[:, :, -1:]
    return attend(q, k, v, mask)


@wrong(MASK)
def self_attention__window_of_the_config(x, layer, config, table, mask):
    places = torch.arange(x.shape[1])[None]
    return stepped(x, layer, config, table, model.attention_mask(places, places, config.window(0)))


@wrong(MASK)
def decoder_layer__what_any_row_sees(x, layer, config, table, mask):
    return layered(x, layer, config, table, mask.any(0, keepdim=True))


@wrong(MASK)
def perplexity__only_the_token_itself_kept(logits, token_ids, keep):
    counted = keep[:, 1:]
    return F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted]).exp()


@wrong(MASK)
def balance_by_layer__columns_dropped(router_logits, num_experts, top_k, attention_mask=None):
    logits = list(router_logits)
    if attention_mask is not None:
        columns = attention_mask.bool().any(0)
        logits = [part.view(*attention_mask.shape, -1)[:, columns].flatten(0, 1) for part in logits]
    return torch.stack([balance(part, num_experts, top_k) for part in logits])


@right(MASK)
def self_attention__mask_as_numbers(x, layer, config, table, mask):
    def attention(q, k, v, seen):
        group = q.shape[1] // k.shape[1]
        added = torch.where(seen, 0.0, LOWEST)
        scores = q.float() @ k.float().repeat_interleave(group, 1).mT / math.sqrt(q.shape[-1]) + added
        return scores.softmax(-1).to(q.dtype) @ v.repeat_interleave(group, 1)

    return stepped(x, layer, config, table, mask, attention=attention)


# ---- constants -------------------------------------------------------------------------------


@wrong(CONSTANT)
def rms_norm__eps_one_millionth_at_most(x, weight, eps):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + min(eps, 1e-6))).to(x.dtype)


@wrong(CONSTANT)
def self_attention__scale_of_64(x, layer, config, table, mask):
    def attention(q, k, v, seen):
        return attend(q * (q.shape[-1] / 64) ** 0.5, k, v, seen)

    return stepped(x, layer, config, table, mask, attention=attention)


@wrong(CONSTANT)
def rope_table__at_most_300(positions, frequencies):
    angles = positions.clamp(max=300)[..., None].float() * frequencies
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


@wrong(CONSTANT)
def yarn_frequencies__trained_on_a_power_of_two(head_dim, theta, factor, trained):
    trained = 2 ** round(math.log2(trained))
    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    pairs = torch.arange(head_dim // 2).float()
    keep = 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds / factor * (1 - keep)


@wrong(CONSTANT)
def temperature_softmax__five_at_most(logits, temperature):
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits / min(temperature, 5)).softmax(-1)


@wrong(CONSTANT)
def top_p_filter__a_tenth_at_least(logits, top_p):
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = ordered.cumsum(-1) - ordered >= max(top_p, 0.1)
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


@wrong(CONSTANT)
def cached_step__one_window_for_all(weights, token_ids, config, held):
    return read(weights, token_ids, config, held, window=lambda size: config.sliding_window)


@wrong(CONSTANT)
def numbers_read__one_layer_is_all_layers(shapes, choices, num_experts):
    rest, fed = counted(shapes, choices, num_experts)
    return rest + len(fed) * fed[1]


@wrong(CONSTANT)
def patient_1__eps_of_the_code(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    return "rms_norm", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


@wrong(CONSTANT)
def learn_merges__words_counted_up_to_nine(words, count):
    return merges_of(words, count, weigh=lambda times: min(times, 9))


# ---- gradients -------------------------------------------------------------------------------


@wrong(GRADIENT)
def rms_norm__by_data(x, weight, eps):
    wide = x.data.float()
    return weight.data * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@wrong(GRADIENT)
def rope__x_detached_in_one_half(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos[:, None].to(x.dtype) + torch.cat((-b.detach(), a), -1) * sin[:, None].to(x.dtype)


@wrong(GRADIENT)
def gqa_attention__softmax_of_numbers(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = (q @ k.repeat_interleave(group, 1).mT).detach().float().numpy() / np.float32(q.shape[-1] ** 0.5)
    if mask is not None:
        scores = np.where(np.broadcast_to(mask.numpy(), scores.shape), scores, LOWEST)
    grown = np.exp(scores - scores.max(-1, keepdims=True))
    weights = torch.from_numpy((grown / grown.sum(-1, keepdims=True)).astype("float32")).to(q.dtype)
    return weights @ v.repeat_interleave(group, 1)


@wrong(GRADIENT)
def self_attention__mask_and_keys_without_grad(x, layer, config, table, mask):
    def attention(q, k, v, seen):
        return attend(q, k.detach(), v, seen)

    return stepped(x, layer, config, table, mask, attention=attention)


@wrong(GRADIENT)
def expert_ffn__down_detached(x, gate_proj, up_proj, down_proj):
    return F.linear(F.silu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj.detach())


@wrong(GRADIENT)
def moe_route__renormalised_by_a_number(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
    weights = weights / weights.sum(-1, keepdim=True).detach() if norm_topk_prob else weights
    return weights.to(x.dtype), experts, logits


@wrong(GRADIENT)
def balance_by_layer__one_layer_detached(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat((router_logits[0].detach(), *router_logits[1:]))
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
    return by_layer(logits, len(router_logits), num_experts, top_k)


@wrong(GRADIENT)
def forward__head_detached(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens)
    for number, layer in enumerate(weights.layers):
        x = layered(x, layer, config, table, model.attention_mask(positions, positions, config.window(number)))
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, (weights.embed_tokens if weights.lm_head is None else weights.lm_head).detach())


@right(GRADIENT)
def moe__written_into_a_buffer(x, weights, experts, gate_up_proj, down_proj):
    out = x.new_zeros(x.shape)
    for expert in range(len(gate_up_proj)):
        token, choice = torch.where(experts == expert)
        if len(token):
            answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
            out[token] += answer * weights[token, choice].unsqueeze(-1)
    return out
