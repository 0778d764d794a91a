"""Settings of the whole test run: the same examples every time, and no clock that a slow machine could fail by."""

import os
import random
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

STEADY = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("test", STEADY, max_examples=10)
settings.register_profile("proof", STEADY, max_examples=25)

# The files that take longest come first, so that the last process to finish does not work alone for long.
LONGEST = ["other_checkpoints", "plots", "launch", "grading", "tiny_moe"]
LONGEST += ["going_back", "rehearsal", "compiled_orders", "compiled", "hub_settings", "book"]  # in `make proof`


def pytest_addoption(parser):
    parser.addoption("--shuffle", metavar="SEED", help="run the files, and the tests of each, in an order of this seed")


def pytest_configure(config):
    """What does not leave the longer tests out also tries more examples of each property."""
    settings.load_profile("test" if "not proof" in config.option.markexpr else "proof")
    # What torch compiled for some vectors it would take for others, if it is told to use others here.
    kind = torch.backends.cpu.get_cpu_capability().lower()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"compiled_for_{kind}")))
    # A shell starts what it puts into the background deaf to Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    if (seed := config.getoption("shuffle")) is None:
        names = [f"test_{name}" for name in LONGEST]
        items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))
    else:
        draw = random.Random(seed)
        place = {path: draw.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (place[item.path], draw.random()))


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same random numbers, alone or after others."""
    torch.manual_seed(0)
