"""Quantised files, and names that do not fit, are refused by a sentence that says what they are."""

from dataclasses import replace

import pytest
import torch
from layout_files import HEAD, NORM, TIED, refused, tensors_of, write
from tiers import in_proof

from qwen3_scratch import load_checkpoint
from qwen3_scratch.checkpoints.saving import write_json
from qwen3_scratch.trust.shards import INDEX, SINGLE

pytestmark = pytest.mark.usefixtures("quiet_transformers")

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
