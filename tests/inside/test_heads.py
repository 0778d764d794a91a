"""What the measures of attention heads say is true, on heads made to do one thing and on the embedded checkpoint."""

import pytest
import torch

from qwen3_scratch import Error, forward, load_checkpoint
from qwen3_scratch.inside.heads import (
    copying,
    even_weights,
    first_token,
    induction,
    previous_token,
    right_word,
    without,
)
from qwen3_scratch.model import Ops, gqa_attention
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import story_lookups, weight_on
from qwen3_scratch.tracing import head_weights, trace


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def lookups(tiny):
    several = [story for story in questions("stories", 60) if "\n- " in story.thinking]
    return story_lookups(tiny, [story for story in several if len(story.messages) == 1 and story.kind != "several"][:8])


def looking(offset, seq=8):
    """Weights of one head in which each token looks `offset` back, or at the first token where that is outside."""
    targets = (torch.arange(seq) - offset).clamp(min=0)
    return torch.nn.functional.one_hot(targets, seq).float()[None, None, None]


def test_each_score_is_one_for_a_head_that_does_nothing_else():
    assert previous_token(looking(1)) == 1
    assert first_token(looking(99)) == 1
    assert induction(looking(3), period=4) == 1


def test_each_score_is_zero_for_a_head_that_looks_one_token_further():
    assert previous_token(looking(2)[..., 2:, 2:]) == 0
    assert first_token(looking(0)) == 0
    assert induction(looking(4), period=4) == 0


def test_an_even_look_sees_all_tokens_up_to_its_own_alike(tiny):
    even = even_weights(tiny.config, 5)
    torch.testing.assert_close(even[0, 0, 0], torch.ones(5, 5).tril() / torch.arange(1.0, 6)[:, None])


def test_the_weights_of_all_heads_times_the_values_are_what_the_heads_gathered(tiny):
    ids = torch.randint(2000, (2, 9), generator=torch.Generator().manual_seed(0))
    looks = head_weights(tiny.weights, tiny.config, ids)
    with trace() as t:
        forward(tiny.weights, ids, tiny.config)
    for layer, call in enumerate(t["gqa_attention"]):
        values = call.inputs["v"].repeat_interleave(2, dim=1)
        torch.testing.assert_close(looks[layer] @ values, call.output)


def test_a_head_without_its_columns_is_a_head_whose_output_is_zero(tiny):
    ids = torch.randint(2000, (1, 9), generator=torch.Generator().manual_seed(0))

    def silenced(q, k, v, mask=None):
        out = gqa_attention(q, k, v, mask).clone()
        out[:, 2] = 0
        return out

    all_layers = [(layer, 2) for layer in range(tiny.config.num_hidden_layers)]
    expected = forward(tiny.weights, ids, tiny.config, ops=Ops(attention=silenced))
    torch.testing.assert_close(forward(without(tiny.weights, tiny.config, all_layers), ids, tiny.config), expected)


def test_taking_a_head_away_leaves_the_given_weights_as_they_were(tiny):
    before = tiny.weights.layers[1].o_proj.clone()
    assert not torch.equal(without(tiny.weights, tiny.config, [(1, 0)]).layers[1].o_proj, before)
    assert torch.equal(tiny.weights.layers[1].o_proj, before)


def test_each_step_of_a_look_up_copies_from_behind_the_word_that_is_read(lookups):
    for number, (text, query) in enumerate(zip(lookups.text.tolist(), lookups.query.tolist(), strict=True)):
        ids, places = lookups.token_ids[text], lookups.followers[number].nonzero()[:, 0]
        assert len(places) and (places < query).all()
        assert (ids[places] == ids[query + 1]).all() and (ids[places - 1] == ids[query]).all()
        assert not (lookups.followers[number] & lookups.others[number]).any()


def test_stories_without_notes_are_refused_in_a_sentence(tiny):
    with pytest.raises(Error, match="expected a last line such as"):
        story_lookups(tiny, questions("facts", 1))


def test_the_heads_that_look_the_answer_up_copy_it_and_are_missed_together_only(tiny, lookups):
    scores = weight_on(head_weights(tiny.weights, tiny.config, lookups.token_ids), lookups, lookups.followers)
    seekers = [divmod(place, scores.shape[1]) for place in (scores.flatten() > 0.5).nonzero()[:, 0].tolist()]
    words = lookups.answers.unique()
    copied = copying(tiny.weights, tiny.config, words[None], words)
    assert all(copied[at] > 0.5 for at in seekers)

    def left(*heads):
        return right_word(without(tiny.weights, tiny.config, heads), tiny.config, lookups)

    assert len(seekers) > 1 and all(left(at) > 0.9 for at in seekers)
    assert left(*seekers) < 0.5 < left()
