"""Routers beside each other: the figures count what they were given, and call no difference sure that is not."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import plots
from qwen3_scratch.plots.other_routers import FORMS


def title(figure):
    return " ".join(figure.get_suptitle().split())


def test_expert_places_fill_in_the_order_of_the_choices_and_count_who_is_dropped():
    figure = plots.expert_places(torch.tensor([0, 0, 2, 0, 0]), 3, 2, "abcde")
    assert title(figure) == "2 of 5 choices dropped, while 3 of 6 places stay empty"
    (ax,) = figure.axes
    assert {text.get_text(): text.get_position() for text in ax.texts} == {
        "a": (0.5, 0), "b": (1.5, 0), "d": (2.5, 0), "e": (3.5, 0), "c": (0.5, 2),
    }  # fmt: skip
    looks = [(box.get_hatch(), box.get_linestyle()) for box in ax.patches]
    assert sum(hatch is not None for hatch, _ in looks) == 2 and sum(line == "--" for _, line in looks) == 3
    assert title(plots.expert_places(torch.tensor([0]), 1, 1, "a")).startswith("0 of 1 choices dropped, while 0 of 1")


def test_router_loads_count_idle_experts_and_sort_each_layer():
    shares = {
        "alone": torch.tensor([[[0.01, 0.5, 0.49]], [[0.4, 0.6, 0.0]]]),
        "with a loss": torch.full((2, 1, 3), 1 / 3),
    }
    figure = plots.router_loads(shares)
    assert title(figure) == "Idle experts, below a tenth of an even share: 2 of 6 with alone; none in the other 1"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["alone: 2 idle", "with a loss: 0 idle"]
    lines = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert lines[0] == pytest.approx([1.5, 1.47, 0.03]) and lines[1] == pytest.approx([1.8, 1.2, 0.0])
    assert lines[2] == pytest.approx([1.65, 1.335, 0.015])
    even = plots.router_loads({"with a loss": shares["with a loss"]})
    assert title(even) == "Idle experts, below a tenth of an even share: none"
    assert title(plots.router_loads({"alone": shares["alone"]})).endswith("2 of 6 with alone")


def test_each_way_stands_at_the_step_that_it_changes():
    (ax,) = plots.router_ways().axes
    places = {text.get_text().split(":")[0]: text.get_position() for text in ax.texts if text.get_text()}
    for way, step in (("noise", "router"), ("moved bias", "choice"), ("capacity", "weights")):
        assert places[way][0] == pytest.approx(places[step][0])
        assert places[way][1] < places[step][1] < places["shared expert"][1]


LOSSES = {"loss": [1.0, 1.2, 1.1], "noise": [1.5, 1.71, 1.6], "bias": [0.9, 1.4, 1.1]}
LEAST = {"loss": [0.5, 0.6, 0.7], "noise": [0.0, 0.1, 0.05], "bias": [0.9, 0.8, 0.7]}


def test_router_comparison_pairs_by_seed_and_names_sure_differences_alone():
    figure = plots.router_comparison(LOSSES, LEAST, "loss")
    assert title(figure) == (
        "Compared with loss, the loss is +0.50 nats with noise; no other difference of the loss is sure "
        "(n = 3 seeds); the least used expert gets 5.0% of an even share with noise, 80% with bias"
    )
    left, right = figure.axes
    by_row = {name: [] for name in LOSSES}
    for line in left.lines:
        if line.get_marker() in FORMS:
            by_row[list(LOSSES)[2 - round(line.get_ydata()[0])]].append(line.get_xdata()[0])
    assert by_row["bias"] == pytest.approx([-0.1, 0.2, 0.0]) and by_row["noise"] == pytest.approx([0.5, 0.51, 0.5])
    assert by_row["loss"] == [0, 0, 0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(LOSSES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "seed 0", "seed 1", "seed 2", "mean, 95% interval (t, n = 3)",
    ]  # fmt: skip
    shown = [line.get_xdata()[0] for line in right.lines if line.get_marker() in FORMS]
    assert shown == pytest.approx([each for name in LOSSES for each in LEAST[name]])


def test_one_seed_proves_nothing():
    one = {name: each[:1] for name, each in LOSSES.items()}
    said = title(plots.router_comparison(one, {name: each[:1] for name, each in LEAST.items()}, "loss"))
    assert said.startswith("No difference of the loss is sure (n = 1 seeds)")
    with unchecked():
        assert plots.router_loads({"alone": torch.ones(1, 1, 1)}).alt
