"""Each mistake of the museum is one: it differs where it says that it shows, and cannot be seen where it hides."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import unchecked
from reference import dense_config, distance, random_tokens, random_weights, small_config
from tiers import one_of_each

from qwen3_scratch import forward, moe_route, trace
from qwen3_scratch.inside.compare import CACHED, agreement, divergence, first_difference, read
from qwen3_scratch.inside.mistakes import MISTAKES, Mistake, Setting
from qwen3_scratch.inside.wrong_steps import softmax_over_top_k
from qwen3_scratch.model import Ops, rms_norm, rope, rope_table

LENGTH = 24
HIDDEN = 2e-5  # of the largest logit: other orders of the same fp32 sums
each = pytest.mark.parametrize("name", MISTAKES)


def both(mistake: Mistake, setting: Setting, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the right and the wrong model on random weights of a small model in this setting."""
    config = small_config(**setting.config)
    weights, ids = random_weights(config, seed), random_tokens(config, 1, LENGTH, seed=seed)
    with torch.no_grad():
        return tuple(read(model, weights, ids, config, setting.way) for model in (forward, mistake.forward))


@each
def test_a_mistake_shows_in_the_setting_that_exposes_it(name):
    right, wrong = both(MISTAKES[name], MISTAKES[name].shows_in)
    assert wrong.shape == right.shape and wrong.isfinite().all()
    assert distance(wrong, right) > 100 * HIDDEN


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.hides_in is not None])
def test_a_mistake_cannot_be_seen_where_it_hides(name):
    right, wrong = both(MISTAKES[name], MISTAKES[name].hides_in)
    assert distance(wrong, right) <= HIDDEN
    assert agreement(right, wrong).all()


@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if mistake.hides_in is None])
def test_what_hides_nowhere_names_no_setting_and_says_so(name):
    assert MISTAKES[name].hides == "nowhere" or name == "softmax_in_bf16"


@each
def test_an_entry_says_in_words_what_its_function_does(name):
    mistake = MISTAKES[name]
    assert all(len(text) > 5 and not text.endswith(".") for text in (mistake.wrong, mistake.right, mistake.met))
    function = mistake.steps[0] if mistake.steps else mistake.run
    assert function.__name__ == name and function.__doc__


GUILTY = {
    "no_qk_norm": "layer 0 / self_attention / rms_norm: output",
    "layer_norm": "layer 0 / rms_norm: output",
    "eps_outside_root": "layer 0 / rms_norm: output",
    "weight_plus_one": "layer 0 / rms_norm: output",
    "interleaved_rope": "layer 0 / self_attention / rope: output",
    "theta_of_qwen3": "rope_table: output",
    "frequencies_in_bf16": "rope_table: output",
    "positions_from_zero": "pass 1 / rope_table: output",
    "repeated_heads": "layer 0 / self_attention / gqa_attention: output",
    "groups_of_four": "layer 0 / self_attention / gqa_attention: output",
    "scaled_by_all_heads": "layer 0 / self_attention / gqa_attention: output",
    "softmax_in_bf16": "layer 0 / self_attention / gqa_attention: output",
    "no_causal_mask": "attention_mask: output",
    "window_off_by_one": "attention_mask: output",
    "argmax_expert": "layer 0 / feed_forward / moe_route: output",
    "renormalisation_forgotten": "layer 0 / feed_forward / moe_route: output",
    "renormalised_unasked": "layer 0 / feed_forward / moe_route: output",
    "softmax_over_top_k": "layer 0 / feed_forward / moe_route: output",
    "gate_and_up_swapped": "layer 0 / feed_forward / moe / expert_ffn: output",
    "pads_attended": "forward: input attention_mask",
    "pads_counted": "pass 0 / forward: input positions",
    "pads_counted_after_prefill": "pass 1 / forward: input positions",
}


def traces(mistake: Mistake) -> Iterator:
    config = small_config(**mistake.shows_in.config)
    weights, ids = random_weights(config), random_tokens(config, 1, LENGTH)
    for model, steps in ((forward, ()), (mistake.forward, mistake.steps)):
        with unchecked(), torch.no_grad(), trace(*steps) as found:  # the checks' own calls would be traced past, slowly
            read(model, weights, ids, config, mistake.shows_in.way)
        yield found


@pytest.mark.parametrize("name", one_of_each(MISTAKES, GUILTY.get))
def test_the_first_difference_is_at_the_guilty_call(name):
    assert str(first_difference(*traces(MISTAKES[name]))) == GUILTY[name]


