"""Adapters merged while they are loaded: the logits of peft, from a folder with the base and from the adapter alone."""

import json
import shutil
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import assert_near, dense_config, distance, random_tokens, random_weights, small_config
from safetensors.torch import load_file, save_file
from tiers import in_proof
from transformers import AutoModelForCausalLM

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
from qwen3_scratch.checkpoints.adapters import SETTINGS, TENSORS
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.devices.slices import Place, own_slot, shard_weights

REASON = "peft, with which adapters are compared, is not installed"  # imported only where it is used: seconds
MODELS = {
    "tied": small_config(num_hidden_layers=2, num_experts=4, tie_word_embeddings=True),
    "untied, with biases": small_config(num_hidden_layers=2, num_experts=4, attention_bias=True, mlp_only_layers=(1,)),
    "dense": dense_config(num_hidden_layers=2, tie_word_embeddings=True),
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = dict(target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
ADAPTERS = {
    "attention": ("tied", dict(target_modules=ATTENTION)),
    "attention and biases": ("untied, with biases", dict(target_modules=["q_proj"], bias="all")),
    "rsLoRA, ranks and alphas of their own": ("tied", dict(
        target_modules=["q_proj", "v_proj"], use_rslora=True, rank_pattern={"layers.0.self_attn.q_proj": 3},
        alpha_pattern={"v_proj": 5, r"^model\.layers\.1\.self_attn\.(q|o)_proj": 3})),
    "DoRA": ("tied", dict(target_modules=ATTENTION, use_dora=True)),
    "the router": ("tied", dict(target_modules=["gate"], alpha_pattern={"gate": 3, "gate.weight": 4})),
    "experts": ("tied", dict(**EXPERTS)),
    "experts, each with its alpha": ("tied", dict(**EXPERTS, rank_pattern={"experts.down_proj": 3},
                                                  alpha_pattern={"experts.down_proj": 7})),
    "experts by their older names": ("untied, with biases", dict(target_modules=["gate_proj", "up_proj", "down_proj"])),
    "all linear": ("tied", dict(target_modules="all-linear")),
    "dense, all linear": ("dense", dict(target_modules="all-linear", use_dora=True)),
    "the embedding": ("tied", dict(target_modules=["embed_tokens"])),
    "the embedding, and the head beside it": ("untied, with biases", dict(target_modules=["embed_tokens", "lm_head"])),
    "the head": ("tied", dict(target_modules=["lm_head"])),
    "whole modules": ("tied", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])),
    "the embedding whole": ("tied", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "norms whole": ("dense", dict(target_modules=["q_proj"], modules_to_save=["norm", "input_layernorm"])),
    "a feed-forward whole": ("tied", dict(target_modules=["q_proj"], modules_to_save=["mlp"])),
}  # fmt: skip
KEPT = ("rsLoRA, ranks and alphas of their own", "DoRA", "all linear", "the embedding", "the head", "whole modules")


@pytest.fixture(autouse=True)
def quiet(quiet_transformers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base(folder: Path, config: Config) -> Path:
    save_checkpoint(Checkpoint(config, random_weights(config)), folder)
    return folder


def adapter(folder: Path, model: Path, **settings) -> Path:
    """An adapter of random numbers, as peft saves it."""
    settings = {"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    peft = pytest.importorskip("peft", reason=REASON)
    made = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    made.save_pretrained(folder)
    return folder


def by_peft(folder: Path, model: Path, token_ids: torch.Tensor, **options) -> torch.Tensor:
    peft = pytest.importorskip("peft", reason=REASON)
    found = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, **options), folder).eval()
    with torch.no_grad():
        return found(token_ids).logits


def logits(found: Checkpoint, token_ids: torch.Tensor) -> torch.Tensor:
    return forward(found.weights, token_ids, found.config)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [values if name in KEPT else in_proof(*values) for name, values in ADAPTERS.items()],
    ids=ADAPTERS,
)
def test_an_adapter_is_merged_as_peft_computes_it_and_saved_as_an_ordinary_model(tmp_path, kind, settings):
    config = MODELS[kind]
    model, alone = base(tmp_path / "base", config), adapter(tmp_path / "adapter", tmp_path / "base", **settings)
    token_ids = random_tokens(config, 2, 9)
    expected = by_peft(alone, model, token_ids)
    assert distance(logits(load_checkpoint(model), token_ids), expected) > 0.01, "it changes something"
    assert_near(logits(load_checkpoint(alone), token_ids), expected)
    for name in (SETTINGS, TENSORS):
        shutil.copy(alone / name, model / name)
    found = load_checkpoint(model)
    assert_near(logits(found, token_ids), expected)
    assert_near(forward(load_weights(model, read_config(model)), token_ids, found.config), expected)
    save_checkpoint(found, tmp_path / "merged")
    with torch.no_grad():
        assert_near(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(token_ids).logits, expected)
    save_checkpoint(found, model)  # over itself: the adapter is in the weights now, and must not be added again
    assert not (model / SETTINGS).exists() and not (model / TENSORS).exists()
    assert_near(logits(load_checkpoint(model), token_ids), expected)


