"""Compiled decoding writes the tokens of the plain path, compiles once, and asks the device for no value.

These tests run without the check of shapes in signatures (`make unit` starts them apart), since the compiler would
compile the checks as well. Everything is in fp32: in bf16 another order of adding turns a token now and then.
"""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import command, finished
from reference import TOLERANCE, assert_near, dense_config, random_tokens, random_weights, small_config
from tiers import in_proof, only
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Checkpoint, Error, forward, generate, load_checkpoint, stream
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import compiled, compiling, eight_bits, int8
from qwen3_scratch.fast.compiling import (
    Part,
    Steps,
    compiled_decoder,
    compiled_steps,
    decode_step,
    head_step,
    layer_step,
    whole_step,
)
from qwen3_scratch.fast.eager import eager_decoder, prefill
from qwen3_scratch.fast.streamed import STREAMED, moe_streamed, streamed_linear
from qwen3_scratch.model import Ops, expert_ffn, moe, moe_route

pytestmark = pytest.mark.compiled

LONG = dict(max_position_embeddings=512)
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
CONFIGS = {
    "8 experts top-2": small_config(**LONG),
    "one of two experts, its raw probability, tied": small_config(
        num_experts=2, num_experts_per_tok=1, norm_topk_prob=False, tie_word_embeddings=True, **LONG
    ),
    "dense and sparse layers, bias, dynamic rope": small_config(
        mlp_only_layers=(1,), attention_bias=True, rope_parameters=DYNAMIC, **LONG
    ),
    "sliding window, yarn": small_config(use_sliding_window=True, sliding_window=7, rope_parameters=YARN, **LONG),
    "dense, full and sliding layers, one key/value head": dense_config(
        use_sliding_window=True, sliding_window=7, max_window_layers=1, num_key_value_heads=1, **LONG
    ),
    "as many experts a token as there are": small_config(num_experts=4, num_experts_per_tok=4, **LONG),
}

# Each of them is compiled anew.
KEPT_SPARSE = "sliding window, yarn"
KEPT = only(CONFIGS, KEPT_SPARSE, "dense, full and sliding layers, one key/value head")


def model(name: str) -> Checkpoint:
    return Checkpoint(CONFIGS[name], random_weights(CONFIGS[name], seed=len(name)))


def prompts(config, *lengths: int, seed: int = 0) -> list[list[int]]:
    return [random_tokens(config, length, seed=seed + length).tolist() for length in lengths]


def plain_steps(config) -> Steps:
    """The parts of a decoding step, not compiled."""
    return Steps((layer_step(config, STREAMED),) * config.num_hidden_layers, head_step(config, STREAMED))


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("batch", [in_proof(1), 3])
@pytest.mark.parametrize("name", only(CONFIGS, KEPT_SPARSE))
def test_compiled_generation_writes_the_tokens_of_the_plain_path(name, batch):
    checkpoint = model(name)
    asked = prompts(checkpoint.config, 11, 4, 23)[:batch]  # of three lengths, so two rows are padded
    options = dict(max_new_tokens=40, temperature=0)
    expected = generate(checkpoint, asked, **options)
    assert generate(checkpoint, asked, compiled=True, **options) == expected


@pytest.mark.parametrize("name", KEPT)
def test_compiled_logits_are_near_the_plain_ones_at_every_step(name):
    checkpoint = model(name)
    asked = prompts(checkpoint.config, 9)
    caches = [KVCache(checkpoint.config, 1, 60, chunk=16, dtype=torch.float32) for _ in range(2)]
    for cache in caches:
        prefill(checkpoint, asked, cache)
    step, plain = (
        decoder(checkpoint, cache, lambda logits: logits)
        for decoder, cache in zip((compiled_decoder, eager_decoder), caches[::-1], strict=True)
    )
    for token in random_tokens(checkpoint.config, 50, seed=3):
        assert_near(step(token[None]), plain(token[None]), 2 * TOLERANCE)


