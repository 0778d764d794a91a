"""What the figures about heads say is what the numbers say."""

import torch
from drawings import title

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


def test_hidden_looks_say_what_is_left_of_the_weight_in_each_way():
    shares = torch.tensor([[0.9, 0.7], [0.0, 0.2], [0.9, 0.7]])
    ways, said = ("nothing", "this look", "all others"), ["Leo", "Mia", "Leo"]
    figure = plots.hidden_looks({"> coat": shares}, {"> coat": [1, 6]}, ways, {"> coat": said})
    assert title(figure) == "With this look hidden, the weight on the name changes from 80% to 10%"
    (ax,) = figure.axes
    heights = torch.tensor([bar.get_height() for bar in ax.patches])
    torch.testing.assert_close(heights, shares.T.flatten().double())  # head by head
    assert [text.get_text() for text in ax.texts] == ["1"] * 3 + ["6"] * 3
    assert [label.get_text() for label in ax.get_xticklabels()][1] == "this look\n→ Mia"
    nobody = plots.hidden_looks({"> coat": torch.ones(3, 0)}, {"> coat": []}, ways, {"> coat": said})
    assert title(nobody) == "No head gives the name more than half of its weight"


def test_a_look_that_follows_its_mark_is_said_to_and_drawn_beside_it():
    looks = {"as it is": torch.tensor([0.1, 0.0, 0.8, 0.1, 0.0]), "exchanged": torch.tensor([0.1, 0.1, 0.1, 0.0, 0.7])}
    marks = {"as it is": ["-", "coat", "Leo", "cup"], "exchanged": ["-", "cup", "Leo", "coat"]}
    labels = ["coat", "Leo", "cup", "Nora"]
    figure = plots.followed_mark(looks, marks, labels, "coat")
    assert title(figure) == "The look goes where “coat” is the mark: 80% on “Leo”, then 70% on “Nora”"
    for ax, (name, look) in zip(figure.axes, looks.items(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == look[1:].tolist()
        assert [text.get_text() for text in ax.texts if "%" not in text.get_text()] == marks[name]
        framed = [text.get_text() for text in ax.texts if text.get_bbox_patch()]
        assert framed == ["coat"] and ax.get_title("left") == f"{name} (on all tokens before: 10%)"
    looks["exchanged"] = looks["as it is"]
    assert title(plots.followed_mark(looks, marks, labels, "coat")).startswith("The look goes not always where “coat”")
