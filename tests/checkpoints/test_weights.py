"""safetensors files to weights and back: what is accepted, what is refused, and that nothing is lost."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_flatten
from transformers import AutoModelForCausalLM

from qwen3_scratch import Error, forward, init_weights, load_weights
from qwen3_scratch.checkpoints import saving
from qwen3_scratch.checkpoints.saving import save_weights, write_json
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.trust import shards
from qwen3_scratch.trust.shards import INDEX

SINGLE = "model.safetensors"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
CONFIG = small_config()
VARIANTS = {
    "experts": CONFIG,
    "tied": small_config(tie_word_embeddings=True),
    "biases": small_config(attention_bias=True),
    "some layers dense": small_config(mlp_only_layers=(1,), intermediate_size=40),
    "dense": dense_config(tie_word_embeddings=True, intermediate_size=40),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def write(folder, tensors, name=SINGLE):
    """A file beside the others; a tensor that is None is left out."""
    present = {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}
    save_file(present, folder / name, metadata={"format": "pt"})
    return folder


def write_index(folder, **files):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")


def write_shards(folder, *shards):
    """Files and the index that names them."""
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, tensors in zip(names, shards, strict=True):
        write(folder, tensors, name)
    write_index(folder, **{key: name for name, tensors in zip(names, shards, strict=True) for key in tensors})
    return names


def bits(weights):
    """All that weights are: the tree, the types, the bits; None where a tensor is not."""
    leaves, shape = tree_flatten(weights)
    return shape, [
        None if leaf is None else (leaf.dtype, leaf.shape, leaf.view(torch.uint8).numpy().tobytes()) for leaf in leaves
    ]


def same(left, right):
    return bits(left) == bits(right)


def refused(folder, *parts, config=CONFIG, dtype=None):
    """Loading fails in one line that starts in the folder, holds every part, and says what to do."""
    with pytest.raises(Error) as caught:
        load_weights(folder, config, dtype=dtype)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message and ("expected" in message or "fetch" in message)
    for part in parts:
        assert part in message


@pytest.fixture(scope="module")
def known():
    return random_weights(CONFIG)


@pytest.fixture(scope="module")
def tensors(known, tmp_path_factory):
    """The tensors of a checkpoint under the hub's names, as a file holds them."""
    folder = tmp_path_factory.mktemp("known")
    save_weights(folder, known, CONFIG)
    return load_file(folder / SINGLE)


# ---- there and back -------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_saved_and_loaded_are_the_same_to_the_bit(tmp_path, config, dtype):
    saved = init_weights(config, seed=1, dtype=dtype)
    save_weights(tmp_path, saved, config)
    assert same(load_weights(tmp_path, config, dtype=dtype), saved)


@every_variant
@pytest.mark.parametrize("size", [10**9, 20_000], ids=["one file", "shards"])
def test_transformers_loads_what_we_save_whole_and_computes_the_same(tmp_path, config, size):
    saved, token_ids = random_weights(config), random_tokens(config, 2, 9)
    save_weights(tmp_path, saved, config, max_shard_size=size)
    write_json(tmp_path / "config.json", config.to_dict())
    assert (tmp_path / INDEX).exists() == (size == 20_000)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        assert_near(forward(saved, token_ids, config), theirs(token_ids).logits)
    assert same(load_weights(tmp_path, config), saved)


@every_variant
@pytest.mark.parametrize("shard", ["1GB", "20KB"], ids=["one file", "shards"])
def test_what_transformers_saves_is_loaded_to_the_bit(tmp_path, config, shard):
    saved, theirs = random_weights(config), tmp_path / "theirs"
    save_weights(tmp_path, saved, config)
    write_json(tmp_path / "config.json", config.to_dict())
    AutoModelForCausalLM.from_pretrained(tmp_path).save_pretrained(theirs, max_shard_size=shard)
    assert (theirs / INDEX).exists() == (shard == "20KB")
    assert same(load_weights(theirs, config), saved)


def test_shards_give_the_same_weights_as_one_file(tmp_path, tensors, known):
    names = list(tensors)
    write_shards(tmp_path, *({name: tensors[name] for name in names[start::3]} for start in range(3)))
    assert same(load_weights(tmp_path, CONFIG), known)


