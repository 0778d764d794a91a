"""Files from the hub, each held against the hub's own hash before its folder is handed out.

The transport is huggingface_hub's: its cache, tokens, mirrors, time limits and progress bars. That library looks at a
file's size and not at its content, and hands out a folder of which files are missing; both are made good here.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Error
from .cache import (
    COMMIT,
    DIGEST,
    Listed,
    Snapshot,
    cached_snapshot,
    digest_of,
    kind_of,
    open_snapshot,
    remove,
    stamp,
    write_ref,
)
from .sentences import OFFLINE, NoSuchRevision, interrupted, refused, where

WANTED = ("*.json", "*.safetensors", "*.jinja")  # never pickles, never code
BRANCH = "main"
SLOWEST, PATIENCE = 1000, 60.0  # bytes a second, and the seconds over which they are counted
BAR_FROM = 100_000_000  # bytes; hashing less is over before a bar is read


def download(repository: str, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Path:
    """The folder of a hub repository's newest commit, or of a revision's, complete and verified.

    Promised is: every file of the folder that `wanted` names is there, and its content was once, since it last
    changed, hashed and found equal to what the hub says. So a file is hashed after it came and not at each load;
    `verify` hashes again. A known commit that is complete costs no request.

    Raises:
        Error: whatever keeps a file from coming, or a content that is not the hub's, which is taken out of the cache.
    """
    return fetch(find_snapshot(repository, revision, wanted), revision, wanted)


def find_snapshot(repository: str, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Snapshot:
    """A commit and its files as the hub lists them; where the hub does not answer, as the cache holds them."""
    known = cached_snapshot(repository, revision or BRANCH)
    pinned = known is not None and known.listing is not None and COMMIT.fullmatch(revision or "")
    if pinned and all(map(known.is_verified, known.wanted(wanted))):
        return known
    at = where(repository, revision)
    try:
        return ask(repository, revision, wanted)
    except NoSuchRevision:
        raise
    except Error as error:
        if known is None:
            raise
        if not (lacking := known.lacking(wanted)):
            return known
        held = f"the cache lacks {lacking[0]}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
        if str(error).endswith(OFFLINE):
            held = f"{held} and the hub cannot be reached: connect, or name a local folder"
            raise Error(f"{at}: {held}") from None
        raise Error(f"{error} ({held})") from None


def ask(repository: str, revision: str | None, wanted: Sequence[str]) -> Snapshot:
    """What the hub says of a revision: its commit, and the size and hash of every file, in one request."""
    from huggingface_hub import HfApi, constants

    at = where(repository, revision)
    try:
        with no_drip():
            found = HfApi().model_info(
                repository,
                revision=revision or BRANCH,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
                files_metadata=True,
            )
        commit, listing = str(found.sha), dict(map(listed, found.siblings or []))
    except Exception as error:  # whatever the transport raises, and what a mirror may send instead of a list
        raise refused(at, error) from None
    if not COMMIT.fullmatch(commit):
        raise Error(f"{at}: the hub names the commit {commit!r}, expected 40 digits: check HF_ENDPOINT")
    snapshot = open_snapshot(repository, commit)
    snapshot.listing, snapshot.reached = listing, True
    for pattern, file in (
        ("*.safetensors", "*.safetensors"),
        ("*.json", "config.json"),
        ("config.json", "config.json"),
    ):
        if pattern in wanted and not snapshot.wanted([file]):
            raise Error(f"{at}: the hub has no {file} there, expected a checkpoint in safetensors: choose another id")
    if unknown := [name for name in snapshot.wanted(wanted) if not DIGEST.fullmatch(listing[name].digest)]:
        raise Error(f"{at}: the hub names no hash of {unknown[0]}, expected sha256 or sha1: set another HF_ENDPOINT")
    return snapshot


def listed(file: Any) -> tuple[str, Listed]:
    """A row of the hub's list. Large files have a sha256 of their own, small ones git's id."""
    if file.lfs is not None:
        return file.rfilename, Listed(int(file.lfs.size), str(file.lfs.sha256))
    return file.rfilename, Listed(int(file.size or 0), str(file.blob_id))


def fetch(
    snapshot: Snapshot,
    revision: str | None = None,
    wanted: Sequence[str] = WANTED,
    tell: Callable[[str], object] = lambda name: None,
) -> Path:
    """Brings what is lacking and hashes what is not yet verified; `tell` hears the name of each file that is right."""
    check_room(snapshot, wanted)
    at, names = where(snapshot.repository, revision), snapshot.wanted(wanted)
    for name in names:
        if not snapshot.is_verified(name):
            obtain(snapshot, name, at)
        tell(name)
    if snapshot.reached:
        snapshot.save()
    # Only a complete commit becomes the newest one: until then the branch leads to what was there before.
    write_ref(snapshot.storage, revision or BRANCH, snapshot.commit)
    return snapshot.folder


def obtain(snapshot: Snapshot, name: str, at: str) -> None:
    """One file, hashed and stamped. A wrong one that was here before is fetched once more."""
    was_here, path = snapshot.has(name), snapshot.path(name)
    if not was_here:
        bring(snapshot, name, at)
    if snapshot.digest(name) is None:
        raise Error(f"{at}: {name} lies in the cache without a hash, expected the hub's: connect, so that it is asked")
    if wrong := mismatch(snapshot, name, path):
        remove(snapshot, name)
        if snapshot.has(name):
            raise Error(f"{at}: {name} {wrong}, and cannot be taken out of the cache: remove {path} yourself")
        if was_here and snapshot.reached:
            return obtain(snapshot, name, at)
        advice = "try again, or set another HF_ENDPOINT" if snapshot.reached else "connect, then fetch it again"
        raise Error(f"{at}: {name} {wrong}: it was taken out of the cache, {advice}")
    snapshot.stamps[name] = stamp(path)
    snapshot.save()


def bring(snapshot: Snapshot, name: str, at: str) -> None:
    """Downloads one file to its place in the cache; on the way it bears another name."""
    from huggingface_hub import hf_hub_download

    try:
        with no_drip():
            hf_hub_download(snapshot.repository, name, revision=snapshot.commit)
    except Exception as error:
        raise interrupted(at, name, error) from None


def mismatch(snapshot: Snapshot, name: str, path: Path) -> str | None:
    """What is wrong with the content of a file, wherever it lies, or None."""
    from huggingface_hub.utils import tqdm

    expected = snapshot.digest(name) or ""
    try:
        size = path.stat().st_size
        if snapshot.listing is not None and size != snapshot.listing[name].size:
            return f"has {size:,} bytes, expected {snapshot.listing[name].size:,}"
        kind = kind_of(expected)
        hidden = True if size < BAR_FROM else None  # None: only where someone looks
        with tqdm(total=size, desc=f"{kind} of {name}", unit="B", unit_scale=True, disable=hidden) as bar:
            found = digest_of(path, expected, bar.update)
    except OSError as error:
        return f"cannot be read ({error.strerror}), expected the file that the hub lists"
    return None if found == expected else f"has {kind} {found[:12]}..., expected the hub's {expected[:12]}..."


def check_room(snapshot: Snapshot, wanted: Sequence[str]) -> None:
    """Refuses a download that the disk has no room for, before its first byte."""
    missing, free = missing_bytes(snapshot, wanted), free_bytes(snapshot.storage)
    if missing > free:
        found = f"{missing:,} bytes are to come and {free:,} are free at {snapshot.storage.parent}"
        at = where(snapshot.repository, None)
        raise Error(f"{at}: {found}, expected room for all: make room, or set HF_HUB_CACHE to another disk")


def missing_bytes(snapshot: Snapshot, wanted: Sequence[str] = WANTED) -> int:
    return sum(snapshot.listing[name].size for name in snapshot.lacking(wanted)) if snapshot.listing else 0


def free_bytes(place: Path) -> int:
    """Free bytes of the disk where a folder is, or will be."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def no_drip() -> Iterator[None]:
    """Within it, an answer of the hub's that trickles ends in an Error.

    The library's time limits are about silence: one byte every few seconds would keep it waiting for years.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    hooks.append(watch)
    try:
        yield
    finally:
        hooks.remove(watch)


def watch(response: Any) -> None:
    """Puts a clock between an answer's bytes and their reader."""
    import httpx2  # what huggingface_hub speaks through

    class Watched(httpx2.SyncByteStream):
        def __init__(self, stream: Any):
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            began, came = time.monotonic(), 0
            for block in self.stream:
                came += len(block)
                if (passed := time.monotonic() - began) > PATIENCE:
                    if came < SLOWEST * passed:
                        found = f"{came:,} bytes came in {passed:.0f} s"
                        raise Error(f"only trickles, {found}, expected {SLOWEST:,} a second: try again later")
                    began, came = time.monotonic(), 0
                yield block

        def close(self) -> None:
            self.stream.close()

    response.stream = Watched(response.stream)
