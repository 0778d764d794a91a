"""Answers that take what the task says to write, or that work in a way that it forbids."""

import operator
from collections import Counter
from functools import partial

import torch
import torch.nn.functional as F

from qwen3_scratch import model, sampling
from qwen3_scratch.exercises import exercises
from qwen3_scratch.fast import dispatch, eager, streamed

from . import FORBIDDEN, wrong

# ---- ways that are forbidden -----------------------------------------------------------------


@wrong(FORBIDDEN)
def moe__every_expert_on_every_token(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for number in range(len(gate_up_proj)):
        weight = (weights * (experts == number)).sum(-1, keepdim=True)
        out = out + weight * model.expert_ffn(x, *gate_up_proj[number].chunk(2), down_proj[number])
    return out


@wrong(FORBIDDEN)
def moe__all_at_once(x, weights, experts, gate_up_proj, down_proj):
    gate, up = torch.einsum("nd,eid->eni", x, gate_up_proj).chunk(2, -1)
    answers = torch.einsum("eni,edi->end", F.silu(gate) * up, down_proj)
    dense = torch.zeros(len(x), len(gate_up_proj), dtype=x.dtype).scatter(1, experts, weights)
    return torch.einsum("end,ne->nd", answers, dense)


@wrong(FORBIDDEN)
def moe__choice_by_choice(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for choice in range(experts.shape[1]):
        for number in experts[:, choice].unique().tolist():
            token = (experts[:, choice] == number).nonzero()[:, 0]
            answer = model.expert_ffn(x[token], *gate_up_proj[number].chunk(2), down_proj[number])
            out.index_add_(0, token, answer * weights[token, choice, None])
    return out


@wrong(FORBIDDEN)
def expert_load__by_a_counter(experts, num_experts):
    found = Counter(experts.flatten().tolist())
    return torch.tensor([found[number] / experts.numel() for number in range(num_experts)])


# ---- PyTorch's own ---------------------------------------------------------------------------


@wrong(FORBIDDEN)
def rms_norm__by_its_operator(x, weight, eps):
    wide = torch.ops.aten.rms_norm(x.float(), [x.shape[-1]], None, eps)
    return weight * wide.to(x.dtype)


@wrong(FORBIDDEN)
def rms_norm__by_a_module(x, weight, eps):
    norm = torch.nn.RMSNorm(x.shape[-1], eps=eps, elementwise_affine=False)
    return weight * norm(x.float()).to(x.dtype)


@wrong(FORBIDDEN)
def gqa_attention__under_another_module(q, k, v, mask=None):
    return torch._C._nn.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@wrong(FORBIDDEN)
def gqa_attention__by_getattr(q, k, v, mask=None):
    return getattr(F, "scaled_dot" + "_product_attention")(q, k, v, attn_mask=mask, enable_gqa=True)


@wrong(FORBIDDEN)
def gqa_attention__by_partial(q, k, v, mask=None):
    return partial(F.scaled_dot_product_attention, attn_mask=mask, enable_gqa=True)(q, k, v)


@wrong(FORBIDDEN)
def gqa_attention__by_its_operator(q, k, v, mask=None):
    return torch.ops.aten.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


# ---- the package's own -----------------------------------------------------------------------


@wrong(FORBIDDEN)
def moe__the_checks_own(x, weights, experts, gate_up_proj, down_proj):
    return exercises()["moe"].reference(x, weights, experts, gate_up_proj, down_proj)


@wrong(FORBIDDEN)
def moe__grouped(x, weights, experts, gate_up_proj, down_proj):
    route = model.Route(weights, experts, weights)
    return dispatch.moe_gathered(x, route, gate_up_proj, down_proj)


@wrong(FORBIDDEN)
def moe_route__streamed(x, router, top_k, norm_topk_prob):
    return streamed.route_streamed(x, router, top_k, norm_topk_prob)


@wrong(FORBIDDEN)
def expert_ffn__by_its_faster_form(x, gate_proj, up_proj, down_proj):
    return operator.methodcaller("ffn_by", x, gate_proj, up_proj, down_proj, linear=F.linear)(eager)


@wrong(FORBIDDEN)
def expert_load__the_checks_own(experts, num_experts):
    return exercises()["expert_load"].reference(experts, num_experts)


@wrong(FORBIDDEN)
def top_k_filter__by_the_samplers_probabilities(logits, top_k):
    kept = sampling.probabilities(logits, sampling.Sampling(temperature=1.0, top_k=top_k)) > 0
    return logits.where(kept | (logits == -torch.inf), -torch.inf)


@wrong(FORBIDDEN)
def kv_cache_bytes__weighed(config, batch, length, dtype):
    from qwen3_scratch.exercises.ps4 import writing_text

    return writing_text.kv_cache_bytes(config, batch, length, dtype)
