"""Routers beside the model's own, equal to it where they must be: a capacity, noise, a moved bias, a shared expert."""

import math
from functools import partial

import pytest
import torch
from helpers import unchecked
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_near, random_tokens, random_weights, small_config

from qwen3_scratch import Error, Ops, forward
from qwen3_scratch.learning.other_routers import (
    biased_route,
    capacity_of,
    capacity_route,
    in_turn,
    moe_with_shared,
    moved_bias,
    noisy_route,
)
from qwen3_scratch.model import expert_ffn, moe, moe_route

SIZES = st.tuples(st.integers(1, 30), st.sampled_from([(2, 1), (8, 2), (16, 4), (3, 3)]), st.integers(0, 1000))


def drawn(tokens=20, experts=8, dim=12, seed=0):
    """Vectors of tokens, and a router that prefers nobody by much."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, dim, generator=generator), torch.randn(experts, dim, generator=generator)


def same(one, other):
    return all(map(torch.equal, one, other))


def stacks(experts=4, dim=12, intermediate=10):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(experts, 2 * intermediate, dim, generator=generator),
        torch.randn(experts, dim, intermediate, generator=generator),
    )


# ---- a capacity --------------------------------------------------------------------------------


@given(SIZES, st.sampled_from([0.25, 0.5, 1.0, 1.25, 3.0]), st.booleans())
def test_no_expert_serves_more_than_its_capacity_and_none_turns_away_while_it_has_room(sizes, factor, norm):
    tokens, (experts, top_k), seed = sizes
    x, router = drawn(tokens, experts, seed=seed)
    plain, route = moe_route(x, router, top_k, norm), capacity_route(x, router, top_k, norm, factor)
    most = max(1, math.ceil(factor * tokens * top_k / experts))
    served = route.weights > 0
    asked = plain.experts.flatten().bincount(minlength=experts)
    assert torch.equal(route.experts[served].bincount(minlength=experts), asked.clamp(max=most))
    assert torch.equal(route.experts, plain.experts) and torch.equal(route.logits, plain.logits)
    assert torch.equal(route.weights, plain.weights * served), "who is served keeps the weight it had"


def test_first_choices_are_served_before_second_ones_and_each_in_the_order_of_the_tokens():
    x = torch.tensor([[2.0, 3.0, 0.0], [3.0, 2.0, 0.0], [3.0, 0.0, 2.0], [0.0, 3.0, 2.0]])
    route = capacity_route(x, torch.eye(3), 2, True, 0.75)  # 2 of 8 choices an expert
    assert route.experts.tolist() == [[1, 0], [0, 1], [0, 2], [1, 2]]
    assert (route.weights > 0).tolist() == [[True, False], [True, False], [True, True], [True, True]]


def test_a_token_that_is_dropped_everywhere_gets_nothing_from_the_layer():
    x, stacked = torch.randn(5, 12, generator=torch.Generator().manual_seed(3)).abs(), stacks(2)
    router = torch.stack((torch.ones(12), -torch.ones(12)))  # all ask expert 0
    route = capacity_route(x, router, 1, True, 0.8)  # 2 of 5
    out = moe(x, route, *stacked)
    assert torch.equal(out[2:], torch.zeros(3, 12)) and (out[:2] != 0).any(1).all()
    assert_near(out[:2], moe(x[:2], moe_route(x[:2], router, 1, True), *stacked))


@given(SIZES, st.booleans())
def test_with_room_for_all_a_capacity_changes_nothing(sizes, norm):
    tokens, (experts, top_k), seed = sizes
    x, router = drawn(tokens, experts, seed=seed)
    assert same(capacity_route(x, router, top_k, norm, experts), moe_route(x, router, top_k, norm))


def test_a_token_is_served_alike_whoever_comes_after_it_and_not_whoever_comes_before():
    x, router = drawn(40)
    at, later = (capacity_route(x[:n], router, 2, True, factor) for n, factor in ((20, 1.0), (40, 0.5)))
    assert torch.equal(at.weights[:, 0], later.weights[:20, 0]), "the same capacity, and tokens behind it"
    turned = capacity_route(x.flip(0), router, 2, True, 0.5).weights.flip(0)
    assert not torch.equal(turned, later.weights)


# ---- noise -------------------------------------------------------------------------------------


@given(SIZES, st.booleans())
def test_without_noise_the_noisy_router_is_the_plain_one(sizes, norm):
    tokens, (experts, top_k), seed = sizes
    (x, gate), noise = drawn(tokens, experts, seed=seed), torch.randn(experts, 12)
    quiet = noisy_route(x, torch.cat((gate, noise)), top_k, norm, torch.zeros_like)
    assert same(quiet, moe_route(x, gate, top_k, norm))


def test_noise_is_added_in_units_of_softplus_of_its_own_rows():
    (x, gate), noise = drawn(6, 4), torch.randn(4, 12)
    found = noisy_route(x, torch.cat((gate, noise)), 2, True, torch.ones_like).logits
    assert_near(found, x @ gate.T + (1 + (x @ noise.T).exp()).log())


def test_noise_changes_choices_and_hangs_on_its_draw_alone():
    (x, gate), router = drawn(200), torch.cat((drawn(200)[1], torch.zeros(8, 12)))

    def noisy(seed):
        generator = torch.Generator().manual_seed(seed)
        return noisy_route(x, router, 2, True, lambda like: torch.randn(like.shape, generator=generator))

    assert same(noisy(0), noisy(0)) and not torch.equal(noisy(0).experts, noisy(1).experts)
    assert not torch.equal(noisy(0).experts, moe_route(x, gate, 2, True).experts)


# ---- a bias ------------------------------------------------------------------------------------


@given(SIZES, st.booleans())
def test_a_bias_decides_who_is_chosen_and_never_the_weights(sizes, norm):
    tokens, (experts, top_k), seed = sizes
    x, router = drawn(tokens, experts, seed=seed)
    bias = torch.randn(experts, generator=torch.Generator().manual_seed(seed))
    route, scores = biased_route(x, router, top_k, norm, bias), (x @ router.T).sigmoid()
    assert torch.equal(route.experts.sort().values, (scores + bias).topk(top_k).indices.sort().values)
    weights = scores.gather(1, route.experts)
    assert_near(route.weights, weights / weights.sum(1, keepdim=True) if norm else weights)
    assert torch.equal(route.logits, x @ router.T)


def test_scores_may_be_a_softmax_and_then_a_bias_of_zeros_is_the_plain_router():
    x, router = drawn()
    found = biased_route(x, router, 2, True, torch.zeros(8), partial(torch.softmax, dim=-1))
    assert all(map(torch.equal, found, moe_route(x, router, 2, True)))


def test_a_large_bias_calls_in_an_expert_that_nobody_chose():
    x, router = drawn(50)
    scores = torch.sigmoid(x @ router.T)
    least = int(scores.mean(0).argmin())
    bias = torch.zeros(8).scatter(0, torch.tensor(least), 1.0)
    route = biased_route(x, router, 2, False, bias)
    assert (route.experts == least).any(1).all()
    assert_near(route.weights[route.experts == least], scores[:, least])
    assert same(
        biased_route(x, router, 2, True, torch.full((8,), 0.25)), biased_route(x, router, 2, True, torch.zeros(8))
    )


def test_a_bias_moves_by_one_step_towards_even_use():
    bias, counts = torch.tensor([0.5, 0.0, 0.0, -0.5]), torch.tensor([10.0, 0.0, 6.0, 8.0])
    assert_near(moved_bias(bias, counts, 0.1), torch.tensor([0.4, 0.1, 0.0, -0.6]))
    assert bias.tolist() == [0.5, 0.0, 0.0, -0.5]


def test_moved_again_and_again_a_bias_evens_the_use_of_any_router():
    x, router = drawn(400)
    router[0] *= 0.0
    x[:, 0] += 1.0  # some experts score high for everyone
    bias, seen = torch.zeros(8), []
    for _ in range(400):
        counts = biased_route(x, router, 2, True, bias).experts.flatten().bincount(minlength=8).float()
        bias, seen = moved_bias(bias, counts, 0.005), [*seen, counts.min() / 100]
    assert seen[0] < 0.5 and min(seen[-10:]) > 0.8, "100 choices would be even"


def test_each_layer_takes_its_own_bias():
    config, generator = small_config(), torch.Generator().manual_seed(5)
    biases, routes = torch.randn(3, 8, generator=generator), []
    route = in_turn(tuple(biases))

    def noting(*args):
        routes.append((args, route(*args)))
        return routes[-1][1]

    forward(random_weights(config), random_tokens(config, 2, 9), config, ops=Ops(route=noting))
    assert all(same(found, biased_route(*args, bias)) for (args, found), bias in zip(routes, biases, strict=True))


# ---- a shared expert ---------------------------------------------------------------------------


def test_a_shared_expert_adds_exactly_its_answer_to_every_token():
    (x, router), (gate_up, down) = drawn(20, 4), stacks(5)
    route = moe_route(x, router, 2, True)
    alone = moe(x, route, gate_up[:4], down[:4])
    answer = expert_ffn(x, *gate_up[4].chunk(2), down[4])
    assert torch.equal(moe_with_shared(x, route, gate_up, down), alone + answer)
    assert torch.equal(moe_with_shared(x, route, gate_up, torch.cat((down[:4], 0 * down[4:]))), alone)


# ---- gradients ---------------------------------------------------------------------------------


def noisy(x, router, top_k, norm):
    return noisy_route(x, router, top_k, norm, torch.ones_like)


WAYS = {
    "plain": (8, moe_route, moe),
    "noise": (16, noisy, moe),
    "capacity": (8, capacity_route, moe),
    "bias": (8, partial(biased_route, bias=torch.linspace(0, 1, 8)), moe),
    "shared": (8, moe_route, moe_with_shared),
}


@pytest.mark.parametrize("name", WAYS)
def test_gradients_reach_router_and_experts_and_are_those_of_small_changes(name):
    rows, route, mixed = WAYS[name]
    x, router = drawn(6, rows, dim=5)
    stacked = [each.double() for each in stacks(9 if name == "shared" else 8, dim=5, intermediate=4)]
    leaves = [each.requires_grad_() for each in (x.double(), router.double(), *stacked)]

    def layer(x, router, gate_up, down):
        return mixed(x, route(x, router, 2, True), gate_up, down).square().sum()

    found = torch.autograd.grad(layer(*leaves), leaves)
    assert all(grad.abs().sum() > 0 for grad in found)
    assert torch.autograd.gradcheck(layer, leaves, atol=1e-4)


def test_no_gradient_goes_through_the_bias():
    (x, router), bias = drawn(), torch.zeros(8, requires_grad=True)
    route = biased_route(x, router.requires_grad_(), 2, True, bias)
    (of_bias,) = torch.autograd.grad(route.weights[:, 0].sum(), bias, allow_unused=True, retain_graph=True)
    (of_router,) = torch.autograd.grad(route.weights[:, 0].sum(), router)
    assert of_bias is None and of_router.abs().sum() > 0


def test_a_choice_that_was_dropped_teaches_its_expert_nothing():
    x, router = drawn(30)
    gate_up, down = (each.requires_grad_() for each in stacks(8))
    route = capacity_route(x, router, 2, True, 0.5)
    (grad,) = torch.autograd.grad(moe(x, route, gate_up, down).sum(), down)
    for expert in range(8):
        tokens = ((route.experts == expert) & (route.weights > 0)).any(1)
        kept = route._replace(weights=route.weights[tokens], experts=route.experts[tokens])
        (own,) = torch.autograd.grad(moe(x[tokens], kept, gate_up, down).sum(), down)
        assert_near(grad[expert], own[expert])


# ---- what does not go together -----------------------------------------------------------------

X, ROUTER = drawn(4)
WRONG = {
    "an odd number of rows": (
        lambda: noisy_route(X, ROUTER[:7], 2, True),
        "noisy_route: router has 7 rows, expected two",
    ),
    "more choices than half the rows": (
        lambda: noisy_route(X, ROUTER, 5, True),
        "noisy_route: top_k is 5, expected 1 to 4",
    ),
    "no choice": (
        lambda: biased_route(X, ROUTER, 0, True, torch.zeros(8)),
        "biased_route: top_k is 0, expected 1 to 8",
    ),
    "a bias too short": (lambda: biased_route(X, ROUTER, 2, True, torch.zeros(7)), "bias has 7 numbers, expected 8"),
    "a capacity of nothing": (lambda: capacity_route(X, ROUTER, 2, True, 0.0), "capacity_of: factor is 0.0, expected"),
    "no number": (lambda: capacity_of(4, 8, 2, math.nan), "capacity_of: factor is nan, expected a number above 0"),
    "too many choices": (lambda: capacity_route(X, ROUTER, 9, True), "moe_route: top_k is 9, expected 1 to 8"),
    "no shared expert": (
        lambda: moe_with_shared(X, moe_route(X, ROUTER, 2, True), *stacks(8)),
        "moe_with_shared: gate_up_proj holds 8 experts, expected 9, those of the router and a shared one",
    ),
    "fewer biases than layers": (lambda: in_turn(())(X, ROUTER, 2, True), "in_turn: 0 biases, expected one a sparse"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_go_together_is_refused_in_one_sentence(what):
    call, message = WRONG[what]
    with unchecked(), pytest.raises(Error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
