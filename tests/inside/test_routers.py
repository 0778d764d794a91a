"""What the measures of routers say is true, on routes made to do one thing and on the embedded checkpoint."""

import math

import pytest
import torch
from helpers import checkpoint, unchecked

from qwen3_scratch.inside.routers import (
    Reading,
    bits_given,
    by_context,
    domain_bits,
    guessed,
    kept_words,
    mean_by_question,
    met,
    numbered,
    read_questions,
    tally,
    told_by,
    typical_words,
    words_of,
)
from qwen3_scratch.model import forward
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import answer_ids, chat_ids, mutual_information, questions
from qwen3_scratch.tracing import trace


@pytest.fixture(scope="module")
def examples():
    return [example for domain in DOMAINS for example in questions(domain, 4)]


@pytest.fixture(scope="module")
def reading(tiny, examples):
    with unchecked():
        return read_questions(tiny, examples, batch=5)


def generator():
    return torch.Generator().manual_seed(0)


def made(first, words, before, question):
    """A reading of one layer whose routes are given."""
    first, words, before = (torch.tensor(each) for each in (first, words, before))
    return Reading(first[None, :, None], torch.zeros(1, len(first), 2), words, torch.stack((before, before)),
                   torch.tensor(question), torch.zeros_like(first), (0,))  # fmt: skip


def test_a_reading_holds_what_one_question_read_alone_gives(tiny, examples, reading):
    for number in (0, 7, 23):
        ids, words = chat_ids(tiny, examples[number])
        its = reading.question == number
        with trace() as t:
            forward(tiny.weights, torch.tensor([ids[: words.stop]]), tiny.config)
        assert reading.token_ids[its].tolist() == ids[words]
        assert reading.before[:, its].tolist() == [ids[words.start - back : words.stop - back] for back in (1, 2)]
        assert {DOMAINS[at] for at in reading.domain[its].tolist()} == {examples[number].domain}
        for row, call in enumerate(t["moe_route"]):
            assert torch.equal(reading.experts[row, its], call.output.experts[words])
            torch.testing.assert_close(reading.seen[row, its], call.inputs["x"][words], atol=1e-4, rtol=1e-4)


def test_what_is_read_while_answering_is_all_from_the_prompt_to_the_token_before_the_end(tiny, examples):
    found = read_questions(tiny, examples[:4], part=answer_ids)
    for number in range(4):
        ids, _ = chat_ids(tiny, examples[number])
        prompt = tiny.tokenizer.encode(tiny.tokenizer.render_chat(examples[number].messages))
        own = found.token_ids[found.question == number].tolist()
        assert prompt + own == ids[:-2] and tiny.tokenizer.decode(ids[-2:], skip_special_tokens=False) == "<|im_end|>\n"


def test_dense_layers_are_left_out_of_a_reading(examples):
    found = read_questions(checkpoint(mlp_only_layers=(0,)), examples[:3])
    assert found.layers == (1,) and len(found.experts) == len(found.seen) == 1


def test_an_interval_over_questions_is_wider_than_over_tokens_where_those_of_a_question_agree():
    question = torch.arange(20).repeat_interleave(10)
    alike, apart = (question % 2 == 0)[None], torch.arange(200)[None] % 2 == 0
    mean, half = mean_by_question(alike, question)
    assert mean.item() == 0.5 and half.item() == pytest.approx(1.96 * 0.5 / 19**0.5, rel=1e-4)
    assert mean_by_question(apart, question)[1].item() == 0.0


def test_back_off_asks_the_shorter_key_where_the_longer_was_never_met():
    question, word = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    first, never = torch.tensor([[2, 1, 2, 1]]), torch.arange(4)
    none = torch.zeros(4, dtype=torch.long)
    assert guessed(first, [never, word, none], question, 3).all()
    assert guessed(first, [word, none], question, 3).all()
    assert guessed(first, [none], question, 3).float().mean() < 1


