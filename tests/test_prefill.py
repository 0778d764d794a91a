"""A prompt is read in pieces, with or without a mask, in bounded memory: the same logits each way."""

import pytest
import torch
from helpers import generate_module
from reference import assert_near, random_tokens, random_weights, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_scratch import Checkpoint, forward
from qwen3_scratch.cache import KVCache
from qwen3_scratch.generate import LONG, PREFILL_CHUNK, prefill
from qwen3_scratch.model import Ops, gqa_attention

SIZES = dict(max_position_embeddings=20_000, num_hidden_layers=2)
SLIDING = dict(use_sliding_window=True, sliding_window=LONG // 2)


def made(**changes) -> Checkpoint:
    config = small_config(**SIZES, **changes)
    return Checkpoint(config, random_weights(config))


def read(checkpoint: Checkpoint, *lengths: int) -> torch.Tensor:
    """The logits after each prompt, as `prefill` finds them."""
    prompts = [random_tokens(checkpoint.config, length, seed=length).tolist() for length in lengths]
    return prefill(checkpoint, prompts, KVCache(checkpoint.config, len(lengths), max(lengths), chunk=PREFILL_CHUNK))


def in_one_pass(checkpoint: Checkpoint, length: int) -> torch.Tensor:
    ids = random_tokens(checkpoint.config, 1, length, seed=length)
    with torch.inference_mode():
        return forward(checkpoint.weights, ids, checkpoint.config, logits_to_keep=1)[0, -1]


@pytest.fixture
def causal_lengths(monkeypatch) -> list[int]:
    """How many queries each pass without a mask brought."""
    seen, before = [], generate_module.causal_attention

    def noting(q, k, v, mask):
        seen.append(q.shape[2])
        return before(q, k, v, mask)

    monkeypatch.setattr(generate_module, "causal_attention", noting)
    return seen


def test_a_long_prompt_read_without_a_mask_has_the_logits_of_one_pass_with_it(causal_lengths):
    checkpoint = made()
    assert_near(read(checkpoint, LONG + 7)[0], in_one_pass(checkpoint, LONG + 7))
    assert causal_lengths == [LONG + 7] * 2  # of both layers


def test_only_the_first_piece_is_read_without_a_mask(causal_lengths, monkeypatch):
    monkeypatch.setattr(generate_module, "PREFILL_CHUNK", LONG)
    checkpoint = made()
    assert_near(read(checkpoint, 2 * LONG + 9)[0], in_one_pass(checkpoint, 2 * LONG + 9))
    assert causal_lengths == [LONG] * 2


@pytest.mark.parametrize("changes", [{}, SLIDING], ids=["padding", "window"])
def test_what_a_mask_must_hide_is_read_with_one(changes, causal_lengths):
    checkpoint = made(**changes)
    lengths = (LONG + 3,) if changes else (LONG + 3, LONG // 3)
    for found, length in zip(read(checkpoint, *lengths), lengths, strict=True):
        assert_near(found, in_one_pass(checkpoint, length))
    assert causal_lengths == []


def test_an_attention_that_was_put_in_its_place_is_the_one_that_reads(causal_lengths):
    mine = Checkpoint(made().config, made().weights, ops=Ops(attention=lambda *given: 2 * gqa_attention(*given)))
    ids = random_tokens(mine.config, 1, LONG, seed=LONG)
    with torch.inference_mode():
        expected = forward(mine.weights, ids, mine.config, logits_to_keep=1, ops=mine.ops)[0, -1]
    assert_near(read(mine, LONG)[0], expected)
    assert causal_lengths == []


@pytest.mark.parametrize("batch", [1, 3])
def test_the_head_is_given_no_slice_of_a_longer_tensor(batch):
    """In bf16 F.linear copies the whole head for such a slice, which took most of the time of reading a prompt."""
    checkpoint, strides = made(), []

    def head(x, weight):
        strides.append(x.stride())
        return torch.nn.functional.linear(x, weight)

    ids = random_tokens(checkpoint.config, batch, 9)
    forward(checkpoint.weights, ids, checkpoint.config, logits_to_keep=1, ops=Ops(head=head))
    hidden = checkpoint.config.hidden_size
    assert strides == [(hidden, hidden, 1)]


class Largest(TorchDispatchMode):
    """The most numbers that a tensor had which was made within it."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not operation.is_view:
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.mark.parametrize("pieces", [1, 4])
def test_reading_never_holds_a_square_of_the_text(pieces):
    """The largest tensor grows with a piece times the text, and does not with the heads."""
    config, length = made().config, pieces * PREFILL_CHUNK
    with Largest() as seen:
        read(made(), length)
    assert seen.numbers <= PREFILL_CHUNK * max(length, 4 * config.num_attention_heads * config.head_dim)
