"""What the figures of the mixture layer and of a word's logit say is what the numbers say."""

import pytest
import torch
from drawings import title
from matplotlib.patches import PathPatch, Rectangle

from qwen3_scratch import plots
from qwen3_scratch.model import Route


def small_route():
    """Two tokens, top-2 of four experts; nobody takes expert 3."""
    probabilities = torch.tensor([[0.6, 0.3, 0.06, 0.04], [0.1, 0.3, 0.55, 0.05]])
    weights, experts = probabilities.topk(2)
    return Route(weights, experts, probabilities.log())


def test_the_layer_is_drawn_with_a_line_there_and_back_for_each_choice_thicker_with_more_weight():
    figure = plots.mixture_layer(small_route(), ["a", "b"])
    assert title(figure) == "Each token goes to 2 of 4 experts; all 4 are stored"
    (ax,) = figure.axes
    widths = [patch.get_linewidth() for patch in ax.patches if isinstance(patch, PathPatch)]
    assert sorted(widths)[-2:] == [pytest.approx(0.4 + 3 * 0.6)] * 2
    assert len(widths) == 2 + 2 * 4  # from each token to the router, then there and back
    texts = [text.get_text() for text in ax.texts]
    assert "0.60 E0 + 0.30 E1" in texts and "0.55 E2 + 0.30 E1" in texts
    dashed = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_linestyle() == "--"]
    assert len(dashed) == 1


def test_dispatch_sorts_the_choices_by_expert_and_keeps_their_order_within_one():
    weights = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    figure = plots.dispatch_order(torch.tensor([[0, 1], [2, 1], [1, 0]]), weights, ["a", "b", "c"])
    assert title(figure) == "6 choices of 3 tokens, sorted, are 3 calls: one for each expert that was chosen"
    (ax,) = figure.axes
    placed = {text.get_text(): [] for text in ax.texts}
    for text in ax.texts:
        placed[text.get_text()].append(text.get_position())
    sorted_boxes = sorted((y, name) for name in "abc" for x, y in placed[name] if 3 < x < 4.1)
    assert [name for _, name in sorted_boxes] == ["a", "c", "a", "b", "c", "b"]
    written = sorted((y, name) for name in placed if name.startswith("× 0") for _, y in placed[name])
    assert [name for _, name in written] == ["× 0.90", "× 0.30", "× 0.10", "× 0.20", "× 0.70", "× 0.80"]
    assert [name for name in placed if name.startswith("expert")] == ["expert 0", "expert 1", "expert 2"]


def test_the_loss_of_fewer_of_all_and_of_random_experts_is_told_as_a_factor_chat_by_chat():
    losses, drawn = torch.tensor([[0.2, 0.8], [0.1, 0.4], [0.05, 0.8]]), torch.tensor([4.0, 4.0])
    figure = plots.top_k_loss(losses, [1, 2, 4], 2, drawn)
    told = "A chat's loss as a multiple of its own with the 2 chosen: 2.0 with 1, 1.0 with 4, 20 with 2 at random"
    assert title(figure).replace("\u00a0", " ") == f"{told} (n = 2)"
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert ax.lines[0].get_ydata() == pytest.approx([2, 1, 1])
    low, high = (line.get_ydata() for line in ax.lines[1:3])
    assert low[:2] == pytest.approx([2, 1]) == high[:2]  # paired: as sure as all chats change alike
    assert 0 < low[2] < 1 < high[2]
    arrow, far = ax.texts  # in the band, and beside it
    assert (arrow.get_text(), far.get_text()) == ("↑", "2 at random, far above: × 20 (95%: 5.1 to 78)")
    assert arrow.get_position()[0] == 1 < far.get_position()[0] and far.get_ha() == "left"
    alone = plots.top_k_loss(losses[:1], [1], 1, drawn)
    assert title(alone).startswith("A chat's loss as a multiple of its own with the 1 chosen: 10.0 with 1 at random")
