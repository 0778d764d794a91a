"""Each environment variable that leads to the hub: with a wrong value it is named, with a right one it works."""

import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers import finished
from hub_faults import closed_port, contents, hub_with, hurry, offline, point_to, stage
from huggingface_hub import close_session, constants

from qwen3_scratch import Error
from qwen3_scratch.hub.find import find_folder
from qwen3_scratch.hub.settings import ONLINE, READ_AT_ONCE

NAME = "owner/name"
ADDRESS, PROXY = "an address such as https://huggingface.co", "an address such as http://proxy.example:3128"
SECONDS, SWITCH = "a whole number of seconds, at least 1", "1 or 0"
STANDS = "a folder, in which every ~ and $ stands for something"
WORD = "one word of ASCII, with no blank and no line break within"
WRONG = [
    *(("HF_ENDPOINT", value, ADDRESS) for value in (
        "", " ", "huggingface.co", "https://", "ftp://hub.example", "http://127.0.0.1:80 ", "http://hub.example:port",
        "http://hub.example:99999", "http://hub.example:0", "http://[1", "http://hub.example/a b", "http://h\tub",
    )),
    *((name, value, SECONDS) for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
      for value in ("", "soon", "0", "-1", "1.5", "10s", "1e3", "9" * 30)),
    *((name, value, STANDS) for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
      for value in ("~nosuch", "~nosuch/cache", "$NOSUCH/cache", " ")),
    ("HF_HOME", "", STANDS),
    ("HF_HUB_CACHE", __file__, f"a folder, but {__file__} is none"),
    ("HF_HOME", f"{__file__}/cache", f"a folder, but {__file__} is none"),
    *((name, value, SWITCH) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") for value in ("ture", "2", " 1")),
    *((name, value, WORD) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
      for value in ("hf_a\nb", "hf a", "hf_é", "hf_\x1b[31m", "Bearer hf_a")),
    *((name, value, PROXY) for name in ("HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") for value in (
        "http://proxy:port", "http://proxy:99999", "socks4://proxy:1", "//proxy", "http://", "http://[1", "proxy:8 0",
        "http://user:secret@proxy:port",
    )),
    ("SSL_CERT_FILE", "/no/such/file", "a file of certificates that can be read (No such file or directory)"),
    ("SSL_CERT_FILE", __file__, "a file of certificates in PEM form ("),
    ("SSL_CERT_FILE", os.path.dirname(__file__), "a file of certificates"),
    ("SSL_CERT_DIR", "/no/such/folder", "a folder of certificates"),
    ("SSLKEYLOGFILE", "/no/such/folder/keys", "a file that can be written"),
    ("SSLKEYLOGFILE", os.path.dirname(__file__), "a file that can be written"),
    ("HF_HUB_USER_AGENT_ORIGIN", "a\nb", "one line of ASCII"),
]  # fmt: skip
RIGHT = {
    "HF_TOKEN": ("", "hf_abc", "hf_abc\n", " hf_abc "),
    "HF_HUB_ETAG_TIMEOUT": ("1", "30", " 5 "),
    "HF_HUB_OFFLINE": ("", "0", "no", "False", "off"),
    "XDG_CACHE_HOME": ("", "/tmp/somewhere", "$HOME/cache", "~"),
    "HTTPS_PROXY": ("", "http://127.0.0.1:1", "127.0.0.1:1", "http://user:pass@proxy.example:3128"),
    "NO_PROXY": ("*", "[::1", "a b,,:99"),
    "SSL_CERT_FILE": ("",),
    "SSLKEYLOGFILE": ("", "/tmp/keys", os.devnull),
    "SSL_CERT_DIR": ("", os.path.dirname(__file__)),
}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with hub_with(NAME, tmp_path_factory.mktemp("remote")) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, remote, monkeypatch):
    for name in (*READ_AT_ONCE, *ONLINE, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    close_session()  # which remembers the proxies of the test before
    yield stage(remote, tmp_path / "cache", monkeypatch)
    close_session()


def said_of(find=lambda: find_folder(NAME)) -> str:
    with pytest.raises(Error) as caught:
        find()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_variable_that_means_nothing_is_named_with_what_was_found_and_expected(
    name, value, expected, cache, monkeypatch
):
    monkeypatch.setenv(name, value)
    found = said_of()
    assert found.startswith(f"the environment variable {name} is ")
    assert f", expected {expected}" in found and found.endswith(": set it anew, or unset it")
    shown = found.removeprefix(f"the environment variable {name} is ").partition(", expected ")[0]
    assert "secret" not in found and ("TOKEN" in name) == (shown == "a text that cannot be shown")
    assert not cache.exists()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in RIGHT.items() for value in values])
