"""Where stories are looked up in their notes."""

import pytest

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import story_lookups


def test_each_step_of_a_look_up_copies_from_behind_the_word_that_is_read():
    several = [story for story in questions("stories", 60) if "\n- " in story.thinking]
    alone = [story for story in several if len(story.messages) == 1 and story.kind != "several"]
    lookups = story_lookups(load_checkpoint("tiny"), alone[:8])
    for number, (text, query) in enumerate(zip(lookups.text.tolist(), lookups.query.tolist(), strict=True)):
        ids, places = lookups.token_ids[text], lookups.followers[number].nonzero()[:, 0]
        assert len(places) and (places < query).all()
        assert (ids[places] == ids[query + 1]).all() and (ids[places - 1] == ids[query]).all()
        assert not (lookups.followers[number] & lookups.others[number]).any()


def test_stories_without_notes_are_refused_in_a_sentence():
    with pytest.raises(Error, match="expected a last line such as"):
        story_lookups(load_checkpoint("tiny"), questions("facts", 1))
