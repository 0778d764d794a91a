"""What a piece of work starts is counted where it happens: within what is composed of others, and views never."""

import torch
import torch.nn.functional as F
from helpers import finished

from qwen3_scratch.fast.dispatch import grouped_linear
from qwen3_scratch.inside.kernels import LAUNCHES, WAITS, Started, started

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
