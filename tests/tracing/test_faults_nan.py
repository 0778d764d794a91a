"""Logits that are no numbers stop the answer and name where it began; memory that does not suffice tells what would."""

import itertools
import mmap
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Script, checkpoint, each_tensor, finished
from reference import random_tokens
from torch import Tensor

from qwen3_scratch import Checkpoint, Error, cache, generate, generation, stream, trace
from qwen3_scratch.cache import KVCache, bytes_needed
from qwen3_scratch.fast import eager
from qwen3_scratch.tracing import origin
from qwen3_scratch.trust.memory import available_memory

HUGE = 3e38  # a number of fp32 which nothing above one may be multiplied with
GREEDY = dict(temperature=0, max_new_tokens=6)
PROMPT = "Who has the kite?"


def with_layer(model: Checkpoint, number: int, **fields: Any) -> Checkpoint:
    layers = list(model.weights.layers)
    layers[number] = layers[number]._replace(**fields)
    return with_weights(model, layers=tuple(layers))


def with_weights(model: Checkpoint, **fields: Any) -> Checkpoint:
    return Checkpoint(model.config, model.weights._replace(**fields), model.tokenizer, model.generation_config)


def same_size(tensor: Tensor) -> Tensor:
    """Entries of both signs, all of them huge: any sum of a few is past the end of fp32."""
    return HUGE * tensor.sign()


# ---- the place ----------------------------------------------------------------------------------

PLACES = {
    "linear (q_proj)": {"q_proj": same_size},
    "linear (o_proj)": {"o_proj": same_size},
    "rms_norm (input_layernorm)": {"input_layernorm": same_size},
    "rms_norm (k_norm)": {"k_norm": same_size},
    "gqa_attention": {"q_norm": lambda norm: norm * 1e25, "k_norm": lambda norm: norm * 1e25},
    "moe_route": {"router": same_size},
    "decoder_layer": {"o_bias": lambda bias: torch.full_like(bias, HUGE)},
}


@pytest.mark.parametrize(("place", "layer"), [(place, number % 3) for number, place in enumerate(PLACES)])
def test_the_layer_and_the_function_in_which_numbers_ran_out_are_named(place, layer):
    model = checkpoint(layer, num_hidden_layers=3, attention_bias=True)
    assert origin(model, [1, 2, 3]) is None
    if place == "decoder_layer":  # the sum with what a layer adds
        model = with_weights(model, embed_tokens=torch.full_like(model.weights.embed_tokens, HUGE / 1.1))
        for number in range(3):
            model = with_layer(model, number, down_proj=0 * model.weights.layers[0].down_proj)
    fields = {name: change(getattr(model.weights.layers[layer], name)) for name, change in PLACES[place].items()}
    with pytest.raises(Error) as caught:
        generate(with_layer(model, layer, **fields), PROMPT, **GREEDY)
    expected = (
        f"generate: row 0 after 0 tokens: NaN or infinity in the logits (float32), first in layer {layer}'s {place}"
    )
    assert str(caught.value) == f"{expected}, expected finite numbers: check that weights and config belong together"


@pytest.mark.parametrize("seed", range(2))
def test_the_expert_in_which_numbers_ran_out_is_named(seed):
    model = checkpoint(seed, num_hidden_layers=3, num_experts=8)
    ids, layer = random_tokens(model.config, 5, seed=seed).tolist(), seed % 3
    with trace() as recorded:
        eager.forward(model.weights, torch.tensor([ids]), model.config)
    chosen = recorded["moe_route"][layer].output.experts.flatten().tolist()
    expert, down = chosen[seed], model.weights.layers[layer].down_proj.clone()
    down[expert] *= 1e38
    with pytest.raises(Error, match=rf", first in layer {layer}'s expert_ffn \(expert {expert}\), expected"):
        generate(with_layer(model, layer, down_proj=down), ids, **GREEDY)


def test_places_outside_the_layers_and_in_a_dense_one_are_named():
    model = checkpoint(vocab_size=2112, model_type="qwen3", num_experts=0, num_experts_per_tok=0)
    weights = model.weights
    for spoilt, place in (
        (with_weights(model, norm=same_size(weights.norm)), "rms_norm (norm)"),
        (with_weights(model, lm_head=same_size(weights.lm_head)), "head (lm_head)"),
        (with_layer(model, 1, gate_up_proj=same_size(weights.layers[1].gate_up_proj)), "layer 1's expert_ffn"),
    ):
        with pytest.raises(Error, match=f"first in {re.escape(place)}, expected finite numbers"):
            generate(spoilt, PROMPT, **GREEDY)


