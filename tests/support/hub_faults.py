"""Faults of a hub, to be set as `StandInHub.fault`; and a stage on which the package meets that hub and no other."""

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import checkpoint
from huggingface_hub import constants, file_download
from stand_in_hub import Answer, Fault, StandInHub, digest, git_digest, well

from qwen3_scratch import save_checkpoint

ABOUT, FILE, LARGE = "about", "file", "large"  # where a fault strikes: the list, a file's name, a large file's bytes
WEIGHTS = "model.safetensors"


def at(routes: str | Sequence[str], does: Callable[[Answer, Path | None], object], name: str | None = None) -> Fault:
    """A fault of some routes, of one file if `name` is given."""

    def fault(answer: Answer, route: str, path: Path | None) -> bool:
        if route not in routes or (name is not None and (path is None or path.name != name)):
            return False
        does(answer, path)
        return True

    return fault


def refused(status: int, reason: str = "", message: str = "") -> Callable[[Answer, Path | None], object]:
    return lambda answer, path: answer.refuse(status, reason, message)


def silent(answer: Answer, path: Path | None) -> None:
    answer.server.stopped.wait(120)
    answer.close_connection = True


def hangs_up(answer: Answer, path: Path | None) -> None:
    answer.close_connection = True


def circle(answer: Answer, path: Path | None) -> None:
    answer.begin(302, {"Location": f"{answer.server.url}{answer.path}", "Content-Length": "0"})


def says(text: str) -> Callable[[Answer, Path | None], None]:
    def answer_so(answer: Answer, path: Path | None) -> None:
        answer.begin(200, {"Content-Type": "text/html", "Content-Length": str(len(text))})
        answer.wfile.write(text.encode())

    return answer_so


def lists(change: Callable[[dict], object]) -> Callable[[Answer, Path | None], None]:
    """The hub's list of files, changed."""

    def answer_so(answer: Answer, path: Path | None) -> None:
        as_json = answer.as_json
        answer.as_json = lambda found: as_json(change(found) or found)
        repository = re.match(r"/api/models/([^/]+/[^/]+)", answer.path)[1]
        try:
            answer.about(repository, answer.server.files(repository))
        finally:
            del answer.as_json  # the connection goes on

    return answer_so


def body(change: Callable[[bytes], bytes]) -> Callable[[Answer, Path], None]:
    """Another content under the true hash; its length is what the headers say."""

    def answer_so(answer: Answer, path: Path) -> None:
        name = digest(path) if path.suffix == ".safetensors" else git_digest(path)
        answer.content(change(path.read_bytes()), name)

    return answer_so


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def delivered(deliver: Callable[[Answer, bytes], None]) -> Callable[[Answer, Path], None]:
    """The true headers and content, and another way of sending it."""
    return lambda answer, path: answer.content(path.read_bytes(), digest(path), deliver)


def half(answer: Answer, content: bytes) -> None:
    answer.wfile.write(content[: len(content) // 2])
    answer.close_connection = True


def stalls(answer: Answer, content: bytes) -> None:
    answer.wfile.write(content[: len(content) // 2])
    silent(answer, None)


def once(fault: Fault) -> Fault:
    """The fault strikes one time."""
    left = [fault]

    def strike(answer: Answer, route: str, path: Path | None) -> bool:
        if left and left[0](answer, route, path):
            left.clear()
            return True
        return False

    return strike


# ---- the stage ----------------------------------------------------------------------------------


@contextmanager
def hub_with(name: str, folder: Path) -> Iterator[StandInHub]:
    """A hub with one repository, a small random checkpoint that is made in `folder`."""
    save_checkpoint(checkpoint(seed=8), folder)
    with StandInHub({name: folder}) as hub:
        yield hub


def stage(hub: StandInHub, cache: Path, monkeypatch: Any) -> Path:
    """The hub without a fault is the only one, and the cache an empty folder."""
    hub.fault = well
    point_to(hub.url, monkeypatch)
    return empty_cache(cache, monkeypatch)


def point_to(url: str, monkeypatch: Any) -> None:
    """Says where the hub is: its library reads the environment only once."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def empty_cache(folder: Path, monkeypatch: Any) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


def hurry(monkeypatch: Any) -> None:
    """Retries follow each other at once, and silence is noticed soon."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.5)


@contextmanager
def offline() -> Iterator[None]:
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def half_files(cache: Path) -> list[Path]:
    """What is no whole file: the names that unfinished ones bear."""
    return [path for path in cache.rglob("*") if path.name.endswith((".incomplete", ".part", ".tmp"))]


def fetches(hub: StandInHub) -> int:
    return sum("/resolve/" in asked.path or "/large/" in asked.path for asked in hub.asked)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
