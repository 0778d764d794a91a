"""What was compiled first serves other texts, lengths, caches and threads, or something is compiled anew for them.

The compiler reads the sizes that it is shown, and what it gives does not check those that it is given later. So each
order has a process of its own, each other test begins with nothing compiled, and values are compared.
"""

import multiprocessing
import random
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from helpers import finished
from reference import TOLERANCE, dense_config, random_tokens, random_weights, small_config
from tiers import in_proof, only
from torch._dynamo.utils import counters

from qwen3_scratch import Checkpoint, Error, generate, load_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import compiling, int8
from qwen3_scratch.fast.compiling import LENGTHS, compiled_decoder, example, lengths_like_no_other
from qwen3_scratch.fast.eager import PREFILL_CHUNK, eager_decoder, prefill
from qwen3_scratch.fast.streamed import MOST_ROWS

pytestmark = pytest.mark.compiled

CONFIGS = {
    "experts": small_config(max_position_embeddings=8192),
    "a window": small_config(max_position_embeddings=8192, use_sliding_window=True, sliding_window=7),
    "dense, some windows": dense_config(
        max_position_embeddings=8192, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "one key/value head": dense_config(max_position_embeddings=8192, num_key_value_heads=1),
}  # fmt: skip


class Asked(NamedTuple):
    """A text: tokens of the prompt, tokens written after it, and how many more the cache has room for."""

    prompt: int
    new: int
    room: int = 0
    batch: int = 1
    dtype: torch.dtype = torch.float32
    chunk: int = PREFILL_CHUNK  # with it a layer that slides keeps window + chunk - 1 tokens


FULL, SHORT = Asked(14, 1), Asked(1, 1)  # the cache is as long as what it holds; and as short as one can be
LONG, RING = Asked(40, 60, room=500), Asked(9, 30, chunk=9)
SIXTEEN = Asked(16, 16)  # a length that is a size of the model


def model(name: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    weights = random_weights(CONFIGS[name], seed=len(name))
    return Checkpoint(CONFIGS[name], torch.utils._pytree.tree_map(lambda w: w if w is None else w.to(dtype), weights))


def as_in_a_fresh_process() -> None:
    compiling.part.cache_clear()
    torch._dynamo.reset()


def logits(decoder, checkpoint: Checkpoint, asked: Asked) -> torch.Tensor:
    """Those after each new token, which are the same whatever the decoder says."""
    config, length = checkpoint.config, asked.prompt + asked.new + asked.room
    drawn = random_tokens(config, asked.batch, asked.prompt + asked.new, seed=asked.prompt)
    cache = KVCache(config, asked.batch, length, chunk=asked.chunk, dtype=checkpoint.dtype)
    rows = [row[number % 2 :].tolist() for number, row in enumerate(drawn[:, : asked.prompt])]  # some are padded
    prefill(checkpoint, [row or [3] for row in rows], cache)
    step = decoder(checkpoint, cache, lambda found: found)
    return torch.stack([step(token).clone() for token in drawn[:, asked.prompt :].unbind(1)])


def check(checkpoint: Checkpoint, asked: Asked) -> None:
    found, expected = (logits(way, checkpoint, asked) for way in (compiled_decoder, eager_decoder))
    apart = (found - expected).float().abs().amax((1, 2)) / expected.float().abs().max()  # [steps]
    if asked.dtype == torch.bfloat16:  # the rounding of a layer lets a router choose otherwise now and then
        assert apart.median() <= 2**-4
    else:
        assert apart.max() <= 2 * TOLERANCE


def orders() -> list:
    """Each of the first ones decided what was compiled, and served the others wrongly, or could have."""
    drawn = random.Random(0)

    def some() -> Asked:
        prompt, new = drawn.choice([1, 2, 7, 15, 16, 31, 32, 64, 100, 257, 300]), drawn.choice([1, 2, 17, 40])
        return Asked(
            prompt, new, drawn.choice([0, 0, 1, 200, 5000]), drawn.choice([1, 1, 2]),
            drawn.choice([torch.float32, torch.float32, torch.bfloat16]), drawn.choice([300, 2048]),
        )  # fmt: skip

    kept = [("dense, some windows", [FULL, LONG, SHORT, RING, SIXTEEN])]
    more = [(name, [FULL, LONG, SHORT, RING, SIXTEEN]) for name in CONFIGS]
    more += [(name, [first, FULL, LONG, RING]) for name in CONFIGS for first in (SHORT, SIXTEEN, RING, LONG)]
    more += [
        (name, [FULL, LONG._replace(dtype=torch.float64), FULL._replace(dtype=torch.bfloat16), LONG])
        for name in CONFIGS
    ]
    more += [(name, [some() for _ in range(6)]) for name in CONFIGS for _ in range(3)]
    return [*kept, *(in_proof(*each) for each in more)]


@pytest.mark.parametrize(("name", "texts"), orders())
def test_whatever_text_comes_first_the_others_get_the_logits_of_the_plain_path(name, texts):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(check_in_order, name, texts).result()


def check_in_order(name: str, texts: list[Asked]) -> None:
    assert not compiling.part.cache_info().currsize
    for asked in texts:
        check(model(name, asked.dtype), asked)


@pytest.mark.proof
def test_one_token_asked_for_and_then_forty():
    as_in_a_fresh_process()
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    for new in (1, 40):
        expected = generate(checkpoint, "Who has the kite?", max_new_tokens=new, temperature=0)
        found = generate(checkpoint, "Who has the kite?", max_new_tokens=new, temperature=0, compiled=True)
        assert found == expected


@pytest.mark.proof
@pytest.mark.parametrize("long", [4095, 4097])
def test_a_text_beyond_what_one_loop_of_the_compiler_sums_up(long):
    check(model("experts"), Asked(long, 3))
    check(model("a window"), Asked(long, 3))


def test_what_a_layer_is_compiled_on_has_lengths_that_nothing_else_has():
    config = small_config(hidden_size=LENGTHS[0], moe_intermediate_size=LENGTHS[1], max_position_embeddings=600)
    checkpoint = Checkpoint(config, random_weights(config))
    held, room = lengths_like_no_other(4, checkpoint.weights.layers[0], None)
    assert (held, room) == (LENGTHS[0] + 2, LENGTHS[1] + 2)
    _, _, _, mask, keys, values, slots = example(checkpoint, KVCache(config, 2, 9), 0, 3)
    assert mask.shape == (2, 1, 3, held) and keys.shape == values.shape == (2, 2, room, config.head_dim)
    assert slots.tolist() == [held - 3, held - 2, held - 1] and held < room


VARIANTS = {  # what one of two models in a process has otherwise, of equal sizes
    "eps": lambda c, w: (replace(c, rms_norm_eps=0.3), w),
    "renormalised weights": lambda c, w: (replace(c, norm_topk_prob=not c.norm_topk_prob), w),
    "experts a token": lambda c, w: (replace(c, num_experts_per_tok=1), w),
    "heads": lambda c, w: (replace(c, num_attention_heads=8, head_dim=8, num_key_value_heads=4), narrower(w)),
    "how a weight lies in memory": lambda c, w: (c, w._replace(layers=tuple(map(turned, w.layers)))),
}


def narrower(weights):
    return weights._replace(layers=tuple(
        layer._replace(q_norm=layer.q_norm[:8].clone(), k_norm=layer.k_norm[:8].clone()) for layer in weights.layers
    ))  # fmt: skip


def turned(layer):
    return layer._replace(o_proj=layer.o_proj.t().contiguous().t(), q_proj=layer.q_proj.t().contiguous().t())


@pytest.mark.proof
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_models_of_equal_sizes_are_not_taken_for_one(variant):
    as_in_a_fresh_process()
    first = model("experts")
    second = Checkpoint(*VARIANTS[variant](first.config, first.weights))
    for checkpoint in (first, second, first):
        check(checkpoint, Asked(11, 6))


def test_weights_of_several_types_are_refused():
    checkpoint = model("experts")
    mixed = replace(checkpoint, weights=checkpoint.weights._replace(norm=checkpoint.weights.norm.bfloat16()))
    for way in ({"compiled": True}, {}):
        with pytest.raises(Error, match=r"^compiled: weights of torch.bfloat16 and torch.float32 found, expected one"):
            generate(mixed if way else int8(mixed), [1, 2], max_new_tokens=2, **way)


# ---- a cache that is full ---------------------------------------------------------------------


FULL_CACHES = {"experts": None, "a window": 12, "dense, some windows": 4}


@pytest.mark.parametrize("in_8_bits", [False, in_proof(True)])
@pytest.mark.parametrize("name", only(FULL_CACHES, "dense, some windows"))
def test_past_the_end_of_the_cache_compiled_decoding_says_what_the_plain_path_says(name, in_8_bits):
    checkpoint, said, steps = int8(model(name)) if in_8_bits else model(name), [], []
    for decoder in (eager_decoder, checkpoint.decoder or compiled_decoder):
        cache = KVCache(checkpoint.config, 1, 12, chunk=FULL_CACHES[name], dtype=torch.float32)
        prefill(checkpoint, [[1, 2, 3]], cache)
        step = decoder(checkpoint, cache, lambda found: found)
        with pytest.raises(Error) as refused:
            for number in range(60):
                step(torch.tensor([number]))
        said.append(str(refused.value))
        steps.append((number, cache.length))
    assert said[0] == said[1] == "cache: holds 12 of 12 tokens, 1 more do not fit: make it with a larger max_length"
    assert steps[0] == steps[1] == (9, 12)


def test_another_number_of_rows_than_the_cache_holds_is_refused_before_anything_is_read():
    checkpoint = model("dense, some windows")
    cache = KVCache(checkpoint.config, 1, 12, dtype=torch.float32)
    prefill(checkpoint, [[1, 2, 3]], cache)
    step = compiled_decoder(checkpoint, cache, lambda found: found)
    with pytest.raises(Error, match="cache: 2 rows arrived, expected 1"):
        step(torch.tensor([1, 2]))
    assert cache.length == 3


# ---- threads ----------------------------------------------------------------------------------


def test_threads_that_begin_together_compile_once_and_write_the_tokens_of_one_alone():
    as_in_a_fresh_process()
    checkpoint, before = model("dense, some windows"), counters["stats"]["unique_graphs"]
    texts = [random_tokens(checkpoint.config, length, seed=length).tolist() for length in (5, 9, 30)]
    expected = [generate(checkpoint, text, max_new_tokens=20, temperature=0) for text in texts]
    found, ready = [None] * 3, threading.Barrier(3)

    def write(number: int) -> None:
        ready.wait()
        found[number] = generate(checkpoint, texts[number], max_new_tokens=20, temperature=0, compiled=True)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert counters["stats"]["unique_graphs"] == before + 2  # the layer and the head


def asked_in_a_process(folder, rows=1, **env):
    """The tokens of answers that a process compiles for, and how many of its graphs it found compiled."""
    script = folder / "count.py"
    script.write_text(
        "from torch._dynamo.utils import counters\n"
        "from qwen3_scratch import generate, load_checkpoint\n"
        "asked = dict(temperature=0, max_new_tokens=12, compiled=True)\n"
        f"texts = ['What is the capital of France?'] * {rows}\n"
        "print([answer.token_ids for answer in generate(load_checkpoint('tiny'), texts, **asked)])\n"
        "found = counters['aot_autograd']\n"
        "print(found['autograd_cache_hit'], 'of', found['total'])\n"
    )
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "JAXTYPING_DISABLE": "1"}
    said = finished(str(script), env=env)
    assert said.code == 0, said.err
    return said.out.splitlines()


@pytest.mark.parametrize("rows", only([1, MOST_ROWS[torch.float32] + 1], MOST_ROWS[torch.float32] + 1))
def test_what_one_process_compiled_the_next_finds_on_the_disk(tmp_path, rows):
    """Else every process waits as long as the first: torch's cache knows a graph again by all that made it."""
    first, second = asked_in_a_process(tmp_path, rows), asked_in_a_process(tmp_path, rows)
    assert (first[1], second[1]) == ("0 of 2", "2 of 2") and first[0] == second[0]


@pytest.mark.proof
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this processor has one kind of vectors"
)
def test_what_was_compiled_for_other_vectors_is_not_found(tmp_path):
    """It would be taken for these, and read half of the numbers."""
    first, second = asked_in_a_process(tmp_path), asked_in_a_process(tmp_path, ATEN_CPU_CAPABILITY="avx2")
    assert (first[1], second[1]) == ("0 of 2", "0 of 2") and first[0] == second[0]
