"""Experts that are passed over, and experts that are read through the head."""

import pytest
import torch
from helpers import checkpoint, unchecked

from qwen3_scratch.inside.experts import (
    WAYS,
    answers,
    in_layer,
    lifts,
    losses_with,
    only_at,
    random_experts,
    rises_at,
    silenced,
    text_losses,
    through_the_lens,
    without,
    written_once,
)
from qwen3_scratch.inside.sums import all_sums, raised_digits
from qwen3_scratch.model import expert_ffn, forward, moe_route
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import answer_losses, padded_chats, questions
from qwen3_scratch.tracing import trace


@pytest.fixture(scope="module")
def chats(tiny):
    return padded_chats(tiny, [example for domain in DOMAINS for example in questions(domain, 3)])


@pytest.mark.parametrize("way", WAYS)
def test_one_layer_alone_is_sent_elsewhere(way):
    ck = checkpoint(num_experts=4, num_experts_per_tok=2)
    x, steps = torch.randn(30, ck.config.hidden_size), in_layer(ck, 0, WAYS[way])
    meant, other = (layer.router for layer in ck.weights.layers)
    own, now = moe_route(x, meant, 2, True), steps.route(x, meant, 2, True)
    assert all(map(torch.equal, steps.route(x, other, 2, True), moe_route(x, other, 2, True)))
    if way == "random experts":
        assert torch.equal(now.weights, own.weights) and not torch.equal(now.experts, own.experts)
        assert (now.experts[:, 0] != now.experts[:, 1]).all()
        assert torch.equal(torch.cat((own.experts, now.experts), 1).sort().values, torch.arange(4).expand(30, 4))
    elif way == "the next in line":
        assert torch.equal(now.experts[:, 0], own.experts[:, 1]) and (now.experts != own.experts[:, :1]).all()
    else:
        assert torch.equal(now.experts, own.experts)
        torch.testing.assert_close(now.weights, torch.full_like(now.weights, 0.5))


def test_random_experts_are_any_but_a_tokens_own_and_weigh_what_its_own_weighed():
    x, router = torch.randn(300, 6), torch.randn(5, 6)
    own, now = (way(x, router, 2, True) for way in (moe_route, random_experts))
    assert torch.equal(now.weights, own.weights) and torch.equal(now.logits, own.logits)
    assert (now.experts[:, 0] != now.experts[:, 1]).all()
    assert not (now.experts[:, :, None] == own.experts[:, None]).any()
    for expert in range(5):  # 2 of a token's 3 others are drawn; of 50 tokens or more, give or take 0.07
        free = (own.experts != expert).all(1)
        assert free.sum() > 50 and abs((now.experts[free] == expert).any(1).float().mean() - 2 / 3) < 0.25


def test_losses_with_the_trained_choice_are_the_checkpoints_own_and_fewer_experts_cost(tiny, chats):
    own = answer_losses(tiny.weights, tiny.config, chats)
    assert torch.equal(losses_with(tiny, [chats], 2, True), own)
    assert torch.equal(losses_with(tiny, [chats, chats], 2, True), torch.cat((own, own)))
    assert losses_with(tiny, [chats], 1, True).mean() > own.mean()
    assert not torch.allclose(losses_with(tiny, [chats], 1, False), losses_with(tiny, [chats], 1, True))


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_without_an_expert_routes_are_those_of_a_router_that_gives_it_no_share(norm_topk_prob):
    x, router = torch.randn(30, 6), torch.randn(4, 6)
    found = without(2)(x, router, 2, norm_topk_prob)
    logits = (x @ router.T).index_fill(1, torch.tensor([2]), -torch.inf)
    weights, experts = logits.softmax(-1).topk(2)
    weights = weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights
    assert torch.equal(found.experts, experts) and (moe_route(x, router, 2, True).experts == 2).any()
    torch.testing.assert_close(found.weights, weights)


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_a_silenced_expert_counts_nothing_and_nobody_takes_its_place(norm_topk_prob):
    x, router = torch.randn(30, 6), torch.randn(4, 6)
    found, own = (way(x, router, 2, norm_topk_prob) for way in (silenced(2), moe_route))
    assert torch.equal(found.experts, own.experts) and (own.experts == 2).any()
    assert torch.equal(found.weights, own.weights * (own.experts != 2))


def test_only_the_given_places_are_sent_elsewhere():
    x, router, places = torch.randn(30, 6), torch.randn(4, 6), torch.rand(3, 10) > 0.5
    found, own, other = (way(x, router, 2, True) for way in (only_at(places, without(2)), moe_route, without(2)))
    there = places.flatten()
    for part in ("weights", "experts"):
        assert torch.equal(getattr(found, part)[there], getattr(other, part)[there])
        assert torch.equal(getattr(found, part)[~there], getattr(own, part)[~there])
    assert not torch.equal(found.experts, own.experts) and not torch.equal(found.experts, other.experts)


