"""What routes share with their neighbours is counted right, on routes made to share one thing."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import load_checkpoint
from qwen3_scratch.inside.neighbours import (
    by_load,
    by_load_within,
    mixed_within,
    next_layer,
    persistence,
    same_as_before,
    same_by_words,
    shuffled_within,
    strongest_pair,
    together,
    told_next,
)
from qwen3_scratch.inside.routers import mean_by_question, numbered, read_questions
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import bits, questions


def generator():
    return torch.Generator().manual_seed(0)


def drawn(high, *size):
    return torch.randint(high, size, generator=generator())


# ---- the token before ------------------------------------------------------------------------------


def test_neighbours_are_only_within_a_question():
    first, question = torch.tensor([[1, 1, 1, 2, 2]]), torch.tensor([0, 0, 1, 1, 1])
    same, behind = same_as_before(first, question)
    assert same.tolist() == [[True, False, True]] and behind.tolist() == [False, True, False, True, True]


def test_chance_by_load_is_the_sum_of_the_squares_of_the_shares():
    first, question = torch.tensor([[0, 0, 0, 1], [2, 2, 2, 2]]), torch.zeros(4).long()
    share, chance = persistence(first, question, 3)
    assert share.tolist() == pytest.approx([2 / 3, 1]) and chance.tolist() == pytest.approx([0.75**2 + 0.25**2, 1])


def test_tokens_that_choose_by_their_load_alone_persist_as_often_as_by_chance():
    first = torch.tensor([0.6, 0.3, 0.1]).multinomial(40_000, True, generator=generator())[None]
    share, chance = persistence(first, torch.arange(40_000) // 20, 3)
    assert share.item() == pytest.approx(chance.item(), abs=0.01) and chance.item() == pytest.approx(0.46, abs=0.01)


def test_where_the_word_decides_neighbours_share_an_expert_as_often_as_their_words_do():
    word, question = drawn(12, 4000), torch.arange(4000) // 20
    same, chance, load, whose = same_by_words((word % 4)[None], word, question, 4)
    assert torch.equal(same, chance) and len(whose) == 200 * 19
    assert load.item() == pytest.approx(0.25, abs=0.01) == chance.mean().item()


def test_where_routes_come_in_runs_neighbours_share_an_expert_more_often_than_their_words_do():
    word, question = drawn(12, 4000), torch.arange(4000) // 20
    runs = (torch.arange(4000) // 5 % 4)[None]
    same, chance, _, whose = same_by_words(runs, word, question, 4)
    more, half = mean_by_question(same - chance, whose)
    assert same.mean() > 0.8 and chance.mean() < 0.3 and more > 10 * half > 0


def test_a_word_that_the_other_half_of_the_questions_does_not_hold_is_left_out():
    word, question = torch.tensor([1, 1, 2, 1, 1]), torch.tensor([0, 0, 0, 1, 1])
    same, *_, whose = same_by_words(torch.zeros(1, 5).long(), word, question, 2)
    assert same.shape == (1, 2) and whose.tolist() == [0, 1]


# ---- the next layer --------------------------------------------------------------------------------


def test_bits_are_all_for_a_copy_none_for_independent_columns_and_a_part_between():
    assert bits(torch.eye(4)).item() == pytest.approx(2) and bits(torch.ones(4, 4)).item() == pytest.approx(0)
    assert bits(torch.tensor([[3.0, 1], [1, 3]])).item() == pytest.approx(0.1887, abs=1e-4)  # as chapter 12 has by hand


def test_an_order_within_groups_moves_no_token_out_of_its_group_and_most_within():
    group = drawn(5, 500)
    order = shuffled_within(group, generator())
    assert torch.equal(group[order], group) and torch.equal(order.sort().values, torch.arange(500))
    assert (order != torch.arange(500)).float().mean() > 0.9


def test_tokens_mixed_within_their_words_go_together_as_often_as_in_the_mean_of_many_orders():
    by_hand = torch.tensor([0, 0, 1, 1])
    assert mixed_within(by_hand, by_hand, torch.zeros(4).long(), 2).tolist() == [[1, 1], [1, 1]]  # one word
    assert mixed_within(by_hand, by_hand, by_hand, 2).tolist() == [[2, 0], [0, 2]]  # two words
    first, group, draw = drawn(3, 2, 60), drawn(5, 60), generator()
    orders = torch.stack([next_layer(first, 3, shuffled_within(group, draw))[0] for _ in range(2000)])
    torch.testing.assert_close(mixed_within(*first, group, 3), orders.mean(0), atol=0.15, rtol=0)
    assert (mixed_within(*first, group, 3) - next_layer(first, 3)[0]).abs().max() > 0.5


def test_a_layer_that_repeats_the_one_before_tells_all_and_shuffled_next_to_nothing():
    first = drawn(4, 1, 4000).repeat(2, 1)
    assert bits(next_layer(first, 4)).item() == pytest.approx(2.0, abs=0.01)
    assert bits(next_layer(first, 4, torch.randperm(4000, generator=generator()))).item() < 0.01
    found = told_next(first, torch.zeros(4000).long(), torch.arange(4000) // 40, 4, draws=40)
    assert found.bits.item() == pytest.approx(2.0, abs=0.01) and 0 < found.half.item() < 0.02
    assert found.shuffled.item() < 0.01 and found.tokens == 4000


def test_what_the_word_tells_as_well_is_no_layers_own_news():
    word, question = drawn(4, 2000), torch.arange(2000) // 20
    by_word = told_next(word.expand(2, -1), word, question, 4, draws=40)  # both layers follow the word
    assert by_word.bits.item() == pytest.approx(2.0, abs=0.01)
    assert (by_word.bits - by_word.by_word).abs() < 1e-4 and by_word.half_beyond < 1e-4
    first = drawn(4, 1, 2000).expand(2, -1)  # the same in both, and not from the word
    own = told_next(first, word.flip(0), question, 4, draws=40)
    assert (own.bits - own.by_word).item() == pytest.approx(2.0, abs=0.05) and own.half_beyond < 0.05


def test_rare_words_are_left_out_and_one_layer_tells_nothing():
    word = torch.cat((torch.zeros(30), torch.ones(3))).long()
    found = told_next(drawn(4, 2, 33), word, torch.arange(33), 4, draws=5)
    assert found.tokens == 30
    assert [len(each) for each in told_next(drawn(4, 1, 33), word, torch.arange(33), 4)[:6]] == [0] * 6
    assert told_next(drawn(4, 3, 5), torch.arange(5), torch.arange(5), 4).bits.tolist() == [0, 0]


# ---- the other expert ------------------------------------------------------------------------------


def test_pairs_are_counted_by_tokens_and_loads_alone_keep_the_sums_of_their_rows():
    experts = torch.tensor([[[0, 1], [1, 0], [2, 3], [0, 2]]])
    pairs = together(experts, 4)
    assert pairs[0, 0].tolist() == [0, 2, 1, 0] and torch.equal(pairs, pairs.mT)
    generous = together(torch.rand(1, 500, 6, generator=generator()).topk(2).indices, 6)
    chance = by_load(generous)
    torch.testing.assert_close(chance.sum(-1), generous.sum(-1), rtol=1e-3, atol=0.1)
    assert chance.diagonal(0, 1, 2).abs().max() == 0 and 0.7 < (generous / chance)[0, 0, 1:].mean() < 1.3


def test_a_pair_that_goes_together_is_found_and_measured_on_the_other_questions():
    experts = torch.rand(2, 4000, 6, generator=generator()).topk(2).indices
    experts[1, ::10] = torch.tensor([4, 2])
    found = strongest_pair(experts, torch.arange(4000) // 20, 6)
    assert found[:3] == (1, 2, 4) and found.times > 1 + 2 * found.half > 1 and found.of == 2000
    half = together(experts[:, torch.arange(4000) // 20 % 2 == 1], 6)
    assert found.tokens == half[1, 2, 4] and found.times == pytest.approx(float((half / by_load(half))[1, 2, 4]), 1e-3)


def test_the_highest_of_many_pairs_by_chance_is_about_one_on_the_other_questions():
    experts = torch.rand(4, 4000, 8, generator=generator()).topk(2).indices
    found = strongest_pair(experts, torch.arange(4000) // 20, 8)
    assert abs(found.times - 1) < 2 * found.half < 0.6


def test_where_each_word_has_its_two_experts_the_words_loads_make_the_pair_and_those_of_all_tokens_do_not():
    word, here = drawn(3, 3000), torch.arange(3000) % 3 == 0
    experts = torch.tensor([[0, 1], [2, 3], [3, 4]])[word]
    both = together(experts[None, here], 5)[0]
    torch.testing.assert_close(by_load_within(experts, word, 5, here), both, rtol=1e-3, atol=0.5)
    assert by_load_within(experts, torch.zeros(3000).long(), 5, here)[0, 1] < 0.6 * both[0, 1]


def test_a_pair_that_goes_together_in_rare_words_too_is_more_than_its_words_loads_make():
    experts, word = torch.rand(3000, 6, generator=generator()).topk(2).indices, drawn(125, 3000)
    experts[::5], here = torch.tensor([4, 2]), torch.arange(3000) % 2 == 0
    both = together(experts[None, here], 6)[0, 4, 2]
    assert both > 1.5 * by_load_within(experts, word, 6, here)[4, 2]


def test_loads_are_those_elsewhere_and_a_word_not_met_there_gives_none():
    experts, word = torch.tensor([[0, 1], [0, 1], [2, 3], [2, 3], [0, 3]]), torch.tensor([0, 0, 0, 1, 2])
    here = torch.tensor([True, True, False, True, False])  # word 0 has other experts elsewhere, 1 is not met there
    wanted = torch.zeros(4, 4)
    wanted[2, 3] = wanted[3, 2] = 2
    torch.testing.assert_close(by_load_within(experts, word, 4, here), wanted, rtol=1e-3, atol=1e-3)


def test_one_expert_a_token_or_few_tokens_make_no_pair():
    assert strongest_pair(drawn(4, 1, 100, 1), torch.arange(100), 4) is None
    assert strongest_pair(torch.tensor([[[0, 1]] * 8]), torch.arange(8), 4) is None


# ---- what the appendix says of the embedded checkpoint ------------------------------------------------


@pytest.fixture(scope="module")
def reading():
    asked = []
    for domain in DOMAINS:
        alone = [one for one in questions(domain, 120) if len(one.messages) == 1]
        asked += list({one.messages[0]["content"].lower().strip(): one for one in alone}.values())[:24]
    with unchecked():
        return read_questions(load_checkpoint("tiny"), asked)


def test_neighbours_share_an_expert_more_often_than_their_words_do_most_in_the_last_layer(reading):
    found = same_by_words(reading.first, numbered(reading.token_ids), reading.question, 8)
    more, half = mean_by_question(found.same - found.by_words, found.question)
    assert (more > -half).all() and (more[:3] < 0.08).all() and more[3] > 0.08
    with_domain = same_by_words(reading.first, numbered(reading.token_ids, reading.domain), reading.question, 8)
    rest, half = mean_by_question(with_domain.same - with_domain.by_words, with_domain.question)
    assert 0.75 * more[3] > rest[3] > half[3]  # a part of it is the topic's, and not all


def test_what_a_layer_tells_the_next_is_mostly_told_by_the_word(reading):
    told = told_next(reading.first, numbered(reading.token_ids), reading.question, 8, draws=60)
    beyond = told.bits - told.by_word
    assert (told.bits > 10 * told.shuffled).all() and (beyond < 0.25 * told.bits).all()
    assert beyond[-1] > told.half_beyond[-1]


def test_two_experts_of_the_first_layer_answer_the_same_words_far_more_often_than_their_loads_make_them(reading):
    pair = strongest_pair(reading.experts, reading.question, 8)
    assert pair[:3] == (0, 5, 7) and pair.times - pair.half > 2
    both = (reading.experts[0] == 5).any(-1) & (reading.experts[0] == 7).any(-1)
    times, read = (numbered(reading.token_ids)[its].bincount(minlength=2000) for its in (both, both | ~both))
    often = times.topk(8).indices
    assert times[often].sum() > 0.6 * read[often].sum()


def test_the_loads_of_words_give_nearly_what_that_pair_has_and_those_of_domains_or_shuffled_words_do_not(reading):
    word, (row, one, two), half = numbered(reading.token_ids), (0, 5, 7), reading.question % 2
    often = word[half == 0].bincount(minlength=int(word.max()) + 1)[word] >= 5
    experts, domain, word, here = reading.experts[row, often], reading.domain[often], word[often], half[often] == 1
    both = together(experts[None, here], 8)[0, one, two]
    shuffled = word[shuffled_within(half[often], generator())]
    by_word, by_domain, by_chance = (
        by_load_within(experts, key, 8, here)[one, two] for key in (word, domain, shuffled)
    )
    assert by_word > 0.75 * both > 1.5 * max(by_domain, by_chance)
