"""A name becomes a local folder: the embedded checkpoint, a folder of your own, or an id on the Hugging Face hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import Error

VARIABLE = "QWEN3_SCRATCH_MODEL"
EMBEDDED = {"tiny": "tiny-moe"}
WANTED = ("*.json", "*.safetensors", "*.jinja")  # never pickles, never code


def find_folder(name: str | Path | None = None, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Path:
    """The folder of a checkpoint: `tiny`, a path, or `owner/name` on the hub, of which `wanted` is downloaded once.

    None asks the environment variable QWEN3_SCRATCH_MODEL, else takes `tiny`.

    Raises:
        Error: none of these, or a hub that cannot be reached, does not know the name, or does not let you in.
    """
    name = name or os.environ.get(VARIABLE) or "tiny"
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
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", str(name)):
        return download(str(name), revision, wanted)
    raise Error(f"{name}: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': check the name")


def embedded_folder(name: str) -> Path:
    """Where the embedded checkpoint lies: beside the package in a checkout, inside it once installed."""
    here = Path(__file__).parent
    for folder in (here.parent / "data" / EMBEDDED[name], here / "data" / EMBEDDED[name]):
        if (folder / "config.json").exists():
            return folder
    raise Error(f"{name}: the embedded checkpoint is not installed, expected data/{EMBEDDED[name]}: install again")


def download(repository: str, revision: str | None = None, wanted: Sequence[str] = WANTED) -> Path:
    """The newest snapshot of a hub repository, or of a revision, from the cache where it is complete there."""
    import huggingface_hub as hub  # half a second, wanted only here
    from huggingface_hub import errors

    at = f"hub id {repository}" + (f" at revision {revision}" if revision else "")
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(wanted)))
    except errors.GatedRepoError:
        raise Error(f"{at}: is gated, expected an account with access: accept its terms and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise Error(
            f"{at}: the hub knows no such repository, or it is private: check the spelling and HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise Error(f"{at}: the hub knows no such revision, expected a branch, tag or commit: check it") from None
    except errors.LocalEntryNotFoundError:
        raise Error(f"{at}: not in the cache and the hub cannot be reached: connect, or name a local folder") from None
    except Exception as error:  # whatever the transport raises: the cache holds no half file under a final name
        raise Error(f"{at}: the download failed ({type(error).__name__}: {error}): try again") from None
