"""A training run that is killed at any moment, or asked to stop, goes on to the bits of the run that never was."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import PATIENCE, finished, largest_file, process
from safetensors.torch import load_file, save_file
from test_training import CONFIG, PLAN, assert_same_bits, batch_of, begun
from tiers import in_proof

from qwen3_scratch import Error
from qwen3_scratch.learning import training
from qwen3_scratch.learning.training import resume, train
from qwen3_scratch.tiny import recipe

# ---- killed -------------------------------------------------------------------------------------

SAVED = (3, 6, 8)  # after which steps
EVENTS = [(step, "step") for step in range(1, PLAN.steps + 1)]
EVENTS += [(step, event) for step in SAVED for event in ("half written", "whole", "named")]
EVENTS.sort(key=lambda entry: entry[0])
SECOND_SAVE = range(EVENTS.index((6, "step")), EVENTS.index((7, "step")))
KILLED = """
import os, random, signal, sys
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/learning"]
from tiers import in_proof
from test_training import CONFIG, PLAN, batch_of
from qwen3_scratch.learning import training

plain_save, plain_replace = training.save_file, os.replace

def event():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def save(tensors, path, header):
    plain_save(tensors, path, header)
    content = path.read_bytes()
    path.write_bytes(content[: random.Random(left).randrange(len(content))])
    event()
    path.write_bytes(content)

def replace(source, target):
    event()
    plain_replace(source, target)
    event()

def batches(step):
    event()
    return batch_of(step)

