"""What routes of words alone tell is what the words tell, and no more."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import load_checkpoint
from qwen3_scratch.inside.routers import Reading, read_questions
from qwen3_scratch.inside.word_means import bits_by_words, by_word_means
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions


def made(seen, word, question, domain, router):
    """A reading of one layer, whose router chooses among the vectors that are given."""
    first = (seen @ router.T).argmax(-1)
    return Reading(first[None, :, None], seen[None], word, torch.stack((word, word)), question, domain, (0,))


@pytest.fixture
def words():
    """800 tokens of 80 questions in two domains; each word's vector is its own direction of four, and there are 8."""
    question = torch.arange(800) // 10
    word = torch.randint(8, (800,), generator=torch.Generator().manual_seed(0))
    return word, question, question // 2 % 2


def test_a_router_is_shown_the_mean_of_the_other_half_of_the_questions():
    seen = torch.tensor([[0.0, 1], [0, 1], [0, 1], [5, 0], [-1, 0]])
    word, question = torch.tensor([3, 3, 3, 3, 9]), torch.tensor([0, 0, 1, 1, 1])
    reading = made(seen, word, question, torch.zeros(5).long(), torch.eye(2))
    sent, known = by_word_means(reading, [torch.eye(2)])
    assert sent[0, :4].tolist() == [0, 0, 1, 1]  # by the means of the others, [2.5, 0.5] and [0, 1]
    assert known.tolist() == [True, True, True, True, False]  # word 9 stands in one half alone


def test_where_the_word_decides_its_mean_vector_tells_as_much_as_the_routes(words):
    word, question, domain = words
    word = (word + 3 * domain) % 8  # some words stand more in one domain
    router = torch.eye(4)
    reading = made(router[word % 4], word, question, domain, router)
    found = bits_by_words(reading, [router], draws=30)
    assert torch.equal(found.measured, found.by_words) and found.half_beyond == 0 and found.tokens == 800


def test_what_the_context_moves_is_not_told_by_mean_vectors(words):
    word, question, domain = words
    router = torch.eye(4)
    reading = made(router[2 * domain + word % 2], word, question, domain, router)  # half of it is the topic
    found = bits_by_words(reading, [router], draws=30)
    assert found.measured.item() == pytest.approx(1) and found.by_words < 0.05
    assert found.measured - found.by_words > 10 * found.half_beyond > 0
    assert found.shuffled < 0.1


def test_words_alone_make_half_or_more_of_what_routes_of_the_embedded_checkpoint_tell_and_not_all():
    checkpoint = load_checkpoint("tiny")
    with unchecked():
        reading = read_questions(checkpoint, [example for domain in DOMAINS for example in questions(domain, 24)])
    found = bits_by_words(reading, [layer.router for layer in checkpoint.weights.layers], draws=60)
    assert (found.by_words > 0.45 * found.measured).all() and (found.measured > 4 * found.shuffled).all()
    beyond = found.measured - found.by_words
    assert beyond[-1] > 2 * found.half_beyond[-1] and beyond.argmax() == 3
