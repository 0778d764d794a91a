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
from layout_files import EMBED, HEAD, TIED, check_same, ours, refused, tensors_of, theirs, write
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from safetensors.torch import load_file
from tiers import examples
from transformers import AutoModel, AutoModelForCausalLM

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
from qwen3_scratch.checkpoints.saving import save_weights
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.trust.shards import SINGLE

pytestmark = pytest.mark.usefixtures("quiet_transformers")

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
