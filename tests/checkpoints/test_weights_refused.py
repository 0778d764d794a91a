"""Files that do not hold the weights which config.json asks for are refused by name, and a pickle is never opened."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from reference import small_config
from weight_files import CONFIG, Q_PROJ, SINGLE, refused, same, write, write_index, write_shards

from qwen3_scratch import Error, init_weights, load_weights
from qwen3_scratch.checkpoints import weights
from qwen3_scratch.checkpoints.weights import all_finite, copy_and_check
from qwen3_scratch.trust import shards
from qwen3_scratch.trust.shards import INDEX

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


@pytest.mark.parametrize("place", [(0, 0), (2, 9_999), (4, 19_999)], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_a_single_infinity_is_found_in_whichever_piece_it_stands(place, kind):
    tensor, target = torch.randn(5, 20_000), torch.empty(5, 20_000, dtype=kind)  # more than one piece
    assert copy_and_check(target, tensor) and torch.equal(target, tensor.to(kind))
    tensor[place] = torch.inf
    assert not copy_and_check(target, tensor)


@pytest.mark.parametrize("row", [0, 20, 60])
def test_a_single_nan_is_found_in_whichever_workers_part_it_stands(tmp_path, monkeypatch, tensors, row):
    monkeypatch.setattr(weights, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    damaged = tensors[name := "model.embed_tokens.weight"].clone()
    damaged[row, 4] = float("nan")
    refused(write(tmp_path, tensors | {name: damaged}), SINGLE, name, "NaN")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_whose_sum_is_too_large_for_their_type_are_finite(kind):
    largest = torch.full((5, 40), torch.finfo(kind).max, dtype=kind)
    assert not largest.sum().isfinite() and all_finite(largest)
    assert not all_finite(torch.cat((largest, torch.full_like(largest, -torch.inf))))


def test_of_two_damaged_tensors_that_are_read_at_once_the_first_is_named(tmp_path, tensors):
    down = [f"model.layers.1.mlp.experts.{expert}.down_proj.weight" for expert in (1, 6)]
    nan = {name: torch.full_like(tensors[name], torch.nan) for name in down}
    for _ in range(5):
        refused(write(tmp_path, tensors | nan), down[0], "NaN")


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
    shared = {name: tensors[name] for name in list(tensors)[:9]}  # the index names both files
    write_shards(tmp_path, tensors, shared)
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
