"""Every file of a checkpoint held against what is known of it, hashed anew: `qwen3-scratch verify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from ..errors import Error
from ..hub import chosen, find_local
from ..hub.download import Snapshot, ask, judge, open_snapshot
from ..trust.shards import tensor_files
from .config_json import read_config
from .weights import all_finite, check_tensors


class Verdict(NamedTuple):
    """Of one file: `right` is None where nothing is known that it could be held against."""

    name: str
    size: int | None  # bytes; None where there is no file
    right: bool | None
    found: str


def verify(
    name: str | Path | None = None, revision: str | None = None, against: str | None = None
) -> tuple[Path, Iterator[Verdict]]:
    """The folder of a checkpoint, and one verdict a file while they are hashed.

    A hub id is looked for in the cache, and held against the hashes that came with it: no request is made. A folder
    of one's own is held against the hub id `against`, which is asked; without it against nothing, and then its
    config, the names and shapes of its tensors, and that all numbers are finite are checked.

    Raises:
        Error: nothing to verify, a hub that does not answer, or contents that are no checkpoint's.
    """
    name = chosen(name)
    folder = find_local(name)
    if folder is None:
        if against is not None:
            raise Error(f"--against {against} is for a folder, expected a folder instead of {name}: leave it out")
        snapshot = open_snapshot(str(name), revision)
        if not snapshot.files:
            raise Error(f"{snapshot.at}: not in the cache, expected a download: download it first")
        return snapshot.folder, cached_verdicts(snapshot)
    if against is None:
        return folder, own_verdicts(folder)
    if find_local(against) is not None:
        raise Error(f"--against {against} is a folder of this machine, expected a hub id 'owner/name': name the origin")
    return folder, compared_verdicts(folder, ask(open_snapshot(against, revision)))


def cached_verdicts(snapshot: Snapshot) -> Iterator[Verdict]:
    """Those of a commit in the cache. A file that is wrong is noted, so that the next download fetches it anew."""
    for name in snapshot.names():
        found = judged(snapshot, snapshot.folder / name)
        snapshot.note(name, bool(found.right))
        yield found


def compared_verdicts(folder: Path, snapshot: Snapshot) -> Iterator[Verdict]:
    """Those of a folder beside the hub's list; what the hub does not have is not checked."""
    names = snapshot.names()
    for name in names:
        yield judged(snapshot, folder / name)
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in names):
        yield Verdict(path.name, path.stat().st_size, None, "not checked: the hub has no such file")


def judged(snapshot: Snapshot, path: Path) -> Verdict:
    if not path.is_file():
        return Verdict(path.name, None, False, "missing")
    right, found = judge(path, snapshot.files[path.name])
    return Verdict(path.name, path.stat().st_size, right, found if right else f"wrong: {found}")


def own_verdicts(folder: Path) -> Iterator[Verdict]:
    """Those of a folder that nobody has told us hashes of: what can be said of its contents."""
    config, files = read_config(folder), tensor_files(folder)
    check_tensors(files, config)
    weights = sorted(set(files.values()))
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path not in weights):
        yield Verdict(path.name, path.stat().st_size, None, "not checked: no hash to hold it against")
    for path in weights:
        names = [name for name, file in files.items() if file == path]
        found = f"{len(names)} tensors of the right shapes, all finite; no hash to hold it against"
        if wrong := not_finite(path, names):
            found = f"wrong: tensor {wrong} holds NaN or infinity"
        yield Verdict(path.name, path.stat().st_size, False if wrong else None, found)


def not_finite(path: Path, names: list[str]) -> str | None:
    """The first tensor of a file that holds NaN or infinity."""
    with safe_open(path, framework="pt") as opened:
        return next((name for name in names if not all_finite(opened.get_tensor(name))), None)
