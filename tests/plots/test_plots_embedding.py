"""The growing stream says how far it has grown."""

import pytest
import torch
from drawings import title

from qwen3_scratch import plots


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (9.6e6, "ends 1,000,000 times as long as with it"),
        (19.2, "ends 2 times as long as with it"),
        (float("inf"), "leaves the range of numbers in layer 0"),
    ],
    ids=["far", "near", "lost"],
)
def test_stream_growth_compares_the_ends(ends, said):
    figure = plots.stream_growth(torch.tensor([[1.0], [9.6]]), torch.tensor([[1.0], [ends]]))
    assert title(figure) == f"Without the division the stream {said}"
