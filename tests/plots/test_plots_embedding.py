"""The map of words and the growing stream say what their numbers are."""

import pytest
import torch
from drawings import title

from qwen3_scratch import plots


def test_embedding_map_counts_neighbours_of_a_kind_and_says_what_its_plane_holds():
    vectors = torch.tensor([[3.0, 1, 0], [3, -1, 0], [-3, 1, 0], [-3, -1, 0]])
    figure = plots.embedding_map(vectors, ["red", "blue", "Leo", "Mia"], ["colours", "colours", "names", "names"])
    assert title(figure) == "On the map 4 of 4 words are nearest to their own kind (by chance 1)"
    ax = figure.axes[0]
    assert ax.get_xlabel() == "first direction: 90% of the variance of these 4 words"
    assert ax.get_ylabel() == "second direction: 10%"
    assert sorted(text.get_text() for text in ax.texts) == ["Leo", "Mia", "blue", "red"]
    points = torch.tensor([[*point] for marks in ax.collections for point in marks.get_offsets().tolist()])
    torch.testing.assert_close(points.abs(), vectors[:, :2].abs())


def test_embedding_map_counts_a_word_among_strangers_as_such():
    vectors = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]])
    figure = plots.embedding_map(vectors, ["red", "blue", "Leo"], ["colours", "colours", "names"])
    assert title(figure) == "On the map 2 of 3 words are nearest to their own kind (by chance 1)"


def test_embedding_map_of_one_word_speaks_of_no_neighbour():
    assert title(plots.embedding_map(torch.ones(1, 3), ["a"], ["letters"])) == (
        "A word alone has no neighbour on the map"
    )


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (9.6e6, "ends 1,000,000 times as long as with it"),
        (19.2, "ends 2 times as long as with it"),
        (float("inf"), "leaves the range of numbers in layer 0"),
    ],
    ids=["far", "near", "lost"],
)
def test_stream_growth_compares_the_ends(ends, said):
    figure = plots.stream_growth(torch.tensor([[1.0], [9.6]]), torch.tensor([[1.0], [ends]]))
    assert title(figure) == f"Without the division the stream {said}"
