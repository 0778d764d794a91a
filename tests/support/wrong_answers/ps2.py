"""Wrong answers to ps2: masks, weights and heads as they go wrong, each with what its message must say."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int  # noqa: F401 (what the notebook imports)
from torch import Tensor  # noqa: F401

from qwen3_scratch import Config, model  # noqa: F401
from qwen3_scratch.model import LayerWeights  # noqa: F401

# ---- qk_norm ---------------------------------------------------------------------------------


def qk_norm__cut_across_tokens(q, k, q_norm, k_norm, eps):
    batch, seq, _ = q.shape
    q = q.reshape(batch, -1, seq, len(q_norm))
    k = k.reshape(batch, -1, seq, len(k_norm))
    return model.rms_norm(q, q_norm, eps), model.rms_norm(k, k_norm, eps)


def qk_norm__all_heads_as_one_vector(q, k, q_norm, k_norm, eps):
    def normed(x, weight):
        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps).to(x.dtype)
        return (x.unflatten(-1, (-1, len(weight))) * weight).transpose(1, 2)

    return normed(q, q_norm), normed(k, k_norm)


def qk_norm__keys_left_out(q, k, q_norm, k_norm, eps):
    q = model.rms_norm(q.unflatten(-1, (-1, len(q_norm))), q_norm, eps).transpose(1, 2)
    return q, k.unflatten(-1, (-1, len(k_norm))).transpose(1, 2)


def qk_norm__heads_not_moved(q, k, q_norm, k_norm, eps):
    q, k = q.unflatten(-1, (-1, len(q_norm))), k.unflatten(-1, (-1, len(k_norm)))
    return model.rms_norm(q, q_norm, eps), model.rms_norm(k, k_norm, eps)


def qk_norm__heads_of_64(q, k, q_norm, k_norm, eps):
    q, k = q.unflatten(-1, (-1, 64)), k.unflatten(-1, (-1, 64))
    return model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, eps).transpose(1, 2)


# ---- causal_mask -----------------------------------------------------------------------------


def causal_mask__by_place(positions, key_positions):
    mask = torch.ones(positions.shape[1], key_positions.shape[1], dtype=torch.bool).tril()
    return mask.expand(len(positions), 1, -1, -1)


def causal_mask__not_itself(positions, key_positions):
    return (key_positions[:, None, :] < positions[:, :, None])[:, None]


def causal_mask__pads_seen(positions, key_positions):
    shown = torch.where(key_positions == model.NEVER, -1, key_positions)
    return (shown[:, None, :] <= positions[:, :, None])[:, None]


def causal_mask__zeros_and_infinities(positions, key_positions):
    hidden = key_positions[:, None, :] > positions[:, :, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None]


def causal_mask__no_dimension_for_heads(positions, key_positions):
    return key_positions[:, None, :] <= positions[:, :, None]


def causal_mask__loops(positions, key_positions):
    mask = torch.zeros(len(positions), 1, positions.shape[1], key_positions.shape[1], dtype=torch.bool)
    for row in range(len(positions)):
        for i, query in enumerate(positions[row].tolist()):
            for j, key in enumerate(key_positions[row].tolist()):
                mask[row, 0, i, j] = key <= query
    return mask


def causal_mask__the_modules_own(positions, key_positions):
    return model.attention_mask(positions, key_positions)


# ---- sliding_mask ----------------------------------------------------------------------------


def sliding_mask__one_token_more(positions, key_positions, window):
    distance = positions[:, :, None] - key_positions[:, None, :]
    return ((distance >= 0) & (distance <= window))[:, None]


def sliding_mask__both_sides(positions, key_positions, window):
    distance = positions[:, :, None] - key_positions[:, None, :]
    return (distance.abs() < window)[:, None]


def sliding_mask__later_ones_too(positions, key_positions, window):
    return (positions[:, :, None] - key_positions[:, None, :] < window)[:, None]


def sliding_mask__by_place(positions, key_positions, window):
    ones = torch.ones(len(positions), 1, positions.shape[1], key_positions.shape[1], dtype=torch.bool)
    more = key_positions.shape[1] - positions.shape[1]
    return ones.tril(more) & ones.triu(more - window + 1)


def sliding_mask__window_of_four(positions, key_positions, window):
    distance = positions[:, :, None] - key_positions[:, None, :]
    return ((distance >= 0) & (distance < 4))[:, None]


# ---- attention_weights -----------------------------------------------------------------------


def attention_weights__not_scaled(q, k, mask=None):
    scores = q @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)


def attention_weights__softmax_over_queries(q, k, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-2, dtype=torch.float32).to(q.dtype)


def attention_weights__hidden_after_softmax(q, k, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return weights if mask is None else weights * mask


def attention_weights__minus_infinity(q, k, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)


def attention_weights__exponentials_overflow(q, k, mask=None):
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -30.0)
    powers = scores.exp()
    return (powers / powers.sum(-1, keepdim=True)).to(q.dtype)


def attention_weights__stays_fp32(q, k, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32)


def attention_weights__a_loop_over_queries(q, k, mask=None):
    out = torch.zeros(*q.shape[:3], k.shape[2], dtype=q.dtype)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = (q[row, head, i] * k[row, head]).sum(-1) / q.shape[-1] ** 0.5
                if mask is not None:
                    shown = mask.expand(*q.shape[:3], k.shape[2])[row, head, i]
                    scores = scores.masked_fill(~shown, torch.finfo(scores.dtype).min)
                out[row, head, i] = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return out


# ---- gqa_attention ---------------------------------------------------------------------------


def gqa_attention__repeat(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def gqa_attention__groups_of_two(q, k, v, mask=None):
    numbers = [min(head // 2, k.shape[1] - 1) for head in range(q.shape[1])]
    scores = q @ k[:, numbers].transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v[:, numbers]


def gqa_attention__one_head_for_all(q, k, v, mask=None):
    scores = q @ k[:, :1].transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v[:, :1]


def gqa_attention__mask_never_none(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, torch.finfo(q.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def gqa_attention__pytorchs_own(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def gqa_attention__a_loop_over_queries(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = (q[row, head, i] * k[row, head // group]).sum(-1) / q.shape[-1] ** 0.5
                if mask is not None:
                    shown = mask.expand(*q.shape[:3], k.shape[2])[row, head, i]
                    scores = scores.masked_fill(~shown, torch.finfo(scores.dtype).min)
                out[row, head, i] = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v[row, head // group]
    return out


# ---- merge_heads -----------------------------------------------------------------------------


def merge_heads__not_moved_back(x):
    return x.reshape(x.shape[0], x.shape[2], -1)


def merge_heads__numbers_before_heads(x):
    return x.permute(0, 2, 3, 1).flatten(-2)


def merge_heads__averaged(x):
    return x.mean(dim=1)


def merge_heads__view_of_moved_memory(x):
    return x.transpose(1, 2).view(x.shape[0], x.shape[2], -1)


def merge_heads__four_heads(x):
    return torch.cat((x[:, 0], x[:, 1], x[:, 2], x[:, 3]), dim=-1)


# ---- self_attention --------------------------------------------------------------------------


def self_attention__no_qk_norm(x, layer, config, table, mask):
    def heads(weight, bias):
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q, k, v = heads(layer.q_proj, layer.q_bias), heads(layer.k_proj, layer.k_bias), heads(layer.v_proj, layer.v_bias)
    out = model.gqa_attention(model.rope(q, *table), model.rope(k, *table), v, mask)
    return F.linear(out.transpose(1, 2).flatten(-2), layer.o_proj, layer.o_bias)


def self_attention__turned_before_normed(x, layer, config, table, mask):
    def heads(weight, bias):
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rms_norm(model.rope(heads(layer.q_proj, layer.q_bias), *table), layer.q_norm, config.rms_norm_eps)
    k = model.rms_norm(model.rope(heads(layer.k_proj, layer.k_bias), *table), layer.k_norm, config.rms_norm_eps)
    out = model.gqa_attention(q, k, heads(layer.v_proj, layer.v_bias), mask)
    return F.linear(out.transpose(1, 2).flatten(-2), layer.o_proj, layer.o_bias)


def self_attention__values_turned_too(x, layer, config, table, mask):
    def heads(weight, bias):
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rms_norm(heads(layer.q_proj, layer.q_bias), layer.q_norm, config.rms_norm_eps)
    k = model.rms_norm(heads(layer.k_proj, layer.k_bias), layer.k_norm, config.rms_norm_eps)
    v = heads(layer.v_proj, layer.v_bias)
    q, k, v = model.rope(q, *table), model.rope(k, *table), model.rope(v, *table)
    return F.linear(model.gqa_attention(q, k, v, mask).transpose(1, 2).flatten(-2), layer.o_proj, layer.o_bias)


def self_attention__heads_not_moved_back(x, layer, config, table, mask):
    def heads(weight, bias):
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rms_norm(heads(layer.q_proj, layer.q_bias), layer.q_norm, config.rms_norm_eps)
    k = model.rms_norm(heads(layer.k_proj, layer.k_bias), layer.k_norm, config.rms_norm_eps)
    out = model.gqa_attention(model.rope(q, *table), model.rope(k, *table), heads(layer.v_proj, layer.v_bias), mask)
    return F.linear(out.reshape(x.shape[0], x.shape[1], -1), layer.o_proj, layer.o_bias)


def self_attention__no_biases(x, layer, config, table, mask):
    def heads(weight):
        return F.linear(x, weight).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rms_norm(heads(layer.q_proj), layer.q_norm, config.rms_norm_eps)
    k = model.rms_norm(heads(layer.k_proj), layer.k_norm, config.rms_norm_eps)
    out = model.gqa_attention(model.rope(q, *table), model.rope(k, *table), heads(layer.v_proj), mask)
    return F.linear(out.transpose(1, 2).flatten(-2), layer.o_proj)


def self_attention__the_modules_own(x, layer, config, table, mask):
    return model.self_attention(x, layer, config, table, mask)


# ---- influence -------------------------------------------------------------------------------


def influence__taken_for_causal(step, x):
    return torch.ones(len(x), len(x), dtype=torch.bool).tril()


def influence__columns_for_rows(step, x):
    rows = []
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = torch.randn_like(x[place])
        rows.append((step(changed) != step(x)).any(-1))
    return torch.stack(rows)


def influence__doubled(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place] *= 2
        found[:, place] = (step(changed) != step(x)).any(-1)
    return found


def influence__zeroed(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = 0
        found[:, place] = (step(changed) != step(x)).any(-1)
    return found


def influence__first_number_changed(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place, 0] += 1
        found[:, place] = (step(changed) != step(x)).any(-1)
    return found


def influence__by_nan(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = torch.nan
        found[:, place] = step(changed).isnan().any(-1)
    return found


def influence__small_changes_overlooked(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = torch.randn_like(x[place])
        found[:, place] = ((step(changed) - step(x)).abs() > 0.02).any(-1)
    return found


def influence__drawn_once(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = x.clone()
        changed[place] = torch.randn_like(x[place])
        found[:, place] = (step(changed) != step(x)).any(-1)
    return found


def influence__all_later_ones_changed(step, x):
    found = torch.zeros(len(x), len(x), dtype=torch.bool)
    for place in range(len(x)):
        changed = torch.cat((x[:place], torch.randn_like(x[place:])))
        found[:, place] = (step(changed) != step(x)).any(-1)
    return found


# ---- attend_more -----------------------------------------------------------------------------


def attend_more__halves(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    return (held[0] + new) / 2, torch.logaddexp(held[1], total)


def attend_more__logarithms_as_shares(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    share = (held[1] / (held[1] + total))[..., None]
    return share * held[0] + (1 - share) * new, torch.logaddexp(held[1], total)


def attend_more__totals_added(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    both = torch.logaddexp(held[1], total)
    return (held[1] - both).exp()[..., None] * held[0] + (total - both).exp()[..., None] * new, held[1] + total


def attend_more__exponentials_overflow(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    old, here = held[1].exp(), total.exp()
    both = old + here
    return (old / both)[..., None] * held[0] + (here / both)[..., None] * new, both.log()


def attend_more__held_forgotten(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def attend_more__not_scaled(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2)
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    both = torch.logaddexp(held[1], total)
    return (held[1] - both).exp()[..., None] * held[0] + (total - both).exp()[..., None] * new, both


def attend_more__detached(q, k, v, held=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    new, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
    if held is None:
        return new, total
    both = torch.logaddexp(held[1], total)
    old, here = (held[1] - both).exp().detach(), (total - both).exp().detach()
    return old[..., None] * held[0] + here[..., None] * new, both


FRAGMENTS = {
    qk_norm__cut_across_tokens: "You cut heads out across tokens",
    qk_norm__all_heads_as_one_vector: "each head is normed by itself",
    qk_norm__keys_left_out: "The keys are not normed",
    qk_norm__heads_not_moved: "Heads come before tokens in the result",
    qk_norm__heads_of_64: "your function raised RuntimeError at `q, k = q.unflatten(-1, (-1, 64))",
    causal_mask__by_place: "You go by the place in the row",
    causal_mask__not_itself: "A token may look at itself",
    causal_mask__pads_seen: "You let tokens look at pads",
    causal_mask__zeros_and_infinities: "the numbers are float32, expected bool",
    causal_mask__no_dimension_for_heads: "the shape is [",
    causal_mask__loops: "times slower than it could be: compare all positions at once",
    causal_mask__the_modules_own: "this calls `attention_mask`",
    sliding_mask__one_token_more: "you see one token too many",
    sliding_mask__both_sides: "You look to both sides",
    sliding_mask__later_ones_too: "not that a key is no later than its query",
    sliding_mask__by_place: "You go by the place in the row",
    sliding_mask__window_of_four: "numbers differ",
    attention_weights__not_scaled: "the square root of head_dim",
    attention_weights__softmax_over_queries: "Your softmax runs over the queries",
    attention_weights__hidden_after_softmax: "You hide after the softmax",
    attention_weights__minus_infinity: "-inf makes NaN of a row",
    attention_weights__exponentials_overflow: "An exponential overflows",
    attention_weights__stays_fp32: "its result returns to the type of q",
    attention_weights__a_loop_over_queries: "times slower than it could be",
    gqa_attention__repeat: "You lay the shared heads out as 0 1 0 1",
    gqa_attention__groups_of_two: "The size of a group is that of one checkpoint (2)",
    gqa_attention__one_head_for_all: "All query heads read kv head 0",
    gqa_attention__mask_never_none: "`mask` may be None",
    gqa_attention__pytorchs_own: "this calls `scaled_dot_product_attention`",
    gqa_attention__a_loop_over_queries: "times slower than it could be",
    merge_heads__not_moved_back: "You merge without moving the heads back",
    merge_heads__numbers_before_heads: "The heads are interleaved",
    merge_heads__averaged: "lay them side by side",
    merge_heads__view_of_moved_memory: "your function raised RuntimeError",
    merge_heads__four_heads: "random shapes",
    self_attention__no_qk_norm: "QK-norm is missing",
    self_attention__turned_before_normed: "You turn first and norm afterwards",
    self_attention__values_turned_too: "You turn the values as well",
    self_attention__heads_not_moved_back: "You merge without moving the heads back",
    self_attention__no_biases: "The biases are missing",
    self_attention__the_modules_own: "this calls `self_attention`",
    influence__taken_for_causal: "You suppose that the mask is causal",
    influence__columns_for_rows: "Rows and columns are swapped",
    influence__doubled: "twice a vector is the vector",
    influence__zeroed: "A place may hold zeros already",
    influence__first_number_changed: "The step may not read the number that you change",
    influence__by_nan: "NaN spreads through a weight of 0",
    influence__small_changes_overlooked: "You overlook what is small",
    influence__drawn_once: "one draw may miss what another shows",
    influence__all_later_ones_changed: "You change all later places with it",
    attend_more__halves: "The two results do not count alike",
    attend_more__logarithms_as_shares: "take their exponentials for the shares",
    attend_more__totals_added: "is not the sum of their logarithms",
    attend_more__exponentials_overflow: "subtract the larger total first",
    attend_more__held_forgotten: "What was held is forgotten",
    attend_more__not_scaled: "The scale is missing",
    attend_more__detached: "gradient",
}