def test_a_word_that_follows_its_neighbour_is_guessed_from_it_and_from_nothing_else():
    words, before = [9] * 16, [1, 2] * 8
    reading = made([0, 3] * 8, words, before, [at // 4 for at in range(16)])
    assert told_by(reading, 0, 9, reading.before[0], 4) == (0.5, 0.5, 0.0)
    assert told_by(reading, 0, 9, reading.domain, 4) == (0.5, 0.0, 0.0)
    assert by_context(reading, 0, 9, reading.before[0], 4) == [(1, 0, 8, 8), (2, 3, 8, 8)]
    rare = reading.before[0].clone()
    rare[:2] = 7  # a context that is met twice proves nothing
    assert by_context(reading, 0, 9, rare, 4) == [(1, 0, 7, 7), (2, 3, 7, 7)]


def test_a_key_is_met_where_the_other_half_of_the_questions_holds_it():
    question = torch.tensor([0, 0, 1, 1, 2])
    assert met(torch.tensor([5, 6, 5, 7, 7]), question) == pytest.approx(4 / 5)
    assert met(torch.arange(5), question) == 0


def test_a_word_is_typical_of_the_expert_that_gets_more_of_it_than_its_load_explains():
    words, first = [5] * 6 + [6] * 6 + [7] * 3 + [8] * 5, [0] * 6 + [1] * 5 + [0] + [1] * 3 + [0, 1, 0, 1, 0]
    reading, every = made(first, words, [0] * 20, [0] * 20), torch.ones(20, dtype=torch.bool)
    texts = [{5: " the", 6: "1", 7: "rare", 8: "."}[word] for word in words]
    assert typical_words(reading, texts, 3, every) == {0: [[" the", "."], ["1"], []]}  # of 20 tokens, 10 go to each
    assert typical_words(reading, texts, 3, every, most=1) == {0: [[" the"], ["1"], []]}
    assert typical_words(reading, texts, 3, reading.token_ids != 5)[0][0] == ["."]  # what is not counted is not there


def test_words_that_are_typical_of_several_count_for_the_one_where_they_stand_higher():
    reading = made([0, 1, 1, 0], [5, 6, 5, 7], [0] * 4, [0, 0, 1, 1])
    texts, every = ["a", "b", "a", "c"], torch.ones(4, dtype=torch.bool)
    some = torch.tensor([True, True, True, False])  # the other one goes to expert 0: the busiest
    kept, whose, shares = kept_words(reading, {0: [["a", "b"], ["b", "a"], ["d"]]}, texts, some)
    assert kept.tolist() == [[True, True, False], [True, False, False]] and whose.tolist() == [0, 0, 1]
    assert shares[0][:2] == [0.5, 1.0] and math.isnan(shares[0][2])  # the third expert's word is met nowhere
    kept, whose, _ = kept_words(reading, {}, texts, every)
    assert mean_by_question(kept, whose)[0].tolist() == [0, 0]


def test_what_an_expert_reads_in_a_domain_is_counted():
    reading = made([1, 1, 1, 0], [5, 6, 6, 6], [0] * 4, [0, 0, 1, 1])
    assert words_of(reading, 0, 1, 0) == [(6, 2), (5, 1)] and words_of(reading, 0, 2, 0) == []


def test_bits_given_a_word_are_the_mean_of_what_its_tokens_tell_and_without_one_the_mutual_information(reading):
    apart, alike = torch.tensor([[8.0, 0], [0, 8]]), torch.tensor([[8.0, 0], [8, 0]])  # [domains, experts]
    one_bit, none = bits_given(apart[None, None]), bits_given(alike[None, None])
    assert one_bit.item() == pytest.approx(1) and none.item() == pytest.approx(0)
    assert bits_given(torch.stack((apart, alike))[None]).item() == pytest.approx(0.5)
    words = torch.stack((torch.tensor([[8.0, 0], [0, 0]]), torch.tensor([[0, 0], [0, 8.0]])))
    assert bits_given(words.sum(0)[None, None]).item() == pytest.approx(1)  # each domain has a word of its own:
    assert bits_given(words[None]).item() == pytest.approx(0)  # who knows the word is told nothing more
    counts = tally(reading.first, reading.domain, 8)
    torch.testing.assert_close(bits_given(counts[:, None]), mutual_information(counts))


def test_what_only_the_word_decides_tells_nothing_once_it_is_known():
    word, domain = torch.arange(400) % 4, torch.arange(400) // 4 % 2
    reading = made(word.tolist(), word.tolist(), [0] * 400, [at // 4 for at in range(400)])._replace(domain=domain)
    uneven = reading._replace(token_ids=word + domain)  # words 1 to 3 stand in both domains
    router, none = [torch.eye(4, 2)], torch.zeros_like(word)
    assert domain_bits(reading, router, word, draws=(9, 1)).measured.item() == pytest.approx(0, abs=1e-6)
    by_word = uneven._replace(experts=uneven.token_ids[None, :, None].clamp(max=3))
    assert domain_bits(by_word, router, none, draws=(9, 1)).measured.item() > 0.1
    known = domain_bits(by_word, router, by_word.token_ids, draws=(9, 1))
    assert known.measured.item() == pytest.approx(0, abs=1e-6) and known.tokens == 300
    by_topic = uneven._replace(experts=domain[None, :, None])
    found = domain_bits(by_topic, router, by_topic.token_ids, draws=(50, 1))
    assert found.measured.item() == pytest.approx(1, abs=1e-5) and found.shuffled.max() < 0.2


def test_controls_shuffle_whole_questions_and_draw_routers(tiny, reading):
    routers, none = [layer.router for layer in tiny.weights.layers], torch.zeros_like(reading.domain)
    found = domain_bits(reading, routers, none, draws=(40, 3))
    assert found.shuffled.shape == (40, 4) and found.random.shape == (3, 4) and found.tokens == len(none)
    torch.testing.assert_close(found.measured, mutual_information(tally(reading.first, reading.domain, 8)))
    apart = reading._replace(domain=reading.question % 2, experts=(reading.question % 2).expand(4, -1)[..., None])
    told = domain_bits(apart, routers, none, draws=(400, 1)).shuffled  # a question's domain decides its expert
    assert 0 <= told.min() < 0.05 and told.max() < 1  # in another order it tells little, and never all


# ---- what the chapter says of the embedded checkpoint -----------------------------------------------


def test_a_word_tells_more_of_its_expert_than_the_domain_does(tiny, reading):
    total, none = tiny.config.num_experts, torch.zeros_like(reading.question)
    word = numbered(reading.token_ids)
    by_word, by_domain = (guessed(reading.first, [key, none], reading.question, total).float().mean(-1)
                          for key in (word, reading.domain))  # fmt: skip
    assert (by_word > by_domain + 0.1).all()


def test_routes_of_trained_routers_tell_the_domain_beyond_shuffled_questions(tiny, reading):
    total = tiny.config.num_experts
    measured = mutual_information(tally(reading.first, reading.domain, total))
    order = torch.randperm(24, generator=generator())
    assert (measured > 1.5 * mutual_information(tally(reading.first, (order // 4)[reading.question], total))).all()


def test_once_the_word_is_known_random_routers_tell_more_of_the_domain_than_those_of_the_first_three_layers(tiny):
    asked = [example for domain in DOMAINS for example in questions(domain, 16)]
    reading, routers = read_questions(tiny, asked), [layer.router for layer in tiny.weights.layers]
    known = domain_bits(reading, routers, reading.token_ids, draws=(20, 20))
    assert (known.measured > known.shuffled.amax(0)).all()
    assert (known.measured[:3] < known.random.mean(0)[:3]).all()


def test_one_expert_of_the_last_layer_has_its_tokens_from_stories_and_two_have_most_from_one_domain(tiny):
    reading = read_questions(tiny, [example for domain in DOMAINS for example in questions(domain, 24)])
    counts = tally(reading.first[-1:], reading.domain, 8)[0]
    part = counts / counts.sum(-1, keepdim=True)
    most, home = (part / part.sum(0)).max(0)
    assert most[5] > 0.9 and most[[1, 2]].min() > 0.65 and most[[0, 3, 4, 7]].max() < 0.65
    assert [DOMAINS[at] for at in home[[1, 2, 5]].tolist()] == ["arithmetic", "stories", "stories"]
    assert part[home[[1, 2, 5]], [1, 2, 5]].max() < 0.5
