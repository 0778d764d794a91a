"""The embedded checkpoint, and stories of which its heads look words up."""

import pytest

from qwen3_scratch import load_checkpoint
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import story_lookups


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def lookups(tiny):
    several = [story for story in questions("stories", 60) if "\n- " in story.thinking]
    return story_lookups(tiny, [story for story in several if len(story.messages) == 1 and story.kind != "several"][:8])
