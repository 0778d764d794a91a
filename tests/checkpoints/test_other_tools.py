"""Folders as other tools leave them, and names as people write them: one sentence that names what is there."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import TINY
from safetensors.torch import load_file, save_file
from tiers import in_proof
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwen3_scratch import Error, forward, load_checkpoint, read_tokenizer
from qwen3_scratch.checkpoints.checkpoint import read_generation_config
from qwen3_scratch.hub import find
from qwen3_scratch.hub.find import find_folder

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])

pytestmark = pytest.mark.usefixtures("quiet_transformers")


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(TINY, tmp_path / "folder", ignore=shutil.ignore_patterns("training*"))
    return tmp_path / "folder"


def change(folder: Path, name: str, **changes) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refused(act) -> str:
    with pytest.raises(Error) as raised:
        act()
    assert str(raised.value).isprintable()
    return str(raised.value)


# ---- no model.safetensors -----------------------------------------------------------------------

EXPECTED = "expected model.safetensors or model.safetensors.index.json"
FILES = {  # what lies there -> what is said
    "a download that was cut off": (["model.safetensors.part"],
        "only model.safetensors.part, the rest of a download that was cut off, EXPECTED: fetch the checkpoint again"),
    "a download of the hub's client that was cut off": ([".cache/huggingface/download/a=.0f.incomplete", "model.onnx"],
        "only .cache/huggingface/download/a=.0f.incomplete, the rest of a download"),
    "shards without their index": (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        "only model-00001-of-00002.safetensors and 1 more, of which the index is lacking, EXPECTED: fetch the index"),
    "another name": (["model.fp16.safetensors"],
        "only model.fp16.safetensors, which is no name that is looked for, EXPECTED: call it model.safetensors if it"),
    "a trainer's folder": (["checkpoint-5/model.safetensors", "checkpoint-5/config.json", "training_args.bin"],
        "only checkpoint-5/model.safetensors, in a folder within, EXPECTED: name that folder"),
    "a trainer's state alone": (["training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"],
        "no weights, EXPECTED: convert or fetch the checkpoint"),
    "a trainer's state beside a pickle": (["optimizer.pt", "pytorch_model.bin", "training_args.bin"],
        "only pytorch_model.bin, which is a pickle and is never opened, EXPECTED: convert or fetch the checkpoint"),
    "OpenVINO": (["openvino_model.bin", "openvino_model.xml"], "only openvino_model.xml, which is OpenVINO's format"),
    "ONNX": (["onnx/model.onnx"], "only onnx/model.onnx, which is ONNX's format, EXPECTED: convert or fetch"),
    "TensorFlow": (["tf_model.h5"], "only tf_model.h5, which is TensorFlow's format"),
    "Flax": (["flax_model.msgpack"], "only flax_model.msgpack, which is Flax's format"),
    "MLX": (["weights.npz"], "only weights.npz, which is numpy's format"),
    "torch.distributed": (["pytorch_model_fsdp_0/__0_0.distcp"],
        "only pytorch_model_fsdp_0/__0_0.distcp, which is torch.distributed's format, EXPECTED: merge it"),
    "DeepSpeed": (["global_step10/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest"],
        "only global_step10/mp_rank_00_model_states.pt, which is DeepSpeed's format, EXPECTED: merge it"),
    "TensorRT": (["rank0.engine"], "only rank0.engine, which is TensorRT's format"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_without_weights_what_lies_there_instead_is_named(folder, what):
    (folder / "model.safetensors").unlink()
    for name in FILES[what][0]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    said = refused(lambda: load_checkpoint(folder))
    assert said.startswith(f"{folder}: " + FILES[what][1].replace("EXPECTED", EXPECTED)), said


@pytest.mark.parametrize("inner", [["checkpoint-500"], ["checkpoint-500", "checkpoint-600"], ["snapshots/0f3a"]])
def test_a_folder_of_checkpoints_is_told_from_a_checkpoint(tmp_path, inner):
    for name in inner:
        shutil.copytree(TINY, tmp_path / name)
    more = " and 1 more" if len(inner) > 1 else ""
    said = refused(lambda: load_checkpoint(tmp_path))
    assert (
        said
        == f"{tmp_path}: has no config.json, but {inner[0]}{more} within it, expected a checkpoint: name that folder"
    )


# ---- config.json and generation_config.json --------------------------------------------------------


def test_a_model_that_reads_both_ways_in_transformers_is_refused(folder):
    right = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    change(folder, "config.json", is_causal=False)
    assert (AutoModelForCausalLM.from_pretrained(folder)(IDS).logits - right).abs().max() > 0.1
    said = "is_causal is False, by which each token sees those after it, expected true: no text is written so"
    assert refused(lambda: load_checkpoint(folder)) == f"{folder}/config.json: {said}; choose another checkpoint"
    change(folder, "config.json", is_causal=True)
    found = load_checkpoint(folder)
    torch.testing.assert_close(forward(found.weights, IDS, found.config), right.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", [False, in_proof(True)])
def test_rows_beyond_the_vocabulary_are_told_from_another_model(folder, head):
    tensors = load_file(folder / "model.safetensors")
    name = "lm_head.weight" if head else "model.embed_tokens.weight"
    table = tensors["model.embed_tokens.weight"]
    save_file(tensors | {name: torch.cat([table, table[:8]])}, folder / "model.safetensors")
    change(folder, "config.json", tie_word_embeddings=not head)
    rows, width = table.shape
    said = f"tensor {name} has shape [{rows + 8}, {width}], expected [{rows}, {width}] from config.json"
    advice = (
        f"where it was padded or resized, vocab_size in config.json is {rows + 8}, else they are of different models"
    )
    assert refused(lambda: load_checkpoint(folder)) == f"{folder}/model.safetensors: {said}: {advice}"


SETTINGS = {
    "exponential_decay_length_penalty": [5, 1.1], "watermarking_config": {"bias": 2.5}, "top_h": 0.4,
    "dola_layers": "high", "token_healing": True, "encoder_repetition_penalty": 1.5, "penalty_alpha": 0.6,
    "min_length": 10, "num_return_sequences": 3, "force_words_ids": [[1]],
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_by_which_transformers_answers_otherwise_is_named(folder, name, capfd):
    (folder / "generation_config.json").write_text(json.dumps({name: SETTINGS[name]}), encoding="utf-8")
    read_generation_config(folder)
    assert f"sets {name}, which is not read here: answers are without" in capfd.readouterr().err


# ---- names ----------------------------------------------------------------------------------------

HUB = "Qwen/Qwen3-0.6B"
ADDRESSES = {
    "https://huggingface.co/Qwen/Qwen3-0.6B": HUB, "http://hf.co/Qwen/Qwen3-0.6B/": HUB, "hf.co/Qwen/Qwen3-0.6B": HUB,
    "https://huggingface.co/Qwen/Qwen3-0.6B/tree/main": HUB, "hf://Qwen/Qwen3-0.6B": HUB, "Qwen/Qwen3-0.6B/": HUB,
    "https://hf-mirror.com/Qwen/Qwen3-0.6B": HUB, "hf://models/Qwen/Qwen3-0.6B": HUB,
    "https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json?x=1": HUB, " Qwen/Qwen3-0.6B\n": HUB,
    "models--Qwen--Qwen3-0.6B": HUB,
    "Qwen/Qwen3-0.6B@main": f"{HUB}, and revision 'main'", "Qwen/Qwen3-0.6B:v1": f"{HUB}, and revision 'v1'",
    "Tiny": "tiny", " tiny ": "tiny",
}  # fmt: skip


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_in_the_place_of_a_name_is_answered_by_the_name(name, monkeypatch):
    monkeypatch.setattr(find, "find_snapshot", lambda *_: pytest.fail("the hub was asked"))
    shown = name.replace("\n", "\N{REPLACEMENT CHARACTER}")
    said = f"{shown}: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': "
    assert refused(lambda: find_folder(name)) == f"{said}perhaps you mean {ADDRESSES[name]}"


def test_an_empty_name_is_no_name(monkeypatch):
    """As a variable of the shell that is not set leaves it; another model than the one that was meant would answer."""
    assert re.match("name_or_path is '', expected a name: ", refused(lambda: load_checkpoint("")))
    monkeypatch.setenv("QWEN3_SCRATCH_MODEL", "")
    assert find_folder(None) == TINY


# ---- templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", ["documents is defined", "documents is none", "tools is defined"])
def test_a_template_finds_defined_what_transformers_defines(folder, asks):
    source = f"{{% if {asks} %}}yes{{% endif %}}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    chat = [{"role": "user", "content": "Hi"}]
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=False)
    assert read_tokenizer(folder).render_chat(chat) == expected == "yesHi"
