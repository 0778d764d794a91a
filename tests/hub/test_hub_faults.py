"""Whatever the hub, the way to it or the disk does wrong ends in its own sentence and leaves nothing half done."""

import errno
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_faults import (
    ABOUT,
    FILE,
    LARGE,
    WEIGHTS,
    at,
    body,
    circle,
    closed_port,
    contents,
    delivered,
    flipped,
    half,
    half_files,
    hangs_up,
    hub_with,
    hurry,
    lists,
    offline,
    once,
    point_to,
    refused,
    says,
    silent,
    stage,
    stalls,
)  # fmt: skip
from huggingface_hub import constants
from stand_in_hub import SHA, digest, well

from qwen3_scratch import Error
from qwen3_scratch.hub.find import find_folder

NAME = "owner/name"
NOT_REACHED = "not in the cache and the hub cannot be reached: connect, or name a local folder"
NO_HUB = "what answers is no hub ("
ANSWERS = {  # instead of the list of files
    "silent": (silent, NOT_REACHED),
    "hangs up": (hangs_up, NOT_REACHED),
    "no repository": (refused(404, "RepoNotFound"), "the hub knows no such repository, or it is private: check"),
    "401 without a reason": (refused(401), "the hub does not accept the token (status 401): check the name, renew"),
    "no revision": (refused(404, "RevisionNotFound"), "the hub knows no such revision, expected a branch, tag or"),
    "gated 401": (refused(401, "GatedRepo"), "is gated, expected an account with access: accept its terms and set"),
    "gated 403": (refused(403, "GatedRepo"), "is gated, expected an account with access: accept its terms and set"),
    "disabled": (refused(403, "", "Access to this resource is disabled."), "is disabled on the hub: choose another"),
    "bad token": (
        refused(401, "", "Invalid credentials in Authorization header"),
        "the hub does not accept the token (status 401): check the name, renew HF_TOKEN, or unset it",
    ),
    "forbidden": (refused(403), "the token does not permit this (status 403), expected read access: set"),
    "too often": (refused(429), "the hub has had too many requests (status 429): wait some minutes"),
    "500": (refused(500), "the hub is out of order (status 500): try again later"),
    "418": (refused(418), "the hub answers with status 418, expected 200: check HF_ENDPOINT"),
    "circle": (circle, NO_HUB + "Exceeded maximum allowed redirects.), expected"),
    "a page": (says("<html>Log in to the network</html>"), NO_HUB),
    "another list": (says('["a", "b"]'), NO_HUB),
    "no commit": (lists(lambda found: {**found, "sha": "abc"}), NO_HUB + "the commit abc), expected"),
    "no hashes": (
        lists(lambda found: {**found, "siblings": [{"rfilename": row["rfilename"]} for row in found["siblings"]]}),
        "expected a list of files, sizes and hashes: check HF_ENDPOINT",
    ),
    "pickles only": (
        lists(lambda found: {**found, "siblings": [{**found["siblings"][0], "rfilename": "pytorch_model.bin"}]}),
        "the hub has no *.safetensors there, expected both: choose another id",
    ),
    "no config": (
        lists(lambda found: {**found, "siblings": [row for row in found["siblings"] if row["rfilename"] == WEIGHTS]}),
        "the hub has no config.json there, expected both: choose another id",
    ),
}  # fmt: skip
CUT = f"{WEIGHTS} did not arrive, the connection failed again and again ("
SILENT = CUT + "timed out): try again later"
CIRCLE = f"{WEIGHTS} did not arrive (Exceeded "
SIZE = f"{WEIGHTS} did not arrive (Consistency check failed: file should be of size "
FILES = {  # after the list, which is right
    "no file": (at(FILE, refused(404, "EntryNotFound"), WEIGHTS), f"{WEIGHTS} is listed by the hub but not to be had"),
    "no small file": (at(FILE, refused(404, "EntryNotFound"), "config.json"), "config.json is listed by the hub but"),
    "file gated 401": (at(FILE, refused(401, "GatedRepo")), "is gated, expected an account with access: accept"),
    "file gated 403": (at(FILE, refused(403, "GatedRepo")), "is gated, expected an account with access: accept"),
    "file forbidden": (at(FILE, refused(403), WEIGHTS), "the token does not permit this (status 403), expected read"),
    "file 503": (at(FILE, refused(503), WEIGHTS), "the hub is out of order (status 503): try again later"),
    "bytes 403": (at(LARGE, refused(403)), "the token does not permit this (status 403), expected read"),
    "file silent": (at(FILE, silent, WEIGHTS), SILENT),
    "file hangs up": (at(FILE, hangs_up, WEIGHTS), CUT),
    "file circle": (at(FILE, circle, WEIGHTS), CIRCLE),
    "bytes circle": (at(LARGE, circle), CIRCLE),
    "bytes silent": (at(LARGE, silent), SILENT),
    "bytes stall": (at(LARGE, delivered(stalls)), SILENT),
    "always cut": (at(LARGE, delivered(half)), CUT),
    "truncated": (at(LARGE, body(lambda content: content[:-100])), SIZE),
    "too long": (at(LARGE, body(lambda content: content + b"x")), SIZE),
    "flipped": (at(LARGE, body(flipped)), f"{WEIGHTS} has sha256 "),
    "zeros": (at(LARGE, body(lambda content: bytes(len(content)))), f"{WEIGHTS} has sha256 "),
    "flipped config": (at(FILE, body(flipped), "config.json"), "config.json has git's sha1 "),
    "flipped tokenizer": (at(FILE, body(flipped), "tokenizer.json"), "tokenizer.json has git's sha1 "),
}  # fmt: skip
ALL = {**{name: (at(ABOUT, does), said) for name, (does, said) in ANSWERS.items()}, **FILES}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with hub_with(NAME, tmp_path_factory.mktemp("remote")) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, remote, monkeypatch) -> Path:
    return stage(remote, tmp_path / "cache", monkeypatch)


