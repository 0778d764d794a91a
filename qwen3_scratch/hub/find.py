"""A name becomes a local folder: the embedded checkpoint, a folder of your own, or an id on the Hugging Face hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import Error
from .download import WANTED, download

VARIABLE = "QWEN3_SCRATCH_MODEL"
EMBEDDED = {"tiny": "tiny-moe"}
HUB_ID = r"[\w][\w.-]*/[\w][\w.-]*"


def find_folder(name: str | Path | None = None, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Path:
    """The folder of a checkpoint: `tiny`, a path, or `owner/name` on the hub, of which `wanted` is downloaded once.

    None asks the environment variable QWEN3_SCRATCH_MODEL, else takes `tiny`. A folder from the hub is complete, and
    its files are held against the hub's hashes (`download`); folders of your own are handed out as they are.

    Raises:
        Error: none of these, or a hub that cannot be reached, does not know the name, or does not let you in.
    """
    name = chosen(name)
    return find_local(name) or download(str(name), revision, wanted)


def chosen(name: str | Path | None = None) -> str | Path:
    """What stands for None: the environment variable, else the embedded checkpoint."""
    return name or os.environ.get(VARIABLE) or "tiny"


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
    if re.fullmatch(HUB_ID, str(name)):
        return None
    raise Error(f"{name}: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': check the name")


def embedded_folder(name: str) -> Path:
    """Where the embedded checkpoint lies: beside the package in a checkout, inside it once installed."""
    here = Path(__file__).parents[1]
    for folder in (here.parent / "data" / EMBEDDED[name], here / "data" / EMBEDDED[name]):
        if (folder / "config.json").exists():
            return folder
    raise Error(f"{name}: the embedded checkpoint is not installed, expected data/{EMBEDDED[name]}: install again")
