"""What the diagrams of attention say is what the numbers say."""

import torch
from drawings import title

from qwen3_scratch import plots


def arrows(ax):
    """Where each arrow of a panel starts and ends."""
    return [(note.xyann, note.xy) for note in ax.texts if hasattr(note, "xyann")]


def test_shortened_values_are_laid_end_to_end_up_to_their_sum():
    weights, values = torch.tensor([0.25, 0.75]), torch.tensor([[0.0, 4.0], [4.0, -4.0]])
    figure = plots.weighted_sum(weights, values, ["a", "b"])
    left, right = figure.axes
    assert arrows(left) == [((0, 0), (0, 4)), ((0, 0), (4, -4))]
    laid = [each for each in arrows(right) if each not in arrows(left)]
    assert laid == [((0, 0), (0, 1)), ((0, 1), (3, -2)), ((0, 0), (3, -2))]
    assert title(figure) == "The sum lies nearest to the value of “b”, which has the largest weight"
    assert "(3.00, -2.00)" in figure.alt


def test_a_sum_that_lies_nearest_to_another_value_is_not_said_to_follow_the_largest_weight():
    weights, values = torch.tensor([0.3, 0.3, 0.4]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    assert title(plots.weighted_sum(weights, values, ["a", "b", "c"])) == "The sum lies nearest to the value of “a”"


def test_every_shape_of_attention_is_written():
    figure = plots.attention_shapes(hidden=12, heads=4, kv_heads=2, head_dim=5, seq=7)
    written = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("[")]
    inside = ["[7, 20]", "[4, 7, 5]", "[7, 10]", "[2, 7, 5]", "[7, 10]", "[2, 7, 5]"]
    assert written == ["[7, 12]", *inside, "[4, 7, 7]", "[4, 7, 5]", "[7, 20]", "[7, 12]"]
    assert title(figure) == "From 12 numbers a token to 4 heads of 5 and back: 2 query heads share a key/value head"
    assert title(plots.attention_shapes(12, 4, 4, 5, 7)).endswith("each head has its own")
    assert len(figure.axes[0].lines) == 4  # from each query head to the key head that it reads


def test_growth_is_told_with_and_without_the_norm():
    figure = plots.growing_scores([1, 2, 4], [0.5, 2, 8], [1.5, 1.5, 1.5], bound=6)
    said = "Queries and keys 4 times as large: the largest score 16 times without QK-norm, the same with it"
    assert title(figure) == said
    assert "from 0.5 to 8; with it from 1.5 to 1.5" in figure.alt
    assert list(figure.axes[0].lines[-1].get_ydata()) == [6, 6]
