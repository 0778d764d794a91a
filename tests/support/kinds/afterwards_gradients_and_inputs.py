"""Answers without gradients and answers that spoil what they get, written after the checks."""

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

from qwen3_scratch import model

from . import CHANGED, GRADIENT, right, wrong
from .first_gradients_and_inputs import combine
from .first_masks_and_constants import attend, by_layer, layered, read, stepped, weigh
from .whole import counted, streamed

# ---- gradients -------------------------------------------------------------------------------


@wrong(GRADIENT)
def rms_norm__weight_detached(x, weight, eps):
    wide = x.float()
    return weight.detach() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@wrong(GRADIENT)
def rope__half_without_grad(x, cos, sin):
    a, b = x.chunk(2, -1)
    with torch.no_grad():
        beside = torch.cat((-b, a), -1) * sin[:, None].to(x.dtype)
    return x * cos[:, None].to(x.dtype) + beside


@wrong(GRADIENT)
def attention_weights__keys_detached(q, k, mask=None):
    return weigh(q, k.detach(), mask)


@wrong(GRADIENT)
def gqa_attention__weights_detached(q, k, v, mask=None):
    return attend(q.detach(), k.detach(), v, mask)


@wrong(GRADIENT)
def merge_heads__by_numpy(x):
    found = x.detach().float().numpy().transpose(0, 2, 1, 3)
    return torch.from_numpy(found.reshape(*found.shape[:2], -1).copy()).to(x.dtype)


@right(GRADIENT)
def merge_heads__by_permute(x):
    return x.permute(0, 2, 1, 3).contiguous().reshape(x.shape[0], x.shape[2], -1)


@wrong(GRADIENT)
def qk_norm__scales_detached(q, k, q_norm, k_norm, eps):
    q, k = (part.unflatten(-1, (-1, len(q_norm))) for part in (q, k))
    return model.rms_norm(q, q_norm.data, eps).transpose(1, 2), model.rms_norm(k, k_norm.data, eps).transpose(1, 2)


@wrong(GRADIENT)
def self_attention__projections_detached(x, layer, config, table, mask):
    return stepped(x, tree_map_only(torch.Tensor, torch.Tensor.detach, layer), config, table, mask)


@wrong(GRADIENT)
def expert_ffn__by_lists(x, gate_proj, up_proj, down_proj):
    gate, up = F.linear(x, gate_proj), F.linear(x, up_proj)
    return F.linear(torch.tensor((F.silu(gate) * up).tolist(), dtype=x.dtype).view(gate.shape), down_proj)


@wrong(GRADIENT)
def moe_route__logits_detached(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
    weights = weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights
    return weights.to(x.dtype), experts, logits.detach()


@wrong(GRADIENT)
def moe__sum_without_grad(x, weights, experts, gate_up_proj, down_proj):
    with torch.no_grad():
        return combine(x, weights, experts, gate_up_proj, down_proj) + 0 * x


@wrong(GRADIENT)
def moe__matrices_detached(x, weights, experts, gate_up_proj, down_proj):
    return combine(x, weights, experts, gate_up_proj.detach(), down_proj.detach())


@wrong(GRADIENT)
def balance_by_layer__a_gradient_of_nothing(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits))
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
    found = by_layer(logits.detach(), len(router_logits), num_experts, top_k)
    return found + 0.0 * logits.float().sum()


@wrong(GRADIENT)
def decoder_layer__feed_forward_detached(x, layer, config, table, mask):
    x = x + model.self_attention(
        model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps), layer, config, table, mask
    )
    normed = model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + model.feed_forward(normed, layer, config).detach()


@wrong(GRADIENT)
def forward__embedding_detached(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens).detach()
    for number, layer in enumerate(weights.layers):
        x = layered(x, layer, config, table, model.attention_mask(positions, positions, config.window(number)))
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


@right(GRADIENT)
def perplexity__a_measure_needs_none(logits, token_ids, keep):
    with torch.no_grad():
        counted = keep[:, :-1] & keep[:, 1:]
        return F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted]).exp()


@right(GRADIENT)
def rms_norm__by_the_norm_of_a_vector(x, weight, eps):
    wide = x.float()
    return weight * (wide / (torch.linalg.vecdot(wide, wide)[..., None] / x.shape[-1] + eps).sqrt()).to(x.dtype)


# ---- inputs ----------------------------------------------------------------------------------


@wrong(CHANGED)
def moe__experts_sorted(x, weights, experts, gate_up_proj, down_proj):
    out = combine(x, weights, experts, gate_up_proj, down_proj)
    experts.copy_(experts.sort(-1).values)
    return out


@wrong(CHANGED)
def balance_by_layer__mask_turned_round(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits))
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
        attention_mask.copy_(~attention_mask.bool())
    return by_layer(logits, len(router_logits), num_experts, top_k)


@wrong(CHANGED)
def cached_step__held_grows(weights, token_ids, config, held):
    found = read(weights, token_ids, config, held)
    held.append(held[-1])
    return found


@wrong(CHANGED)
def forward__rope_parameters_changed(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    table, x = model.rope_table(config, positions), model.embed(token_ids, weights.embed_tokens)
    object.__setattr__(config, "rope_parameters", {**config.rope_parameters, "seen": True})
    for number, layer in enumerate(weights.layers):
        x = layered(x, layer, config, table, model.attention_mask(positions, positions, config.window(number)))
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


@wrong(CHANGED)
def stop_stream__pieces_used_up(pieces, stops):
    def used_up():
        while pieces:
            yield pieces.pop(0)

    return streamed(used_up(), stops)


@wrong(CHANGED)
def draw__summed_in_place(probability, uniform):
    reached = probability.double().cumsum(-1)
    uniform.mul_(reached[:, -1])
    return (reached <= uniform[:, None]).sum(-1)


@wrong(CHANGED)
def temperature_softmax__divided_in_place(logits, temperature):
    if temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    found = (logits.float() / temperature).softmax(-1)
    logits /= temperature
    return found


@wrong(CHANGED)
def repetition_penalty__written_into_the_logits(logits, token_ids, penalty):
    said = logits.gather(1, token_ids)
    return logits.scatter_(1, token_ids, torch.where(said > 0, said / penalty, said * penalty))


@wrong(CHANGED)
def render_chat__a_turn_added(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if message["role"] == "assistant" and "</think>" in said:
            said = said.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    messages.append({"role": "assistant", "content": ""})
    return text + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


@wrong(CHANGED)
def numbers_read__choices_sorted(shapes, choices, num_experts):
    for experts in choices:
        experts.copy_(experts.flatten().sort().values.view_as(experts))
    rest, fed = counted(shapes, choices, num_experts)
    return rest + sum(fed)


@wrong(CHANGED)
def row_positions__before_moved_on(keep, before):
    found = (keep.long().cumsum(-1) - 1 + before[:, None]).masked_fill(~keep, 0)
    before += keep.sum(-1)
    return found