@pytest.mark.parametrize("form", [in_proof(int8), compiled])
@pytest.mark.parametrize("name", only(CONFIGS, KEPT_SPARSE))
def test_drafts_change_no_token_of_compiled_decoding(name, form):
    checkpoint = model(name)
    if checkpoint.config.rope_parameters["rope_type"] == "dynamic":
        pytest.skip("drafts are refused where angles hang on the length")
    checkpoint, options = form(checkpoint), dict(max_new_tokens=60, min_new_tokens=50, temperature=0)
    asked = (2 * prompts(checkpoint.config, 9)[0])[:-1]  # what stands there twice is drafted at once
    assert generate(checkpoint, asked, lookup=True, **options) == generate(checkpoint, asked, **options)


def alike(router, kinds):
    """Rows that read one number each: of equal rows the sums are equal to the bit, in whatever order they are taken."""
    return F.one_hot(torch.arange(len(router)) % kinds, router.shape[1]).to(router)


@pytest.mark.parametrize("kinds", [in_proof(1), 2])
@pytest.mark.parametrize("name", only([name for name in CONFIGS if CONFIGS[name].num_experts], KEPT_SPARSE))
def test_where_routers_cannot_tell_experts_apart_the_same_ones_are_asked(name, kinds):
    checkpoint = model(name)
    layers = tuple(
        layer if layer.router is None else layer._replace(router=alike(layer.router, kinds))
        for layer in checkpoint.weights.layers
    )
    checkpoint = replace(checkpoint, weights=checkpoint.weights._replace(layers=layers))
    options = dict(max_new_tokens=20, temperature=0)
    found = generate(checkpoint, prompts(checkpoint.config, 9)[0], compiled=True, **options)
    assert found == generate(checkpoint, prompts(checkpoint.config, 9)[0], **options)


@pytest.mark.parametrize("temperature", [in_proof(0), 0.9])
def test_the_embedded_checkpoint_answers_alike_compiled_streamed_and_in_a_batch(temperature):
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    questions = ["What is the capital of France?", "Ana has 3 apples and gets 4 more. How many?"]
    options = dict(max_new_tokens=48, temperature=temperature, top_p=0.9, seed=5, repetition_penalty=1.1)
    expected = generate(checkpoint, questions, **options)
    assert generate(checkpoint, questions, compiled=True, **options) == expected
    pieces = stream(checkpoint, questions[0], compiled=True, **options)
    assert "".join(piece for piece in pieces if not piece.thinking) == expected[0].text


def test_a_second_call_and_a_growing_text_compile_nothing():
    checkpoint = model("sliding window, yarn")
    generate(checkpoint, prompts(checkpoint.config, 5)[0], max_new_tokens=3, temperature=0, compiled=True)
    before = graphs()
    for length, new in ((2, 2), (30, 300), (400, 5)):  # within the window, far past it, a prompt past it
        generate(
            checkpoint, prompts(checkpoint.config, length)[0], max_new_tokens=new, min_new_tokens=new, compiled=True
        )
    assert graphs() == before
    generate(checkpoint, prompts(checkpoint.config, 4, 5), max_new_tokens=3, compiled=True)
    assert graphs() > before  # another batch size is another graph: so the count does count


def test_what_was_compiled_for_some_threads_is_not_run_by_others():
    """The compiler makes room for one partial sum a thread: one thread more would write behind it."""
    checkpoint, before = model("8 experts top-2"), torch.get_num_threads()
    cache = KVCache(checkpoint.config, 1, 20)
    steps = compiled_steps(checkpoint, cache)
    try:
        torch.set_num_threads(before + 1)
        assert not set(compiled_steps(checkpoint, cache)) & set(steps)
    finally:
        torch.set_num_threads(before)
    assert compiled_steps(checkpoint, cache) == steps


