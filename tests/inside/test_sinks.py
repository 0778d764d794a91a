"""What is said of looks at the first place is true, on heads made to do one thing and on the embedded checkpoint."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import forward, load_checkpoint
from qwen3_scratch.generation import prompt_ids
from qwen3_scratch.inside.heads import even_weights, looked, margins, shuffled_rows
from qwen3_scratch.inside.sinks import carried, emptying, hiding, on_first, shared_out
from qwen3_scratch.plots.canvas import half_interval
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.corpus.copying import WORDS
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import Lookups, story_lookups
from qwen3_scratch.tracing import head_weights, trace


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny", dtype=torch.float32)


@pytest.fixture
def ids():
    return torch.randint(2000, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_token_is_carried_to_each_place_and_looked_at_by_the_same_later_tokens(tiny):
    rest = [5, 6, 7, 8, 10, 11]
    found = carried(tiny.weights, tiny.config, rest, 9, (0, 2, 3))
    for row, place in enumerate((0, 2, 3)):
        text = torch.tensor([[*rest[:place], 9, *rest[place:]]])
        assert text[0, place] == 9 and text[0, 4:].tolist() == rest[3:]  # who looks is the same
        looks = head_weights(tiny.weights, tiny.config, text)
        torch.testing.assert_close(found[row], looks[:, 0, :, 4:, place].mean(-1))


def test_a_weight_is_shared_out_among_the_first_token_the_one_before_the_token_itself_and_all_others():
    for share, places in enumerate((torch.zeros(8).long(), torch.arange(8) - 1, torch.arange(8), torch.arange(8) - 2)):
        looks = torch.nn.functional.one_hot(places.clamp(min=0), 8).float()
        assert shared_out(looks, 3).tolist() == torch.eye(4)[share].tolist()
    assert shared_out(looks[None, None], 3).shape == (1, 1, 4)


def test_looks_at_the_first_token_are_counted_at_the_steps_that_look_up_and_before_them():
    steps = torch.zeros(3, 9) > 1
    lookups = Lookups(torch.zeros(2, 9).long(), torch.tensor([0, 0, 1]), torch.tensor([5, 6, 7]), steps, steps)
    looks = torch.zeros(1, 2, 1, 9, 9)
    looks[0, :, 0, :, 0] = torch.tensor([[9, 9, 9, 0.2, 0.4, 0.5, 0.7, 9, 9], [9, 9, 9, 0, 0, 0, 0.8, 0.1, 9]])
    while_looking, before = on_first(looks, lookups, 3)
    assert while_looking[0, 0].tolist() == pytest.approx([0.6, 0.1])
    assert before[0, 0].tolist() == pytest.approx([0.3, 0.2])


def test_a_hidden_place_is_seen_by_itself_alone_and_what_it_had_goes_to_the_others_in_proportion(tiny, ids):
    usual, found = (head_weights(tiny.weights, tiny.config, ids, *ops) for ops in ((), (hiding(3),)))
    assert found[..., 4:, 3].max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(found[..., :4, :], usual[..., :4, :])  # the place itself and those before notice nothing
    rest = usual[0, ..., 4:, :].index_fill(-1, torch.tensor([3]), 0.0)
    torch.testing.assert_close(found[0, ..., 4:, :], rest / rest.sum(-1, keepdim=True))


def test_an_empty_place_is_looked_at_as_before_and_nothing_is_gathered_there(tiny, ids):
    with trace() as usual:
        forward(tiny.weights, ids, tiny.config)
    with trace() as t:
        forward(tiny.weights, ids, tiny.config, ops=emptying(3))
    looks = head_weights(tiny.weights, tiny.config, ids)[0]  # of the first layer, which nothing reaches yet
    values = usual["gqa_attention"][0].inputs["v"].repeat_interleave(2, dim=1)
    lost = looks[..., 3:4] * values[:, :, 3:4]
    torch.testing.assert_close(t["gqa_attention"][0].output, usual["gqa_attention"][0].output - lost)
    assert torch.equal(head_weights(tiny.weights, tiny.config, ids, emptying(3))[0], looks)


# ---- what the appendix says of the embedded checkpoint ------------------------------------------------


@unchecked()  # many passes of one form, whose shapes other tests check
@torch.inference_mode()
def test_a_look_up_head_seeks_the_first_token_in_its_place_and_no_head_is_a_sink(tiny):
    asked = [example for domain in DOMAINS for example in questions(domain, 2)]
    chats = [prompt_ids(tiny, example.messages, thinking=False) for example in asked]
    nouns = shuffled_rows(tiny.tokenizer, WORDS, 12, 1).flatten().tolist()
    usual, noun, dot = (
        torch.stack(
            [carried(tiny.weights, tiny.config, chat[1:], one) for chat, one in zip(chats, tokens, strict=True)]
        )
        for tokens in ([chats[0][0]] * len(chats), nouns, tiny.tokenizer.encode(".") * len(chats))
    )  # [chats, places, layers, heads] each
    even = torch.stack([even_weights(tiny.config, len(chat))[0, 0, 0, 9:, 0].mean() for chat in chats]).mean()
    assert 1.5 * even < usual[:, 0].mean(0).max() < 3.5 * even  # no sink as large models have them
    usual, noun, dot = (each[..., 1, 1].mean(0) for each in (usual, noun, dot))
    assert usual[0] > 1.5 * usual[1:].max() and usual[0] > 1.5 * max(noun[0], dot[0])


@torch.inference_mode()
def test_look_up_heads_look_at_the_first_token_more_before_they_look_up_and_nothing_is_lost_without_it(tiny):
    single = [each for each in questions("stories", 300) if len(each.messages) == 1 and each.kind != "several"]
    lookups = story_lookups(tiny, single[:20])
    looks = head_weights(tiny.weights, tiny.config, lookups.token_ids)
    seekers = looked(looks, lookups, lookups.followers).mean(-1) > 0.5
    evenly = even_weights(tiny.config, looks.shape[-1]).expand(-1, looks.shape[1], -1, -1, -1)
    even, by_head = (on_first(each, lookups, 9)[1].mean(-1) for each in (evenly, looks))
    assert by_head[1, 1] > by_head[1, 6] > 1.2 * even.max() > by_head[1, [0, 7]].max()
    while_looking, before = (each[seekers].mean(0) for each in on_first(looks, lookups, 9))  # [stories]
    apart = before - while_looking
    assert apart.mean() > half_interval(apart[None])[0] > 0
    margin = margins(tiny.weights, tiny.config, lookups)
    for way in (hiding(0), emptying(0)):
        assert (margin - margins(tiny.weights, tiny.config, lookups, way)).mean().abs() < 0.05 * margin.mean()
