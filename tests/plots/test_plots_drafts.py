"""What stands of a draft, and what is accepted, as the figures draw it."""

import pytest
import torch
from drawings import title
from matplotlib.colors import to_hex

from qwen3_scratch import plots
from qwen3_scratch.plots.canvas import LIT, PALE


def faces(ax, row):
    """The shades of a row of boxes, from left to right."""
    return [to_hex(box.get_facecolor()) for box in ax.patches if abs(box.get_y() + 0.3 - row) < 1e-6]


def test_of_a_draft_stands_what_comes_before_its_first_wrong_guess_and_the_rest_is_rewound():
    figure = plots.draft_passes([["a", "b"], ["a", "x"], ["x", "b"]], ["a", "b", "c"], ["."])
    start = "A pass gives the guesses up to the first wrong one and one token more: here "
    assert title(figure) == start + "3, 2 and 1"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["gives: a b c", "gives: a b", "gives: a"]
    assert [faces(ax, 1).count(LIT) for ax in figure.axes] == [3, 2, 1]
    assert [faces(ax, 2).count(PALE) for ax in figure.axes] == [3, 2, 1]  # what stays in the cache
    marks = [
        [text.get_text() for text in ax.texts if text.get_text() in "=≠?" and text.get_text()] for ax in figure.axes
    ]
    assert marks == [["=", "="], ["=", "≠", "?"], ["≠", "?", "?"]]


def test_the_overlap_is_accepted_and_what_lacks_is_drawn():
    figure = plots.overlap_bars(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.8, 0.1, 0.1]), ("x", "y", "z"))
    assert title(figure).startswith("The overlap, 70%, is accepted;")
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0.5, 0.3, 0.1, 0.2, 0.1, 0.1])
    assert "“x” 50% + 0.0%, “y” 10% + 20%" in figure.alt


def test_a_draft_pays_where_it_gives_more_tokens_than_it_reads_passes():
    gives, reads = {"1/2": [1, 1.5, 1.75], "4/5": [1, 1.8, 2.44]}, {"dense": [1, 1, 1], "mixture": [1, 1.6, 2.5]}
    figure = plots.draft_yield(gives, reads)
    assert (
        title(figure)
        == "Drafts pay by 5% or more in dense with 1/2, 4/5 of guesses right; in mixture with 4/5 (1 guess)"
    )
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn["given: 1/2 are right"] == gives["1/2"] and drawn["read: mixture"] == reads["mixture"]
    assert figure.alt.startswith("Lines over the guesses") and "read in mixture 2.50" in figure.alt
    none = plots.draft_yield({"1/2": [1, 1.5]}, {"mixture": [1, 1.48]})  # a draw
    assert title(none) == "Drafts pay by 5% or more in mixture with no share of guesses right"
