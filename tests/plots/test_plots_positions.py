"""What the figures of `qwen3_scratch.plots.positions` and `.long_texts` say is what their numbers are."""

import math

import pytest
import torch
from drawings import title

from qwen3_scratch import plots


def lines(figure):
    """Each line of the first axes by its name."""
    return {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if line.get_label()[0] != "_"}


def bars(figure):
    """Each line with intervals by its name: its heights."""
    return {bar.get_label(): bar.lines[0].get_ydata().tolist() for bar in figure.axes[0].containers}


def written(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_one_pair_turns_both_arrows_and_writes_angle_and_score():
    figure = plots.one_pair(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]), [(1, 0), (3, 2)], math.pi / 2)
    assert title(figure) == "The same distance gives the same angle and the same score (from k to q, anticlockwise)"
    first, second = (torch.tensor([arrow.xy for arrow in ax.texts if not arrow.get_text()]) for ax in figure.axes)
    torch.testing.assert_close(first, torch.tensor([[-1.0, 2.0], [1.0, 2.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(second, -first, atol=1e-6, rtol=0)
    assert [written(ax) for ax in figure.axes] == 2 * [["q", "k", "53°"]]
    assert [ax.get_xlabel() for ax in figure.axes] == 2 * ["distance 1: score 3"]


def test_one_pair_claims_nothing_of_distances_that_differ():
    figure = plots.one_pair(torch.ones(2), torch.ones(2), [(1, 0), (2, 0)], 0.1)
    assert title(figure) == "The distance sets the angle (from k to q, anticlockwise)"


def test_clock_hands_point_where_the_pair_has_turned_and_the_title_says_how_far():
    figure = plots.clock_hands(torch.tensor([math.pi / 2, 0.0]), [0, 1])
    assert title(figure) == "Pair 0 has turned 90° by position 1, pair 1 only 0.0° by 1"
    hands = [line.get_xydata()[1] - line.get_xydata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    found = torch.tensor([hand.tolist() for hand in hands]) / 0.38
    up, right = [0.0, -1.0], [1.0, 0.0]  # rows count downwards
    torch.testing.assert_close(found, torch.tensor([up, up, right, up]), atol=1e-6, rtol=0)


def test_pair_wavelengths_counts_the_pairs_that_never_come_round():
    figure = plots.pair_wavelengths(2 * math.pi / torch.tensor([10.0, 1000.0, 1001.0]), 1000)
    assert title(figure) == "1 of 3 pairs do not turn once within 1,000 positions"
    assert lines(figure)["wavelength"] == pytest.approx([10, 1000, 1001])


@pytest.mark.parametrize(("head_dim", "shared"), [(8, "none"), (2, "1")])
def test_halves_and_neighbours_joins_the_numbers_of_each_pair(head_dim, shared):
    figure = plots.halves_and_neighbours(head_dim)
    pairs = head_dim // 2
    assert title(figure) == f"Of {pairs} pairs, halves and neighbours have {shared} in common"
    joined = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in figure.axes[0].lines]
    assert joined[:pairs] == [(pair, pair + pairs) for pair in range(pairs)]
    assert joined[pairs:] == [(2 * pair, 2 * pair + 1) for pair in range(pairs)]


def test_guesses_kept_shows_the_first_positions_singly_then_blocks_and_counts_those_at_which_all_stay():
    kept = torch.tensor([[True, True, False, True], [True, False, False, True]])
    figure = plots.guesses_kept({"one": kept, "two": torch.ones(2, 4).bool()}, torch.ones(4) / 2, block=1)
    assert title(figure) == (
        "All guesses stay at the first 1 of 4 positions; from 1 on, “one” keeps 50 ± 33 points fewer than “two”"
    )
    assert bars(figure) == {"one: 50% from 1 on": [1, 0.5, 0, 1], "two: 100% from 1 on": [1, 1, 1, 1]}
    kept = kept.repeat(1, 2)
    figure = plots.guesses_kept({"one": kept, "two": kept}, torch.ones(8) / 2, block=2)
    assert title(figure).endswith("from 2 on, “one” keeps about as many as “two” (difference 0 ± 0 points)")
    assert bars(figure)["one: 58% from 2 on"] == [1, 0.5, 0, 1, 0.75, 0.5]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "3", "4-5", "6-7"]
    assert list(figure.axes[0].get_xticks()) == pytest.approx([0, 1, 2, 3, 4.6, 5.6])  # a gap where means begin
    assert figure.axes[0].get_xlabel() == "positions (n = 2 chats, bars: 95%; right of the line, means of 2 positions)"


def test_looks_by_distance_takes_the_head_that_looks_most_at_the_three_before():
    turned, still = torch.zeros(2, 3, 2, 6, 6), torch.zeros(2, 3, 2, 6, 6)  # [layers, texts, heads, seq, seq]
    for far, weights, where, weight in ((1, turned, (1, 0), 0.3), (2, turned, (1, 0), 0.3), (0, turned, (0, 1), 0.9),
                                        (3, still, (1, 0), 0.125)):  # fmt: skip
        weights[where[0], :, where[1], range(far, 6), range(6 - far)] = weight
    figure = plots.looks_by_distance(turned, still, most=4)
    assert title(figure).startswith("Head 0 of layer 1 gives the three tokens before 60% of its weight")
    assert title(figure).endswith("unturned 12%")
    assert bars(figure)["turned by position"] == pytest.approx([0, 0.3, 0.3, 0, 0])
    assert "n = 3 texts" in figure.axes[0].get_xlabel()


def test_met_angles_counts_the_pairs_that_were_not_round_once():
    figure = plots.met_angles(2 * math.pi * torch.tensor([2.0, 0.25]) / 100, 50, 100, 200)
    assert title(figure) == "1 of 2 pairs do not come round within the 100 tokens of the longest chat"
    assert [written(ax) for ax in figure.axes] == [["nothing\nnew"], ["new"]]
    assert [ax.get_xlabel() for ax in figure.axes] == ["2 turns", "0.25 turns"]
    half = 0.5**0.5
    ends = [line.get_xydata()[[0, -1]].ravel() for line in figure.axes[1].lines]
    wanted = [[1, 0, half, half], [half, half, 0, 1], [0, 1, -1, 0]]  # an eighth, an eighth more, a quarter that is new
    for found, expected in zip(ends, wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    assert len(figure.axes[0].lines) == 1  # half the chats came round


def test_slowed_pairs_counts_what_keeps_its_speed_in_each_shape():
    speeds, halved = torch.tensor([1.0, 0.1, 0.01]), torch.tensor([1, 0.5, 0.25])
    short = {"default": speeds, "linear": speeds / 4, "yarn": speeds * halved}
    long = {"default": speeds[:2], "linear": speeds[:2] / 4, "yarn": speeds[:2]}
    figure = plots.slowed_pairs({"here": short, "there": long})
    assert title(figure) == "yarn keeps the full speed of 1 of 3 pairs here, of 2 of 2 pairs there"
    here, there = figure.axes
    assert here.get_title(loc="left") == "here, at full speed: 0 with linear, 1 with yarn"
    assert there.get_title(loc="left") == "there, at full speed: 0 with linear, 2 with yarn"
    assert list(here.lines[1].get_ydata()) == pytest.approx([100, 50, 25])
    assert list(there.lines[1].get_ydata()) == pytest.approx([100, 100])
    assert title(plots.slowed_pairs({"here": short})) == "yarn keeps the full speed of 1 of 3 pairs here"


def test_loss_over_gaps_names_those_that_lose_less_or_more_for_sure():
    losses = {"default": torch.tensor([[0.0, 0.2], [1.5, 1.7]]), "yarn": torch.tensor([[0.3, 0.5], [0.9, 1.1]])}
    losses |= {"linear": losses["yarn"] + 2, "dynamic": torch.tensor([[0.0, 0.2], [1.4, 2.0]])}
    figure = plots.loss_over_gaps(losses, [0, 512])
    expected = "at a gap of 0 more with yarn and linear; at a gap of 512 less with yarn, more with linear"
    assert title(figure) == f"Loss against that of default: {expected}"
    assert bars(figure)["yarn"] == pytest.approx([0.3, -0.6])
    assert figure.axes[0].get_legend_handles_labels()[1] == ["default itself", "yarn", "linear", "dynamic"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "512"]
    assert "n = 2 chats" in figure.axes[0].get_xlabel()
    three = {"default": losses["linear"]} | dict.fromkeys("abc", losses["yarn"])
    assert title(plots.loss_over_gaps(three, [0, 512])).endswith("; at a gap of 512 less with a, b and c")
    same = {"default": losses["yarn"], "yarn": losses["yarn"]}
    assert title(plots.loss_over_gaps(same, [0, 512])).endswith("; at a gap of 512 none can be told apart")
