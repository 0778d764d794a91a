"""Wrong answers to the last three exercises of ps6, whose patients look healthy on a text: see `ps6.py`."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient
from qwen3_scratch.model import rope_frequencies

# ---- patient_5 -------------------------------------------------------------------------------


def patient_5__names_a_symptom(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        best, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
        return model.Route(best / best.sum(-1, keepdim=True) if norm_topk_prob else best, experts, logits)

    return "moe", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


def patient_5__never_renormalised(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        return model.Route(*logits.softmax(-1, dtype=torch.float32).topk(top_k), logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


def patient_5__always_renormalised(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        best, experts = logits.softmax(-1, dtype=torch.float32).topk(top_k)
        return model.Route(best / best.sum(-1, keepdim=True), experts, logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


def patient_5__two_experts_whatever_is_asked(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        best, experts = logits.softmax(-1, dtype=torch.float32).topk(2)
        return model.Route(best / best.sum(-1, keepdim=True) if norm_topk_prob else best, experts, logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


def patient_5__the_best_alone(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        return model.Route(*logits.softmax(-1, dtype=torch.float32).topk(1), logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


def patient_5__sigmoid_without_the_field(weights, token_ids, config, **options):
    def moe_route(x, router, top_k, norm_topk_prob):
        logits = F.linear(x, router)
        best, experts = logits.topk(top_k)
        return model.Route(best.softmax(-1) if norm_topk_prob else best.sigmoid(), experts, logits)

    return "moe_route", patient(5).mended(moe_route=moe_route).forward(weights, token_ids, config, **options)


# ---- patient_6 -------------------------------------------------------------------------------


def patient_6__names_a_symptom(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        distance = positions[:, :, None] - key_positions[:, None, :]
        return ((distance >= 0) & (distance < (window or model.NEVER)))[:, None]

    mended = patient(6).mended(attention_mask=attention_mask)
    return "gqa_attention", mended.forward(weights, token_ids, config, **options)


def patient_6__nothing_hidden_but_padding(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        return (key_positions != model.NEVER)[:, None, None].expand(-1, 1, positions.shape[1], -1)

    mended = patient(6).mended(attention_mask=attention_mask)
    return "attention_mask", mended.forward(weights, token_ids, config, **options)


def patient_6__window_forgotten(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        return (positions[:, :, None] >= key_positions[:, None, :])[:, None]

    mended = patient(6).mended(attention_mask=attention_mask)
    return "attention_mask", mended.forward(weights, token_ids, config, **options)


def patient_6__itself_not_seen(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        distance = positions[:, :, None] - key_positions[:, None, :]
        return ((distance > 0) & (distance <= (window or model.NEVER)))[:, None]

    mended = patient(6).mended(attention_mask=attention_mask)
    return "attention_mask", mended.forward(weights, token_ids, config, **options)


def patient_6__mended_for_eight_pads(weights, token_ids, config, **options):
    def attention_mask(positions, key_positions, window=None):
        seen = patient(6).ops.mask(positions, key_positions, window).clone()
        if (key_positions[0, :8] == model.NEVER).all():
            seen[..., :8] = False
        return seen

    mended = patient(6).mended(attention_mask=attention_mask)
    return "attention_mask", mended.forward(weights, token_ids, config, **options)


def patient_6__padding_ignored_by_the_call(weights, token_ids, config, **options):
    options.pop("attention_mask", None)
    return "attention_mask", patient(6).forward(weights, token_ids, config, **options)


# ---- patient_7 -------------------------------------------------------------------------------


def patient_7__one_of_two(weights, token_ids, config, **options):
    def rope_table(config, positions):
        angles = positions[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    return {"rope_table"}, patient(7).mended(rope_table=rope_table).forward(weights, token_ids, config, **options)


def patient_7__both_named_and_one_mended(weights, token_ids, config, **options):
    def rope_table(config, positions):
        angles = positions[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    mended = patient(7).mended(rope_table=rope_table)
    return {"rope_table", "rms_norm"}, mended.forward(weights, token_ids, config, **options)


def patient_7__the_other_alone_mended(weights, token_ids, config, **options):
    def rms_norm(x, weight, eps):
        return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    mended = patient(7).mended(rms_norm=rms_norm)
    return {"rope_table", "rms_norm"}, mended.forward(weights, token_ids, config, **options)


def patient_7__a_symptom_among_them(weights, token_ids, config, **options):
    return {"rope", "rms_norm"}, patient(7).forward(weights, token_ids, config, **options)


def patient_7__weight_before_the_cast(weights, token_ids, config, **options):
    def rope_table(config, positions):
        angles = positions[..., None].float() * rope_frequencies(config, positions.max() + 1)[0]
        return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)

    def rms_norm(x, weight, eps):
        wide = x.float()
        return (weight.float() * wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    mended = patient(7).mended(rope_table=rope_table, rms_norm=rms_norm)
    return {"rope_table", "rms_norm"}, mended.forward(weights, token_ids, config, **options)


def patient_7__a_name_and_no_logits(weights, token_ids, config, **options):
    return {"rope_table", "rms_norm"}


SYMPTOM, UNTREATED = "it passes on what it got. That is a symptom", "your mend changes nothing here"
FRAGMENTS = {
    patient_5__names_a_symptom: SYMPTOM,
    patient_5__never_renormalised: "raw probabilities weigh the experts",
    patient_5__always_renormalised: UNTREATED,
    patient_5__two_experts_whatever_is_asked: "two experts are chosen",
    patient_5__the_best_alone: "the best expert alone",
    patient_5__sigmoid_without_the_field: "norm_topk_prob false",
    patient_6__names_a_symptom: SYMPTOM,
    patient_6__nothing_hidden_but_padding: "tokens see later ones",
    patient_6__window_forgotten: "the window is left out",
    patient_6__itself_not_seen: "a token does not see itself",
    patient_6__mended_for_eight_pads: "the second padded",
    patient_6__padding_ignored_by_the_call: "the second padded",
    patient_7__one_of_two: "you name 1 of 2 guilty functions",
    patient_7__both_named_and_one_mended: "One mistake is mended and the other is left",
    patient_7__the_other_alone_mended: "One mistake is mended and the other is left",
    patient_7__a_symptom_among_them: SYMPTOM,
    patient_7__weight_before_the_cast: "the weight is multiplied in fp32",
    patient_7__a_name_and_no_logits: "expected a name and logits",
}
