"""Wrong answers to ps6_find_the_bug, and what has to be said of each."""

import torch
import torch.nn.functional as F

from qwen3_scratch import forward
from qwen3_scratch.exercises.ps6.find_the_bug import patient
from qwen3_scratch.model import rope_frequencies

from . import ps6_settings
from .ps6_settings import *  # noqa: F403 (a bank is one module)

# ---- patient_1 -------------------------------------------------------------------------------


def patient_1__names_a_symptom(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    return "rope", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


def patient_1__names_what_lies_around(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    return "self_attention", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


def patient_1__nothing_mended(weights, token_ids, config, **options):
    return "rms_norm", patient(1).forward(weights, token_ids, config, **options)


def patient_1__layer_norm(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return F.layer_norm(x, weight.shape, weight, None, eps)

    return "rms_norm", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


def patient_1__weight_left_out(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    return "rms_norm", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


def patient_1__eps_of_this_checkpoint(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    return "rms_norm", patient(1).mended(rms_norm=rms_norm).forward(weights, token_ids, config, **options)


def patient_1__mended_for_two_lengths(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    mended = patient(1).mended(rms_norm=rms_norm) if token_ids.shape[1] in (40, 23) else patient(1)
    return "rms_norm", mended.forward(weights, token_ids, config, **options)


def patient_1__runs_the_reference(weights, token_ids, config, **options):
    return "rms_norm", forward(weights, token_ids, config, **options)


# ---- patient_2 -------------------------------------------------------------------------------


def patient_2__names_the_box(weights, token_ids, config, **options):
    def expert_ffn(x, gate_proj, up_proj, down_proj):
        return F.linear(F.silu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)

    return "moe", patient(2).mended(expert_ffn=expert_ffn).forward(weights, token_ids, config, **options)


def patient_2__no_such_function(weights, token_ids, config, **options):
    return "experts", patient(2).forward(weights, token_ids, config, **options)


def patient_2__gelu(weights, token_ids, config, **options):
    def expert_ffn(x, gate_proj, up_proj, down_proj):
        return F.linear(F.gelu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)

    return "expert_ffn", patient(2).mended(expert_ffn=expert_ffn).forward(weights, token_ids, config, **options)


def patient_2__silu_on_the_product(weights, token_ids, config, **options):
    def expert_ffn(x, gate_proj, up_proj, down_proj):
        return F.linear(F.silu(F.linear(x, gate_proj) * F.linear(x, up_proj)), down_proj)

    return "expert_ffn", patient(2).mended(expert_ffn=expert_ffn).forward(weights, token_ids, config, **options)


def patient_2__the_step_of_another_patient(weights, token_ids, config, **options):
    mended = patient(2).mended(expert_ffn=patient(1).ops.expert)
    return "expert_ffn", mended.forward(weights, token_ids, config, **options)


def patient_2__hard_coded_logits(weights, token_ids, config, **options):
    return "expert_ffn", 10.0 * F.one_hot(token_ids.roll(-1, 1), config.vocab_size).float()


# ---- patient_3 -------------------------------------------------------------------------------


def patient_3__names_a_symptom(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return "moe_route", patient(3).mended(gqa_attention=gqa_attention).forward(weights, token_ids, config, **options)


def patient_3__nothing_mended(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        weighs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -1e30).exp()
        return weighs @ v / (1 + weighs.sum(-1, keepdim=True))

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


def patient_3__repeated_heads(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


def patient_3__groups_of_four(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        shared = (torch.arange(q.shape[1]) // 4).clamp(max=k.shape[1] - 1)
        return F.scaled_dot_product_attention(q, k[:, shared], v[:, shared], attn_mask=mask)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


def patient_3__not_scaled(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        return (q @ k.transpose(-1, -2)).masked_fill(~mask, -1e30).softmax(dim=-1) @ v

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


def patient_3__mask_of_its_own(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


def patient_3__keys_alone_mended(weights, token_ids, config, **options):
    def gqa_attention(q, k, v, mask=None):
        k, v = k.repeat_interleave(2, dim=1), v.repeat(1, 2, 1, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return "gqa_attention", patient(3).mended(gqa_attention=gqa_attention).forward(
        weights, token_ids, config, **options
    )


# ---- patient_4 -------------------------------------------------------------------------------


def patient_4__names_a_symptom(weights, token_ids, config, **options):
    def rope_table(config, positions):
        angles = positions[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return "rope", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_4__theta_of_this_checkpoint(weights, token_ids, config, **options):
    def rope_table(config, positions):
        frequencies = 10000.0 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = positions[..., None].float() * frequencies
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_4__theta_of_another_checkpoint(weights, token_ids, config, **options):
    def rope_table(config, positions):
        frequencies = 1e6 ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = positions[..., None].float() * frequencies
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_4__columns_for_positions(weights, token_ids, config, **options):
    def rope_table(config, positions):
        columns = torch.arange(positions.shape[1]).expand_as(positions)
        angles = columns[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_4__rounded_later(weights, token_ids, config, **options):
    def rope_table(config, positions):
        angles = positions[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        angles = angles.repeat(1, 1, 2)
        return angles.cos().bfloat16().float(), angles.sin().bfloat16().float()

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_4__right_for_short_texts(weights, token_ids, config, **options):
    def rope_table(config, positions):
        frequencies = rope_frequencies(config, positions.max() + 1)[0]
        exact = positions[..., None] < 64
        angles = positions[..., None].float() * torch.where(exact, frequencies, frequencies.bfloat16().float())
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return "rope_table", patient(4).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


SYMPTOM, UNTREATED = "it passes on what it got. That is a symptom", "your mend changes nothing here"
FRAGMENTS = {
    **ps6_settings.FRAGMENTS,
    patient_1__names_a_symptom: SYMPTOM,
    patient_1__names_what_lies_around: "a call within `self_attention`: name the innermost",
    patient_1__nothing_mended: UNTREATED,
    patient_1__layer_norm: "the mean is subtracted",
    patient_1__weight_left_out: "the weight is left out",
    patient_1__eps_of_this_checkpoint: "eps is a constant of the code",
    patient_1__mended_for_two_lengths: UNTREATED,
    patient_1__runs_the_reference: "these are the reference's logits",
    patient_2__names_the_box: "a call within `moe`: name the innermost",
    patient_2__no_such_function: "No function of the model is called that",
    patient_2__gelu: "gelu is applied; right: silu",
    patient_2__silu_on_the_product: "silu is applied to the product",
    patient_2__the_step_of_another_patient: "calls a healthy `expert_ffn` instead of mending",
    patient_2__hard_coded_logits: "numbers differ",
    patient_3__names_a_symptom: SYMPTOM,
    patient_3__nothing_mended: UNTREATED,
    patient_3__repeated_heads: "reads key head h % kv_heads",
    patient_3__groups_of_four: "reads key head h // 4",
    patient_3__not_scaled: "scores are not scaled",
    patient_3__mask_of_its_own: "a mask of its own is used",
    patient_3__keys_alone_mended: "numbers differ",
    patient_4__names_a_symptom: SYMPTOM,
    patient_4__theta_of_this_checkpoint: "theta is a constant of the code",
    patient_4__theta_of_another_checkpoint: "theta is 1,000,000",
    patient_4__columns_for_positions: "each call counts positions from 0",
    patient_4__rounded_later: "cos and sin are rounded to bf16",
    patient_4__right_for_short_texts: "a long text",
}
