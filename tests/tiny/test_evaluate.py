"""Losses of whole chats: which tokens count, and that padding and batching change nothing."""

import torch
import torch.nn.functional as F

from qwen3_scratch import forward, load_checkpoint
from qwen3_scratch.generation import prompt_ids
from qwen3_scratch.model import Ops, moe_route
from qwen3_scratch.tiny.evaluate import answer_losses, chat_ids, padded_chats, questions

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


def test_replaced_steps_are_used():
    tiny = load_checkpoint("tiny")
    chats = padded_chats(tiny, EXAMPLES[:2])

    def last(x, router, top_k, norm_topk_prob):
        return moe_route(x, -router, top_k, norm_topk_prob)  # the least likely experts

    worse = answer_losses(tiny.weights, tiny.config, chats, Ops(route=last))
    assert (worse > answer_losses(tiny.weights, tiny.config, chats) + 1).all()
