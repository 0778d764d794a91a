"""What a piece of work starts is counted where it happens: within what is composed of others, and views never."""

from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from helpers import finished
from reference import random_weights, small_config
from torch import Tensor

from qwen3_scratch import Checkpoint, KVCache, forward
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.fast.dispatch import grouped_linear
from qwen3_scratch.inside import kernels
from qwen3_scratch.inside.kernels import (
    LAUNCHES,
    WAITS,
    Bill,
    Started,
    bill,
    calls,
    capture,
    least_seconds,
    operations,
    read_speed,
    seen_when_compiled,
    started,
    weights_read,
)

X = torch.ones(4, 4)


def test_a_product_counts_once_and_a_view_never():
    assert started(lambda: F.linear(X, X)) == Started(1, 1, 0)
    assert started(lambda: (X.t(), X.view(2, 8), X[:2], X.expand(2, 4, 4), X.chunk(2))) == Started(0, 0, 0)
    assert started(lambda: (X + X, X.sigmoid(), X.t().contiguous())) == Started(3, 3, 0)


def test_what_a_composed_operator_runs_inside_is_counted():
    """On a CPU torch's grouped product is a loop that reads where each group ends."""
    ends = torch.tensor([1, 3, 3, 4], dtype=torch.int32)
    found = started(lambda: grouped_linear(X, torch.ones(4, 8, 4), ends))
    assert found.kernels >= 3, "a product for each group that holds a row"
    assert found.waits >= 4


def test_a_value_that_is_asked_for_is_a_wait():
    assert started(lambda: X.sum().item()).waits == 1
    assert started(lambda: X.sum()).waits == 0


@pytest.mark.parametrize("ask", [Tensor.tolist, Tensor.item, bool, int, float, [0, 1, 2].__getitem__])
def test_each_way_to_ask_for_a_value_is_one_question(ask):
    one = torch.ones(1, dtype=torch.long)
    assert bill(lambda: ask(one)).questions == 1
    assert bill(lambda: one + one).questions == 0


def test_a_bill_counts_what_is_read_and_written_and_nothing_for_views():
    size = X.nbytes
    assert bill(lambda: X + X) == Bill(questions=0, changing=0, launches=1, bytes=3 * size)
    assert bill(lambda: X.t()[:2]) == Bill(0, 0, 0, 0)
    assert bill(lambda: F.linear(X, X)).bytes == 3 * size
    held = torch.zeros(4, 4)
    assert bill(lambda: held.copy_(X)).bytes == 2 * size


def test_what_is_picked_or_put_in_is_moved_and_not_all_that_it_is_picked_from():
    row, table = torch.tensor([1]), torch.ones(100, 4)
    held, new = torch.zeros(1, 1, 100, 4), torch.ones(1, 1, 1, 4)
    assert bill(lambda: table[row]).bytes == 2 * 16
    assert bill(lambda: F.embedding(row, table)).bytes == 2 * 16
    assert bill(lambda: held.index_copy_(2, row, new)).bytes == 2 * 16


def test_a_call_that_has_another_shape_the_next_time_is_a_changing_one():
    lengths = count(1)
    assert bill(lambda: X[:1, : next(lengths)].exp()).changing >= 1
    assert bill(lambda: X[:1, :2].exp()).changing == 0


@pytest.mark.compiled
def test_compiled_functions_are_seen_where_they_were_compiled_to_be_seen():
    def chain(x):
        return (x.sin() + 1).cos()

    with seen_when_compiled():
        seen = torch.compile(chain, dynamic=False)
        seen(X)
    assert started(lambda: seen(X)).launches == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_all_weights_of_a_dense_model_but_one_row_of_an_embedding_alone(tied):
    config = small_config(num_experts=0, tie_word_embeddings=tied)
    every = sum(tensor.nbytes for tensor in tensor_tree(random_weights(config)))
    unread = 0 if tied else 4 * (config.vocab_size - 1) * config.hidden_size
    assert weights_read(config) == every - unread


