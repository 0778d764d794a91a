"""One commit of a hub repository in the hub's own cache, and a record beside it of what was found to be right.

The cache keeps each file under its hash: `blobs/<sha256>` for large files, `blobs/<git's sha1>` for small ones, and
links to them from `snapshots/<commit>/<name>`; `refs/<branch or tag>` holds a commit. Whoever put a file there has
looked at its size at most. `.verified/<commit>.json` is ours: the hub's own listing of that commit, and a stamp (size
and time of change) for each file whose content was hashed and found equal. A file whose stamp is missing or no longer
fits counts as unknown, so what was interrupted before it was hashed, or put there by others, is hashed first.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..trust.shards import INDEX, SINGLE

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1, or sha256
BLOCK = 1 << 20  # bytes that are hashed at a time


class Listed(NamedTuple):
    """What the hub says of a file: its bytes, and their sha256 (64 digits) or git's sha1 of them (40 digits)."""

    size: int
    digest: str


@dataclass
class Snapshot:
    """A commit in the cache. `listing` is None where the hub was never asked about it by us; `stamps` are our own."""

    repository: str
    commit: str
    storage: Path  # what the cache holds of the repository
    listing: dict[str, Listed] | None
    stamps: dict[str, list[int]]
    reached: bool = False  # the hub has just told us `listing`

    @property
    def folder(self) -> Path:
        return self.storage / "snapshots" / self.commit

    def path(self, name: str) -> Path:
        return self.folder / name

    def has(self, name: str) -> bool:
        return self.path(name).is_file()

    def digest(self, name: str) -> str | None:
        """The hash that a file should have: the hub's word, or the name under which the cache keeps it."""
        if self.listing is not None and name in self.listing:
            return self.listing[name].digest
        blob = self.path(name).readlink().name if self.path(name).is_symlink() else ""
        return blob if DIGEST.fullmatch(blob) else None

    def is_verified(self, name: str) -> bool:
        """Whether the file is here and has not changed since its content was found to be right."""
        return self.has(name) and self.stamps.get(name) == stamp(self.path(name))

    def wanted(self, patterns: Sequence[str]) -> list[str]:
        """The names of the commit's files that match, small ones first; of folders within it, none.

        Without a listing: what is here, and what a model cannot do without.
        """
        if self.listing is not None:
            names = sorted(self.listing, key=lambda name: (self.listing[name].size, name))
        else:
            here = {path.name for path in self.folder.glob("*")}
            names = sorted(here | needed_by(self.folder) | listed_by_others(self))
        return [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)]

    def lacking(self, patterns: Sequence[str]) -> list[str]:
        return [name for name in self.wanted(patterns) if not self.has(name)]

    def save(self) -> None:
        """Writes the record; a cache that only others may write to goes without, and is hashed every time."""
        listing = None if self.listing is None else {name: list(found) for name, found in self.listing.items()}
        path, text = record_path(self.storage, self.commit), json.dumps({"listing": listing, "stamps": self.stamps})
        if read_text(path) != text:
            write_aside(path, text)


def storage_of(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *repository.split("/")])


def record_path(storage: Path, commit: str) -> Path:
    return storage / ".verified" / f"{commit}.json"


def open_snapshot(repository: str, commit: str) -> Snapshot:
    """A commit with its record, which is empty where there is none that can be read."""
    storage = storage_of(repository)
    listing, stamps = None, {}
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        record = json.loads(read_text(record_path(storage, commit)))
        if record["listing"] is not None:
            listing = {name: Listed(int(size), str(digest)) for name, (size, digest) in record["listing"].items()}
        stamps = {name: [int(size), int(time)] for name, (size, time) in record["stamps"].items()}
    return Snapshot(repository, commit, storage, listing, stamps)


def cached_snapshot(repository: str, revision: str) -> Snapshot | None:
    """What the cache holds of a branch, tag or commit, complete or not, without a look at the network."""
    commit = revision if COMMIT.fullmatch(revision) else read_ref(storage_of(repository), revision)
    found = open_snapshot(repository, commit) if commit else None
    return found if found is not None and found.folder.is_dir() else None


def ref_path(storage: Path, revision: str) -> Path | None:
    """Where the commit of a branch or tag is noted; a name that leads elsewhere has no such place."""
    parts = Path(revision).parts
    return None if not parts or Path(revision).is_absolute() or ".." in parts else storage / "refs" / revision


def read_ref(storage: Path, revision: str) -> str | None:
    path = ref_path(storage, revision)
    commit = read_text(path).strip() if path else ""
    return commit if COMMIT.fullmatch(commit) else None


def write_ref(storage: Path, revision: str, commit: str) -> None:
    path = ref_path(storage, revision)
    if path is not None and not COMMIT.fullmatch(revision) and read_ref(storage, revision) != commit:
        write_aside(path, commit)


def read_text(path: Path) -> str:
    """What a small file says, and nothing where it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def write_aside(path: Path, text: str) -> None:
    """Writes a whole file or none, and none where it may not or cannot be written."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def needed_by(folder: Path) -> set[str]:
    """What a checkpoint's folder must hold: config.json, and one file of weights or all that its index names."""
    shards: set[str] = set()
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if not (folder / SINGLE).exists():
            shards = set(json.loads(read_text(folder / INDEX))["weight_map"].values())
    return {"config.json", *(shards or {SINGLE})}


def listed_by_others(snapshot: Snapshot) -> set[str]:
    """The names of a listing that another program has left in the cache."""
    from huggingface_hub import errors, get_cached_repo_tree

    try:
        return {found.path for found in get_cached_repo_tree(snapshot.repository, revision=snapshot.commit)}
    except errors.CachedRepoTreeNotFoundError:
        return set()


def stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def kind_of(digest: str) -> str:
    """Which hash it is, by its length."""
    return "sha256" if len(digest) == 64 else "git's sha1"


def digest_of(path: Path, like: str, advance: Callable[[int], object] = lambda count: None) -> str:
    """The hash of a file, of the kind of `like`: sha256 (64 digits), or git's sha1 of a blob (40).

    `advance` is told the bytes of each step. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Git puts a file's length before its content: git-scm.com/book, "Git Objects".
        found = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := file.read(BLOCK):
            found.update(block)
            advance(len(block))
    return found.hexdigest()


def remove(snapshot: Snapshot, name: str) -> None:
    """Takes a file out of the cache, the link, the blob it leads to and its stamp, so that it is fetched anew."""
    snapshot.stamps.pop(name, None)
    snapshot.save()
    cache, path = snapshot.storage.parent.resolve(), snapshot.path(name)
    while True:
        target = path.parent / path.readlink() if path.is_symlink() else None
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        # Blobs that several repositories share lie elsewhere in the same cache, behind one more link.
        if target is None or not target.parent.resolve().is_relative_to(cache):
            return
        path = target
