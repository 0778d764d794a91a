"""A story of one's own: what is noted and looked up."""

import pytest
import torch
from helpers import checkpoint

from qwen3_scratch import forward, load_checkpoint
from qwen3_scratch.inside.stories import SPARE, other_notes, same_words, tell
from qwen3_scratch.model import rope, rope_table
from qwen3_scratch.tiny.corpus import Example
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import story_lookups, strongest_look
from qwen3_scratch.tracing import head_weights, trace


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


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


def test_other_notes_say_what_is_wrong_what_was_elsewhere_and_nothing(tiny):
    def story(thinking, answer):
        return Example("stories", "where", [{"role": "user", "content": "?"}], thinking, answer)

    examples = [
        story("- Leo school coat Leo\n- Mia park cup Mia\n> Leo school", "Leo is at the school."),
        story("- Eva shop hat Eva\n- Tom forest key Tom\n> key Tom", "Tom has the key."),
    ]
    right, exchanged, elsewhere, dashes = other_notes(examples, tiny.tokenizer).values()
    assert right == [(each.thinking, each.answer) for each in examples] == elsewhere[::-1]
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


def test_the_strongest_look_is_that_of_the_head_that_gives_the_note_most_weight(tiny):
    story = next(each for each in questions("stories", 20) if each.kind != "several" and len(each.messages) == 1)
    steps, look = story_lookups(tiny, [story]), strongest_look(tiny, story)
    at, found = int(steps.query[0]), int(steps.followers[0].nonzero()[0])
    looks = head_weights(tiny.weights, tiny.config, steps.token_ids)[:, 0, :, at, found]
    assert looks[look.layer, look.head] == looks.max()
    with trace() as t:
        forward(tiny.weights, steps.token_ids, tiny.config)
    call = t["gqa_attention"][look.layer].inputs
    group = tiny.config.num_attention_heads // tiny.config.num_key_value_heads
    cos, sin = rope_table(tiny.config, torch.tensor([[at, found]]))
    turned = rope(torch.stack((look.query, look.key))[None, None], cos, sin)[0, 0]
    torch.testing.assert_close(turned[0], call["q"][0, look.head, at])
    torch.testing.assert_close(turned[1], call["k"][0, look.head // group, found])
