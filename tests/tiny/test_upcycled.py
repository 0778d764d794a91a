"""A dense model trained on beside its upcycled copies: all begin alike, and the record says what chapter 14 says."""

import json

import pytest
import torch
from helpers import finished

from qwen3_scratch import Error
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.hub.find import embedded_folder
from qwen3_scratch.model import forward
from qwen3_scratch.plots.canvas import half_interval
from qwen3_scratch.tiny import upcycled
from qwen3_scratch.tiny.upcycled import (
    DENSE,
    EVERY,
    PLAN,
    RECORD,
    SEEDS,
    WAYS,
    begun,
    dense_model,
    expert_distance,
    looks,
    make,
    make_trial,
    read_upcycled,
    settings_of,
)

RAW, ONE, TWO = [*WAYS][1:]


@pytest.fixture(scope="module")
def trial():
    return make_trial(PLAN._replace(steps=2), each=1)


@pytest.fixture(scope="module")
def dense(trial):
    return dense_model(trial, 0)


@pytest.fixture(scope="module")
def record():
    return read_upcycled(embedded_folder("tiny") / RECORD)


# ---- what is compared --------------------------------------------------------------------------


def test_at_first_every_way_but_the_raw_one_says_what_the_dense_model_says(trial, dense):
    token_ids, said = trial.batch_of(0, 0).token_ids[:2], {}
    for name in WAYS:
        weights, config = begun(name, dense, trial.config, 0)
        with torch.no_grad():
            said[name] = forward(weights, token_ids, config)
    for name in WAYS:
        assert torch.allclose(said[name], said[DENSE], atol=1e-4) == (name != RAW), name


@pytest.mark.parametrize("name", WAYS)
def test_a_way_trains_tensors_of_its_own_and_leaves_the_dense_model_as_it_is(name, trial, dense):
    before = [tensor.detach().clone() for tensor in tensor_tree(dense)]
    seen = list(looks(name, trial, dense, 0))
    assert [each["step"] for each in seen] == [0, 2] and seen[0]["loss"] != seen[1]["loss"]
    assert all(map(torch.equal, before, tensor_tree(dense)))
    assert seen[0]["distance"] == 0 and (seen[1]["distance"] > 0) == (name != DENSE)


def test_the_distance_of_experts_is_in_their_own_lengths(trial, dense):
    weights, _ = begun(ONE, dense, trial.config, 0)
    assert expert_distance(weights) == 0
    with torch.no_grad():
        for layer in weights.layers:
            for part in (layer.gate_up_proj, layer.down_proj):
                part[1] *= -1
    assert expert_distance(weights) == pytest.approx(2)


def test_a_mixture_goes_on_with_batches_that_the_dense_model_has_not_read(trial, dense, monkeypatch):
    asked = []
    noting = trial._replace(batch_of=lambda seed, step: asked.append(step) or trial.batch_of(seed, step))
    list(looks(TWO, noting, dense, 0))
    dense_model(noting, 0)
    assert asked == [2, 3, 0, 1]


# ---- the record --------------------------------------------------------------------------------


def test_a_script_that_was_stopped_goes_on_with_what_the_record_lacks(trial, tmp_path, monkeypatch):
    asked = []

    def quick(name, trial, dense, seed):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append((name, seed))
        return iter([{"step": 2, "loss": 1.0, "distance": 0.0}])

    monkeypatch.setattr(upcycled, "looks", quick)
    monkeypatch.setattr(upcycled, "dense_model", lambda *args: None)
    path = tmp_path / "new" / "upcycled.json"
    with pytest.raises(KeyboardInterrupt):
        make(path, trial)
    assert len(read_upcycled(path)["runs"]) == 5
    asked.insert(0, None)  # so that it is not stopped again
    make(path, trial)
    assert asked[1:] == [(name, seed) for seed in SEEDS for name in WAYS]
    with pytest.raises(Error, match=r"upcycled\.json: is of other settings, expected those of this run"):
        make(path, trial._replace(plan=PLAN))


def test_what_is_no_record_ends_in_one_sentence(tmp_path):
    path = tmp_path / "upcycled.json"
    path.write_text("{}")
    with pytest.raises(Error, match=r"^[^\n]*upcycled\.json: holds no record of upcycled models [^\n]*upcycled$"):
        read_upcycled(path)
    found = finished("-m", "qwen3_scratch.tiny.upcycled", str(path), "--steps", "1")
    assert found.code == 1 and found.out == ""
    assert found.err.startswith("error: ") and found.err.count("\n") == 1


def test_the_kept_record_holds_every_way_with_every_seed_by_the_settings_of_the_script(record):
    assert record["settings"] == json.loads(json.dumps(settings_of(PLAN)))
    assert [(run["way"], run["seed"]) for run in record["runs"]] == [(name, seed) for seed in SEEDS for name in WAYS]
    for run in record["runs"]:
        assert [seen["step"] for seen in run["looks"]] == [*range(0, PLAN.steps + 1, EVERY)]


def test_in_the_kept_record_every_way_but_the_raw_one_begins_at_the_dense_models_loss(record):
    first = {(run["way"], run["seed"]): run["looks"][0] for run in record["runs"]}
    for (name, seed), seen in first.items():
        assert seen["distance"] == 0
        assert (abs(seen["loss"] - first[DENSE, seed]["loss"]) < 1e-4) == (name != RAW)


# ---- what chapter 14 says of the kept record -------------------------------------------------------


def apart(record, name):
    """Of each seed: the loss at the end, less the dense model's."""
    last = {(run["way"], run["seed"]): run["looks"][-1]["loss"] for run in record["runs"]}
    return torch.tensor([[last[name, seed] - last[DENSE, seed] for seed in SEEDS]])


def test_top_1_ends_above_the_dense_model_and_top_2_cannot_be_told_from_it(record):
    for name, told in ((RAW, True), (ONE, True), (TWO, False)):
        found = apart(record, name)
        assert (found.mean() > half_interval(found, 4.30)[0]) == told  # Student's factor for three


def test_experts_part_with_every_way_and_further_where_tokens_choose_one(record):
    ends = {(run["way"], run["seed"]): run["looks"][-1]["distance"] for run in record["runs"]}
    for seed in SEEDS:
        assert 0.3 < ends[TWO, seed] < 0.4 < 0.55 < min(ends[RAW, seed], ends[ONE, seed])