@pytest.mark.parametrize("fused", [False, True], ids=["experts one by one", "fused experts"])
def test_a_rank_reads_its_slices_of_what_is_merged(tmp_path, fused):
    """Slices of heads and of intermediate numbers, and whole experts, each cut after the merging."""
    config = MODELS["tied"]
    model = base(tmp_path / "base", config)
    if fused:
        AutoModelForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "fused", save_original_format=False)
        model = tmp_path / "fused"
    adapter(model, model, target_modules=[*ATTENTION, "gate_proj", "up_proj", "down_proj", "gate"])
    whole = load_weights(model, config)
    for place in (Place(1, 0, 2, 1), Place(0, 1, 1, 2), Place(1, 1, 2, 2)):
        found = load_weights(model, config, own=partial(own_slot, config, place))
        expected = tensor_tree(shard_weights(whole, config, place))
        for one, other in zip(tensor_tree(found), expected, strict=True):
            assert torch.equal(one, other)


def test_a_model_in_half_precision_is_merged_in_fp32_and_rounded_once(tmp_path):
    config = MODELS["tied"]
    model = base(tmp_path / "base", config)
    alone = adapter(tmp_path / "adapter", model, target_modules=ATTENTION)
    found, exact = load_checkpoint(alone, dtype="bfloat16"), load_checkpoint(alone)
    for half, whole in zip(tensor_tree(found.weights), tensor_tree(exact.weights), strict=True):
        assert torch.equal(half, whole.bfloat16())


def test_an_adapter_alone_has_its_own_tokenizer_or_the_bases_and_names_a_base_at_hand(tmp_path, monkeypatch):
    model = base(tmp_path / "base", MODELS["tied"])
    alone = adapter(tmp_path / "adapter", model, target_modules=["q_proj"])
    assert read_config(alone) == read_config(model)
    found = load_checkpoint(alone)
    assert found.path == model
    named = json.loads((alone / SETTINGS).read_text())
    monkeypatch.chdir(tmp_path)
    for name, parts in {
        "base": (), "nowhere": ("'nowhere'", "no folder here", "put its files beside"), None: ("None",),
        "owner/name": ("owner/name", "not in the hub's cache", "qwen3-scratch download owner/name"),
        "../adapter": ("has an adapter", "merge"), 3: ("is 3",),
    }.items():  # fmt: skip
        (alone / SETTINGS).write_text(json.dumps(named | {"base_model_name_or_path": name}))
        if not parts:
            assert torch.equal(load_checkpoint(alone).weights.norm, found.weights.norm)
            continue
        if name == "../adapter":
            (alone / SETTINGS).write_text(json.dumps(named | {"base_model_name_or_path": "base"}))
            shutil.copytree(alone, tmp_path / "second")
            (alone / SETTINGS).write_text(json.dumps(named | {"base_model_name_or_path": "second"}))
        with pytest.raises(Error) as caught:
            load_checkpoint(alone)
        assert all(part in str(caught.value) for part in (SETTINGS, *parts)), caught.value


