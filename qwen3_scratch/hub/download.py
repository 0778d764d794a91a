"""Files from the hub, each held against the hub's own hash before its folder is handed out.

The cache with its `snapshots/<commit>/<name>` is huggingface_hub's, which looks at no more of a file than its size.
`.verified/<commit>.json` is ours: what the hub lists, and the time of change of each file that was found to be that.
"""

import fnmatch
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Error
from .sentences import NoSuchRevision, explained
from .settings import check_settings, check_token_file

WANTED = ("*.json", "*.safetensors", "*.jinja")  # never pickles, never code
WANTED_FOLDERS = ("", "additional_chat_templates/")  # of a repository
COMMIT = re.compile(r"[0-9a-f]{40}")


class File(NamedTuple):
    """What the hub says of a file, and the file's time of change (ns) when its content was found to be that."""

    size: int
    digest: str  # sha256 (64 digits), or git's sha1 (40)
    verified: int = 0


class Snapshot(NamedTuple):
    """A commit in the cache, and the files that the hub has of it: none where that is not known."""

    at: str  # how sentences call it
    repository: str
    revision: str
    patterns: tuple[str, ...]  # of the files that are wanted
    storage: Path  # what the cache holds of the repository
    commit: str
    files: dict[str, File]
    reached: bool = False  # the hub has just told us `files`

    @property
    def folder(self) -> Path:
        return self.storage / "snapshots" / self.commit

    def names(self) -> list[str]:
        """The wanted files, small ones first; of folders within the repository, that of further chat templates."""
        near = [name for name in self.files if name[: name.rfind("/") + 1] in WANTED_FOLDERS]
        found = [name for name in near if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)]
        return sorted(found, key=lambda name: (self.files[name].size, name))

    def lacking(self) -> list[str]:
        return [name for name in self.names() if not (self.folder / name).is_file()]

    def room(self) -> tuple[int, int]:
        """The bytes that are to come, and those that are free where the cache is or will be."""
        disk = next(place for place in self.storage.parents if place.exists())
        return sum(self.files[name].size for name in self.lacking()), shutil.disk_usage(disk).free

    def is_verified(self, name: str) -> bool:
        """Whether the file is here and has not changed since its content was found to be right."""
        path, file = self.folder / name, self.files[name]
        return path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns) == (file.size, file.verified)

    def note(self, name: str, right: bool) -> None:
        """Records what a file was found to be; where nothing can be written, it is hashed every time."""
        self.files[name] = self.files[name]._replace(verified=(self.folder / name).stat().st_mtime_ns if right else 0)
        write(self.storage / ".verified" / f"{self.commit}.json", json.dumps(self.files))


def open_snapshot(repository: str, revision: str | None, patterns: tuple[str, ...] = WANTED) -> Snapshot:
    """A branch, tag or commit as the cache knows it, complete or not, without a request."""
    check_settings()
    from huggingface_hub import constants

    storage = Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *repository.split("/")])
    at, revision = f"hub id {repository}" + (f" at revision {revision}" if revision else ""), revision or "main"
    found = Snapshot(at, repository, revision, patterns, storage, revision, {})
    if ".." in revision or revision.startswith("/"):
        raise Error(f"{at}: is no revision, expected a branch, tag or commit: check it")
    with suppress(OSError, ValueError, TypeError, AttributeError):  # missing, or damaged: as good as none
        if not COMMIT.fullmatch(revision):
            found = found._replace(commit=(storage / "refs" / revision).read_text().strip())
        rows = json.loads((storage / ".verified" / f"{found.commit}.json").read_text())
        found.files.update({name: File(int(size), str(sha), int(time)) for name, (size, sha, time) in rows.items()})
    return found


def find_snapshot(repository: str, revision: str | None = None, patterns: tuple[str, ...] = WANTED) -> Snapshot:
    """A commit as the hub lists it; as the cache knows it where the hub is not needed, or does not answer."""
    known = open_snapshot(repository, revision, patterns)
    if known.files and known.commit == revision and all(map(known.is_verified, known.names())):
        return known
    try:
        return ask(known)
    except Error as error:
        if isinstance(error, NoSuchRevision) or not known.files:
            raise
        if lacking := known.lacking():
            raise Error(f"{error} (the cache lacks {lacking[0]}{' and others' * (len(lacking) > 1)})") from None
        return known


