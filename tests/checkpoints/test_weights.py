"""safetensors files to weights and back: what is accepted, what is refused, and that nothing is lost."""

from pathlib import Path

import pytest
import torch
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from transformers import AutoModelForCausalLM
from weight_files import CONFIG, Q_PROJ, SINGLE, same, write, write_shards

from qwen3_scratch import Error, forward, init_weights, load_weights
from qwen3_scratch.checkpoints import saving, weights
from qwen3_scratch.checkpoints.saving import save_weights, write_json
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.trust.shards import INDEX

VARIANTS = {
    "experts": CONFIG,
    "tied": small_config(tie_word_embeddings=True),
    "biases": small_config(attention_bias=True),
    "some layers dense": small_config(mlp_only_layers=(1,), intermediate_size=40),
    "dense": dense_config(tie_word_embeddings=True, intermediate_size=40),
}
every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


# ---- there and back -------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_saved_and_loaded_are_the_same_to_the_bit(tmp_path, config, dtype):
    saved = init_weights(config, seed=1, dtype=dtype)
    save_weights(tmp_path, saved, config)
    assert same(load_weights(tmp_path, config, dtype=dtype), saved)


def test_weights_are_loaded_in_inference_mode_too(tmp_path):
    saved = init_weights(CONFIG, seed=1)
    save_weights(tmp_path, saved, CONFIG)
    with torch.inference_mode():  # a mode of the thread, and several read
        loaded = load_weights(tmp_path, CONFIG)
    assert same(loaded, saved) and all(tensor.is_inference() for tensor in tensor_tree(loaded))


@every_variant
@pytest.mark.parametrize("workers", [1, 3, 7])
def test_weights_are_the_same_however_many_workers_share_a_tensor(tmp_path, monkeypatch, config, workers):
    """The rows of a tensor are no multiple of the workers, and some have fewer rows than there are workers."""
    monkeypatch.setattr(weights, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: workers)
    saved = init_weights(config, seed=1)
    save_weights(tmp_path, saved, config)
    assert same(load_weights(tmp_path, config), saved)


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
