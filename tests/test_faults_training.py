"""A training run that is killed at any moment, or asked to stop, goes on to the bits of the run that never was."""

import json
import random
import signal
import subprocess
import time

import pytest
import torch
from helpers import finished, process
from safetensors.torch import load_file, save_file
from test_faults_saving import largest_file
from test_training import CONFIG, PLAN, assert_same_bits, batch_of

from qwen3_scratch import Error, training
from qwen3_scratch.training import resume, train

UNTIL_KILLED = """
import os, random, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_training import CONFIG, PLAN, batch_of
from qwen3_scratch import training

folder, when, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plain_save, plain_replace = training.save_file, os.replace

def kill(moment):
    if moment == when and (when == "step" or (folder / "moment.safetensors").exists()):
        os.kill(os.getpid(), signal.SIGKILL)

def save(tensors, path, header):
    plain_save(tensors, path, header)
    content = path.read_bytes()
    path.write_bytes(content[: random.Random(step).randrange(len(content))])
    kill("half written")
    path.write_bytes(content)

def replace(source, target):
    kill("before the rename")
    plain_replace(source, target)
    kill("after the rename")

def batches(at):
    if at == step:
        kill("step")
    return batch_of(at)

training.save_file, os.replace = save, replace
training.train(CONFIG, PLAN, batches, folder, seed=3)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(CONFIG, PLAN, batch_of, tmp_path_factory.mktemp("whole"), seed=3)


@pytest.mark.parametrize("when", ["step", "half written", "before the rename", "after the rename"])
def test_a_run_that_is_killed_in_a_step_or_in_a_save_ends_in_the_bits_of_the_unbroken_run(tmp_path, whole, when):
    step = random.Random(when).randrange(1, PLAN.steps)
    found = finished("-c", UNTIL_KILLED, str(tmp_path), when, str(step), env={"JAXTYPING_DISABLE": "1"}, timeout=300)
    assert found.code == -signal.SIGKILL, found.err
    reached = training.saved_step(tmp_path)
    expected = {"step": step // 3 * 3, "half written": 3, "before the rename": 3, "after the rename": 3}
    assert reached == expected[when]
    assert_same_bits(train(CONFIG, PLAN, batch_of, tmp_path, seed=3), whole)
    assert_same_bits(resume(CONFIG, PLAN, tmp_path), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["moment.safetensors"]


def test_a_disk_that_is_full_at_a_save_ends_the_run_in_one_sentence_and_it_resumes(tmp_path, whole):
    train(CONFIG, PLAN._replace(steps=3), batch_of, tmp_path, seed=3)
    before = (tmp_path / "moment.safetensors").read_bytes()
    with largest_file(len(before) // 2), pytest.raises(Error) as caught:
        train(CONFIG, PLAN._replace(steps=8), batch_of, tmp_path, seed=3)
    assert str(caught.value).startswith(f"{tmp_path}/moment.safetensors: cannot be written (") and "free there" in str(
        caught.value
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"moment.safetensors": before}
    with pytest.raises(Error, match=r"moment\.safetensors/deeper: cannot be written \(Not a directory\)"):
        train(CONFIG, PLAN._replace(steps=3), batch_of, tmp_path / "moment.safetensors" / "deeper", seed=3)


@pytest.mark.parametrize("seed", range(4))
def test_a_moment_that_was_damaged_is_refused_and_never_trained_on(tmp_path, seed):
    train(CONFIG, PLAN._replace(steps=3), batch_of, tmp_path)
    path, draw = tmp_path / "moment.safetensors", random.Random(seed)
    content = path.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file will be cut off
    name = draw.choice(sorted(tensors))
    damages = [
        lambda: path.write_bytes(content[: draw.randrange(len(content))]),
        lambda: path.write_bytes(b"\x80\x04K\x01."),  # a pickle
        lambda: save_file(tensors, path),  # without its header
        lambda: save_file({key: tensors[key] for key in tensors if key != name}, path, header_of(content)),
        lambda: save_file(tensors, path, header_of(content) | {"history": "{"}),
        lambda: save_file(tensors, path, header_of(content) | {"step": "three"}),
        lambda: save_file(tensors | {name: torch.zeros(3, 5)}, path, header_of(content)),
    ]
    for damage in damages:
        damage()
        with pytest.raises(Error, match=r"moment\.safetensors: is damaged \(.*\), expected a saved run: remove the fo"):
            train(CONFIG, PLAN, lambda step: pytest.fail("trained on"), tmp_path)
        assert training.saved_step(tmp_path) in (0, 3)


def header_of(content: bytes) -> dict[str, str]:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_too_little_memory_for_a_step_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        torch.empty(10**15)

    monkeypatch.setattr(training, "losses", refuse)
    with pytest.raises(
        Error, match=r"^training: step 0: the memory of cpu does not suffice.*: make batches of fewer or"
    ):
        train(CONFIG, PLAN, batch_of, tmp_path)


# ---- asked to stop ------------------------------------------------------------------------------

RECIPE = """
import sys, time
sys.path.insert(0, "tests")
import typer
from test_training import CONFIG, PLAN, batch_of
from qwen3_scratch import recipe
from qwen3_scratch.training import train

def batches(step):
    time.sleep(0.02)
    return batch_of(step)

def make(folder, work, plan):
    print("begun", flush=True)
    train(CONFIG, PLAN._replace(steps=plan.steps, save_every=1 if work.name == "saving" else 10**6), batches, work)

recipe.make = make
typer.run(recipe.main)
"""


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", ["saving", "nothing"])
def test_a_run_that_is_asked_to_stop_says_in_one_line_from_where_it_resumes(tmp_path, asked, work):
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"JAXTYPING_DISABLE": "1"})
    words = [str(tmp_path / "out"), "--work", str(tmp_path / work), "--steps", "100000"]
    running = process("-c", RECIPE, *words, **options)
    try:
        assert running.stdout.readline() == "begun\n"
        while work == "saving" and running.poll() is None and training.saved_step(tmp_path / work) < 2:
            time.sleep(0.02)
        running.send_signal(asked)
        errors = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 128 + asked and "Traceback" not in errors
    step = training.saved_step(tmp_path / work)
    begins = (
        f"resumes from step {step}, saved in {tmp_path / work}" if step else "starts anew, since nothing was saved yet"
    )
    assert errors.splitlines()[-1] == f"stopped; the same command {begins}" and bool(step) == (work == "saving")
    assert not list(tmp_path.rglob("*.partial"))


def test_an_error_of_a_run_is_one_line_and_no_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    found = finished("-c", RECIPE, str(tmp_path), "--work", str(tmp_path / "file" / "saving"), "--steps", "1")
    assert found.code == 1 and "Traceback" not in found.err
    assert found.err.splitlines()[-1].startswith(f"error: {tmp_path}/file/saving: cannot be written (Not a directory)")
