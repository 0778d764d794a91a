"""A prompt is read in pieces, with or without a mask, in bounded memory: the same logits each way."""

import pytest
import torch
from reference import assert_near, random_tokens, random_weights, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_scratch import Checkpoint, forward, generation
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import eager
from qwen3_scratch.fast.eager import (
    BLOCK,
    LONG,
    ONEDNN_LINEAR,
    PREFILL_CHUNK,
    causal_attention,
    ffn_by,
    library_norm,
    moe_of_one,
    prefill,
    reading_ops,
    writing_ops,
)
from qwen3_scratch.model import Ops, attention_mask, expert_ffn, gqa_attention, moe, moe_route, rms_norm

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
    seen, before = [], eager.causal_attention

    def noting(q, k, v, mask):
        seen.append(q.shape[2])
        return before(q, k, v, mask)

    monkeypatch.setattr(eager, "causal_attention", noting)
    return seen


def test_a_long_prompt_read_without_a_mask_has_the_logits_of_one_pass_with_it(causal_lengths):
    checkpoint = made()
    assert_near(read(checkpoint, LONG + 7)[0], in_one_pass(checkpoint, LONG + 7))
    assert causal_lengths == [LONG + 7] * 2  # of both layers


def test_only_the_first_piece_is_read_without_a_mask(causal_lengths, monkeypatch):
    monkeypatch.setattr(generation, "PREFILL_CHUNK", LONG)
    monkeypatch.setattr(eager, "PREFILL_CHUNK", LONG)
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


@pytest.mark.parametrize("pieces", [2, 4])
def test_reading_never_holds_a_square_of_the_text(pieces):
    """The largest tensor grows with a piece times the text, and not with the heads; one piece is its own square."""
    config, length = made().config, pieces * PREFILL_CHUNK
    with Largest() as seen:
        read(made(), length)
    assert seen.numbers <= PREFILL_CHUNK * max(length, 4 * config.num_attention_heads * config.head_dim)


@pytest.mark.parametrize("shape", [(1, 24), (5, 24), (1, 1, 24), (2, 7, 24), (3, 40, 24)])
def test_the_faster_product_is_the_product(shape):
    generator = torch.Generator().manual_seed(len(shape))
    x, weight, bias = (torch.randn(size, generator=generator) for size in (shape, (16, 24), (16,)))
    for given in ((x, weight, None), (x, weight, bias), (x.transpose(0, -2), weight, None), (x, weight[3:9], None)):
        assert_near(ONEDNN_LINEAR(*given), torch.nn.functional.linear(*given))


def test_the_faster_feed_forward_is_the_feed_forward():
    generator = torch.Generator().manual_seed(0)
    x, *weights = (torch.randn(size, generator=generator) for size in ((9, 24), (40, 24), (40, 24), (24, 40)))
    assert_near(ffn_by(x, *weights, linear=ONEDNN_LINEAR), expert_ffn(x, *weights))


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_causal_attention_is_attention_with_a_causal_mask(length, heads, kv_heads, dtype, tolerance):
    """In bf16 a score has 8 bits: 2^-8 of scores of size 4 moves a weight by about 1.5 %."""
    generator = torch.Generator().manual_seed(length)
    drawn = [torch.randn(2, each, length, 16, generator=generator).to(dtype) for each in (heads, kv_heads, kv_heads)]
    places = torch.arange(length).expand(2, -1)
    expected = gqa_attention(*(each.float() for each in drawn), attention_mask(places, places))
    found = causal_attention(*drawn)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_in_two_calls_is_bit_for_bit_the_norm(dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((2, 3, 24), (24,)))
    assert torch.equal(library_norm(x, weight, 1e-3), rms_norm(x, weight, 1e-3))


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_experts_of_one_token_without_sorting_give_its_answer(top_k):
    generator = torch.Generator().manual_seed(top_k)
    x, router, gate_up, down = (
        torch.randn(size, generator=generator) for size in ((1, 24), (4, 24), (4, 80, 24), (4, 24, 40))
    )
    route = moe_route(x, router, top_k, norm_topk_prob=False)
    for linear in (torch.nn.functional.linear, ONEDNN_LINEAR):
        assert_near(moe_of_one(x, route, gate_up, down, linear=linear), moe(x, route, gate_up, down))


def test_only_the_models_own_steps_are_replaced_by_faster_ones():
    def mine(*given): ...

    def with_ops(**steps) -> Checkpoint:
        return Checkpoint(made().config, made().weights, ops=Ops(**steps))

    own = with_ops(norm=mine, table=mine, linear=mine, expert=mine, attention=mine)
    assert reading_ops(own) == writing_ops(own, 1) == own.ops
    assert reading_ops(with_ops(moe=mine)).expert is expert_ffn  # another dispatch may ask for the model's own
    for own in (with_ops(moe=mine), with_ops(expert=mine)):  # who asks for another expert is to get it
        assert writing_ops(own, 1).moe is own.ops.moe and writing_ops(own, 1).expert is own.ops.expert
    reads, writes = reading_ops(with_ops()), writing_ops(with_ops(), 1)
    assert reads.norm is library_norm and reads.linear is writes.linear is ONEDNN_LINEAR
    assert reads.expert.func is ffn_by and reads.moe is moe
    assert writes.moe.func is moe_of_one and writing_ops(with_ops(), 2).moe is moe
    wide = Checkpoint(made().config, made().weights._replace(embed_tokens=made().weights.embed_tokens.bfloat16()))
    assert reading_ops(wide).linear is torch.nn.functional.linear  # oneDNN serves fp32 on a CPU
