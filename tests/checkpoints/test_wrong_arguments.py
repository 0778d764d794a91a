"""Whatever is handed to what reads and writes checkpoints and texts: it is right, or one sentence says what it is not.

One argument at a time is anything at all; the others are right.
"""

import inspect
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, unchecked
from hypothesis import given
from hypothesis import strategies as st
from reference import random_weights, small_config
from tiers import examples

from qwen3_scratch import (
    Checkpoint,
    Error,
    KVCache,
    Tokenizer,
    fast,
    forward,
    generate,
    init_weights,
    load_checkpoint,
    load_weights,
    read_config,
    read_tokenizer,
    save_checkpoint,
    stream,
)
from qwen3_scratch.checkpoints.checkpoint import read_generation_config, with_top_k
from qwen3_scratch.checkpoints.saving import save_weights
from qwen3_scratch.checkpoints.weights import AS_READ
from qwen3_scratch.devices.slices import Place, check_split, own_config, shard_weights

CONFIG = small_config()
MADE = Checkpoint(CONFIG, random_weights(CONFIG))
TOKENIZER = read_tokenizer(TINY)
TURN = {"role": "user", "content": "hello"}
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=9), st.one_of(st.none(), st.integers(), st.text(max_size=9)), max_size=2),
    st.sampled_from([
        object(), np.ones(2), np.int64(3), torch.ones(2), torch.tensor(3), Path("/nowhere"), Path(), "float16", "half",
        "torch.float32", "bf17", torch.int8, torch.complex64, torch.float64, "meta", "cpu:3", "cuda:99",
        torch.device("meta"), "/dev/null", "a/b", "a/b/c", "..", "~", "tiny ", "\0", "\ud800", CONFIG, MADE, [TURN],
        [TURN, 3], [{"role": 1}], float, len,
    ]),
)  # fmt: skip
RIGHT: dict[str, tuple[Any, dict[str, Any]]] = {
    "read_config": (read_config, dict(folder=TINY)),
    "read_tokenizer": (read_tokenizer, dict(folder=TINY)),
    "load_weights": (
        load_weights, dict(folder=TINY, config=read_config(TINY), dtype=None, device=None, form=AS_READ)
    ),
    "load_checkpoint": (
        load_checkpoint,
        dict(
            name_or_path=str(TINY), dtype=None, device=None, revision=None, num_experts_per_tok=None, form=AS_READ
        ),
    ),
    "init_weights": (init_weights, dict(config=CONFIG, seed=0, dtype=torch.float32, device=None)),
    "encode": (TOKENIZER.encode, dict(text="hello", plain=False)),
    "decode": (TOKENIZER.decode, dict(ids=[1, 2], skip_special_tokens=False)),
    "token_bytes": (TOKENIZER.token_bytes, dict(token_id=5)),
    "render_chat": (
        TOKENIZER.render_chat,
        dict(messages=[TURN], tools=None, thinking=True, add_generation_prompt=True, continue_final_message=False),
    ),
}  # fmt: skip
ARGUMENTS = [(name, argument) for name, (_, right) in RIGHT.items() for argument in right]


def said_or_done(call: Any) -> None:
    try:
        with unchecked():
            call()
    except Error as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 2000, text


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
@examples(100)
@given(value=ANYTHING)
def test_anything_that_is_given_to_be_read_is_read_or_refused_in_one_sentence(name, argument, value):
    function, right = RIGHT[name]
    said_or_done(partial(function, **(right | {argument: value})))


