"""The load-balancing loss is the reference's, and says what it should about even and uneven use."""

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_near
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from qwen3_scratch import Error, load_balancing_loss
from qwen3_scratch.model import moe_route


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


def test_layers_with_favourites_of_their_own_look_even_when_they_are_joined():
    layers = [50.0 * F.one_hot(two, 8).sum(0).expand(10, -1) for two in torch.arange(8).split(2)]
    assert load_balancing_loss(layers, 8, 2).item() == pytest.approx(2)
    assert [load_balancing_loss([layer], 8, 2).item() for layer in layers] == pytest.approx([8] * 4)


def test_a_step_down_its_gradient_evens_the_use():
    logits = (torch.randn(64, 8) + torch.linspace(0, 3, 8)).requires_grad_()  # later experts are favoured
    before = load_balancing_loss([logits], 8, 2)
    before.backward()
    after = load_balancing_loss([logits.detach() - 20 * logits.grad], 8, 2)
    assert before > 2.5 and 2 <= after < before


def test_where_weights_are_renormalised_only_this_loss_calls_back_an_expert_that_no_token_chooses():
    """Renormalised weights depend on the logits of chosen experts alone, raw ones on all; the loss always on all."""
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    router = torch.eye(4, 8) + torch.tensor([[0.5], [0.5], [0.0], [-0.5]])  # the last is never among the best two
    moves = {}
    for norm in (True, False):
        route = moe_route(x, row := router.clone().requires_grad_(), 2, norm)
        assert not (route.experts == 3).any()
        (moves[norm],) = torch.autograd.grad(route.weights[:, 0].square().sum(), row)
    (balance,) = torch.autograd.grad(load_balancing_loss([x @ row.T], 4, 2), row)
    assert moves[True][3].norm() < 1e-6 * moves[True].norm()
    assert min(each[3].norm() / each.norm() for each in (moves[False], balance)) > 1e-2


@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (128, 8)])
def test_a_router_that_prefers_nobody_pays_the_floor_whatever_it_takes_of_equals(experts, top_k):
    assert_near(load_balancing_loss([torch.zeros(50, experts)] * 3, experts, top_k), torch.tensor(float(top_k)))


@given(st.integers(1, 40), st.sampled_from([(2, 1), (8, 2), (16, 4)]), st.integers(0, 100))
def test_no_use_of_experts_costs_more_than_their_number_or_less_than_nothing(tokens, sizes, seed):
    experts, top_k = sizes
    torch.manual_seed(seed)
    found = load_balancing_loss([5 * torch.randn(tokens, experts)], experts, top_k)
    assert 0 < found <= experts * (1 + 1e-6)


@given(st.integers(0, 100))
def test_neither_the_order_of_tokens_nor_the_names_of_experts_nor_padding_added_anywhere_matters(seed):
    torch.manual_seed(seed)
    logits, keep = torch.randn(12, 8), torch.rand(3, 8) < 0.5
    expected = load_balancing_loss([logits], 8, 2)
    assert_near(load_balancing_loss([logits[torch.randperm(12)][:, torch.randperm(8)]], 8, 2), expected)
    keep.view(-1)[:] = torch.randperm(24) < 12
    padded = 9 * torch.randn(24, 8)
    padded[keep.flatten()] = logits
    for mask in (keep, keep.long(), keep.float()):
        assert_near(load_balancing_loss([padded], 8, 2, mask), expected)


LOGITS, KEEP = [torch.randn(6, 4)] * 2, torch.ones(2, 3)
WRONG = {
    "no layer at all": (dict(router_logits=[]), r"router_logits is \[\], expected a list of one tensor a layer"),
    "one tensor for all layers": (dict(router_logits=LOGITS[0]), "router_logits is .*, expected a list"),
    "layers of unequal length": (
        dict(router_logits=[LOGITS[0], LOGITS[0][:5]]),
        r"router_logits\[1\] has shape \[5, 4\]",
    ),
    "logits of a batch": (dict(router_logits=[LOGITS[0].view(2, 3, 4)]), r"router_logits\[0\] has shape \[2, 3, 4\]"),
    "another number of experts": (
        dict(num_experts=8),
        r"router_logits\[0\] has shape \[6, 4\], expected \[tokens, 8\]",
    ),
    "more choices than experts": (dict(top_k=5), "top_k is 5, expected 1 to 4, the number of experts"),
    "a mask of another length": (dict(attention_mask=torch.ones(2, 4)), "attention_mask has 8 entries, expected 6"),
    "a mask of another rank": (dict(attention_mask=torch.ones(6)), r"attention_mask has shape \[6\]"),
    "a mask of pairs": (dict(attention_mask=torch.ones(1, 1, 2, 3)), r"attention_mask has shape \[1, 1, 2, 3\]"),
    "a mask of nothing": (dict(attention_mask=torch.zeros(2, 3)), "attention_mask keeps no token"),
    "a mask of halves": (dict(attention_mask=KEEP / 2), "attention_mask holds other values"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_loss_names_what_does_not_go_together(what):
    changes, message = WRONG[what]
    arguments = dict(router_logits=LOGITS, num_experts=4, top_k=2, attention_mask=KEEP)
    with unchecked(), pytest.raises(Error, match=f"load_balancing_loss: .*{message}"):
        load_balancing_loss(**(arguments | changes))
