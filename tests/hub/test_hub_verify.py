"""`verify` hashes anew, tells what it could not check, and finds what a load does not look for."""

import os
from pathlib import Path

import pytest
from helpers import checkpoint
from hub_faults import LARGE, WEIGHTS, at, body, contents, flipped, hub_with, stage
from huggingface_hub import snapshot_download
from stand_in_hub import SHA, well

from qwen3_scratch import Error, save_checkpoint
from qwen3_scratch.checkpoints import verifying
from qwen3_scratch.checkpoints.verifying import verify
from qwen3_scratch.hub import find_folder
from qwen3_scratch.hub.download import WANTED

NAME = "owner/name"


@pytest.fixture
def remote(tmp_path):
    with hub_with(NAME, tmp_path / "remote") as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, remote, monkeypatch) -> Path:
    return stage(remote, tmp_path / "cache", monkeypatch)


def files(remote) -> dict[str, bytes]:
    return contents(remote.repositories[NAME])


def verdicts(*args, **options) -> dict[str, tuple[bool | None, str]]:
    return {verdict.name: (verdict.right, verdict.found) for verdict in verify(*args, **options)[1]}


def test_verify_hashes_all_anew_without_the_hub_and_finds_what_happened_in_secret(remote, cache, monkeypatch):
    folder = find_folder(NAME)
    hashed, judge = [], verifying.judge
    monkeypatch.setattr(verifying, "judge", lambda path, file: hashed.append(path.name) or judge(path, file))
    remote.asked.clear()
    assert all(right for right, _ in verdicts(NAME).values()) and sorted(hashed) == sorted(files(remote))
    assert verdicts(NAME)[WEIGHTS] == (True, "sha256 ok") and verdicts(NAME)["config.json"] == (True, "git's sha1 ok")
    found, blob = (folder / WEIGHTS).stat(), (folder / WEIGHTS).resolve()
    blob.write_bytes(flipped(blob.read_bytes()))
    os.utime(blob, ns=(found.st_atime_ns, found.st_mtime_ns))  # nothing shows that it changed
    assert find_folder(NAME, SHA) == folder, "a load does not hash again, as its promise says"
    right, found = verdicts(NAME)[WEIGHTS]
    assert right is False and found.startswith("wrong: has sha256 ") and remote.asked == []
    assert contents(find_folder(NAME)) == files(remote), "and what verify found wrong is fetched anew"
    (folder / "tokenizer.json").unlink()
    assert verdicts(NAME)["tokenizer.json"] == (False, "missing")


def test_verify_of_what_another_program_left_asks_for_a_download_which_mends_what_is_wrong(remote, cache):
    remote.fault = at(LARGE, body(flipped))
    snapshot_download(NAME, allow_patterns=list(WANTED))
    remote.fault = well
    with pytest.raises(Error, match=r"not in the cache, expected a download: download it first$"):
        verify(NAME)
    assert contents(find_folder(NAME)) == files(remote) and all(right for right, _ in verdicts(NAME).values())


def test_verify_of_what_is_not_here_says_so(remote, cache):
    with pytest.raises(Error, match=r"^hub id owner/name: not in the cache, expected a download: download it first$"):
        verify(NAME)
    with pytest.raises(Error, match=r"^--against x/y is for a folder, expected a folder instead of owner/name: leave"):
        verify(NAME, against="x/y")
    with pytest.raises(Error, match=r"^--against tiny is a folder of this machine, expected a hub id"):
        verify("tiny", against="tiny")
    assert remote.asked == []


def test_verify_holds_a_folder_of_ones_own_against_the_hub(remote, cache, tmp_path):
    mine = tmp_path / "mine"
    save_checkpoint(checkpoint(seed=8), mine)
    (mine / "notes.txt").write_text("mine")
    (mine / "config.json").write_text((mine / "config.json").read_text().replace("0.02", "0.03"))
    (mine / "tokenizer.json").unlink()
    found = verdicts(mine, against=NAME)
    assert found[WEIGHTS] == (True, "sha256 ok") and found["tokenizer.json"] == (False, "missing")
    assert found["config.json"][0] is False and "has git's sha1" in found["config.json"][1]
    assert found["notes.txt"] == (None, "not checked: the hub has no such file")
    assert remote.fetched() == set(), "only the list is asked for"


def test_verify_of_a_folder_alone_says_what_was_not_checked_and_finds_numbers_that_are_none(tmp_path, remote):
    folder = remote.repositories[NAME]
    found = verdicts(folder)
    assert found["config.json"] == (None, "not checked: no hash to hold it against")
    assert found[WEIGHTS][0] is None and "tensors of the right shapes, all finite; no hash to" in found[WEIGHTS][1]
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # a float32 NaN
    (folder / WEIGHTS).write_bytes(content)
    right, text = verdicts(folder)[WEIGHTS]
    assert right is False and text.startswith("wrong: tensor ") and text.endswith("holds NaN or infinity")
    (folder / WEIGHTS).write_bytes(content[:-1000])
    with pytest.raises(Error, match="is no readable safetensors file"):
        verdicts(folder)
