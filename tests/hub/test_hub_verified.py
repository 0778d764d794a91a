"""A folder from the hub is whole and its bytes are the hub's, whoever filled the cache and whatever happened since."""

import json
import os
import random
import re
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
from huggingface_hub import snapshot_download
from stand_in_hub import SHA, well

from qwen3_scratch import Error, load_checkpoint, save_checkpoint
from qwen3_scratch.hub import download, find_folder
from qwen3_scratch.hub.download import WANTED

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
    names, judge = [], download.judge
    monkeypatch.setattr(download, "judge", lambda path, file: names.append(path.name) or judge(path, file))
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
        assert refusal().endswith(f"(the cache lacks {WEIGHTS})"), "it was taken out of the cache"
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
    judge, left = download.judge, [None] * hashed_before

    def killed(*args):
        left.pop() if left else os.kill(os.getpid(), signal.SIGINT)
        return judge(*args)

    remote.fault = at((FILE, LARGE), body(flipped), WEIGHTS if hashed_before else "config.json")
    with monkeypatch.context() as life:
        life.setattr(download, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            find_folder(NAME)
    remote.fault = at(LARGE, body(flipped))
    snapshot_download(NAME, revision=SHA, allow_patterns=list(WANTED))  # another program brings the rest, flipped
    with offline():
        assert re.search(
            " has git's sha1 | has sha256 " if hashed_before else "not in the cache", refusal(revision=SHA)
        )
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
        for revision in ("../refs/v1", "/"):
            assert refusal(revision=revision).endswith("is no revision, expected a branch, tag or commit: check it")


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


def test_what_another_program_downloaded_is_used_once_the_hub_has_told_its_hashes(remote, cache, hashed):
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    with offline():
        assert "not in the cache and the hub cannot be reached" in refusal()
    remote.asked.clear()
    assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote)) and remote.fetched() == set()
    hashed.clear()
    with offline():
        assert find_folder(NAME) == folder and hashed == []


def test_a_flipped_byte_that_another_program_accepted_is_found_by_its_hash(remote, cache):
    remote.fault = at(LARGE, body(flipped))
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    assert (folder / WEIGHTS).read_bytes() != files(remote)[WEIGHTS], "the library looks at the size alone"
    remote.fault = well
    assert contents(find_folder(NAME)) == files(remote)


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS, "tokenizer.json"])
def test_what_another_program_downloaded_in_part_is_not_taken_for_whole(missing, remote, cache):
    snapshot_download(NAME, allow_patterns=list(WANTED), ignore_patterns=[missing])
    with offline():
        assert "not in the cache and the hub cannot be reached" in refusal()
    remote.asked.clear()
    assert contents(find_folder(NAME)) == files(remote) and remote.fetched() == {missing}


def test_a_missing_shard_is_missed(remote, cache):
    shards(remote.repositories[NAME])
    remote.fault = at(FILE, refused(404, "EntryNotFound"), "model-00002-of-00002.safetensors")
    assert "model-00002-of-00002.safetensors is listed by the hub but not to be had there" in refusal()
    with offline():
        assert "(the cache lacks model-00002-of-00002.safetensors" in refusal(revision=SHA)
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
    "record", ["", "{", "[]", '{"config.json": 3}', '{"config.json": [1, "a", 0], "tokenizer.json": ["a", "b", "c"]}']
)
def test_a_damaged_record_is_as_good_as_none(record, remote, cache, hashed):
    folder = find_folder(NAME)
    [path] = cache.rglob(f".verified/{SHA}.json")
    path.write_text(record)
    hashed.clear()
    assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote))
    assert {name for name, (*_, verified) in json.loads(path.read_text()).items() if verified} == set(files(remote))


def test_what_the_hub_lists_counts_and_not_what_our_record_says_of_it(remote, cache, hashed):
    folder = find_folder(NAME)
    [path] = cache.rglob(f".verified/{SHA}.json")
    record = json.loads(path.read_text())
    size, _, verified = record["config.json"]
    path.write_text(json.dumps(record | {"config.json": [size, "0" * 40, verified], "gone.json": [1, "0" * 40, 1]}))
    hashed.clear()
    assert find_folder(NAME) == folder and hashed == ["config.json"]


def test_a_cache_whose_record_cannot_be_written_is_hashed_each_time(remote, cache, hashed, monkeypatch):
    folder = find_folder(NAME)
    [path] = cache.rglob(f".verified/{SHA}.json")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    for _ in range(2):
        hashed.clear()
        assert find_folder(NAME) == folder and sorted(hashed) == sorted(files(remote))


def test_a_wrong_copy_that_repositories_share_leaves_the_cache_as_well(remote, cache):
    """As files on the hub's newer storage: the blob is itself a link to a copy that the whole cache has."""
    blob = cache / "models--owner--name" / "blobs" / (find_folder(NAME) / WEIGHTS).resolve().name
    shared = cache / "blobs" / "ab" / "abcdef"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    change_a_byte(shared)
    with offline():
        assert f"{WEIGHTS} has sha256 " in refusal() and not shared.exists()
    assert contents(find_folder(NAME)) == files(remote)


@pytest.mark.parametrize("linked", ["models--owner--name", ""], ids=["repository", "cache"])
def test_a_wrong_file_leaves_a_cache_that_is_a_link_and_a_file_of_ones_own_stays(linked, remote, cache, tmp_path):
    find_folder(NAME)
    (cache / linked).rename(tmp_path / "elsewhere")
    (cache / linked).symlink_to(tmp_path / "elsewhere")
    folder = find_folder(NAME)
    change_a_byte(folder / WEIGHTS)
    remote.asked.clear()
    assert contents(find_folder(NAME)) == files(remote) and remote.fetched() == {WEIGHTS}
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(mine)
    assert contents(find_folder(NAME)) == files(remote) and mine.read_text() == "{}"


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


def test_a_copy_is_as_good_as_a_link(remote, cache):
    """As caches are where the system knows no links."""
    folder = Path(snapshot_download(NAME, allow_patterns=list(WANTED)))
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(content)
    remote.asked.clear()
    assert contents(find_folder(NAME)) == files(remote) and remote.fetched() == set()
    with offline():
        assert find_folder(NAME) == folder