@pytest.mark.proof
def test_many_models_in_one_process_are_all_compiled():
    for width in range(9):  # more than torch compiles of one function before it gives up
        config = small_config(num_hidden_layers=1, moe_intermediate_size=8 + 8 * width)
        checkpoint, before = Checkpoint(config, random_weights(config)), graphs()
        generate(checkpoint, [1, 2, 3], max_new_tokens=3, temperature=0, compiled=True)
        assert graphs() == before + 2  # the layer and the head


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a GPU: a value that is read, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "item")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        self.seen += [name] if name in self.WAITING else []
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_asks_for_no_value(name):
    checkpoint = model(name)
    cache = KVCache(checkpoint.config, 1, 20, chunk=16, dtype=torch.float32)
    prefill(checkpoint, prompts(checkpoint.config, 9), cache)
    cache.length = 10
    token, start = torch.tensor([3]), torch.tensor([9])
    with torch.inference_mode(), Waits() as fast:
        decode_step(plain_steps(checkpoint.config), checkpoint, token[:, None], cache, start)
    assert fast.seen == []
    if checkpoint.config.num_experts:
        with Waits() as slow:
            forward(checkpoint.weights, token[:, None], checkpoint.config)
        assert slow.seen  # the model's own steps ask how many tokens each expert got: so the count does count


@pytest.mark.parametrize("name", CONFIGS)
def test_the_step_that_a_gpu_records_writes_the_tokens_of_the_plain_path(name):
    """Fixed shapes, fixed places, the choice included; here called again and again instead of recorded."""
    checkpoint = model(name)
    asked = prompts(checkpoint.config, 11, 4)
    expected = generate(checkpoint, asked, max_new_tokens=30, temperature=0)
    cache = KVCache(checkpoint.config, 2, 11 + 30, chunk=16, dtype=torch.float32)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(torch.nan)  # whatever stood in this memory before
    with torch.inference_mode():
        tokens = prefill(checkpoint, asked, cache).argmax(-1)
        pick, start = (lambda logits: logits.argmax(-1)), torch.tensor([11])
        step = whole_step(plain_steps(checkpoint.config), checkpoint, cache, pick, start, tokens)
        found = [tokens.tolist()]
        for length in range(11, 40):
            start.fill_(length)
            step()
            found.append(tokens.tolist())
    assert [list(row) for row in zip(*found, strict=True)] == [each.token_ids for each in expected]


def test_a_step_runs_on_tensors_that_have_no_values():
    checkpoint = model("8 experts top-2")
    shapes = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), checkpoint.weights)
    nothing = replace(checkpoint, weights=shapes)
    cache = KVCache(checkpoint.config, 2, 20, dtype=torch.float32, device="meta")
    cache.length = 10
    tokens, start = torch.empty(2, dtype=torch.long, device="meta"), torch.empty(1, dtype=torch.long, device="meta")
    logits = decode_step(plain_steps(checkpoint.config), nothing, tokens[:, None], cache, start)
    assert logits.shape == (2, 1, checkpoint.config.vocab_size)


@pytest.mark.parametrize("rows", only([1, 2, 3, 16, 17], 1, 3, 16))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_product_is_the_product(rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 1, 48), (80, 48), (80,)))
    product = Part(streamed_linear)
    expected = (x.double() @ weight.double().t() + bias.double()).to(dtype)
    # one rounding of the sum and one of the bias, in units of the largest number
    assert_near(product(x, weight, bias), expected, 1e-6 if dtype == torch.float32 else 2**-7)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"),
    [(1, 2, 1), (3, 8, 2), in_proof(1, 32, 8), (5, 2, 1), in_proof(16, 2, 1), in_proof(40, 8, 8)],
)
@pytest.mark.parametrize("made", [lambda form: form, Part], ids=["plain", "compiled"])
def test_streamed_experts_answer_like_the_loop_over_experts(tokens, experts, top_k, made):
    generator = torch.Generator().manual_seed(tokens)
    shapes = (tokens, 32), (experts, 32), (experts, 48, 32), (experts, 32, 24)
    x, router, gate_up, down = (torch.randn(shape, generator=generator) for shape in shapes)
    route = moe_route(x, router, top_k, True)
    expected = moe(x, route, gate_up, down, expert_ffn)
    assert_near(made(moe_streamed)(x, route, gate_up, down), expected)
    small = [tensor.to(torch.bfloat16) for tensor in (x, gate_up, down)]
    rough = route._replace(weights=route.weights.to(torch.bfloat16))
    # four roundings to 8 bits, of which the sum over the intermediate evens out most
    assert_near(made(moe_streamed)(small[0], rough, *small[1:]), expected, 2**-5)


