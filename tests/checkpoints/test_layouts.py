"""Whatever transformers loads, loads: the same logits from every way in which files may hold one model."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from safetensors.torch import load_file, save_file
from tiers import examples, in_proof
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3_scratch import (
    Checkpoint,
    Config,
    Error,
    forward,
    load_checkpoint,
    load_weights,
    read_config,
    save_checkpoint,
)
from qwen3_scratch.checkpoints.saving import save_weights, write_json
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.config import LARGEST
from qwen3_scratch.model import rope_frequencies
from qwen3_scratch.trust.shards import INDEX, SINGLE

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
TIED = small_config(tie_word_embeddings=True, num_hidden_layers=2, num_experts=4)
pytestmark = pytest.mark.usefixtures("quiet_transformers")


def tensors_of(folder: Path, config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    save_weights(folder, random_weights(config, seed), config)
    found = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    return found


def write(folder: Path, tensors: dict[str, torch.Tensor], config: Config, shards: int = 1, **changes) -> Path:
    """A folder of these tensors; a change of the config that is ... leaves the field out."""
    folder.mkdir(exist_ok=True, parents=True)
    fields = config.to_dict() | changes
    write_json(folder / "config.json", {name: value for name, value in fields.items() if value is not ...})
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)] if shards > 1 else [SINGLE]
    parts = [dict(list(tensors.items())[n::shards]) for n in range(shards)]
    for name, part in zip(names, parts, strict=True):
        save_file({key: tensor.contiguous().clone() for key, tensor in part.items()}, folder / name, {"format": "pt"})
    if shards > 1:
        table = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        write_json(folder / INDEX, {"metadata": {}, "weight_map": table})
    return folder


def theirs(folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    """The logits of transformers, which must have found everything it needed."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    with torch.no_grad():
        return model.eval()(token_ids).logits


