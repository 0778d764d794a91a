"""What the diagrams of attention say is what the numbers say."""

import math

import pytest
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


def test_what_is_kept_shrinks_when_a_larger_score_comes_and_gives_what_softmax_gives():
    scores, values = [[0.0, math.log(2)], [math.log(4)]], [[8, 8], [1]]
    figure = plots.softmax_by_blocks(scores, values)
    first, second = figure.axes
    assert title(figure) == "A larger score comes: all that was kept shrinks to 0.5 times its size"
    assert [bar.get_height() for bar in first.patches] == pytest.approx([0.5, 1])
    assert [bar.get_height() for bar in second.patches] == pytest.approx([0.25, 0.5, 1, 0.5, 1])  # and two outlines
    assert first.get_title("left") == "block 1 read: m = ln 2, sum 1.5\nweighted values 12, output 8"
    assert second.get_title("left") == "block 2 read: m = ln 4, sum 1.75\nweighted values 7, output 4"
    falling = plots.softmax_by_blocks(scores[::-1], values[::-1])
    assert title(falling) == "No larger score comes: all that was kept stays as it is"
    assert "output 4" in falling.axes[1].get_title("left") and len(falling.axes[1].patches) == 3


def test_every_shape_of_attention_is_written():
    figure = plots.attention_shapes(hidden=12, heads=4, kv_heads=2, head_dim=5, seq=7)
    written = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("[")]
    inside = ["[7, 20]", "[4, 7, 5]", "[7, 10]", "[2, 7, 5]", "[7, 10]", "[2, 7, 5]"]
    assert written == ["[7, 12]", *inside, "[4, 7, 7]", "[4, 7, 5]", "[7, 20]", "[7, 12]"]
    assert title(figure) == "From 12 numbers a token to 4 heads of 5 and back: 2 query heads share a key/value head"
    assert title(plots.attention_shapes(12, 4, 4, 5, 7)).endswith("each head has its own")
    lines = [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert len(lines) == 4 + 2  # from each query head to the key head that it reads, from each key head to its value
    assert lines[0][1] == lines[1][1] == lines[4][0] < lines[2][1] == lines[3][1] == lines[5][0]
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "neighbours of one shade share" in texts


def test_the_weights_are_a_square_for_each_head_and_without_groups_all_have_one_shade():
    panel = plots.attention_shapes(12, 4, 4, 5, 7).axes[0]
    small = [patch for patch in panel.patches if patch.get_width() == pytest.approx(0.84 * 0.33)]
    assert len(small) == 4
    assert len({patch.get_facecolor() for patch in panel.patches if patch.get_fill()}) == 1
    assert "shade" not in " ".join(text.get_text() for text in panel.texts)


def test_two_looks_lead_from_the_found_token_one_back_and_from_the_last_to_the_found():
    figure = plots.two_looks(["-", "coat", "Leo", "-", "coat"], 2, (0, 3))
    assert title(figure) == "Two looks would find “Leo”, if its key says what stood before it"
    (ax,) = figure.axes
    ends = [text.xy[0] for text in ax.texts if getattr(text, "arrow_patch", None)]
    starts = [float(line.get_xdata()[0]) for line in ax.lines]
    assert (starts, ends) == ([4.0, 2.0], [2.0, 1.0])
    words = " ".join(text.get_text() for text in ax.texts)
    assert "layer 0: “Leo” looks" in words and "layer 3: the last “coat” looks" in words
    before = plots.two_looks(["-", "coat", "Leo", "-", "coat"], 2)  # in which layers is not known yet
    words = " ".join(text.get_text() for text in before.axes[0].texts)
    assert "1  an earlier layer: “Leo” looks" in words and "2  a later layer: the last “coat” looks" in words
