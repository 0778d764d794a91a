"""Drafts in their plainest form: what stands, what is looked up, and what several tokens ask for together."""

import itertools

import pytest
import torch
from reference import dense_config, random_weights, small_config

from qwen3_scratch import Checkpoint, forward
from qwen3_scratch.fast.drafts import Text
from qwen3_scratch.inside import drafting
from qwen3_scratch.inside.drafting import (
    chosen_experts,
    further_experts,
    kept,
    look_up,
    needed_share,
    pass_times,
    passes,
    passes_by_size,
    share_asked,
)


@pytest.mark.parametrize(
    ("draft", "stays"),
    [("blue cup .", "blue cup . Who"), ("blue ball .", "blue cup"), ("red cup .", "blue"), ("", "blue")],
)
def test_the_guesses_up_to_the_first_wrong_one_stand_and_one_token_more(draft, stays):
    assert kept(draft.split(), ["blue", "cup", ".", "Who"]) == stays.split()


@pytest.mark.parametrize(
    ("text", "found"), [("x a b c d x", "a b c"), ("- x a b - y c - x", "a b -"), ("a x b y x b", "y x b"), ("a b", "")]
)
def test_looked_up_is_what_followed_the_longest_end_where_it_stood_last(text, found):
    assert look_up(text.split()) == found.split()


def test_it_is_what_the_fast_form_looks_up():
    tokens = torch.randint(4, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    for end in range(1, 300):
        plain, fast = look_up(tokens[:end]), Text(tokens[:end]).draft()
        assert plain == (fast or [])[: len(plain)], "the fast one goes round where the text ends"
        assert bool(plain) == bool(fast)


def test_the_pieces_of_an_answer_are_the_answer_but_for_its_first_token():
    prompt, answer = [1, 2, 3, 4], [9, 1, 2, 3, 4, 9, 1, 7]
    assert passes(prompt, answer) == [[1], [2, 3, 4, 9], [1, 7]]
    assert passes_by_size(prompt, answer) == [(1, 1), (4, 4), (4, 2)], "9 is new; behind 1 and 9 all three places"


def test_several_tokens_ask_for_what_one_of_them_asks_for():
    config = small_config()
    (routes,) = chosen_experts(Checkpoint(config, random_weights(config)), [[1, 2, 3, 4, 5]])
    assert (routes.sum(-1) == config.num_experts_per_tok).all()
    pairs = (routes[:-1] | routes[1:]).double().mean()
    assert share_asked([routes], 2) == pytest.approx(float(pairs))
    assert share_asked([routes], 1) == pytest.approx(config.num_experts_per_tok / config.num_experts)
    dense = dense_config()
    assert chosen_experts(Checkpoint(dense, random_weights(dense)), [[1, 2]]) == []


def test_further_experts_are_all_where_tokens_share_by_chance_and_none_where_they_ask_for_the_same():
    chosen = torch.rand(4000, 2, 8, generator=torch.Generator().manual_seed(0)).argsort(-1) < 2
    assert further_experts([chosen], 3) == pytest.approx(1, abs=0.02)
    assert further_experts([chosen[:1].expand(9, -1, -1)], 3) == 0


def test_a_timed_pass_reads_so_many_tokens_behind_the_text_and_leaves_the_cache_as_it_was(monkeypatch):
    config = small_config()
    read = []

    def recorded(weights, row, config, cache, ops=None):
        read.append((cache.length, row.shape[1]))
        return forward(weights, row, config, cache=cache)

    monkeypatch.setattr(drafting, "forward", recorded)
    ticks = itertools.count()
    times = pass_times(Checkpoint(config, random_weights(config)), [1, 2, 3, 4], 2, timer=lambda: next(ticks))
    assert read == [(0, 4), *[(4, 1)] * 60, *[(4, 2)] * 60]
    assert times == [1 / 3, 1 / 3]  # the clock ticks once in three passes


def test_a_pass_is_timed_by_the_steps_that_it_is_given():
    config, asked = small_config(), []
    checkpoint = Checkpoint(config, random_weights(config))

    def steps(of, count):
        asked.append(count)
        return of.ops._replace(norm=lambda x, weight, eps: asked.append("norm") or x)

    pass_times(checkpoint, [1, 2, 3, 4], 1, steps)
    assert asked[0] == 1 and set(asked[1:]) == {"norm"}


@pytest.mark.parametrize(("guesses", "right"), [(1, 0.5), (3, 0.5), (3, 0.8), (5, 0.25)])
def test_guesses_are_even_where_they_give_as_many_tokens_as_they_cost_passes(guesses, right):
    gives = (1 - right ** (guesses + 1)) / (1 - right)
    assert needed_share(guesses, gives) == pytest.approx(right, abs=1e-5)