SETTING_FAULTS = {
    "another kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'", "merge_and_unload"),
    "no kind": ({"peft_type": None}, "peft_type is None"),
    "biases of its own": ({"lora_bias": True}, "lora_bias is True", "merge_and_unload"),
    "tokens of its own": ({"trainable_token_indices": [1]}, "trainable_token_indices is [1]"),
    "layers twice": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "a base that was changed": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "an alpha in words": ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    "an alpha that is no number": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "a list of alphas": ({"alpha_pattern": [1]}, "alpha_pattern [1]"),
    "an alpha for ever": ({"alpha_pattern": {"(a+)+": 1}}, "alpha_pattern has '(a+)+'"),
    "no pattern": ({"alpha_pattern": {"(": 1}}, "alpha_pattern has '('"),
}  # fmt: skip
TENSOR_FAULTS = {
    "half of a pair": ({"model.layers.0.self_attn.q_proj.lora_B.weight": None}, "q_proj has down [2, 32]", "[64, 32]"),
    "of another model": ({"model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)}, "layers.7", "a part of"),
    "of other sizes": ({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 31)}, "down [2, 31]"),
    "of no rank": ({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(0, 32)}, "down [0, 32]"),
    "a part that nobody knows": ({"model.layers.0.self_attn.q_proj.lora_C.weight": torch.ones(1)}, "lora_C"),
    "a larger embedding": ({"model.embed_tokens.weight": torch.ones(64, 32)}, "instead [64, 32]", "[61, 32]"),
    "numbers of 8 bits": ({"model.norm.weight": torch.ones(32).to(torch.int8)}, "stored as I8"),
    "not a number": (
        {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.full((2, 32), torch.nan)}, "adapter holds NaN"),
    "experts of another number": ({"model.layers.0.mlp.experts.lora_A.weight": torch.ones(6, 24),
                                   "model.layers.0.mlp.experts.lora_B.weight": torch.ones(32, 6)}, "mlp.experts has"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = base(tmp_path_factory.mktemp("base"), MODELS["tied"])
    return adapter(folder, folder, target_modules=["q_proj"])


@pytest.mark.parametrize(("changes", "parts"), [(c, p) for c, *p in SETTING_FAULTS.values()], ids=SETTING_FAULTS)
def test_settings_of_an_adapter_that_are_not_understood_are_refused(tmp_path, made, changes, parts):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps(settings | changes))
    with pytest.raises(Error) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / SETTINGS}: "), caught.value
    assert all(part in str(caught.value) for part in parts) and str(caught.value).isprintable(), caught.value


@pytest.mark.parametrize(("changes", "parts"), [(c, p) for c, *p in TENSOR_FAULTS.values()], ids=TENSOR_FAULTS)
def test_tensors_of_an_adapter_that_fit_nothing_are_refused(tmp_path, made, changes, parts):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / TENSORS)
    for name, tensor in changes.items():
        tensors.pop(full := f"base_model.model.{name}", None)
        tensors |= {} if tensor is None else {full: tensor}
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(Error) as caught:
        load_checkpoint(tmp_path)
    assert all(part in str(caught.value) for part in parts) and str(caught.value).isprintable(), caught.value


def test_an_adapter_without_its_weights_is_refused_and_a_pickle_is_never_opened(tmp_path, made):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(Error, match=f"{TENSORS}: is not there, expected the adapter's weights in safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Error, match=r"adapter_model\.bin is a pickle and never opened"):
        load_checkpoint(tmp_path)
