"""What the figures about heads say is what the numbers say."""

import torch

from qwen3_scratch import plots


def scores(best, others):
    values = torch.full((2, 4), others)
    values[1, 2] = best
    return values


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_the_best_head_is_named_with_its_share_and_that_of_an_even_look():
    figure = plots.head_scores(scores(0.57, 0.1), "the token before", chance=0.06)
    assert figure.get_suptitle() == "L1H2 gives 57% of its weight to the token before; an even look would give 6.0%"
    frame = figure.axes[0].patches[0]
    assert frame.get_xy() == (1.5, 0.5)


def test_a_best_head_near_chance_is_not_called_found():
    title = plots.head_scores(scores(0.11, 0.1), "the token before", chance=0.06).get_suptitle()
    assert title.startswith("No head seeks the token before") and "11%" in title and "6.0%" in title


def test_the_map_of_a_head_names_its_strongest_look_and_how_far_back_it_goes():
    weights = torch.eye(4)
    weights[3] = torch.tensor([0.1, 0.9, 0.0, 0.0])
    weights[1:3] = torch.tensor([[0.5, 0.5, 0, 0], [0.3, 0.3, 0.4, 0]])
    figure = plots.head_map(weights, list("abcd"), "L0H1", links=2)
    assert figure.get_suptitle().replace("\n", " ") == "L0H1 looks hardest from “d” at “b”, 2 back: 90%"
    assert texts(figure) == ["d → b: 90%, 2 back\nb → a: 50%, 1 back"]


def test_a_framed_look_is_told_in_place_of_the_strongest_and_framed_with_its_row():
    weights = torch.tensor([[0.0, 0.0, 0.2, 0.8, 0.0], [0.0, 0.0, 0.7, 0.2, 0.1]])
    figure = plots.head_map(weights, list("abcde"), "L0H1", start=2, frame=(4, 3))
    assert figure.get_suptitle().replace("\n", " ") == "L0H1 looks from “e” at “d”, 1 back: 20%"
    row, cell = figure.axes[0].patches
    assert row.get_xy() == (-0.5, 0.5) and row.get_width() == 3
    assert cell.get_xy() == (0.5, 0.5) and cell.get_width() == 1


def test_columns_left_out_change_no_distance():
    weights = torch.tensor([[0.0, 0.0, 0.2, 0.8, 0.0], [0.0, 0.0, 0.7, 0.2, 0.1]])
    figure = plots.head_map(weights, list("abcde"), "L0H1", links=2, start=2)
    assert texts(figure) == ["d → d: 80%, itself\ne → c: 70%, 2 back"]
