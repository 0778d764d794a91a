"""What the figures of routes say is what the numbers say."""

import pytest
import torch
from drawings import labels, random_routes
from matplotlib.patches import PathPatch, Rectangle

from qwen3_scratch import plots
from qwen3_scratch.model import Route

LABELS = ["a", "b", "c"]


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def small_route():
    """Three tokens, top-2 of four experts; nobody takes expert 3."""
    probabilities = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.8, 0.05, 0.14, 0.01], [0.2, 0.5, 0.25, 0.05]])
    weights, experts = probabilities.topk(2)
    return Route(weights, experts, probabilities.log()), probabilities


def test_router_probabilities_name_the_most_chosen_expert_and_the_surest_choice():
    route, probabilities = small_route()
    found = title(plots.router_probabilities(probabilities, route.experts, LABELS))
    assert found == "Expert 0 is chosen by 2 of 3 tokens; the router is surest of “b”: 80% for expert 0"


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


def test_the_flow_leads_from_each_token_to_its_experts_thicker_with_more_weight():
    route, _ = small_route()
    figure = plots.route_flow(route, LABELS)
    left, right = figure.axes
    names = [label.get_text() for label in right.get_yticklabels()]
    places = left.transData.inverted().transform(right.transData.transform([(1, tick) for tick in right.get_yticks()]))
    experts = {round(y, 6): int(text.split()[1].rstrip(":")) for (_, y), text in zip(places, names, strict=True)}
    lines = [
        (patch.get_path().vertices, patch.get_linewidth()) for patch in left.patches if isinstance(patch, PathPatch)
    ]
    found = {(int(points[0][1]), experts[round(points[-1][1], 6)]): width for points, width in lines}
    assert found.keys() == {(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2)}
    assert found[1, 0] > found[0, 0] > found[0, 1] > found[1, 2]


def test_the_flow_counts_tokens_and_weight_and_leaves_out_who_gets_none():
    figure = plots.route_flow(small_route()[0], LABELS)
    share = (0.5 + 0.8) / (0.8 + 0.94 + 0.75)
    assert title(figure) == f"Expert 0 gets {share:.0%} of all weight, from 2 of 3 tokens"
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert sorted(names) == ["expert 0: 2 tokens", "expert 1: 2 tokens", "expert 2: 2 tokens"]


def test_negative_gates_are_counted_and_all_gates_drawn():
    gate = torch.tensor([[-1.0, -0.2, 0.1], [2.0, -5.0, 0.3], [0.0, 1.0, -0.1]])
    figure = plots.silu_gate(gate)
    assert title(figure) == "44% of the gates are negative: silu leaves between −0.28 and 0 of them"
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == pytest.approx(1)
    assert min(figure.axes[0].lines[0].get_ydata()) == pytest.approx(-0.28, abs=0.005)


def test_the_error_of_top_k_is_the_mean_over_the_layers():
    kept = torch.tensor([[0.4, 0.1, 0.0], [0.6, 0.3, 0.0]])
    figure = plots.top_k_error(kept, 2 * kept, 2)
    assert title(figure) == "Top-2 of 3 is 20% off the mixture of all experts, renormalised 40%"
    drawn = [line.get_ydata() for line in figure.axes[0].lines[:2]]
    assert drawn == [pytest.approx([1.0, 0.4, 0.0]), pytest.approx([0.5, 0.2, 0.0])]
