"""The second round, its other half: inputs, edges, finite numbers, types, and what the text forbids."""

import numpy as np
import torch
import torch.nn.functional as F

from qwen3_scratch import model, sampling

from . import CHANGED, EDGE, FINITE, FORBIDDEN, TYPE, right, wrong
from .first_edges_and_types import routed
from .first_gradients_and_inputs import combine
from .first_masks_and_constants import layered, read, stepped
from .whole import counted, merges_of, streamed

LOWEST = torch.finfo(torch.float32).min

# ---- inputs ----------------------------------------------------------------------------------


@wrong(CHANGED)
def greedy__prompt_reversed_and_not_put_back(read, prompt, stop_ids, vocabulary, most):
    written, new = [], list(prompt)
    prompt.reverse()
    while len(written) < most and not (written and written[-1] in stop_ids):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return written


@wrong(CHANGED)
def learn_merges__counts_set_to_one(words, count):
    counts = dict(words)
    words.update(dict.fromkeys(words, 1))
    return merges_of(counts, count)


@wrong(CHANGED)
def self_attention__norm_doubled(x, layer, config, table, mask):
    found = stepped(x, layer, config, table, mask)
    layer.q_norm.mul_(2)
    return found


@wrong(CHANGED)
def decoder_layer__mask_opened(x, layer, config, table, mask):
    found = layered(x, layer, config, table, mask)
    mask.fill_(True)
    return found


@wrong(CHANGED)
def moe_route__router_scaled(x, router, top_k, norm_topk_prob):
    found = routed(x, router, top_k, norm_topk_prob)
    router /= router.norm()
    return found


