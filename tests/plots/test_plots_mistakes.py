"""What the figures of mistakes say is what the numbers say."""

import torch

from qwen3_scratch import plots

NAMES = ["mild", "wrong", "late"]
FAR = torch.tensor([[4e-4, 0.01, 0.0, 0.0], [0.4, 0.4, 0.4, 0.4], [0.0, 1e-5, 0.0, 0.9]])
AGREE = torch.tensor([[True, True, True, True], [False, False, False, False], [True, True, True, False]])


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def crosses(ax):
    """The marked cells as (row, column)."""
    points = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "x"]
    return sorted((int(row), int(column)) for line in points for column, row in line)


def test_mistakes_stand_by_where_they_begin_then_by_cost_and_the_title_counts_those_that_begin_later():
    figure = plots.difference_map(FAR, AGREE, NAMES, list("abcd"), written=2)
    title = figure.get_suptitle().replace("\n", " ")
    assert title == "1 of 3 mistakes leave all logits of the first token as they should be"
    assert labels_of(figure.axes[0].yaxis) == ["wrong", "mild", "late"]
    assert labels_of(figure.axes[0].xaxis) == list("abcd")


def test_a_cell_is_white_up_to_the_bound_and_as_dark_as_its_difference_beyond():
    image = plots.difference_map(FAR, AGREE, NAMES, list("abcd")).axes[0].images[0]
    assert torch.equal(torch.tensor(image.get_array()), FAR[[1, 0, 2]].clamp(min=1e-4))
    assert (image.norm.vmin, image.norm.vmax) == (1e-4, 1)
    assert not float(image.norm(1e-4))


def test_a_thin_line_stands_below_the_mistakes_that_begin_at_one_token():
    lines = plots.difference_map(FAR, AGREE, NAMES, list("abcd")).axes[0].lines
    assert [line.get_ydata()[0] for line in lines if line.get_marker() != "x"] == [1.5]


def test_a_mistake_that_is_nowhere_beyond_the_bound_stands_last():
    far = torch.cat((torch.full((1, 4), 5e-5), FAR[2:]))
    assert labels_of(plots.difference_map(far, AGREE[:2], ["unseen", "late"], list("abcd")).axes[0].yaxis) == [
        "late",
        "unseen",
    ]


def test_mistakes_that_are_equal_but_for_rounding_stand_in_the_order_in_which_they_were_given():
    far = FAR[[1, 0, 0]] + 1e-6 * torch.tensor([[0.0], [0.0], [1.0]])  # the last one costs more by rounding
    assert labels_of(plots.difference_map(far, AGREE, NAMES, list("abcd")).axes[0].yaxis) == NAMES


def test_crosses_stand_where_another_token_is_likeliest():
    ax = plots.difference_map(FAR, AGREE, NAMES, list("abcd")).axes[0]
    assert crosses(ax) == [(0, 0), (0, 1), (0, 2), (0, 3), (2, 3)]


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
