"""The runs with several weights of the balancing loss: paired by seed, resumed where they stopped, kept whole."""

import json

import pytest
import torch
from helpers import TINY, unchecked

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.learning.training import losses, start, train_step
from qwen3_scratch.tiny import balancing
from qwen3_scratch.tiny.balancing import (
    PLAN,
    RUNS,
    SEEDS,
    TOP_K,
    WEIGHTS,
    add_runs,
    measured,
    read_runs,
    settings_of,
)
from qwen3_scratch.tiny.recipe import PLAN as RECIPE
from qwen3_scratch.tiny.recipe import make_batch
from qwen3_scratch.tiny.records import small_config

SHORT = PLAN._replace(steps=2)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The script's short form: two weights, two seeds, two steps."""
    path = tmp_path_factory.mktemp("runs") / "training" / "balancing.json"
    with unchecked():
        add_runs(path, (0.0, 10.0), 2, SHORT)
    return path


def test_a_run_is_the_training_of_its_seed_with_its_weight(short):
    tokenizer = load_checkpoint("tiny").tokenizer
    config, found = small_config(tokenizer, TOP_K), read_runs(short)
    moment = start(config, SHORT, 1)
    for step in range(SHORT.steps):
        batch = make_batch(tokenizer, step, 1, balancing.ROWS, balancing.ROW)
        train_step(moment.weights, moment.optimizer, batch, config, SHORT._replace(balance_weight=10.0), step)
    fresh = make_batch(tokenizer, SHORT.steps, 2 + 1, balancing.FRESH_ROWS, balancing.ROW)
    nats, shares = measured(moment.weights, fresh, config)
    assert found.nats[1, 1].item() == pytest.approx(nats, rel=1e-3)  # what another order of adding moves in two steps
    torch.testing.assert_close(found.shares[1, 1], shares, atol=2e-3, rtol=0)
    assert found.weights == [0.0, 10.0] and found.nats.shape == (2, 2)
    assert not torch.equal(found.nats[0], found.nats[1]), "the weight makes a difference"


def test_what_is_measured_is_the_cross_entropy_and_the_share_of_each_expert(short):
    tokenizer = load_checkpoint("tiny").tokenizer
    config = small_config(tokenizer, TOP_K)
    weights, batch = start(config, SHORT, 0).weights, make_batch(tokenizer, 0, rows=2, row=64)
    nats, shares = measured(weights, batch, config)
    assert nats == pytest.approx(losses(weights, batch, config, 7.0).cross_entropy.item())
    assert shares.shape == (config.num_hidden_layers, config.num_experts)
    torch.testing.assert_close(shares.sum(-1), torch.ones(config.num_hidden_layers))


def test_runs_that_stand_there_are_kept_and_those_that_lack_are_added(short, tmp_path):
    whole = json.loads(short.read_text(encoding="utf-8"))
    path = tmp_path / "runs.json"
    marked = whole | {"runs": [whole["runs"][0] | {"nats": 99.0}, *whole["runs"][2:]]}
    path.write_text(json.dumps(marked), encoding="utf-8")
    with pytest.raises(Error, match=r"runs\.json: lacks runs .*, expected every seed with every weight"):
        read_runs(path)
    with unchecked():
        add_runs(path, (0.0, 10.0), 2, SHORT)
    found = read_runs(path)
    assert found.nats[0, 0] == 99 and found.nats.shape == (2, 2)
    assert found.nats[1, 0].item() == pytest.approx(read_runs(short).nats[1, 0].item(), rel=1e-3)


def test_runs_of_another_plan_and_files_of_something_else_are_refused_in_one_sentence(short, tmp_path):
    with pytest.raises(Error, match=r"^[^\n]*is of other settings, expected those of this run[^\n]*$"):
        add_runs(short, (0.0,), 1, SHORT._replace(steps=3))
    for content in (None, "something else", "{}", '{"settings": {}, "runs": [1]}'):
        path = tmp_path / "other.json"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(Error, match=r"^[^\n]*other\.json: holds no runs with balancing weights [^\n]*$"):
            read_runs(path)


def test_the_record_beside_the_checkpoint_is_of_this_script_and_whole():
    found = read_runs(TINY / RUNS)
    assert found.weights == list(WEIGHTS) and RECIPE.balance_weight in WEIGHTS
    assert found.nats.shape == (len(WEIGHTS), SEEDS)
    settings = settings_of(small_config(load_checkpoint("tiny").tokenizer, TOP_K), PLAN)
    assert found.settings == json.loads(json.dumps(settings))
    torch.testing.assert_close(found.shares.sum(-1), torch.ones(found.shares.shape[:-1]), atol=1e-3, rtol=0)


def test_what_chapter_15_says_of_the_record_is_so():
    """Without the loss 7 to 11 of 32 experts end idle, from 0.03 on none; only at 0.1 the interval leaves out 0."""
    found = read_runs(TINY / RUNS)
    idle = (found.shares < 0.1 / 16).sum((-2, -1))
    assert (idle[0].min(), idle[0].max()) == (7, 11)
    assert (idle[found.weights.index(0.03) :] == 0).all()
    apart = found.nats - found.nats[0]
    halves = 2.36 * apart.std(1) / SEEDS**0.5
    assert [weight for weight, away in zip(found.weights, apart.mean(1).abs() > halves, strict=True) if away] == [0.1]
    assert (apart[found.weights.index(0.1)] < 0).all() and apart[-1].mean() > 0
