"""What is said of looks at the first place is true, on heads made to do one thing and on the embedded checkpoint."""

import pytest
import torch

from qwen3_scratch import forward, load_checkpoint
from qwen3_scratch.inside.sinks import carried, emptying, hiding, shared_out
from qwen3_scratch.tracing import head_weights, trace


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny", dtype=torch.float32)


@pytest.fixture
def ids():
    return torch.randint(2000, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_token_is_carried_to_each_place_and_looked_at_by_the_same_later_tokens(tiny):
    rest = [5, 6, 7, 8, 10, 11]
    found = carried(tiny.weights, tiny.config, rest, 9, (0, 2, 3))
    for row, place in enumerate((0, 2, 3)):
        text = torch.tensor([[*rest[:place], 9, *rest[place:]]])
        assert text[0, place] == 9 and text[0, 4:].tolist() == rest[3:]  # who looks is the same
        looks = head_weights(tiny.weights, tiny.config, text)
        torch.testing.assert_close(found[row], looks[:, 0, :, 4:, place].mean(-1))


def test_a_weight_is_shared_out_among_the_first_token_the_one_before_the_token_itself_and_all_others():
    for share, places in enumerate((torch.zeros(8).long(), torch.arange(8) - 1, torch.arange(8), torch.arange(8) - 2)):
        looks = torch.nn.functional.one_hot(places.clamp(min=0), 8).float()
        assert shared_out(looks, 3).tolist() == torch.eye(4)[share].tolist()
    assert shared_out(looks[None, None], 3).shape == (1, 1, 4)


def test_a_hidden_place_is_seen_by_itself_alone_and_what_it_had_goes_to_the_others_in_proportion(tiny, ids):
    usual, found = (head_weights(tiny.weights, tiny.config, ids, *ops) for ops in ((), (hiding(3),)))
    assert found[..., 4:, 3].max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(found[..., :4, :], usual[..., :4, :])  # the place itself and those before notice nothing
    rest = usual[0, ..., 4:, :].index_fill(-1, torch.tensor([3]), 0.0)
    torch.testing.assert_close(found[0, ..., 4:, :], rest / rest.sum(-1, keepdim=True))


def test_an_empty_place_is_looked_at_as_before_and_nothing_is_gathered_there(tiny, ids):
    with trace() as usual:
        forward(tiny.weights, ids, tiny.config)
    with trace() as t:
        forward(tiny.weights, ids, tiny.config, ops=emptying(3))
    looks = head_weights(tiny.weights, tiny.config, ids)[0]  # of the first layer, which nothing reaches yet
    values = usual["gqa_attention"][0].inputs["v"].repeat_interleave(2, dim=1)
    lost = looks[..., 3:4] * values[:, :, 3:4]
    torch.testing.assert_close(t["gqa_attention"][0].output, usual["gqa_attention"][0].output - lost)
    assert torch.equal(head_weights(tiny.weights, tiny.config, ids, emptying(3))[0], looks)
