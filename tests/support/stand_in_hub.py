"""A hub on this machine: folders served as repositories, with the answers that huggingface_hub asks for.

    with StandInHub({"owner/name": folder}) as hub:
        ...  # hub.url for HF_ENDPOINT, hub.asked for what was asked

Large files are kept as the hub keeps them: their name leads on to another address, which delivers any range of bytes.
`hub.fault` is a switch: while it is set, that function (`hub_faults.py`) is asked first and may answer in its own way.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

SHA = "0123456789abcdef0123456789abcdef01234567"  # the one commit of every repository
LARGE = (".safetensors", ".bin")  # kept in LFS
ROUTES = (  # in this order: the first that fits answers
    (r"/api/models/(?P<repository>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "about"),
    (r"/api/models/(?P<repository>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
    (r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "file"),
    (r"/large/(?P<repository>[^/]+/[^/]+)/(?P<name>.+)", "large"),
)


# What is answering, the route (about, tree, file, large), the file that is asked for if any -> whether it has answered.
Fault = Callable[["Answer", str, Path | None], bool]


class Asked(NamedTuple):
    """One request: GET or HEAD, the path without its query, and the Range header, or None."""

    method: str
    path: str
    range: str | None


class StandInHub(ThreadingHTTPServer):
    """Serves `repositories`, id -> folder, on loopback while it is entered.

    `refused` maps an id to the status and the X-Error-Code that it is refused with; an unknown id is 404 anyway.
    Every repository has one commit, `commit`, which `main` and the tag `v1` name. `stopped` is set in the end, so that
    no fault waits longer.
    """

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Path], refused: Mapping[str, tuple[int, str]] | None = None):
        self.repositories, self.refused = dict(repositories), dict(refused or {})
        self.asked: list[Asked] = []
        self.commit, self.stopped = SHA, threading.Event()
        self.fault: Fault = well
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}"  # another host by its name, as the hub's storage is

    def __enter__(self) -> "StandInHub":
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def files(self, repository: str) -> dict[str, Path]:
        """The files of a repository by their names in it."""
        folder = self.repositories[repository]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        found = (
            re.fullmatch(r"/(?:[^/]+/[^/]+/resolve/[^/]+|large/[^/]+/[^/]+)/(.+)", asked.path) for asked in self.asked
        )
        return {match[1] for match, asked in zip(found, self.asked, strict=True) if match and asked.method == "GET"}


class Answer(BaseHTTPRequestHandler):
    """One connection; `do_GET` finds the route, and each route has a method."""

    protocol_version = "HTTP/1.1"
    server: StandInHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(Asked(self.command, path, self.headers.get("Range")))
        for pattern, route in ROUTES:
            if match := re.fullmatch(pattern, path):
                return self.checked(route, match.groupdict())
        self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def checked(self, route: str, found: dict[str, str]) -> None:
        """Runs a route once its repository, revision and file are known to exist."""
        repository = found["repository"]
        if repository in self.server.refused:
            return self.refuse(*self.server.refused[repository])
        if repository not in self.server.repositories:
            return self.refuse(404, "RepoNotFound")
        files = self.server.files(repository)
        if self.server.fault(self, route, files.get(found.get("name", ""))):
            return None
        if found.get("revision") not in (None, "main", "v1", self.server.commit):
            return self.refuse(404, "RevisionNotFound")
        if "name" not in found:
            return getattr(self, route)(repository, files)
        if found["name"] not in files:
            return self.refuse(404, "EntryNotFound")
        getattr(self, route)(repository, found["name"], files[found["name"]])

    def about(self, repository: str, files: dict[str, Path]) -> None:
        siblings = [{"rfilename": name} for name in files]
        if "blobs=" in self.path:
            for row, path in zip(siblings, files.values(), strict=True):
                row |= {"size": path.stat().st_size, "blobId": git_digest(path)}
                if path.name.endswith(LARGE):
                    row["lfs"] = {"sha256": digest(path), "size": path.stat().st_size, "pointerSize": 135}
        self.as_json({"id": repository, "sha": self.server.commit, "siblings": siblings})

    def tree(self, repository: str, files: dict[str, Path]) -> None:
        rows = []
        for name, path in files.items():
            row = {"type": "file", "path": name, "size": path.stat().st_size, "oid": git_digest(path)}
            if name.endswith(LARGE):
                row["lfs"] = {"oid": digest(path), "size": path.stat().st_size, "pointerSize": 135}
            rows.append(row)
        self.as_json(rows)

    def file(self, repository: str, name: str, path: Path) -> None:
        """A small file at once; for a large one, its size, its hash, and where it lies."""
        if not name.endswith(LARGE):
            return self.content(path.read_bytes(), git_digest(path))
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{digest(path)}"'}
        location = {
            "Location": f"{self.server.elsewhere}/large/{repository}/{name}",
            "X-Repo-Commit": self.server.commit,
        }
        self.begin(302, {**linked, **location, "Content-Length": "0"})

    def large(self, repository: str, name: str, path: Path) -> None:
        self.content(path.read_bytes(), digest(path))

    def content(self, body: bytes, etag: str, deliver: Callable[["Answer", bytes], None] | None = None) -> None:
        """Headers, then all of the body or the range that was asked for, which `deliver` may write in its own way."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, stop = (int(asked[1]), int(asked[2] or len(body) - 1) + 1) if asked else (0, len(body))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.commit, "Accept-Ranges": "bytes"}
        headers["Content-Length"] = str(stop - start)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        self.begin(206 if asked else 200, headers)
        if self.command == "GET":
            deliver(self, body[start:stop]) if deliver else self.wfile.write(body[start:stop])

    def as_json(self, found: object) -> None:
        content = json.dumps(found).encode()
        self.begin(200, {"Content-Type": "application/json", "Content-Length": str(len(content))})
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, status: int, reason: str, message: str = "") -> None:
        said = {"X-Error-Code": reason, "X-Error-Message": message}
        self.begin(status, {"Content-Length": "0", **{name: text for name, text in said.items() if text}})

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def well(answer: Answer, route: str, path: Path | None) -> bool:
    """No fault: the route answers."""
    return False


def digest(path: Path) -> str:
    """The name of a large file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_digest(path: Path) -> str:
    """The name of a small one's, as `git hash-object` gives it."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
