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
    figure = plots.information_test(torch.tensor([0.5, 0.6, 0.7]), shuffled, random, [0, 2, 3])
    expected = "Shuffles reach the measured bits in 1 of 3 layers, random routers in 2 (at least 5% of the draws)"
    assert title(figure) == expected
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["layer 0", "layer 2", "layer 3"]
    assert [ax.lines[0].get_xdata()[0] for ax in figure.axes] == pytest.approx([0.5, 0.6, 0.7])
    for ax in figure.axes:  # both histograms hold all of their draws
        assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == pytest.approx([1.0, 1.0])


def test_guesses_are_titled_by_their_means_and_drawn_layer_by_layer():
    right = {"nothing": torch.tensor([0.2, 0.4]), "word": torch.tensor([0.7, 0.9])}
    figure = plots.route_guesses(right, [1, 4])
    assert title(figure) == "Guessed right, knowing nothing 30%, word 80%"
    ax = figure.axes[0]
    assert [[bar.get_height() for bar in bars] for bars in ax.containers] == [
        pytest.approx([0.2, 0.4]),
        pytest.approx([0.7, 0.9]),
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 1", "layer 4"]


def test_confidence_names_the_first_and_the_chosen_experts():
    ranked = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    expected = "The first expert gets 50% to 70% of the probability"
    assert title(plots.rank_shares(ranked, 2)) == f"{expected}, the first 2 get 80% to 90%"
    assert title(plots.rank_shares(ranked, 1)) == expected
    bars = plots.rank_shares(ranked, 2).axes[0].containers
    assert [bool(group[0].get_hatch()) for group in bars] == [False, False, True]  # hatched: not chosen


def test_the_worst_knock_out_is_named_with_its_standard_error():
    damage = torch.zeros(2, 4, 2, 4)
    damage[1, 3, 1] = torch.tensor([0.4, 0.6, 0.4, 0.6])
    damage[0, 0, 0] = -1.0
    figure = plots.expert_knockouts(damage, DOMAINS, [0, 2])
    assert title(figure) == "Worst: “sums” without expert 3 of layer 2 loses 0.5 ± 0.06 nats more per token"
    first, second, _ = figure.axes
    assert {text.get_text() for text in first.texts} == {""}
    assert [text.get_text() for text in second.texts if text.get_text()] == [".50"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["0", "2"]


def test_losses_by_top_k_are_titled_from_the_way_of_training():
    losses = {"renormalised": torch.tensor([[3.0, 5.0], [1.0, 2.0]]), "not": torch.tensor([[30.0, 50.0], [1.0, 2.0]])}
    figure = plots.loss_by_top_k(losses, [1, 2], DOMAINS, ("renormalised", 2))
    assert title(figure) == "Mean loss: 1.5 nats per token with the 2 of training; 4 with 1"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["renormalised (as trained)", "not"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[1].lines[:2]}
    assert lines == {"stories": [30.0, 1.0], "sums": [50.0, 2.0]}


def test_the_weight_of_one_of_two_experts_is_titled_by_its_median():
    difference = torch.tensor([-2.0, 0.5, 1.0])
    figure = plots.two_expert_weight(difference, difference.abs().sigmoid())
    assert title(figure) == "Not renormalised, half of the weights are below 0.73; renormalised all are 1"
    one, curve, tokens = figure.axes[0].lines
    assert set(one.get_ydata()) == {1.0}
    assert min(curve.get_ydata()) == pytest.approx(0.5)
    assert list(tokens.get_xdata()) == pytest.approx([-2.0, 0.5, 1.0])
