"""Edges, types, and what the text forbids, written after the checks and without a look at them."""

from collections import namedtuple

import torch
import torch.nn.functional as F

import qwen3_scratch
from qwen3_scratch import model, sampling
from qwen3_scratch.cache import KVCache

from . import EDGE, FORBIDDEN, TYPE, right, wrong
from .first_edges_and_types import routed
from .first_gradients_and_inputs import combine
from .first_masks_and_constants import layered, read, stepped
from .whole import merges_of, streamed

OFF = -torch.inf

# ---- edges -----------------------------------------------------------------------------------


@wrong(EDGE)
def top_p_filter__one_drops_the_unlikely(logits, top_p):
    ordered, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), OFF)


@wrong(EDGE)
def split_thinking__cut_off_behind_line_breaks(text):
    if "</think>" not in text and not text.startswith("<think>"):
        return "", text.strip("\n")
    thinking, _, answer = text.partition("</think>")
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


@wrong(EDGE)
def render_chat__spaces_behind_the_thinking(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if message["role"] == "assistant" and "</think>" in said:
            said = said.split("</think>")[-1].lstrip()
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


@wrong(EDGE)
def learn_merges__joined_texts_in_the_alphabet(words, count):
    return merges_of(words, count, text="".join)


@wrong(EDGE)
def top_k_filter__all_but_one_is_all(logits, top_k):
    if top_k == 0 or top_k >= logits.shape[-1] - 1:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], OFF)


@wrong(EDGE)
def draw__nearly_one_is_one(probability, uniform):
    reached = probability.double().cumsum(-1)
    found = (reached <= (uniform * reached[:, -1])[:, None]).sum(-1)
    return torch.where(uniform > 0.999999, probability.shape[-1] - 1, found)


@wrong(EDGE)
def stop_stream__one_character_is_never_held(pieces, stops):
    return streamed(pieces, stops, shortest=2)


@wrong(EDGE)
def sliding_mask__the_next_one_too(positions, key_positions, window):
    distance = positions[:, :, None] - key_positions[:, None, :]
    return ((distance >= 0) & (distance <= max(window - 1, 1)))[:, None]


@wrong(EDGE)
def greedy__most_is_two_at_least(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < max(most, 2) and not (written and written[-1] in stop_ids):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return written


# ---- types -----------------------------------------------------------------------------------

Routed = namedtuple("Routed", "weights experts logits")


@right(TYPE)
def moe_route__a_tuple_of_ones_own(x, router, top_k, norm_topk_prob):
    weights, experts, logits = routed(x, router, top_k, norm_topk_prob)
    return Routed(weights, experts.short(), logits.double())


@right(TYPE)
def qk_norm__a_list(q, k, q_norm, k_norm, eps):
    q, k = (part.unflatten(-1, (-1, len(q_norm))) for part in (q, k))
    return [model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, eps).transpose(1, 2)]


@right(TYPE)
def cached_step__lists_of_lists(weights, token_ids, config, held):
    logits, kept = read(weights, token_ids, config, held)
    return [logits.double(), tuple(list(pair) for pair in kept)]


@right(TYPE)
def decoder_layer__in_double(x, layer, config, table, mask):
    return layered(x, layer, config, table, mask).double()


@right(TYPE)
def self_attention__in_fp32(x, layer, config, table, mask):
    return stepped(x, layer, config, table, mask).float()


@right(TYPE)
def to_halves__in_double(weight, heads):
    return weight.double().unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


@right(TYPE)
def row_positions__an_array(keep, before):
    return ((keep.long().cumsum(-1) - 1 + before[:, None]) * keep).numpy()


@right(TYPE)
def row_positions__lists(keep, before):
    return ((keep.long().cumsum(-1) - 1 + before[:, None]) * keep).tolist()


@right(TYPE)
def score__a_list(q, k, m, n, frequencies):
    (a, b), (c, e) = q.chunk(2, -1), k.chunk(2, -1)
    angle = (m - n) * frequencies
    return ((a * c + b * e) * angle.cos() + (a * e - b * c) * angle.sin()).sum(-1).tolist()


@wrong(TYPE)
def kv_cache_bytes__a_whole_float(config, batch, length, dtype):
    windows = [config.window(number) or length for number in range(config.num_hidden_layers)]
    tokens = sum(min(window, length) for window in windows)
    return 2.0 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