def test_in_the_embedded_checkpoint_an_expert_is_missed_at_the_blanks_before_digits_alone(tiny):
    batch = padded_chats(tiny, questions("arithmetic", 12))
    blank, (which, _) = batch.token_ids == tiny.tokenizer.encode(" ")[0], written_once([batch])
    whole = text_losses(tiny, [batch], which)
    rise = [
        (text_losses(tiny, [batch], which, in_layer(tiny, 2, only_at(at, without(7)))) - whole).mean()
        for at in (blank, ~blank)
    ]
    assert rise[0] > 0.2 and abs(rise[1]) < 0.01


@pytest.mark.parametrize("domain", ["arithmetic", "facts", "spanish"])
def test_in_the_embedded_checkpoint_an_expert_is_missed_where_thinking_begins_whatever_the_topic(tiny, domain):
    batch = padded_chats(tiny, questions(domain, 16))
    opens = batch.token_ids.roll(-1, 1) == tiny.tokenizer.encode("<think>")[0]
    there, elsewhere = (rises_at(tiny, batch, 0, without(1), at).mean() for at in (opens, batch.keep & ~opens))
    assert opens.sum() == 16 and there > 0.02 and abs(elsewhere) < 0.01


def test_chats_in_which_the_same_is_written_count_as_one_text(tiny):
    asked = questions("chat", 12)
    batches = [padded_chats(tiny, questions("facts", 3)), padded_chats(tiny, asked)]
    which, home = written_once(batches)
    texts = {(one.thinking, one.answer) for one in asked}
    assert len(texts) < 12 and home.tolist() == [0] * 3 + [1] * len(texts)
    for one, its in zip(asked, which[3:].tolist(), strict=True):
        same = [other for other, number in zip(asked, which[3:].tolist(), strict=True) if number == its]
        assert {(other.thinking, other.answer) for other in same} == {(one.thinking, one.answer)}
    losses = answer_losses(tiny.weights, tiny.config, batches[1])
    expected = torch.stack([losses[which[3:] == number].mean() for number in range(3, 3 + len(texts))])
    torch.testing.assert_close(text_losses(tiny, batches, which)[3:], expected)


def test_all_answers_hold_those_of_each_expert():
    ck = checkpoint(num_experts=4)
    layer, x = ck.weights.layers[0], torch.randn(6, ck.config.hidden_size)
    found = answers(layer, x)
    for number in range(4):
        assert torch.equal(found[number], expert_ffn(x, *layer.gate_up_proj[number].chunk(2), layer.down_proj[number]))


def test_in_the_embedded_checkpoint_who_answers_counts_for_more_than_with_which_weight(tiny, chats):
    whole = answer_losses(tiny.weights, tiny.config, chats).mean()
    rise = {
        name: answer_losses(tiny.weights, tiny.config, chats, in_layer(tiny, 0, way)).mean() - whole
        for name, way in WAYS.items()
    }
    assert rise["random experts"] > 0.05 and rise["the next in line"] > 0.05
    assert rise["equal weights"].abs() < 0.02


def test_in_the_embedded_checkpoint_the_first_choice_raises_the_next_token_most(tiny, chats):
    with unchecked():
        said = through_the_lens(tiny, chats, range(4))
    assert said.lift.shape == (4, int(chats.written.sum()), 8) and len(said.chat) == len(said.lift[0])
    first, left_out, best = (each.mean(1) for each in lifts(said).values())
    assert (first > best + 0.2).all() and (best > left_out).all()


def test_lifts_are_told_apart_by_who_was_chosen(tiny, chats):
    said = through_the_lens(tiny, chats, [3])
    lift, chosen = said.lift[0], said.experts[0]
    found = {name: each[0] for name, each in lifts(said).items()}
    for token in range(0, len(lift), 97):
        others = [one for one in range(8) if one not in chosen[token].tolist()]
        wanted = (lift[token, chosen[token, 0]], lift[token, others].mean(), lift[token, others].max())
        assert [float(each[token]) for each in found.values()] == pytest.approx(
            [float(one) for one in wanted], abs=1e-5
        )


def test_what_all_parts_of_the_last_stream_raise_is_what_the_logits_say(tiny, chats):
    """The answers of the last layer are a part of a logit: without them it falls by their weighted lifts."""
    said = through_the_lens(tiny, chats, [3])
    with trace() as t:
        logits = forward(tiny.weights, chats.token_ids, tiny.config, attention_mask=chats.keep)
    reads = chats.written[:, 1:]
    last, call = t["rms_norm"][-1], t["moe_route"][-1]
    weights = call.output.weights.view(*chats.token_ids.shape, -1)[:, :-1][reads]
    added = (said.lift[0].gather(1, said.experts[0]) * weights).sum(-1)
    stream = last.inputs["x"][:, :-1][reads]
    answer = t["moe"][-1].output.view_as(last.inputs["x"])[:, :-1][reads]
    scale = tiny.weights.norm / stream.square().mean(-1, keepdim=True).add(tiny.config.rms_norm_eps).sqrt()
    without = ((stream - answer) * scale) @ tiny.weights.embed_tokens.T
    right = chats.token_ids[:, 1:][reads][:, None]
    whole = logits[:, :-1][reads]
    fall = (whole.gather(1, right) - whole.mean(-1, keepdim=True))[:, 0] - (
        without.gather(1, right) - without.mean(-1, keepdim=True)
    )[:, 0]
    torch.testing.assert_close(added, fall, atol=2e-3, rtol=1e-3)