def test_it_is_found_when_it_comes_up_while_generating_and_in_which_row_and_sampled_too():
    """One token, which is generated later, carries what overflows in the layer that reads it."""
    model = checkpoint(5, {"eos_token_id": []})
    embed, q_proj = model.weights.embed_tokens.clone(), model.weights.layers[0].q_proj.clone()
    embed[:, 7], q_proj[:, 7] = 0.0, HUGE
    model = with_layer(with_weights(model, embed_tokens=embed), 0, q_proj=q_proj)
    prompts = [random_tokens(model.config, length, seed=length).tolist() for length in (3, 70, 5)]
    for options in (dict(temperature=0), dict(temperature=1.0, seed=4)):
        sound = generate(model, prompts, max_new_tokens=6, **options)
        count, number = next(
            (place, row)
            for place in range(1, 5)
            for row in (2, 1, 0)
            if all(sound[row].token_ids[place] not in [*one.prompt_ids, *one.token_ids[:place]] for one in sound)
            and sum(sound[row].token_ids[place] == one.token_ids[place] for one in sound) == 1
        )
        spoilt = embed.clone()
        spoilt[sound[number].token_ids[count], 7] = 1e3
        expected = (
            rf"^generate: row {number} after {count + 1} tokens: NaN or infinity .* first in layer 0's linear \(q_p"
        )
        with pytest.raises(Error, match=expected):
            generate(with_weights(model, embed_tokens=spoilt), prompts, max_new_tokens=6, **options)


def test_a_row_that_has_finished_may_compute_what_it_likes(monkeypatch):
    model = checkpoint(generation_config={"eos_token_id": [9]})

    def scripted(weights, token_ids, config, **_):
        logits = torch.zeros(2, 1, config.vocab_size)
        logits[0, 0, 9], logits[1, 0, 11] = 5.0, 5.0
        assert (token_ids >= 0).all()
        logits[0] = torch.nan if token_ids.shape[1] == 1 else logits[0]
        return logits

    monkeypatch.setattr(eager, "forward", scripted)
    found = generate(model, [[1, 2], [3, 4]], **GREEDY)
    assert [one.token_ids for one in found] == [[9], [11] * 6]


@pytest.mark.parametrize("options", [dict(temperature=0), dict(temperature=1.0, top_k=3, top_p=0.5)], ids=str)
def test_one_nan_or_infinity_anywhere_among_the_logits_suffices_and_a_logit_of_minus_infinity_does_not(
    monkeypatch, options
):
    """Also behind the vocabulary, since what computed it computed the others."""
    model = checkpoint(generation_config={"eos_token_id": []})
    last = model.config.vocab_size - 1
    assert last >= model.tokenizer.vocab_size

    def scripted(weights, token_ids, config, **_):
        logits = torch.zeros(1, 1, config.vocab_size)
        logits[..., place] = spoilt
        return logits

    monkeypatch.setattr(eager, "forward", scripted)
    for place, spoilt in itertools.product((0, 7, last), (torch.nan, torch.inf, -torch.inf)):
        if spoilt == -torch.inf:
            assert place not in generate(model, [1, 2], max_new_tokens=2, **options).token_ids
            continue
        with pytest.raises(Error, match="which does not show when the text is read again"):
            generate(model, [1, 2], max_new_tokens=2, **options)
    place, spoilt = slice(None), -torch.inf
    with pytest.raises(Error, match="which does not show when the text is read again"):
        generate(model, [1, 2], max_new_tokens=2, **options)


def test_float16_that_ends_too_early_is_told_to_be_so_and_bfloat16_carries_it():
    model = checkpoint(3)
    large = model.weights.layers[1].down_proj * 3e4
    for dtype in (torch.bfloat16, torch.float16):
        cast = each_tensor(with_layer(model, 1, down_proj=large).weights, lambda tensor, to=dtype: tensor.to(to))
        cast = Checkpoint(model.config, cast, model.tokenizer)
        if dtype == torch.bfloat16:
            assert len(generate(cast, PROMPT, **GREEDY).token_ids) == 6
            continue
        message = (
            r"\(float16\), first in layer 1's (expert_ffn|moe|decoder_layer).*: float16 ends at 65504, so load in bf"
        )
        with pytest.raises(Error, match=message):
            generate(cast, PROMPT, **GREEDY)


def test_a_weight_that_is_no_number_is_named_itself():
    model = checkpoint(3)
    down = model.weights.layers[1].down_proj.clone()
    down[2, 1, 1] = torch.nan
    spoilt = with_layer(with_layer(model, 1, down_proj=down), 0, q_norm=model.weights.layers[0].q_norm * torch.inf)
    with pytest.raises(Error, match=r"first in tensor model\.layers\.0\.self_attn\.q_norm\.weight of the weights, exp"):
        generate(spoilt, PROMPT, **GREEDY)


# ---- memory -------------------------------------------------------------------------------------