@wrong(CHANGED)
def top_k_filter__filled_in_place(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill_(logits < logits.topk(top_k).values[:, -1:], -torch.inf)


@wrong(CHANGED)
def cached_step__tensors_of_the_cache_zeroed(weights, token_ids, config, held):
    found = read(weights, token_ids, config, held)
    for keys, _ in held:
        keys.zero_()
    return found


@right(CHANGED)
def repetition_penalty__on_a_copy(logits, token_ids, penalty):
    found = logits.clone()
    for row, ids in zip(found, token_ids, strict=True):
        ids = ids.unique()
        row[ids] = torch.where(row[ids] > 0, row[ids] / penalty, row[ids] * penalty)
    return found


# ---- edges -----------------------------------------------------------------------------------


@wrong(EDGE)
def forward__all_but_one_is_all(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens)
    for number, layer in enumerate(weights.layers):
        x = layered(x, layer, config, table, model.attention_mask(positions, positions, config.window(number)))
    keep = logits_to_keep if logits_to_keep < x.shape[1] - 1 else 0
    x = model.rms_norm(x[:, -keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


@wrong(EDGE)
def kv_cache_bytes__one_more_than_the_window(config, batch, length, dtype):
    windows = [config.window(number) for number in range(config.num_hidden_layers)]
    tokens = sum(length if window is None or length <= window + 1 else window for window in windows)
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


@wrong(EDGE)
def draw__the_last_is_never_drawn(probability, uniform):
    reached = probability.double().cumsum(-1)
    found = (reached <= uniform[:, None] * reached[:, -1:]).sum(-1)
    return found.clamp(max=probability.shape[-1] - 2)


@wrong(EDGE)
def split_thinking__empty_thinking_is_answer(text):
    if "</think>" not in text and not text.lstrip("\n").startswith("<think>"):
        return "", text.strip("\n")
    thinking, _, answer = text.partition("</think>")
    thinking = thinking.lstrip("\n").removeprefix("<think>").strip("\n")
    return (thinking, answer.strip("\n")) if thinking or not answer.strip() else ("", answer.lstrip("\n"))


@wrong(EDGE)
def stop_stream__stop_at_the_very_end_is_text(pieces, stops):
    def counts(number, held):
        return not (number == len(pieces) - 1 and any(held.endswith(stop) for stop in stops))

    return streamed(pieces, stops, counts=counts)


@wrong(EDGE)
def router_entropy__sure_is_exactly_sure(logits):
    p = logits.float().softmax(-1)
    return torch.where(p.amax(-1) > 0.9, 0.0, torch.special.entr(p).sum(-1))


@wrong(EDGE)
def repetition_penalty__logits_of_less_than_one(logits, token_ids, penalty):
    said = logits.gather(1, token_ids)
    return logits.scatter(1, token_ids, torch.where(said > 1e-2, said / penalty, said * penalty))


@wrong(EDGE)
def rope_table__position_0_is_1(positions, frequencies):
    angles = positions.clamp(min=1)[..., None].float() * frequencies
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


# ---- hidden by a finite number, types ---------------------------------------------------------


@wrong(FINITE)
def gqa_attention__hidden_by_the_least_seen(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, scores.amin() - 10)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v.repeat_interleave(group, 1)


@wrong(FINITE)
def attention_weights__multiplied_by_a_hundred_thousand(q, k, mask=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + (mask.to(scores.dtype) - 1) * 1e5
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype)


@right(TYPE)
def merge_heads__in_double(x):
    return x.double().transpose(1, 2).flatten(-2)


@right(TYPE)
def draw__an_array(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(-1).numpy()


@right(TYPE)
def top_p_filter__in_double(logits, top_p):
    logits = logits.double()
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p - 1e-12
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


@right(TYPE)
def expert_ffn__left_in_fp32(x, gate_proj, up_proj, down_proj):
    x, gate_proj, up_proj, down_proj = (part.float() for part in (x, gate_proj, up_proj, down_proj))
    return F.linear(F.silu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


@right(TYPE)
def numbers_read__of_numpy(shapes, choices, num_experts):
    rest, fed = counted(shapes, choices, num_experts)
    return rest + np.sum(fed, dtype=int)


@wrong(TYPE)
def rms_norm__left_in_fp32(x, weight, eps):
    wide = x.float()
    return weight.float() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


# ---- what the text forbids -------------------------------------------------------------------


@wrong(FORBIDDEN)
def moe__all_experts_for_who_chose_any(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for number in experts.unique().tolist():
        answer = model.expert_ffn(x, *gate_up_proj[number].chunk(2), down_proj[number])
        token, choice = (experts == number).nonzero(as_tuple=True)
        out.index_add_(0, token, answer[token] * weights[token, choice, None])
    return out


@wrong(FORBIDDEN)
def moe__each_expert_twice(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for number in experts.unique().tolist():
        token, choice = (experts == number).nonzero(as_tuple=True)
        for part in (slice(0, None, 2), slice(1, None, 2)):
            answer = model.expert_ffn(x[token[part]], *gate_up_proj[number].chunk(2), down_proj[number])
            out.index_add_(0, token[part], answer * weights[token[part], choice[part], None])
    return out


@wrong(FORBIDDEN)
def gqa_attention__by_a_method_of_a_module(q, k, v, mask=None):
    attention = __import__("torch.nn.functional", fromlist=["x"]).__dict__["scaled_dot_product_attention"]
    return attention(q, k, v, attn_mask=mask, enable_gqa=True)


@wrong(FORBIDDEN)
def attention_weights__the_packages(q, k, mask=None):
    return getattr(model, "_".join(("attention", "weights")))(q, k, mask)


@wrong(FORBIDDEN)
def repetition_penalty__the_samplers(logits, token_ids, penalty):
    said = torch.zeros_like(logits, dtype=torch.bool).scatter(1, token_ids, True)
    return sampling.penalise_repetition(logits, said, penalty)


@wrong(FORBIDDEN)
def self_attention__a_layer_less_its_stream(x, layer, config, table, mask):
    return (
        model.self_attention.__wrapped__(x, layer, config, table, mask)
        if hasattr(model.self_attention, "__wrapped__")
        else model.self_attention(x, layer, config, table, mask)
    )


@wrong(FORBIDDEN)
def qk_norm__the_checks_own(q, k, q_norm, k_norm, eps):
    from qwen3_scratch.exercises.ps2.attention_scores import qk_norm as asked

    return tuple(map(torch.clone, asked(q, k, q_norm, k_norm, eps)))


@right(FORBIDDEN)
def moe__a_mask_for_each_expert(x, weights, experts, gate_up_proj, down_proj):
    return combine(x, weights, experts, gate_up_proj, down_proj) * 1.0


@right(FORBIDDEN)
def self_attention__torchs_attention(x, layer, config, table, mask):
    def attention(q, k, v, seen):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)

    return stepped(x, layer, config, table, mask, attention=attention)