def ours(folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    found = load_checkpoint(folder)
    return forward(found.weights, token_ids, found.config)


def check_same(folder: Path, config: Config) -> Checkpoint:
    """As transformers computes it, here, and after it was saved and loaded again by either."""
    token_ids = random_tokens(config, 2, 9)
    expected, found = theirs(folder, token_ids), load_checkpoint(folder)
    tolerance = 1e-5 if found.dtype == torch.float32 else 0.0  # of half precision the same bits, in the same order
    assert found.dtype == expected.dtype
    assert_near(forward(found.weights, token_ids, found.config), expected, tolerance)
    save_checkpoint(found, folder / "again")
    assert_near(ours(folder / "again", token_ids), expected, tolerance)
    assert_near(theirs(folder / "again", token_ids), expected, tolerance)
    return found


# ---- every layout ---------------------------------------------------------------------------------

WRAPPED = ("_orig_mod.", "module.", "module._orig_mod.", "base_model.model.", "_fsdp_wrapped_module.")


def stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Experts as transformers 5 holds them: one tensor for all of a layer, gate above up."""
    found, layers = {}, {}
    for name, tensor in tensors.items():
        if ".experts." not in name:
            found[name] = tensor
            continue
        layer, _, rest = name.partition(".experts.")
        number, projection, _ = rest.split(".")
        layers.setdefault(layer, {}).setdefault(int(number), {})[projection] = tensor
    for layer, experts in layers.items():
        rows = [experts[number] for number in sorted(experts)]
        both = [torch.cat((each["gate_proj"], each["up_proj"])) for each in rows]
        found |= {f"{layer}.experts.gate_up_proj": torch.stack(both)}
        found |= {f"{layer}.experts.down_proj": torch.stack([each["down_proj"] for each in rows])}
    return found


@st.composite
def layouts(draw):
    """The sizes of a small model, and one way to write its files."""
    tied = draw(st.booleans())
    sizes = dict(num_hidden_layers=2, tie_word_embeddings=tied, attention_bias=draw(st.booleans()))
    if sparse := draw(st.booleans()):
        sizes |= dict(num_experts=draw(st.sampled_from([2, 5])), norm_topk_prob=draw(st.booleans()),
                      mlp_only_layers=draw(st.sampled_from([(), (1,)])))  # fmt: skip
    head = draw(st.sampled_from(["embedding", "head", "both", "own"])) if tied else "own"
    return dict(
        sizes=sizes, family=small_config if sparse else dense_config, head=head, fused=draw(st.booleans()),
        shards=draw(st.sampled_from([1, 3])),
        prefix=draw(st.sampled_from(["", "model.", "none"])), wrapped=draw(st.sampled_from(["", *WRAPPED])),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        said=draw(st.sampled_from([..., None, "float32", "bfloat16", "half"])), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


def laid_out(folder: Path, layout: dict, config: Config, wrapped: str) -> Path:
    tensors = tensors_of(folder, config, layout["seed"])
    tensors = {name: tensor.to(getattr(torch, layout["dtype"])) for name, tensor in tensors.items()}
    if layout["head"] in ("head", "both"):
        tensors[HEAD] = tensors[EMBED].clone()
    if layout["head"] == "head":
        del tensors[EMBED]
    if layout["head"] == "own":
        tensors[HEAD] = -tensors[EMBED].roll(1, 0)
    tensors = stacked(tensors) if layout["fused"] else tensors
    if layout["prefix"] == "none":
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    else:
        tensors = {layout["prefix"] + name: tensor for name, tensor in tensors.items()}
    tensors = {wrapped + name: tensor for name, tensor in tensors.items()}
    return write(folder, tensors, config, layout["shards"], torch_dtype=layout["said"])


@given(layout=layouts())
@examples(40)
def test_whatever_way_the_files_hold_it_the_logits_are_those_of_transformers(tmp_path_factory, layout):
    """A wrapper's words, which transformers does not know, are put on top of what it has read."""
    config = layout["family"](**layout["sizes"])
    found = check_same(laid_out(tmp_path_factory.mktemp("plain"), layout, config, ""), config)
    wrapped = load_checkpoint(laid_out(tmp_path_factory.mktemp("wrapped"), layout, config, layout["wrapped"]))
    assert wrapped.config == found.config
    assert all(map(torch.equal, tensor_tree(wrapped.weights), tensor_tree(found.weights)))


@pytest.mark.parametrize("backbone", [False, True], ids=["fused experts", "a backbone alone"])
def test_what_transformers_itself_writes_is_read(tmp_path, backbone):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED)
    if backbone:
        AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    else:
        AutoModelForCausalLM.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs", save_original_format=False)
    names = load_file(tmp_path / "theirs" / SINGLE).keys()
    assert ("layers.0.mlp.gate.weight" in names) == backbone
    assert ("model.layers.0.mlp.experts.gate_up_proj" in names) != backbone
    check_same(tmp_path / "theirs", TIED)


# ---- heads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: x + 1e-4 * x.flip(0)], ids=["negated", "hardly other"])
def test_a_head_of_its_own_in_a_tied_config_is_the_one_that_runs_and_is_saved(tmp_path, change):
    tensors = tensors_of(tmp_path, TIED)
    tensors[HEAD] = change(tensors[EMBED])
    found = check_same(write(tmp_path, tensors, TIED), TIED)
    assert torch.equal(found.weights.lm_head, tensors[HEAD]) and not found.config.tie_word_embeddings
    assert found.config.num_parameters() == sum(tensor.numel() for tensor in tensors.values())
    save_weights(tmp_path / "alone", found.weights, TIED)  # with the config as it stands in the file
    assert torch.equal(load_file(tmp_path / "alone" / SINGLE)[HEAD], tensors[HEAD])


def test_a_checkpoint_by_hand_is_saved_with_the_head_that_it_has(tmp_path):
    weights = random_weights(TIED)
    for own, config in ((weights.embed_tokens, TIED), (None, replace(TIED, tie_word_embeddings=False))):
        save_checkpoint(Checkpoint(config, weights._replace(lm_head=own)), tmp_path)
        token_ids = random_tokens(TIED, 1, 5)
        assert_near(ours(tmp_path, token_ids), forward(weights, token_ids, TIED))
        assert_near(theirs(tmp_path, token_ids), forward(weights, token_ids, TIED))


