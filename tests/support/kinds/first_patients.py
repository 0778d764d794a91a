"""Mended patients that pass no gradient, look at masks of their own or hold their own numbers, and right ones."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient

from . import EDGE, GRADIENT, MASK, right, wrong

# ---- gradients -------------------------------------------------------------------------------


@wrong(GRADIENT)
def patient_1__root_detached(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        wide = x.float()
        return weight * (wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()).to(x.dtype)

    return "rms_norm", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


@wrong(GRADIENT)
def patient_2__gate_detached(weights, token_ids, config, **options):
    def expert_ffn(x, gate_proj, up_proj, down_proj):
        return F.linear(F.silu(F.linear(x, gate_proj)).detach() * F.linear(x, up_proj), down_proj)

    return "expert_ffn", patient(2).mended(expert_ffn=expert_ffn).forward(weights, token_ids, config, **options)


@wrong(GRADIENT)
def patient_3__without_grad(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        with torch.no_grad():
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


@wrong(GRADIENT)
def patient_5__weights_data(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        best, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
        best = best / best.sum(-1, keepdim=True) if norm_topk_prob else best
        return model.Route(best.to(x.dtype).data, experts, logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


@wrong(GRADIENT)
def patient_7__answers_detached(weights, token_ids, config, **options):
    return mended_7(weights, token_ids, config, answered=torch.Tensor.detach, **options)


# ---- masks and edges -------------------------------------------------------------------------


@wrong(MASK)
def patient_3__causal_where_there_are_as_many(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        seen = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool).tril()[-q.shape[2] :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


@wrong(EDGE)
def patient_7__room_for_a_batch_of_24(weights, token_ids, config, **options):
    return mended_7(weights, token_ids, config, kept=lambda place: place < 24, **options)


@right(EDGE)
def patient_7__room_for_all(weights, token_ids, config, **options):
    return mended_7(weights, token_ids, config, **options)


def mended_7(weights, token_ids, config, answered=lambda answer: answer, kept=lambda place: place >= 0, **options):
    """Patient 7, mended but for what is done with each expert's answers, and which of its choices it keeps."""

    def embed(token_ids, embed_tokens):
        return F.one_hot(token_ids, len(embed_tokens)).to(embed_tokens.dtype) @ embed_tokens

    def moe(x, route, gate_up_proj, down_proj, expert):
        out = torch.zeros_like(x)
        for number in range(len(gate_up_proj)):
            token, choice = (route.experts == number).nonzero(as_tuple=True)
            some = kept(torch.arange(len(token)))
            token, choice = token[some], choice[some]
            answer = answered(expert(x[token], *gate_up_proj[number].chunk(2), down_proj[number]))
            out = out.index_add(0, token, answer * route.weights[token, choice, None])
        return out

    return {"embed", "moe"}, patient(7).mended(embed=embed, moe=moe).forward(weights, token_ids, config, **options)
