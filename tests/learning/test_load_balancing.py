"""The load-balancing loss is the reference's, and says what it should about even and uneven use."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_near
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from qwen3_scratch import load_balancing_loss


@given(st.integers(1, 4), st.sampled_from([(2, 1), (8, 2), (16, 4), (3, 3)]), st.booleans(), st.integers(0, 1000))
def test_load_balancing_loss_equals_the_reference(layers, sizes, padded, seed):
    """Both add the same few hundred fp32 numbers, one layer after the other or all at once."""
    experts, top_k = sizes
    torch.manual_seed(seed)
    logits = tuple(2 * torch.randn(3 * 7, experts) for _ in range(layers))
    keep = torch.arange(7) < torch.tensor([7, 4, 1])[:, None] if padded else None  # the same rows in every layer
    expected = load_balancing_loss_func(logits, experts, top_k, keep)
    assert_near(load_balancing_loss(logits, experts, top_k, keep), expected)


def test_what_a_padding_token_was_routed_to_does_not_count():
    keep = torch.tensor([[True, True, False]])
    logits = torch.randn(3, 4)
    others = torch.where(keep[0, :, None], logits, 100 * torch.randn(3, 4))
    losses = [load_balancing_loss([layer], 4, 2, keep) for layer in (logits, others)]
    assert torch.equal(*losses)
    assert_near(losses[0], load_balancing_loss([logits[:2]], 4, 2))


@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (16, 4)])
def test_even_use_gives_top_k_and_the_same_experts_for_all_give_their_number(experts, top_k):
    turns = torch.arange(experts)[:, None] + torch.arange(top_k)  # token i chooses experts i, i + 1, ...
    even = 50.0 * F.one_hot(turns % experts, experts).sum(1)
    assert_near(load_balancing_loss([even], experts, top_k), torch.tensor(float(top_k)))
    uneven = even[:1].expand(experts, -1)
    assert_near(load_balancing_loss([uneven], experts, top_k), torch.tensor(float(experts)))
    assert load_balancing_loss([even + 0.01 * torch.randn_like(even)], experts, top_k) >= top_k - 1e-3


def test_a_step_down_its_gradient_evens_the_use():
    logits = (torch.randn(64, 8) + torch.linspace(0, 3, 8)).requires_grad_()  # later experts are favoured
    before = load_balancing_loss([logits], 8, 2)
    before.backward()
    after = load_balancing_loss([logits.detach() - 20 * logits.grad], 8, 2)
    assert before > 2.5 and 2 <= after < before
