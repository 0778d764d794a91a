"""What the figures about heads say is what the numbers say."""

import pytest
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


def test_columns_left_out_change_no_distance():
    weights = torch.tensor([[0.0, 0.0, 0.2, 0.8, 0.0], [0.0, 0.0, 0.7, 0.2, 0.1]])
    figure = plots.head_map(weights, list("abcde"), "L0H1", links=2, start=2)
    assert texts(figure) == ["d → d: 80%, itself\ne → c: 70%, 2 back"]


@pytest.mark.parametrize(
    ("marked", "end"),
    [
        ([(0, 0), (0, 1)], "; without one of the seekers, to 90% at worst"),
        ([(1, 2)], ", one of the seekers"),
    ],
)
def test_damage_tells_whether_the_head_that_is_missed_most_is_one_of_the_marked(marked, end):
    title = plots.head_damage(scores(0.4, 0.9), 0.99, marked, "seekers").get_suptitle().replace("\n", " ")
    assert title == "Without L1H2 the right word falls from 99% to 40%" + end


def test_knock_outs_name_the_worst_and_label_each_bar():
    figure = plots.knock_outs({"all heads": 1.0, "L1H0": 0.99, "L1H0, L1H1": 0.3}, found=["L1H0"])
    assert figure.get_suptitle() == "The right word: 100% with all heads, 30% without L1H0, L1H1"
    assert texts(figure) == ["100%", "99%", "30%"]


def test_right_and_wrong_starts_with_the_head_that_looks_most_at_either():
    figure = plots.right_and_wrong(scores(0.4, 0.1), scores(0.3, 0.45), "name")
    assert figure.get_suptitle() == "L0H0 gives 10% of its weight to the right name, 45% to a wrong one"


def test_the_lesson_with_the_largest_rise_is_named():
    steps, right = [100, 200, 300, 400], [0.1, 0.2, 0.8, 0.9]
    figure = plots.score_history(steps, {"stories": right}, {0: "quotes", 200: "rings", 300: "more"})
    assert figure.get_suptitle() == "Stories rise from 20% to 80% while the lesson is “rings”"
