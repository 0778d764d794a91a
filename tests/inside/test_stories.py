"""A story of one's own: what is noted and looked up."""

import pytest
from helpers import checkpoint

from qwen3_scratch.inside.stories import SPARE, other_notes, same_words, tell
from qwen3_scratch.tiny.corpus import Example


def test_a_story_of_ones_own_is_noted_and_its_answer_looked_up(tiny):
    told = tell(
        tiny, "Emma has a red kite and is at the beach. Tom is in the park. He has a blue ball. Who has the kite?"
    )
    assert told.checkpoint is not None and told.said == "" and "kite" in told.thinking
    steps = told.lookups
    assert steps.followers.any(-1).all()
    for query in steps.query.tolist():
        assert told.token_ids[query + 1] == steps.token_ids[0, query + 1]


@pytest.mark.parametrize("asked", ["What is 2 + 3?", "Hello"])
def test_where_a_story_asks_for_no_look_up_it_is_said_and_another_told(tiny, asked):
    told = tell(tiny, asked)
    assert "No look-up in this story's answer" in told.said and SPARE in told.said
    assert told.lookups.followers.any(-1).all()


def test_a_checkpoint_that_notes_nothing_is_exchanged_for_the_embedded_one():
    told = tell(checkpoint(), SPARE)
    assert told.said.startswith("This checkpoint looks nothing up") and told.checkpoint.path.name == "tiny-moe"


def test_other_notes_say_what_is_wrong_and_nothing(tiny):
    def story(thinking, answer):
        return Example("stories", "where", [{"role": "user", "content": "?"}], thinking, answer)

    examples = [
        story("- Leo school coat Leo\n- Mia park cup Mia\n> Leo school", "Leo is at the school."),
        story("- Eva shop hat Eva\n- Tom forest key Tom\n> key Tom", "Tom has the key."),
    ]
    right, exchanged, dashes = other_notes(examples, tiny.tokenizer).values()
    assert right == [(each.thinking, each.answer) for each in examples]
    assert exchanged == [
        ("- Leo park coat Leo\n- Mia school cup Mia\n> Leo park", "Leo is at the park."),
        ("- Tom shop hat Tom\n- Eva forest key Eva\n> key Eva", "Eva has the key."),
    ]
    assert [set(each.thinking) for each in dashes] == [{" ", "-"}] * 2
    lengths = [len(tiny.tokenizer.encode(each.thinking)) for each in examples]
    assert [each.thinking.count("-") for each in dashes] == lengths


def test_answers_are_the_same_words_but_for_in_and_at():
    assert same_words("Leo is at the park.", "Leo is in the park.")
    assert not same_words("Leo is at the park.", "Mia is at the park.")
