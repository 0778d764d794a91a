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


@pytest.fixture(autouse=True)
def seeded():
    """Each test draws the same random numbers, alone or after others."""
    torch.manual_seed(0)
