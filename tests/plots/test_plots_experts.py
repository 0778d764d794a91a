"""What the figures of qwen3_scratch.plots.experts say is what their numbers say."""

import pytest
import torch
from drawings import title

from qwen3_scratch import plots

DOMAINS = ("stories", "sums")


def test_the_test_of_chance_counts_the_layers_that_each_kind_of_chance_reaches():
    shuffled = torch.zeros(100, 3)
    shuffled[:5, 2] = 1.0  # exactly 5% of the draws
    random = torch.ones(40, 3)
    random[2:, 0] = 0.0  # exactly 5% again
    random[1:, 1] = 0.0  # too few
    measured, words = torch.tensor([0.5, 0.6, 0.7]), torch.tensor([0.3, 0.4, 0.5])
    figure = plots.information_test(measured, shuffled, random, words, [0, 2, 3])
    expected = (
        "Shuffles reach the measured bits in 1 of 3 layers, random routers in 2; the words alone tell 0.40 bits of 0.60"
    )
    assert title(figure) == expected
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["layer 0", "layer 2", "layer 3"]
    assert [ax.lines[0].get_xdata()[0] for ax in figure.axes] == pytest.approx([0.5, 0.6, 0.7])
    assert [ax.lines[1].get_xdata()[0] for ax in figure.axes] == pytest.approx([0.3, 0.4, 0.5])
    for ax in figure.axes:  # both histograms hold all of their draws
        assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == pytest.approx([1.0, 1.0])


def test_guesses_are_titled_by_the_mean_of_the_best_and_drawn_layer_by_layer_with_intervals():
    right = {name: (torch.tensor(shares), torch.tensor([0.01, 0.02])) for name, shares in
             {"nothing": [0.2, 0.4], "word": [0.7, 0.9]}.items()}  # fmt: skip
    figure = plots.route_guesses(right, 1234, [1, 4])
    assert title(figure) == "80% of the experts are guessed right from word, 30% from nothing (n = 1,234)"
    ax = figure.axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers if hasattr(bars, "patches")]
    assert heights == [pytest.approx([0.2, 0.4]), pytest.approx([0.7, 0.9])]
    ends = [segment[:, 1].tolist() for lines in ax.collections for segment in lines.get_segments()]
    assert ends[:2] == [pytest.approx([0.19, 0.21]), pytest.approx([0.38, 0.42])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 1", "layer 4"]


def test_the_worst_knock_out_is_named_with_its_interval_and_numbers_stand_where_that_leaves_out_0():
    damage = torch.zeros(2, 4, 2, 4)
    damage[1, 3, 1] = torch.tensor([0.4, 0.6, 0.4, 0.6])
    damage[1, 2, 1] = torch.tensor([0.9, -0.1, 0.0, 0.0])  # one chat alone
    damage[0, 0, 0] = -1.0
    damage[0, 1, 0] = 0.001
    figure = plots.expert_knockouts(damage, DOMAINS, [0, 2])
    said = title(figure)
    assert said.startswith("In 2 of 16 cases the loss rises with an interval above 0 (by chance: 0); most for “sums” ")
    assert "without expert 3 of layer 2: 0.5 ± 0.1 nats a token (n = 4 chats each)" in said
    first, second, _ = figure.axes
    assert [text.get_text() for text in first.texts if text.get_text()] == ["<"]
    assert [text.get_text() for text in second.texts if text.get_text()] == [".50"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["0", "2"]
