"""On a GPU: what the CPU says, token for token where the type allows it, and no step that waits for a value.

Run by `make gpu` on each device there is. `QWEN3_SCRATCH_REHEARSE=cpu` runs the same lines without one.
"""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Checkpoint, forward, generate, load_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import compiled, int8
from qwen3_scratch.fast.compiling import compiled_decoder
from qwen3_scratch.fast.dispatch import moe_gathered, moe_grouped
from qwen3_scratch.fast.eager import eager_decoder, prefill
from qwen3_scratch.model import Ops

REHEARSED = os.environ.get("QWEN3_SCRATCH_REHEARSE")
DEVICES = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ([REHEARSED] if REHEARSED else [])
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not DEVICES, reason="no GPU here: `make gpu` runs these where there is one"),
]
WINDOWS = dict(use_sliding_window=True, sliding_window=7, max_position_embeddings=512)
CONFIGS = {
    "8 experts top-2": small_config(max_position_embeddings=512),
    "one of two experts, tied": small_config(
        num_experts=2, num_experts_per_tok=1, norm_topk_prob=False, tie_word_embeddings=True
    ),
    "a sliding window": small_config(**WINDOWS),
    "dense, biases": dense_config(attention_bias=True),
}
NEAR = 1e-4  # of the largest logit, in fp32: other kernels add in another order
NEAR_BF16 = 0.05  # of a token's logits, the median: 8 bits of each number; some tokens get another expert


def models() -> dict[str, Checkpoint]:
    found = {name: Checkpoint(config, random_weights(config)) for name, config in CONFIGS.items()}
    return found | {"the embedded checkpoint": load_checkpoint("tiny")}


def on(device: str, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Checkpoint:
    moved = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, dtype), checkpoint.weights)
    return replace(checkpoint, weights=moved)


def check_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    if dtype == torch.float32:
        assert_near(found, expected, NEAR)
    else:
        far = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert far.median() <= NEAR_BF16


@contextmanager
def forbidding_waits(device: str):
    """An error for whatever waits for the GPU, and afterwards the setting as it was, however it ends."""
    if not device.startswith("cuda"):
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*CONFIGS, "the embedded checkpoint"])
def test_logits_are_those_of_the_cpu(name, dtype, device):
    checkpoint = models()[name]
    ids = random_tokens(checkpoint.config, 3, 20)
    expected = forward(checkpoint.weights, ids, checkpoint.config)
    moved = on(device, checkpoint, dtype)
    found = forward(moved.weights, ids.to(device), moved.config)
    assert found.device == torch.device(device) and found.dtype == dtype
    check_near(found.float().cpu(), expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [moe_gathered, moe_grouped], ids=lambda form: form.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_form_of_dispatch_gives_what_the_models_own_gives(dtype, form, device):
    checkpoint = on(device, models()["8 experts top-2"], dtype)
    ids = random_tokens(checkpoint.config, 3, 20).to(device)
    expected = forward(checkpoint.weights, ids, checkpoint.config)
    found = forward(checkpoint.weights, ids, checkpoint.config, ops=Ops(moe=form))
    check_near(found.float(), expected.float(), dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [lambda checkpoint: checkpoint, compiled, int8], ids=["plain", "recorded", "8 bits"])
@pytest.mark.parametrize("name", [*CONFIGS, "the embedded checkpoint"])
def test_greedy_tokens_are_those_of_the_cpu(name, form, device):
    """In 8 bits beside 8 bits on the CPU. Two of three rows are padded, and the second answer reuses what was made."""
    checkpoint = models()[name]
    prompts = [random_tokens(checkpoint.config, length, seed=length).tolist() for length in (9, 3, 6)]
    how = dict(max_new_tokens=16, temperature=0)
    plain = form(checkpoint) if form is int8 else checkpoint
    expected = [each.token_ids for each in generate(plain, prompts, **how)]
    moved = form(on(device, checkpoint))
    for _ in range(2):
        assert [each.token_ids for each in generate(moved, prompts, **how)] == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["8 experts top-2", "a sliding window", "the embedded checkpoint"])
def test_a_recorded_step_waits_for_no_value(name, device):
    checkpoint = on(device, models()[name])
    cache = KVCache(checkpoint.config, 1, 40, chunk=16, dtype=torch.float32, device=device)
    with torch.inference_mode():
        tokens = prefill(checkpoint, [random_tokens(checkpoint.config, 9).tolist()], cache).argmax(-1)
    advance = compiled_decoder(checkpoint, cache, lambda logits: logits.argmax(-1))
    with forbidding_waits(device):
        for _ in range(5):
            tokens = advance(tokens)
    assert cache.length == 14 and 0 <= int(tokens) < checkpoint.config.vocab_size


@pytest.mark.parametrize("device", DEVICES)
def test_the_count_of_waits_does_count(device):
    told = pytest.raises(RuntimeError) if device.startswith("cuda") else nullcontext()
    with told, forbidding_waits(device):
        torch.ones(1, device=device).item()


@pytest.mark.parametrize("device", DEVICES)
def test_drawn_tokens_are_those_of_the_cpu(device):
    """Uniform numbers are drawn on the CPU for every device, so that a seed means the same everywhere."""
    checkpoint = models()["the embedded checkpoint"]
    how = dict(max_new_tokens=24, temperature=0.7, top_p=0.9, seed=3, thinking=False)
    asked = "What is the capital of France?"
    one, other = (generate(each, asked, **how) for each in (checkpoint, on(device, checkpoint)))
    assert one.token_ids == other.token_ids


@pytest.mark.parametrize("device", DEVICES)
def test_a_cache_longer_than_its_text_is_read_no_further(device):
    """What stood in the memory of a recorded step before weighs nothing, not even where it is no number."""
    checkpoint = on(device, models()["a sliding window"])
    cache = KVCache(checkpoint.config, 1, 30, chunk=16, dtype=torch.float32, device=device)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(torch.nan)
    with torch.inference_mode():
        logits = prefill(checkpoint, [random_tokens(checkpoint.config, 9).tolist()], cache)
    step = eager_decoder(checkpoint, cache, lambda found: found)
    assert logits.isfinite().all() and step(logits.argmax(-1)).isfinite().all()
