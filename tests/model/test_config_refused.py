"""What no config.json may say, each refused by name."""

import pytest
from config_files import DENSE, TINY, read

from qwen3_scratch import Error, read_config


def refused(folder, *parts):
    """Reading fails in one line that starts with the file, holds every part, and says what to do."""
    with pytest.raises(Error) as caught:
        read_config(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert "\n" not in message
    assert any(word in message for word in ("expected", "fetch", "mend", "check"))
    for part in parts:
        assert part in message


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2, 3.0], "long_factor": [2.0, 3.0, 4.0, 8.0],
            "original_max_position_embeddings": 32}  # fmt: skip
RELATIONS = {
    "heads not shared evenly": ({"num_attention_heads": 5}, "num_attention_heads is 5", "which is 2"),
    "more experts for a token than there are": ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5", "which is 4"),
    "no expert for a token": ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0", "1 to"),
    "odd heads": ({"head_dim": 7}, "head_dim is 7", "even"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'", "silu"),
    "too few kinds of layer": (DENSE | {"layer_types": ["full_attention"]}, "layer_types", "4 layers"),
    "an unknown kind of layer": (DENSE | {"layer_types": ["linear_attention"] * 4}, "layer_types", "full_attention"),
    "kinds of layer as a word": (DENSE | {"layer_types": "full"}, "layer_types is 'full'"),
    "a number as the kinds of layer": (DENSE | {"layer_types": 4}, "layer_types is 4"),
    "a window of no token": ({"use_sliding_window": True, "sliding_window": 0}, "sliding_window is 0", "at least 1"),
    "a window as text": ({"use_sliding_window": True, "sliding_window": "8"}, "sliding_window is '8'"),
    "a window that is true": ({"use_sliding_window": True, "sliding_window": True}, "sliding_window is True"),
    "dense layers as a number": ({"mlp_only_layers": 1}, "mlp_only_layers is 1"),
    "dense layers as words": ({"mlp_only_layers": ["1"]}, "mlp_only_layers"),
    "an end that is a word": ({"eos_token_id": "<|im_end|>"}, "eos_token_id is '<|im_end|>'"),
    "an end that is half a number": ({"eos_token_id": 1.5}, "eos_token_id is 1.5"),
    "ends that are words": ({"eos_token_id": ["<|im_end|>"]}, "eos_token_id"),
    "a beginning that is a list": ({"bos_token_id": [1]}, "bos_token_id is [1]"),
    "a negative spread": ({"initializer_range": -0.1}, "initializer_range is -0.1"),
    "an infinite epsilon": ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
    "another model": ({"model_type": "llama"}, "model_type is 'llama'", "qwen3_moe"),
    "no model": ({"model_type": None}, "model_type is None"),
    "a list of models": ({"model_type": ["qwen3_moe"]}, "model_type is ['qwen3_moe']"),
    "an unknown rope": ({"rope_scaling": {"rope_type": "mrope"}}, "rope_type is 'mrope'", "yarn"),
    "a rope that is a word": ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
    "a rope that is false": ({"rope_scaling": False}, "rope_scaling is False"),
    "a rope without a factor": ({"rope_scaling": {"rope_type": "linear"}}, "factor of rope type linear is None"),
    "a factor as text": ({"rope_scaling": YARN | {"factor": "4"}}, "factor of rope type yarn is '4'"),
    "a factor that is true": ({"rope_scaling": YARN | {"factor": True}}, "factor of rope type yarn is True"),
    "no length before": ({"rope_scaling": YARN | {"original_max_position_embeddings": 0}}, "original_max_position"),
    "a length in words": ({"rope_scaling": YARN | {"original_max_position_embeddings": "2"}}, "original_max_position"),
    "a ramp as text": ({"rope_scaling": YARN | {"beta_fast": "32"}}, "beta_fast"),
    "theta as text": ({"rope_theta": "1e6"}, "rope_theta", "'1e6'"),
    "theta zero": ({"rope_theta": 0}, "rope_theta", "is 0"),
    "theta false": ({"rope_theta": False}, "rope_theta", "is False"),
    "part of a head, inside": ({"rope_scaling": LINEAR | {"partial_rotary_factor": 0.5}}, "of rope type linear is 0.5"),
    "part of a head, beside": ({"rope_scaling": LINEAR, "partial_rotary_factor": 0.5}, "is 0.5", "turns whole heads"),
    "more than a head": ({"rope_scaling": {"rope_type": "proportional", "partial_rotary_factor": 1.5}}, "is 1.5"),
    "a ramp that runs backwards": (
        {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor of rope type llama3 is 4.0", "below"),
    "no ramp": ({"rope_scaling": LLAMA3 | {"high_freq_factor": None}}, "high_freq_factor of rope type llama3 is None"),
    "a list that is too short": (
        {"rope_scaling": LONGROPE | {"long_factor": [1.0]}}, "long_factor of rope type longrope is (1.0,)", "of 4"),
    "a list of words": ({"rope_scaling": LONGROPE | {"short_factor": ["1"] * 4}}, "short_factor of rope type longrope"),
    "no list": ({"rope_scaling": LONGROPE | {"short_factor": 1.0}}, "short_factor of rope type longrope is 1.0"),
    "trained for one token": (
        {"rope_scaling": LONGROPE | {"original_max_position_embeddings": 1}}, "is 1, expected more than 1"),
    "a rope for each kind of layer": (
        {"rope_parameters": {kind: {"rope_type": "default"} for kind in ("full_attention", "sliding_attention")}},
        "rope_parameters",
        "full_attention",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "parts"), [(c, p) for c, *p in RELATIONS.values()], ids=RELATIONS)
def test_a_bad_value_is_refused_by_name(tmp_path, changes, parts):
    with pytest.raises(Error):
        read(tmp_path, TINY | changes)
    refused(tmp_path, *parts)


REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "moe_intermediate_size")
SIZES = (*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings", "decoder_sparse_step")
NO_SIZE = (0, -1, True, False, 1.5, "8", [8], {})
WRONG = {
    **{name: (*NO_SIZE, None) if name in REQUIRED else NO_SIZE for name in SIZES},
    "intermediate_size": (True, 1.5, "8", None),
    "num_experts": (-1, True, "4", 1.5),
    "num_experts_per_tok": (-1, True, "2", 1.5),
    "max_window_layers": (True, "2", 1.5),
    "rms_norm_eps": (0, -1e-6, True, "1e-6", float("nan")),
    "initializer_range": (True, "0.02", float("nan")),
    "router_aux_loss_coef": (False, "0.001", [0.001]),
    **{name: (0, 1, "true", "", [], {}) for name in ("norm_topk_prob", "tie_word_embeddings", "attention_bias",
                                                     "use_sliding_window")},
    "hidden_act": (True, 1, ["silu"]),
    "torch_dtype": (True, 16, ["bfloat16"]),
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_field_of_the_wrong_kind_is_refused_by_name(tmp_path, field):
    for value in WRONG[field]:
        with pytest.raises(Error):
            read(tmp_path, TINY | {field: value})
        refused(tmp_path, f"{field.removeprefix('torch_')} is {value!r}")


FILES = {
    "nothing": b"",
    "garbage": b"\x00\x01\x02",
    "no UTF-8": b'{"model_type": "qwen3\xff"}',
    "half a file": b'{"model_type": "qwen3_moe", "vocab_si',
    "a page of a server": b"<!DOCTYPE html>\n<html>Not Found</html>",
    "a list": b'[{"model_type": "qwen3_moe"}]',
    "a word": b'"qwen3_moe"',
    "null": b"null",
    "too deep": b"[" * 100_000,
    "a number of 5,000 digits": b'{"model_type": "qwen3_moe", "vocab_size": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_holds_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, "JSON")


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "nowhere", "no such file", "check the path")
