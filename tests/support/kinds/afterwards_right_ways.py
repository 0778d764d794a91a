"""Right answers that go another way than the solution, which no check may refuse."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model

from . import CHANGED, EDGE, FORBIDDEN, GRADIENT, MASK, TYPE, right
from .first_masks_and_constants import balance


@right(FORBIDDEN)
def rms_norm__by_the_length_of_a_vector(x, weight, eps):
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return weight * (wide / torch.sqrt(length**2 / x.shape[-1] + eps)).to(x.dtype)


@right(GRADIENT)
def rope__one_half_after_the_other(x, cos, sin):
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half].unsqueeze(1).to(x.dtype), sin[..., :half].unsqueeze(1).to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


@right(TYPE)
def rope_table__by_an_outer_product(positions, frequencies):
    angles = torch.einsum("bs,p->bsp", positions.to(torch.float32), frequencies).tile(2)
    return [torch.cos(angles), torch.sin(angles)]


@right(TYPE)
def score__as_complex_numbers(q, k, m, n, frequencies):
    half = q.shape[1] // 2
    q, k = torch.complex(q[:, :half], q[:, half:]), torch.complex(k[:, :half], k[:, half:])
    return (q * k.conj() * torch.exp(1j * (m - n) * frequencies)).real.sum(-1)


@right(TYPE)
def to_halves__by_an_index(weight, heads):
    order = torch.arange(len(weight)).view(heads, -1, 2).mT.reshape(-1)
    return weight[order]


@right(GRADIENT)
def qk_norm__views_and_movedim(q, k, q_norm, k_norm, eps):
    parts = (part.reshape(*part.shape[:2], -1, len(q_norm)).movedim(2, 1) for part in (q, k))
    return tuple(model.rms_norm(part, weight, eps) for part, weight in zip(parts, (q_norm, k_norm), strict=True))


@right(MASK)
def causal_mask__not_later(positions, key_positions):
    return ~(key_positions.unsqueeze(1) > positions.unsqueeze(2)).unsqueeze(1)


@right(EDGE)
def sliding_mask__two_masks(positions, key_positions, window):
    keys, queries = key_positions[:, None, None, :], positions[:, None, :, None]
    return torch.logical_and(keys <= queries, keys > queries - window)


@right(GRADIENT)
def gqa_attention__by_einsum(q, k, v, mask=None):
    grouped = q.unflatten(1, (k.shape[1], -1)).float()
    scores = torch.einsum("bhgqd,bhkd->bhgqk", grouped, k.float()).flatten(1, 2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.where(mask, torch.tensor(torch.finfo(torch.float32).min))
    weights = scores.softmax(-1).unflatten(1, (k.shape[1], -1))
    return torch.einsum("bhgqk,bhkd->bhgqd", weights, v.float()).flatten(1, 2).to(q.dtype)


@right(FORBIDDEN)
def moe_route__by_sorting(x, router, top_k, norm_topk_prob):
    logits = x @ router.T
    ordered, order = torch.softmax(logits.float(), -1).sort(-1, descending=True)
    weights = ordered[:, :top_k]
    if norm_topk_prob:
        weights = F.normalize(weights, p=1, dim=-1)
    return weights.to(x.dtype), order[:, :top_k], logits


@right(FORBIDDEN)
def moe__with_products_of_its_own(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for number, (both, down) in enumerate(zip(gate_up_proj, down_proj, strict=True)):
        chosen = experts == number
        token = chosen.any(-1).nonzero().flatten()
        if token.numel() == 0:
            continue
        gate, up = (x[token] @ both.T).chunk(2, -1)
        weight = (weights * chosen).sum(-1)[token, None]
        out = out.index_add(0, token, weight * ((F.silu(gate) * up) @ down.T))
    return out


@right(FORBIDDEN)
def expert_load__by_scatter(experts, num_experts):
    flat = experts.reshape(-1)
    return torch.zeros(num_experts).scatter_add(0, flat, torch.ones(len(flat))) / len(flat)


@right(EDGE)
def router_entropy__by_the_logarithm_of_the_softmax(logits):
    logs = F.log_softmax(logits.float(), -1)
    return -(logs.exp() * logs).sum(-1)


@right(GRADIENT)
def balance_by_layer__mask_as_a_list_of_rows(router_logits, num_experts, top_k, attention_mask=None):
    if attention_mask is None:
        return torch.stack([balance(layer, num_experts, top_k) for layer in router_logits])
    rows = attention_mask.reshape(-1).nonzero()[:, 0]
    return torch.stack([balance(layer.index_select(0, rows), num_experts, top_k) for layer in router_logits])


@right(FORBIDDEN)
def forward__sliced_at_the_end(weights, token_ids, config, logits_to_keep=0):
    batch, seq = token_ids.shape
    positions = torch.arange(seq).expand(batch, seq)
    x = weights.embed_tokens[token_ids]
    for number in range(config.num_hidden_layers):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, weights.layers[number], config, model.rope_table(config, positions), mask)
    head = weights.lm_head if weights.lm_head is not None else weights.embed_tokens
    logits = model.rms_norm(x, weights.norm, config.rms_norm_eps) @ head.T
    return logits[:, seq - logits_to_keep :] if logits_to_keep else logits


@right(TYPE)
def perplexity__by_gathering(logits, token_ids, keep):
    logs = logits.float().log_softmax(-1)[:, :-1].gather(-1, token_ids[:, 1:, None])[..., 0]
    counted = (keep[:, 1:] & keep[:, :-1]).float()
    return torch.exp(-(logs * counted).sum() / counted.sum())


@right(CHANGED)
def greedy__reading_in_a_for_loop(read, prompt, stop_ids, vocabulary, most):
    logits, written = read(list(prompt)), []
    for _ in range(most):
        token = torch.argmax(logits[:vocabulary]).item()
        written += [token]
        if token in stop_ids or len(written) == most:
            break
        logits = read([token])
    return written


@right(EDGE)
def top_k_filter__by_sorting(logits, top_k):
    if not 0 < top_k < logits.shape[-1]:
        return logits.clone()
    border = logits.sort(-1, descending=True).values[:, top_k - 1].unsqueeze(-1)
    return torch.where(logits >= border, logits, float("-inf"))


@right(EDGE)
def top_p_filter__by_ranks(logits, top_p):
    if top_p >= 1.0:
        return logits.clone()
    ordered, order = torch.softmax(logits, -1, dtype=torch.float32).sort(-1, descending=True)
    before = torch.cat((torch.zeros_like(ordered[:, :1]), ordered.cumsum(-1)[:, :-1]), -1)
    kept = (before < top_p).gather(-1, order.argsort(-1))
    return logits.masked_fill(~kept, float("-inf"))


@right(EDGE)
def draw__by_searching(probability, uniform):
    reached = probability.double().cumsum(-1)
    target = uniform.unsqueeze(-1) * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True).squeeze(-1)


@right(EDGE)
def repetition_penalty__by_a_mask_of_what_was_said(logits, token_ids, penalty):
    said = torch.zeros(logits.shape, dtype=torch.bool)
    for row, ids in enumerate(token_ids):
        said[row, ids] = True
    return torch.where(said, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
