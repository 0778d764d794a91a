"""The cache as a place to come back to: forget the end of a text, begin anew, read a prefix once for many answers."""

from dataclasses import replace

import pytest
import torch
from helpers import unchecked
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_near, dense_config, padded, random_tokens, random_weights, small_config
from torch import Tensor

from qwen3_scratch import Error, forward
from qwen3_scratch.cache import KVCache

SLIDING = dict(use_sliding_window=True, sliding_window=5)
CONFIGS = {
    "moe": small_config(),
    "window": small_config(**SLIDING),
    "full and sliding layers": dense_config(**SLIDING, max_window_layers=1, num_key_value_heads=1),
}
MODELS = {name: (random_weights(config), config) for name, config in CONFIGS.items()}
models = st.sampled_from(sorted(MODELS))
seeds = st.integers(0, 1000)


@torch.no_grad()
def read(model: str, token_ids: Tensor, cache: KVCache, keep: Tensor | None = None) -> Tensor:
    """All logits of a text that is read in pieces of as many tokens as the cache allows."""
    weights, config = MODELS[model]
    pieces, masks = token_ids.split(cache.chunk or 100, 1), (None,) * token_ids.shape[1]
    if keep is not None:
        masks = keep.split(cache.chunk or 100, 1)
    pairs = zip(pieces, masks, strict=False)
    return torch.cat([forward(weights, ids, config, attention_mask=kept, cache=cache) for ids, kept in pairs], 1)


def make(model: str, batch: int = 2, length: int = 40, chunk: int | None = None) -> KVCache:
    return KVCache(MODELS[model][1], batch, length, chunk=chunk)


# ---- rewind ----------------------------------------------------------------------------------


@given(models, st.sampled_from([None, 3]), st.integers(1, 20), st.data(), seeds)
def test_what_was_forgotten_leaves_nothing_behind(model, chunk, length, data, seed):
    """Another text that goes on from there has the bits that it has in a cache that never saw the first."""
    cache, fresh = make(model, chunk=chunk), make(model, chunk=chunk)
    tokens = data.draw(st.integers(0, length if chunk is None else min(length, chunk)))
    text, other = (random_tokens(CONFIGS[model], 2, size, seed=seed + size) for size in (length, 9))
    read(model, text, cache)
    cache.rewind(tokens)
    if tokens < length:
        read(model, text[:, : length - tokens], fresh)
    assert cache.length == fresh.length == length - tokens
    assert_near(read(model, other, cache), read(model, other, fresh))


@given(models, st.sampled_from([None, 4]), st.sampled_from(["left", "right"]), st.integers(1, 4), seeds)
def test_padding_is_forgotten_with_the_tokens_around_it(model, chunk, side, tokens, seed):
    """Rows of unequal length: what each row held, and where it goes on counting, is as if the end had never come."""
    if side == "right" and chunk is not None:
        return  # padding after the text pushes it out of a ring
    rows = [random_tokens(CONFIGS[model], size, seed=seed + size) for size in (9, 2, 7)]
    ids, keep = padded(rows, side)
    cache, fresh = make(model, 3, chunk=chunk), make(model, 3, chunk=chunk)
    read(model, ids, cache, keep)
    cache.rewind(tokens)
    read(model, ids[:, :-tokens], fresh, keep[:, :-tokens])
    assert cache.upcoming.tolist() == fresh.upcoming.tolist() == keep[:, :-tokens].sum(1).tolist()
    for ids in random_tokens(CONFIGS[model], 3, 6, seed=seed).split(1, 1):  # a forgotten key may still lie in its slot
        assert_near(read(model, ids, cache), read(model, ids, fresh))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk", [None, 3])
def test_a_cache_that_forgets_all_is_as_new(model, chunk):
    weights, config = MODELS[model]
    cache, text = make(model, 1, chunk=chunk), random_tokens(config, 1, 30)
    read(model, text, cache)
    cache.rewind(cache.length)
    assert cache.length == 0 and cache.upcoming.tolist() == [0]
    other = random_tokens(config, 1, 30, seed=5)
    assert_near(read(model, other, cache), forward(weights, other, config))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 30), st.lists(st.integers(1, 9), max_size=3), seeds)
def test_a_ring_goes_back_rightly_or_refuses(window, chunk, length, steps, seed):
    """However often, with whatever between: the logits are those of the text that is left, or there are none."""
    weights, config = MODELS["window"]
    config = replace(config, sliding_window=window)
    cache = KVCache(config, 1, 40, chunk=chunk)
    text = random_tokens(config, 1, length, seed=seed)
    for ids in text.split(chunk, 1):
        forward(weights, ids, config, cache=cache)
    for number, tokens in enumerate(steps):
        before = cache.length
        try:
            cache.rewind(tokens)
        except Error:
            assert cache.length == before
            assert tokens > before or number > 0 or (tokens > chunk and before > window + chunk - 1)
            break
        new = random_tokens(config, 1, 1, seed=seed + number)
        text = torch.cat([text[:, : cache.length], new], 1)
        assert_near(forward(weights, new, config, cache=cache)[:, -1], forward(weights, text, config)[:, -1])


