"""Wrong answers to the last three exercises of ps6, whose patients look healthy on a text: see `ps6.py`."""

import torch
import torch.nn.functional as F

from qwen3_scratch import model
from qwen3_scratch.exercises.ps6.find_the_bug import patient

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
    def embed(token_ids, embed_tokens):
        return embed_tokens[token_ids]

    return {"embed"}, patient(7).mended(embed=embed).forward(weights, token_ids, config, **options)


def patient_7__both_named_and_one_mended(weights, token_ids, config, **options):
    def embed(token_ids, embed_tokens):
        return embed_tokens[token_ids]

    return {"embed", "moe"}, patient(7).mended(embed=embed).forward(weights, token_ids, config, **options)


def patient_7__the_other_alone_mended(weights, token_ids, config, **options):
    def moe(x, route, gate_up_proj, down_proj, expert):
        out = torch.zeros_like(x)
        for number in range(len(gate_up_proj)):
            weight = (route.weights * (route.experts == number)).sum(-1, keepdim=True)
            out = out + weight * expert(x, *gate_up_proj[number].chunk(2), down_proj[number])
        return out

    return {"embed", "moe"}, patient(7).mended(moe=moe).forward(weights, token_ids, config, **options)


def patient_7__a_symptom_among_them(weights, token_ids, config, **options):
    return {"moe_route", "embed"}, patient(7).forward(weights, token_ids, config, **options)


def patient_7__two_choices(weights, token_ids, config, **options):
    def embed(token_ids, embed_tokens):
        return embed_tokens[token_ids]

    def moe(x, route, gate_up_proj, down_proj, expert):
        out = torch.zeros_like(x)
        for choice in (0, 1):
            for number in range(len(gate_up_proj)):
                here = (route.experts[:, choice] == number).nonzero()[:, 0]
                answer = expert(x[here], *gate_up_proj[number].chunk(2), down_proj[number])
                out.index_add_(0, here, answer * route.weights[here, choice, None])
        return out

    return {"embed", "moe"}, patient(7).mended(embed=embed, moe=moe).forward(weights, token_ids, config, **options)


def patient_7__more_room(weights, token_ids, config, **options):
    def embed(token_ids, embed_tokens):
        return embed_tokens[token_ids]

    def moe(x, route, gate_up_proj, down_proj, expert):
        out = torch.zeros_like(x)
        for number in range(len(gate_up_proj)):
            here, choice = (part[:40] for part in (route.experts == number).nonzero(as_tuple=True))
            answer = expert(x[here], *gate_up_proj[number].chunk(2), down_proj[number])
            out.index_add_(0, here, answer * route.weights[here, choice, None])
        return out

    return {"embed", "moe"}, patient(7).mended(embed=embed, moe=moe).forward(weights, token_ids, config, **options)


def patient_7__a_name_and_no_logits(weights, token_ids, config, **options):
    return {"embed", "moe"}


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
    patient_7__two_choices: "two choices of a token are asked",
    patient_7__more_room: "a long text",
    patient_7__a_name_and_no_logits: "expected a name and logits",
}
