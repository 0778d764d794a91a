"""What the figures about learning say is what the numbers say."""

import pytest
import torch
from drawings import history, title

from qwen3_scratch import load_balancing_loss, plots


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_target_losses_tell_what_counts_from_what_does_not_and_name_the_dearest_that_does():
    nats, counts = torch.tensor([4.0, 2.0, 0.5, 1.5, 1.0]), torch.tensor([0.0, 0.05, 1.0, 1.0, 1.0])
    figure = plots.target_losses(nats, counts, list("abcde"), 7.6)
    assert title(figure) == "“d” costs 1.50 nats, most of what counts fully; the rest costs 0.75 on average"
    assert sorted(legend(figure)) == ["chance", "counts a little", "counts fully", "does not count"]
    drawn = [[(bar.get_center()[0], bar.get_height()) for bar in bars] for bars in figure.axes[0].containers]
    fully, little, *bars = drawn
    assert bars == [[(2, 0.5), (3, 1.5), (4, 1.0)], [(1, 2.0)], [(0, 4.0)]]
    assert [place for place, _ in fully] == [2, 3, 4] and [place for place, _ in little] == [1]
    alone = plots.target_losses(nats[:3], counts[:3], list("abc"), 7.6)
    assert title(alone) == "“c” costs 0.50 nats, most of what counts fully"


def test_a_step_downhill_goes_against_the_slope_by_the_rate():
    figure = plots.step_downhill(lambda x: (x - 1) ** 2, 3.0, 0.25, "x")  # slope 4, a step of 1
    assert title(figure) == "At rate 0.25, a step against the slope of +4.00 takes the loss from 4.00 to 1.00"
    points = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert points["before the step"] == [[3.0, 4.0]] and points["after it"] == [[2.0, 1.0]]
    (left, low), (right, high) = points["its slope here"]
    assert (high - low) / (right - left) == pytest.approx(4)


def test_balance_bars_show_the_loss_that_training_uses():
    logits = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 2, 8)
    probability = logits.softmax(-1)
    share = torch.zeros(40, 8).scatter(1, probability.topk(2).indices, 1.0).mean(0)
    figure = plots.balance_bars(share, probability.mean(0))
    assert f"loss of {load_balancing_loss([logits], 8, 2):.2f}: even use gives 2," in title(figure)
    assert title(figure).endswith("up to 8")
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == pytest.approx(1)


def test_a_losses_smoothed_line_begins_where_the_first_values_have_left_its_mean():
    figure = plots.loss_curve(history(100))
    recorded, smoothed = figure.axes[0].lines
    assert list(smoothed.get_xdata()) == list(recorded.get_xdata())[4:]
    assert smoothed.get_ydata()[0] == pytest.approx(sum(recorded.get_ydata()[2:7]) / 5)


def test_balance_sweep_says_what_one_weight_did_beside_none():
    apart = torch.tensor([[0.0, 0.0], [-0.03, -0.01], [0.02, -0.01]])
    idle = torch.tensor([[9, 8], [1, 0], [0, 0]])
    halves = torch.tensor([0.0, 0.005, 0.03])
    figure = plots.balance_sweep([0.0, 0.01, 1.0], apart, halves, idle, 32, 0.01)
    lower = "With a weight of 0.01, the loss falls by 0.020 ± 0.005 nats; idle are 0.5 of 32 experts in place of 8.5"
    assert title(figure) == lower
    assert list(figure.axes[0].lines[3].get_ydata()) == pytest.approx([0, -0.02, 0.005])
    assert list(figure.axes[1].lines[1].get_ydata()) == [1, 0]
    figure = plots.balance_sweep([0.0, 0.01, 1.0], apart, halves, idle, 32, 1.0)
    assert "With a weight of 1, the loss differs by at most 0.035 nats (95%); idle are 0.0 of 32" in title(figure)
    apart[2], halves[2] = -0.0226, 0.0276  # -0.023 and 0.028 as printed
    figure = plots.balance_sweep([0.0, 0.01, 1.0], apart, halves, idle, 32, 1.0)
    assert "differs by at most 0.051 nats" in title(figure)


def test_load_curves_count_the_idle_experts_at_the_end():
    start = torch.full((2, 4), 0.25)
    end = torch.tensor([[0.5, 0.49, 0.005, 0.005], [0.25, 0.25, 0.25, 0.25]])
    figure = plots.load_curves([0, 8], {"without": torch.stack([start, end]), "with it": torch.stack([start, start])})
    expected = "Of 8 experts end idle: 2 without, 0 with it; the busiest gets 50% and 25% of its layer's choices"
    assert title(figure) == expected
    found = [ax.get_title(loc="left") for ax in figure.axes]
    assert found == [
        "layer 0, without: 2 of 4 idle", "layer 0, with it: 0 of 4 idle",
        "layer 1, without: 0 of 4 idle", "layer 1, with it: 0 of 4 idle",
    ]  # fmt: skip


def test_load_curves_draw_the_most_and_the_least_used_apart():
    shares = torch.tensor([[[0.25, 0.25, 0.5]], [[0.1, 0.7, 0.2]]])
    (ax,) = plots.load_curves([0, 8], {"alone": shares}).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["most used at the end"] == pytest.approx([0.25, 0.7])
    assert drawn["least used at the end"] == pytest.approx([0.25, 0.1])


def test_score_curves_name_the_domain_that_came_last():
    names = ("stories/thinking", "stories/direct", "facts/thinking", "facts/direct")
    scores = [(0.0, 0.9, 0.6, 0.5), (0.4, 0.9, 0.4, 0.5), (0.5, 0.1, 1.0, 0.5)]
    history = [{"step": 10 * at} | dict(zip(names, values, strict=True)) for at, values in enumerate(scores, 1)]
    history.insert(1, {"step": 15})  # a step at which nothing was scored
    figure = plots.score_curves(history)
    expected = "With thinking, half right is reached in 2 of 2 domains, last in “stories”, by step 30"
    assert title(figure) == expected
    assert list(figure.axes[0].lines[1].get_ydata()) == [0.9, 0.9, 0.1]
    none = [{"step": 10, "facts/thinking": 0.2, "facts/direct": 0.9}]
    assert title(plots.score_curves(none)) == "With thinking, half right is reached in 0 of 1 domains"