def test_a_value_head_beside_is_left_out_in_one_line(tmp_path, capfd):
    tensors = tensors_of(tmp_path, TIED) | {
        "v_head.summary.weight": torch.ones(1, 32),
        "score.weight": torch.ones(2, 32),
    }
    check_same(write(tmp_path, tensors, TIED), TIED)
    load_checkpoint(tmp_path)
    line = f"{tmp_path}: tensor score.weight and 1 more is of another head than the language model's: left out\n"
    assert capfd.readouterr().err.endswith(line)


def test_a_tokenizer_in_an_older_form_is_named_in_one_line(tmp_path, capfd):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED)
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    assert load_checkpoint(tmp_path).tokenizer is None
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"{tmp_path}: has vocab.json and no tokenizer.json, which alone is read")


def test_layers_behind_the_last_are_left_out_in_one_line(tmp_path, capfd):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, num_hidden_layers=1)
    check_same(tmp_path, TIED)
    assert f"{tmp_path}: has 2 layers, config.json 1: those after them are left out\n" in capfd.readouterr().err


def test_wrappers_are_told_of_in_one_line_and_models_without_them_in_none(tmp_path, capfd):
    tensors = tensors_of(tmp_path, TIED)
    load_checkpoint(write(tmp_path, tensors, TIED))
    load_checkpoint(write(tmp_path, {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, TIED))
    assert capfd.readouterr().err == ""
    deep = {
        f"module.{name.replace('.mlp.', '._checkpoint_wrapped_module.mlp.')}": tensor
        for name, tensor in tensors.items()
    }
    load_checkpoint(write(tmp_path, deep, TIED))
    told = "`module.`, `_checkpoint_wrapped_module.` in them, as wrappers put there: read without\n"
    assert capfd.readouterr().err == f"{tmp_path}: the tensors' names have {told}"
    for prefix in ("model.language_model.", "language_model.model."):
        named = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
        load_checkpoint(write(tmp_path, named, TIED))
        assert "`language_model.`" in capfd.readouterr().err


# ---- types of numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [..., None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_files_keep_their_type_where_the_config_names_none(tmp_path, said, dtype):
    """As in the reference the first tensor decides, whatever the type of the others."""
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(tmp_path, TIED).items()}
    tensors |= {
        name: tensor.float() for name, tensor in tensors.items() if "norm" in name or name.endswith("gate.weight")
    }
    folder = write(tmp_path, tensors, TIED, shards=2, torch_dtype=said)
    assert check_same(folder, TIED).dtype == dtype
    assert (
        read_config(folder).dtype == "auto"
        and json.loads((folder / "again" / "config.json").read_text())["torch_dtype"]
    )


def test_a_type_can_be_given_by_any_name_that_torch_has_for_it(tmp_path):
    write(
        tmp_path,
        {name: tensor.bfloat16() for name, tensor in tensors_of(tmp_path, TIED).items()},
        TIED,
        torch_dtype=None,
    )
    names = {"float32": ("float32", "float", "torch.float32", torch.float32),
             "bfloat16": ("bfloat16", "torch.bfloat16", torch.bfloat16, "auto", None),
             "float16": ("float16", "half", torch.float16, torch.half)}  # fmt: skip
    for expected, given_as in names.items():
        for dtype in given_as:
            found = load_checkpoint(tmp_path, dtype=dtype)
            assert {tensor.dtype for tensor in tensor_tree(found.weights)} == {getattr(torch, expected)}


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.float8_e4m3fn, torch.float64, "int8", "fp8", "", torch.bool], ids=str
)
def test_a_type_that_is_not_computed_in_is_refused(tmp_path, dtype):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED)
    for act in (lambda: load_checkpoint(tmp_path, dtype=dtype), lambda: load_weights(tmp_path, TIED, dtype=dtype)):
        with pytest.raises(
            Error, match=r"^dtype is .*, expected one of float32, bfloat16, float16, .*: mend the argument$"
        ):
            act()


def test_numbers_of_64_bits_become_32(tmp_path):
    tensors = {name: tensor.double() for name, tensor in tensors_of(tmp_path, TIED).items()}
    assert load_checkpoint(write(tmp_path, tensors, TIED, torch_dtype=None)).dtype == torch.float32


# ---- rotary settings ----------------------------------------------------------------------------------

