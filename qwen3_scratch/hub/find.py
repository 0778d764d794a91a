"""A name becomes a local folder."""

import os
import re
from pathlib import Path

from ..errors import Error, of_kind, shown
from .download import WANTED, fetch, find_snapshot

EMBEDDED = {"tiny": "tiny-moe"}
ADDRESS = re.compile(  # of a model on the hub, as a browser or another tool has it: owner/name, and what may follow
    r"(?:https?://[^/]+/|hf://|(?:huggingface|hf)\.co/)?(?:models/)?(\w[\w.-]*/\w[\w.-]*)"
    r"(?:[@:]([\w./-]+)|/|/(?:tree|blob|resolve)/.*)?"
)


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
    if name is None:
        return os.environ.get("QWEN3_SCRATCH_MODEL") or "tiny"
    of_kind("load_checkpoint", "name_or_path", name, str, os.PathLike)
    if not str(name):  # as a variable that is not set leaves it
        raise Error("name_or_path is '', expected a name: leave it out for the embedded checkpoint, or name another")
    return name


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
    expected = "expected 'tiny', a folder, or a hub id 'owner/name'"
    raise Error(f"{name}: no such folder, {expected}: {meant(str(name)) or 'check the name'}")


def meant(name: str) -> str | None:
    """What somebody may mean by a name that is none: an address, a folder of the hub's cache, another spelling."""
    plain = name.strip().rstrip("/")
    if plain.lower() in EMBEDDED:
        return f"perhaps you mean {plain.lower()}"
    if plain.startswith("models--"):
        plain = plain.removeprefix("models--").replace("--", "/")
    if (found := ADDRESS.fullmatch(plain)) is None:
        return None
    return f"perhaps you mean {found[1]}" + (f", and revision {shown(found[2])}" if found[2] else "")


def embedded_folder(name: str) -> Path:
    """Where the embedded checkpoint lies: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "data" / EMBEDDED[name], package / "data" / EMBEDDED[name]):
        if (folder / "config.json").exists():
            return folder
    raise Error(f"{name}: the embedded checkpoint is not installed, expected data/{EMBEDDED[name]}: install again")
