"""What another way of rounding changes is counted token by token, in little memory."""

import pytest
import torch
from reference import dense_config, random_tokens, random_weights, small_config

from qwen3_scratch import forward, moe_route, trace
from qwen3_scratch.inside import rounding
from qwen3_scratch.model import Ops, Route

CONFIG = small_config()
WEIGHTS = random_weights(CONFIG)
TEXTS = [random_tokens(CONFIG, 1, length, seed=length) for length in (5, 70)]  # one longer than a piece


def flipped(*inputs):
    """Takes the least likely experts instead, so that much is another."""
    weights, _, logits = moe_route(*inputs)
    return Route(weights, (-logits).topk(weights.shape[-1]).indices, logits)


@pytest.mark.parametrize("piece", [1, 64, 1000])
def test_each_count_is_that_of_all_logits_at_once(piece, monkeypatch):
    monkeypatch.setattr(rounding, "PIECE", piece)
    ways = (WEIGHTS, Ops()), (WEIGHTS, Ops(route=flipped))
    found = rounding.changes(*ways, CONFIG, TEXTS, vocab_size=50)
    one, other = (
        torch.cat([forward(WEIGHTS, ids, CONFIG, ops=ops)[0, :, :50] for ids in TEXTS]).double() for _, ops in ways
    )
    best = one.sort(-1, descending=True).values
    torch.testing.assert_close(found.differing, (one != other).double().mean(-1))
    torch.testing.assert_close(found.distance, (one - other).norm(dim=-1))
    torch.testing.assert_close(found.length, one.norm(dim=-1))
    torch.testing.assert_close(found.lead, best[:, 0] - best[:, 1])
    assert torch.equal(found.likeliest, one.argmax(-1) != other.argmax(-1)) and found.likeliest.any()


def test_experts_count_as_another_choice_in_any_order_of_theirs():
    def turned(*inputs):
        routed = moe_route(*inputs)
        return routed._replace(experts=routed.experts.flip(-1), weights=routed.weights.flip(-1))

    same = rounding.changes((WEIGHTS, Ops()), (WEIGHTS, Ops(route=turned)), CONFIG, TEXTS)
    assert same.experts.shape == (CONFIG.num_hidden_layers, 75) and not same.experts.any()
    others = rounding.changes((WEIGHTS, Ops()), (WEIGHTS, Ops(route=flipped)), CONFIG, TEXTS)
    with trace() as recorded:
        for ids in TEXTS:
            forward(WEIGHTS, ids, CONFIG)
    first = [call.output for call in recorded["moe_route"]][:: CONFIG.num_hidden_layers]  # of layer 0, in each text
    chosen = [set(row.tolist()) for routed in first for row in routed.experts]
    taken = [set(row.tolist()) for routed in first for row in (-routed.logits).topk(2).indices]
    assert others.experts[0].tolist() == [a != b for a, b in zip(chosen, taken, strict=True)]


def test_the_report_counts_what_the_model_would_write_apart():
    found = rounding.Changes(
        differing=torch.tensor([1.0, 0.5, 0.0]), distance=torch.tensor([3.0, 4.0, 0.0]),
        length=torch.tensor([30.0, 40.0, 0.0]), lead=torch.tensor([0.5, 8.0, 8.0]),
        likeliest=torch.tensor([True, False, False]), experts=torch.tensor([[True, False, False]] * 2),
    )  # fmt: skip
    assert found.report(torch.tensor([False, True, True])).splitlines() == [
        "another expert: 2 of 6 choices (tokens times layers)",
        "another likeliest token: 0 of 2 in thinking and answers, 1 of 1 before them; they led by 0.50 (median)",
    ]


def test_a_dense_model_has_no_choices_and_equal_ways_change_nothing():
    config = dense_config()
    way = random_weights(config), Ops()
    found = rounding.changes(way, way, config, TEXTS)
    assert found.experts.shape == (0, 75)
    assert not found.likeliest.any() and not found.distance.any()
    assert "another expert: 0 of 0 choices" in found.report(found.likeliest)
