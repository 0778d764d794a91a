"""Answers that look at a mask or a number of their own instead of the one that they are given."""

from functools import partial

import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient

from . import CONSTANT, FINITE, MASK, right, wrong

LOWEST = torch.finfo(torch.float32).min


def causal(q_len, k_len):
    return torch.ones(q_len, k_len, dtype=torch.bool).tril(k_len - q_len)


def attend(q, k, v, mask=None, hidden=LOWEST):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, max(hidden, torch.finfo(scores.dtype).min))
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def weigh(q, k, mask=None, hidden=LOWEST):
    eye = torch.eye(k.shape[2], dtype=q.dtype).expand(*k.shape[:3], -1)
    return attend(q, k, eye, mask, hidden)


# ---- masks -----------------------------------------------------------------------------------


@wrong(MASK)
def attention_weights__causal_whenever_there_is_a_mask(q, k, mask=None):
    return weigh(q, k, None if mask is None else causal(q.shape[2], k.shape[2]))


@wrong(MASK)
def attention_weights__causal_on_top(q, k, mask=None):
    return weigh(q, k, None if mask is None else mask & causal(q.shape[2], k.shape[2]))


@wrong(MASK)
def attention_weights__mask_of_the_first_head(q, k, mask=None):
    return weigh(q, k, None if mask is None else mask[:, :1])


@wrong(MASK)
def gqa_attention__causal_whenever_there_is_a_mask(q, k, v, mask=None):
    return attend(q, k, v, None if mask is None else causal(q.shape[2], k.shape[2]))


@wrong(MASK)
def gqa_attention__mask_of_the_first_head(q, k, v, mask=None):
    return attend(q, k, v, None if mask is None else mask[:, :1])


@wrong(MASK)
def gqa_attention__mask_of_the_first_row(q, k, v, mask=None):
    return attend(q, k, v, None if mask is None else mask[:1])


@right(MASK)
def gqa_attention__mask_added(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.repeat_interleave(group, 1)


def stepped(x, layer, config, table, mask, eps=None, attention=model.gqa_attention):
    eps = config.rms_norm_eps if eps is None else eps

    def heads(weight, bias):
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rope(model.rms_norm(heads(layer.q_proj, layer.q_bias), layer.q_norm, eps), *table)
    k = model.rope(model.rms_norm(heads(layer.k_proj, layer.k_bias), layer.k_norm, eps), *table)
    out = attention(q, k, heads(layer.v_proj, layer.v_bias), mask)
    return F.linear(out.transpose(1, 2).flatten(-2), layer.o_proj, layer.o_bias)


@wrong(MASK)
def self_attention__causal_of_its_own(x, layer, config, table, mask):
    return stepped(x, layer, config, table, causal(x.shape[1], x.shape[1])[None, None])


@wrong(MASK)
def self_attention__mask_of_the_first_row(x, layer, config, table, mask):
    return stepped(x, layer, config, table, mask[:1])


def layered(x, layer, config, table, mask):
    x = x + model.self_attention(
        model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps), layer, config, table, mask
    )
    return x + model.feed_forward(model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps), layer, config)


@wrong(MASK)
def decoder_layer__causal_of_its_own(x, layer, config, table, mask):
    return layered(x, layer, config, table, causal(x.shape[1], x.shape[1])[None, None])


@wrong(MASK)
def decoder_layer__all_is_seen(x, layer, config, table, mask):
    return layered(
        x, layer, config, table, torch.ones_like(mask) if mask.all() else causal(*mask.shape[-2:])[None, None]
    )


@wrong(MASK)
def perplexity__between_the_first_and_the_last_kept(logits, token_ids, keep):
    after, before = keep.long().cumsum(-1) > 0, keep.flip(-1).long().cumsum(-1).flip(-1) > 0
    counted = (after & before)[:, :-1] & (after & before)[:, 1:]
    return F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted]).exp()


