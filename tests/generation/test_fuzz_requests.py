"""Any arguments of generate and stream: an answer, or one sentence."""

import functools
import json
import math
from dataclasses import replace

import pytest
import torch
from helpers import checkpoint, unchecked
from hypothesis import given
from hypothesis import strategies as st
from tiers import examples

from qwen3_scratch import Error, generate, stream
from qwen3_scratch.checkpoints.checkpoint import read_generation_config
from qwen3_scratch.generation import Generation

NUMBERS = st.one_of(
    st.integers(-2, 12), st.sampled_from([2**31, 2**64, -(2**64), 10**400]), st.floats(),
    st.sampled_from([0.0, 0.7, 1.0, 1e-300]),
)  # fmt: skip
TEXTS = st.sampled_from(["", " ", "Hi", "<|im_end|>", "<think>", "\ud800", "\x00", "é\n", "two words"]) | st.text(
    max_size=6
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=3))
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "critic"])
CALLS = st.lists(st.fixed_dictionaries({"name": TEXTS, "arguments": ANY}) | ANY, max_size=2)
TURNS = st.fixed_dictionaries(
    {"role": ROLES, "content": TEXTS | ANY}, optional={"tool_calls": CALLS | ANY, "reasoning_content": TEXTS | ANY}
)
IDS = st.lists(st.integers(0, 2047), min_size=1, max_size=5)
TENSORS = st.sampled_from(
    [torch.tensor([1, 2]), torch.tensor([[1, 2], [3, 4]]), torch.tensor([0.5]), torch.tensor(3), torch.zeros(0).long(),
     torch.tensor([True]), torch.zeros(1, 2, 3).long()]
)  # fmt: skip
PROMPTS = st.one_of(
    TEXTS, IDS, TENSORS, st.lists(TURNS, max_size=3), st.lists(TEXTS, max_size=3), st.lists(IDS, max_size=2), ANY,
    st.lists(TURNS | ANY, max_size=3), st.lists(st.lists(TURNS, max_size=2), max_size=2),
    st.lists(st.integers(-3, 3000) | LEAVES, max_size=4),
)  # fmt: skip
RIGHT = {
    "max_new_tokens": st.integers(1, 3), "min_new_tokens": st.integers(0, 1), "thinking": st.booleans(),
    "temperature": st.floats(0, 2), "top_k": st.integers(0, 9), "top_p": st.floats(0.1, 1), "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.5, 2), "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2), "num_samples": st.integers(1, 3), "plain_user_text": st.booleans(),
    "seed": st.integers(0, 9), "stop": st.lists(TEXTS, max_size=2) | TEXTS,
    "tools": st.just([{"name": "f", "parameters": {}}]), "raw": st.booleans(),
}  # fmt: skip
OPTIONS = st.fixed_dictionaries({}, optional={name: right | ANY for name, right in RIGHT.items()}).map(
    lambda options: {"max_new_tokens": 2} | options
)


@functools.cache
def small():
    return checkpoint(num_hidden_layers=1, max_position_embeddings=256)


def asked(call):
    """What the call gives; None where it was one sentence."""
    try:
        with unchecked():
            return call()
    except Error as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 1000
        return None


def whole(found, limit):
    assert isinstance(found, Generation)
    assert 1 <= len(found.token_ids) <= limit
    assert found.finish_reason in ("stop", "length")
    assert isinstance(found.text, str)


def flat(found):
    return [] if found is None else [one for many in found for one in flat(many)] if type(found) is list else [found]


@examples(300)
@given(prompt=PROMPTS, options=OPTIONS)
def test_any_request_is_an_answer_or_a_sentence(prompt, options):
    found = asked(lambda: generate(small(), prompt, **options))
    for one in flat(found):
        whole(one, options["max_new_tokens"])


@examples(60)
@given(prompt=PROMPTS, options=OPTIONS)
def test_any_request_for_a_stream_is_pieces_that_make_the_answer_or_a_sentence(prompt, options):
    def run():
        pieces, running = [], stream(small(), prompt, **options)
        while True:
            try:
                pieces.append(next(running))
            except StopIteration as end:
                return pieces, end.value

    found = asked(run)
    if found is not None:
        pieces, answer = found
        whole(answer, options["max_new_tokens"])
        assert "".join(piece for piece in pieces if not piece.thinking) == answer.text


@examples(100)
@given(content=st.dictionaries(
    st.sampled_from(["temperature", "top_k", "top_p", "min_p", "do_sample", "eos_token_id", "repetition_penalty", "x"]),
    LEAVES.filter(lambda leaf: not isinstance(leaf, bytes)) | st.lists(NUMBERS, max_size=2), max_size=3,
))  # fmt: skip
def test_any_generation_config_is_an_answer_or_a_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "generation_config.json").write_text(json.dumps(content), "utf-8")

    def run():
        read = replace(small(), generation_config=read_generation_config(folder))
        return generate(read, [1, 2], max_new_tokens=1)

    found = asked(run)
    if found is not None:
        whole(found, 1)


@pytest.mark.parametrize("number", [None, math.nan, math.inf, -1, "x", [], True, 10**400])
def test_a_prompt_of_no_ids_is_a_sentence(number):
    assert asked(lambda: generate(small(), [1, number], max_new_tokens=1)) is None