def test_two_traces_of_the_same_pass_do_not_differ():
    assert first_difference(*traces(Mistake("", "", "", "", shows_in=Setting(way=CACHED)))) is None


def test_a_call_that_only_one_of_two_makes_is_named():
    """A replaced function that was not traced leaves a gap."""
    config = small_config()
    weights, ids = random_weights(config), random_tokens(config, 1, LENGTH)
    with trace() as right:
        forward(weights, ids, config)
    with trace() as wrong:
        forward(weights, ids, config, ops=Ops(rope=lambda x, cos, sin: x))
    found = first_difference(right, wrong)
    assert str(found) == "layer 0 / self_attention / rope: call"
    assert found.calls[0].name == "rope" and found.calls[1].name == "gqa_attention"


def test_a_step_that_no_trace_records_is_found_by_what_the_next_one_gets():
    config = small_config()
    weights, ids = random_weights(config), random_tokens(config, 1, LENGTH)
    half = partial(forward, ops=Ops(linear=lambda x, weight, bias=None: 0.5 * torch.nn.functional.linear(x, weight)))
    found = []
    for model in (forward, half):
        with trace() as recorded:
            model(weights, ids, config)
        found.append(recorded)
    difference = first_difference(*found)
    assert str(difference) == "layer 0 / self_attention / rms_norm: input x"
    assert difference.distance == pytest.approx(0.5)


def test_a_tolerance_lets_other_orders_of_sums_pass():
    def other_order(x, weight, eps):
        return rms_norm(x, weight, eps) * (1 + 1e-6)

    pair = list(traces(Mistake("", "", "", "", Ops(norm=other_order))))
    assert str(first_difference(*pair)) == "layer 0 / rms_norm: output"
    assert first_difference(*pair, tolerance=1e-4) is None


def test_divergence_is_what_torch_computes_and_zero_for_the_same():
    right, wrong = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    pair = wrong.log_softmax(-1), right.log_softmax(-1)
    expected = torch.nn.functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)
    assert torch.allclose(divergence(right, wrong), expected, atol=1e-6)
    assert divergence(right, right).abs().max() == 0


def test_softmax_after_top_k_is_renormalised_softmax_before_it():
    x, router = torch.randn(9, 16), torch.randn(8, 16)
    for top_k in (1, 2, 8):
        one, two = softmax_over_top_k(x, router, top_k, True), moe_route(x, router, top_k, True)
        assert torch.equal(one.experts, two.experts)
        assert torch.allclose(one.weights, two.weights, atol=1e-6)


def test_qk_norm_after_rope_is_seen_by_unequal_norm_weights_alone():
    """Which is why it is no entry: no config hides or shows it."""
    config, heads = small_config(), torch.randn(1, 2, 9, 16)
    table = rope_table(config, torch.arange(9)[None])
    for weight, same in ((torch.ones(16), True), (torch.full((16,), 1.3), True), (torch.rand(16) + 0.5, False)):
        before, after = rope(rms_norm(heads, weight, 1e-6), *table), rms_norm(rope(heads, *table), weight, 1e-6)
        assert torch.allclose(before, after, atol=1e-5) == same


@pytest.mark.parametrize("name", [name for name, found in MISTAKES.items() if found.ops.route is not Ops().route])
def test_a_dense_model_knows_no_mistake_of_the_router(name):
    config = dense_config()
    weights, ids = random_weights(config), random_tokens(config, 1, LENGTH)
    assert torch.equal(MISTAKES[name].forward(weights, ids, config), forward(weights, ids, config))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("no_qk_norm", 0.05, 0.4), ("interleaved_rope", 0.0, 0.25), ("argmax_expert", 0.3, 0.75),
     ("softmax_over_top_k", 0.4, 0.8)],
)  # fmt: skip
def test_on_random_weights_agreement_is_as_low_as_first_measured(name, low, high):
    """Over 64 positions of three small random models, by bands around 0.2, 0.1, 0.6 and 0.6."""
    shares = []
    for seed in range(3):
        config = replace(small_config(), **MISTAKES[name].shows_in.config)
        weights, ids = random_weights(config, seed), random_tokens(config, 1, 64, seed=seed)
        with torch.no_grad():
            pair = forward(weights, ids, config), MISTAKES[name].forward(weights, ids, config)
        shares.append(float(agreement(*pair).float().mean()))
    assert low < sum(shares) / 3 < high, shares
