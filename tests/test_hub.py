"""A name becomes a folder: embedded, one's own, or downloaded once; whatever goes wrong is one sentence, soon."""

import hashlib
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import TINY, checkpoint, finished

from qwen3_scratch import Error, load_checkpoint, read_config, save_checkpoint
from qwen3_scratch import hub as hub_module
from qwen3_scratch.hub import embedded_folder, find_folder

SHA = "0123456789abcdef0123456789abcdef01234567"
OFFLINE = "hub id owner/name: not in the cache and the hub cannot be reached: connect, or name a local folder"

# ---- what needs no network ----------------------------------------------------------------------


def test_tiny_is_the_embedded_checkpoint():
    assert find_folder("tiny") == TINY and (TINY / "config.json").exists()


def test_a_path_of_any_kind_is_a_folder_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for name in (tmp_path, str(tmp_path), f"{tmp_path}/", tmp_path / "owner/name"):
        assert find_folder(name) == Path(name)
    monkeypatch.chdir(tmp_path)
    assert find_folder("owner/name") == Path("owner/name"), "what is here comes before what is on the hub"
    assert find_folder("./owner") == Path("owner")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~/owner/name") == tmp_path / "owner" / "name"
    (tmp_path / "tiny").mkdir()
    assert find_folder("tiny") == TINY and find_folder("./tiny") == Path("tiny")


NAMES = [
    ("/no/such/folder", "/no/such/folder: no such folder, expected 'tiny', a folder, or a hub id 'owner/name'"),
    ("huge", "huge: no such folder, expected 'tiny', a folder, or a hub id 'owner/name': check the name"),
    ("a/b/c", "a/b/c: no such folder, expected"),
    ("../x", "../x: no such folder, expected"),
    ("owner/", "owner/: no such folder, expected"),
    ("who has/the kite", "who has/the kite: no such folder, expected"),
    ("x" * 5000, f"{'x' * 5000}: cannot be looked up ([Errno 36] File name too long"),
    ("~no_such_person/x", "~no_such_person/x: cannot be looked up (Could not determine home directory"),
    ("a\0b", "a\0b: "),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=[name[:20] for name, _ in NAMES])
def test_what_is_neither_is_an_error_without_a_look_at_the_network(name, message, monkeypatch):
    monkeypatch.setattr(hub_module, "download", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(Error) as caught:
        find_folder(name)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    message = f"{tmp_path}/model.safetensors: is a file, expected a checkpoint's folder: name the folder that holds"
    with pytest.raises(Error, match=f"^{re.escape(message)} config\\.json$"):
        find_folder(tmp_path / "model.safetensors")


@pytest.mark.parametrize("place", ["data/tiny-moe", "qwen3_scratch/data/tiny-moe"])
def test_the_embedded_checkpoint_lies_beside_the_package_or_inside_it(place, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "__file__", str(tmp_path / "qwen3_scratch" / "hub.py"))
    with pytest.raises(
        Error, match=r"^tiny: the embedded checkpoint is not installed, expected data/tiny-moe: install"
    ):
        embedded_folder("tiny")
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "config.json").touch()
    assert find_folder("tiny") == tmp_path / place


# ---- a hub on this machine ----------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Stands in for the hub: one repository `owner/name`, some that refuse, and a list of what it was asked for."""

    def __init__(self, folder: Path):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        name = path.rpartition("/")[2]
        if refused := re.search(r"/owner/(gated|missing|broken)\b", path):
            code, reason = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "broken": (500, "")}[
                refused[1]
            ]
            return self.reply(b"{}", code, {"X-Error-Code": reason} if reason else {})
        if "/revision/" in path and name not in ("main", SHA):
            return self.reply(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        if "/revision/" in path:
            siblings = [{"rfilename": file} for file in self.server.files]
            return self.reply(json.dumps({"id": "owner/name", "sha": SHA, "siblings": siblings}).encode())
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.server.files.items()
            ]
            return self.reply(json.dumps(rows).encode())
        content = self.server.files[name]
        return self.reply(content, 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA})

    do_HEAD = do_GET

    def reply(self, content: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    save_checkpoint(checkpoint(seed=8), folder)
    for name in ("pytorch_model.bin", "modeling_evil.py", "README.md"):
        (folder / name).write_text("not wanted")
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a way to say where the hub is: its own module reads the environment only once."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def point_to(url: str, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_hub_id_is_downloaded_once_without_pickles_and_code(remote, cache, monkeypatch):
    point_to(remote.url, monkeypatch)
    folder = find_folder("owner/name")
    assert folder.is_relative_to(cache) and folder.name == SHA
    wanted = {name for name in remote.files if name.endswith((".json", ".safetensors"))}
    assert {path.name for path in folder.iterdir()} == wanted and "model.safetensors" in wanted
    assert load_checkpoint("owner/name").config == read_config(folder) == checkpoint(seed=8).config
    before = [path for path in remote.asked if "/resolve/" in path]
    assert find_folder("owner/name") == folder
    assert [path for path in remote.asked if "/resolve/" in path] == before, "a second time no file is fetched"
    count = len(remote.asked)
    assert find_folder("owner/name", SHA) == folder and len(remote.asked) == count, "a known commit costs no request"
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    assert find_folder("owner/name") == folder, "what is in the cache needs no hub"


REFUSALS = [
    ("owner/gated", None, "hub id owner/gated: is gated, expected an account with access: accept its terms"),
    ("owner/missing", None, "hub id owner/missing: the hub knows no such repository, or it is private: check"),
    ("owner/name", "v9", "hub id owner/name at revision v9: the hub knows no such revision, expected a branch, tag or"),
    ("owner/broken", None, "hub id owner/broken: "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "revision", "message"), REFUSALS)
def test_what_the_hub_refuses_is_one_sentence_that_says_what_to_do(remote, cache, monkeypatch, name, revision, message):
    point_to(remote.url, monkeypatch)
    with pytest.raises(Error) as caught:
        find_folder(name, revision)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_sentence_within_seconds(cache, monkeypatch):
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    began = time.monotonic()
    with pytest.raises(Error) as caught:
        find_folder("owner/name")
    assert str(caught.value) == OFFLINE and time.monotonic() - began < 5


def test_a_hub_that_hangs_up_in_the_middle_is_an_error_that_leaves_no_half_file(remote, cache, monkeypatch):
    point_to(remote.url, monkeypatch)

    def cut(self, content, code=200, headers=None):
        if "/resolve/" in self.path and self.command == "GET" and len(content) > 1000:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            reply(self, content, code, headers)

    reply = Answer.reply
    monkeypatch.setattr(Answer, "reply", cut)
    with pytest.raises(Error, match=r"^hub id owner/name: ") as caught:
        find_folder("owner/name")
    assert "\n" not in str(caught.value)
    assert not any(path.name == "model.safetensors" for path in cache.rglob("*"))
    monkeypatch.setattr(Answer, "reply", reply)
    assert load_checkpoint("owner/name").config == checkpoint(seed=8).config, "the next call fetches it whole"


def test_the_terminal_says_so_in_one_line_when_it_is_told_to_stay_offline(tmp_path):
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = finished("-m", "qwen3_scratch", "generate", "Hi", "--model", "owner/name", env=env)
    assert (found.code, found.out, found.err) == (1, "", f"error: {OFFLINE}\n")
