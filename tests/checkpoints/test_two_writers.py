"""Two that save into one folder at once: one waits for the other, and the folder holds one whole checkpoint."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import finished
from reference import random_weights, small_config

from qwen3_scratch import Checkpoint, load_checkpoint, save_checkpoint
from qwen3_scratch.checkpoints.saving import alone_in, save_weights, write_json
from qwen3_scratch.checkpoints.weights import tensor_tree


def numbered(number: int) -> Checkpoint:
    """A checkpoint of which every file tells its number."""
    config = small_config(num_hidden_layers=1, norm_topk_prob=bool(number % 2), rms_norm_eps=1e-6 * (number + 1))
    return Checkpoint(config, random_weights(config, number), None, {"top_k": number + 1})


def number_in(folder: Path) -> int:
    """Whose checkpoint the folder holds, all of it; nothing else lies there."""
    found = load_checkpoint(folder)
    number = found.generation_config["top_k"] - 1
    assert found.config.rms_norm_eps == 1e-6 * (number + 1)
    assert all(map(torch.equal, tensor_tree(found.weights), tensor_tree(numbered(number).weights)))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    return number


def together(count: int, act) -> None:
    """The same in so many threads, begun at once; what one of them raises is raised here."""
    start, raised = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            start.wait()
            act(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_threads_that_save_into_one_folder_leave_one_whole_checkpoint_and_every_one_succeeds(tmp_path):
    made = [numbered(number) for number in range(4)]

    def save(number: int) -> None:
        for _ in range(3):
            save_checkpoint(made[number], tmp_path)

    together(4, save)
    assert number_in(tmp_path) in range(4)


PROCESSES = """
import os, signal, sys
sys.path[:0] = ["tests/support", "tests/checkpoints"]
from test_two_writers import Path, alone_in, number_in, numbered, save_checkpoint

folder, made, children = Path(sys.argv[1]), [numbered(number) for number in range(3)], []
if not os.fork():
    with alone_in(folder):
        os.kill(os.getpid(), signal.SIGKILL)
os.wait()
for number in range(3):
    if not os.fork():
        try:
            for _ in range(5):
                save_checkpoint(made[number], folder)
            os._exit(0)
        finally:
            os._exit(1)
print([os.wait()[1] for _ in made], number_in(folder))
"""


def test_processes_that_save_into_one_folder_leave_one_whole_checkpoint_and_every_one_succeeds(tmp_path):
    """Also after one that was killed while it kept the others out."""
    found = finished("-c", PROCESSES, str(tmp_path), env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0 and found.out in [f"[0, 0, 0] {number}\n" for number in range(3)], found.err


def test_who_saves_while_another_saves_waits_and_is_the_one_whose_checkpoint_is_there(tmp_path):
    save_checkpoint(numbered(0), tmp_path)
    writer = threading.Thread(target=save_checkpoint, args=(numbered(2), tmp_path))
    with alone_in(tmp_path):
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive() and number_in(tmp_path) == 0
    writer.join()
    assert number_in(tmp_path) == 2


def test_threads_that_write_one_file_or_the_weights_alone_leave_one_of_them_whole(tmp_path):
    made, path = [numbered(number) for number in range(3)], tmp_path / "a.json"

    def write(number: int) -> None:
        for _ in range(10):
            write_json(path, {"number": [number] * 1000})
        save_weights(tmp_path, made[number].weights, made[number].config, max_shard_size=20_000)

    together(3, write)
    assert len(set(json.loads(path.read_text())["number"])) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_disk_that_knows_no_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    save_checkpoint(numbered(1), tmp_path)
    assert number_in(tmp_path) == 1
