"""The routers' trial: what all ways have in common, what each changes, and the record that notebook A4 reads."""

import json

import pytest
import torch
from helpers import finished, unchecked
from tiers import only

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.hub.find import embedded_folder
from qwen3_scratch.learning.training import losses
from qwen3_scratch.model import Ops, forward, moe_route
from qwen3_scratch.plots.canvas import half_interval
from qwen3_scratch.tiny import corpus, router_trials
from qwen3_scratch.tiny.router_trials import (
    BIAS,
    CAPACITY,
    FIRST,
    LOSS,
    NOISE,
    NOTHING,
    PLAN,
    RECORD,
    SEEDS,
    SHARED,
    SOFTMAX_BIAS,
    WAYS,
    State,
    begun,
    counted,
    look,
    looks,
    make,
    make_trial,
    noting,
    ops_of,
    read_trials,
    reading_ops,
    settings_of,
)


@pytest.fixture(scope="module")
def trial():
    return make_trial(load_checkpoint("tiny"), PLAN._replace(steps=2), each=1)


@pytest.fixture(scope="module")
def record():
    return read_trials(embedded_folder("tiny") / RECORD)


def state_of(config):
    return State((torch.zeros(config.num_experts),) * config.num_hidden_layers, torch.zeros_like)


# ---- what is compared --------------------------------------------------------------------------


def test_all_ways_begin_with_the_same_numbers_and_pass_each_token_through_as_many(trial):
    plain, config = begun(LOSS, trial.config, trial.plan, 3)
    for name in WAYS:
        moment, own = begun(name, trial.config, trial.plan, 3)
        for one, other in zip(plain.weights.layers, moment.weights.layers, strict=True):
            same = one._replace(router=other.router)
            assert all(map(torch.equal, tensor_tree(same), tensor_tree(other)))
            rows = min(len(one.router), len(other.router))
            assert torch.equal(one.router[:rows], other.router[:rows]) and not other.router[len(one.router) :].any()
        assert own.num_experts_per_tok + (name == SHARED) == config.num_experts_per_tok
        assert all(tensor.is_leaf and tensor.requires_grad for tensor in tensor_tree(moment.weights))


def test_at_first_every_way_that_chooses_by_softmax_among_all_says_the_same(trial):
    token_ids = trial.batch_of(0, 0).token_ids[:2]
    said = {}
    for name in WAYS:
        moment, config = begun(name, trial.config, trial.plan, 0)
        with torch.no_grad():
            said[name] = forward(moment.weights, token_ids, config, ops=reading_ops(name, state_of(config)))
    for name in WAYS:
        assert torch.equal(said[name], said[LOSS]) == (name not in (BIAS, SHARED)), name


def test_in_training_noise_and_capacity_are_there_and_in_reading_they_are_not(trial):
    batch = trial.batch_of(0, 0)
    for name, changes in ((NOISE, True), (CAPACITY, True), (LOSS, False)):
        moment, config = begun(name, trial.config, trial.plan, 0)
        state = state_of(config)._replace(normal=torch.ones_like)
        found = []
        for steps in (ops_of(name, state), reading_ops(name, state), Ops()):
            routes = []
            if steps != Ops() or name != NOISE:  # the plain router does not know the rows of the noise
                losses(moment.weights, batch, config, 0.0, noting(steps, routes))
                found.append(torch.cat([route.logits if name == NOISE else route.weights for route in routes]))
        assert torch.equal(found[0], found[1]) != changes, name


def test_batches_hang_on_seed_and_step_alone_and_questions_are_held_out(trial):
    again = make_trial(load_checkpoint("tiny"), PLAN, each=1)
    assert torch.equal(trial.batch_of(1, 5).token_ids, again.batch_of(1, 5).token_ids)
    assert not torch.equal(trial.batch_of(1, 5).token_ids, trial.batch_of(2, 5).token_ids)
    assert len(trial.asked) == len(corpus.DOMAINS)


