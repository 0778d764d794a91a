"""What the figures of routes say is what the numbers say."""

import pytest
import torch
from drawings import labels, random_routes, title
from matplotlib.patches import Rectangle

from qwen3_scratch import plots
from qwen3_scratch.model import Route

LABELS = ["a", "b", "c"]


def small_route():
    """Three tokens, top-2 of four experts; nobody takes expert 3."""
    probabilities = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.8, 0.05, 0.14, 0.01], [0.2, 0.5, 0.25, 0.05]])
    weights, experts = probabilities.topk(2)
    return Route(weights, experts, probabilities.log()), probabilities


def test_router_probabilities_name_the_most_chosen_expert_and_the_surest_choice():
    route, probabilities = small_route()
    found = title(plots.router_probabilities(probabilities, route.experts, LABELS))
    share = "Expert 0 is chosen by 2 of 3 tokens, an even share is 1.5"
    assert found == f"{share}; the router is surest of “b”: 80% for expert 0"


def test_of_marked_tokens_the_title_says_where_most_go_first():
    route, probabilities = small_route()
    figure = plots.router_probabilities(probabilities, route.experts, LABELS, marked=[1, 2], kind="digits")
    assert title(figure) == "1 of 2 digits go first to expert 0, and so do 1 of 1 other tokens"
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2]


@pytest.mark.parametrize("tokens", [5, 60])
def test_exactly_the_chosen_experts_are_framed_and_written_out(tokens):
    route = random_routes(tokens)[0]
    probabilities = route.logits.softmax(-1)
    figure = plots.router_probabilities(probabilities, route.experts, labels(tokens))
    start, framed, written = 0, {}, {}
    for ax in (ax for ax in figure.axes if ax.get_ylabel() == "expert"):
        for patch in (patch for patch in ax.patches if isinstance(patch, Rectangle)):
            column, expert = round(patch.get_x() + 0.46), round(patch.get_y() + 0.46)
            framed[start + column, expert] = True
        for text in (text for text in ax.texts if text.get_text()):
            column, expert = text.get_position()
            written[start + column, expert] = text.get_text()
        start += ax.images[0].get_array().shape[1]
    chosen = {(token, expert) for token, row in enumerate(route.experts.tolist()) for expert in row}
    assert framed.keys() == written.keys() == chosen
    assert all(text == f"{100 * probabilities[place]:.0f}" for place, text in written.items())


def test_negative_gates_are_counted_and_all_gates_drawn():
    gate = torch.tensor([[-1.0, -0.2, 0.1], [2.0, -5.0, 0.3], [0.0, 1.0, -0.1]])
    figure = plots.silu_gate(gate)
    assert title(figure) == "44% of the gates are negative; silu turns them into −0.28 to 0"
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == pytest.approx(1)
    assert min(figure.axes[0].lines[0].get_ydata()) == pytest.approx(-0.28, abs=0.005)
