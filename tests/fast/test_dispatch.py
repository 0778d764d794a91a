"""Every form of dispatch computes what `moe` computes, and none but `moe` asks for a value on the way."""

import dataclasses
import inspect

import pytest
import torch
import torch.nn.functional as F
from reference import assert_near, random_tokens, random_weights, small_config
from torch import Tensor
from torch.utils._pytree import tree_map_only

import qwen3_scratch
from qwen3_scratch import Checkpoint, Error, forward, generate, moe_route
from qwen3_scratch.fast import compiling, dispatch, eager
from qwen3_scratch.fast.dispatch import grouped_linear, moe_all_experts, moe_by_size, moe_gathered, moe_grouped
from qwen3_scratch.model import Ops, Route, expert_ffn, moe

FORMS = [moe_gathered, moe_grouped, moe_all_experts, moe_by_size]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
BF16 = 2e-2  # of the largest number: bf16 carries 4e-3 of each, and three of them are rounded on the way


def layer(experts, dim=32, intermediate=24, seed=0):
    """Random stacked experts."""
    generator = torch.Generator().manual_seed(seed)
    gate_up = torch.randn(experts, 2 * intermediate, dim, generator=generator) / dim**0.5
    return gate_up, torch.randn(experts, dim, intermediate, generator=generator) / intermediate**0.5


def routed(tokens, experts, top_k, normed=True, dim=32):
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, dim, generator=generator)
    return x, moe_route(x, torch.randn(experts, dim, generator=generator), top_k, normed)


@each_form
@pytest.mark.parametrize("tokens", [1, 2, 16, 65])
@pytest.mark.parametrize(
    "experts, top_k, normed", [(2, 1, False), (2, 2, True), (8, 1, True), (8, 2, True), (16, 3, False), (16, 4, True)]
)
def test_it_equals_moe_in_fp32(form, tokens, experts, top_k, normed):
    x, route = routed(tokens, experts, top_k, normed)
    assert_near(form(x, route, *layer(experts)), moe(x, route, *layer(experts)))


@each_form
def test_it_equals_moe_in_bf16_up_to_bf16(form):
    x, route = routed(20, 8, 2)
    x, stacked = x.bfloat16(), [part.bfloat16() for part in layer(8)]
    route = route._replace(weights=route.weights.bfloat16())
    found = form(x, route, *stacked)
    assert found.dtype == torch.bfloat16
    assert_near(found, moe(x, route, *stacked), BF16)


@each_form
@pytest.mark.parametrize("chosen", [0, 3, 7])
def test_experts_that_nobody_chose_are_empty_groups(form, chosen):
    x, _ = routed(5, 8, 1)
    route = Route(torch.rand(5, 1), torch.full((5, 1), chosen), torch.zeros(5, 8))
    stacked = layer(8)
    expected = expert_ffn(x, *stacked[0][chosen].chunk(2), stacked[1][chosen]) * route.weights
    assert_near(form(x, route, *stacked), expected)


@each_form
def test_a_weight_that_is_not_a_number_stays_with_the_tokens_of_its_expert(form):
    x, _ = routed(3, 4, 1)
    route = Route(torch.ones(3, 1), torch.tensor([[0], [2], [0]]), torch.zeros(3, 4))
    gate_up, down = layer(4)
    gate_up[2] = torch.nan
    assert form(x, route, gate_up, down).isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("dim, intermediate", [(32, 24), (5, 24), (32, 3), (6, 6)])
def test_rows_of_any_number_of_bytes_can_be_grouped(dim, intermediate):
    x, route = routed(9, 4, 2, dim=dim)
    stacked = layer(4, dim, intermediate)
    assert_near(moe_grouped(x, route, *stacked), moe(x, route, *stacked))


