"""What attribution shows is what the numbers are."""

import pytest
import torch
from drawings import title

from qwen3_scratch import plots


def test_the_parts_of_a_logit_add_up_to_it_and_to_its_lead():
    names = ["embedding", "layer 0 attention", "layer 0 experts"]
    figure = plots.logit_parts(names, torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0.5, 6.0, -1.0]), ("x", "y"))
    assert title(figure) == "Layer 0 attention brings most of the logit, layer 0 experts most of the lead"
    for ax, whole in zip(figure.axes, (9.0, 3.5), strict=True):
        *parts, total = [bar.get_width() for bar in ax.patches]
        assert sum(parts) == pytest.approx(whole) == total
    alone = plots.logit_parts(names, torch.tensor([1.0, 5.0, 3.0]), torch.zeros(3), ("x", "y"))
    assert title(alone) == "Layer 0 attention brings most, of the logit and of the lead"


@pytest.mark.parametrize(
    "lines, told",
    [
        ("xxx axd acd", "“d” is the guess from layer 0 on; after “s” the guess settles only in layer 1"),
        ("xxd xxd acd", "“d” is the guess from the embedding on; 2 of 2 guesses before it settle later"),
        ("xxx axx acd", "“d” is the guess from layer 1 on; none of 2 guesses before it settles later"),
    ],
)
def test_the_lens_tells_from_where_on_the_last_guess_stays_and_what_comes_later(lines, told):
    figure = plots.logit_lens([*map(list, lines.split())], torch.linspace(0, 1, 9).view(3, 3), ["r", "s", "t"])
    assert title(figure) == told