@pytest.mark.parametrize("device", ["nonsense", 3.5, "privateuseone"])
def test_a_cache_on_a_device_that_is_not_there_is_refused(device):
    with unchecked(), pytest.raises(Error, match=r"^device is .*, expected one that .* has .*: name another$"):
        KVCache(CONFIGS["window"], 1, 8, device=device)


def test_a_ring_names_how_far_back_it_goes():
    cache = make("window", 1, chunk=3)
    read("window", random_tokens(CONFIGS["window"], 1, 20), cache)
    for tokens, message in ((4, "expected at most 3 or all"), (21, "expected 0 to 20")):
        with pytest.raises(Error, match=f"rewind by {tokens} tokens, {message}"):
            cache.rewind(tokens)
    cache.rewind(2)
    with pytest.raises(Error, match="rewind by 2 tokens, expected at most 1 or all"):
        cache.rewind(2)
    cache.rewind(18)
    assert cache.length == 0


def test_a_regenerated_answer_costs_no_second_reading():
    """Speculation, too: what was written on trial is taken back, and the right token goes in its place."""
    weights, config = MODELS["moe"]
    prompt, first, second = (random_tokens(config, 1, size, seed=size) for size in (12, 5, 7))
    cache = make("moe", 1)
    for answer in (first, second):
        if cache.length:
            cache.rewind(cache.length - 12)
        else:
            read("moe", prompt, cache)
        found = read("moe", answer, cache)
        assert_near(found, forward(weights, torch.cat([prompt, answer], 1), config)[:, 12:])


# ---- copy ------------------------------------------------------------------------------------


@given(models, st.sampled_from([None, 4]), st.integers(1, 20), st.lists(st.integers(0, 2), min_size=1), seeds)
def test_a_prefix_that_was_read_once_serves_many_answers(model, chunk, length, rows, seed):
    """Rows in any order and number; the answers do not see each other, and the cache that was copied stays."""
    weights, config = MODELS[model]
    prefix = random_tokens(config, 3, length, seed=seed)
    cache = make(model, 3, chunk=chunk)
    read(model, prefix, cache)
    branches = cache.copy(rows)
    answers = random_tokens(config, len(rows), 6, seed=seed + 1)
    expected = forward(weights, torch.cat([prefix[rows], answers], 1), config)[:, length:]
    assert_near(read(model, answers, branches), expected)
    assert cache.length == length and branches.length == length + 6
    own = random_tokens(config, 3, 4, seed=seed + 2)
    assert_near(read(model, own, cache), forward(weights, torch.cat([prefix, own], 1), config)[:, length:])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk", [None, 4, 12])
def test_a_copy_with_more_room_goes_on_where_the_first_is_full(model, chunk):
    weights, config = MODELS[model]
    text, cache = random_tokens(config, 2, 30), make(model, 2, 8, chunk)
    read(model, text[:, :8], cache)
    grown = cache.copy(max_length=30)
    assert grown.max_length == 30
    assert_near(read(model, text[:, 8:], grown), forward(weights, text, config)[:, 8:])


def test_a_copy_of_a_padded_batch_holds_its_padding():
    weights, config = MODELS["moe"]
    ids, keep = padded([random_tokens(config, size, seed=size) for size in (7, 3)], "left")
    cache, new = make("moe"), random_tokens(config, 2, 4)
    read("moe", ids, cache, keep)
    found = read("moe", new, cache.copy([1, 0]))
    for row, other in ((0, 1), (1, 0)):
        alone = torch.cat([ids[other][keep[other]], new[row]])[None]
        assert_near(found[row], forward(weights, alone, config)[0, -4:])


def test_a_copy_remembers_how_far_its_ring_goes_back():
    cache = make("window", 1, chunk=3)
    read("window", random_tokens(CONFIGS["window"], 1, 20), cache)
    cache.rewind(2)
    with pytest.raises(Error, match="expected at most 1 or all"):
        cache.copy([0, 0]).rewind(2)


@pytest.mark.parametrize("rows", [[], [2], [-1], [0, 5]])
def test_a_copy_refuses_rows_that_are_not_there(rows):
    with pytest.raises(Error, match=r"expected some of 0 to 1|expected a whole number of at least 0"):
        make("moe").copy(rows)
    with pytest.raises(Error, match="max_length of a copy is 39, expected a whole number of at least 40"):
        make("moe").copy(max_length=39)