def test_a_look_counts_the_choices_of_all_tokens_but_padding(trial):
    moment, config = begun(LOSS, trial.config, trial.plan, 0)
    loss, shares = look(moment.weights, config, Ops, trial.asked)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    counts = torch.zeros(2, config.num_experts)
    for chats in trial.asked:
        for row, keep in zip(chats.token_ids, chats.keep, strict=True):
            routes = []
            with torch.no_grad():
                forward(moment.weights, row[keep][None], config, ops=noting(Ops(), routes))
            counts += counted(routes, torch.ones(int(keep.sum()), dtype=torch.bool))
    torch.testing.assert_close(shares, counts / counts.sum(-1, keepdim=True), atol=1e-3, rtol=0)
    assert abs(loss - torch.tensor(config.vocab_size).log().item()) < 1, "at first it knows nothing"


def test_only_the_ways_that_say_so_have_the_balancing_loss_and_only_those_of_a_bias_move_one(trial, monkeypatch):
    weights, moved = {}, []

    def noted(*args):
        weights[name] = args[4].balance_weight
        return train_step(*args)

    def move(bias, counts, speed):
        moved.append(name)
        return bias

    train_step = router_trials.train_step
    monkeypatch.setattr(router_trials, "train_step", noted)
    for name in WAYS:
        assert [seen["step"] for seen in looks(name, trial, 0, move=move)] == [1, 2]
    assert {name for name, weight in weights.items() if weight} == {"balancing loss", CAPACITY, SHARED}
    assert moved == [BIAS] * 4 + [SOFTMAX_BIAS] * 4, "two layers, two steps"