def test_one_file_is_read_rather_than_shards_beside_it(tmp_path, tensors, known):
    write_shards(write(tmp_path, tensors), {"stray": torch.ones(1)})
    assert same(load_weights(tmp_path, CONFIG), known)


def test_experts_are_stacked_with_the_gate_above_the_up_projection(tensors, known):
    size = CONFIG.moe_intermediate_size
    for expert in range(CONFIG.num_experts):
        name, layer = f"model.layers.2.mlp.experts.{expert}", known.layers[2]
        assert torch.equal(layer.gate_up_proj[expert, :size], tensors[f"{name}.gate_proj.weight"])
        assert torch.equal(layer.gate_up_proj[expert, size:], tensors[f"{name}.up_proj.weight"])
        assert torch.equal(layer.down_proj[expert], tensors[f"{name}.down_proj.weight"])


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_are_converted_to_the_dtype_asked_for_or_the_configs(tmp_path, tensors, stored, dtype):
    write(tmp_path, {name: tensor.to(stored) for name, tensor in tensors.items()})
    found = load_weights(tmp_path, CONFIG, dtype=dtype)
    assert {tensor.dtype for tensor in tensor_tree(found)} == {dtype or torch.float32}
    assert torch.equal(found.layers[1].q_proj, tensors[Q_PROJ].to(stored).to(dtype or torch.float32))


def test_a_head_in_the_file_of_a_tied_model_that_is_the_embedding_again_is_the_same_one(tmp_path, tensors):
    tied = small_config(tie_word_embeddings=True)
    found = load_weights(
        write(tmp_path, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}), tied
    )
    assert found.lm_head is None
    assert same(found, load_weights(write(tmp_path, tensors | {"lm_head.weight": None}), tied))


def test_stored_rotary_tables_are_ignored(tmp_path, tensors, known):
    tables = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(3)}
    tables["model.rotary_emb.inv_freq"] = torch.full((8,), float("nan"))
    assert same(load_weights(write(tmp_path, tensors | tables), CONFIG), known)


# ---- what is refused ------------------------------------------------------------------------

DAMAGED = {
    "missing": ({Q_PROJ: None}, Q_PROJ, "missing"),
    "several missing": (dict.fromkeys((Q_PROJ, "model.norm.weight", "lm_head.weight")), "and 2 more missing"),
    "an expert missing": ({"model.layers.0.mlp.experts.7.up_proj.weight": None}, "experts.7.up_proj", "missing"),
    "surplus": (
        {"model.layers.2.mlp.shared_expert.weight": torch.ones(32)},
        "model.layers.2.mlp.shared_exp",
        "surplus",
    ),
    "the layers themselves": ({"model.layers": torch.ones(2)}, "model.layers", "surplus"),
    "a layer of a number without end": ({f"model.layers.{'9' * 5000}.x": torch.ones(2)}, "model.layers.99", "surplus"),
    "a bias of the head": ({"lm_head.bias": torch.ones(61)}, "lm_head.bias", "surplus"),
    "a bias too many": ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "q_proj.bias", "surplus"),
    "transposed": ({Q_PROJ: torch.ones(32, 64)}, SINGLE, Q_PROJ, "[32, 64]", "[64, 32]"),
    "flat": ({"model.norm.weight": torch.ones(32, 1)}, "model.norm.weight", "[32, 1]", "[32]"),
    "not a number": ({Q_PROJ: torch.full((64, 32), float("nan"))}, SINGLE, Q_PROJ, "NaN or infinity"),
    "infinite": ({"model.norm.weight": torch.full((32,), float("-inf"))}, SINGLE, "model.norm.weight", "infinity"),
    "whole numbers": ({Q_PROJ: torch.ones(64, 32, dtype=torch.int8)}, SINGLE, Q_PROJ, "I8", "BF16"),
    "eight bits": ({Q_PROJ: torch.ones(64, 32).to(torch.float8_e4m3fn)}, SINGLE, Q_PROJ, "F8_E4M3", "BF16"),
}


