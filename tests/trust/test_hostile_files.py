"""Indexes, safetensors files and links that mean harm; and what would take all memory or all time if it were let."""

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import hostile_memory
import pytest
import torch
from helpers import TINY, finished, never
from hostile import (
    CONFIG,
    INDEX,
    SINGLE,
    check_sentence,
    entry,
    honest,
    parts_of,
    refused,
    safetensors,
    terabyte,
    write_config,
)  # fmt: skip
from safetensors.torch import load_file, save, save_file

from qwen3_scratch import load_checkpoint, load_weights, read_config
from qwen3_scratch.checkpoints import weights
from qwen3_scratch.checkpoints.checkpoint import TEXT_FILES
from qwen3_scratch.checkpoints.weights import check_tensors, tensor_files
from qwen3_scratch.trust.memory import size_text

NORM = "model.norm.weight"


def write_index(folder, table):
    (folder / INDEX).write_text(json.dumps({"weight_map": table}), encoding="utf-8")


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint of several shards, and the table of its index."""
    folder = honest(tmp_path / "sharded", max_shard_size=80_000)
    return folder, json.loads((folder / INDEX).read_text())["weight_map"]


# ---- the index ------------------------------------------------------------------------------

NAMES = {
    "the folder above": "../x.safetensors",
    "the folder above, by a detour": "a/../../x.safetensors",
    "a path from the root": "/etc/x.safetensors",
    "a device": "/dev/zero",
    "a path as Windows has them": "..\\x.safetensors",
    "a drive": "C:\\x.safetensors",
    "a share": "\\\\server\\x.safetensors",
    "a zero byte": "x\0.safetensors",
    "two lines": "x\n.safetensors",
    "a colour of the terminal": "\x1b[31mx.safetensors",
    "half a character": "\ud800.safetensors",
    "10,000 letters": "x" * 10_000 + ".safetensors",
    "nothing": "",
    "this folder": ".",
    "a home": "~/x.safetensors/",
    "a pickle": "pytorch_model.bin",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_index_names_nothing_but_files_beside_it(sharded, name):
    folder, table = sharded
    write_index(folder, table | {NORM: name})
    refused(lambda: load_weights(folder, CONFIG), folder / INDEX, "plain *.safetensors name", "do not trust it")


def test_an_index_says_which_files_there_are_and_nothing_of_it_is_believed_about_tensors(sharded):
    folder, table = sharded
    expected = load_weights(folder, CONFIG)
    there, elsewhere = table[NORM], next(name for name in table.values() if name != table[NORM])
    for wrong in (
        table | {NORM: elsewhere},
        table | {"model.ghost\x1b.weight": there},
        dict(enumerate({*table.values()})),
    ):
        write_index(folder, wrong)
        assert torch.equal(load_weights(folder, CONFIG).norm, expected.norm)
    write_index(folder, {"model.norm.weight": elsewhere})
    refused(lambda: load_weights(folder, CONFIG), folder, "missing", "incomplete")


def test_a_tensor_that_stands_twice_in_the_index_is_refused(sharded):
    folder, table = sharded
    text = json.dumps({"weight_map": table})
    (folder / INDEX).write_text(text.replace(f'"{NORM}": ', f'"{NORM}": "{table[NORM]}", "{NORM}": '), encoding="utf-8")
    refused(lambda: load_weights(folder, CONFIG), folder / INDEX, f"'{NORM}' stands twice")


def test_a_shard_that_the_index_does_not_name_is_never_opened(sharded):
    folder, _ = sharded
    expected = load_weights(folder, CONFIG)
    os.mkfifo(folder / "model-00009-of-00009.safetensors")
    (folder / "evil.safetensors").write_bytes(b"\xff" * 100)
    assert torch.equal(load_weights(folder, CONFIG).norm, expected.norm)


def test_a_shard_of_another_checkpoint_is_refused_by_its_shapes(sharded):
    folder, table = sharded
    path = folder / table[NORM]
    tensors = load_file(path)
    save_file(tensors | {NORM: torch.ones(48)}, path)
    refused(lambda: load_weights(folder, CONFIG), path, NORM, "has shape [48], expected [128]")


# ---- safetensors ----------------------------------------------------------------------------

EIGHT = b"\0" * 8
TWICE = json.dumps({"a": entry()})[:-1].encode() + b", " + json.dumps({"a": entry()})[1:].encode()
CONTENTS = {
    "a header of 2^63 bytes": (safetensors({}, length=2**63), "9,223,372,036,854,775,808 bytes in a file of 10"),
    "a header of 2^64 - 1 bytes": (safetensors({}, length=2**64 - 1), "18,446,744,073,709,551,615 bytes"),
    "a header a byte longer than the file": (safetensors({}, length=3), "a header of 3 bytes in a file of 10"),
    "a header of no bytes": (safetensors(b""), "JSON"),
    "an empty file": (b"", "in a file of 0"),
    "half a length": (b"\x02\0\0\0", "in a file of 4"),
    "a header cut in the middle": (safetensors(json.dumps({"a": entry()}).encode()[:20]), "JSON"),
    "a header that is no JSON": (safetensors(b"<html>!!"), "JSON"),
    "a header that is a list": (safetensors(b"[]"), "list, expected an object"),
    "a header 100,000 deep": (safetensors(b'{"a":' + b"[" * 100_000), "JSON", "recursion"),
    "a header with a number of 10,000 digits": (safetensors(b'{"a":' + b"9" * 10_000 + b"}"), "JSON", "digits"),
    "a header that is no UTF-8": (safetensors(b'{"\xff": 1}'), "utf-8"),
    "a tensor twice in the header": (safetensors(TWICE, EIGHT), "'a' stands twice"),
}

TABLE, FIRST = "model.rotary_emb.inv_freq", entry()  # a tensor that is ignored, in the first eight bytes
BROKEN = {
    "overlapping tensors": ({TABLE: FIRST, NORM: entry(start=4, end=12)}, 12, "invalid offset"),
    "two tensors in one place": ({TABLE: FIRST, NORM: FIRST}, 8, "invalid offset"),
    "a hole between tensors": ({TABLE: FIRST, NORM: entry(start=16, end=24)}, 24, "invalid offset"),
    "a tensor beyond the end of the file": ({TABLE: FIRST, NORM: entry(start=8, end=16)}, 8, "not fully covered"),
    "a tensor that begins below 0": ({NORM: entry(start=-(10**9), end=0)}, 0, "integer `-999"),
    "a tensor that ends before it begins": ({TABLE: FIRST, NORM: entry(start=16, end=8)}, 16, "invalid offset"),
    "F32 of the bytes of BF16": ({NORM: entry("F32", (4,))}, 8, "shape, data type, or offset"),
    "BF16 of the bytes of F32": ({NORM: entry("BF16", (2,))}, 8, "shape, data type, or offset"),
    "a shape whose product passes 2^64": ({NORM: entry("F32", (2**33, 2**33))}, 8, "overflow"),
    "a shape of 1 TB in a file of some kB": ({NORM: entry("F32", (2**38,), 0, 2**40)}, 8, "not fully covered"),
    "a shape below 0": ({NORM: entry("F32", (-2,))}, 8, "-2"),
    "a shape of fractions": ({NORM: entry("F32", (0.5,))}, 8, "0.5"),
    "a kind of number that nobody knows": ({NORM: entry("F33")}, 8, "F33"),
    "a kind of number that breaks the line": ({NORM: entry("F\n33")}, 8, "JSON"),
    "an entry that is no object": ({NORM: 1}, 8, "integer"),
    "metadata that is no text": ({NORM: FIRST, "__metadata__": {"format": 1}}, 8, "integer"),
    "bytes behind the last tensor": ({NORM: FIRST}, 9, "not fully covered"),
}


@pytest.mark.parametrize(("content", "parts"), [(c, p) for c, *p in CONTENTS.values()], ids=CONTENTS)
def test_a_file_whose_header_cannot_be_believed_is_refused(tmp_path, content, parts):
    (tmp_path / SINGLE).write_bytes(content)
    refused(lambda: load_weights(tmp_path, CONFIG), tmp_path / SINGLE, "cut off or damaged", "fetch it again", *parts)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return load_file(honest(tmp_path_factory.mktemp("honest")) / SINGLE)


@pytest.mark.parametrize(("lies", "count", "parts"), [(c, n, p) for c, n, *p in BROKEN.values()], ids=BROKEN)
def test_a_file_whose_tensors_do_not_lie_as_it_says_is_refused(tmp_path, tensors, lies, count, parts):
    """All tensors but one as they should be; the last, and one that nobody needs, are told of in lies behind them."""
    header, numbers = parts_of(save({name: tensor for name, tensor in tensors.items() if name != NORM}))
    for name, lie in lies.items():
        lie = dict(lie) if isinstance(lie, dict) else lie
        if name != "__metadata__" and isinstance(lie, dict):
            lie["data_offsets"] = [place + len(numbers) for place in lie["data_offsets"]]
        header[name] = lie
    (tmp_path / SINGLE).write_bytes(safetensors(header, numbers + b"\0" * count))
    refused(lambda: load_weights(tmp_path, CONFIG), tmp_path / SINGLE, "cut off or damaged", *parts)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e5m2], ids=str)
def test_numbers_of_a_kind_that_no_weight_has_are_refused(tmp_path, tensors, dtype):
    save_file(tensors | {NORM: torch.ones(128).to(dtype)}, tmp_path / SINGLE)
    refused(lambda: load_weights(tmp_path, CONFIG), tmp_path / SINGLE, NORM, "is stored as", "expected one of F64, F32")


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "float64", "torch.bfloat16", "", "x" * 10**6])
def test_a_dtype_that_is_not_computed_in_is_refused_unless_another_is_passed(tmp_path, name):
    honest(tmp_path)
    write_config(tmp_path, torch_dtype=name)
    refused(lambda: load_checkpoint(tmp_path), tmp_path, f"dtype is '{name[:40]}", "bfloat16", "pass dtype yourself")
    assert load_checkpoint(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_a_tensor_whose_name_would_command_the_terminal_is_named_without_doing_so(tmp_path, tensors, capfd):
    name = "\x1b[31m\n" + "x" * 10**5
    save_file(tensors | {f"model.{name}": torch.ones(1)}, tmp_path / SINGLE)
    refused(lambda: load_weights(tmp_path, CONFIG), tmp_path, "tensor model.\ufffd[31m\ufffdxxx", "surplus")
    save_file(tensors | {name: torch.ones(1)}, tmp_path / SINGLE)
    load_weights(tmp_path, CONFIG)
    said = capfd.readouterr().err.removesuffix("\n")
    assert said.isprintable() and len(said) < 800 and said.startswith(f"{tmp_path}: tensor \ufffd[31m\ufffdxxx"), said


# ---- links and what is no file --------------------------------------------------------------

FILES = ("config.json", "generation_config.json", SINGLE, *(name.replace("*", "tool_use") for name in TEXT_FILES))


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused_and_names_its_target(tmp_path, name):
    folder, elsewhere = honest(tmp_path / "folder"), tmp_path / "elsewhere"
    shutil.copytree(TINY, elsewhere)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(os.path.relpath(elsewhere / name, (folder / name).parent))
    target = elsewhere.resolve() / name
    refused(lambda: load_checkpoint(folder), folder / name, f"is a link to {target}", "copy the file here")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, name, kind):
    folder = honest(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (os.mkfifo if kind == "a pipe" else os.mkdir)(folder / name)
    refused(lambda: load_checkpoint(folder), folder / name, f"is {kind}, expected a file")


def test_a_shard_that_is_a_pipe_or_a_link_to_a_device_is_refused(sharded):
    folder, table = sharded
    (path := folder / table[NORM]).unlink()
    os.mkfifo(path)
    refused(lambda: load_weights(folder, CONFIG), path, "is a pipe")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(lambda: load_weights(folder, CONFIG), path, "is a link to /dev/zero")


def test_links_that_lead_nowhere_or_in_a_circle_are_refused(tmp_path):
    folder = honest(tmp_path)
    (folder / SINGLE).rename(folder / "kept")
    (folder / SINGLE).symlink_to("gone")
    refused(lambda: load_weights(folder, CONFIG), folder / SINGLE, "is a link to", "gone, which does not exist")
    (folder / SINGLE).unlink()
    (folder / SINGLE).symlink_to(SINGLE)
    refused(lambda: load_weights(folder, CONFIG), folder / SINGLE, "Too many levels of symbolic links")


def test_a_link_within_the_folder_and_a_folder_that_is_a_link_are_honest(tmp_path):
    folder = honest(tmp_path / "folder")
    (folder / "files").mkdir()
    for name in ("config.json", SINGLE):
        (folder / name).rename(folder / "files" / name)
        (folder / name).symlink_to(Path("files") / name)
    (tmp_path / "link").symlink_to(folder)
    assert load_checkpoint(tmp_path / "link").config == CONFIG


@pytest.mark.parametrize("shared", [False, True], ids=["of the repository", "of the whole cache"])
def test_the_links_of_a_hub_cache_to_its_blobs_are_honest_and_others_of_it_are_not(tmp_path, shared):
    folder = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    honest(folder)
    blobs, other = tmp_path / "models--owner--name" / "blobs", tmp_path / "models--owner--other" / "blobs"
    store = tmp_path / "blobs" / "01" if shared else blobs
    for place in (store, other, blobs):
        place.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("config.json", SINGLE)):
        (folder / name).rename(store / f"{number}")
        if shared:  # a link of the repository to the store of all, and the snapshot's to it
            (blobs / f"{number}").symlink_to(f"../../blobs/01/{number}")
        (folder / name).symlink_to(f"../../blobs/{number}")
    assert load_checkpoint(folder).config == CONFIG
    (folder / SINGLE).unlink()
    (store / "1").rename(other / "1")
    (folder / SINGLE).symlink_to(other / "1")
    refused(lambda: load_checkpoint(folder), folder / SINGLE, f"is a link to {other.resolve() / '1'}")


# ---- a file that does not rest --------------------------------------------------------------


@pytest.mark.parametrize("change", ["cut", "longer", "another", "gone", "touched"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    path, done = honest(tmp_path) / SINGLE, []

    def and_then(target, slot, *rest):
        fill(target, slot, *rest)
        if slot.name.endswith("q_proj.weight") and not done:
            done.append(slot)
            if change == "cut":
                os.truncate(path, 100)
            elif change == "longer":
                os.truncate(path, path.stat().st_size + 8)
            elif change == "another":
                shutil.copy(path, path.with_name("other"))
                path.with_name("other").replace(path)
            elif change == "gone":
                path.unlink()
            else:
                os.utime(path, (0, 0))

    fill = weights.fill
    monkeypatch.setattr(weights, "fill", and_then)
    refused(lambda: load_weights(tmp_path, CONFIG), path, "while it was read")
    assert done


# ---- what would fill the memory -------------------------------------------------------------


def test_weights_that_the_machine_has_no_room_for_are_refused_before_any_is_taken(tmp_path, monkeypatch):
    folder = terabyte(tmp_path / "huge")
    config = read_config(folder)
    check_tensors(tensor_files(folder), config)  # its header is without fault
    monkeypatch.setattr(weights, "empty_fields", never)
    needed = config.num_parameters() * 4
    refused(lambda: load_weights(folder, config), folder, size_text(needed), "torch.float32, cpu has ", "expected room")
    refused(
        lambda: load_weights(folder, config, dtype=torch.bfloat16), folder, size_text(needed // 2), "torch.bfloat16"
    )


def test_a_config_of_a_trillion_tensors_is_held_against_the_files_first(tmp_path):
    folder = honest(tmp_path)
    write_config(folder, num_hidden_layers=1000, num_experts=10**9)
    refused(lambda: load_checkpoint(folder), folder, "tensors, expected more than 1,0", "another config.json")
    write_config(folder, num_hidden_layers=1000, num_experts=0)
    refused(lambda: load_checkpoint(folder), folder, "tensors, expected more than 1,0", "incomplete")


LIMITED = hostile_memory.CASES


@pytest.fixture(scope="module")
def answers():
    """What each case ends in, in one process that may take a gigabyte more than it has once torch is imported."""
    with TemporaryDirectory() as folder:
        said = finished(hostile_memory.__file__, folder)
    assert said.code == 0, said.err
    return json.loads(said.out)


@pytest.mark.parametrize("name", LIMITED)
def test_neither_memory_nor_time_is_spent_on_what_is_refused(answers, name):
    kind, message, seconds = answers[name]
    assert kind == "Error", (kind, message)
    check_sentence(message, *LIMITED[name][1:])
    assert seconds < 120  # that it does not hang; a loaded machine takes a second or two for the largest
