"""Experts tuned apart: the script runs, changes feed-forwards and routers alone, and its record says what 14 says."""

import json

import pytest
import torch
from helpers import TINY

from qwen3_scratch import Error
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.learning.upcycling import mix, upcycle
from qwen3_scratch.plots.canvas import half_interval
from qwen3_scratch.tiny.branches import (
    BRANCHES,
    DOMAINS,
    Setup,
    answered,
    by_right_choices,
    dense_start,
    exam,
    read_branches,
    run,
    train_routers,
    tuned,
)
from qwen3_scratch.tiny.evaluate import answer_losses

SHORT = Setup(seeds=2, steps=2, router_steps=1, chats=2, asked=3)


@pytest.fixture(scope="module")
def start():
    return dense_start()


def test_the_script_in_its_short_form_writes_a_record_that_can_be_read(tmp_path):
    run(tmp_path / "training" / "branches.json", SHORT)
    found = read_branches(tmp_path / "training" / "branches.json")
    assert found.setup == SHORT and found.domains == list(DOMAINS)
    assert found.experts.shape == (2, 2, 3) and found.dense.shape == found.both.shape == (2, 3)
    assert found.random.shape == found.trained.shape == (2, 2) and found.to_own.shape == (2, 2, 4, 2)
    assert found.by_right.shape == (2, 2, 2, 5, 2)  # zero to four right choices; tokens and nats
    assert found.all_answer.shape == (2, 2) and not torch.equal(found.all_answer, found.trained)
    assert not torch.equal(found.random, found.trained) and not torch.equal(found.random[0], found.random[1])
    assert not torch.equal(found.experts[0], found.experts[1])


def test_tuning_changes_feed_forwards_alone_and_leaves_the_start_as_it_was(start):
    weights, config, tokenizer = start
    before = [tensor.clone() for tensor in tensor_tree(weights)]
    after = tuned(weights, config, tokenizer, DOMAINS[:1], 1, SHORT)
    assert all(torch.equal(old, new) for old, new in zip(before, tensor_tree(weights), strict=True))
    changed = {
        name
        for old, new in zip(weights.layers, after.layers, strict=True)
        for name, one, two in zip(old._fields, old, new, strict=True)
        if one is not None and not torch.equal(one, two)
    }
    assert changed == {"gate_up_proj", "down_proj"}
    assert torch.equal(weights.embed_tokens, after.embed_tokens)


def test_training_routers_changes_routers_alone(start):
    weights, config, tokenizer = start
    newborn, both = upcycle(weights, config, 2, top_k=2)
    other = tuned(weights, config, tokenizer, DOMAINS[:1], 1, SHORT)  # of like experts no router learns
    mixture = mix(newborn, [weights, other])
    trained = train_routers(mixture, both, tokenizer, SHORT)
    for old, new in zip(mixture.layers, trained.layers, strict=True):
        assert not torch.equal(old.router, new.router)
        assert torch.equal(old.gate_up_proj, new.gate_up_proj) and torch.equal(old.q_proj, new.q_proj)


def test_right_choices_are_counted_where_tokens_of_answers_are_said_and_their_nats_are_the_loss(start):
    weights, config, tokenizer = start
    exams = [exam(tokenizer, domain, 3) for domain in DOMAINS]
    mixture, both = upcycle(weights, config, 2, seed=1)
    counts = by_right_choices(mixture, both, exams)
    assert counts[..., 0].sum(1).tolist() == [int(chats.written.sum()) for chats in exams]
    for found, chats in zip(counts, exams, strict=True):
        rows = zip(answer_losses(mixture, both, chats), chats.written.sum(1), strict=True)
        torch.testing.assert_close(found[:, 1].sum(), sum(mean * count for mean, count in rows))
    all_to_one = mixture._replace(
        layers=tuple(layer._replace(router=torch.zeros_like(layer.router)) for layer in mixture.layers)
    )  # of equals the first is chosen, which is right for the first domain alone
    tokens = by_right_choices(all_to_one, both, exams)[..., 0]
    assert tokens[0, :-1].sum() == tokens[1, 1:].sum() == 0


