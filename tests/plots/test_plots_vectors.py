"""What the figures of `qwen3_scratch.plots.vectors` say is what their numbers are."""

import pytest
import torch

from qwen3_scratch import plots


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_token_similarity_means_within_and_between_kinds():
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 3.0**0.5]])
    figure = plots.token_similarity(vectors, ["red", "blue", "Leo", "Mia"], [2, 2])
    # Within: 1 and cos 30°; between: 0, 1/2, 0, 1/2.
    assert title(figure) == f"Mean cosine: {(1 + 0.866) / 2:.2f} within a kind, 0.25 between kinds"
    ax = figure.axes[0]
    cells = " ".join(text.get_text() for text in ax.texts)
    assert cells == "100 100 0 50 100 100 0 50 0 0 100 87 50 50 87 100"
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == ["red", "blue", "Leo", "Mia"]
    assert [line.get_ydata()[0] for line in ax.lines[::2]] == [1.5]  # the border between the kinds


def test_token_similarity_of_one_kind_speaks_of_no_other():
    assert title(plots.token_similarity(torch.ones(3, 2), ["a", "b", "c"])) == "Mean cosine: 1.00 within a kind"


def test_vector_lengths_counts_every_vector():
    figure = plots.vector_lengths(torch.arange(101.0))
    assert title(figure) == "Nine of ten rows of the embedding are 5.00 to 95.00 long, half are below 50.00"
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 101


def test_norms_in_the_plane_lands_on_the_circle_and_on_two_points():
    points = torch.tensor([[3.0, 1.0], [-1.0, 2.0], [0.5, -4.0]])
    figure = plots.norms_in_the_plane(points)
    assert title(figure) == "rms_norm keeps all 3 directions, LayerNorm in two dimensions keeps 2"
    by_rms, by_layer = (torch.tensor(ax.collections[1].get_offsets().tolist()) for ax in figure.axes)
    torch.testing.assert_close(by_rms.norm(dim=-1), torch.full((3,), 2**0.5))
    torch.testing.assert_close(by_rms / 2**0.5, points / points.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(by_layer, torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]]))


@pytest.mark.parametrize(
    ("after", "said"), [([1.0, 1.0001], "it is 1"), ([0.5, 1.0], "from 0.5 to 1")], ids=["even", "uneven"]
)
def test_norms_before_after_names_both_ranges(after, said):
    figure = plots.norms_before_after(torch.tensor([[0.1, 20.0]]), torch.tensor([after]), ["last"])
    assert title(figure) == f"The root mean square goes from 0.1 to 20; after the norms {said}"
    assert ticks(figure.axes[0].xaxis) == ["last"]


def test_norm_weights_names_the_channels_furthest_up_and_down():
    weights = torch.ones(2, 5)
    weights[0, 3], weights[1, 2] = 0.4, 2.5
    figure = plots.norm_weights(weights, ["layer 0 input", "last"])
    assert title(figure) == "The factors go from 0.40 (channel 3, layer 0 input) to 2.50 (channel 2, last)"
    assert ticks(figure.axes[0].yaxis) == ["layer 0 input", "last"]


def test_rounding_errors_counts_all_entries_before_a_round_number():
    figure = plots.rounding_errors({"all in bf16": torch.tensor([0.0, 0.012]), "cast last": torch.tensor([0.0, 0.004])})
    assert title(figure) == "The largest error is 1.2% for “all in bf16” and 0.4% for “cast last”"
    rough, fine = figure.axes[0].lines
    assert rough.get_ydata()[0] == fine.get_ydata()[0] == 50
    assert rough.get_xdata()[-1] == fine.get_xdata()[-1] == pytest.approx(1.5)
    reached = {line: min(x for x, y in line.get_xydata() if y == 100) for line in (rough, fine)}
    assert list(reached.values()) == pytest.approx([1.2, 0.4], abs=0.01)


def test_a_cosine_just_below_zero_is_zero():
    figure = plots.token_similarity(torch.tensor([[1.0, 0.0], [-0.001, 1.0]]), ["a", "b"], [1, 1])
    assert title(figure) == "Mean cosine: 0.00 within a kind, 0.00 between kinds"
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "0", "0", "100"]