def test_counting_says_nothing_and_leaves_the_environment_as_it_was():
    code = "import os, torch\nfrom qwen3_scratch.inside.kernels import started\nbefore = dict(os.environ)\n"
    done = finished("-c", code + "started(lambda: torch.ones(2) + 1)\nassert before == dict(os.environ)")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_gpu_is_asked_for_kernels_and_its_runtime_for_launches(monkeypatch):
    """With a recording as a GPU would give it, since none is needed to count."""
    cpu, gpu = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
    given = [(LAUNCHES[2], cpu), (WAITS[0], cpu), ("cudaDeviceSynchronize", cpu), ("one", gpu), ("two", gpu)]

    class Recording:
        def __init__(self, activities):
            assert len(activities) == 2

        def __enter__(self):
            return self

        def __exit__(self, *details):
            pass

        def events(self):
            return [type("Event", (), {"name": name, "device_type": kind}) for name, kind in given]

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.profiler, "profile", Recording)
    assert started(lambda: None, "cuda") == Started(launches=1, kernels=2, waits=1)


def test_two_lists_of_calls_differ_where_one_shape_or_operator_does():
    assert calls(lambda: X.exp()) == calls(X.exp)
    assert calls(lambda: X + X) != calls(lambda: X * X)
    assert calls(lambda: X.exp()) != calls(lambda: X[:3].exp())
    assert [name for name, _ in calls(lambda: X[:3].exp())] == ["aten::slice", "aten::as_strided", "aten::exp"]


def test_the_least_of_the_rounds_counts_the_ways_take_turns_and_two_rounds_warm_up(monkeypatch):
    made, clock = [], iter([0, 1, 10, 18] * 2 + [0, 7, 10, 16, 0, 5, 10, 19])
    monkeypatch.setattr(kernels, "perf_counter", lambda: float(next(clock)))
    ways = {name: partial(made.append, name) for name in ("one", "other")}
    assert least_seconds(ways, rounds=2) == {"one": 5, "other": 6}
    assert made == ["one", "other"] * 4


def test_what_takes_long_is_measured_fifteen_times_however_many_rounds_are_asked_for(monkeypatch):
    made, clock = [], count()
    monkeypatch.setattr(kernels, "perf_counter", lambda: float(next(clock)))  # a second from begin to end
    assert least_seconds({"slow": partial(made.append, 1)}, rounds=200) == {"slow": 1}
    assert len(made) == 17


def test_speed_is_what_all_readings_take_together(monkeypatch):
    given = {}
    monkeypatch.setattr(kernels, "least_seconds", lambda ways, *others: given.update(ways) or {"": 0.5})
    assert read_speed(16e6) == 5 * 16e6 / 0.5
    assert len(given[""]()) == 5, "as often as 64 MB hold it, and once more"
    assert read_speed(4e8) == 4e8 / 0.5


def test_a_recording_is_made_of_one_call_after_three_that_warm_up(monkeypatch):
    """With a GPU made up: which calls are made in which order."""
    made = []

    class Stream:
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            made.append("replayed")

    @contextmanager
    def recording(graph):
        made.append("begins")
        yield
        made.append("ends")

    @contextmanager
    def on(stream):
        yield

    for name, made_up in (("Stream", Stream), ("CUDAGraph", Graph), ("current_stream", Stream), ("stream", on)):
        monkeypatch.setattr(torch.cuda, name, made_up)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    replay = capture(lambda: made.append("work"))
    assert made == ["work"] * 3 + ["begins", "work", "ends"]
    replay()
    assert made[-1] == "replayed"


def test_each_token_held_costs_a_step_the_products_with_its_key_and_its_value():
    config = small_config()
    checkpoint, ids = Checkpoint(config, random_weights(config)), torch.zeros(1, 9, dtype=torch.long)
    counted = []
    for held in (4, 8):
        cache = KVCache(config, 1, 9)
        forward(checkpoint.weights, ids[:, :held], config, cache=cache)
        counted.append(operations(checkpoint, ids[:, :1], cache))
    a_key = 4 * config.head_dim * config.num_attention_heads * config.num_hidden_layers
    assert counted[1] - counted[0] == 4 * a_key
