"""Settings of the whole test run: the same examples every time, and no clock that a slow machine could fail by."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


LONGEST = ("test_other_checkpoints.py", "test_parallel.py", "test_launch.py")


def pytest_collection_modifyitems(items):
    """The files that take minutes come first, so that the last process to finish does not work alone for long."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same random numbers, alone or after others."""
    torch.manual_seed(0)