training.save_file, os.replace, os.fsync = save, replace, lambda _: None
training.start(CONFIG, PLAN, 3)  # imports what an optimiser takes, for all children at once
for number in map(int, sys.argv[2:]):
    folder, ends = Path(sys.argv[1], str(number)), []
    for left in (number, random.Random(number).randrange(9), 10**9):
        if not (child := os.fork()):
            try:
                training.train(CONFIG, PLAN, batches, folder, seed=3)
            except BaseException as error:
                print(error, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        ends.append(training.saved_step(folder))
    print(*ends)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(CONFIG, PLAN, batch_of, tmp_path_factory.mktemp("whole"), seed=3)


@pytest.mark.parametrize("numbers", [SECOND_SAVE, in_proof(range(len(EVENTS)))], ids=["second save", "all"])
def test_a_run_killed_in_a_step_and_at_any_point_of_a_save_ends_in_the_bits_of_the_unbroken_run(
    tmp_path, whole, numbers
):
    """And killed a second time somewhere on its way from there."""
    words = [str(tmp_path), *map(str, numbers)]
    found = finished("-c", KILLED, *words, env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0, found.err
    lines = [tuple(map(int, line.split())) for line in found.out.splitlines()]
    assert len(lines) == len(numbers) and len(EVENTS) == 17
    for number, (first, reached, second, further, third, end) in zip(numbers, lines, strict=True):
        named = [step for step, event in EVENTS[: number + 1] if event == "named"]
        assert (first, reached) == (-signal.SIGKILL, max(named, default=0)), EVENTS[number]
        assert second in (0, -signal.SIGKILL) and reached <= further
        assert (third, end) == (0, PLAN.steps)
        folder = tmp_path / str(number)
        assert_same_bits(resume(CONFIG, PLAN, folder, seed=3), whole)
        assert os.listdir(folder) == ["moment.safetensors"]
    assert 3 * [line[2] for line in lines].count(-signal.SIGKILL) >= len(lines)


# ---- no room, and damage ------------------------------------------------------------------------


def test_a_disk_that_is_full_at_a_save_ends_the_run_in_one_sentence_and_it_resumes(tmp_path, whole):
    before = begun(tmp_path, 3, seed=3)
    with largest_file(len(before) // 2), pytest.raises(Error) as caught:
        train(CONFIG, PLAN, batch_of, tmp_path, seed=3)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/moment.safetensors: cannot be written (") and "free there" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"moment.safetensors": before}
    assert_same_bits(train(CONFIG, PLAN, batch_of, tmp_path, seed=3), whole)
    with pytest.raises(Error, match=r"moment\.safetensors/deeper: cannot be written \(Not a directory\)"):
        train(CONFIG, PLAN._replace(steps=3), batch_of, tmp_path / "moment.safetensors" / "deeper", seed=3)


@pytest.mark.parametrize("seed", range(2))
def test_a_moment_that_was_damaged_is_refused_and_never_trained_on(tmp_path, seed):
    content = begun(tmp_path, 3)
    path, draw = tmp_path / "moment.safetensors", random.Random(seed)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file will be cut off
    name = draw.choice(sorted(tensors))
    damages = [
        lambda: path.write_bytes(content[: draw.randrange(len(content))]),
        lambda: path.write_bytes(b"\x80\x04K\x01."),  # a pickle
        lambda: save_file(tensors, path),  # without its header
        lambda: save_file({key: tensors[key] for key in tensors if key != name}, path, header_of(content)),
        lambda: save_file(tensors, path, header_of(content) | {"history": "{"}),
        lambda: save_file(tensors, path, header_of(content) | {"step": "three"}),
        lambda: save_file(tensors, path, header_of(content) | {"run": draw.choice(["5", "{}", "[]"])}),
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


@pytest.fixture
def run_recipe(tmp_path, monkeypatch, capsys):
    """`make train` with a small model: its exit status and the last line that it says."""

    def run(batches, work: Path) -> tuple[int, str]:
        monkeypatch.setattr(recipe, "make", lambda folder, work, plan: train(CONFIG, PLAN, batches, work))
        with pytest.raises(SystemExit) as end:
            recipe.main(tmp_path / "out", work, PLAN.steps)
        errors = capsys.readouterr().err
        assert "Traceback" not in errors and not list(tmp_path.rglob("*.partial"))
        return end.value.code, errors.splitlines()[-1]

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 2, 3, 7])
def test_a_run_that_is_asked_to_stop_says_in_one_line_from_where_it_resumes(tmp_path, run_recipe, asked, at):
    def batches(step):
        if step == at:
            signal.raise_signal(asked)
        return batch_of(step)

    reached = at // PLAN.save_every * PLAN.save_every
    begins = (
        f"resumes from step {reached}, saved in {tmp_path}/work" if reached else "starts anew, since nothing was saved"
    )
    code, line = run_recipe(batches, tmp_path / "work")
    assert code == 128 + asked and line.startswith(f"stopped; the same command {begins}")
    assert training.saved_step(tmp_path / "work") == reached


def test_a_run_that_is_asked_to_stop_while_it_saves_keeps_what_was_saved_before(tmp_path, run_recipe, monkeypatch):
    before, plain = begun(tmp_path / "work", 3), training.save_file

    def interrupted(*args):
        plain(*args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "save_file", interrupted)
    code, line = run_recipe(batch_of, tmp_path / "work")
    assert (code, line) == (143, f"stopped; the same command resumes from step 3, saved in {tmp_path}/work")
    assert (tmp_path / "work" / "moment.safetensors").read_bytes() == before


def test_an_error_of_a_run_is_one_line_and_no_traceback(tmp_path, run_recipe):
    (tmp_path / "file").write_text("")
    code, line = run_recipe(batch_of, tmp_path / "file" / "work")
    assert code == 1 and line.startswith(f"error: {tmp_path}/file/work: cannot be written (Not a directory), with ")


PROCESS = """
import sys
sys.path[:0] = ["tests/support", "tests/learning"]
import typer
from tiers import in_proof
from test_training import CONFIG, PLAN, batch_of
from qwen3_scratch.tiny import recipe
from qwen3_scratch.learning.training import train

def batches(step):
    if step == 6:
        print("has saved", flush=True)
    return batch_of(step)

recipe.make = lambda folder, work, plan: train(CONFIG, PLAN._replace(steps=plan.steps), batches, work)
typer.run(recipe.main)
"""


def test_a_process_that_trains_ends_so_too_at_whatever_point_a_signal_from_outside_meets_it(tmp_path):
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"JAXTYPING_DISABLE": "1"})
    words = [str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--steps", "100000"]
    running = process("-c", PROCESS, *words, **options)
    try:
        assert running.stdout.readline() == "has saved\n"
        running.send_signal(signal.SIGTERM)
        errors = running.communicate(timeout=PATIENCE)[1]
    finally:
        running.kill()
    assert running.returncode == 143 and "Traceback" not in errors
    step = training.saved_step(tmp_path / "work")
    assert errors.splitlines()[-1] == f"stopped; the same command resumes from step {step}, saved in {tmp_path}/work"
    assert step >= 6 and os.listdir(tmp_path / "work") == ["moment.safetensors"]
