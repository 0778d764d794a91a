"""The first pictures say what the numbers say of one word on its way."""

import pytest
import torch
from drawings import passed, title

from qwen3_scratch import plots
from qwen3_scratch.plots.one_word import interval


def test_two_vectors_are_compared_whole_and_shown_in_part():
    same, apart = [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    figure = plots.word_vectors(torch.tensor([same, same, apart]), ["here", "there"], shown=2)
    assert title(figure) == "The word begins as the same numbers at both places; layer 1 parts them most"
    *rows, cosines = figure.axes
    assert [len(ax.patches) for ax in rows] == [2, 2, 2]
    assert cosines.lines[0].get_ydata() == pytest.approx([1, 1, 0])
    assert [text.get_text() for text in cosines.texts] == ["0.00"]
    across = torch.tensor([[[0.0, 1.0, 0.0]]] * 3)  # one other token, at last as the second place
    figure = plots.word_vectors(torch.tensor([same, same, apart]), ["here", "there"], across, shown=2)
    assert figure.axes[-1].lines[1].get_ydata() == pytest.approx([0, 0, 0.5])
    figure = plots.word_vectors(torch.tensor([same, same]), ["here", "there"])
    assert title(figure).endswith("no layer tells the two apart")


def test_what_a_word_looks_back_at_is_another_word():
    looks = torch.tensor([[0.1, 0.0, 0.9], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]])
    figure = plots.word_looks(looks, ["Nora", "Leo", "coat"])
    assert title(figure) == "“coat” looks back most in layer 1: 60% at “Leo” (place 1); the next look has 60%"
    assert figure.alt.endswith("Most in each layer: “Nora” (place 0) in layers 0 and 2, “Leo” (place 1) in layer 1.")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["Nora 0", "Leo 1", "coat 2"]
    _, *frames = figure.axes[0].patches
    assert [(frame.get_x(), frame.get_y()) for frame in frames] == [(-0.5, -0.5), (0.5, 0.5), (-0.5, 1.5)]
    deep = plots.word_looks(looks[[0, 1, 2, 0, 1, 2, 0]], ["Nora", "Leo", "coat"])
    assert deep.alt.endswith("Most in each layer: “Nora” (place 0) in 5 of 7 layers.")
    assert title(plots.word_looks(torch.ones(2, 1), ["coat"])) == "“coat” has no word before it to look at"


def test_what_stands_before_the_start_is_summed_in_one_column_without_shade():
    looks = torch.tensor([[0.1, 0.2, 0.5, 0.2], [0.5, 0.1, 0.3, 0.1]])
    figure = plots.word_looks(looks, ["Nora", "has", "Leo", "coat"], 2)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0 to 1 together", "Leo 2", "coat 3"]
    assert [text.get_text() for text in ax.texts] == ["30", "50", "20", "60", "30", "10"]
    assert ax.images[0].get_array()[:, 0].tolist() == [0, 0]
    _, *frames = ax.patches  # layer 1 looks most at a place that is summed
    assert [(frame.get_x(), frame.get_y()) for frame in frames] == [(0.5, -0.5)]
    assert "“Nora” (place 0) in layer 1" in figure.alt


def test_choices_of_an_expert_are_counted_at_both_places():
    t = passed(4)
    same = [len(set(one.experts[1].tolist()) & set(one.experts[3].tolist())) for one in plots.routes(t).values()]
    figure = plots.word_experts(t, [1, 3], ["in one", "in two"])
    assert title(figure) == f"Same word, other place: {6 - sum(same)} of 6 choices differ; by chance 4.5 would"
    assert "dense" in title(plots.word_experts(passed(4, num_experts=0), [1, 3], ["in one", "in two"]))


@pytest.mark.parametrize(
    ("notes", "direct", "said"),
    [
        (30, 10, "Answers after notes are right more often than answers at once"),
        (10, 30, "Answers at once are right more often than answers after notes"),
        (20, 18, "Answers after notes and answers at once cannot be told apart by so few questions"),
    ],
)
def test_two_ways_of_answering_differ_where_their_intervals_do(notes, direct, said):
    right = {
        "after notes": [True] * notes + [False] * (31 - notes),
        "at once": [True] * direct + [False] * (31 - direct),
    }
    figure = plots.right_with_notes(right, 0.4)
    assert title(figure) == said
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([notes / 31, direct / 31])
    assert f"{direct} of 31 at once" in figure.alt


def test_the_interval_of_a_share_is_wilsons():
    assert interval(10, 10) == pytest.approx((0.722, 1.0), abs=1e-3)
    assert interval(5, 10) == pytest.approx((0.237, 0.763), abs=1e-3)


@pytest.mark.parametrize(
    ("best", "said"), [(2, "right, with"), (1, "wrong: “#2” gets"), (3, "neither of the two names:")]
)
def test_the_first_word_is_judged(best, said):
    logits = torch.zeros(5)
    logits[best] = 3.0
    assert f"“#{best}”, and that is {said}" in title(plots.first_words(logits, None, right=2, wrong=1))