def said_of(find) -> str:
    """The one line that a call ends with."""
    with pytest.raises(Error) as caught:
        find()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


def leaves_nothing_and_recovers(remote, cache) -> None:
    """Nothing is taken for complete, nothing unfinished lies about, and without the fault all bytes are right."""
    assert half_files(cache) == []
    with offline():
        assert re.search("the cache lacks|not in the cache", said_of(lambda: find_folder(NAME)))
    remote.fault = well
    find_folder(NAME)
    with offline():
        assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])


@pytest.mark.parametrize("name", ALL)
def test_each_fault_has_its_sentence_leaves_nothing_half_done_and_is_over_once_it_is_mended(
    name, remote, cache, monkeypatch
):
    remote.fault, expected = ALL[name]
    with monkeypatch.context() as hurried:
        hurry(hurried)
        message = said_of(lambda: find_folder(NAME))
    assert message.startswith(f"hub id {NAME}: ") and expected in message, message
    assert re.search(r"(: |, )(check|choose|connect|accept|renew|set|wait|try)\b", message), "it says what to do"
    leaves_nothing_and_recovers(remote, cache)


def test_no_two_faults_of_different_kinds_share_a_sentence():
    same = [
        {"silent", "hangs up"},
        {"a page", "another list"},
        {"gated 401", "gated 403", "file gated 401", "file gated 403"},
        {"401 without a reason", "bad token"},
        {"forbidden", "file forbidden", "bytes 403"},
        {"file silent", "bytes silent", "bytes stall"},
        {"file circle", "bytes circle"},
        {"file hangs up", "always cut"},
        {"truncated", "too long"},
        {"flipped", "zeros"},
    ]
    kinds = {frozenset(next((group for group in same if name in group), {name})) for name in ALL}
    assert len({ALL[min(kind)][1] for kind in kinds}) == len(kinds) >= 25


