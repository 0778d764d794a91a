"""Experts that are passed over, and experts that are read through the head."""

import pytest
import torch
from helpers import checkpoint, unchecked

from qwen3_scratch import load_checkpoint
from qwen3_scratch.inside.experts import (
    FORCED,
    answers,
    forced,
    helped_words,
    losses_with,
    random_experts,
    through_the_lens,
)
from qwen3_scratch.model import expert_ffn, forward, moe_route
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import answer_losses, padded_chats, questions
from qwen3_scratch.tracing import trace


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def chats(tiny):
    return padded_chats(tiny, [example for domain in DOMAINS for example in questions(domain, 3)])


@pytest.mark.parametrize("way", FORCED)
def test_one_layer_alone_is_sent_elsewhere(way):
    ck = checkpoint(num_experts=4, num_experts_per_tok=2)
    x, steps = torch.randn(30, ck.config.hidden_size), forced(ck, 0, way)
    meant, other = (layer.router for layer in ck.weights.layers)
    own, now = moe_route(x, meant, 2, True), steps.route(x, meant, 2, True)
    assert all(map(torch.equal, steps.route(x, other, 2, True), moe_route(x, other, 2, True)))
    if way == "random experts":
        assert torch.equal(now.weights, own.weights) and not torch.equal(now.experts, own.experts)
        assert (now.experts[:, 0] != now.experts[:, 1]).all()
        assert torch.equal(torch.cat((own.experts, now.experts), 1).sort().values, torch.arange(4).expand(30, 4))
    elif way == "the next in line":
        assert torch.equal(now.experts[:, 0], own.experts[:, 1]) and (now.experts != own.experts[:, :1]).all()
    elif way == "weights exchanged":
        assert torch.equal(now.experts, own.experts) and torch.equal(now.weights, own.weights[:, [1, 0]])
    else:
        assert torch.equal(now.experts, own.experts)
        torch.testing.assert_close(now.weights, torch.full_like(now.weights, 0.5))


def test_random_experts_change_where_tokens_go_and_not_what_they_weigh():
    ck = checkpoint(num_experts=4, num_experts_per_tok=2)
    x, router = torch.randn(300, ck.config.hidden_size), ck.weights.layers[0].router
    own, now = moe_route(x, router, 2, True), random_experts(0).route(x, router, 2, True)
    assert torch.equal(now.weights, own.weights) and torch.equal(now.logits, own.logits)
    assert (now.experts[:, 0] != now.experts[:, 1]).all()
    # each of 4 with the chance 1/4: of 600, 150, give or take 11
    assert now.experts.flatten().bincount(minlength=4).min() > 100
    assert torch.equal(random_experts(0).route(x, router, 2, True).experts, now.experts)
    assert not torch.equal(random_experts(1).route(x, router, 2, True).experts, now.experts)


def test_losses_with_the_trained_choice_are_the_checkpoints_own_and_fewer_experts_cost(tiny, chats):
    own = answer_losses(tiny.weights, tiny.config, chats)
    assert torch.equal(losses_with(tiny, [chats], 2, True), own)
    assert torch.equal(losses_with(tiny, [chats, chats], 2, True), torch.cat((own, own)))
    assert losses_with(tiny, [chats], 1, True).mean() > own.mean()
    assert not torch.allclose(losses_with(tiny, [chats], 1, False), losses_with(tiny, [chats], 1, True))


def test_all_answers_hold_those_of_each_expert():
    ck = checkpoint(num_experts=4)
    layer, x = ck.weights.layers[0], torch.randn(6, ck.config.hidden_size)
    found = answers(layer, x)
    for number in range(4):
        assert torch.equal(found[number], expert_ffn(x, *layer.gate_up_proj[number].chunk(2), layer.down_proj[number]))


def test_in_the_embedded_checkpoint_who_answers_counts_for_more_than_with_which_weight(tiny, chats):
    whole = answer_losses(tiny.weights, tiny.config, chats).mean()
    rise = {way: answer_losses(tiny.weights, tiny.config, chats, forced(tiny, 0, way)).mean() - whole for way in FORCED}
    assert rise["random experts"] > 0.05 and rise["the next in line"] > 0.05
    assert rise["equal weights"].abs() < 0.02


def test_in_the_embedded_checkpoint_the_first_choice_raises_the_next_token_more_than_those_not_chosen(tiny, chats):
    with unchecked():
        said = through_the_lens(tiny, chats, range(4))
    assert said.lift.shape == (4, int(chats.written.sum()), 8) and len(said.chat) == said.lift.shape[1]
    first = said.lift.gather(2, said.experts[..., :1]).mean((1, 2))
    others = (said.lift * torch.ones_like(said.lift).scatter(2, said.experts, 0.0)).sum((1, 2)) / (6 * len(said.chat))
    assert (first > others + 0.2).all()


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


def test_the_words_that_an_expert_helps_to_say_are_among_those_written_and_raised(tiny, chats):
    said = through_the_lens(tiny, chats, [3])
    found = helped_words(said, 0, most=3)
    assert len(found) == 8 and all(len(words) <= 3 and {*words} <= {*said.words.tolist()} for words in found)
    for expert, words in enumerate(found):
        lifts = [float(said.helped[0, expert, (said.words == word).nonzero()[0, 0]]) for word in words]
        assert lifts == sorted(lifts, reverse=True) and all(lift > 0 for lift in lifts)
