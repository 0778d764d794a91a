"""The figures of files and of text say what the numbers say."""

import pytest
import torch
from matplotlib.patches import Rectangle

from qwen3_scratch import Error, plots

SEGMENTS = [("header", 100), ("embedding", 300), ("experts", 200), ("experts", 250), ("norms", 50), ("experts", 100)]


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def boxes(ax):
    """Left and right end of each box of an axis, from left to right."""
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches if isinstance(patch, Rectangle)]


def test_file_layout_names_the_largest_part_and_the_size_of_the_header():
    expected = "The largest part of the file is “experts” with 55%; the header takes 10%"
    assert title(plots.file_layout(SEGMENTS, (400, 1000))) == expected
    assert title(plots.file_layout([("head", 7)], (0, 7))) == "The largest part of the file is “head” with 100%"


def test_file_layout_draws_neighbours_of_a_part_as_one_box_at_its_place():
    whole, near = plots.file_layout(SEGMENTS, (300, 900)).axes
    expected = [(0.0, 0.1), (0.1, 0.4), (0.4, 0.85), (0.85, 0.9), (0.9, 1.0)]
    torch.testing.assert_close(torch.tensor(boxes(whole)), torch.tensor(expected))
    assert boxes(near) == [(300, 400), (400, 850), (850, 900)]
    assert (whole.get_xlabel(), near.get_xlabel()) == ("place in the file (kB)", "place in the file (bytes)")


@pytest.mark.parametrize("stretch", [(-1, 5), (5, 5), (0, 1001)])
def test_file_layout_refuses_a_stretch_outside_the_file(stretch):
    with pytest.raises(Error, match=r"^closer: .* found, expected a stretch of the file's 1000 bytes$"):
        plots.file_layout(SEGMENTS, stretch)


def test_parameters_by_part_says_how_many_are_active():
    figure = plots.parameters_by_part({"experts": 800, "norms": 200}, {"experts": 200, "norms": 200})
    assert title(figure) == "40% of the parameters are active for a token; experts: 80% of all, 50% of the active"
    assert [text.get_text() for text in figure.axes[0].texts] == ["800", "200", "200", "200"]
    figure = plots.parameters_by_part({"head": 30, "norms": 10}, {"head": 30, "norms": 10})
    assert title(figure) == "All parameters are active for a token; “head” has 75% of them"


def test_parameters_by_part_refuses_other_parts():
    with pytest.raises(Error, match=r"^active: parts \['head'\] found, expected those of total, \['norms'\]$"):
        plots.parameters_by_part({"norms": 1}, {"head": 1})


@pytest.mark.parametrize("value", [0.1830348, -1.5, 3e38, 1e-3])
def test_number_bits_are_those_of_the_number(value):
    figure = plots.number_bits(value)
    texts = [text.get_text() for text in figure.axes[0].texts]
    bits = "".join(text for text in texts if text in ("0", "1"))
    single, brief = bits[:32], bits[32:48]
    sign, exponent, fraction = int(single[0]), int(single[1:9], 2), int(single[9:], 2)
    assert (-1) ** sign * 2.0 ** (exponent - 127) * (1 + fraction / 2**23) == torch.tensor(value).item()
    sign, exponent, fraction = int(brief[0]), int(brief[1:9], 2), int(brief[9:], 2)
    assert (-1) ** sign * 2.0 ** (exponent - 127) * (1 + fraction / 2**7) == torch.tensor(value).bfloat16().item()
    assert len(bits) == 64


def test_number_bits_says_how_far_bf16_is_off():
    assert title(plots.number_bits(-1.5)).endswith("this number loses nothing")
    assert title(plots.number_bits(1 + 2**-8)).endswith("this number is off by 0.389%")


STEPS = [["l", "o", "w", "e", "r"], ["l", "o", "w", "er"], ["lo", "w", "er"], ["low", "er"]]


def test_merge_steps_mark_the_piece_that_each_merge_made():
    figure = plots.merge_steps(STEPS, [3, 14, 1500])
    assert title(figure) == "3 merges: 5 pieces become 2, whose bytes are the same"
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["er", "lo", "low"]
    assert [text.get_text() for text in ax.texts if text.get_text().startswith("rank")] == [
        "rank 3", "rank 14", "rank 1,500"
    ]  # fmt: skip


def test_merge_steps_need_a_rank_for_each_merge():
    with pytest.raises(Error, match=r"^ranks: 1 found, expected one for each of the 3 merges$"):
        plots.merge_steps(STEPS, [3])


def test_bytes_per_token_are_means_from_most_to_fewest():
    figure = plots.bytes_per_token({"code": [1, 2], "prose": [4, 5, 6], "sums": [1]})
    assert title(figure) == "A token holds 5.0 bytes of “prose” and 1.0 of “sums”"
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["5.0", "1.5", "1.0"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["prose", "code", "sums"]