def test_a_rise_at_some_tokens_is_that_of_the_layer_that_routes_otherwise_there_alone(tiny, chats):
    (which, _), places = written_once([chats]), torch.rand(chats.token_ids.shape) > 0.5
    way = in_layer(tiny, 1, only_at(places, without(2)))
    expected = text_losses(tiny, [chats], which, way) - text_losses(tiny, [chats], which)
    assert torch.equal(rises_at(tiny, chats, 1, without(2), places), expected) and expected.abs().max() > 0


# ---- all sums of two digits --------------------------------------------------------------------------


def test_in_the_embedded_checkpoint_one_expert_is_asked_for_sums_and_differences_and_needed_for_them_alone(tiny):
    whole, gone = all_sums(tiny), all_sums(tiny, in_layer(tiny, 2, without(7)))
    assert whole.said.shape == whole.right.shape == (3, 10, 9) and whole.first.shape == (4, 3, 10, 9)
    assert whole.right.float().mean() > 0.98  # it can do them all
    first = (whole.first[2] == 7).float().mean((1, 2))
    assert first[0] > 0.9 and first[1] > 0.9 and first[2] < 0.1
    left = gone.right.float().mean((1, 2))
    assert left[0] < 0.3 and left[1] < 0.3 and left[2] > 0.95


def test_in_the_embedded_checkpoint_sums_and_differences_are_lost_with_nobody_in_the_experts_place_too(tiny):
    left = all_sums(tiny, in_layer(tiny, 2, silenced(7))).right.float().mean((1, 2))
    assert left[0] < 0.3 and left[1] < 0.3 and left[2] > 0.95


@pytest.mark.proof
def test_none_of_the_other_experts_of_that_layer_is_needed_for_sums(tiny):
    others = [all_sums(tiny, in_layer(tiny, 2, without(one))).right.float().mean() for one in range(7)]
    assert min(others) > 0.9


def test_what_is_said_is_the_likeliest_token_behind_the_equals_sign(tiny):
    found = all_sums(tiny)
    chat = [{"role": "user", "content": "(3 - 5) * 1 % 10"}]
    ids = tiny.tokenizer.encode(f"{tiny.tokenizer.render_chat(chat)}<think>\n3 - 5 = ")
    with trace() as t:
        logits = forward(tiny.weights, torch.tensor([ids]), tiny.config)
    assert found.said[1, 3, 4] == logits[0, -1].argmax()  # of minus, 3, 5
    assert found.first[:, 1, 3, 4].tolist() == [int(call.output.experts[-1, 0]) for call in t["moe_route"]]
    assert bool(found.right[1, 3, 4]) == (tiny.tokenizer.decode([int(found.said[1, 3, 4])]) == "8")


def test_at_results_the_expert_that_adds_and_subtracts_raises_the_right_digit_and_no_other_expert_does(tiny):
    raised = raised_digits(tiny, 2)
    assert raised.by_expert.shape == (8, 3, 10, 9) and raised.right[:2, 3, 4].tolist() == [8, 8]  # 3 + 5, 3 - 5
    *others, adding = (raised.by_expert == raised.right)[:, :2].float().mean((1, 2, 3)).tolist()
    assert adding > 0.95 and max(others) < 0.25  # chance: 0.1
    assert (raised.before == raised.right)[:2].float().mean() < 0.25


def test_what_an_expert_raises_is_the_difference_that_its_answer_makes_to_the_logits(tiny):
    raised, weights = raised_digits(tiny, 2), tiny.weights
    chat = [{"role": "user", "content": "(3 - 5) * 1 % 10"}]
    ids = tiny.tokenizer.encode(f"{tiny.tokenizer.render_chat(chat)}<think>\n3 - 5 = ")
    digits = [tiny.tokenizer.encode(str(digit))[0] for digit in range(10)]
    with trace() as t:
        forward(weights, torch.tensor([ids]), tiny.config)
    x, its = t["moe_route"][2].inputs["x"][-1:], weights.layers[2]
    for expert in range(8):
        gate, up = its.gate_up_proj[expert].chunk(2)
        answer = expert_ffn(x, gate, up, its.down_proj[expert])[0].float() * weights.norm.float()
        logits = answer @ weights.embed_tokens.float().T[:, digits]
        assert raised.by_expert[expert, 1, 3, 4] == logits.argmax()
