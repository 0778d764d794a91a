"""A name becomes a folder: embedded, one's own, or downloaded once; whatever goes wrong is one sentence, soon."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers import TINY, checkpoint, finished
from hub_faults import closed_port, empty_cache, fetches, point_to
from stand_in_hub import SHA, StandInHub
from tokenizers import Tokenizer

from qwen3_scratch import Error, load_checkpoint, read_config, read_tokenizer, save_checkpoint
from qwen3_scratch.hub import embedded_folder, find, find_folder

OFFLINE = "hub id owner/name: not in the cache and the hub cannot be reached: connect, or name a local folder"

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# ---- what needs no network ----------------------------------------------------------------------


def test_tiny_is_the_embedded_checkpoint():
    assert find_folder("tiny") == TINY and (TINY / "config.json").exists()


def test_a_path_of_any_kind_is_a_folder_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for name in (tmp_path, str(tmp_path), f"{tmp_path}/", tmp_path / "owner/name"):
        assert find_folder(name) == Path(name)
    monkeypatch.chdir(tmp_path)
    assert find_folder("owner/name") == Path("owner/name"), "what is here comes before what is on the hub"
    assert find_folder("./owner") == Path("owner")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~/owner/name") == tmp_path / "owner" / "name"
    (tmp_path / "tiny").mkdir()
    assert find_folder("tiny") == TINY and find_folder("./tiny") == Path("tiny")


NAMES = [
    ("/no/such/folder", "/no/such/folder: no such folder, expected 'tiny', a folder, or a hub id 'owner/name'"),
    ("huge", "huge: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': check the name"),
    ("a/b/c", "a/b/c: no such folder, expected"),
    ("../nowhere", "../nowhere: no such folder, expected"),
    ("owner/", "owner/: no such folder, expected"),
    ("who has/the kite", "who has/the kite: no such folder, expected"),
    ("x" * 5000, f"{'x' * 5000}: cannot be looked up ([Errno 36] File name too long"),
    ("~no_such_person/x", "~no_such_person/x: cannot be looked up (Could not determine home directory"),
    ("a\0b", "a\N{REPLACEMENT CHARACTER}b: "),
    ("\n", "\N{REPLACEMENT CHARACTER}: no such folder, expected"),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=[name[:20] for name, _ in NAMES])
def test_what_is_neither_is_an_error_without_a_look_at_the_network(name, message, monkeypatch):
    monkeypatch.setattr(find, "find_snapshot", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(Error) as caught:
        find_folder(name)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    message = f"{tmp_path}/model.safetensors: is a file, expected a checkpoint's folder: name the folder that holds"
    with pytest.raises(Error, match=f"^{re.escape(message)} config\\.json$"):
        find_folder(tmp_path / "model.safetensors")


@pytest.mark.parametrize("place", ["data/tiny-moe", "qwen3_scratch/data/tiny-moe"])
def test_the_embedded_checkpoint_lies_beside_the_package_or_inside_it(place, tmp_path, monkeypatch):
    monkeypatch.setattr(find, "__file__", str(tmp_path / "qwen3_scratch" / "hub" / "find.py"))
    with pytest.raises(
        Error, match=r"^tiny: the embedded checkpoint is not installed, expected data/tiny-moe: install"
    ):
        embedded_folder("tiny")
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "config.json").touch()
    assert find_folder("tiny") == tmp_path / place


def test_nothing_is_printed_and_the_way_to_the_hub_not_loaded_before_a_hub_id_is_asked_for():
    modules = "sys, qwen3_scratch.terminal.commands, qwen3_scratch.hub.download"
    code = f"import {modules}; sys.exit('huggingface_hub' in sys.modules)"
    assert finished("-c", code) == (0, "", "")


# ---- a hub on this machine ----------------------------------------------------------------------

REFUSED = {"owner/gated": (401, "GatedRepo"), "owner/broken": (500, "")}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    save_checkpoint(checkpoint(seed=8), folder)
    for name in ("pytorch_model.bin", "modeling_evil.py", "README.md"):
        (folder / name).write_text("not wanted")
    with StandInHub({"owner/name": folder}, REFUSED) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    return empty_cache(tmp_path / "cache", monkeypatch)


def test_a_hub_id_is_downloaded_once_without_pickles_and_code(remote, cache, monkeypatch):
    point_to(remote.url, monkeypatch)
    folder = find_folder("owner/name")
    assert folder.is_relative_to(cache) and folder.name == SHA
    wanted = {name for name in remote.files("owner/name") if name.endswith((".json", ".safetensors"))}
    assert {path.name for path in folder.iterdir()} == wanted and "model.safetensors" in wanted
    assert remote.fetched() == wanted
    assert load_checkpoint("owner/name").config == read_config(folder) == checkpoint(seed=8).config
    before = fetches(remote)
    assert find_folder("owner/name") == folder
    assert fetches(remote) == before, "a second time no file is fetched"
    count = len(remote.asked)
    assert find_folder("owner/name", SHA) == folder and len(remote.asked) == count, "a known commit costs no request"
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    assert find_folder("owner/name") == folder, "what is in the cache needs no hub"


REFUSALS = [
    ("owner/gated", None, "hub id owner/gated: is gated, expected an account with access: accept its terms"),
    ("owner/missing", None, "hub id owner/missing: the hub knows no such repository, or it is private: check"),
    ("owner/name", "v9", "hub id owner/name at revision v9: the hub knows no such revision, expected a branch, tag or"),
    ("owner/broken", None, "hub id owner/broken: "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "revision", "message"), REFUSALS)
def test_what_the_hub_refuses_is_one_sentence_that_says_what_to_do(remote, cache, monkeypatch, name, revision, message):
    point_to(remote.url, monkeypatch)
    with pytest.raises(Error) as caught:
        find_folder(name, revision)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_sentence_within_seconds(cache, monkeypatch):
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    began = time.monotonic()
    with pytest.raises(Error) as caught:
        find_folder("owner/name")
    assert str(caught.value) == OFFLINE and time.monotonic() - began < 5


def test_the_terminal_says_so_in_one_line_when_it_is_told_to_stay_offline(tmp_path):
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = finished("-m", "qwen3_scratch", "generate", "Hi", "--model", "owner/name", env=env)
    sentence = OFFLINE.replace("reached: connect", "reached, since HF_HUB_OFFLINE forbids it: unset it")
    assert (found.code, found.out, found.err) == (1, "", f"error: {sentence}\n")


def test_further_chat_templates_come_along_and_no_other_folder(remote, cache, monkeypatch, tmp_path):
    folder = tmp_path / "named"
    shutil.copytree(TINY, folder)
    for name in (
        "additional_chat_templates/tool_use.jinja",
        "original/config.json",
        "additional_chat_templates/a/b.jinja",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{{ messages }}")
    with StandInHub({"owner/named": folder}) as hub:
        point_to(hub.url, monkeypatch)
        found = find_folder("owner/named")
    assert (found / "additional_chat_templates" / "tool_use.jinja").read_text() == "{{ messages }}"
    assert not (found / "original").exists() and not (found / "additional_chat_templates" / "a").exists()
    assert read_tokenizer(found).templates["tool_use"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("added", "remedy"), [(1, "was added without a row: resize the embedding"), (0, "use the files of")]
)
def test_a_tokenizer_with_more_tokens_than_rows_leads_right(tmp_path, added, remedy):
    shutil.copytree(TINY, tmp_path / "it")
    backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    config = json.loads((TINY / "config.json").read_text())
    if added:
        rows = config["vocab_size"] - backend.get_vocab_size()
        backend.add_tokens([f"<new {number}>" for number in range(rows + 1)])
        backend.save(str(tmp_path / "it" / "tokenizer.json"))
    else:
        (tmp_path / "it" / "config.json").write_text(json.dumps(config | dict.fromkeys(IDS) | {"vocab_size": 100}))
    with pytest.raises(Error, match=f"expected no more tokens than rows: .*{remedy}"):
        load_checkpoint(tmp_path / "it")
