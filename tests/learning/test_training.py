"""A training run: what a step does, and that a run which was stopped is bit for bit the run that never was."""

import math
import os
import signal
import subprocess
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from helpers import process, tokenizer
from reference import random_tokens, small_config
from torch import Tensor

from qwen3_scratch import Config, Error, forward, load_balancing_loss
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.learning.training import (
    Batch,
    Moment,
    Plan,
    kept_for_backward,
    losses,
    make_optimizer,
    resume,
    run_of,
    save_moment,
    start,
    train,
)
from qwen3_scratch.learning.training import train_step as one_step
from qwen3_scratch.tiny import corpus
from qwen3_scratch.tiny.recipe import SEED, make_batch, prompt_and_target

CONFIG = small_config(num_hidden_layers=2, num_experts=4, initializer_range=0.1)
PLAN = Plan(steps=8, learning_rate=1e-2, warmup=2, save_every=3)
LENGTH = 12


def chats(seed: int, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Token ids and loss weights of chats of different lengths that together fill a row."""
    ids = random_tokens(CONFIG, count * LENGTH, seed=seed)
    counts = torch.rand(count * LENGTH, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    cuts = [0, *sorted({5 + seed % 3, LENGTH + 4}), count * LENGTH][: count + 1]
    found = [(ids[a:b], counts[a:b].clone()) for a, b in pairwise(cuts)]
    for _, loss_weights in found:
        loss_weights[0] = 0.0  # before the first token of a chat there is nothing to tell it from
    return found


def packed(rows: list[list[tuple[Tensor, Tensor]]], length: int = 3 * LENGTH) -> Batch:
    batch = Batch(*(torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3)), torch.zeros(len(rows), length))
    batch.chat[:] = -1
    for number, row in enumerate(rows):
        place = 0
        for index, (ids, counts) in enumerate(row):
            here = slice(place, place + len(ids))
            batch.token_ids[number, here], batch.loss_weights[number, here] = ids, counts
            batch.positions[number, here], batch.chat[number, here] = torch.arange(len(ids)), index
            place += len(ids)
    return batch


def batch_of(step: int) -> Batch:
    return packed([chats(2 * step), chats(2 * step + 1)])


def begun(folder: Path, last: int, seed: int = 0) -> bytes:
    """What a run that Ctrl-C meets after its step number `last`, counted from 0, has saved."""

    def batches(step: int) -> Batch:
        if step > last:
            raise KeyboardInterrupt
        return batch_of(step)

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, PLAN, batches, folder, seed=seed)
    return (folder / "moment.safetensors").read_bytes()


def bits(moment: Moment) -> list[Tensor]:
    """Weights and all that the optimiser remembers."""
    state = [moment.optimizer.state[tensor] for tensor in tensor_tree(moment.weights)]
    return [*tensor_tree(moment.weights), *(each[name] for each in state for name in sorted(each))]


def assert_same_bits(one: Moment, other: Moment) -> None:
    assert one.step == other.step and one.history == other.history
    assert all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


# ---- one step -----------------------------------------------------------------------------------


def test_a_step_lowers_the_loss_on_its_batch_and_the_next_ones_lower_it_further():
    moment, plan = start(CONFIG, PLAN, 0), PLAN._replace(steps=1000)
    found = [one_step(moment.weights, moment.optimizer, batch_of(0), CONFIG, plan, step) for step in range(12)]
    totals = [float(each.total) for each in found]
    assert totals == sorted(totals, reverse=True) and totals[-1] < 0.9 * totals[0]
    assert abs(float(found[0].cross_entropy) - math.log(CONFIG.vocab_size)) < 0.5, "at first it knows nothing"
    assert not any(value.requires_grad for each in found for value in each)
    assert all(tensor.grad is None for tensor in tensor_tree(moment.weights))


def test_the_loss_of_packed_chats_is_that_of_each_chat_alone():
    """So no chat sees another: the same tokens, in rows of their own, give the same cross-entropy and gradients."""
    weights, row = start(CONFIG, PLAN, 0).weights, chats(4)
    together = losses(weights, packed([row]), CONFIG, 0.0)
    alone = losses(weights, packed([[chat] for chat in row]), CONFIG, 0.0)
    torch.testing.assert_close(together.cross_entropy, alone.cross_entropy)
    grads = [torch.autograd.grad(found.cross_entropy, weights.embed_tokens)[0] for found in (together, alone)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(together.balance, alone.balance)  # padding is no token that is routed


def test_the_cross_entropy_is_the_weighted_mean_over_targets_of_what_forward_predicts():
    weights, row = start(CONFIG, PLAN, 0).weights, chats(1)
    found, summed, weight = losses(weights, packed([row]), CONFIG, 0.5), 0.0, 0.0
    for ids, counts in row:
        predicted = forward(weights, ids[None], CONFIG)[0].log_softmax(-1)
        summed -= (predicted[:-1].gather(1, ids[1:, None])[:, 0] * counts[1:]).sum()
        weight += counts[1:].sum()
    torch.testing.assert_close(found.cross_entropy, summed / weight)
    torch.testing.assert_close(found.total, found.cross_entropy + 0.5 * found.balance)


def test_the_balancing_loss_is_least_where_the_experts_are_used_evenly():
    experts, top_k = 4, 2
    even = 5 * torch.eye(experts).repeat(10, 1) + 4 * torch.eye(experts).roll(1, 0).repeat(10, 1)
    assert float(load_balancing_loss([even], experts, top_k)) == pytest.approx(top_k)
    one_for_all = torch.zeros(40, experts)
    one_for_all[:, 0] = 50.0
    assert float(load_balancing_loss([one_for_all], experts, top_k)) == pytest.approx(experts)
    for seed in range(5):
        drawn = torch.randn(400, experts, generator=torch.Generator().manual_seed(seed))
        assert float(load_balancing_loss([drawn + torch.tensor([1.0, 0, 0, 0])], experts, top_k)) > top_k
    weights = start(CONFIG, PLAN, 0).weights
    assert losses(weights, batch_of(0), CONFIG, 0.01).balance.item() > CONFIG.num_experts_per_tok * 0.95


def test_what_is_kept_for_the_backward_pass_grows_with_the_rows_and_leaves_the_weights_out():
    weights = start(CONFIG, PLAN, seed=0).weights
    one, two, four = (kept_for_backward(weights, packed([chats(0)] * rows), CONFIG) for rows in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)  # a place that is freed may be counted for two
    assert two - one > 0.98 * one  # of what does not grow, as weights do not, hardly anything is counted


def test_norms_are_not_drawn_towards_zero_and_matrices_are():
    optimizer = make_optimizer(start(CONFIG, PLAN, 0).weights, PLAN._replace(weight_decay=0.3))
    decay = {tensor.ndim > 1: group["weight_decay"] for group in optimizer.param_groups for tensor in group["params"]}
    assert decay == {True: 0.3, False: 0.0}


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    plan = Plan(steps=1000, learning_rate=0.5, warmup=100, decay=0.3)
    rates = [plan.rate(step) for step in range(1000)]
    assert rates[:3] == pytest.approx([0.005, 0.010, 0.015]) and rates[98] < 0.5
    assert set(rates[99:700]) == {0.5}
    assert rates[850] == pytest.approx(0.25) and rates[999] == pytest.approx(0.5 / 300)
    assert rates[:100] == sorted(rates[:100]) and rates[700:] == sorted(rates[700:], reverse=True)
    assert Plan(steps=9, learning_rate=0.5, warmup=0).rate(0) == 0.5
    assert all(Plan(steps=steps).rate(step) > 0 for steps in (1, 2, 7) for step in range(steps))


# ---- stopping and resuming ----------------------------------------------------------------------


def test_a_resumed_run_is_bit_for_bit_the_run_that_was_never_stopped(tmp_path):
    whole = train(CONFIG, PLAN, batch_of, tmp_path / "whole", seed=3)
    for last in (3, 4, 6):  # in the middle between two moments, again before the next, and after it
        begun(tmp_path / "parts", last, seed=3)
    assert resume(CONFIG, PLAN, tmp_path / "parts", seed=3).step == 6
    assert_same_bits(train(CONFIG, PLAN, batch_of, tmp_path / "parts", seed=3), whole)
    assert_same_bits(resume(CONFIG, PLAN, tmp_path / "parts", seed=3), whole)
    again = train(CONFIG, PLAN, lambda step: pytest.fail("trained on"), tmp_path / "parts", seed=3)
    assert_same_bits(again, whole)
    other = train(CONFIG, PLAN, batch_of, tmp_path / "other", seed=4)
    assert not torch.equal(other.weights.embed_tokens, whole.weights.embed_tokens)


KILLED = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, "tests/support"]
from test_training import CONFIG, PLAN, batch_of, train
def batches(step):
    if step == PLAN.save_every:
        print("has saved", flush=True)
    return batch_of(step)

train(CONFIG, PLAN._replace(steps=400), batches, Path(sys.argv[1]), seed=3)
"""


def test_a_run_that_is_killed_resumes_to_the_same_weights(tmp_path):
    running = process("-c", KILLED, str(tmp_path), env={"JAXTYPING_DISABLE": "1"}, stdout=subprocess.PIPE)
    with running.stdout as said:
        assert said.readline() == "has saved\n"
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    plan = PLAN._replace(steps=400)
    reached = resume(CONFIG, plan, tmp_path, seed=3)
    assert reached.step % PLAN.save_every == 0 and 0 < reached.step < 400
    unbroken = start(CONFIG, plan, 3)
    for step in range(reached.step):
        one_step(unbroken.weights, unbroken.optimizer, batch_of(step), CONFIG, plan, step)
    assert all(torch.equal(a, b) for a, b in zip(bits(reached), bits(unbroken), strict=True))


def test_a_moment_that_could_not_be_written_whole_leaves_the_one_before_it(tmp_path, monkeypatch):
    before = begun(tmp_path, 3)
    moment = resume(CONFIG, PLAN, tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("the disk is full"))
    with pytest.raises(pytest.fail.Exception):
        save_moment(moment, tmp_path, run_of(CONFIG, PLAN, 0))
    assert (tmp_path / "moment.safetensors").read_bytes() == before


OTHERS = [{"hidden_size": 16}, {"vocab_size": 60}, {"num_experts": 8}, {"head_dim": 8}]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_a_moment_of_another_model_is_refused(changes, tmp_path):
    begun(tmp_path, 3)
    other = Config(**{**vars(CONFIG), **changes})
    with pytest.raises(Error, match=r"moment\.safetensors: is of another config, expected .*: remove"):
        train(other, PLAN, batch_of, tmp_path)


CHANGES = dict(zip((*Plan._fields, "seed"), (9, 2e-2, 3, 0.2, 0.1, 0.02, 2.0, 4, 1), strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_only_with_the_plan_and_the_seed_that_it_was_begun_with(tmp_path, name):
    """Another rate of learning or other random weights from the middle on would be no run that anyone could repeat."""
    before, value = begun(tmp_path, 3), CHANGES[name]
    plan, seed = (PLAN, value) if name == "seed" else (PLAN._replace(**{name: value}), 0)
    was = 0 if name == "seed" else getattr(PLAN, name)
    with pytest.raises(Error) as caught:
        train(CONFIG, plan, lambda step: pytest.fail("trained on"), tmp_path, seed=seed)
    advice = "ask for the same again, or remove the folder to start anew"
    path = tmp_path / "moment.safetensors"
    assert str(caught.value) == f"{path}: is of a run with {name}={was}, expected {name}={value}: {advice}"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", Plan._fields)
@pytest.mark.parametrize("value", ["many", None, -1, math.nan, math.inf, True])
def test_a_plan_of_another_kind_or_range_is_refused_before_anything_is_trained(tmp_path, name, value):
    with pytest.raises(Error, match=rf"^train: plan\.{name} is .*, expected .*: mend the"):
        train(CONFIG, PLAN._replace(**{name: value}), lambda step: pytest.fail("trained"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["steps", "save_every"])
def test_a_plan_of_no_steps_is_refused_and_one_without_warmup_is_none(tmp_path, name):
    with pytest.raises(Error, match=rf"plan\.{name} is 0, expected a whole number of at least 1"):
        train(CONFIG, PLAN._replace(**{name: 0}), batch_of, tmp_path)
    with pytest.raises(Error, match=r"plan\.decay is 1\.5, expected 0 to 1, a share"):
        train(CONFIG, PLAN._replace(decay=1.5), batch_of, tmp_path)
    assert train(CONFIG, Plan(steps=1, warmup=0), batch_of, tmp_path).step == 1


def test_a_loss_that_is_no_number_ends_the_run_and_spoils_no_saved_moment(tmp_path):
    before = begun(tmp_path, 3)

    def poisoned(step: int) -> Batch:
        batch = batch_of(step)
        return batch._replace(loss_weights=batch.loss_weights * (math.nan if step == 4 else 1.0))

    with pytest.raises(Error, match=r"^training: the loss is nan at step 4, expected a number: lower"):
        train(CONFIG, PLAN, poisoned, tmp_path)
    assert (tmp_path / "moment.safetensors").read_bytes() == before


def test_measurements_join_the_history(tmp_path):
    plan = PLAN._replace(steps=20, save_every=10)
    found = train(CONFIG, plan, batch_of, tmp_path, measure=lambda weights, step: {"score": step / 2})
    assert [(entry["step"], entry["score"]) for entry in found.history] == [(10, 5.0), (20, 10.0)]
    assert all(set(entry) == {"step", "loss", "balance", "score"} for entry in found.history)


# ---- the batches of the embedded checkpoint -----------------------------------------------------


def test_the_batch_of_a_step_is_the_same_whenever_it_is_asked_for_and_another_for_each_step():
    small = dict(rows=3, row=256)
    one, again, next_one = (make_batch(tokenizer(), step, **small) for step in (7, 7, 8))
    assert all(map(torch.equal, one, again)) and not torch.equal(one.token_ids, next_one.token_ids)
    other = make_batch(tokenizer(), 7, seed=SEED + 1, **small)
    assert not torch.equal(one.token_ids, other.token_ids)


@pytest.mark.parametrize("step", [0, 5000])
def test_batches_hold_whole_chats_whose_answers_carry_the_loss(step):
    batch = make_batch(tokenizer(), step, rows=4)
    start_of_turn, padding = tokenizer().token_id("<|im_start|>"), batch.chat < 0
    assert (~padding).float().mean() > 0.8, "most of a row is filled"
    assert (batch.loss_weights[padding] == 0).all()
    for ids, positions, chat, counts in zip(*batch, strict=True):
        for number in range(int(chat.max()) + 1):
            here = (chat == number).nonzero()[:, 0]
            assert here.tolist() == list(range(here[0], here[-1] + 1))
            assert positions[here].tolist() == list(range(len(here)))
            assert ids[here[0]] == start_of_turn and counts[here[0]] == 0
            text, answer = tokenizer().decode(ids[here].tolist()), (counts[here] == 1).nonzero()[:, 0]
            assert text.endswith("<|im_end|>\n") and answer.tolist() == list(range(answer[0], len(here)))
            assert tokenizer().decode(ids[here[: answer[0]]].tolist()).endswith(("assistant\n", "</think>\n\n"))
    assert 0 < (batch.loss_weights[(batch.loss_weights > 0) & (batch.loss_weights < 1)]).mean() < 0.2


def test_what_generating_writes_after_the_prompt_is_what_training_asks_for():
    """Tokens at the seam must be cut alike, or no prompt would ever match what was trained."""
    for example in islice(corpus.examples(1, domains=corpus.LESSONS), 60):
        for thinking in (True, False):
            prompt, target = prompt_and_target(tokenizer(), example, thinking)
            assert tokenizer().encode(tokenizer().decode([*prompt, *target])) == [*prompt, *target]