@right(TYPE)
def split_thinking__a_list(text):
    if "</think>" not in text and not text.lstrip("\n").startswith("<think>"):
        return ["", text.strip("\n")]
    thinking, _, answer = text.partition("</think>")
    return [thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")]


@right(TYPE)
def repetition_penalty__in_double(logits, token_ids, penalty):
    said = logits.double().gather(1, token_ids)
    return logits.double().scatter(1, token_ids, torch.where(said > 0, said / penalty, said * penalty))


@wrong(TYPE)
def router_entropy__in_double(logits):
    return torch.special.entr(logits.double().softmax(-1)).sum(-1)


@wrong(TYPE)
def sliding_mask__as_bytes(positions, key_positions, window):
    return model.attention_mask(positions, key_positions, window).byte()


@wrong(TYPE)
def kv_cache_bytes__a_text(config, batch, length, dtype):
    windows = [config.window(number) or length for number in range(config.num_hidden_layers)]
    tokens = sum(min(window, length) for window in windows)
    return str(2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize)


@wrong(TYPE)
def draw__as_floats(probability, uniform):
    reached = probability.double().cumsum(-1)
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(-1).double()


# ---- what the text forbids -------------------------------------------------------------------


@wrong(FORBIDDEN)
def moe__every_expert_by_hand(x, weights, experts, gate_up_proj, down_proj):
    gate, up = gate_up_proj.chunk(2, 1)
    inner = F.silu((x[:, None, None] * gate).sum(-1)) * (x[:, None, None] * up).sum(-1)
    answers = (inner[:, :, None] * down_proj).sum(-1)
    return (torch.zeros(len(x), len(gate), dtype=x.dtype).scatter(1, experts, weights)[:, :, None] * answers).sum(1)


@wrong(FORBIDDEN)
def moe__token_by_token(x, weights, experts, gate_up_proj, down_proj):
    rows = []
    for row, ws, es in zip(x, weights, experts.tolist(), strict=True):
        answers = [model.expert_ffn(row[None], *gate_up_proj[e].chunk(2), down_proj[e])[0] for e in es]
        rows.append(sum(w * answer for w, answer in zip(ws, answers, strict=True)))
    return torch.stack(rows)


@wrong(FORBIDDEN)
def expert_load__number_by_number(experts, num_experts):
    counts = [0] * num_experts
    for row in experts:
        for expert in row:
            counts[expert] += 1
    return torch.tensor(counts) / experts.numel()


@wrong(FORBIDDEN)
def expert_load__counted_in_a_list(experts, num_experts):
    found = [int(each) for each in experts.flatten()]
    return torch.tensor([found.count(number) / len(found) for number in range(num_experts)])


@wrong(FORBIDDEN)
def rms_norm__mapped(x, weight, eps):
    (found,) = map(torch.nn.functional.rms_norm, [x.float()], [(x.shape[-1],)], [None], [eps])
    return weight * found.to(x.dtype)


@wrong(FORBIDDEN)
def rms_norm__its_private_operator(x, weight, eps):
    return weight * torch.ops.aten._fused_rms_norm.default(x.float(), [x.shape[-1]], None, eps)[0].to(x.dtype)


@wrong(FORBIDDEN)
def gqa_attention__the_kernel_behind(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return torch._scaled_dot_product_attention_math(q, k, v, mask)[0]


@wrong(FORBIDDEN)
def gqa_attention__over_rows(q, k, v, mask=None):
    rows = [
        F.scaled_dot_product_attention(*(part[row : row + 1] for part in (q, k, v)), enable_gqa=True)
        if mask is None
        else F.scaled_dot_product_attention(
            *(part[row : row + 1] for part in (q, k, v)), mask[row % len(mask)][None], enable_gqa=True
        )
        for row in range(len(q))
    ]
    return torch.cat(rows)


@wrong(FORBIDDEN)
def rope__from_the_variables(x, cos, sin):
    return vars(model)["ro" + "pe"](x, cos, sin)


@wrong(FORBIDDEN)
def draw__from_a_dictionary(probability, uniform):
    return {"d": sampling.draw}["d"](probability, uniform)


@wrong(FORBIDDEN)
def balance_by_layer__of_the_package(router_logits, *others):
    return torch.stack([qwen3_scratch.load_balancing_loss([logits], *others) for logits in router_logits])


@wrong(FORBIDDEN)
def expert_ffn__an_only_expert(x, gate_proj, up_proj, down_proj):
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    route = model.Route(ones, torch.zeros(len(x), 1, dtype=torch.long), ones)
    return model.moe(x, route, torch.cat((gate_proj, up_proj))[None], down_proj[None])


@wrong(FORBIDDEN)
def kv_cache_bytes__of_a_real_cache(config, batch, length, dtype):
    KVCache(config, 1, 1)
    windows = [config.window(number) or length for number in range(config.num_hidden_layers)]
    return (
        2 * sum(min(w, length) for w in windows) * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize
    )


@wrong(FORBIDDEN)
def top_p_filter__by_the_sampler(logits, top_p):
    kept = sampling.probabilities(logits, sampling.Sampling(temperature=1.0, top_p=top_p)) > 0
    return logits.where(kept, OFF) if top_p < 1 else logits


@wrong(FORBIDDEN)
def perplexity__the_checks_own(logits, token_ids, keep):
    from qwen3_scratch.exercises.ps4.next_token import _perplexity as found

    return found(logits, token_ids, keep)


@wrong(FORBIDDEN)
def render_chat__by_the_tokenizer(messages, thinking):
    return qwen3_scratch.load_checkpoint("tiny").tokenizer.render_chat(messages, thinking=thinking)


@right(FORBIDDEN)
def moe__sorted_by_expert(x, weights, experts, gate_up_proj, down_proj):
    order = experts.flatten().argsort()
    token = order // experts.shape[1]
    counts = experts.flatten().bincount(minlength=len(gate_up_proj)).tolist()
    parts = [
        F.linear(F.silu(g) * u, down_proj[number])
        for number, rows in enumerate(x[token].split(counts))
        for g, u in [F.linear(rows, gate_up_proj[number]).chunk(2, -1)]
    ]
    return torch.zeros_like(x).index_add(0, token, torch.cat(parts) * weights.flatten()[order, None])


@right(FORBIDDEN)
def expert_load__one_sum_for_each(experts, num_experts):
    return torch.stack([(experts == number).sum() for number in range(num_experts)]).float() / experts.numel()


@right(FORBIDDEN)
def moe__in_order_of_number(x, weights, experts, gate_up_proj, down_proj):
    return combine(x, weights, experts, gate_up_proj, down_proj)
