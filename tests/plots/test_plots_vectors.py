"""What the figures of `qwen3_scratch.plots.vectors` say is what their numbers are."""

import torch
from drawings import title

from qwen3_scratch import plots


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_token_similarity_means_within_and_between_kinds():
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 3.0**0.5]])
    figure = plots.token_similarity(vectors, ["red", "blue", "Leo", "Mia"], [2, 2])
    # Within: 1 and cos 30°; between: 0, 1/2, 0, 1/2.
    assert title(figure) == f"Mean cosine: {(1 + 0.866) / 2:.2f} within a kind, 0.25 between kinds"
    ax = figure.axes[0]
    cells = " ".join(text.get_text() for text in ax.texts)
    assert cells == "100 0 0 50 50 87"  # each pair once, row by row
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == ["red", "blue", "Leo", "Mia"]
    assert [line.get_ydata()[0] for line in ax.lines[::2]] == [1.5]  # the border between the kinds


def test_token_similarity_of_one_kind_speaks_of_no_other():
    assert title(plots.token_similarity(torch.ones(3, 2), ["a", "b", "c"])) == "Mean cosine: 1.00 within a kind"


def test_norm_inputs_name_where_the_stream_is_smallest_and_largest():
    before = torch.tensor([[0.1, 0.2, 0.3], [2.0, 20.0, 30.0], [1.0, 1.0, 90.0]])
    figure = plots.norm_inputs(before, ["layer 0 input", "layer 0 post-att.", "last"])
    assert title(figure) == (
        "The norms read vectors of size 0.2 to 20; most growth, 100-fold, from “layer 0 input” to “layer 0 post-att.”"
    )
    assert ticks(figure.axes[0].xaxis) == ["layer 0 input", "layer 0 post-att.", "last"]


def test_a_cosine_just_below_zero_is_zero():
    figure = plots.token_similarity(torch.tensor([[1.0, 0.0], [-0.001, 1.0]]), ["a", "b"], [1, 1])
    assert title(figure) == "Mean cosine: 0.00 within a kind, 0.00 between kinds"
    assert [text.get_text() for text in figure.axes[0].texts] == ["0"]


def test_stream_sum_lays_parts_end_to_end_and_brings_sums_to_one_circle():
    parts = torch.tensor([[1.0, 7.0], [7.0, 1.0], [6.0, -6.0]])
    figure = plots.stream_sum(parts, ["a", "b", "c"], ("cat", "dog"))
    assert title(figure) == "After each part the head says: dog, neither, cat"
    left, right = figure.axes
    arrows = [text for text in left.texts if getattr(text, "arrow_patch", None)]
    assert [arrow.xy for arrow in arrows] == [(1.0, 7.0), (8.0, 8.0), (14.0, 2.0)]
    assert [arrow.xyann for arrow in arrows] == [(0.0, 0.0), (1.0, 7.0), (8.0, 8.0)]
    words = [text.get_text() for text in left.texts if text.get_text()]
    assert words == ["a\n[1, 7]", "b\n[7, 1]", "c\n[6, -6]", "neither leads"]
    ends = torch.tensor([text.xy for text in right.texts if getattr(text, "arrow_patch", None)])
    torch.testing.assert_close(ends, torch.tensor([[0.2, 1.4], [1.0, 1.0], [1.4, 0.2]]))
