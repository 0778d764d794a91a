"""What the figures of neighbours, sinks and settling routes say is what their numbers say."""

import pytest
import torch

from qwen3_scratch import plots
from qwen3_scratch.inside.neighbours import Pair


def title(figure):
    return " ".join(figure.get_suptitle().split())


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def about(means, n=5):
    return torch.tensor(means)[..., None] + torch.linspace(-0.01, 0.01, n)


# ---- the first place -------------------------------------------------------------------------------


def test_tokens_are_told_in_the_first_place_and_elsewhere():
    tokens = {"<s>": about([0.4, 0.1, 0.2]), "word": about([0.05, 0.1, 0.1]), ".": about([0.1, 0.1, 0.1])}
    figure = plots.carried_tokens(tokens, [0, 1, 4], 0.06)
    assert title(figure) == (
        "Tokens get 5% to 40% of their best head in place 0, 10% to 20% elsewhere; an even look: 6.0%"
    )
    (ax,) = figure.axes
    lines = [bar[0].get_ydata().tolist() for bar in ax.containers]
    assert lines == [pytest.approx(each.mean(1).tolist()) for each in tokens.values()]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "4"]


# ---- beside the words ------------------------------------------------------------------------------


def estimates(*means):
    return {name: (torch.tensor(mean), torch.full((len(mean),), 0.01)) for name, mean in zip("ab", means, strict=True)}


def test_what_is_measured_is_told_beside_what_the_words_give_in_rows_above_below_and_unsure():
    found, half = estimates([0.2, 0.4, 0.3, 0.1], [0.1, 0.2, 0.3, 0.2]), torch.full((4,), 0.01)
    apart, rows = (torch.tensor([0.1, 0.2, 0.0, -0.1]), half), ["w", "x", "y", "z"]
    figure = plots.beside_words(found, apart, torch.full((4,), 0.05), rows, "persist")
    assert title(figure) == (
        "10% to 40% persist: more than b in w, x (by 10 to 20 points); less than b in z (by 10 points); "
        "no difference shown in y"
    )
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([0.2, 0.4, 0.3, 0.1, 0.1, 0.2, 0.3, 0.2])
    sure = plots.beside_words(found, (apart[0].abs() + 0.1, half), torch.zeros(4), rows, "bits are told", "{:.2f}")
    assert title(sure) == "0.10 to 0.40 bits are told: more than b everywhere (by 0.10 to 0.30)"


def test_pairs_are_drawn_as_multiples_of_their_loads_and_the_title_tells_the_other_questions():
    pairs = torch.tensor([[[0.0, 30, 10], [30, 0, 20], [10, 20, 0]]])
    chance = torch.tensor([[[0.0, 10, 30], [10, 0, 20], [30, 20, 0]]])
    figure = plots.co_activation(pairs, chance, [5], Pair(0, 0, 1, 2.84, 0.31, 15, 2000))
    assert title(figure) == (
        "Experts 0 and 1 of layer 5 answer together 2.8 ± 0.3 times as often as by their loads, on questions that did "
        "not choose them (15 of 2,000 tokens)"
    )
    assert texts(figure.axes[0]) == ["3.0", "0.3"]


# ---- over training ---------------------------------------------------------------------------------


def test_settling_routes_are_told_by_half_of_the_tokens_and_by_what_still_changes():
    steps = torch.tensor([100, 200, 300, 400])
    settled = torch.tensor([[0.2, 0.6], [0.5, 0.7], [0.9, 0.9], [1.0, 1.0]])
    changed = torch.tensor([[0.5, 0.4], [0.3, 0.2], [0.1, 0.1]])
    figure = plots.routes_over_training(steps, settled, torch.full((4, 2), 0.2), changed, 320, "9 tokens")
    assert title(figure) == (
        "Half of the tokens have their last expert by step 100 to 200 of 400; 20% to 30% change theirs before the "
        "learning rate falls, 10% at the end (n = 9 tokens)"
    )
    lines = [line.get_ydata().tolist() for ax in figure.axes for line in ax.lines if line.get_label()[:5] == "layer"]
    assert lines == [pytest.approx(one) for one in (*settled.T.tolist(), *changed.T.tolist())]