@pytest.mark.parametrize(("changes", "parts"), [(c, p) for c, *p in DAMAGED.values()], ids=DAMAGED)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, tensors, changes, parts):
    refused(write(tmp_path, tensors | changes), *parts)


def test_a_single_nan_in_one_expert_is_found(tmp_path, tensors):
    damaged = tensors[name := "model.layers.2.mlp.experts.5.down_proj.weight"].clone()
    damaged[3, 4] = float("nan")
    refused(write(tmp_path, tensors | {name: damaged}), SINGLE, name, "NaN")


def test_a_number_too_large_for_the_dtype_asked_for_is_no_fault_of_the_file(tmp_path, tensors):
    write(tmp_path, tensors | {Q_PROJ: tensors[Q_PROJ] * 1e6})
    load_weights(tmp_path, CONFIG, dtype=torch.bfloat16)
    refused(tmp_path, SINGLE, Q_PROJ, "too large for torch.float16", "another dtype", dtype=torch.float16)


def test_a_config_of_an_unknown_dtype_needs_one_to_be_passed(tmp_path, tensors, known):
    unknown = small_config(dtype="int4")
    refused(write(tmp_path, tensors), "dtype is 'int4'", "bfloat16", "pass dtype", config=unknown)
    assert same(load_weights(tmp_path, unknown, dtype=torch.float32), known)
    with pytest.raises(Error, match=r"^config: dtype is 'int4', expected one of .*: pass dtype"):
        init_weights(unknown)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, tensors, share):
    whole = (write(tmp_path, tensors) / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path, SINGLE, "cut off or damaged", "fetch it again")


@pytest.mark.parametrize("content", [b"\x00" * 64, b"<!DOCTYPE html>\n<html>\n</html>", pickle.dumps([1, 2])])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / SINGLE).write_bytes(content)
    refused(tmp_path, SINGLE, "no readable safetensors file")


def test_a_folder_without_weights_is_refused(tmp_path):
    refused(tmp_path, "no weights", SINGLE, INDEX)
    refused(tmp_path / "nowhere", "no weights")


OPENED: list[str] = []  # every file that Python opened and every name that a pickle asked for ...
WATCHING: list[bool] = []  # ... while this was not empty: an audit hook can be added, but never removed


def watch(event, arguments):
    if WATCHING and event in ("open", "pickle.find_class"):
        OPENED.append(str(arguments[0]))


