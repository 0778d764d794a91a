"""Wrong answers to ps3: experts, routes and counts as they go wrong, each with what its message must say."""

import json
import math
from collections.abc import Mapping, Sequence  # noqa: F401 (what the notebook imports)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int  # noqa: F401
from torch import Tensor  # noqa: F401

from qwen3_scratch import Config, model  # noqa: F401

# ---- expert_ffn ------------------------------------------------------------------------------


def expert_ffn__silu_on_up(x, gate_proj, up_proj, down_proj):
    return F.linear(F.linear(x, gate_proj) * F.silu(F.linear(x, up_proj)), down_proj)


def expert_ffn__added(x, gate_proj, up_proj, down_proj):
    return F.linear(F.silu(F.linear(x, gate_proj)) + F.linear(x, up_proj), down_proj)


def expert_ffn__relu(x, gate_proj, up_proj, down_proj):
    return F.linear(F.relu(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)


def expert_ffn__sigmoid(x, gate_proj, up_proj, down_proj):
    return F.linear(F.linear(x, gate_proj).sigmoid() * F.linear(x, up_proj), down_proj)


def expert_ffn__not_transposed(x, gate_proj, up_proj, down_proj):
    return (F.silu(x @ gate_proj) * (x @ up_proj)) @ down_proj


def expert_ffn__the_modules_own(x, gate_proj, up_proj, down_proj):
    return model.expert_ffn(x, gate_proj, up_proj, down_proj)


# ---- moe_route -------------------------------------------------------------------------------


def moe_route__softmax_over_the_chosen(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    best, experts = logits.topk(top_k, dim=-1)
    return best.softmax(dim=-1, dtype=torch.float32).to(x.dtype), experts, logits


def moe_route__never_renormalised(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    return weights.to(x.dtype), experts, logits


def moe_route__argmax(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).max(dim=-1, keepdim=True)
    return weights.to(x.dtype), experts, logits


def moe_route__sum_over_all_tokens(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    if norm_topk_prob:
        weights = weights / weights.sum()
    return weights.to(x.dtype), experts, logits


def moe_route__weights_stay_fp32(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, experts, logits


def moe_route__two_experts(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(2, dim=-1)
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(x.dtype), experts, logits


def moe_route__token_by_token(x, router, top_k, norm_topk_prob):
    logits = F.linear(x, router)
    weights, experts = [], []
    for token in logits:
        best, number = token.softmax(dim=-1, dtype=torch.float32).topk(top_k)
        weights.append(best / best.sum() if norm_topk_prob else best)
        experts.append(number)
    return torch.stack(weights).to(x.dtype), torch.stack(experts), logits


# ---- moe -------------------------------------------------------------------------------------


def moe__weighs_what_goes_in(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in experts.unique().tolist():
        token, choice = (experts == expert).nonzero(as_tuple=True)
        given = x[token] * weights[token, choice, None]
        out.index_add_(0, token, model.expert_ffn(given, *gate_up_proj[expert].chunk(2), down_proj[expert]))
    return out


def moe__writes_over(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in range(len(gate_up_proj)):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
        out[token] = answer * weights[token, choice, None]
    return out


def moe__no_weights(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in experts.unique().tolist():
        token, _ = (experts == expert).nonzero(as_tuple=True)
        answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
        out.index_add_(0, token, answer)
    return out


def moe__first_choice_only(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in experts[:, 0].unique().tolist():
        token = (experts[:, 0] == expert).nonzero()[:, 0]
        answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
        out[token] = answer * weights[token, :1]
    return out


def moe__gate_and_up_in_turn(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in experts.unique().tolist():
        token, choice = (experts == expert).nonzero(as_tuple=True)
        gate, up = gate_up_proj[expert, ::2], gate_up_proj[expert, 1::2]
        answer = model.expert_ffn(x[token], gate, up, down_proj[expert])
        out.index_add_(0, token, answer * weights[token, choice, None])
    return out


def moe__two_experts(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for expert in range(2):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        answer = model.expert_ffn(x[token], *gate_up_proj[expert].chunk(2), down_proj[expert])
        out.index_add_(0, token, answer * weights[token, choice, None])
    return out


def moe__token_by_token(x, weights, experts, gate_up_proj, down_proj):
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(weights[token], experts[token].tolist(), strict=True):
            answer = model.expert_ffn(x[token, None], *gate_up_proj[expert].chunk(2), down_proj[expert])
            out[token] += weight * answer[0]
    return out


# ---- expert_load -----------------------------------------------------------------------------


def expert_load__counts(experts, num_experts):
    return experts.flatten().bincount(minlength=num_experts)


def expert_load__per_token(experts, num_experts):
    return experts.flatten().bincount(minlength=num_experts) / len(experts)


def expert_load__no_minlength(experts, num_experts):
    return experts.flatten().bincount() / experts.numel()


def expert_load__first_choice(experts, num_experts):
    return experts[:, 0].bincount(minlength=num_experts) / len(experts)


def expert_load__eight_experts(experts, num_experts):
    return experts.flatten().bincount(minlength=8) / experts.numel()


# ---- router_entropy --------------------------------------------------------------------------


def router_entropy__bits(logits):
    p = logits.float().softmax(dim=-1)
    return -(p * p.log2()).sum(dim=-1)


def router_entropy__nan_at_zero(logits):
    p = logits.float().softmax(dim=-1)
    return -(p * p.log()).sum(dim=-1)


def router_entropy__of_the_mean(logits):
    return torch.special.entr(logits.float().softmax(dim=-1).mean(dim=0)).sum()


def router_entropy__negative(logits):
    return (logits.float().softmax(dim=-1) * logits.float().log_softmax(dim=-1)).sum(dim=-1)


def router_entropy__in_bf16(logits):
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


def router_entropy__token_by_token(logits):
    return torch.stack([torch.special.entr(token.float().softmax(dim=-1)).sum() for token in logits])


# ---- balance_by_layer ------------------------------------------------------------------------


def balance_by_layer__no_factor(router_logits, num_experts, top_k, attention_mask=None):
    found = []
    for logits in router_logits:
        kept = logits if attention_mask is None else logits[attention_mask.flatten().bool()]
        p = kept.float().softmax(dim=-1)
        found.append((F.one_hot(p.topk(top_k).indices, num_experts).sum(1).float().mean(0) * p.mean(0)).sum())
    return torch.stack(found)


def balance_by_layer__padding_counted(router_logits, num_experts, top_k, attention_mask=None):
    p = torch.stack(tuple(router_logits)).float().softmax(dim=-1)  # [layers, tokens, experts]
    f = F.one_hot(p.topk(top_k).indices, num_experts).sum(2).float().mean(1)
    return num_experts * (f * p.mean(1)).sum(-1)


def balance_by_layer__all_joined(router_logits, num_experts, top_k, attention_mask=None):
    logits = torch.cat(tuple(router_logits)).float()
    if attention_mask is not None:
        logits = logits[attention_mask.flatten().bool().repeat(len(router_logits))]
    p = logits.softmax(dim=-1)
    f = F.one_hot(p.topk(top_k).indices, num_experts).sum(1).float().mean(0)
    return num_experts * (f * p.mean(0)).sum()


def balance_by_layer__first_choice(router_logits, num_experts, top_k, attention_mask=None):
    found = []
    for logits in router_logits:
        kept = logits if attention_mask is None else logits[attention_mask.flatten().bool()]
        p = kept.float().softmax(dim=-1)
        found.append(num_experts * (F.one_hot(p.argmax(-1), num_experts).float().mean(0) * p.mean(0)).sum())
    return torch.stack(found)


def balance_by_layer__their_mean(router_logits, num_experts, top_k, attention_mask=None):
    found = []
    for logits in router_logits:
        kept = logits if attention_mask is None else logits[attention_mask.flatten().bool()]
        p = kept.float().softmax(dim=-1)
        f = F.one_hot(p.topk(top_k).indices, num_experts).sum(1).float().mean(0)
        found.append(num_experts * (f * p.mean(0)).sum())
    return torch.stack(found).mean()


def balance_by_layer__the_packages(router_logits, num_experts, top_k, attention_mask=None):
    from qwen3_scratch import load_balancing_loss

    each = [load_balancing_loss([layer], num_experts, top_k, attention_mask) for layer in router_logits]
    return torch.stack(each)


# ---- read_tensors ----------------------------------------------------------------------------


def read_tensors__from_the_first_byte(data):
    table, found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]), {}
    for name in table.keys() - {"__metadata__"}:
        start, stop = table[name]["data_offsets"]
        found[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=torch.float32).view(table[name]["shape"])
    return found


def read_tensors__eight_bytes_missing(data):
    length = int.from_bytes(data[:8], "little")
    table, found = json.loads(data[8 : 8 + length]), {}
    for name in table.keys() - {"__metadata__"}:
        start, stop = table[name]["data_offsets"]
        part = bytearray(data[length + start : length + stop])
        found[name] = torch.frombuffer(part, dtype=torch.float32).view(table[name]["shape"])
    return found


def read_tensors__flat(data):
    begin = 8 + int.from_bytes(data[:8], "little")
    table, found = json.loads(data[8:begin]), {}
    for name in table.keys() - {"__metadata__"}:
        start, stop = (begin + at for at in table[name]["data_offsets"])
        found[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=torch.float32)
    return found


def read_tensors__all_f32(data):
    begin = 8 + int.from_bytes(data[:8], "little")
    table, found = json.loads(data[8:begin]), {}
    for name in table.keys() - {"__metadata__"}:
        start, stop = (begin + at for at in table[name]["data_offsets"])
        found[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=torch.float32).view(table[name]["shape"])
    return found


def read_tensors__one_after_the_other(data):
    at = 8 + int.from_bytes(data[:8], "little")
    table, found = json.loads(data[8:at]), {}
    table.pop("__metadata__", None)
    for name, about in table.items():
        kind = {"F32": torch.float32, "BF16": torch.bfloat16}[about["dtype"]]
        size = math.prod(about["shape"]) * kind.itemsize
        found[name] = torch.frombuffer(bytearray(data[at : at + size]), dtype=kind).view(about["shape"])
        at += size
    return found


def read_tensors__metadata_too(data):
    begin = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8:begin]).items():
        start, stop = (begin + at for at in about["data_offsets"])
        kind = {"F32": torch.float32, "BF16": torch.bfloat16}[about["dtype"]]
        found[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=kind).view(about["shape"])
    return found


def read_tensors__the_library(data):
    from safetensors.torch import load

    return load(data)


# ---- active_from_shapes ----------------------------------------------------------------------


def active_from_shapes__everything(shapes, num_experts, top_k):
    return sum(math.prod(shape) for shape in shapes.values())


def active_from_shapes__one_expert(shapes, num_experts, top_k):
    resting = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    return sum(math.prod(shape) for shape in shapes.values()) - resting * (num_experts - 1) // num_experts


def active_from_shapes__router_shared(shapes, num_experts, top_k):
    resting = sum(math.prod(shape) for name, shape in shapes.items() if "mlp" in name)
    return sum(math.prod(shape) for shape in shapes.values()) - resting * (num_experts - top_k) // num_experts


def active_from_shapes__experts_alone(shapes, num_experts, top_k):
    return sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name) * top_k // num_experts


def active_from_shapes__shapes_added(shapes, num_experts, top_k):
    resting = sum(sum(shape) for name, shape in shapes.items() if ".experts." in name)
    return sum(sum(shape) for shape in shapes.values()) - resting * (num_experts - top_k) // num_experts


# ---- numbers_read ----------------------------------------------------------------------------


def numbers_read__all_experts(shapes, choices, num_experts):
    return sum(math.prod(shape) for shape in shapes.values())


def numbers_read__each_token_anew(shapes, choices, num_experts):
    everything = sum(math.prod(shape) for shape in shapes.values())
    in_experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    read = sum(experts.numel() for experts in choices)
    return everything - in_experts + in_experts * read // max(1, len(choices) * num_experts)


def numbers_read__as_one_token(shapes, choices, num_experts):
    everything = sum(math.prod(shape) for shape in shapes.values())
    in_experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    read = sum(experts.shape[1] for experts in choices)
    return everything - in_experts + in_experts * read // max(1, len(choices) * num_experts)


def numbers_read__layers_joined(shapes, choices, num_experts):
    everything = sum(math.prod(shape) for shape in shapes.values())
    in_experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    met = {number for experts in choices for number in experts.flatten().tolist()}
    read = len(choices) * len(met)
    return everything - in_experts + in_experts * read // max(1, len(choices) * num_experts)


def numbers_read__four_layers(shapes, choices, num_experts):
    everything = sum(math.prod(shape) for shape in shapes.values())
    experts = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    return everything - experts + experts * sum(len(each.unique()) for each in choices) // (4 * num_experts)


FRAGMENTS = {
    expert_ffn__silu_on_up: "silu belongs on the gate; you have it on up",
    expert_ffn__added: "You add gate and up",
    expert_ffn__relu: "You use relu",
    expert_ffn__sigmoid: "You use the sigmoid alone",
    expert_ffn__not_transposed: "your function raised RuntimeError at `return (F.silu(x @ gate_proj)",
    expert_ffn__the_modules_own: "this calls `expert_ffn`",
    moe_route__softmax_over_the_chosen: "Your weights sum to one, though norm_topk_prob is false",
    moe_route__never_renormalised: "Your weights do not sum to one, though norm_topk_prob is true",
    moe_route__argmax: "keep top_k",
    moe_route__sum_over_all_tokens: "You divide by the sum over all tokens",
    moe_route__weights_stay_fp32: "the weights return to the type of x",
    moe_route__two_experts: "the shape is [",
    moe_route__token_by_token: "times slower than it could be",
    moe__weighs_what_goes_in: "You weigh what goes in",
    moe__writes_over: "A later expert writes over",
    moe__no_weights: "The weights are missing",
    moe__first_choice_only: "You take the first choice alone",
    moe__gate_and_up_in_turn: "Gate and up do not take turns",
    moe__two_experts: "You ask experts 0 and 1 only",
    moe__token_by_token: "times slower than it could be: loop over the experts",
    expert_load__counts: "These are counts",
    expert_load__per_token: "so the shares sum to top_k",
    expert_load__no_minlength: "give `bincount` its `minlength`",
    expert_load__first_choice: "You count the first choice alone",
    expert_load__eight_experts: "the shape is [",
    router_entropy__bits: "These are bits",
    router_entropy__nan_at_zero: "0 times the logarithm of 0 is NaN",
    router_entropy__of_the_mean: "This is the entropy of the mean probabilities",
    router_entropy__negative: "the sign is wrong everywhere",
    router_entropy__in_bf16: "Compute in fp32",
    router_entropy__token_by_token: "times slower than it could be",
    balance_by_layer__no_factor: "The number of experts is missing as a factor",
    balance_by_layer__padding_counted: "Padding is counted",
    balance_by_layer__all_joined: "each layer has a loss of its own",
    balance_by_layer__first_choice: "You count the first choice alone",
    balance_by_layer__their_mean: "You average over the layers",
    balance_by_layer__the_packages: "calls `load_balancing_loss`, which is the answer itself",
    read_tensors__from_the_first_byte: "not from the file's first byte",
    read_tensors__eight_bytes_missing: "eight bytes in front of it",
    read_tensors__flat: "The numbers have no shape yet",
    read_tensors__all_f32: "the table tells each tensor's type",
    read_tensors__one_after_the_other: "need not lie in the table's order",
    read_tensors__metadata_too: "`__metadata__` is no tensor",
    read_tensors__the_library: "this calls `load`, which is the answer itself",
    active_from_shapes__everything: "You count all experts",
    active_from_shapes__one_expert: "You count one expert",
    active_from_shapes__router_shared: "The router counts whole",
    active_from_shapes__experts_alone: "the experts' numbers alone",
    active_from_shapes__shapes_added: "expected",
    numbers_read__all_experts: "You count all experts",
    numbers_read__each_token_anew: "the batch reads it once",
    numbers_read__as_one_token: "This is what one token reads",
    numbers_read__layers_joined: "Every layer has experts of its own",
    numbers_read__four_layers: "layers 0 and 3 without experts",
}
