"""What the figures of `qwen3_scratch.plots.positions` and `.long_texts` say is what their numbers are."""

import math

import pytest
import torch
from drawings import title

from qwen3_scratch import model, plots
from qwen3_scratch.plots.canvas import student


def lines(figure):
    """Each line of the first axes by its name."""
    return {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if line.get_label()[0] != "_"}


def bars(figure):
    """Each line with intervals by its name: its heights."""
    return {bar.get_label(): bar.lines[0].get_ydata().tolist() for ax in figure.axes for bar in ax.containers}


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
    torch.testing.assert_close(found, torch.tensor([right, right, up, right]), atol=1e-6, rtol=0)


def test_pair_wavelengths_counts_the_pairs_that_never_come_round():
    figure = plots.pair_wavelengths(2 * math.pi / torch.tensor([10.0, 1000.0, 1001.0]), 1000)
    assert title(figure) == "1 of 3 pairs do not complete one turn within 1,000 positions"
    assert lines(figure)["comes round"] == pytest.approx([10, 1000, 1001])
    assert lines(figure)["does not"] == pytest.approx([1001])


@pytest.mark.parametrize(("head_dim", "shared"), [(8, "none"), (2, "1")])
def test_halves_and_neighbours_joins_the_numbers_of_each_pair(head_dim, shared):
    figure = plots.halves_and_neighbours(head_dim)
    pairs = head_dim // 2
    assert title(figure) == f"Of {pairs} pairs, halves and neighbours have {shared} in common"
    joined = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in figure.axes[0].lines]
    assert joined[:pairs] == [(pair, pair + pairs) for pair in range(pairs)]
    assert joined[pairs:] == [(2 * pair, 2 * pair + 1) for pair in range(pairs)]


def test_looks_by_distance_takes_the_head_that_looks_most_at_the_token_before():
    turned, still = torch.zeros(3, 2, 6, 6), torch.zeros(3, 2, 6, 6)  # [texts, heads, seq, seq]
    for far, weights, head, weight in (
        (1, turned, 1, 0.6),
        (1, turned, 0, 0.3),
        (2, turned, 0, 0.9),
        (1, still, 1, 0.125),
    ):
        weights[:, head, range(far, 6), range(6 - far)] = weight
    figure = plots.looks_by_distance(turned, still, most=4)
    assert title(figure) == "Head 1 gives the token before 60% of its weight, unturned 12%"
    assert bars(figure)["turned by position"] == pytest.approx([0, 0.6, 0, 0, 0])
    assert bars(figure)["not turned"] == pytest.approx([0, 0.125, 0, 0, 0])
    assert "n = 3 texts" in figure.axes[0].get_xlabel()


def test_score_waves_is_the_score_of_what_rope_turned_with_the_pair_that_changes_most():
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=random).double()
    speeds = torch.tensor([1.0, 0.2, 0.05, 1e-6])
    figure = plots.score_waves(query, key, speeds, ("q", "k"), farthest=9)
    angles = torch.arange(10)[:, None] * speeds.double()
    cos, sin = torch.cat((angles, angles), 1).cos()[None], torch.cat((angles, angles), 1).sin()[None]
    turned = model.rope(query.expand(1, 1, 10, 8), cos, sin)[0, 0]
    assert lines(figure)["sum of all pairs"] == pytest.approx((turned @ key / 8**0.5).tolist())
    shown = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines if line.get_label()[0] != "_"}
    halves = (turned * key).unflatten(1, (2, 4)).sum(1) / 8**0.5  # [distances, pairs]
    pair = int((halves.amax(0) - halves.amin(0)).argmax())
    assert sorted(shown) == ["all other pairs", f"pair {pair}"]
    assert shown[f"pair {pair}"] == pytest.approx(halves[:, pair].tolist())
    rest = halves.sum(1) - halves[:, pair]
    assert shown["all other pairs"] == pytest.approx(rest.tolist())
    best = int(halves.sum(1).argmax())
    assert title(figure) == (
        f"“q” with “k” scores highest at distance {best}: "
        f"{halves[best, pair]:.1f} from pair {pair}, {rest[best]:.1f} from the rest"
    )