def test_too_little_memory_is_known_before_anything_is_computed_and_what_would_fit_fits(monkeypatch):
    model = checkpoint(max_position_embeddings=100_000)
    monkeypatch.setattr(generation, "steps", lambda *_: iter(()))
    free = bytes_needed(model.config, 5, 3, 40_000, eager.PREFILL_CHUNK, 4)
    monkeypatch.setattr(cache, "available_memory", lambda device: free)

    def fits(rows: int, tokens: int) -> bool:
        with suppress(Error):
            generate(model, [[1, 2, 3]] * rows, temperature=0, max_new_tokens=tokens)
            return True
        return False

    begin = (
        r"^generate: 5 prompts of 3 tokens and max_new_tokens=90000 need .* beside the weights, found .* free on cpu: "
    )
    with pytest.raises(
        Error, match=begin + r"lower max_new_tokens to \d+ or give at most \d prompts at once$"
    ) as caught:
        generate(model, [[1, 2, 3]] * 5, max_new_tokens=90_000)
    tokens, rows = map(int, re.findall(r"\d+", str(caught.value))[-2:])
    assert 38_000 < tokens < 40_000 and rows == 2, "all but one part in 32"
    assert fits(5, tokens) and not fits(5, tokens + 1) and fits(rows, 90_000) and not fits(rows + 1, 90_000)
    with pytest.raises(Error, match=r"^generate: the prompt of 9 tokens .*: lower max_new_tokens to \d+$"):
        monkeypatch.setattr(cache, "available_memory", lambda device: free // 5)
        stream(model, [1] * 9, max_new_tokens=90_000)
    with pytest.raises(Error, match=r": shorten the prompt or free memory$"):
        monkeypatch.setattr(cache, "available_memory", lambda device: 1000)
        stream(model, [1] * 9, max_new_tokens=90_000)
    monkeypatch.setattr(cache, "available_memory", lambda device: None)
    assert fits(5, 90_000), "a system that does not say is taken at its word"


@pytest.mark.parametrize("window", [None, 40])
def test_the_memory_asked_for_counts_the_cache_to_the_byte(window):
    model = checkpoint(max_position_embeddings=5000, sliding_window=window, use_sliding_window=window is not None)
    made = KVCache(model.config, 3, 2000, chunk=512)
    small = KVCache(model.config, 3, 2, chunk=512)
    large, little = (
        sum(tensor.nbytes for tensor in (*each.keys, *each.values, *each.positions.values())) for each in (made, small)
    )
    assert (
        bytes_needed(model.config, 3, 1, 1999, 512, 4) - bytes_needed(model.config, 3, 1, 1, 512, 4)
    ) == large - little


LIMITED = r"""
import re, resource, sys
sys.path.insert(0, "tests/support")
from helpers import checkpoint
from qwen3_scratch import Error, generate
from qwen3_scratch.trust.memory import available_memory

model = checkpoint(max_position_embeddings=10**9, generation_config={"eos_token_id": list(range(2112))})
generate(model, [1] * 600, max_new_tokens=2)
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**8, resource.RLIM_INFINITY))
print(available_memory())
try:
    generate(model, [1] * 600, max_new_tokens=10**8)
except Error as error:
    message = str(error)
print(message)
fits = int(re.search(r"max_new_tokens to (\d+)", message)[1])
print(generate(model, [1] * 600, max_new_tokens=fits).finish_reason)
"""


def test_a_process_with_a_limit_to_its_memory_is_told_what_fits_and_it_does():
    found = finished("-c", LIMITED, env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0, found.err
    free, message, ended = found.out.splitlines()
    assert 2.5e8 < int(free) <= 3e8 and "need" in message and "MB free on cpu: lower max_new_tokens to" in message
    assert ended == "stop"


REFUSALS = {
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:126] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    ),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "python": MemoryError(),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("steps", [0, 2])
def test_memory_that_is_refused_on_the_way_is_told_in_one_sentence(monkeypatch, refusal, steps):
    script = Script([5] * 9)

    def refusing(*args, **options):
        if script.calls == steps:
            raise refusal
        return script(*args, **options)

    monkeypatch.setattr(eager, "forward", refusing)
    expected = r"^generate: 1 x 9 tokens: the memory of cpu does not suffice, .* are free: lower max_new_tokens or give"
    with pytest.raises(Error, match=expected):
        generate(checkpoint(), [1, 2, 3], **GREEDY)


KEPT = """
import gc, sys, weakref
sys.path.insert(0, "tests/support")
from helpers import checkpoint
from qwen3_scratch import Error, generate
from qwen3_scratch.fast import eager

def refusing(*args, cache, **options):
    caches.append(weakref.ref(cache))
    raise MemoryError

eager.forward, caches = refusing, []
try:
    generate(checkpoint(), [1, 2, 3], max_new_tokens=6)
except Error as error:
    kept = error
gc.collect()
print(len(caches), caches[0]())
"""


def test_an_error_about_memory_holds_on_to_none_of_it():
    """Or the next, smaller attempt would not find it: a notebook keeps the last error."""
    found = finished("-c", KEPT, env={"JAXTYPING_DISABLE": "1"})
    assert found.out == "1 None\n", found.err


def test_other_faults_on_the_way_are_not_taken_for_too_little_memory(monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(eager, "forward", failing)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate(checkpoint(), "Hi", **GREEDY)


def test_the_memory_that_is_free_is_what_the_system_and_a_limit_leave():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        free = available_memory()
        with mmap.mmap(-1, 2**28):  # of torch it might be memory that was used before
            less = available_memory()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert 2**30 - 2**27 < free <= 2**30 and 2**28 <= free - less < 2**28 + 2**27