def test_a_variable_that_means_something_is_left_to_the_library(name, value, cache, remote, monkeypatch):
    monkeypatch.setenv(name, value)
    assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])


def test_socks_needs_a_package_and_says_which(cache, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setattr("qwen3_scratch.hub.settings.find_spec", lambda name: None)
    assert "only beside the package socksio, which is not installed" in said_of()
    monkeypatch.setattr("qwen3_scratch.hub.settings.find_spec", lambda name: "it")
    monkeypatch.setenv("NO_PROXY", "*")
    assert find_folder(NAME).is_dir()


def test_what_is_in_the_cache_is_found_whatever_the_way_to_the_hub_is_set_to(cache, remote, monkeypatch):
    expected = find_folder(NAME)
    for name, value in (("HTTPS_PROXY", "http://proxy:port"), ("HF_TOKEN", "a b"), ("SSL_CERT_FILE", "/no/such")):
        monkeypatch.setenv(name, value)
        assert find_folder(NAME) == expected


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_though_connected_names_the_variable(name, cache, monkeypatch):
    monkeypatch.setenv(name, "1")
    with offline():
        found = said_of()
    assert f"the hub cannot be reached, since {name} forbids it: unset it, or name a local folder" in found


@pytest.mark.parametrize("content", [b"hf_a b", b"\xff\xfe", "hf_é".encode(), None])
def test_a_token_file_that_holds_none_is_named(content, cache, tmp_path):
    token = tmp_path / "token"
    token.write_bytes(content) if content is not None else token.mkdir()
    assert said_of().startswith(f"{token}: holds no token of the hub, expected ")


def test_a_proxy_that_is_not_there_is_named(cache, monkeypatch):
    hurry(monkeypatch)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    point_to("https://hub.invalid", monkeypatch)
    assert "the hub cannot be reached through the proxy of HTTPS_PROXY: connect, or" in said_of()


def test_a_proxy_that_refuses_is_named(cache, monkeypatch):
    hurry(monkeypatch)
    server = HTTPServer(("127.0.0.1", 0), type("Refusing", (BaseHTTPRequestHandler,), {
        "do_CONNECT": lambda self: self.send_error(407), "log_message": lambda *_: None}))  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
        point_to("https://hub.invalid", monkeypatch)
        assert re.search(r"the proxy of https_proxy does not let through to the hub \(407", said_of())
    finally:
        server.shutdown()
        server.server_close()


def test_https_where_only_http_is_spoken_is_said(cache, remote, monkeypatch):
    hurry(monkeypatch)
    point_to(remote.url.replace("http:", "https:"), monkeypatch)
    assert "what answers does not speak https (" in said_of()


def test_a_certificate_that_nobody_trusts_is_said(cache, monkeypatch):
    import ssl

    import huggingface_hub

    def model_info(*_, **__):
        raise OSError("within the transport") from ssl.SSLCertVerificationError("self-signed certificate")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert "the hub's certificate is not trusted (" in said_of()
    assert "set SSL_CERT_FILE to the file of who signed it" in said_of()


@pytest.mark.proof
@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_in_a_process_of_its_own_the_sentence_is_all_that_is_said(name, value, expected, tmp_path):
    said = finished(
        "-m", "qwen3_scratch", "generate", "--model", NAME, "Hi", cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), name: value},
    )  # fmt: skip
    assert (said.code, said.out) == (1, "")
    assert f"the environment variable {name} is " in " ".join(said.err.split())
    assert "Traceback" not in said.err
