"""When routes settle is counted right, on routes that change when they are made to."""

import json

import torch
from helpers import TINY

from qwen3_scratch.inside.settling import last_change, saturation
from qwen3_scratch.tiny.probes import PROBES, read_probes


def test_the_share_of_the_last_experts_is_counted_in_any_order_beside_what_loads_give():
    routes = torch.tensor([[[[0, 1], [2, 3]]], [[[1, 2], [2, 3]]], [[[2, 1], [3, 2]]]])  # [steps, 1 layer, 2 tokens, 2]
    share, chance = saturation(routes, 4)
    assert share[:, 0].tolist() == [[0.5, 1], [1, 1], [1, 1]]
    assert chance[:, 0].tolist() == [0.5, 0.75, 0.75]  # loads at first 1/2 each, later 0, 1/2, 1 and 1/2 of the tokens
    first, _ = saturation(routes[..., :1], 4)
    assert first[:, 0].tolist() == [[0, 0], [0, 0], [1, 1]]


def test_a_token_that_comes_back_has_changed_until_it_stays():
    steps, first = (
        torch.tensor([10, 20, 30, 40]),
        torch.tensor([[5, 1, 5, 2], [5, 2, 6, 2], [5, 1, 6, 1], [5, 1, 6, 2]]),
    )
    assert last_change(steps, first).tolist() == [10, 30, 20, 40]


# ---- what the appendix says of the embedded checkpoint's training -------------------------------------


def test_routes_of_the_embedded_checkpoint_go_on_changing_until_the_learning_rate_falls():
    probes = read_probes(TINY / PROBES)
    routes, steps = probes.routes[..., :1].long(), probes.steps
    first = routes[..., 0]
    plan = json.loads((TINY / "training.json").read_text())["plan"]
    falls = plan["steps"] * (1 - plan["decay"])
    changed = (first[1:] != first[:-1]).float().mean(-1)  # [changes, layers]
    before = (steps[1:] > 0.5 * falls) & (steps[1:] <= falls)
    at_rest = changed[-1]
    assert (changed[before].amin(0) > 0.08).all() and (at_rest < 0.02).all()
    ends = changed[before][:10].mean(0), changed[before][-10:].mean(0)
    assert (ends[1] > 0.7 * ends[0]).all()  # in the second half before it falls they hardly calm down
    agreed, chance = saturation(routes, 8)
    assert (agreed.mean(2)[steps <= 400].amax(0) > 0.5).all() and chance.max() < 0.3
    half, most = last_change(steps, first).float().quantile(torch.tensor([0.5, 0.9]), 1)
    assert (half < falls + 500).all() and (most > falls).all()
    assert half.argmin() == 3 and agreed.mean(2)[steps == 2400].argmax() == 3  # the last layer first
