"""Losses of whole chats: which tokens count, and that padding and batching change nothing."""

import pytest
import torch
import torch.nn.functional as F
from reference import random_tokens, random_weights, small_config

from qwen3_scratch import forward, load_checkpoint
from qwen3_scratch.generation import prompt_ids
from qwen3_scratch.inside.compare import BATCHED, CACHED, ONE_PASS, read, write
from qwen3_scratch.inside.heads import margins
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.model import Ops, embed, moe_route
from qwen3_scratch.tiny.evaluate import answer_losses, chat_ids, footprints, padded_chats, questions
from qwen3_scratch.tiny.lookups import story_lookups

EXAMPLES = questions("stories", 2) + questions("facts", 2)


def test_written_tokens_are_the_thinking_and_the_answer_up_to_the_end_of_the_turn():
    tiny = load_checkpoint("tiny")
    chats = padded_chats(tiny, EXAMPLES)
    for example, ids, written in zip(EXAMPLES, chats.token_ids, chats.written, strict=True):
        expected = f"<think>\n{example.thinking}\n</think>\n\n{example.answer}<|im_end|>"
        assert tiny.tokenizer.decode(ids[written].tolist()) == expected
        prompt = prompt_ids(tiny, example.messages)
        assert ids[: len(prompt)].tolist() == prompt
        assert int(written.nonzero()[0]) == len(prompt)


def test_padded_chats_keep_every_token_and_nothing_else():
    tiny = load_checkpoint("tiny")
    chats = padded_chats(tiny, EXAMPLES)
    for example, ids, keep in zip(EXAMPLES, chats.token_ids, chats.keep, strict=True):
        assert ids[keep].tolist() == chat_ids(tiny, example)[0]
        assert keep.tolist() == sorted(keep.tolist(), reverse=True)  # padding on the right


@torch.inference_mode()
def test_a_chat_loses_in_a_batch_what_it_loses_alone_by_the_logits_of_a_whole_pass():
    tiny = load_checkpoint("tiny")
    found = answer_losses(tiny.weights, tiny.config, padded_chats(tiny, EXAMPLES))
    for example, loss in zip(EXAMPLES, found, strict=True):
        prompt, ids = len(prompt_ids(tiny, example.messages)), torch.tensor(chat_ids(tiny, example)[0])[:-1]
        logits = forward(tiny.weights, ids[None], tiny.config)[0]
        torch.testing.assert_close(loss, F.cross_entropy(logits[prompt - 1 : -1], ids[prompt:]), atol=1e-5, rtol=1e-3)


def test_replaced_steps_of_embedding_and_head_are_used():
    tiny, seen = load_checkpoint("tiny"), []
    chats = padded_chats(tiny, EXAMPLES[:2])

    def twice(token_ids, table):
        seen.append("embed")
        return 2 * embed(token_ids, table)

    def head(x, table):
        seen.append(("head", x.ndim))
        return F.linear(x, table)

    changed = answer_losses(tiny.weights, tiny.config, chats, Ops(embed=twice, head=head))
    doubled = tiny.weights._replace(embed_tokens=2 * tiny.weights.embed_tokens, lm_head=tiny.weights.embed_tokens)
    torch.testing.assert_close(changed, answer_losses(doubled, tiny.config, chats))
    assert seen == ["embed", ("head", 3)]


@pytest.mark.proof
@torch.inference_mode()
def test_all_that_is_measured_is_measured_where_the_weights_lie():
    """What names no device would lie on `meta`, which mixes with no other."""
    tiny, right = load_checkpoint("tiny"), forward
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    stories = [story for story in questions("stories", 60) if "\n> " in story.thinking][:2]

    def measured() -> list:
        chats, lookups = padded_chats(tiny, EXAMPLES), story_lookups(tiny, stories)
        found = [answer_losses(tiny.weights, tiny.config, chats), *footprints(tiny, 1), *lookups]
        found += [read(right, tiny.weights, tokens, tiny.config, way) for way in (ONE_PASS, CACHED, BATCHED)]
        found += [margins(tiny.weights, tiny.config, lookups)]
        written = write(right, tiny.weights, [[1, 2, 3], [4, 5]], tiny.config, 3)
        return [*found, torch.tensor(written, device="cpu")]

    expected = measured()
    with torch.device("meta"):
        found = measured()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_run_where_the_weights_lie(name):
    config, mistake = small_config(), MISTAKES[name]
    weights, tokens = random_weights(config), random_tokens(config, 1, 6)
    with torch.inference_mode():
        expected = read(mistake.forward, weights, tokens, config, BATCHED)
        with torch.device("meta"):
            torch.testing.assert_close(read(mistake.forward, weights, tokens, config, BATCHED), expected)


def test_replaced_steps_are_used():
    tiny = load_checkpoint("tiny")
    chats = padded_chats(tiny, EXAMPLES[:2])

    def last(x, router, top_k, norm_topk_prob):
        return moe_route(x, -router, top_k, norm_topk_prob)  # the least likely experts

    worse = answer_losses(tiny.weights, tiny.config, chats, Ops(route=last))
    assert (worse > answer_losses(tiny.weights, tiny.config, chats) + 1).all()


def test_the_steps_at_both_ends_are_used_too():
    """An adapter of the vocabulary, or a slice of it, would be passed over without a word."""
    tiny, seen = load_checkpoint("tiny"), []
    chats = padded_chats(tiny, EXAMPLES[:2])

    def noted(name, step):
        def with_note(*args):
            seen.append(name)
            return step(*args)

        return with_note

    own = Ops()
    ops = Ops(embed=noted("embed", own.embed), head=noted("head", own.head))
    assert torch.equal(
        answer_losses(tiny.weights, tiny.config, chats, ops), answer_losses(tiny.weights, tiny.config, chats)
    )
    assert seen == ["embed", "head"]