def balance(logits, experts, top_k):
    probabilities = logits.float().softmax(-1)
    chosen = F.one_hot(probabilities.topk(top_k).indices, experts).sum(1).float()
    return experts * (chosen.mean(0) * probabilities.mean(0)).sum()


def by_layer(logits, layers, experts, top_k):
    """Of logits that lie layer after layer, the loss of each."""
    return torch.stack([balance(part, experts, top_k) for part in logits.chunk(layers)])


@wrong(MASK)
def balance_by_layer__mask_as_lengths(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits))
    if attention_mask is not None:
        places = torch.arange(attention_mask.shape[1]) < attention_mask.sum(-1, keepdim=True)
        logits = logits[places.flatten().repeat(len(router_logits))]
    return by_layer(logits, len(router_logits), num_experts, top_k)


@wrong(MASK)
def balance_by_layer__first_layer_masked(router_logits, num_experts, top_k, attention_mask=None):
    logits = list(router_logits)
    if attention_mask is not None:
        logits[0] = logits[0][attention_mask.flatten().bool()]
    return torch.stack([balance(part, num_experts, top_k) for part in logits])


# ---- constants -------------------------------------------------------------------------------


@wrong(CONSTANT)
def self_attention__eps_of_the_code(x, layer, config, table, mask):
    return stepped(x, layer, config, table, mask, eps=1e-6)


@wrong(CONSTANT)
def rms_norm__eps_never_0(x, weight, eps):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + (eps or 1e-6))).to(x.dtype)


def read(weights, token_ids, config, held, eps=None, window=lambda size: size, last=-1):
    n, kept = held[0][0].shape[2], []
    keys = torch.arange(n + token_ids.shape[1])[None]

    def remember(number, k, v):
        kept.append(tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, keys[:, n:])
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(keys[:, n:], keys, window(config.window(number)))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, last], weights.norm, config.rms_norm_eps if eps is None else eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


@wrong(CONSTANT)
def cached_step__eps_of_the_code(weights, token_ids, config, held):
    return read(weights, token_ids, config, held, eps=1e-6)


@wrong(CONSTANT)
def cached_step__window_of_the_code(weights, token_ids, config, held):
    return read(weights, token_ids, config, held, window=lambda size: size and 3)


@wrong(CONSTANT)
def forward__window_of_the_code(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(positions, positions, config.window(number) and 3)
        x = model.decoder_layer(x, layer, config, table, mask)
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


@wrong(CONSTANT)
def patient_4__no_scaling_of_long_texts(weights, token_ids, config, **options):
    def rope_table(config, positions):
        theta = config.rope_parameters["rope_theta"]
        speeds = 1.0 / theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        angles = (positions[..., None].float() * speeds).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


@wrong(CONSTANT)
def temperature_softmax__never_below_a_hundredth(logits, temperature):
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits / max(temperature, 0.01)).softmax(-1)


# ---- hidden by a finite number ----------------------------------------------------------------


@wrong(FINITE)
def attention_weights__hidden_by_ten_thousand(q, k, mask=None):
    return weigh(q, k, mask, hidden=-1e4)


@wrong(FINITE)
def attention_weights__hidden_by_a_milliard(q, k, mask=None):
    return weigh(q, k, mask, hidden=-1e9)


@wrong(FINITE)
def gqa_attention__hidden_by_a_milliard(q, k, v, mask=None):
    return attend(q, k, v, mask, hidden=-1e9)


@wrong(FINITE)
def gqa_attention__a_milliard_subtracted(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores - 1e9 * (~mask).to(scores.dtype)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.repeat_interleave(group, 1)


@wrong(FINITE)
def top_p_filter__dropped_by_a_milliard(logits, top_p):
    ordered, order = logits.float().softmax(-1).sort(-1, descending=True)
    beyond = (ordered.cumsum(-1) - ordered >= top_p) & (top_p < 1)
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -1e9)
