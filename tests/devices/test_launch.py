"""Whatever happens to one of many processes, all end soon, with one sentence that names the rank and the cause."""

import inspect
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import PATIENCE, torchrun, unchecked
from reference import dense_config
from tiers import only, selected

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.devices import launch
from qwen3_scratch.devices.launch import agree, from_others, gather, ranks
from qwen3_scratch.devices.slices import check_split

ENDED = r"rank 1 of 2: its process \d+ has ended before its work was done"
HANGS = r"rank 1 of 2: process \d+ did not answer for 15 s and was ended"
FAULTS = {  # what rank 1 does in the midst of generating -> the sentence
    "it is killed": ("os.kill(os.getpid(), signal.SIGKILL)", ENDED),
    "it leaves without a word": ("os._exit(0)", ENDED),
    "it stops": ("os.kill(os.getpid(), signal.SIGSTOP)", HANGS),
    "it waits for something else": ("time.sleep(1000)", HANGS),
    "it finds an error": ("raise Error('model.safetensors: is broken')", r"rank 1 of 2: model\.safetensors: is broken"),
    "its memory is full": ("torch.empty(10**15)", r"rank 1 of 2: RuntimeError: .*allocate memory"),
}
ALONE = {  # what rank 1 does before it loads, while rank 0 does something for long -> how the run ends
    "it is slow": ("time.sleep(25)", "time.sleep(0)", (0, "done\ndone\n")),
    "it leaves without a word": ("time.sleep(1); os._exit(0)", "time.sleep(1000)", (1, f"Error: {ENDED}")),
    "it errs and goes on": ("fail()", "time.sleep(1000)", (1, "Error: rank 1 of 2: KeyError: 'no such layer'")),
}
WORKER = """
import os, signal, sys, time
import torch
from qwen3_scratch import Error, generate
from qwen3_scratch.devices.launch import ranks
from qwen3_scratch.devices.slices import load_slices

def main():
    with ranks(2, 1, timeout=15) as mesh:
        checkpoint = load_slices("tiny", mesh)
        for turn in range(10_000):
            generate(checkpoint, [1, 2, 3], max_new_tokens=3, temperature=0)
            if turn == 2 and mesh.get_rank() == 1:
                {fault}

try:
    main()
except Error as error:
    print("Error:", error, flush=True)
    sys.exit(1)
"""


UNEVEN = """
import os, signal, sys, time
import torch.distributed as dist
from qwen3_scratch import Error
from qwen3_scratch.devices.launch import ranks

def fail():
    raise KeyError("no such layer")

def main():
    with ranks(2, 1) as mesh:
        {one} if mesh.get_rank() else {other}
        dist.barrier()
    os.write(1, b"done\\n")  # at once: two write here

try:
    main()
except Error as error:
    print("Error:", error, flush=True)
    sys.exit(1)
except KeyError:
    time.sleep(6)
    sys.exit(1)
"""


def started(folder: Path, text: str) -> subprocess.Popen:
    script = folder / "worker.py"
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    kind = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return subprocess.Popen(command, **kind)


def left(script: Path) -> list[str]:
    """Processes that still run the script."""
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(script) in line]


@pytest.fixture(scope="module")
def ends(request, tmp_path_factory):
    """All faults at once: each run mostly waits."""
    folders = {name: tmp_path_factory.mktemp("fault") for name in selected(request, "fault")}
    running = {name: started(folder, WORKER.format(fault=FAULTS[name][0])) for name, folder in folders.items()}
    found = {}
    for name, process in running.items():
        out, _ = process.communicate(timeout=PATIENCE)
        found[name] = (process.returncode, out, left(folders[name]))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ends processes by Linux's signals")
@pytest.mark.parametrize("fault", only(FAULTS, "it is killed", "it finds an error"))
def test_a_rank_that_fails_is_named_in_one_sentence_and_nobody_is_left(fault, ends):
    code, out, running = ends[fault]
    assert code not in (0, None)
    lines = out.splitlines()
    assert len(lines) == 1
    assert re.match("Error: " + FAULTS[fault][1], lines[0])
    assert running == []


@pytest.mark.proof
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ends processes by Linux's signals")
def test_a_rank_that_is_slow_is_waited_for_and_one_that_is_gone_is_noticed_by_who_is_busy(tmp_path):
    running = {}
    for name, (one, other, _) in ALONE.items():
        (folder := tmp_path / name.replace(" ", "-")).mkdir()
        running[name] = started(folder, UNEVEN.format(one=one, other=other))
    for name, process in running.items():
        code, said = ALONE[name][2]
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, bool(re.match(said, out))) == (code, True), (name, out)


WATCHED = """
from qwen3_scratch.devices import launch

launch.NOTICE = 0  # so that each rank's watcher asks for the others without a pause, until the very end
with launch.ranks(1, 2, timeout=600):
    pass
"""


def test_ranks_that_end_while_they_are_watched_end_in_peace(tmp_path):
    (script := tmp_path / "watched.py").write_text(WATCHED, "utf-8")
    done = torchrun(2, script)
    assert (done.returncode, "terminate" in done.stderr) == (0, False), done.stderr


