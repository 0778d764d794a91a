"""What is said of looks at the first place is true, on heads made to do one thing and on the embedded checkpoint."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import load_checkpoint
from qwen3_scratch.generation import prompt_ids
from qwen3_scratch.inside.heads import even_weights, margins, shuffled_rows
from qwen3_scratch.inside.sinks import carried, hiding, shared_out
from qwen3_scratch.plots.canvas import half_interval
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.corpus.copying import WORDS
from qwen3_scratch.tiny.evaluate import questions
from qwen3_scratch.tiny.lookups import story_lookups
from qwen3_scratch.tracing import head_weights


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


def test_a_look_is_shared_out_among_places_that_each_count_once():
    ids, looks = [7, 5, 6, 5, 8, 5], torch.zeros(6, 6)
    looks[4] = torch.tensor([0.1, 0.0, 0.0, 0.2, 0.3, 0.4])  # not asked
    looks[5] = torch.tensor([0.04, 0.06, 0.2, 0.1, 0.35, 0.25])  # the 5 in front of it stands in 1 and 3
    found = shared_out(looks, ids, 5)
    assert list(found.values()) == pytest.approx([0.04, 0.25, 0.35, 0.2, 0.16, 0.0])
    assert shared_out(torch.eye(6), ids, 1)["the token itself"] == 1
    assert sum(shared_out(looks, ids, 4).values()) == pytest.approx((1 - 0.4 + 1) / 2)  # what lies ahead is no kind


def test_a_hidden_place_is_seen_by_itself_alone_and_what_it_had_goes_to_the_others_in_proportion(tiny, ids):
    usual, found = (head_weights(tiny.weights, tiny.config, ids, *ops) for ops in ((), (hiding(3),)))
    assert found[..., 4:, 3].max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    torch.testing.assert_close(found[..., :4, :], usual[..., :4, :])  # the place itself and those before notice nothing
    rest = usual[0, ..., 4:, :].index_fill(-1, torch.tensor([3]), 0.0)
    torch.testing.assert_close(found[0, ..., 4:, :], rest / rest.sum(-1, keepdim=True))


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
def test_next_to_nothing_of_the_margin_is_lost_without_the_first_token(tiny):
    single = [each for each in questions("stories", 300) if len(each.messages) == 1 and each.kind != "several"]
    lookups = story_lookups(tiny, single[:20])
    margin = margins(tiny.weights, tiny.config, lookups)
    lost = margin - margins(tiny.weights, tiny.config, lookups, hiding(0))
    assert lost.mean().abs() < half_interval(lost[None])[0] < 0.05 * margin.mean()