@pytest.mark.parametrize("argument", ["checkpoint", "folder"])
@examples(100)
@given(value=ANYTHING)
def test_anything_that_is_given_to_be_saved_is_saved_or_refused_and_leaves_nothing_half(
    argument, value, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("saved")
    if argument == "folder" and isinstance(value, str | Path):
        value = folder / str(value).replace("/", "_")
    said_or_done(
        partial(
            save_checkpoint,
            *(value if name == argument else right for name, right in (("checkpoint", MADE), ("folder", folder))),
        )
    )
    if argument == "checkpoint" and not isinstance(value, Checkpoint):
        assert list(folder.iterdir()) == []


def test_every_argument_of_these_functions_is_tried():
    for name, (function, right) in RIGHT.items():
        wanted = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
        missing = {each.name for each in wanted} - right.keys() - {"own", "runs_as"}  # functions of the devices
        assert not missing, (name, missing)


WRONG = {
    "a name in place of a checkpoint": (lambda: generate("tiny", "hello"), "generate: checkpoint is 'tiny'"),
    "a number in place of one": (lambda: stream(3, "hello"), "generate: checkpoint is 3"),
    "None to be compiled": (lambda: fast.compiled(None), "compiled: checkpoint is None"),
    "a name to be rounded": (lambda: fast.int8("tiny"), "compiled: checkpoint is 'tiny'"),
    "a cache without a config": (lambda: KVCache(None, 1, 8), "cache: config is None"),
    "steps that are none": (
        lambda: forward(MADE.weights, torch.tensor([[1]]), CONFIG, ops=3), "forward: ops is a int, expected an Ops",
    ),
    "a tokenizer of nothing": (lambda: Tokenizer(3), "tokenizer: backend is 3"),
    "a number as a token": (lambda: TOKENIZER.token_id(3), "token is 3, expected str"),
    "no switch": (lambda: TOKENIZER.encode_chat([TURN], plain_user_text="no"), "plain_user_text is 'no'"),
    "a number as a switch": (lambda: TOKENIZER.render_chat([TURN], thinking=1), "thinking is 1, expected true"),
    "None as a switch": (
        lambda: TOKENIZER.render_chat([TURN], add_generation_prompt=None), "add_generation_prompt is None",
    ),
    "weights of another depth": (
        lambda: replace(MADE, config=small_config(num_hidden_layers=CONFIG.num_hidden_layers + 1)),
        f"Checkpoint: weights have {CONFIG.num_hidden_layers} layers of {CONFIG.hidden_size} numbers, "
        f"expected {CONFIG.num_hidden_layers + 1} of {CONFIG.hidden_size}",
    ),
    "a tokenizer's name": (lambda: replace(MADE, tokenizer="tiny"), "Checkpoint: tokenizer is 'tiny'"),
    "a decoder that decodes nothing": (lambda: replace(MADE, decoder=1), "Checkpoint: decoder is 1"),
    "a folder by its name": (lambda: replace(MADE, path="here"), "Checkpoint: path is 'here', expected Path"),
    "settings that are none": (lambda: replace(MADE, generation_config=3), "Checkpoint: generation_config is 3"),
    "a number as a revision": (lambda: load_checkpoint("a/b", revision=3), "revision is 3, expected str"),
    "slices by a number": (lambda: load_checkpoint("tiny", own=3), "own is 3, expected a function"),
    "a form by its name": (lambda: load_checkpoint("tiny", form="int8"), "load_weights: form is 'int8', expected Form"),
    "a revision of a folder": (lambda: load_checkpoint("tiny", revision="v1"), "revision is 'v1', and tiny is"),
    "a spread past all numbers": (lambda: small_config(initializer_range=1e39), "initializer_range"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_such_thing_is_refused_before_anything_is_computed(name):
    act, expected = WRONG[name]
    with unchecked(), pytest.raises(Error, match=re.escape(expected)) as error:
        act()
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_torch_are_counts():
    with unchecked():
        for number in (np.int64(2), np.int8(2), torch.tensor(2)):
            assert with_top_k(CONFIG, number).num_experts_per_tok == 2
            check_split(CONFIG, number, number)


BIASED = small_config(attention_bias=True)
OTHER_CONFIGS = {  # the config that the weights are of, and what of it is replaced by hand
    "biases left out": (BIASED, dict(attention_bias=False)),
    "biases that are not there": (CONFIG, dict(attention_bias=True)),
    "dense layers that are sparse": (CONFIG, dict(decoder_sparse_step=2)),
    "fewer experts": (CONFIG, dict(num_experts=CONFIG.num_experts - 1)),
    "more experts": (CONFIG, dict(num_experts=CONFIG.num_experts + 1)),
    "fewer heads": (CONFIG, dict(num_attention_heads=2)),
    "fewer key/value heads": (CONFIG, dict(num_key_value_heads=1)),
    "other heads": (CONFIG, dict(head_dim=CONFIG.head_dim * 2)),
}
SAVED_ONLY = {  # a pass does not look at these fields
    "narrower experts": (CONFIG, dict(moe_intermediate_size=CONFIG.moe_intermediate_size // 2)),
    "fewer tokens": (CONFIG, dict(vocab_size=CONFIG.vocab_size - 1)),
}


@pytest.mark.parametrize("name", OTHER_CONFIGS)
def test_weights_of_another_config_are_not_run(name):
    config, changes = OTHER_CONFIGS[name]
    other, weights = replace(config, **changes), random_weights(config)
    for where, act in {
        "forward": lambda: forward(weights, torch.tensor([[1, 2]]), other),
        "Checkpoint": lambda: Checkpoint(other, weights),
    }.items():
        with pytest.raises(Error, match=rf"^{where}: layer \d of the weights has .*, expected .*, as the config says"):
            act()


@pytest.mark.parametrize("name", [*OTHER_CONFIGS, *SAVED_ONLY])
def test_weights_of_another_config_are_not_saved(name, tmp_path):
    """Some of their tensors have no name in the files then: they would be gone, and the logits others."""
    config, changes = (OTHER_CONFIGS | SAVED_ONLY)[name]
    other, weights = replace(config, **changes), random_weights(config)
    saves = [lambda: save_weights(tmp_path, weights, other)]
    saves += [lambda: save_checkpoint(Checkpoint(other, weights), tmp_path)] * (name in SAVED_ONLY)
    for save in saves:
        with pytest.raises(Error, match=r"^save: .* of the weights is .*, expected .*, as the config says"):
            save()
    assert list(tmp_path.iterdir()) == []


def test_a_slice_of_a_model_is_not_saved_as_if_it_were_the_whole(tmp_path):
    config = own_config(CONFIG, Place(0, 0, 2, 1))
    part = shard_weights(MADE.weights, CONFIG, Place(0, 0, 2, 1))
    with pytest.raises(Error, match=r"^save: .*, as the config says"):
        save_checkpoint(Checkpoint(config, part), tmp_path)


def test_settings_that_are_not_read_are_named(tmp_path, capsys):
    settings = {"num_beams": 4, "no_repeat_ngram_size": 0, "stop_strings": ["."], "temperature": 0.7}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert read_generation_config(tmp_path) == settings
    assert "sets num_beams, stop_strings, which is not read here: answers are without" in capsys.readouterr().err