# ---- within one process -----------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """As torchrun would start one rank."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    told = {"TORCHELASTIC_RUN_ID": "alone", "RANK": 0, "WORLD_SIZE": 1, "TORCHELASTIC_USE_AGENT_STORE": True}
    for name, value in {**told, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    yield store
    assert not dist.is_initialized()


def mine(number, frame):
    raise AssertionError("SIGTERM came")


@pytest.mark.parametrize("before", [signal.SIG_DFL, mine])
@pytest.mark.parametrize("end", [None, Error("the disk is full"), KeyError("x"), KeyboardInterrupt()], ids=repr)
def test_signal_handlers_are_put_back_however_the_run_ends(alone, end, before, monkeypatch):
    monkeypatch.setattr("qwen3_scratch.devices.launch.ROLL_CALL", 0)
    first, interrupt = signal.signal(signal.SIGTERM, before), signal.getsignal(signal.SIGINT)
    try:
        if end is None:
            with ranks(1, 1):
                assert signal.getsignal(signal.SIGTERM) is not before
        else:
            with pytest.raises(type(end)) as left, ranks(1, 1):
                raise end
            assert not isinstance(end, Error) or str(left.value) == "rank 0 of 1: the disk is full"
        assert signal.getsignal(signal.SIGTERM) is before and signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, first)


def test_asked_to_stop_a_rank_says_so(alone, monkeypatch):
    monkeypatch.setattr("qwen3_scratch.devices.launch.ROLL_CALL", 0)
    with pytest.raises(Error, match=r"^rank 0 of 1: asked to stop, or the connection broke"), ranks(1, 1):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)


def test_off_the_main_thread_ranks_meet_as_well(alone):
    found = []

    def work():
        with ranks(1, 1) as mesh:
            found.append(mesh.size())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]


def test_a_rank_that_never_comes_is_named(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("qwen3_scratch.devices.launch.ROLL_CALL", 0)
    with pytest.raises(Error, match=r"^rank 1 of 2: has not come: see what it wrote"), ranks(2, 1, timeout=0.1):
        raise AssertionError("the block ran")


class AllCame(Exception):
    pass


@pytest.mark.parametrize(
    ("limit", "comes", "end"), [({}, 590, AllCame), ({}, 900, Error), ({"timeout": 60}, 90, Error)]
)
def test_a_rank_that_comes_late_is_waited_for_as_long_as_the_limit_says(alone, monkeypatch, limit, comes, end):
    seconds = 0.0

    def sleep(_):  # ten seconds go by at each look
        nonlocal seconds
        seconds += 10
        if seconds == comes:
            alone.set("qwen3_scratch/0/process/1", "elsewhere 1")

    def begin(*arguments, **options):
        raise AllCame

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "ROLL_CALL", 0)
    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: seconds, sleep=sleep))
    monkeypatch.setattr(dist, "init_process_group", begin)
    with pytest.raises(end, match="has not come" if end is Error else None), ranks(2, 1, **limit):
        raise AssertionError("the block ran")


def test_who_waits_for_the_others_hears_that_it_is_to_stop(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("qwen3_scratch.devices.launch.ROLL_CALL", 0)

    def asked_to_stop(*meeting):  # while it waits, not before it listens
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        gather(*meeting)

    monkeypatch.setattr("qwen3_scratch.devices.launch.gather", asked_to_stop)
    began = time.monotonic()
    with pytest.raises(Error, match=r"^rank 1 of 2: has not come: see"), ranks(2, 1, timeout=30):
        raise AssertionError("the block ran")
    assert time.monotonic() - began < 29  # torch itself would wait to the end


def raised(function) -> BaseException:
    with pytest.raises(BaseException) as found:
        function()
    return found.value


def test_errors_of_the_network_are_told_by_type_and_place_whatever_their_words(alone):
    with ranks(1, 1):
        wrong = raised(lambda: dist.all_gather([torch.ones(3)], torch.ones(2)))  # raised in torch.distributed
        assert isinstance(wrong, RuntimeError) and from_others(wrong)
    store = dist.TCPStore("localhost", alone.port, is_master=False, timeout=dist.default_pg_timeout / 18000)
    assert from_others(raised(lambda: store.get("nobody sets it")))
    for words in ("gloo", "NCCL", "Connection closed by peer", "Socket"):
        assert not from_others(raised(lambda words=words: (_ for _ in ()).throw(RuntimeError(words))))


@pytest.mark.parametrize(
    ("grid", "named"),
    [((0, 1), "tensor"), ((1, 0), "expert"), ((-1, -1), "tensor"), ((2, 1.5), "expert"), ((True, 1), "tensor")],
)
def test_what_is_no_number_of_ranks_is_refused(grid, named):
    message = rf"^devices: {named}_parallel is .*, expected a whole number of at least 1: "
    for refused in (lambda: check_split(dense_config(), *grid), lambda: ranks(*grid).__enter__()):
        with unchecked(), pytest.raises(Error, match=message):
            refused()


def test_who_is_slow_has_ten_minutes_and_who_is_gone_is_noticed_within_fifteen_seconds():
    """A look, a wait for the store and one for the others' reasons: the processes themselves are tried above."""
    assert inspect.signature(launch.ranks).parameters["timeout"].default == launch.TIMEOUT == 600
    assert launch.NOTICE + 2 * launch.ROLL_CALL <= 15


def test_a_process_alone_agrees_with_itself():
    assert agree({"seed": 3}) == {"seed": 3}


# ---- devices ----------------------------------------------------------------------------------


def test_a_device_without_float64_is_refused_since_tokens_are_drawn_in_it(monkeypatch):
    real = torch.empty

    def empty(*sizes, dtype=None, device=None, **options):
        if device == "mps" and dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return real(*sizes, dtype=dtype, device=None if device == "mps" else device, **options)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(Error, match=r"^device is 'mps', expected one that this machine has \(Cannot convert a MPS"):
        load_checkpoint("tiny", device="mps")