def test_a_hub_that_is_not_there_is_told_apart_from_a_folder_that_is_incomplete(remote, cache, monkeypatch):
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    assert said_of(lambda: find_folder(NAME)) == f"hub id {NAME}: {NOT_REACHED}"
    point_to(remote.url, monkeypatch)
    find_folder(NAME, wanted=("config.json",))
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    message = f"hub id {NAME}: {NOT_REACHED} (the cache lacks {WEIGHTS})"
    assert said_of(lambda: find_folder(NAME, wanted=("*.safetensors",))) == message
    assert find_folder(NAME, wanted=("config.json",)).name == SHA, "what was wanted then is whole"


@pytest.mark.parametrize("block", [1000, 10_000_000], ids=["resumed", "begun again"])
def test_a_connection_that_is_cut_once_recovers_within_the_call(block, remote, cache, monkeypatch):
    hurry(monkeypatch)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", block)
    remote.fault, remote.asked = once(at(LARGE, delivered(half))), []
    assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])
    ranges = [asked.range for asked in remote.asked if asked.path.startswith("/large/") and asked.method == "GET"]
    assert len(ranges) == 2 and bool(ranges[1]) == (block == 1000), "what has come is not fetched again"


# ---- the disk -----------------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_with_both_figures_before_the_first_byte(remote, cache, monkeypatch):
    sizes = [path.stat().st_size for path in remote.repositories[NAME].iterdir()]
    remote.asked = []
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=12345))
        message = said_of(lambda: find_folder(NAME))
    found = f"{sum(sizes):,} bytes are to come and 12,345 are free at {cache}"
    assert message == f"hub id {NAME}: {found}, expected room for all: make room, or set HF_HUB_CACHE to another disk"
    assert remote.fetched() == set()
    leaves_nothing_and_recovers(remote, cache)


def kept(cache: Path, reason: str) -> str:
    return f"cannot be kept at {cache} ({reason}): make room, or set HF_HUB_CACHE to another folder"


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@pytest.mark.parametrize("number", DISK, ids=errno.errorcode.get)
def test_a_disk_that_fails_in_the_middle_is_quoted_in_one_sentence(number, remote, cache, monkeypatch):
    opened = Path.open

    def failing(path, mode="r", *args, **options):
        file = opened(path, mode, *args, **options)
        if mode == "wb" and path.name.startswith(large):
            file.close()
            file = opened(Path("/dev/full"), "wb", buffering=0)  # any write fails
            if number != errno.ENOSPC:
                raise OSError(number, os.strerror(number))
        return file

    large = digest(remote.repositories[NAME] / WEIGHTS)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", failing)
        message = said_of(lambda: find_folder(NAME))
    assert message == f"hub id {NAME}: {WEIGHTS} {kept(cache, os.strerror(number))}"
    leaves_nothing_and_recovers(remote, cache)


def test_a_cache_that_is_a_file_is_named(remote, cache):
    cache.write_text("not a folder")
    message = said_of(lambda: find_folder(NAME))
    assert message == f"hub id {NAME}: config.json {kept(cache, os.strerror(errno.ENOTDIR))}"
    cache.unlink()
    leaves_nothing_and_recovers(remote, cache)


def test_what_a_hub_must_not_do_to_the_disk_it_does_not(remote, cache):
    """Names that lead out of the folder, or into folders of it, are not fetched."""
    row = {"size": 4, "blobId": "0" * 40}
    names = ["../../evil.json", "/evil.json", "onnx/model.safetensors", "a/../../b.json", "evil.py", "weights.pt"]
    extra = [{"rfilename": name, **row} for name in names]
    remote.fault, remote.asked = at(ABOUT, lists(lambda found: found["siblings"].extend(extra))), []
    assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])
    assert not [asked for asked in remote.asked if "evil" in asked.path or "onnx" in asked.path]
    assert not [path for path in cache.parent.rglob("*") if "evil" in path.name]