LONG, SHORT = [2.0, 3.0, 4.0, 5.5, 6.0, 7.0, 8.0, 9.0], [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0]
ROPES = {
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
    "llama3, a narrow ramp": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1.5, "high_freq_factor": 2},
    "longrope": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT,
                 "original_max_position_embeddings": 8},
    "longrope, a factor": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "factor": 6.0,
                           "original_max_position_embeddings": 20},
    "longrope, a scale": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "attention_factor": 1.3},
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.4},
    "proportional, a factor": {"rope_type": "proportional", "partial_rotary_factor": 0.75, "factor": 3.0},
    "part of a head, which default does not look at": {"rope_type": "default", "partial_rotary_factor": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("place", ["rope_scaling", in_proof("rope_parameters")])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_every_kind_of_rope_turns_as_in_transformers(tmp_path, rope, place):
    """Frequencies to 1e-6 of each, where two fp32 roundings may lie; logits of short texts and of longer ones."""
    spelt = {place: rope | ({"rope_theta": 1000.0} if place == "rope_parameters" else {}), "rope_theta": 1000.0}
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, **{"rope_scaling": ...} | spelt)
    config = read_config(tmp_path)
    for length in (5, 40):
        token_ids = random_tokens(config, 1, length, seed=length)
        assert_near(ours(tmp_path, token_ids), theirs(tmp_path, token_ids))
        if rope["rope_type"] != "default":
            expected = ROPE_INIT_FUNCTIONS[rope["rope_type"]](AutoConfig.from_pretrained(tmp_path), seq_len=length)
            frequencies, scale = rope_frequencies(config, torch.tensor(length))
            torch.testing.assert_close(frequencies, expected[0], rtol=1e-6, atol=0)
            assert scale == pytest.approx(expected[1], rel=1e-12)
    save_checkpoint(load_checkpoint(tmp_path), tmp_path / "again")
    assert read_config(tmp_path / "again") == replace(config, dtype="float32")
    assert_near(theirs(tmp_path / "again", token_ids), theirs(tmp_path, token_ids))


def test_a_trained_length_beside_the_rotary_settings_counts_for_more_than_one_in_them(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, rope_scaling=yarn, original_max_position_embeddings=8)
    token_ids = random_tokens(TIED, 1, 40)
    assert read_config(tmp_path).rope_parameters["original_max_position_embeddings"] == 8
    assert_near(ours(tmp_path, token_ids), theirs(tmp_path, token_ids))


def test_a_rope_that_stretches_lets_texts_be_as_long_as_it_reaches():
    def longest(**rope):
        return small_config(rope_parameters=rope).longest

    assert (longest(), longest(rope_type="linear", factor=4.0), longest(rope_type="dynamic", factor=2.0)) == (
        32,
        128,
        LARGEST,
    )
    assert longest(rope_type="yarn", factor=4.0) == 128
    assert longest(rope_type="yarn", factor=4.0, original_max_position_embeddings=16) == 64
    assert longest(rope_type="yarn", factor=1.5, original_max_position_embeddings=8) == 32
    assert longest(**ROPES["llama3"]) == 128 and longest(**ROPES["longrope"]) == 32
    assert longest(rope_type="linear", factor=1e15) == LARGEST


# ---- what is refused, and what to do then ----------------------------------------------------------------


def refused(act, *parts):
    with pytest.raises(Error) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 800
    for part in parts:
        assert part in message, message
    return message