class Trap:
    """A pickle of it, when loaded, leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pt"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    sys.addaudithook(watch)
    OPENED.clear()
    WATCHING.append(True)
    try:
        refused(tmp_path, name, "pickle", "never opened", SINGLE)
    finally:
        WATCHING.clear()
    assert not [path for path in OPENED if name in path or "pickle" in path]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("other", [-1, "shape", "dtype", "last"])
def test_a_tensor_in_two_shards_that_differ_is_refused(tmp_path, tensors, other):
    again = tensors[Q_PROJ].clone()
    again[-1, -1] += other == "last"
    again = {-1: -again, "shape": again.T, "dtype": again.int(), "last": again}[other]
    write_shards(tmp_path, tensors, {Q_PROJ: again})
    refused(tmp_path, Q_PROJ, "00001-of-00002", "00002-of-00002", "other numbers", "expected once")


def test_each_header_is_read_once_however_many_tensors_two_shards_share(tmp_path, tensors, monkeypatch):
    write_shards(tmp_path, tensors, tensors)
    read = []
    monkeypatch.setattr(shards, "header_of", lambda path, of=shards.header_of: read.append(path) or of(path))
    assert set(shards.tensor_files(tmp_path)) == set(tensors)
    assert len(read) == len(set(read)) == 2


def test_the_same_tensor_in_two_shards_is_read_once(tmp_path, tensors, known):
    write_shards(tmp_path, tensors, {Q_PROJ: tensors[Q_PROJ], "model.norm.weight": tensors["model.norm.weight"]})
    assert same(load_weights(tmp_path, CONFIG), known)


def test_a_shard_that_is_absent_is_named(tmp_path, tensors):
    names = write_shards(tmp_path, {Q_PROJ: tensors[Q_PROJ]}, tensors | {Q_PROJ: None})
    (tmp_path / names[1]).unlink()
    refused(tmp_path, names[1], "no such file, though the index names it", "fetch")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", "{outside}", "a/evil.safetensors", "..",
                                  "./evil.safetensors", "", "evil.bin", "evil.safetensors/"])  # fmt: skip
def test_an_index_that_names_anything_but_a_file_beside_it_is_refused(tmp_path, tensors, name):
    (folder := tmp_path / "folder").mkdir()
    write(tmp_path, tensors, "evil.safetensors")
    name = name.format(outside=tmp_path / "evil.safetensors")
    write_index(folder, **dict.fromkeys(tensors, name))
    refused(folder, INDEX, repr(name), "plain *.safetensors name")


@pytest.mark.parametrize("found", [None, [], {}, {"a": 1}, {"a": None}, "a", 3])
def test_an_index_without_a_table_of_files_is_refused(tmp_path, found):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": found}), encoding="utf-8")
    refused(tmp_path, INDEX, "weight_map")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_an_index_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / INDEX).write_bytes(content)
    refused(tmp_path, INDEX, "JSON")


# ---- saving and starting --------------------------------------------------------------------


@pytest.mark.parametrize("size", [10**9, 20_000], ids=["one file", "shards"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_is_interrupted_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch, known, failure, size):
    save_weights(tmp_path, known, CONFIG)
    before = (tmp_path / SINGLE).read_bytes()

    def half(_tensors, path, **_options):
        Path(path).write_bytes(before[: len(before) // 2])
        raise failure

    monkeypatch.setattr(saving, "save_file", half)
    with pytest.raises(Error if isinstance(failure, OSError) else KeyboardInterrupt):
        save_weights(tmp_path, init_weights(CONFIG, seed=2), CONFIG, max_shard_size=size)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert (tmp_path / SINGLE).read_bytes() == before


@pytest.mark.parametrize("size", [10**9, 20_000], ids=["one file", "shards"])
def test_a_save_takes_the_place_of_the_old_file(tmp_path, known, size):
    save_weights(tmp_path, known, CONFIG)
    save_weights(tmp_path, init_weights(CONFIG, seed=2), CONFIG, max_shard_size=size)
    assert same(load_weights(tmp_path, CONFIG), init_weights(CONFIG, seed=2))
    assert (tmp_path / SINGLE).exists() == (size == 10**9)
    assert not list(tmp_path.glob("*.partial"))


def test_weights_that_are_being_trained_are_saved_without_their_gradients(tmp_path, known):
    training = known._replace(norm=known.norm.clone().requires_grad_())
    save_weights(tmp_path, training, CONFIG)
    found = load_weights(tmp_path, CONFIG)
    assert torch.equal(found.norm, known.norm)
    assert not found.norm.requires_grad


@every_variant
def test_random_weights_depend_on_the_seed_alone_and_are_as_many_as_the_config_counts(config):
    first = init_weights(config, seed=3)
    torch.rand(1)
    assert same(first, init_weights(config, seed=3))
    assert not same(first, init_weights(config, seed=4))
    assert sum(tensor.numel() for tensor in tensor_tree(first)) == config.num_parameters()
    halved = init_weights(config, seed=3, dtype=torch.bfloat16)
    assert torch.equal(first.embed_tokens.bfloat16(), halved.embed_tokens)


def test_random_weights_start_with_norms_of_one_and_biases_of_zero_and_the_spread_of_the_config():
    found = init_weights(small_config(attention_bias=True, initializer_range=0.05, hidden_size=128, vocab_size=512))
    layer = found.layers[0]
    for norm in (found.norm, layer.input_layernorm, layer.post_attention_layernorm, layer.q_norm, layer.k_norm):
        assert torch.equal(norm, torch.ones_like(norm))
    for bias in (layer.q_bias, layer.k_bias, layer.v_bias, layer.o_bias):
        assert torch.equal(bias, torch.zeros_like(bias))
    for matrix in (found.embed_tokens, found.lm_head, layer.q_proj, layer.gate_up_proj, layer.down_proj, layer.router):
        assert matrix.mean().abs() < 0.01
        assert 0.045 < matrix.std() < 0.055
