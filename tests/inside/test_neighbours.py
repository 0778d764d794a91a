"""What routes share with their neighbours is counted right, on routes made to share one thing."""

import pytest
import torch

from qwen3_scratch.inside.neighbours import (
    by_load,
    kept_more,
    next_layer,
    same_as_before,
    together,
    told_beyond_words,
    told_next,
)
from qwen3_scratch.inside.routers import Reading, bits


def generator():
    return torch.Generator().manual_seed(0)


def made(first, words, question):
    """A reading whose routes [layers, tokens] are given."""
    first, words = torch.as_tensor(first), torch.as_tensor(words)
    layers = tuple(range(len(first)))
    return Reading(first[..., None], torch.zeros(*first.shape, 2), words, torch.stack((words, words)),
                   torch.as_tensor(question), torch.zeros_like(words), layers)  # fmt: skip


def test_neighbours_are_only_within_a_question():
    first, question = torch.tensor([[1, 1, 1, 2, 2]]), torch.tensor([0, 0, 1, 1, 1])
    same, whose = same_as_before(first, question)
    assert same.tolist() == [[True, False, True]] and whose.tolist() == [0, 1, 1]


def test_a_layer_that_repeats_the_one_before_tells_all_and_shuffled_next_to_nothing():
    first = torch.randint(4, (1, 4000), generator=generator()).repeat(2, 1)
    question = torch.arange(4000) // 40
    assert bits(next_layer(first, 4)).item() == pytest.approx(2.0, abs=0.01)
    assert bits(next_layer(first, 4, torch.randperm(4000, generator=generator()))).item() < 0.01
    told, half = told_next(first, question, 4)
    assert told.item() == pytest.approx(2.0, abs=0.01) and 0 < half.item() < 0.02
    assert next_layer(first[:1], 4).shape == (0, 4, 4)
    assert [len(each) for each in told_next(first[:1], question, 4)] == [0, 0]


def test_pairs_are_counted_by_tokens_and_loads_alone_keep_the_sums_of_their_rows():
    experts = torch.tensor([[[0, 1], [1, 0], [2, 3], [0, 2]]])
    pairs = together(experts, 4)
    assert pairs[0, 0].tolist() == [0, 2, 1, 0] and torch.equal(pairs, pairs.mT)
    generous = together(torch.rand(1, 500, 6, generator=generator()).topk(2).indices, 6)
    chance = by_load(generous)
    torch.testing.assert_close(chance.sum(-1), generous.sum(-1), rtol=1e-3, atol=0.1)
    assert chance.diagonal(0, 1, 2).abs().max() == 0 and 0.7 < (generous / chance)[0, 0, 1:].mean() < 1.3


def test_a_token_keeps_its_neighbours_expert_beyond_order_where_runs_are_longer_than_shuffled_ones():
    question, runs = torch.arange(400) // 20, (torch.arange(400) // 5 % 4)[None]
    share, more, half = kept_more(made(runs, torch.zeros(400).long(), question))
    assert share.item() == pytest.approx(320 / 380) and more > 10 * half > 0
    mixed = torch.randint(4, (1, 400), generator=generator())
    share, more, half = kept_more(made(mixed, torch.zeros(400).long(), question))
    assert more.abs() < 2 * half


def test_what_the_word_tells_as_well_is_no_layers_own_news():
    words, question = torch.randint(4, (2000,), generator=generator()), torch.arange(2000) // 20
    by_word = made(words.expand(2, -1), words, question)  # both layers follow the word
    told, beyond, _ = told_beyond_words(by_word, 4)
    assert told.item() == pytest.approx(2.0, abs=0.01) and beyond.abs() < 1e-4
    drawn = torch.randint(4, (1, 2000), generator=generator()).expand(2, -1)  # the same, and not from the word
    told, beyond, half = told_beyond_words(made(drawn, words.flip(0), question), 4)
    assert beyond.item() == pytest.approx(2.0, abs=0.05) and half < 0.05
