"""Answers whose numbers are right, but that pass no gradient, or that spoil what they were given."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model

from . import CHANGED, GRADIENT, right, wrong
from .first_masks_and_constants import attend, by_layer, layered, read, stepped, weigh
from .whole import merges_of, streamed

# ---- gradients -------------------------------------------------------------------------------


@wrong(GRADIENT)
def rms_norm__by_numpy(x, weight, eps):
    wide = x.detach().float().numpy()
    divided = wide / ((wide**2).mean(-1, keepdims=True) + eps) ** 0.5
    return weight * torch.from_numpy(divided).to(x.dtype)


@wrong(GRADIENT)
def rms_norm__norm_detached(x, weight, eps):
    wide = x.float()
    root = (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()
    return weight * (wide / root).to(x.dtype)


@wrong(GRADIENT)
def rope__without_grad(x, cos, sin):
    with torch.no_grad():
        a, b = x.chunk(2, -1)
        return x * cos[:, None].to(x.dtype) + torch.cat((-b, a), -1) * sin[:, None].to(x.dtype)


@wrong(GRADIENT)
def qk_norm__keys_detached(q, k, q_norm, k_norm, eps):
    q, k = (part.unflatten(-1, (-1, len(q_norm))) for part in (q, k.detach()))
    return model.rms_norm(q, q_norm, eps).transpose(1, 2), model.rms_norm(k, k_norm, eps).transpose(1, 2)


@wrong(GRADIENT)
def attention_weights__without_grad(q, k, mask=None):
    with torch.no_grad():
        return weigh(q, k, mask)


@wrong(GRADIENT)
def gqa_attention__values_detached(q, k, v, mask=None):
    return attend(q, k, v.detach(), mask)


@wrong(GRADIENT)
def merge_heads__new_tensor(x):
    return torch.tensor(x.transpose(1, 2).flatten(-2).tolist(), dtype=x.dtype)


@wrong(GRADIENT)
def self_attention__result_copied(x, layer, config, table, mask):
    return stepped(x, layer, config, table, mask).detach().clone()


@wrong(GRADIENT)
def expert_ffn__gate_detached(x, gate_proj, up_proj, down_proj):
    return F.linear(F.silu(F.linear(x, gate_proj)).detach() * F.linear(x, up_proj), down_proj)


@wrong(GRADIENT)
def moe_route__weights_detached(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.detach().softmax(-1, dtype=torch.float32).topk(top_k)
    weights = weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights
    return weights.to(x.dtype), experts, logits


def combine(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in experts.unique().tolist():
        token, choice = (experts == expert).nonzero(as_tuple=True)
        answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
        out = out.index_add(0, token, answer * weights[token, choice, None])
    return out


@wrong(GRADIENT)
def moe__weights_data(x, weights, experts, gate_up_proj, down_proj):
    return combine(x, weights.data, experts, gate_up_proj, down_proj)


@wrong(GRADIENT)
def balance_by_layer__without_grad(router_logits, num_experts, top_k, attention_mask=None):
    with torch.no_grad():
        logits = torch.cat(tuple(router_logits))
        if attention_mask is not None:
            logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
        return by_layer(logits, len(router_logits), num_experts, top_k)


@right(GRADIENT)
def balance_by_layer__choices_without_grad(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits)).float()
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
    probabilities = logits.softmax(-1)
    with torch.no_grad():
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(top_k).indices, 1.0)
    pairs = zip(*(each.chunk(len(router_logits)) for each in (chosen, probabilities)), strict=True)
    return torch.stack([num_experts * (f.mean(0) * p.mean(0)).sum() for f, p in pairs])


@wrong(GRADIENT)
def decoder_layer__stream_detached(x, layer, config, table, mask):
    return layered(x, layer, config, table, mask) - x + x.detach()


@wrong(GRADIENT)
def forward__inference_mode(weights, token_ids, config, logits_to_keep=0):
    with torch.inference_mode():
        positions = torch.arange(token_ids.shape[1])[None]
        table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens)
        for number, layer in enumerate(weights.layers):
            x = model.decoder_layer(
                x, layer, config, table, model.attention_mask(positions, positions, config.window(number))
            )
        x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
        return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


# ---- inputs ----------------------------------------------------------------------------------


@wrong(CHANGED)
def balance_by_layer__list_emptied(router_logits, num_experts, top_k, attention_mask=None):
    if isinstance(router_logits, list):
        joined = []
        while router_logits:
            joined.append(router_logits.pop(0))
    else:
        joined = router_logits
    logits = torch.cat(tuple(joined))
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(joined))]
    return by_layer(logits, len(joined), num_experts, top_k)


@wrong(CHANGED)
def cached_step__held_replaced(weights, token_ids, config, held):
    logits, kept = read(weights, token_ids, config, held)
    held[:] = kept
    return logits, kept


@wrong(CHANGED)
def render_chat__messages_cut(messages, thinking):
    text = ""
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = message["content"].split("</think>")[-1]
            if "</think>" in message["content"]:
                message["content"] = message["content"].lstrip("\n")
        said = message["content"]
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return _rendered(messages, thinking) if False else _fixed(text, thinking)


def _fixed(text, thinking):
    text = text.replace("<|im_start|>assistant\n\n\n", "<|im_start|>assistant\n")
    return text + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


def _rendered(messages, thinking):
    return ""


@wrong(CHANGED)
def learn_merges__words_used_up(words, count):
    words["\u0120"] = words.pop("\u0120", 0)
    return merges_of(words, count)


@wrong(CHANGED)
def greedy__written_into_the_prompt(read, prompt, stop_ids, vocabulary, most):
    start, new = len(prompt), list(prompt)
    while len(prompt) - start < most and not (len(prompt) > start and prompt[-1] in stop_ids):
        prompt.append(int(read(new)[:vocabulary].argmax()))
        new = prompt[-1:]
    return prompt[start:]


@wrong(CHANGED)
def stop_stream__stops_sorted(pieces, stops):
    stops.sort(key=len)
    return streamed(pieces, stops)


@wrong(CHANGED)
def decoder_layer__config_changed(x, layer, config, table, mask):
    object.__setattr__(config, "rms_norm_eps", float(config.rms_norm_eps) * 2)
    object.__setattr__(config, "rms_norm_eps", config.rms_norm_eps / 2)
    object.__setattr__(config, "max_position_embeddings", 7)
    return layered(x, layer, config, table, mask)


@wrong(CHANGED)
def kv_cache_bytes__config_changed(config, batch, length, dtype):
    windows = [config.window(number) for number in range(config.num_hidden_layers)]
    object.__setattr__(config, "sliding_window", None)
    tokens = sum(length if window is None else min(length, window) for window in windows)
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


@wrong(CHANGED)
def perplexity__padding_written(logits, token_ids, keep):
    counted = keep[:, :-1] & keep[:, 1:]
    token_ids[~keep] = 0
    return F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted]).exp()
