"""What the figures of qwen3_scratch.plots.router_findings say is what their numbers say."""

import io
import math

import pytest
import torch
from matplotlib.image import imread

from qwen3_scratch import plots
from qwen3_scratch.plots.canvas import by_group, half_interval, layers_named, student


def title(figure):
    return " ".join(figure.get_suptitle().split())


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_the_words_of_experts_stand_in_their_cells_with_their_blanks_and_once():
    figure = plots.expert_words(
        {3: [[" Tom", "Tom", " Tom"], []], 5: [["1"], ["a", "b"]]},
        {3: [0.9, math.nan], 5: [0.5, 0.4]},
        torch.tensor([0.6, 0.3]),
        torch.tensor([0.02, 0.1]),
        torch.arange(2000) // 20,
    )
    assert title(figure) == (
        "60% ± 2% of these words' tokens go to their expert on the other questions, too; to the busiest expert of a "
        "layer go 30% ± 10% (n = 2,000 tokens in 2 layers, 100 questions)"
    )
    assert texts(figure.axes[0]) == [
        *("layer 3", "90%", "␣Tom   Tom", "layer 5", "50%", "1", "40%", "a   b", "expert 0", "expert 1")
    ]


def test_layers_are_named_as_spans_and_counted_where_they_are_many_and_apart():
    assert layers_named([0, 1, 2, 5]) == "layers 0 to 2 and 5" and layers_named([0, 2, 4, 6, 8]) == "5 layers"


def test_the_largest_and_the_mildest_change_are_named_with_the_interval_over_texts():
    changes = {"random experts": torch.tensor([[0.0, 0.2], [0.4, 0.6]]), "equal weights": torch.zeros(2, 2)}
    figure = plots.changes_of_loss(changes, ["layer 0", "layer 3"], "its own routes")
    assert title(figure) == (
        "Largest sure rise: random experts, 0.5 ± 0.2 nats a token at layer 3; equal weights: at most 0 (n = 2 texts)"
    )
    alone = plots.changes_of_loss({"k = 1": torch.ones(1, 4)}, ["sums"], "k = 2")
    assert title(alone) == "Largest sure rise: k = 1, 1 ± 0 nats a token at sums (n = 4 texts)"
    unsure = plots.changes_of_loss({"k = 1": torch.tensor([[0.0, 0.02]])}, ["sums"], "k = 2")
    assert title(unsure) == "No rise whose interval leaves out 0 (n = 2 texts)"


def test_what_is_said_without_an_expert_is_counted_by_what_it_makes_and_dark_where_right():
    right = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    said = [[["3", " mo"], ["5", "\n"]], [["1", "2"], ["3", "4"]]]
    figure = plots.said_without(said, right, {"+": "sums", "*": "products"}, "expert 7 of layer 2", [8, 9])
    assert title(figure) == "1 of 4 sums, 4 of 4 products stay right without expert 7 of layer 2"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a + b", "a * b"]
    assert texts(figure.axes[0]) == ["3", "␣mo", "5", "⏎"] and texts(figure.axes[1]) == ["1", "2", "3", "4"]
    shades = [ax.images[0].get_array().tolist() for ax in figure.axes]
    assert shades[0][0][0] == shades[1][1][1] > 0.8 and shades[0][0][1] == shades[0][1][1] < 0.1
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["8", "9"]


def test_a_picture_in_few_colours_looks_the_same_and_is_smaller():
    lifts = {name: (torch.rand(4) + 1, torch.rand(4) / 9) for name in ("the first choice", "the others")}
    figure = plots.expert_lifts(lifts, 2000, 70, range(4))
    few, about = figure._repr_png_()
    figure.few_colours = False
    whole, same = figure._repr_png_()
    assert about == same and len(few) < 0.6 * len(whole)
    small, large = (imread(io.BytesIO(png)) for png in (few, whole))
    assert small.shape == large.shape and abs(small - large).max() < 1 / 28


def test_small_groups_get_wider_intervals_by_students_factor():
    tables = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262, 24: 2.069, 1000: 1.962}
    assert [student(n) for n in tables] == pytest.approx([*tables.values()], rel=0.01)
    values, group = torch.rand(2, 3, 9), torch.tensor([0, 1, 0, 1, 1, 1, 1, 0, 0])
    mean, half = by_group(values, group)
    assert mean.shape == half.shape == (2, 3, 2)
    its = values[1, 2, group == 1]
    torch.testing.assert_close(mean[1, 2, 1], its.mean())
    torch.testing.assert_close(half[1, 2, 1], half_interval(its[None], student(5))[0])
    assert by_group(values[0, 0], group)[0].shape == (2,)