def test_without_torchs_grouped_product_each_group_is_a_product(monkeypatch):
    x, weight = torch.randn(7, 8), torch.randn(4, 12, 8)
    ends = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    expected = torch.cat((F.linear(x[:3], weight[1]), F.linear(x[3:], weight[3])))
    assert_near(grouped_linear(x, weight, ends), expected)
    monkeypatch.delattr(F, "grouped_mm", raising=False)
    assert_near(grouped_linear(x, weight, ends), expected)


def test_moe_by_size_copies_no_more_than_the_layer_holds(monkeypatch):
    called = []

    def noted(name):
        return lambda x, *others: called.append(name) or x

    for name in ("moe_gathered", "moe_grouped"):
        monkeypatch.setattr(dispatch, name, noted(name))
    for tokens in (1, 4, 5):
        moe_by_size(*routed(tokens, 8, 2), *layer(8))
    assert called == ["moe_gathered", "moe_gathered", "moe_grouped"]


@each_form
def test_another_expert_is_refused_rather_than_passed_over(form):
    def doubled(x, *weights):
        return 2 * expert_ffn(x, *weights)

    with pytest.raises(Error, match=r"moe_\w+: expert is doubled, expected expert_ffn: use model\.moe"):
        form(*routed(3, 4, 1), *layer(4), doubled)


@each_form
def test_a_model_computes_the_same_with_it(form):
    config = small_config()
    weights, token_ids = random_weights(config), random_tokens(config, 2, 9)
    found = forward(weights, token_ids, config, ops=Ops(moe=form))
    assert_near(found, forward(weights, token_ids, config))


@each_form
@pytest.mark.parametrize("kinds", [1, 3])
def test_where_routers_cannot_tell_experts_apart_it_asks_the_same_ones(form, kinds):
    config = small_config()
    weights, token_ids = random_weights(config), random_tokens(config, 2, 9)
    alike = torch.arange(config.num_experts) % kinds
    layers = tuple(layer._replace(router=layer.router[alike].contiguous()) for layer in weights.layers)
    weights = weights._replace(layers=layers)
    found = forward(weights, token_ids, config, ops=Ops(moe=form))
    assert_near(found, forward(weights, token_ids, config))


@each_form
def test_generate_writes_the_same_tokens_with_it(form):
    checkpoint = Checkpoint(small_config(), random_weights(small_config()))
    options = dict(temperature=0, max_new_tokens=8)
    found = generate(dataclasses.replace(checkpoint, ops=Ops(moe=form)), [3, 1, 4, 1, 5], **options)
    assert found == generate(checkpoint, [3, 1, 4, 1, 5], **options)


def without_data(form, tokens=3):
    """Runs a form on tensors that have shapes and no values, in bf16, which all kernels take."""

    def emptied(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta", dtype=torch.bfloat16 if tensor.is_floating_point() else None)

    x, route = routed(tokens, 8, 2)
    return form(*tree_map_only(Tensor, emptied, (x, route, *layer(8))))


@each_form
def test_it_never_asks_for_a_value(form):
    assert without_data(form).shape == (3, 32)
    assert without_data(form, 30).shape == (30, 32)


def test_moe_does_ask_for_values():
    with pytest.raises(NotImplementedError):
        without_data(moe)


def test_the_packages_public_steps_are_the_models_own_to_every_form():
    """They hold their arguments to account first, and are other objects for that."""
    weights = random_weights(small_config())
    plain = Checkpoint(small_config(), weights)
    public = Ops(qwen3_scratch.embed, qwen3_scratch.rms_norm, moe=qwen3_scratch.moe, expert=qwen3_scratch.expert_ffn)
    model = dataclasses.replace(plain, ops=public)
    assert qwen3_scratch.expert_ffn is not expert_ffn
    for found, expected in zip(eager.writing_ops(model, 1), eager.writing_ops(plain, 1), strict=True):
        assert inspect.unwrap(getattr(found, "func", found)) is inspect.unwrap(getattr(expected, "func", expected))
    compiling.check_compilable(model)
    dispatch.check_expert("moe_gathered", qwen3_scratch.expert_ffn)