def test_the_choices_of_training_are_counted_anew_from_look_to_look(trial):
    """By a route that asks expert 0 alone in the first step and expert 1 alone in the second."""
    calls = []

    def route(x, *rest):
        calls.append(len(x))
        found = moe_route(x, *rest)
        return found._replace(experts=torch.full_like(found.experts, (len(calls) - 1) // 2))

    first, last = looks(LOSS, trial, 0, training=lambda name, state: Ops(route=route))
    assert [[layer.index(1.0) for layer in seen["trained"]] for seen in (first, last)] == [[0, 0], [1, 1]]


def test_steps_that_drop_choices_are_told(trial):
    def narrow(name, state):
        return Ops(route=lambda *args: moe_route(*args)._replace(weights=torch.zeros(len(args[0]), args[2])))

    *_, last = looks(LOSS, trial, 0, training=narrow)
    assert last["dropped"] == 1.0
    *_, last = looks(LOSS, trial, 0)
    assert last["dropped"] == 0.0


# ---- the record --------------------------------------------------------------------------------


def test_the_record_holds_every_way_with_every_seed_by_the_settings_of_the_script(record):
    assert record["settings"] == json.loads(json.dumps(settings_of(PLAN)))
    assert sorted((run["way"], run["seed"]) for run in record["runs"]) == sorted(
        (name, seed) for name in WAYS for seed in SEEDS
    )
    for run in record["runs"]:
        assert [seen["step"] for seen in run["looks"]] == [FIRST, PLAN.steps // 2, PLAN.steps]
        shares = torch.tensor(run["shares"])
        assert shares.shape == (2, 15 if run["way"] == SHARED else 16)
        torch.testing.assert_close(shares.sum(-1), torch.ones(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(shares.amin(-1), torch.tensor(run["looks"][-1]["least"]), atol=1e-5, rtol=0)
        assert (run["looks"][-1]["dropped"] > 0) == (run["way"] == CAPACITY)
        assert ("trained" in run) == (run["way"] == NOISE)


@pytest.mark.parametrize("name", only(WAYS, BIAS))
def test_the_record_is_what_the_script_finds(name, record):
    """To the first look. In 20 steps rounding moved no loss by 0.001; the shares of a choice that ties may."""
    with unchecked():
        found = next(looks(name, make_trial(load_checkpoint("tiny")), 1))
    (run,) = (run for run in record["runs"] if (run["way"], run["seed"]) == (name, 1))
    kept = run["looks"][0]
    assert found["step"] == kept["step"] == FIRST
    assert found["loss"] == pytest.approx(kept["loss"], abs=0.02)
    assert found["dropped"] == pytest.approx(kept["dropped"], abs=0.01)
    assert [min(layer) for layer in found["shares"]] == pytest.approx(kept["least"], abs=0.01)


def least(record, name):
    """Of each seed and look: the share of the least used expert, as times an even one."""
    runs = sorted((run for run in record["runs"] if run["way"] == name), key=lambda run: run["seed"])
    return torch.tensor([[min(seen["least"]) * len(run["shares"][0]) for seen in run["looks"]] for run in runs])


def test_in_the_record_a_bias_evens_the_use_under_either_gate_and_noise_does_not(record):
    for name in (LOSS, CAPACITY, BIAS, SOFTMAX_BIAS, SHARED):
        assert (least(record, name)[:, -1] > 0.5).all()
    assert (least(record, NOTHING)[:, -1] < 0.2).all() and (least(record, NOISE)[:, -1] < 0.02).all()


def test_in_the_record_noise_feeds_the_least_used_in_training_but_does_not_even_the_use_there_either(record):
    for run in (run for run in record["runs"] if run["way"] == NOISE):
        trained = torch.tensor(run["trained"])
        assert 16 * min(run["looks"][-1]["least"]) < 16 * trained.min() < 0.15
        torch.testing.assert_close(trained.sum(-1), torch.ones(2), atol=1e-4, rtol=0)


def test_in_the_record_the_spiral_of_the_beginning_goes_on_with_noise_alone(record):
    plain, noise = least(record, NOTHING), least(record, NOISE)
    assert (plain[:, -1] > plain[:, 0]).all() and (noise[:, -1] < noise[:, 1]).all()


def test_in_the_record_no_ways_loss_is_surely_another_than_that_of_the_balancing_loss(record):
    last = {(run["way"], run["seed"]): run["looks"][-1]["loss"] for run in record["runs"]}
    for name in set(WAYS) - {LOSS}:
        apart = torch.tensor([[last[name, seed] - last[LOSS, seed] for seed in SEEDS]])
        assert apart.mean().abs() < min(0.03, half_interval(apart, 4.30)[0])  # Student's factor for three


def test_a_script_that_was_stopped_goes_on_with_what_the_record_lacks(trial, tmp_path, monkeypatch, capsys):
    asked = []

    def quick(name, trial, seed):
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.append((name, seed))
        return iter([{"step": 2, "loss": 1.0, "dropped": 0.0, "shares": [[0.25, 0.75]], "trained": [[0.5, 0.5]]}])

    monkeypatch.setattr(router_trials, "looks", quick)
    path = tmp_path / "new" / "routers.json"
    with pytest.raises(KeyboardInterrupt):
        make(path, trial)
    assert len(read_trials(path)["runs"]) == 8
    asked.insert(0, None)  # so that it is not stopped again
    make(path, trial)
    assert [(run["way"], run["seed"]) for run in read_trials(path)["runs"]] == asked[1:]
    assert asked[1:] == [(name, seed) for seed in SEEDS for name in WAYS]
    assert f"{WAYS[0]}, seed 0: 1.000 nats" in capsys.readouterr().err
    with pytest.raises(Error, match=r"routers\.json: is of other settings, expected those of this run"):
        make(path, trial._replace(plan=PLAN))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        '{"runs": [{}], "settings": {}}',
        '{"runs": 3, "settings": {}}',
        '{"runs": [], "settings": 1}',
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "routers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Error, match=r"^[^\n]*routers\.json: holds no record of routers [^\n]*router_trials$"):
        read_trials(path)


def test_the_script_ends_in_one_sentence_where_it_cannot_write_or_go_on(tmp_path):
    path = tmp_path / "routers.json"
    path.write_text("{}")
    found = finished("-m", "qwen3_scratch.tiny.router_trials", str(path), "--steps", "1")
    assert found.code == 1 and found.out == ""
    assert found.err.startswith("error: ") and found.err.count("\n") == 1
