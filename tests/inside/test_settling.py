"""When routes settle is counted right, on routes that change when they are made to."""

import torch

from qwen3_scratch.inside.settling import last_change, saturation


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
