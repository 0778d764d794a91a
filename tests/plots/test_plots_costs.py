"""What the figures of cost, sampling and upcycling say is true."""

import pytest
import torch

from qwen3_scratch import plots
from qwen3_scratch.plots.costs import short


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_counts_are_written_in_three_digits():
    assert [short(number) for number in (0, 7, 1234, 56_700_000, 8.91e9, 2e12)] == [
        "0",
        "7",
        "1.23k",
        "56.7M",
        "8.91G",
        "2T",
    ]


def test_decoding_cost_sums_what_lies_between_the_lengths():
    figure = plots.decoding_cost([10, 20, 40], {"slow": [100, 200, 400], "fast": [10, 10, 10]})
    assert title(figure) == "After 30 new tokens “slow” has done 25 times the work of “fast”"  # 7,500 / 300
    totals = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[1].lines}
    assert totals == {"slow": [1500, 7500], "fast": [100, 300]}


def test_cache_size_names_the_largest_and_the_smallest():
    figure = plots.cache_size([8, 16], {"all": [800, 1600], "grouped": [400, 800], "window": [200, 200]})
    assert title(figure) == "At 16 tokens: 1.6kB with “all”, 200B with “window”"


def test_sampling_steps_count_what_is_left_and_cross_out_the_rest():
    first = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.0])
    figure = plots.sampling_steps({"all": first, "cut": torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0])}, None)
    assert title(figure) == "2 of 4 tokens can still be drawn; “#1” goes from 40% to 60%"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["all\n4 left", "cut\n2 left"]
    assert ticks(figure.axes[0].yaxis) == ["#1", "#2", "#3", "#0", "#4"]
    (crossed,) = (line.get_ydata().tolist() for line in figure.axes[1].lines)
    assert crossed == [2, 3, 4]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.49, 0), (0.5, 2), (0.99, 2)])
def test_inverse_draw_finds_the_token_and_leaves_out_what_cannot_be_drawn(uniform, token):
    figure = plots.inverse_draw(torch.tensor([0.5, 0.0, 0.5]), uniform, None)
    assert title(figure) == f"The number {uniform:.2f} falls into the stretch of “#{token}”, which is 50.0% long"
    assert ticks(figure.axes[0].yaxis) == ["#0", "#2"]


def test_shares_right_names_the_group_with_the_widest_gap():
    shares = {"facts": {"a": 1.0, "b": 0.9}, "sums": {"a": 0.8, "b": 0.2}}
    assert title(plots.shares_right(shares, 20)) == "Sums: “a” is right on 80% of 20, “b” on 20%"
    level = {"facts": {"a": 0.0, "b": 0.0}}
    assert title(plots.shares_right(level, 4)) == "Every way of asking is right on 0% of 4 questions"


def test_agreement_bars_count_the_exact_and_name_the_worst():
    figure = plots.agreement_bars({"a": 1.0, "b": 0.5, "c": 0.25})
    assert title(figure) == "1 of 3 always agree with the dense model; “c” on 25%"


def test_router_splits_give_the_range_and_the_middle_half():
    figure = plots.router_splits(torch.tensor([[0.1, 0.4], [0.6, 0.9], [0.5, 0.5]]))
    expected = "Random routers give expert 1 10% to 90% of a layer's tokens, half the routers 43% to 58%"
    assert title(figure) == expected
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines[1:4:2]] == [
        pytest.approx([0.5, 0.5]),
        pytest.approx([0.5, 0.5]),
    ]