def test_only_the_tokens_of_answers_are_targets(start):
    *_, tokenizer = start
    batch = answered(tokenizer, ("facts",), 3, 0)
    for ids, weights in zip(batch.token_ids, batch.loss_weights, strict=True):
        text = tokenizer.decode(ids[weights > 0].tolist())
        assert text.endswith("<|im_end|>\n") and "<|im_start|>" not in text


@pytest.mark.parametrize("text", [None, "", "{}", '{"dense": 1}'])
def test_what_is_no_record_is_said_to_be_none(tmp_path, text):
    path = tmp_path / "branches.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Error, match=r"branches\.json: holds no experts tuned apart .* make it with python -m"):
        read_branches(path)


# ---- what chapter 14 says of the kept record -------------------------------------------------------


@pytest.fixture(scope="module")
def kept():
    return read_branches(TINY / BRANCHES)


def test_the_kept_record_is_of_the_script_as_it_stands(kept):
    assert kept.setup == Setup() and kept.domains == list(DOMAINS)
    assert json.loads((TINY / BRANCHES).read_text())["domains"] == list(DOMAINS)


def test_each_copy_gains_on_its_own_domain_and_loses_on_the_other_with_intervals_apart(kept):
    for own in (0, 1):
        for domain, sign in ((own, -1), (1 - own, 1)):
            change = sign * (kept.experts[own, domain] - kept.dense[domain])[None]  # paired, chat by chat
            assert change.mean() > half_interval(change)[0]


def test_random_routers_lose_less_than_the_wrong_expert_and_more_than_the_right_one(kept):
    right, wrong = kept.experts.mean(-1).diagonal(), kept.experts.mean(-1).flip(0).diagonal()
    assert (kept.random < 0.5 * wrong).all() and (kept.random > kept.trained).all() and (kept.trained > right).all()


def test_trained_routers_win_back_more_than_half_of_what_random_ones_lose_to_the_right_expert(kept):
    right = kept.experts.mean(-1).diagonal()
    back = (kept.random - kept.trained).mean(0) / (kept.random.mean(0) - right)
    assert (back > 0.5).all()


def test_read_as_they_were_trained_with_both_answering_they_lose_less_than_half_of_what_choosing_one_loses(kept):
    right = kept.experts.mean(-1).diagonal()
    apart = (kept.all_answer - kept.trained).T  # [domains, seeds]
    assert (apart.mean(1) < -half_interval(apart, 2.36)).all()  # Student's factor for eight
    assert ((kept.all_answer.mean(0) - right) < 0.5 * (kept.trained.mean(0) - right)).all()


def test_their_tokens_lean_to_their_expert_in_every_layer_and_do_not_divide(kept):
    lean = (kept.to_own.sum(-1) - 1)[1].T  # [layers, seeds]
    half = half_interval(lean, 2.36)  # Student's factor for eight
    assert (lean.mean(1) > half).all() and (lean.mean(1) < 0.5).all()


def test_a_dense_model_tuned_on_both_is_not_told_from_the_right_experts(kept):
    for domain in (0, 1):
        apart = (kept.both[domain] - kept.experts[domain, domain])[None]
        assert apart.mean().abs() <= half_interval(apart)[0]


def test_training_halves_the_tokens_that_most_layers_send_wrongly_and_what_one_right_choice_costs(kept):
    tokens, nats = kept.by_right.sum((1, 2)).unbind(-1)  # [random and trained, 0 to 4 right choices]
    mean = nats / tokens
    assert (mean[0].diff() < 0).all() and nats[0, :2].sum() > 0.5 * nats[0].sum()  # few right choices cost most
    wrong = tokens[:, :2].sum(1) / tokens.sum(1)  # at most one of four is right
    assert 0.4 < wrong[1] / wrong[0] < 0.6 and mean[1, 1] < 0.5 * mean[0, 1]
