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


def test_the_heads_are_those_of_the_layer_in_which_one_looks_most_at_the_token():
    looks = torch.tensor([[[0.4, 0.1, 0.5], [0.2, 0.1, 0.7]], [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]]])
    figure = plots.word_heads(looks, ["Nora", "Leo", "coat"], 1)
    assert title(figure) == "In layer 1 head 0 gives “Leo” 70%, any other head at most 10%"
    heads, _ = figure.axes
    assert [text.get_text() for text in heads.texts] == ["10", "70", "20", "80", "10", "10"]
    assert heads.get_ylabel() == "head of layer 1"


def test_the_title_tells_the_weight_that_both_places_give_to_the_same_experts_and_that_of_other_tokens():
    t, shared = passed(4), {place: [] for place in (0, 2, 3)}
    for one in plots.routes(t).values():
        given = [dict(zip(*(part[at].tolist() for part in (one.experts, one.weights)), strict=True)) for at in range(4)]
        for place, each in shared.items():
            both = sum(min(weight, given[place].get(expert, 0)) for expert, weight in given[1].items())
            each.append(both / sum(given[1].values()))
    same, *others = (sum(shared[place]) / len(shared[place]) for place in (3, 0, 2))
    figure = plots.word_experts(t, [1, 3], ["in one", "in two"])
    wanted = f"{same:.0%} of the weight goes to the same experts (with other tokens {sum(others) / 2:.0%})"
    assert title(figure) == f"Same word, other place: {wanted}"
    assert title(plots.word_experts(passed(1), [0], ["alone"])).endswith("100% of the weight goes to the same experts")
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
