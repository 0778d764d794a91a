"""What the figures of mistakes say is what the numbers say."""

import torch

from qwen3_scratch import plots

NAMES = ["mild", "wrong", "late"]
NATS = torch.tensor([[0.0, 0.01, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0], [0.0, 0.0, 0.0, 9.0]])
AGREE = torch.tensor([[True, True, True, True], [False, False, False, False], [True, True, True, False]])


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def crosses(ax):
    """The marked cells as (row, column)."""
    points = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "x"]
    return sorted((int(row), int(column)) for line in points for column, row in line)


def test_the_costliest_mistake_stands_on_top_and_the_title_counts_the_mild():
    figure = plots.divergence_map(NATS, AGREE, NAMES, list("abcd"), written=2)
    title = figure.get_suptitle().replace("\n", " ")
    assert title == "1 of 3 mistakes leave nine of ten next tokens of this text as they should be"
    assert labels_of(figure.axes[0].yaxis) == ["wrong", "late", "mild"]
    assert labels_of(figure.axes[0].xaxis) == list("abcd")


def test_mistakes_that_are_equal_but_for_rounding_stand_in_the_order_in_which_they_were_given():
    nats = NATS[[1, 0, 0]] + 1e-6 * torch.tensor([[0.0], [0.0], [1.0]])  # the last one costs more by rounding
    assert labels_of(plots.divergence_map(nats, AGREE, NAMES, list("abcd")).axes[0].yaxis) == NAMES


def test_crosses_stand_where_another_token_is_likeliest():
    ax = plots.divergence_map(NATS, AGREE, NAMES, list("abcd")).axes[0]
    assert crosses(ax) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3)]


def test_checks_stand_by_what_they_find_and_a_cross_where_one_passes_what_costs_answers():
    checks = {"logits": [True, True, True], "last token": [False, False, True], "loss": [False, True, True]}
    figure = plots.check_grid(NAMES, checks, [False, True, True])
    title = figure.get_suptitle().replace("\n", " ")
    assert title == "Of 3 mistakes “last token” finds 1, “logits” finds all"
    ax = figure.axes[0]
    assert labels_of(ax.yaxis) == ["last token", "loss", "logits"]
    assert labels_of(ax.xaxis) == ["late", "wrong", "mild"]
    assert ax.images[0].get_array().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert crosses(ax) == [(0, 1)]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "found"]