def ask(known: Snapshot) -> Snapshot:
    """What the hub says of a revision: its commit, and the size and hash of every file, in one request."""
    from huggingface_hub import HfApi, constants

    check_settings(online=True)
    check_token_file(constants.HF_TOKEN_PATH)
    options: Any = dict(revision=known.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, files_metadata=True)
    files: dict[str, File] = {}
    try:
        answer: Any = HfApi().model_info(known.repository, **options)
        if not COMMIT.fullmatch(answer.sha):
            raise ValueError(f"the commit {answer.sha}")
        for row in answer.siblings:  # large files have a sha256 of their own, small ones git's id
            size, digest = (row.lfs.size, row.lfs.sha256) if row.lfs else (row.size, row.blob_id)
            files[row.rfilename] = File(int(size), bytes.fromhex(digest).hex())
    except Exception as error:  # whatever the transport raises, and what a mirror may send instead of a list
        raise explained(known.at, error) from None
    for needed in ("*.safetensors", "config.json"):
        if not fnmatch.filter(files, needed):
            raise Error(f"{known.at}: the hub has no {needed} there, expected both: choose another id")
    before = open_snapshot(known.repository, answer.sha).files
    files |= {name: file for name, file in before.items() if file[:2] == files.get(name, ())[:2]}
    return known._replace(commit=answer.sha, files=files, reached=True)


def fetch(snapshot: Snapshot, tell: Callable[[str], object] = lambda name: None) -> Path:
    """The folder, once all that is wanted is here and right; `tell` hears each name. Error: whatever prevents that."""
    coming, free = snapshot.room()
    if coming > free:
        found = f"{coming:,} bytes are to come and {free:,} are free at {snapshot.storage.parent}"
        raise Error(f"{snapshot.at}: {found}, expected room for all: make room, or set HF_HUB_CACHE to another disk")
    for name in snapshot.names():
        if not snapshot.is_verified(name):
            obtain(snapshot, name)
        tell(name)
    if snapshot.revision != snapshot.commit:  # only now: until then the branch leads to what was there before
        write(snapshot.storage / "refs" / snapshot.revision, snapshot.commit)
    return snapshot.folder


def obtain(snapshot: Snapshot, name: str) -> None:
    """One file, hashed. A wrong one leaves the cache, and where it was here before it is fetched once more."""
    from huggingface_hub import hf_hub_download

    path = snapshot.folder / name
    if not (was_here := path.is_file()):
        try:
            hf_hub_download(snapshot.repository, name, revision=snapshot.commit)
        except Exception as error:
            raise explained(snapshot.at, error, name) from None
    right, found = judge(path, snapshot.files[name])
    if right:
        return snapshot.note(name, right)
    blob, homes = path.resolve(), [place.resolve() for place in (snapshot.storage, snapshot.storage.parent)]
    for place in (path, blob) if any(map(blob.is_relative_to, homes)) else (path,):  # never a file of your own
        with suppress(OSError):
            place.unlink(missing_ok=True)
    if was_here and snapshot.reached and not path.is_file():
        return obtain(snapshot, name)
    stuck = f", and cannot be taken out of the cache: remove {path} yourself"
    gone = ": it was taken out of the cache, try again, or set another HF_ENDPOINT"
    raise Error(f"{snapshot.at}: {name} {found}{stuck if path.is_file() else gone}")


def judge(path: Path, file: File) -> tuple[bool, str]:
    """Whether a file, wherever it lies, has the content that the hub lists, and what was found."""
    kind = "sha256" if len(file.digest) == 64 else "git's sha1"
    try:
        if (size := path.stat().st_size) != file.size:
            return False, f"has {size:,} bytes, expected {file.size:,}"
        start, new = (b"", hashlib.sha256) if kind == "sha256" else (b"blob %d\0" % size, hashlib.sha1)  # as git does
        with path.open("rb") as content:
            found = hashlib.file_digest(content, lambda: new(start, usedforsecurity=False)).hexdigest()
    except OSError as error:
        return False, f"cannot be read ({error.strerror}), expected the file that the hub lists"
    right = found == file.digest
    return right, f"{kind} ok" if right else f"has {kind} {found[:12]}..., expected the hub's {file.digest[:12]}..."


def write(path: Path, text: str) -> None:
    """Writes a small file whole, or not at all where that cannot be."""
    aside = path.with_name(f"{path.name}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.replace(path)
