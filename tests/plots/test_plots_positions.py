"""What the figures of `qwen3_scratch.plots.positions` say is what their numbers are."""

import math

import pytest
import torch

from qwen3_scratch import plots


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def lines(figure):
    """Each line of the first axes by its name."""
    return {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if line.get_label()[0] != "_"}


def test_turning_pairs_puts_each_arrow_at_its_angle():
    figure = plots.turning_pairs(torch.tensor([0.0, 2.0]), {"pair 0": math.pi / 2, "pair 9": math.pi / 4}, 3)
    assert title(figure) == "Each position turns pair 0 by 90°, pair 9 by 45°; the length stays"
    tips = torch.tensor([arrow.xy for arrow in figure.axes[0].texts if not arrow.get_text()])
    torch.testing.assert_close(tips, torch.tensor([[0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]]), atol=1e-6, rtol=0)
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["0", "1", "2"]


def test_turning_pairs_leaves_out_numbers_that_would_collide():
    figure = plots.turning_pairs(torch.tensor([1.0, 0.0]), {"slow": 0.001})
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["0"]


def test_rotation_map_shades_the_cosine_and_counts_turns():
    figure = plots.rotation_map(torch.tensor([math.pi / 2, math.pi / 4]), 5)
    assert title(figure) == "In 5 positions pair 0 turns 1 times, pair 1 0.5 times"
    shown = torch.tensor(figure.axes[0].images[0].get_array().tolist())
    torch.testing.assert_close(shown[0], torch.tensor([1.0, 0.0, -1.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_pair_wavelengths_counts_the_pairs_that_never_come_round():
    figure = plots.pair_wavelengths(2 * math.pi / torch.tensor([10.0, 1000.0, 1001.0]), 1000)
    assert title(figure) == "1 of 3 pairs do not turn once within 1,000 positions"
    assert lines(figure)["wavelength"] == pytest.approx([10, 1000, 1001])


def test_slowed_pairs_counts_what_keeps_its_speed():
    speeds = torch.tensor([1.0, 0.1, 0.01])
    figure = plots.slowed_pairs(
        {"default": speeds, "linear": speeds / 4, "yarn": speeds * torch.tensor([1, 0.5, 0.25])}
    )
    assert title(figure) == "Of 3 pairs linear keeps 0, yarn keeps 1 at full speed"
    assert lines(figure)["yarn"] == pytest.approx([100, 50, 25])


def test_scores_by_distance_shows_the_head_that_varies_most():
    scores = torch.tensor([[1.0, 1.0, 1.5], [0.0, 4.0, -2.0], [2.0, 2.0, 2.0]])
    figure = plots.scores_by_distance(scores, ["a", "b", "c"])
    assert title(figure) == "“b” scores 4.0 at distance 1 and -2.0 at distance 2"
    assert lines(figure)["mean of all"] == pytest.approx([1, 7 / 3, 0.5])
    assert lines(figure)["b"] == pytest.approx([0, 4, -2])


def test_divergence_by_position_means_over_blocks():
    rising = torch.arange(7.0)
    figure = plots.divergence_by_position({"neighbour pairs": rising, "no rotation": 2 * rising}, block=2)
    expected = (
        "Nats off on the first 2 tokens: 0.50 (neighbour pairs) and 1.00 (no rotation); after them: 4.00 and 8.00"
    )
    assert title(figure) == expected
    assert lines(figure)["neighbour pairs"] == pytest.approx([0.5, 2.5, 4.5, 6])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0-1", "2-3", "4-5", "6-6"]


def test_angle_errors_names_the_error_at_the_last_position():
    errors = {"bf16 frequencies": torch.tensor([0.02, 338.2]), "fp32": torch.tensor([1e-5, 0.0231])}
    figure = plots.angle_errors(errors, [2, 32769])
    assert title(figure) == "At position 32,769 angles are off by up to 338° (bf16 frequencies), 0.02° (fp32)"


def test_loss_by_gap_names_the_best_at_the_largest_gap():
    figure = plots.loss_by_gap({"default": [0.0, 1.5], "yarn": [0.14, 0.94]}, [0, 512])
    expected = "At a gap of 512 the loss is least with “yarn”, 0.94 nats a token, and 0.14 without a gap"
    assert title(figure) == expected
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "512"]