def test_met_angles_counts_the_pairs_that_were_not_round_once():
    figure = plots.met_angles(2 * math.pi * torch.tensor([2.0, 0.25]) / 100, 50, 100, 200)
    assert title(figure) == "1 of 2 pairs do not come round within the 100 tokens of the longest chat sampled"
    assert [written(ax) for ax in figure.axes] == [["nothing\nnew"], ["new"]]
    assert [ax.get_xlabel() for ax in figure.axes] == ["2 turns\nwithin 100", "0.25 turns\nwithin 100"]
    half = 0.5**0.5
    ends = [line.get_xydata()[[0, -1]].ravel() for line in figure.axes[1].lines]
    wanted = [[1, 0, half, half], [half, half, 0, 1], [0, 1, -1, 0]]  # an eighth, an eighth more, a quarter that is new
    for found, expected in zip(ends, wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    assert len(figure.axes[0].lines) == 1  # half the chats came round
    slow = plots.met_angles(2 * math.pi * torch.tensor([2.0, 0.2, 0.1]) / 100, 50, 100, 200)
    titles = [ax.get_title(loc="left") for ax in slow.axes]
    assert titles == ["pair 0", "pair 1"]  # the last turns a fifth within 200, too little to be seen


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


def test_mean_losses_tell_what_costs_more_than_the_first_way_and_whether_any_costs_less():
    losses = {"default": torch.tensor([0.0, 0.2]), "linear": torch.tensor([1.0, 2.0]), "yarn": torch.tensor([0.5, 0.5])}
    figure = plots.mean_losses({"no gap": losses, "a gap": {name: each + 1 for name, each in losses.items()}})
    assert title(figure) == "No gap: linear costs 1.40 nats more than default; a gap: no way costs less than default"
    slow = {"linear": losses["linear"], "yarn": losses["yarn"]}
    assert title(plots.mean_losses({"behind": slow})).endswith("no way costs more; behind: yarn 1.00 less")
    near, far = figure.axes
    assert [ax.get_title(loc="left") for ax in (near, far)] == ["no gap", "a gap"]
    dots = [bar.lines[0].get_xydata()[0].tolist() for bar in near.containers]
    assert dots == [pytest.approx([0.1, 0]), pytest.approx([1.5, 1]), pytest.approx([0.5, 2])]
    (ends,) = (bar.lines[2][0].get_segments()[0][:, 0].tolist() for bar in near.containers[1:2])
    half = student(2) * 0.5  # a deviation of 0.71 over the root of 2
    assert ends == pytest.approx([1.5 - half, 1.5 + half])
    assert figure.alt.endswith(f"a gap: default 1.10 ± {0.2 * half:.2f}, linear 2.50 ± {half:.2f}, yarn 1.50 ± 0.00.")


def test_mean_losses_about_one_way_tell_what_it_costs_in_each_setting_next_to_the_first():
    settings = {"no gap": (0.1, 0.102), "a gap": (1.6, 1.0), "behind": (0.5, 0.75)}
    losses = {way: {"default": torch.tensor([a]), "yarn": torch.tensor([b])} for way, (a, b) in settings.items()}
    expected = "Next to default yarn costs no more (no gap), 0.60 nats less (a gap), 0.25 more (behind)"
    assert title(plots.mean_losses(losses, about="yarn")) == expected


def test_trained_longer_tells_of_the_first_way_before_and_after_all_steps():
    kinds = {"default": torch.tensor([[3.0, 2.0], [0.5, 0.1]]), "yarn": torch.tensor([[6.0, 6.0], [0.2, 0.2]])}
    alone = {"default": torch.zeros(2, 2), "yarn": torch.tensor([[4.0, 6.0], [1.0, 1.0]])}
    figure = plots.trained_longer([0, 60], {"behind 512 tokens": kinds, "alone": alone})
    expected = "60 steps on longer rows bring the loss behind 512 tokens from 2.5 nats and more to 0.3 at most"
    assert title(figure) == expected
    assert lines(figure)["default"] == pytest.approx([2.5, 0.3])
    high = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1].max()
    assert high == pytest.approx(2.5 + student(2) * 0.5)  # a deviation of 0.71 over the root of 2
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["behind 512 tokens", "alone"]
    assert "alone: default 0.00 to 0.00, yarn 5.00 to 1.00." in figure.alt
