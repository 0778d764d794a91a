"""The forms for the compiler are the steps of a layer, uncompiled too; weights lie in pages as large as they can."""

import pytest
import torch
from helpers import finished
from reference import assert_near

from qwen3_scratch.fast import streamed
from qwen3_scratch.fast.streamed import (
    MOST_HEADS,
    MOST_ROWS,
    STREAMED,
    moe_streamed,
    route_streamed,
    streamed_attention,
    streamed_linear,
    written_down,
)
from qwen3_scratch.model import Route, attention_mask, expert_ffn, gqa_attention, moe, moe_route


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("norm_topk_prob", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (8, 8), (16, 9)])
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_streamed_route_is_the_route(tokens, experts, top_k, norm_topk_prob):
    x, router = drawn((tokens, 24), (experts, 24))
    found, expected = (route(x, router, top_k, norm_topk_prob) for route in (route_streamed, moe_route))
    assert found.experts.tolist() == expected.experts.tolist()
    assert_near(found.weights, expected.weights)
    assert_near(found.logits, expected.logits)


@pytest.mark.parametrize(("experts", "top_k"), [(6, 2), (10, 3), (64, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_probabilities_a_streamed_route_takes_those_of_the_route(dtype, experts, top_k):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(-8, 9, (3, 32), generator=generator) / 8  # such numbers add up exactly in any order
        rows = torch.randint(-8, 9, (3, 32), generator=generator) / 16 * (seed > 0)
        router = rows[torch.randint(3, (experts,), generator=generator)]
        routes = [route(x.to(dtype), router.to(dtype), top_k, True) for route in (route_streamed, moe_route)]
        assert routes[0].logits.unique(dim=1).shape[1] <= 3
        assert routes[0].experts.tolist() == routes[1].experts.tolist()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (MOST_HEADS, 1), (2 * MOST_HEADS, 1)])
@pytest.mark.parametrize("head_dim", [16, 40], ids=["whole lines", "and a half"])
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_of_one_query_is_attention(batch, head_dim, heads, kv_heads):
    q, k, v = drawn(*((batch, *each, head_dim) for each in ((heads, 1), (kv_heads, 19), (kv_heads, 19))))
    mask = attention_mask(torch.full((batch, 1), 18), torch.arange(19).expand(batch, -1), window=7)
    assert_near(streamed_attention(q, k, v, mask), gqa_attention(q, k, v, mask))


def test_the_feed_forward_of_sums_is_the_feed_forward():
    x, *weights = drawn((3, 24), (40, 24), (40, 24), (24, 40))
    assert_near(STREAMED.expert(x, *weights), expert_ffn(x, *weights))


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (4, 24), (2, 3, 24), (MOST_ROWS[torch.float32] + 1, 1, 24)])
def test_a_product_of_sums_is_packed_like_one_of_the_library(shape):
    """torch copies a row whose strides are those of a column twenty times as slowly."""
    x, weight = drawn(shape, (40, 24))
    assert streamed_linear(x, weight).stride() == torch.nn.functional.linear(x, weight).stride()


@pytest.mark.parametrize("rows", [1, MOST_ROWS[torch.float32], MOST_ROWS[torch.float32] + 1])
def test_a_streamed_product_adds_its_bias_as_a_sum_and_as_the_librarys(rows):
    x, weight, bias = drawn((rows, 1, 24), (40, 24), (40,))
    for given in ((x, weight), (x, weight, bias)):
        assert_near(streamed_linear(*given), torch.nn.functional.linear(*given))


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(3, 2, 1), (5, 4, 2), (9, 3, 3), (12, 5, 1), (25, 8, 2)])
def test_where_choices_are_more_than_experts_each_expert_answers_all_and_only_its_own_count(tokens, experts, top_k):
    x, router, gate_up, down = drawn((tokens, 24), (experts, 24), (experts, 80, 24), (experts, 24, 40))
    route = moe_route(x, router, top_k, norm_topk_prob=False)
    assert_near(moe_streamed(x, route, gate_up, down), moe(x, route, gate_up, down))


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "dtype", "form"),
    [
        *((2, 4, 2, torch.float32, None), (3, 4, 2, torch.float32, "moe_in_turn"), (1, 2, 2, torch.float32, None)),
        *((12, 8, 2, torch.bfloat16, None), (13, 8, 2, torch.bfloat16, "moe_grouped")),
        *((24, 8, 2, torch.float32, None), (25, 8, 2, torch.float32, "moe_all_experts")),
        (300, 128, 8, torch.float32, None),
    ],
)
def test_each_expert_is_read_once_only_from_as_many_choices_as_make_it_faster(
    monkeypatch, tokens, experts, top_k, dtype, form
):
    called = []
    for name in ("moe_in_turn", "moe_grouped", "moe_all_experts"):
        monkeypatch.setattr(streamed, name, lambda x, *rest, name=name: called.append(name) or x)
    drawn_ones = drawn((tokens, 8), (experts, 8), (experts, 8, 8), (experts, 8, 4))
    x, router, gate_up, down = (part.to(dtype) for part in drawn_ones)
    moe_streamed(x, moe_route(x, router, top_k, norm_topk_prob=False), gate_up, down)
    assert called == [form] * bool(form)


def test_an_answer_that_is_not_finite_does_not_count_where_its_expert_was_not_chosen():
    x, gate_up, down = drawn((4, 24), (2, 80, 24), (2, 24, 40))
    down[1] = torch.inf
    route = Route(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 2))
    assert_near(moe_streamed(x, route, gate_up, down), expert_ffn(x, *gate_up[0].chunk(2), down[0]))


def test_what_is_written_down_is_the_same_numbers_in_fp32():
    (x,) = drawn((2, 5, 24))
    for given in (x, x.transpose(0, 1), x.bfloat16()):
        found = written_down(given)
        assert found.dtype == torch.float32 and torch.equal(found, given.float())


def test_whoever_does_not_compile_does_not_load_the_compiler():
    """It takes as long as torch itself, and its own end of a process hides how a process was ended."""
    said = finished("-c", "import sys, qwen3_scratch.fast.compiling; print('torch._dynamo' in sys.modules)")
    assert said.out == "False\n", said.err
