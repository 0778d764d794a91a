"""config.json and generation_config.json that mean harm: every one is refused in a sentence that names its fault."""

import json
import os
import random
import socket
from dataclasses import replace

import pytest
import torch
from hostile import CONFIG, honest, refused

from qwen3_scratch import Config, Error, load_checkpoint, read_config
from qwen3_scratch.config import ROPE_TYPES
from qwen3_scratch.errors import shown
from qwen3_scratch.model import rope_frequencies
from qwen3_scratch.trust.files import LARGEST_JSON

HONEST = CONFIG.to_dict()
DENSE = {"model_type": "qwen3", "num_hidden_layers": 2}


def dumped(**changes):
    return json.dumps(HONEST | changes).encode()


def spelt(name, text):
    """The config with the value of one field as it is written, which Python would not write."""
    return dumped(**{name: "@"}).replace(b'"@"', text)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
BIG = str(10**400).encode()

FILES = {
    "100,000 lists in each other": (b"[" * 100_000 + b"]" * 100_000, "JSON", "recursion"),
    "100,000 objects in each other": (b'{"a":' * 100_000, "JSON", "recursion"),
    "a list 900 deep where a size stands": (
        spelt("hidden_size", b"[" * 900 + b"]" * 900), "hidden_size is [[[...]]]", "whole number"),
    "a number of 10,000 digits": (spelt("vocab_size", b"9" * 10_000), "JSON", "digits"),
    "a number of 4,000 digits": (spelt("vocab_size", b"9" * 4000), "vocab_size is", "digits", "at most 2147483647"),
    "a model_type of a million letters": (dumped(model_type="q" * 10**6), "model_type is 'qqq", "qqq'", "qwen3_moe"),
    "an activation of a million letters": (dumped(hidden_act="q" * 10**6), "hidden_act is 'qqq", "silu"),
    "a word that would turn the terminal red": (dumped(hidden_act="\x1b[31m\n"), r"hidden_act is '\x1b[31m\n'"),
    "half a character": (spelt("hidden_act", rb'"\ud800"'), r"hidden_act is '\ud800'"),
    "a key twice": (b'{"vocab_size": 1, ' + dumped()[1:], "'vocab_size' stands twice"),
    "a key twice, further in": (
        spelt("rope_scaling", b'{"factor": 1, "rope_type": "linear", "factor": 2}'), "'factor' stands twice"),
    "two spellings that differ": (dumped(num_local_experts=4), "num_local_experts is 4 and num_experts 8", "one value"),
    "UTF-16": (dumped().decode().encode("utf-16"), "byte order mark of UTF-16", "plain UTF-8"),
    "UTF-16 without its mark": (dumped().decode().encode("utf-16-le"), "JSON", "line 1"),
    "a byte order mark": (b"\xef\xbb\xbf" + dumped(), "byte order mark of UTF-8", "plain UTF-8"),
    "an alias, as YAML has them": (b'{"a": &a ["lol"], "b": [*a, *a]}', "JSON", "line 1"),
    "an entity, as XML has them": (b'<!DOCTYPE l [<!ENTITY lol "lol">]><l>&lol;</l>', "JSON", "line 1"),
    "only spaces": (b" " * 1000, "JSON"),
    "one byte too many": (b" " * (LARGEST_JSON + 1), "10,000,001 bytes", "at most 10,000,000"),
}  # fmt: skip

