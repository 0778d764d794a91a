"""`download`, `verify` and `info` on a hub of this machine, and how a command ends that is told to."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import PATIENCE, ROOT, TINY, command, process, read_until
from hub_faults import LARGE, WEIGHTS, at, body, contents, delivered, flipped, half_files, hub_with, stage, stalls
from stand_in_hub import SHA, well

from qwen3_scratch.hub.find import find_folder
from qwen3_scratch.trust.memory import size_text

NAME = "owner/name"


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with hub_with(NAME, tmp_path_factory.mktemp("remote")) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path, remote, monkeypatch) -> Path:
    return stage(remote, tmp_path / "home" / "hub", monkeypatch)


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.delenv("QWEN3_SCRATCH_MODEL", raising=False)
    return lambda *words: command(monkeypatch, capsys, *words)


def test_download_tells_sizes_and_room_then_each_verified_file_and_answers_with_the_folder(run, remote, cache):
    sizes = {path.name: path.stat().st_size for path in remote.repositories[NAME].iterdir()}
    found = run("download", NAME)
    folder = cache / "models--owner--name" / "snapshots" / SHA
    assert (found.code, found.out) == (0, f"{folder}\n") and contents(folder) == contents(remote.repositories[NAME])
    told = found.err
    assert f"{NAME} at commit {SHA}\n" in told
    for name, size in sizes.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(size_text(size))}  to come$", told, flags=re.MULTILINE)
        assert f"\n  verified  {name}\n" in told
    assert re.search(
        rf"^{re.escape(size_text(sum(sizes.values())))} to come, \S+ .B free at ", told, flags=re.MULTILINE
    )
    assert told.index("free at") < told.index("verified  ")
    again = run("download", NAME, "--revision", SHA)
    assert again.out == found.out and "0 B to come" in again.err and "to come\n" not in again.err
    assert again.err.count("here, verified\n") == len(sizes) and "as the cache has it\n" in again.err


def test_download_of_what_is_here_has_nothing_to_do(run, tmp_path):
    for name, folder in (("tiny", TINY), (str(tmp_path), tmp_path)):
        found = run("download", name)
        assert (found.code, found.out) == (0, f"{folder}\n") and "nothing to download" in found.err


def test_a_flipped_byte_ends_the_download_with_one_line_and_exit_1(run, remote, cache):
    remote.fault = at(LARGE, body(flipped))
    found = run("download", NAME)
    assert (found.code, found.out) == (1, "") and "Traceback" not in found.err
    last = found.err.splitlines()[-1]
    assert last.startswith(f"error: hub id {NAME}: {WEIGHTS} has sha256 ") and last.endswith(
        "or set another HF_ENDPOINT"
    )


def test_verify_shows_a_verdict_a_file_and_exits_1_on_any_wrong_one(run, remote, cache):
    folder = find_folder(NAME)
    found = run("verify", NAME)
    lines = found.out.splitlines()
    assert (found.code, found.err, lines[0]) == (0, "", str(folder)) and len(lines) == 1 + len(contents(folder))
    assert re.fullmatch(rf"  {WEIGHTS} +\S+ kB  sha256 ok", lines[-1]) and all(
        line.endswith(" ok") for line in lines[1:]
    )
    blob = (folder / WEIGHTS).resolve()
    blob.write_bytes(flipped(blob.read_bytes()))
    found = run("verify", NAME)
    assert found.code == 1 and "  wrong: has sha256 " in found.out.splitlines()[-1]
    message = f"error: {folder}: {WEIGHTS} wrong or missing, expected what the hub has: download it again\n"
    assert found.err == message
    assert run("download", NAME).code == 0 and run("verify", NAME).code == 0


def test_verify_of_the_embedded_checkpoint_finds_nothing_wrong(run):
    found = run("verify")
    assert found.code == 0 and found.out.startswith(f"{TINY}\n") and "all finite" in found.out


def test_info_shows_which_commit_a_hub_id_stands_for(run, remote, cache):
    assert run("info", NAME).out.splitlines()[1] == f"commit {SHA} of {NAME}"
    assert run("info", NAME, "--expert-parallel", "2").out.splitlines()[0] == f"commit {SHA} of {NAME}"
    assert "commit" not in run("info", "tiny").out


# ---- how a process ends -------------------------------------------------------------------------


PIPES = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def settings(remote, cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": remote.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0", "QWEN3_SCRATCH_MODEL": ""}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_download_that_is_stopped_leaves_no_half_file_and_the_next_one_is_right(number, code, remote, cache):
    remote.fault = at(LARGE, delivered(stalls))
    running = process("-m", "qwen3_scratch", "download", NAME, env=settings(remote, cache), **PIPES)
    try:
        until = time.monotonic() + 300
        while not list(cache.rglob("*.incomplete")) or WEIGHTS not in remote.fetched():
            assert running.poll() is None and time.monotonic() < until, running.communicate()
            time.sleep(0.05)
        running.send_signal(number)
        out, err = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert (running.returncode, out) == (code, "") and "Traceback" not in err
    assert half_files(cache) == [] and not list(cache.rglob(WEIGHTS))
    remote.fault = well
    assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])


def test_a_limit_of_the_disk_ends_the_download_in_one_sentence_and_leaves_nothing(remote, cache):
    """A real limit of the system on a file's size stands in for a disk that fills up."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    env = {
        **os.environ,
        "HF_ENDPOINT": remote.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-m", "qwen3_scratch", "download", NAME]
    found = subprocess.run(words, env=env, preexec_fn=limited, capture_output=True, text=True, timeout=PATIENCE)
    assert (found.returncode, found.stdout) == (1, "") and "Traceback" not in found.stderr
    message = f"error: hub id {NAME}: {WEIGHTS} cannot be kept at {cache} (File too large): make room"
    assert found.stderr.splitlines()[-1].startswith(message)
    assert half_files(cache) == [] and not list(cache.rglob(WEIGHTS))
    assert contents(find_folder(NAME)) == contents(remote.repositories[NAME])


def test_sigterm_ends_an_answer_and_a_chat_with_exit_143(remote):
    folder = str(remote.repositories[NAME])
    speak = ("generate", "Hi", "--raw", "--max-new-tokens", "450", "--temperature", "2", "-m", folder)
    for words in (speak, ("chat", "-m", folder)):
        running = process(
            "-m", "qwen3_scratch", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with contextlib.closing(running.stdin):
            running.stdout.read(1) if words is speak else read_until(running.stderr, "\n> ")
            running.terminate()
            err = running.stderr.read()
            assert running.wait(300) == 143 and "Traceback" not in err and len(err.splitlines()) <= 1
