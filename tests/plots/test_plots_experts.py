"""What the figures of qwen3_scratch.plots.experts say is what their numbers say."""

import pytest
import torch
from drawings import title

from qwen3_scratch import plots
from qwen3_scratch.model import Route

DOMAINS = ("stories", "sums")


def test_guesses_are_titled_by_the_mean_of_the_best_and_drawn_layer_by_layer_with_intervals():
    right = {name: (torch.tensor(shares), torch.tensor([0.01, 0.02])) for name, shares in
             {"nothing": [0.2, 0.4], "word": [0.7, 0.9]}.items()}  # fmt: skip
    figure = plots.route_guesses(right, 1234, [1, 4])
    assert title(figure) == "80% of the experts are guessed right from the word alone, 30% from nothing (n = 1,234)"
    ax = figure.axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers if hasattr(bars, "patches")]
    assert heights == [pytest.approx([0.2, 0.4]), pytest.approx([0.7, 0.9])]
    ends = [segment[:, 1].tolist() for lines in ax.collections for segment in lines.get_segments()]
    assert ends[:2] == [pytest.approx([0.19, 0.21]), pytest.approx([0.38, 0.42])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 1", "layer 4"]


def test_a_pair_stands_at_the_end_of_the_title():
    right = {
        name: (torch.tensor([share]), torch.zeros(1)) for name, share in {"word": 0.7, "word + domain": 0.8}.items()
    }
    said = title(plots.route_guesses(right, 10))
    assert said == "70% of the experts are guessed right from the word alone; 80% from word + domain (n = 10)"


def test_an_expert_of_one_domain_and_one_that_is_busy_in_several_are_named():
    figure = plots.domain_experts(torch.tensor([[40.0, 0.0, 60.0], [10.0, 20.0, 70.0]]), DOMAINS, 2)
    assert title(figure) == "Layer 2: expert 1 reads sums alone, expert 2 most of 2 domains"
    assert [text.get_text() for text in figure.axes[0].texts] == ["40", "0", "60", "10", "20", "70"]
    mixed = plots.domain_experts(torch.tensor([[40.0, 60.0], [60.0, 40.0]]), DOMAINS, 0)
    assert title(mixed) == "Layer 0: 60% of expert 0's tokens are from sums"


def test_the_rise_by_the_first_choice_is_told_beside_that_by_the_best_of_the_others():
    each = {"the first choice": [2.0, 6.0], "the mean of the rest": [0.1, 0.2], "the best of the rest": [1.0, 3.0]}
    lifts = {name: (torch.tensor(mean), torch.full((2,), 0.1)) for name, mean in each.items()}
    figure = plots.expert_lifts(lifts, 2000, 70, [0, 3])
    assert title(figure) == (
        "The first choice raises the next token's logit by 2.0 to 6.0, the best of the rest by 1.0 to 3.0 "
        "(n = 2,000 tokens of 70 texts)"
    )
    ax = figure.axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers if hasattr(bars, "patches")]
    assert heights == [pytest.approx(mean) for mean in each.values()]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["layer 0", "layer 3"]


def test_words_that_stand_twice_are_titled_by_the_layers_in_which_they_keep_their_expert():
    def routes(*layers):
        return {
            number: Route(torch.ones(len(first), 1), torch.tensor(first)[:, None], torch.zeros(len(first), 8))
            for number, first in enumerate(layers)
        }

    twice = ["has", "kite", "has", "kite"]
    both = plots.word_routes(routes([1, 2, 1, 2], [3, 4, 3, 4], [1, 2, 3, 4]), twice)
    assert title(both) == "Both repeated words keep their expert in layers 0 and 1 and change it in layer 2"
    mixed = plots.word_routes(routes([1, 2, 1, 3]), twice)
    assert title(mixed) == "Both repeated words part ways in layer 0"
    alone = plots.word_routes(routes([1, 2, 1, 3]), ["a", "b", "a", "c"])
    assert title(alone) == "The repeated “a” keeps its expert in layer 0"
    none = plots.word_routes(routes([1, 2]), ["a", "b"])
    assert title(none).startswith("2 distinct paths")


def test_the_worst_knock_out_is_named_with_its_interval_and_numbers_stand_where_that_leaves_out_0():
    damage = torch.zeros(2, 4, 9)
    domain = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 0])
    damage[1, 3, domain == 1] = torch.tensor([0.4, 0.6, 0.4, 0.6])
    damage[1, 2, domain == 1] = torch.tensor([0.9, -0.1, 0.0, 0.0])  # one text alone
    damage[0, 0, domain == 0] = -1.0
    damage[0, 1, domain == 0] = 0.001
    figure = plots.expert_knockouts(damage, domain, DOMAINS, [0, 2])
    said = title(figure)
    assert said.startswith("In 2 of 16 cases the loss rises with an interval above 0 (by chance: 0); most for “sums” ")
    assert said.endswith("without expert 3 of layer 2: 0.5 ± 0.2 nats a token")
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == [
        "stories (n\u00a0=\u00a05)",
        "sums (n\u00a0=\u00a04)",
    ]
    first, second, _ = figure.axes
    assert [text.get_text() for text in first.texts if text.get_text()] == ["<.01"]
    assert [text.get_text() for text in second.texts if text.get_text()] == [".50"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["0", "2"]