VALUES = {
    "10^30 layers": (dumped(num_hidden_layers=10**30), "num_hidden_layers is 1000", "at most 1000"),
    "10^9 layers": (dumped(num_hidden_layers=10**9), "num_hidden_layers is 1000000000", "at most 1000"),
    "2^31 experts": (dumped(num_experts=2**31), "num_experts is 2147483648", "at most 2147483647"),
    "2^63 columns": (dumped(hidden_size=2**63), "hidden_size is 9223372036854775808", "at most"),
    "an infinite size": (spelt("vocab_size", b"Infinity"), "vocab_size is inf", "whole number"),
    "a size of 1e400": (spelt("vocab_size", b"1e400"), "vocab_size is inf", "whole number"),
    "a size that is no number": (spelt("vocab_size", b"NaN"), "vocab_size is nan", "whole number"),
    "an epsilon of 10^400": (spelt("rms_norm_eps", BIG), "rms_norm_eps is a number of hundreds of digits", "finite"),
    "an epsilon of 1e400": (spelt("rms_norm_eps", b"1e400"), "rms_norm_eps is inf", "finite"),
    "heads of no numbers": (dumped(head_dim=0), "head_dim is 0", "at least 1"),
    "heads of less than none": (dumped(head_dim=-16), "head_dim is -16", "at least 1"),
    "a million dense layers": (dumped(mlp_only_layers=list(range(10**6))), "mlp_only_layers is (0, 1", "1000"),
    "a dense layer before the first": (dumped(mlp_only_layers=[-1]), "mlp_only_layers is (-1,)", "counted from 0"),
    "a dense layer that is true": (dumped(mlp_only_layers=[True]), "mlp_only_layers is (True,)", "whole numbers"),
    "half a million kinds of layer": (
        dumped(**DENSE, layer_types=["full_attention"] * 400_000), "layer_types is ('full_attention', ", "2 layers"),
    "a window of 10^30": (dumped(use_sliding_window=True, sliding_window=10**30), "sliding_window is 1000", "at most"),
    "sliding from layer 10^30 on": (dumped(max_window_layers=10**30), "max_window_layers is 1000", "at most"),
    "padding beyond the embedding": (dumped(pad_token_id=61), "pad_token_id is 61", "0 to 60"),
    "padding below it": (dumped(pad_token_id=-2), "pad_token_id is -2", "0 to 60"),
    "an end below it": (dumped(eos_token_id=[2, -2]), "eos_token_id is (2, -2)", "0 or more"),
    "a beginning below it": (dumped(bos_token_id=-5), "bos_token_id is -5", "0 or more"),
    "weights of four bits": (dumped(quantization_config={"bits": 4}), "quantization_config", "not quantised"),
    "theta of 10^400": (spelt("rope_theta", BIG), "rope_theta", "is a number of hundreds of digits", "1e+15"),
    "theta of 1e400": (spelt("rope_theta", b"1e400"), "rope_theta", "is inf", "1e+15"),
    "theta below 0": (dumped(rope_theta=-1e6), "rope_theta", "is -1000000.0", "above 0"),
    "theta 1, whose logarithm yarn divides by": (dumped(rope_theta=1.0, rope_scaling=YARN), "yarn is 1.0", "than 1"),
    "yarn with a factor of 0": (dumped(rope_scaling=YARN | {"factor": 0}), "factor of rope type yarn is 0"),
    "yarn with a factor that is no number": (
        spelt("rope_scaling", b'{"rope_type": "yarn", "factor": NaN}'), "factor of rope type yarn is nan"),
    "yarn with a factor of 1e300": (dumped(rope_scaling=YARN | {"factor": 1e300}), "factor of rope type", "1e+300"),
    "yarn from a length of 1e-300": (
        dumped(rope_scaling=YARN | {"original_max_position_embeddings": 1e-300}), "is 1e-300", "above 0"),
    "yarn from a length of 10^400": (
        spelt("rope_scaling", b'{"rope_type": "yarn", "original_max_position_embeddings": ' + BIG + b"}"), "factor of"),
    "yarn with a ramp of 1e-320": (dumped(rope_scaling=YARN | {"beta_slow": 1e-320}), "beta_slow", "1e-320"),
    "yarn that truncates perhaps": (dumped(rope_scaling=YARN | {"truncate": "no"}), "yarn is 'no'", "true or false"),
    "dynamic, whose exponent divides by 0": (
        dumped(head_dim=2, rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "head_dim is 2", "dynamic"),
    "a rope type that is a list": (dumped(rope_scaling={"rope_type": []}), "rope_type is []", "one of default"),
    "a rope with a key of two lines": (dumped(rope_scaling={"a\nb": {}}), "rope_parameters differ by kind"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "parts"), [(c, p) for c, *p in {**FILES, **VALUES}.values()],
                         ids=[*FILES, *VALUES])  # fmt: skip
def test_a_hostile_config_is_refused_in_one_sentence(tmp_path, content, parts):
    (tmp_path / "config.json").write_bytes(content)
    refused(lambda: read_config(tmp_path), tmp_path / "config.json", *parts)


def test_the_config_that_the_cases_are_made_from_is_read(tmp_path):
    (tmp_path / "config.json").write_bytes(dumped())
    assert read_config(tmp_path) == CONFIG
    (tmp_path / "config.json").write_bytes(dumped().ljust(LARGEST_JSON))
    assert read_config(tmp_path) == CONFIG


def test_a_path_that_holds_the_word_config_is_named_as_it_is(tmp_path):
    (folder := tmp_path / "config: mine").mkdir()
    for changes in ({"head_dim": 7}, {"head_dim": "7"}):
        (folder / "config.json").write_bytes(dumped(**changes))
        refused(lambda: read_config(folder), folder / "config.json", "head_dim is")


def test_ends_beyond_the_embedding_are_kept_and_a_dense_layer_beyond_the_last_means_nothing(tmp_path):
    (tmp_path / "config.json").write_bytes(dumped(eos_token_id=[151645, 3], bos_token_id=151643, mlp_only_layers=[7]))
    config = read_config(tmp_path)
    assert (config.eos_token_ids, config.bos_token_id) == ((151645, 3), 151643)
    assert [config.is_sparse(layer) for layer in range(config.num_hidden_layers)] == [True]


def test_every_number_that_a_rope_may_hold_gives_finite_frequencies():
    draw, longest = random.Random(0), torch.tensor(2**31 - 1)
    for kind in ROPE_TYPES * 20:
        names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        rope = {"rope_type": kind, **{name: draw.choice([1e-6, 1.0, 1.5, 1e15]) for name in names}}
        rope |= {"low_freq_factor": draw.choice([1e-6, 1.0]), "high_freq_factor": draw.choice([1.5, 1e15])}
        rope |= {name: (1e-6, draw.choice([1.0, 1e15])) for name in ("short_factor", "long_factor")}
        if kind == "longrope":  # which divides by its logarithm
            rope["original_max_position_embeddings"] = draw.choice([1.0000001, 1.5, 1e15])
        rope["rope_theta"] = draw.choice([1.0000001, 1e6, 1e15] if kind == "yarn" else [1e-6, 1.0, 1e15])
        frequencies, scale = rope_frequencies(replace(CONFIG, head_dim=4, rope_parameters=rope), longest)
        assert frequencies.isfinite().all() and 0 < scale < 1e16, rope


def test_a_config_made_by_hand_is_held_to_the_same_bounds():
    sizes = {name: HONEST[name] for name in ("model_type", "vocab_size", "hidden_size", "intermediate_size",
             "num_attention_heads", "num_key_value_heads", "head_dim")}  # fmt: skip
    with pytest.raises(Error, match=r"^config: num_hidden_layers is a number of hundreds of digits, expected at most"):
        Config(num_hidden_layers=10**5000, **sizes)


def test_what_a_message_quotes_is_short_and_one_line():
    values = ["x" * 10**6, [[[[[1] * 10] * 10] * 10] * 10] * 10, {str(n): "\n" for n in range(1000)}, 10**5000, b"\n"]
    for value in values:
        assert len(shown(value)) < 1000 and "\n" not in shown(value)


# ---- what is no file ----------------------------------------------------------------------------


def test_a_config_that_is_no_file_is_refused_at_once(tmp_path):
    path = tmp_path / "config.json"
    path.mkdir()
    refused(lambda: read_config(tmp_path), path, "is a folder, expected a file")
    path.rmdir()
    os.mkfifo(path)
    refused(lambda: read_config(tmp_path), path, "is a pipe, expected a file")
    path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    try:  # the name of a socket has room for a hundred letters
        os.chdir(tmp_path)
        listening.bind("config.json")
    finally:
        os.fchdir(here)
        os.close(here)
        listening.close()
    refused(lambda: read_config(tmp_path), path, "is a socket, expected a file")


def test_a_config_that_is_a_device_is_refused(tmp_path):
    try:
        os.mknod(tmp_path / "config.json", 0o020666, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        pytest.skip("only root makes devices, and not everywhere")
    refused(lambda: read_config(tmp_path), tmp_path / "config.json", "is a device, expected a file")


# ---- generation_config.json -----------------------------------------------------------------

GENERATION = {
    "a temperature in words": ({"temperature": "hot"}, "temperature is 'hot'", "number"),
    "a temperature of a million letters": ({"temperature": "h" * 10**6}, "temperature is 'hhh", "number"),
    "a temperature below 0": ({"temperature": -1}, "temperature is -1", "0 (greedy) or more"),
    "a temperature of 10^400": ({"temperature": 10**400}, "temperature is a number of hundreds", "finite"),
    "an infinite temperature": ({"temperature": float("inf")}, "temperature is inf", "finite"),
    "a top_k below 0": ({"top_k": -1}, "top_k is -1", "whole number"),
    "half a top_k": ({"top_k": 1.5}, "top_k is 1.5", "whole number"),
    "a top_k of everything": ({"top_k": [1]}, "top_k is [1]", "number"),
    "a top_p of 2": ({"top_p": 2}, "top_p is 2", "at most 1"),
    "a top_p that is true": ({"top_p": True}, "top_p is True", "number"),
    "a min_p that is no number": ({"min_p": float("nan")}, "min_p is nan", "number"),
    "a penalty of 0": ({"repetition_penalty": 0}, "repetition_penalty is 0", "above 0"),
    "an end in words": ({"eos_token_id": "<|im_end|>"}, "eos_token_id is '<|im_end|>'", "token id"),
    "ends in words": ({"eos_token_id": ["<|im_end|>"]}, "eos_token_id is ('<|im_end|>',)", "token id"),
    "an end below 0": ({"eos_token_id": [2, -2]}, "eos_token_id is (2, -2)", "token id"),
    "an end that is true": ({"eos_token_id": True}, "eos_token_id is True", "token id"),
    "sampling perhaps": ({"do_sample": "maybe"}, "do_sample is 'maybe'", "true or false"),
    "sampling 1": ({"do_sample": 1}, "do_sample is 1", "true or false"),
    "a list": ([], "JSON list", "object"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return honest(tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize(("content", "parts"), [(c, p) for c, *p in GENERATION.values()], ids=GENERATION)
def test_a_hostile_generation_config_is_refused_in_one_sentence(folder, content, parts):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    refused(lambda: load_checkpoint(folder), path, *parts)


def test_an_honest_generation_config_is_taken_as_it_is(folder):
    asked = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": None,
        "do_sample": True,
        "eos_token_id": [151645, 3],
        "else": [1],
    }
    (folder / "generation_config.json").write_text(json.dumps(asked), encoding="utf-8")
    assert load_checkpoint(folder).generation_config == asked