SIGNS = {
    "GPTQ": ("mlp.experts.0.up_proj.qweight", "GPTQ"), "AWQ": ("self_attn.q_proj.qzeros", "AWQ"),
    "bitsandbytes, 4 bits": ("self_attn.q_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
    "bitsandbytes, 8 bits": ("self_attn.q_proj.SCB", "bitsandbytes"),
    "fp8": ("self_attn.q_proj.weight_scale_inv", "fp8"),
    "compressed-tensors": ("self_attn.q_proj.weight_packed", "compressed-tensors"),
    "MLX": ("self_attn.q_proj.scales", "MLX"),
}  # fmt: skip


@pytest.mark.parametrize(("sign", "by"), SIGNS.values(), ids=SIGNS)
def test_quantised_files_are_called_so_whatever_the_config_says(tmp_path, sign, by):
    tensors = tensors_of(tmp_path, TIED)
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    tensors[f"model.layers.0.{sign}"] = torch.ones(4, 4, dtype=torch.int32)
    write(tmp_path, tensors, TIED)
    wanted = ("is quantised", by, "fetch the unquantised ones from the original repository")
    refused(lambda: load_checkpoint(tmp_path), *wanted)
    write(tmp_path, tensors, TIED, quantization_config={"quant_method": "x-quant", "bits": 4})
    refused(lambda: load_checkpoint(tmp_path), "quant_method 'x-quant', bits 4", *wanted[2:])


LONE = {  # a tensor that a quantiser leaves beside weights which look plain -> who is named
    "self_attn.q_proj.weight_scale": "fp8", "self_attn.q_proj.weight_zero_point": "compressed-tensors",
    "self_attn.q_proj.weight_global_scale": "compressed-tensors", "self_attn.q_proj.weight_g_idx": "compressed-tensors",
    "self_attn.q_proj.weight_scale_2": "ModelOpt", "self_attn.k_proj.k_scale": "ModelOpt, of keys and values",
    "self_attn.q_proj.weight_quantizer._amax": "ModelOpt", "self_attn.q_proj.input_zero_point": "Quark",
    "self_attn.q_proj.activation_scale": "fp8", "self_attn.q_proj.input_scale_ub": "FBGEMM",
    "self_attn.q_proj.weight._scale": "quanto", "self_attn.q_proj.weight_scales": "EETQ",
    "mlp.experts.0.down_proj.codebooks": "AQLM", "self_attn.q_proj.weight_quantizer.scale": "a method of another name",
    "mlp.experts.gate_up_proj_scale": "a method of another name", "self_attn.q_proj.zeros": "a method of another name",
}  # fmt: skip


@pytest.mark.parametrize("wrapper", ["", in_proof("module.")])
@pytest.mark.parametrize("name", LONE)
def test_a_lone_tensor_of_a_quantiser_beside_plain_weights_is_called_so(tmp_path, name, wrapper):
    tensors = tensors_of(tmp_path, TIED) | {f"model.layers.0.{name}": torch.ones(1)}
    write(tmp_path, {wrapper + key: tensor for key, tensor in tensors.items()}, TIED)
    said = f"is quantised (by {LONE[name]}"
    told = refused(lambda: load_checkpoint(tmp_path), said.partition("(")[0], LONE[name], name, "fetch the unquantised")
    beside = f"model.layers.0.{name.rpartition('.')[0]}.weight" in tensors
    assert ("or, if they were made plain again, save them without it" in told) == beside


def test_the_advice_about_weights_made_plain_again_goes_by_their_own_numbers(tmp_path):
    tensors = tensors_of(tmp_path, TIED) | {f"{Q}.weight_scale_inv": torch.ones(1)}
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].to(torch.float8_e4m3fn)
    assert "plain again" not in refused(lambda: load_checkpoint(write(tmp_path, tensors, TIED)), "by fp8")


def test_what_another_head_calls_a_scale_is_left_out_with_it(tmp_path, capfd):
    tensors = tensors_of(tmp_path, TIED)
    refused(lambda: load_checkpoint(write(tmp_path, tensors | {"lm_head.scale": torch.ones(1)}, TIED)), "is quantised")
    load_checkpoint(write(tmp_path, tensors | {"v_head.summary.scale": torch.ones(1)}, TIED))
    assert "v_head.summary.scale is of another head than the language model's: left out" in capfd.readouterr().err


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32], ids=str)
def test_numbers_of_a_quantised_kind_are_called_so_without_any_other_sign(tmp_path, dtype):
    tensors = tensors_of(tmp_path, TIED)
    tensors[name] = tensors[name := "model.layers.0.self_attn.q_proj.weight"].to(dtype)
    refused(lambda: load_checkpoint(write(tmp_path, tensors, TIED)), name, "quantised", "original repository")