def test_warming_up_is_shown_once_with_its_time(capsys):
    checkpoint = model("8 experts top-2")
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, initializer_range=0.5))  # not seen before
    asked = dict(max_new_tokens=3, temperature=0, compiled=True)
    generate(checkpoint, [1, 2, 3], **asked)
    shown = capsys.readouterr()
    assert "Compiling" in shown.err and "2/2" in shown.err and "00:" in shown.err and shown.out == ""
    generate(checkpoint, [4, 5], **asked)
    assert capsys.readouterr() == ("", "")


def test_a_slice_of_a_model_is_refused():
    checkpoint = replace(model("8 experts top-2"), ops=Ops(reduce=lambda x: 2 * x))
    with pytest.raises(Error, match=r"^compiled: this checkpoint replaces the step 'reduce', expected"):
        generate(checkpoint, [1, 2], compiled=True)


def test_numbers_that_are_not_finite_are_found_compiled_too():
    checkpoint = model("8 experts top-2")
    checkpoint.weights.layers[1].down_proj.fill_(torch.finfo(torch.float32).max)
    with pytest.raises(Error, match="NaN or infinity in the logits"):
        generate(checkpoint, [1, 2, 3], max_new_tokens=5, temperature=0, compiled=True)


@pytest.mark.parametrize(
    "missing", [{"CXX": "/nonexistent/g++"}, in_proof({"TORCHDYNAMO_DISABLE": "1"})], ids=["g++", "dynamo"]
)
def test_without_a_compiler_it_says_so_once_and_writes_the_same(tmp_path, missing):
    script = tmp_path / "twice.py"
    script.write_text(
        "from qwen3_scratch import generate, load_checkpoint\n"
        "checkpoint = load_checkpoint('tiny')\n"
        "for compiled in (True, False, True):\n"
        "    print(generate(checkpoint, 'What is the capital of France?', temperature=0, compiled=compiled).text)\n"
    )
    # Nothing that an earlier run compiled may be found either.
    env = {**missing, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "JAXTYPING_DISABLE": "1"}
    said = finished(str(script), env=env)
    assert said.code == 0, said.err
    assert len(set(said.out.splitlines())) == 1
    assert said.err.count("compiled: nothing can be compiled here") == 1


def test_a_step_is_recorded_on_the_device_of_the_model_and_not_on_the_current_one(monkeypatch):
    """Without a GPU only the order of the calls: what stands for the recording asks on which device it is made."""
    current, seen = [torch.device("cuda", 0)], []

    @contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    for name in ("compiled_steps", "warm_up"):
        monkeypatch.setattr(compiling, name, lambda *_: None)
    monkeypatch.setattr(compiling, "recorded", lambda *_: seen.append(current[-1]))
    monkeypatch.setattr(torch, "tensor", lambda numbers, device: numbers)
    second = torch.device("cuda", 1)
    compiling.compiled_by(Ops(), SimpleNamespace(device=second), SimpleNamespace(length=3), lambda logits: logits)
    assert (seen, current) == ([second], [torch.device("cuda", 0)])


def test_the_terminal_compiles_where_asked(monkeypatch, capsys):
    words = ("generate", "What is the capital of France?", "--temperature", "0", "--dtype", "float32")
    plain, in_8_bits, by_form = command(monkeypatch, capsys, *words), [], compiling.compiled_by

    def noting(ops, *given):
        in_8_bits.append(ops is eight_bits.INT8_STREAMED)
        return by_form(ops, *given)

    monkeypatch.setattr(compiling, "compiled_by", noting)
    monkeypatch.setattr(eight_bits, "compiled_by", noting)
    for option in ("--compiled", "--int8"):  # in 8 bits this answer stays the same, too
        fast = command(monkeypatch, capsys, *words, option)
        assert (fast.code, fast.out) == (0, plain.out)
    assert in_8_bits == [False, True]
