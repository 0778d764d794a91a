"""config.json to Config: both spellings, both families, the sizes that follow, and what is refused."""

import copy
import dataclasses
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import unchecked
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwen3_scratch import Config, Error, read_config

TINY = {
    "model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "max_position_embeddings": 128, "rope_theta": 1000000.0, "rope_scaling": None, "rms_norm_eps": 1e-06,
    "hidden_act": "silu", "initializer_range": 0.03, "router_aux_loss_coef": 0.01, "tie_word_embeddings": True,
    "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2,
    "bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": None, "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERT_FIELDS = {
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "router_aux_loss_coef",
}  # fmt: skip
DENSE = {name: value for name, value in TINY.items() if name not in EXPERT_FIELDS} | {"model_type": "qwen3"}
HUIHUI = TINY | {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "num_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 3072, "max_position_embeddings": 40960,
}  # fmt: skip
QWEN3_30B_A3B = TINY | {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_06B = {name: HUIHUI[name] for name in DENSE} | {"model_type": "qwen3"}
VARIANTS = {
    "experts": TINY,
    "dense": DENSE,
    "untied, with biases": TINY | {"tie_word_embeddings": False, "attention_bias": True},
    "some layers dense": TINY | {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "raw router weights": TINY | {"norm_topk_prob": False, "num_experts_per_tok": 1},
    "sliding window": TINY | {"use_sliding_window": True, "sliding_window": 8},
    "dense, sliding from a layer on": DENSE | {"use_sliding_window": True, "sliding_window": 8},
    "dense, layer by layer": DENSE
    | {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "linear": TINY | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "dynamic": TINY | {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "yarn": TINY | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "yarn, all said": DENSE
    | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
                        "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}},
}  # fmt: skip
every_variant = pytest.mark.parametrize("raw", VARIANTS.values(), ids=VARIANTS)
THEIRS = {"qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def read(folder, raw):
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return read_config(folder)


def newer_spelling(raw):
    """The keys as transformers 5 writes them."""
    renamed = {"num_experts": "num_local_experts", "torch_dtype": "dtype"}
    found = {renamed.get(name, name): value for name, value in raw.items()}
    scaling = found.pop("rope_scaling") or {"rope_type": "default"}
    return found | {"rope_parameters": {**scaling, "rope_theta": found.pop("rope_theta")}}


# ---- reading and writing --------------------------------------------------------------------


@every_variant
def test_both_spellings_give_the_same_config(tmp_path, raw):
    assert read(tmp_path, raw) == read(tmp_path, newer_spelling(raw))


def test_the_older_spelling_of_a_rope_type_is_read(tmp_path):
    for scaling in ({"type": "linear", "factor": 2.0}, {"type": "linear", "rope_type": "linear", "factor": 2.0}):
        assert read(tmp_path, TINY | {"rope_scaling": scaling}) == read(tmp_path, VARIANTS["linear"])


def test_kinds_of_layer_are_a_matter_of_the_dense_family_alone(tmp_path):
    sliding = VARIANTS["sliding window"]
    assert read(tmp_path, sliding | {"layer_types": ["full_attention"] * 4}) == read(tmp_path, sliding)


@every_variant
def test_fields_bear_the_values_of_the_file(tmp_path, raw):
    config = read(tmp_path, raw)
    for name, value in raw.items():
        if name not in ("rope_scaling", "torch_dtype", "layer_types"):
            assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)
    assert (config.dtype, config.eos_token_ids) == ("bfloat16", (2, 1))
    assert config.rope_parameters == newer_spelling(raw)["rope_parameters"]


@every_variant
def test_a_config_written_and_read_again_is_equal(tmp_path, raw):
    config = read(tmp_path, raw)
    assert read(tmp_path, config.to_dict()) == config


@every_variant
def test_a_config_that_transformers_saved_is_read_as_the_file_it_came_from(tmp_path, raw):
    (tmp_path / "theirs").mkdir()
    THEIRS[raw["model_type"]][0](**raw).save_pretrained(tmp_path / "theirs")
    assert read_config(tmp_path / "theirs") == read(tmp_path, raw)


@every_variant
def test_transformers_reads_what_we_write(tmp_path, raw):
    (tmp_path / "config.json").write_text(json.dumps(read(tmp_path, raw).to_dict()), encoding="utf-8")
    theirs, expected = AutoConfig.from_pretrained(tmp_path), THEIRS[raw["model_type"]][0](**raw)
    assert type(theirs) is type(expected)
    for name in raw.keys() - {"torch_dtype", "rope_scaling", "rope_theta"} | {"rope_parameters", "dtype"}:
        assert getattr(theirs, name) == getattr(expected, name), name
    assert theirs.architectures == [THEIRS[raw["model_type"]][1].__name__]


@pytest.mark.parametrize("family", THEIRS)
def test_a_file_that_says_nothing_means_what_it_means_to_transformers(tmp_path, family):
    config, theirs = read(tmp_path, {"model_type": family}), THEIRS[family][0]()
    for field in dataclasses.fields(Config):
        if hasattr(theirs, field.name) and field.name != "dtype":
            expected = getattr(theirs, field.name)
            assert getattr(config, field.name) == (tuple(expected) if isinstance(expected, list) else expected)


def test_heads_without_a_size_of_their_own_share_the_hidden_size(tmp_path):
    raw = {name: value for name, value in TINY.items() if name != "head_dim"}
    assert read(tmp_path, raw).head_dim == 24 // 4
    assert read(tmp_path, DENSE | {"num_key_value_heads": None}).num_key_value_heads == 4


def test_whole_numbers_are_read_where_fractions_may_stand(tmp_path):
    found = read(tmp_path, TINY | {"router_aux_loss_coef": 0, "rope_theta": 1000000})
    assert (found.router_aux_loss_coef, found.rope_theta) == (0, 1e6)


def test_a_config_can_be_built_by_hand_and_never_changed():
    sizes = {name: TINY[name] for name in list(TINY)[:8]}
    config = Config(**sizes)
    assert config.layer_types == ("full_attention",) * 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 8
    with pytest.raises(Error, match=r"^config: num_attention_heads is 5, expected a multiple"):
        Config(**sizes | {"num_attention_heads": 5})


def test_a_window_that_is_switched_on_or_off_by_hand_is_there_or_not_as_after_saving_and_reading(tmp_path):
    for raw in (TINY, DENSE, VARIANTS["sliding window"], VARIANTS["dense, sliding from a layer on"],
                VARIANTS["dense, layer by layer"]):  # fmt: skip
        config = read(tmp_path, raw)
        for changes in (dict(use_sliding_window=True, sliding_window=4, max_window_layers=1), dict(sliding_window=4),
                        dict(use_sliding_window=False),
                        dict(use_sliding_window=True, sliding_window=None)):  # fmt: skip
            changed = replace(config, **changes)
            assert read(tmp_path, changed.to_dict()) == changed
            switched_on = changed.use_sliding_window and changed.sliding_window is not None
            assert switched_on == any(changed.window(layer) is not None for layer in range(4))
        assert len(replace(config, num_hidden_layers=2, layer_types=()).layer_types) == 2
    config = replace(read(tmp_path, TINY), use_sliding_window=True, sliding_window=4)
    assert [config.window(layer) for layer in range(4)] == [4] * 4
    assert (
        replace(replace(config, num_hidden_layers=2), use_sliding_window=False).layer_types == ("full_attention",) * 2
    )
    mixed = replace(config, layer_types=("full_attention", "sliding_attention") * 2)  # to look at, never to save
    assert mixed.window(0) is None and mixed.window(1) == 4 and replace(mixed, dtype="float16").layer_types[0][0] == "f"
    with pytest.raises(Error, match=r"^config: layer_types is .*, expected what the fields about windows imply"):
        mixed.to_dict()


def test_a_config_by_hand_holds_what_one_that_was_read_holds(tmp_path):
    """Lists, numbers of numpy and torch, rotary settings that leave out what has a default."""
    sizes = {name: value for name, value in TINY.items() if name not in ("rope_theta", "rope_scaling", "torch_dtype")}
    expected = replace(read(tmp_path, TINY | {"rope_theta": 10000.0}), dtype="float32")
    with unchecked():
        for rope in (
            {},
            None,
            {"rope_type": "default"},
            {"rope_theta": np.float32(1e4)},
            {"type": "default", "factor": None},
        ):
            assert Config(**sizes, rope_parameters=rope) == expected
        odd = dict(vocab_size=np.int64(64), hidden_size=torch.tensor(24), rms_norm_eps=np.float64(1e-6))
        assert Config(**sizes | odd) == expected and type(Config(**sizes | odd).vocab_size) is int
        yarn = Config(**sizes, rope_parameters={"rope_type": "yarn", "factor": torch.tensor(4.0)})
        assert yarn.rope_parameters["original_max_position_embeddings"] == 128
        hash(yarn), pickle.loads(pickle.dumps(yarn))
        for name, value in (("vocab_size", "64"), ("head_dim", None), ("rms_norm_eps", float("nan")),
                            ("bos_token_id", [1]), ("num_experts", True), ("model_type", "llama"),
                            ("rope_parameters", 3), ("dtype", 16)):  # fmt: skip
            with pytest.raises(Error, match=f"^config: {name} is .*, expected "):
                Config(**sizes | {name: value})
        with pytest.raises(Error, match=r"^config: num_experts is 4, expected 0 for model_type 'qwen3'"):
            Config(**sizes | {"model_type": "qwen3"})


def test_nothing_within_a_config_can_be_written(tmp_path):
    config = read(tmp_path, VARIANTS["yarn"])
    for write in ("config.rope_parameters['factor'] = 5", "config.rope_parameters.update(factor=5)",
                  "del config.rope_parameters['factor']", "config.rope_parameters.pop('factor')",
                  "config.rope_parameters.clear()", "config.rope_parameters.setdefault('x', 1)",
                  "config.rope_parameters.popitem()", "config.rope_parameters |= {'factor': 5}",
                  "config.layer_types[0] = 'x'", "config.mlp_only_layers.append(1)"):  # fmt: skip
        with pytest.raises((TypeError, AttributeError)):
            exec(write, {"config": config})
    for copied in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config)), replace(config)):
        assert copied == config == read(tmp_path, VARIANTS["yarn"]) and type(copied.layer_types) is type(
            config.layer_types
        )
        with pytest.raises(TypeError):
            copied.rope_parameters["factor"] = 5
    assert {**config.rope_parameters, "factor": 5}["factor"] == 5 and dataclasses.asdict(config)["hidden_size"] == 24


# ---- what follows from it -------------------------------------------------------------------


@every_variant
def test_layers_are_sparse_and_slide_as_in_transformers(tmp_path, raw):
    config = read(tmp_path, raw)
    with torch.device("meta"):
        model = THEIRS[raw["model_type"]][1](THEIRS[raw["model_type"]][0](**raw))
    for number, layer in enumerate(model.model.layers):
        assert config.is_sparse(number) == hasattr(layer.mlp, "experts")
        assert config.window(number) == layer.self_attn.sliding_window
    assert config.num_parameters() == model.num_parameters()


@pytest.mark.parametrize(
    ("raw", "total", "active"),
    [
        (HUIHUI, 860_348_416, 596_107_264),
        (QWEN3_06B, 596_049_920, 596_049_920),
        (QWEN3_30B_A3B, 30_532_122_624, 30_532_122_624 - 48 * (128 - 8) * 3 * 2048 * 768),
    ],
    ids=["Huihui-MoE-0.8B-2E", "Qwen3-0.6B", "Qwen3-30B-A3B"],
)
def test_parameters_are_counted_as_published_and_as_transformers_counts_them(tmp_path, raw, total, active):
    config = read(tmp_path, raw)
    assert config.num_parameters() == total
    assert config.num_parameters(active=True) == active
    with torch.device("meta"):
        model = THEIRS[raw["model_type"]][1](THEIRS[raw["model_type"]][0](**raw))
    assert model.num_parameters() == total


# ---- what is refused ------------------------------------------------------------------------


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