def test_a_setting_left_behind_by_a_merge_is_told_from_quantised_files(tmp_path):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, quantization_config={"load_in_4bit": True})
    refused(
        lambda: load_checkpoint(tmp_path), "the files beside it hold F32 and are not quantised", "delete quantization"
    )


def test_names_that_do_not_fit_are_shown(tmp_path):
    tensors = {name.replace("model.", "gpt.decoder."): tensor for name, tensor in tensors_of(tmp_path, TIED).items()}
    refused(
        lambda: load_checkpoint(write(tmp_path, tensors, TIED)), "missing", "there are gpt.decoder.embed_tokens.weight"
    )
    tensors = tensors_of(tmp_path, TIED)
    twice = tensors | {f"module.{NORM}": tensors[NORM]}
    refused(
        lambda: load_checkpoint(write(tmp_path, twice, TIED)), NORM, "twice", f"module.{NORM}", "without its wrappers"
    )
    tensors[f"{Q}.base_layer.weight"] = tensors.pop(f"{Q}.weight")
    tensors[f"{Q}.lora_A.default.weight"] = torch.ones(2, 32)
    refused(
        lambda: load_checkpoint(write(tmp_path, tensors, TIED)), f"{Q}.weight missing", "adapter", "unmerged", "lora_A"
    )


Q = "model.layers.0.self_attn.q_proj"


def test_a_backbone_without_the_head_that_its_config_asks_for_is_told(tmp_path):
    untied = replace(TIED, tie_word_embeddings=False)
    tensors = {name: tensor for name, tensor in tensors_of(tmp_path, untied).items() if name != HEAD}
    refused(lambda: load_checkpoint(write(tmp_path, tensors, untied)), HEAD, "backbone", "tie_word_embeddings is false")


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json", "generation_config.json", INDEX])
def test_a_pointer_of_git_lfs_in_the_place_of_a_file_is_told(tmp_path, name):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, shards=2 if name == INDEX else 1)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    said = refused(lambda: load_checkpoint(tmp_path), "`git lfs pull`")
    assert said.startswith(f"{tmp_path / name}: is a pointer of git-lfs")


def test_files_of_llama_cpp_are_named(tmp_path):
    write_json(tmp_path / "config.json", TIED.to_dict())
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    refused(lambda: load_checkpoint(tmp_path), "model-Q4_K_M.gguf", "llama.cpp", "expected model.safetensors")


# ---- overrides, and a checkpoint as an object --------------------------------------------------------------


def test_a_number_of_experts_that_has_no_effect_or_no_sense_is_refused(tmp_path):
    dense = dense_config()
    save_checkpoint(Checkpoint(dense, random_weights(dense)), tmp_path / "dense")
    save_checkpoint(Checkpoint(TIED, random_weights(TIED)), tmp_path / "sparse")
    refused(
        lambda: load_checkpoint(tmp_path / "dense", num_experts_per_tok=4), "has no experts", "leave the argument out"
    )
    for wrong in (0, 5, -1):
        refused(
            lambda top_k=wrong: load_checkpoint(tmp_path / "sparse", num_experts_per_tok=top_k), f"is {wrong}", "1 to 4"
        )


def test_a_number_of_experts_given_at_loading_stands_in_what_is_saved(tmp_path):
    save_checkpoint(Checkpoint(TIED, random_weights(TIED)), tmp_path)
    save_checkpoint(load_checkpoint(tmp_path, num_experts_per_tok=3), tmp_path / "again")
    assert load_checkpoint(tmp_path / "again").config.num_experts_per_tok == 3


def test_a_checkpoint_is_equal_to_itself_alone_and_a_key_of_dictionaries():
    one, other = (Checkpoint(TIED, random_weights(TIED)) for _ in range(2))
    assert one == one and one != other and {one: 1}[one] == 1
    assert hash(TIED) == hash(copy.deepcopy(TIED)) == hash(pickle.loads(pickle.dumps(TIED)))


def test_minus_one_is_read_for_no_id_as_in_transformers(tmp_path):
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, pad_token_id=-1, eos_token_id=-1, bos_token_id=-1)
    found = check_same(tmp_path, TIED).config
    assert (found.pad_token_id, found.bos_token_id, found.eos_token_ids) == (-1, -1, (-1,))
