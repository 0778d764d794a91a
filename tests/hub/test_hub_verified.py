"""A folder from the hub is whole and its bytes are the hub's, whoever filled the cache and whatever happened since."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from helpers import checkpoint
from hub_faults import (
    ABOUT,
    FILE,
    LARGE,
    WEIGHTS,
    at,
    body,
    contents,
    flipped,
    half_files,
    hub_with,
    offline,
    refused,
    stage,
)  # fmt: skip
from huggingface_hub import hf_hub_download, snapshot_download
from stand_in_hub import SHA, well

from qwen3_scratch import Error, load_checkpoint, save_checkpoint
from qwen3_scratch.hub import download as download_module
from qwen3_scratch.hub.download import WANTED
from qwen3_scratch.hub.find import find_folder

NAME, OTHER = "owner/name", "fedcba98" * 5


@pytest.fixture
def remote(tmp_path):
    with hub_with(NAME, tmp_path / "remote") as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, remote, monkeypatch) -> Path:
    return stage(remote, tmp_path / "cache", monkeypatch)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names, digest_of = [], download_module.digest_of
    monkeypatch.setattr(
        download_module, "digest_of", lambda path, *rest: names.append(path.name) or digest_of(path, *rest)
    )
    return names


def change_a_byte(path: Path) -> None:
    """Somewhere in the file, a moment later."""
    blob, found = path.resolve(), path.stat()
    content = bytearray(blob.read_bytes())
    content[random.Random(3).randrange(len(content))] ^= 1 << random.Random(4).randrange(8)
    blob.write_bytes(content)
    os.utime(blob, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def files(remote) -> dict[str, bytes]:
    return contents(remote.repositories[NAME])


def refusal(name: str = NAME, *, revision: str | None = None) -> str:
    with pytest.raises(Error) as caught:
        find_folder(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- once verified, not again, unless it changed ------------------------------------------------


def test_each_file_is_hashed_once_after_it_came_and_not_at_each_load(remote, cache, hashed):
    folder = find_folder(NAME)
    assert sorted(hashed) == sorted(files(remote))
    hashed.clear()
    assert find_folder(NAME) == folder == find_folder(NAME, SHA) and load_checkpoint(NAME).path == folder
    with offline():
        assert find_folder(NAME) == folder
    assert hashed == []


def test_a_file_that_changed_since_is_hashed_again_and_found(remote, cache, hashed):
    folder = find_folder(NAME)
    hashed.clear()
    os.utime((folder / WEIGHTS).resolve())
    assert find_folder(NAME) == folder and hashed == [WEIGHTS], "touched, but not changed"
    change_a_byte(folder / WEIGHTS)
    with offline():
        assert f"{WEIGHTS} has sha256 " in refusal()
        assert f"the cache lacks {WEIGHTS} and the hub cannot be reached" in refusal(), "it was taken out of the cache"
    assert contents(find_folder(NAME)) == files(remote)


def test_a_wrong_file_in_the_cache_is_fetched_anew_where_the_hub_answers(remote, cache):
    folder = find_folder(NAME)
    for name in (WEIGHTS, "config.json"):
        change_a_byte(folder / name)
    remote.asked.clear()
    assert contents(find_folder(NAME)) == files(remote) and remote.fetched() == {WEIGHTS, "config.json"}


@pytest.mark.parametrize("hashed_before", [0, 2])
def test_what_came_but_was_not_hashed_is_hashed_before_it_is_used(hashed_before, remote, cache, monkeypatch):
    """As if killed at the hash: nothing of that process can tidy up what has come."""
    digest_of, left = download_module.digest_of, [None] * hashed_before

    def killed(*args):
        left.pop() if left else os.kill(os.getpid(), signal.SIGINT)
        return digest_of(*args)

    remote.fault = at((FILE, LARGE), body(flipped), WEIGHTS if hashed_before else "config.json")
    with monkeypatch.context() as life:
        life.setattr(download_module, "digest_of", killed)
        with pytest.raises(KeyboardInterrupt):
            find_folder(NAME)
    remote.fault = at(LARGE, body(flipped))
    snapshot_download(NAME, revision=SHA, allow_patterns=list(WANTED))  # another program brings the rest, flipped
    with offline():
        message = refusal(revision=SHA)
        assert " has git's sha1 " in message or " has sha256 " in message
    remote.fault = well
    assert contents(find_folder(NAME)) == files(remote)


def test_a_known_commit_that_is_whole_costs_no_request_and_otherwise_it_does(remote, cache):
    folder = find_folder(NAME, SHA)
    remote.asked.clear()
    assert find_folder(NAME, SHA) == folder and load_checkpoint(NAME, revision=SHA).path == folder
    assert remote.asked == []
    (folder / "config.json").unlink()
    assert contents(find_folder(NAME, SHA)) == files(remote) and remote.asked != []


def test_a_commit_a_branch_and_a_tag_lead_to_one_folder(remote, cache):
    folder = find_folder(NAME, "v1")
    remote.asked.clear()
    assert find_folder(NAME) == find_folder(NAME, "main") == find_folder(NAME, SHA) == folder
    assert remote.fetched() == set()
    with offline():
        assert find_folder(NAME, "v1") == folder
        assert "at revision v2: not in the cache and the hub cannot be reached" in refusal(revision="v2")
        assert "not in the cache" in refusal(revision="../refs/v1") and "not in the cache" in refusal(revision="/")


def test_a_branch_leads_to_its_old_commit_until_the_new_one_is_whole(remote, cache):
    first = find_folder(NAME)
    remote.commit, before = OTHER, files(remote)
    save_checkpoint(checkpoint(seed=9), remote.repositories[NAME])
    remote.fault = at(LARGE, refused(404, "EntryNotFound"))
    assert WEIGHTS in refusal()
    with offline():
        assert find_folder(NAME) == first and contents(first) == before
        assert f"the cache lacks {WEIGHTS}" in refusal(revision=OTHER)
    remote.fault = well
    assert find_folder(NAME).name == OTHER and contents(find_folder(NAME)) == files(remote) != before
    assert contents(find_folder(NAME, SHA)) == before


def test_a_hub_that_forgets_a_revision_is_believed_and_one_that_is_down_is_not_needed(remote, cache):
    folder = find_folder(NAME)
    for status, reason in ((500, ""), (404, "RepoNotFound"), (401, "GatedRepo"), (403, "")):
        remote.fault = at(ABOUT, refused(status, reason))
        assert find_folder(NAME) == folder
    remote.fault = at(ABOUT, refused(404, "RevisionNotFound"))
    assert "the hub knows no such revision" in refusal()


def test_many_calls_at_once_agree_and_leave_one_whole_folder(remote, cache):
    found, all_at_once = [], threading.Barrier(4)

    def find() -> None:
        all_at_once.wait()
        found.append(find_folder(NAME))

    threads = [threading.Thread(target=find) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and len(set(found)) == 1
    assert contents(found[0]) == files(remote) and half_files(cache) == []


# ---- what others left in the cache --------------------------------------------------------------


def test_what_another_program_downloaded_is_used_without_the_hub_once_it_is_hashed(remote, cache, hashed):
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    with offline():
        assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote))
        hashed.clear()
        assert find_folder(NAME) == folder and hashed == []


def test_a_flipped_byte_that_another_program_accepted_is_found_by_its_hash(remote, cache):
    remote.fault = at(LARGE, body(flipped))
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    assert (folder / WEIGHTS).read_bytes() != files(remote)[WEIGHTS], "the library looks at the size alone"
    remote.fault = well
    with offline():
        assert f"{WEIGHTS} has sha256 " in refusal()
    assert contents(find_folder(NAME)) == files(remote)


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS, "tokenizer.json"])
def test_what_another_program_downloaded_in_part_is_not_taken_for_whole(missing, remote, cache):
    snapshot_download(NAME, allow_patterns=list(WANTED), ignore_patterns=[missing])
    with offline():
        assert f"the cache lacks {missing} and the hub cannot be reached: connect, or name a local folder" in refusal()
    assert contents(find_folder(NAME)) == files(remote)


def test_files_that_were_fetched_one_by_one_are_not_taken_for_a_checkpoint(remote, cache):
    for name in ("config.json", "tokenizer.json"):
        hf_hub_download(NAME, name)
        with offline():
            assert f"the cache lacks {WEIGHTS}" in refusal() or "config.json" in refusal()


@pytest.mark.parametrize("by", ["us", "another"])
def test_a_missing_shard_that_the_index_names_is_missed(by, remote, cache):
    shards(remote.repositories[NAME])
    remote.fault = at(FILE, refused(404, "EntryNotFound"), "model-00002-of-00002.safetensors")
    if by == "us":
        assert "model-00002-of-00002.safetensors is listed by the hub but not to be had there" in refusal()
    else:
        for name in sorted(files(remote).keys() - {"model-00002-of-00002.safetensors"}):
            hf_hub_download(NAME, name)
    with offline():
        assert "the cache lacks model-00002-of-00002.safetensors and " in refusal(revision=SHA)
    remote.fault = well
    assert contents(find_folder(NAME)) == files(remote)
    assert load_checkpoint(NAME).config == checkpoint(seed=8).config


def shards(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {name: names[number % 2] for number, name in enumerate(sorted(tensors))}
    for file in names:
        save_file({name: tensor for name, tensor in tensors.items() if index[name] == file}, folder / file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"listing": 3, "stamps": {}}', '{"listing": {"a": 1}, "stamps": []}']
)
def test_a_damaged_record_is_as_good_as_none(record, remote, cache, hashed):
    folder = find_folder(NAME)
    [path] = cache.rglob(f".verified/{SHA}.json")
    path.write_text(record)
    hashed.clear()
    assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote))
    assert set(json.loads(path.read_text())["stamps"]) == set(files(remote))


def test_a_cache_whose_record_cannot_be_written_is_hashed_each_time(remote, cache, hashed, monkeypatch):
    folder = find_folder(NAME)
    [path] = cache.rglob(f".verified/{SHA}.json")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    for _ in range(2):
        hashed.clear()
        assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote))


def test_a_wrong_file_that_cannot_be_taken_out_of_the_cache_is_named_and_never_used(remote, cache, monkeypatch):
    folder = find_folder(NAME)
    change_a_byte(folder / WEIGHTS)

    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", forbidden)
    for _ in range(2):
        message = refusal()
        assert f"{WEIGHTS} has sha256 " in message
        assert message.endswith(f"and cannot be taken out of the cache: remove {folder / WEIGHTS} yourself")


def test_a_copy_without_its_hash_is_neither_used_nor_removed_until_the_hub_tells_it(remote, cache):
    """As caches are where the system knows no links."""
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(content)
    with offline():
        assert f"{WEIGHTS} lies in the cache without a hash, expected the hub's: connect" in refusal()
    remote.asked.clear()
    assert contents(find_folder(NAME)) == files(remote) and remote.fetched() == set()
    with offline():
        assert find_folder(NAME) == folder
