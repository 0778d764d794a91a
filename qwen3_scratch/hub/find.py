"""A name becomes a local folder."""

import os
import re
from pathlib import Path

from ..errors import Error, of_kind, shown
from .download import WANTED, fetch, find_snapshot

EMBEDDED = {"tiny": "tiny-moe"}


def find_folder(name: str | Path | None = None, revision: str | None = None, wanted: tuple[str, ...] = WANTED) -> Path:
    """The folder of a checkpoint: `tiny`, a path, or `owner/name` on the hub, of which `wanted` is downloaded once.

    What came from the hub is whole and right, a folder of your own is handed out as it is. Error: neither is had.
    """
    name = chosen(name)
    if revision is not None:
        of_kind("load_checkpoint", "revision", revision, str)
    if (local := find_local(name)) is not None and revision is not None:
        raise Error(f"revision is {shown(revision)}, and {name} is a folder of this machine: leave revision out")
    return local or fetch(find_snapshot(str(name), revision, wanted))


def chosen(name: str | Path | None = None) -> str | Path:
    """What stands for None: the environment variable, else the embedded checkpoint."""
    if name is not None:
        of_kind("load_checkpoint", "name_or_path", name, str, os.PathLike)
    return name or os.environ.get("QWEN3_SCRATCH_MODEL") or "tiny"


def find_local(name: str | Path) -> Path | None:
    """The folder of `tiny` or of a path; None for what has the form of a hub id. Raises Error for anything else."""
    if str(name) in EMBEDDED:
        return embedded_folder(str(name))
    try:
        folder = Path(name).expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, not ours to look into, of an unknown person
        raise Error(f"{name}: cannot be looked up ({error}): check the name") from None
    if is_folder:
        return folder
    if exists:
        raise Error(f"{folder}: is a file, expected a checkpoint's folder: name the folder that holds config.json")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return None
    raise Error(f"{name}: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': check the name")


def embedded_folder(name: str) -> Path:
    """Where the embedded checkpoint lies: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "data" / EMBEDDED[name], package / "data" / EMBEDDED[name]):
        if (folder / "config.json").exists():
            return folder
    raise Error(f"{name}: the embedded checkpoint is not installed, expected data/{EMBEDDED[name]}: install again")
