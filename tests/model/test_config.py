"""config.json to Config: both spellings, both families, the sizes that follow, and what is refused."""

import copy
import dataclasses
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from config_files import DENSE, TINY, read
from helpers import unchecked
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwen3_scratch import Config, Error, read_config

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
