"""What heads do when one of them says another word, on stories that the embedded checkpoint reads."""

import pytest
import torch
from helpers import unchecked
from looking_up import seekers_of

from qwen3_scratch import Error
from qwen3_scratch.inside.heads import exchange_words, followed, in_line
from qwen3_scratch.tiny.corpus.common import BOYS, GIRLS, THINGS
from qwen3_scratch.tiny.corpus.stories import COLOURS, PLACES


def test_words_of_a_line_are_counted_from_its_first():
    noted = torch.tensor([False, True, True, False, False, True, True, True])
    assert in_line(noted)[noted].tolist() == [1, 2, 1, 2, 3]


def test_an_exchange_puts_one_other_word_of_the_notes_where_the_word_read_was(lookups):
    exchange = exchange_words(lookups)
    whole = exchange.lookups.token_ids
    assert exchange.elsewhere.any(1).all() and not (exchange.elsewhere & lookups.followers).any()
    for step, (row, at) in enumerate(zip(whole, lookups.query.tolist(), strict=True)):
        read, other = row[at], exchange.in_query[step, at]
        assert (exchange.in_query[step] != row).nonzero().tolist() == [[at]]
        before = exchange.elsewhere[step].nonzero()[:, 0] - 1
        assert (row[before] == other).all() and (exchange.in_notes[step, before] == read).all()
        assert (row[exchange.elsewhere[step]] == exchange.other_answers[step]).all()
        changed = exchange.in_notes[step] != row
        assert {*row[changed].tolist()} == {*exchange.in_notes[step, changed].tolist()} == {int(read), int(other)}
        assert not changed[at:].any()
        swapped, answers = exchange.in_answers[step] != row, exchange.in_answers[step, exchange.elsewhere[step]]
        assert (answers == row[at + 1]).all() and not swapped[at:].any()
        assert (exchange.in_answers[step, lookups.followers[step]] == exchange.other_answers[step]).all()
        assert {*row[swapped].tolist()} == {int(row[at + 1]), int(exchange.other_answers[step])}


def test_a_word_is_exchanged_for_one_of_its_kind(tiny, lookups):
    places = tuple(place.split()[-1] for place in PLACES)

    def kind(token):
        word = tiny.tokenizer.decode([int(token)]).strip()
        return [word in words for words in (GIRLS + BOYS, places, COLOURS, THINGS)].index(True)

    exchange = exchange_words(lookups)
    rows = zip(exchange.lookups.token_ids, exchange.in_query, lookups.query, strict=True)
    assert all(kind(row[at]) == kind(changed[at]) for row, changed, at in rows)


def test_notes_with_nothing_to_exchange_end_in_a_sentence(lookups):
    one_word = lookups._replace(token_ids=torch.zeros_like(lookups.token_ids))
    with pytest.raises(Error, match=r"^notes: no word found beside the two of this look-up, expected"):
        exchange_words(one_word)


@pytest.mark.proof
@unchecked()  # passes of one form, whose shapes other tests check
@torch.inference_mode()
def test_look_up_heads_follow_what_two_early_heads_say_and_the_model_writes_it(tiny, lookups):
    layer, numbers = 1, [head for at, head in seekers_of(tiny, lookups) if at == 1]
    exchange = exchange_words(lookups)

    def shares(head, part):
        found = followed(tiny.weights, tiny.config, exchange, head, layer, part)
        places, answers = (lookups.followers, exchange.elsewhere), (lookups.answers, exchange.other_answers)
        on = [float((found.looks[numbers] * each).sum(-1).mean()) for each in places]
        return *on, *(float((found.words == each).float().mean()) for each in answers)

    earlier = [(0, head) for head in range(tiny.config.num_attention_heads)]
    for part in "kq":
        *others, (there, moved, right, other) = sorted(
            (shares(head, part) for head in earlier), key=lambda each: each[1]
        )
        assert there < 0.1 < 0.7 < moved and right < 0.2 < 0.8 < other
        assert all(stays > 0.6 and goes < 0.1 and right > 0.9 for stays, goes, right, _ in others)
    values = [shares(head, "v") for head in earlier]  # these move no look
    assert all(there > 0.6 > 0.1 > moved for there, moved, *_ in values)
    assert sorted(other > 0.8 > 0.2 > right for *_, right, other in values) == [False] * (len(earlier) - 1) + [True]
    there, moved, right, other = shares(earlier[0], "")
    assert there > 0.6 > 0.1 > moved and right == 1 and other == 0
