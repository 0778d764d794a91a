"""A checkpoint's files, none of which is believed: what may be opened, how much is read, what of it is quoted."""

import codecs
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import Error, one_line, shown

LARGEST_JSON = 10_000_000  # bytes; config.json takes some thousand, and [[],[],[]...] takes 30 times its text in memory
LFS = b"version https://git-lfs"  # begins the note that git-lfs leaves in the place of a large file
MARKS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}  # of byte order
LARGEST_TABLE = 20_000_000  # bytes of an index or a header; the largest of the family, 36,000 tensors, takes 4 million
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def check_file(path: Path) -> os.stat_result:
    """What the system says of a file that may be opened: a plain one that lies in its folder.

    A link must lead to a place in the same folder, or into the blobs of the hub cache whose snapshot the folder is. The
    folder itself may be a link. Nothing is opened, so a pipe keeps nobody waiting. Raises Error for no such file, no
    plain file, or a link that leads elsewhere.
    """
    try:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(home) for home in _homes(path.parent)):
            advice = "a checkpoint could have any file of yours read this way, so copy the file here if you trust it"
            raise Error(f"{path}: is a link to {real}, expected a file of this folder: {advice}")
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise Error(f"{path}: is a link to {real}, which does not exist: fetch the file again") from None
        raise Error(f"{path}: no such file: a checkpoint folder has one, so check the path") from None
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from None
    except Error:
        raise
    except ValueError as error:  # a zero byte, or half a character, in the name
        raise Error(f"{shown(str(path))}: is no path ({one_line(error)}): check it") from None
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise Error(f"{path}: is {kind}, expected a file: fetch the checkpoint again")
    return found


def _homes(folder: Path) -> list[Path]:
    """Where the files of a folder may really lie: a hub cache keeps them in `blobs`, the repository's or its own."""
    root = Path(os.path.realpath(folder))
    caches = [up.parent for up in root.parents if up.name == "snapshots" and up.parent.name.startswith("models--")]
    return [root, *(Path(os.path.realpath(place / "blobs")) for cache in caches for place in (cache, cache.parent))]


def no_pointer(path: Path, file: BinaryIO) -> None:
    """Raises Error where an open file is git-lfs's note about one."""
    if file.read(len(LFS)) == LFS:
        found = "is a pointer of git-lfs, a note of some lines in the place of the file"
        raise Error(f"{path}: {found}, expected the file: run `git lfs pull` where it was cloned, or fetch it again")
    file.seek(0)


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file that `check_file` accepts and that holds at most so many bytes, else Error."""
    size = check_file(path).st_size
    if size <= most:
        try:
            with path.open("rb") as file:
                no_pointer(path, file)
                content = file.read(most + 1)  # a file may grow, or be one of /proc, which have no size
        except OSError as error:
            raise Error(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
        if len(content) <= most:
            return content
    raise Error(f"{path}: has {max(size, most + 1):,} bytes, expected at most {most:,}: fetch the file again")


def read_json(path: Path, most: int = LARGEST_JSON) -> dict[str, Any]:
    """A JSON object from a file of at most so many bytes, or one sentence that says what is there instead."""
    content = read_bytes(path, most)
    no_mark(path, content)
    try:
        return json_object(content)
    except ValueError as error:
        raise Error(f"{path}: {error}: fetch the file again") from None


def no_mark(path: Path, content: bytes) -> None:
    """Raises Error where JSON begins with a byte order mark, as editors of Windows write it."""
    if encoding := next((name for mark, name in MARKS.items() if content.startswith(mark)), None):
        expected = "expected JSON in UTF-8 without one, as transformers expects it"
        raise Error(f"{path}: begins with the byte order mark of {encoding}, {expected}: save it again as plain UTF-8")


def json_object(content: bytes) -> dict[str, Any]:
    """A JSON object, in which no key stands twice: of two readers one might take the first, the other the last.

    Raises ValueError, which says what is there instead.
    """
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError, MemoryError) as error:  # ValueError: no UTF-8, no JSON, 5,000 digits
        raise ValueError(f"cannot be read as JSON ({one_line(error) or 'not enough memory'})") from None
    if not isinstance(found, dict):
        raise ValueError(f"holds a JSON {type(found).__name__}, expected an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} stands twice")
    return found
