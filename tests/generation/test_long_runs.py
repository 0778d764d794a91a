"""Long answers: memory stays flat with a sliding window, and what is left early is let go of."""

import gc
import signal
import statistics
import subprocess
import tracemalloc
import weakref
from collections import UserList

import pytest
from helpers import PATIENCE, Script, checkpoint, finished, interrupted_after, process, tokenizer
from tiers import in_proof

from qwen3_scratch import generate, generation, stream
from qwen3_scratch.fast import eager

LONG = """
import gc, sys
sys.path.insert(0, "tests/support")
from helpers import checkpoint
from qwen3_scratch import generation, stream
from qwen3_scratch.fast import eager

eager.PREFILL_CHUNK = generation.PREFILL_CHUNK = 64  # of which each layer keeps one beside its window
heads = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=96, num_hidden_layers=1, max_window_layers=0)
dense = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0)  # two thirds of the time of two experts
model = checkpoint(1, {"eos_token_id": []}, sliding_window=64, use_sliding_window=True, max_position_embeddings=40_000,
                   **heads, **dense)

def resident():
    gc.collect()
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

count, characters, seen = int(sys.argv[1]), 0, []
pieces = stream(model, "Who has the kite?", max_new_tokens=count, temperature=1.0, seed=1)
rows = pieces.gi_frame.f_locals["rows"]
try:
    while True:
        characters += len(next(pieces))
        if len(rows[0].tokens) >= (2_000, count - 100, 10**9)[len(seen)]:
            seen.append(resident())  # the cache is there
except StopIteration as end:
    found = end.value
print(len(found.token_ids), len(set(found.token_ids[-1000:])), len(found.text) + len(found.thinking or ""), characters)
print(seen[1] - seen[0])
"""


@pytest.mark.parametrize("count", [4_000, in_proof(20_000)])
def test_many_thousand_tokens_with_a_sliding_window_take_no_more_memory_than_two_thousand(count):
    """Without a window the cache would grow by 3 kB a token. Pieces of text and token ids take half a kB."""
    found = finished("-c", LONG, str(count), env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0, found.err
    tokens, kinds, length, characters, grown = map(int, found.out.split())
    assert tokens == count and kinds > 100 and length == characters > count
    assert grown < 900 * (count - 2_000)


class Counted(UserList):
    """A list that counts how many of its items are looked at; no list, so that torch too has to ask for each."""

    looked_at = 0

    def __getitem__(self, place):
        found = self.data[place]
        Counted.looked_at += len(found) if isinstance(place, slice) else 1
        return found

    def __iter__(self):
        for item in self.data:
            Counted.looked_at += 1
            yield item


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_token_costs_as_much_work_at_the_end_of_a_long_answer_as_at_its_beginning(monkeypatch, penalty):
    """Counted in items of what has come so far, characters held back, and bytes of Python's that a step takes."""
    count = 1000
    words = tokenizer().encode("the red ball and ") * count
    monkeypatch.setattr(eager, "forward", Script(words[:count]))
    model = checkpoint(generation_config={"eos_token_id": []}, max_position_embeddings=2000)
    options = dict(max_new_tokens=count, temperature=0, repetition_penalty=penalty, stop=["stop here", "the rex"])
    model, rows, settings = generation.prepare(model, ["Hi"], **options)
    row, work = rows[0], []
    row.tokens, row.pieces = Counted(), Counted()
    steps = generation.steps(model, rows, settings)
    next(steps)
    tracemalloc.start()
    try:
        for _ in range(count - 2):
            Counted.looked_at, before = 0, tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            next(steps)
            work.append((Counted.looked_at, len(row.stream.held), tracemalloc.get_traced_memory()[1] - before))
    finally:
        tracemalloc.stop()
    looked_at, held, taken = zip(*work, strict=True)
    assert max(looked_at) <= 1 and max(held) < len("stop here") + 20
    early, late = (statistics.median(part) for part in (taken[50:150], taken[-100:]))
    assert late < early + 500, "a copy of all token ids would take 8,000"


def test_a_stream_that_is_left_early_lets_go_of_its_cache(monkeypatch):
    made, plain = [], generation.KVCache

    def noting(*args, **options):
        made.append(weakref.ref(cache := plain(*args, **options)))
        return cache

    monkeypatch.setattr(generation, "KVCache", noting)
    for leave in (lambda pieces: pieces.close(), lambda pieces: None):
        pieces = stream(checkpoint(), "Hi", max_new_tokens=50, temperature=0)
        next(pieces)
        assert made[-1]() is not None
        leave(pieces)
        del pieces
        gc.collect()
        assert made[-1]() is None


def test_ctrl_c_at_any_step_leaves_the_checkpoint_as_it_was(monkeypatch):
    model, plain = checkpoint(2), eager.forward
    expected = generate(model, "Who?", max_new_tokens=5, temperature=0)
    for stop in range(5):
        monkeypatch.setattr(eager, "forward", interrupted_after(stop, plain))
        try:
            generate(model, "Who?", max_new_tokens=5, temperature=0)
            raise AssertionError("Ctrl-C was swallowed")
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(eager, "forward", plain)
        assert generate(model, "Who?", max_new_tokens=5, temperature=0) == expected


CTRL_C = """
import sys
from collections import deque
sys.path.insert(0, "tests/support")
from helpers import checkpoint
from qwen3_scratch import generate, stream
from qwen3_scratch.fast import eager

def telling(*args, **options):
    global left
    left -= 1
    if left == 0:
        print("running", flush=True)
    return plain(*args, **options)

model = checkpoint(2, {"eos_token_id": []}, max_position_embeddings=100_000, sliding_window=16, use_sliding_window=True)
asked = dict(max_new_tokens=8, temperature=1.0, seed=5)
expected = generate(model, "Who?", **asked)
plain, eager.forward = eager.forward, telling
for left in (1, 2, 30):  # while the prompt is read, at the first token, later
    pieces, stopped = stream(model, "Who?", max_new_tokens=90_000, temperature=0), 0
    try:
        deque(pieces, 0)  # nothing of Python runs beside the stream, so the signal meets it and nothing else
    except KeyboardInterrupt:
        stopped += 1
    assert stopped == 1 and list(pieces) == [], "the stream goes on after Ctrl-C"
    assert generate(model, "Who?", **asked) == expected
print("as before", flush=True)
deque(stream(model, "Who?", max_new_tokens=90_000, temperature=0), 0)
"""


def test_a_real_ctrl_c_ends_a_stream_by_one_keyboard_interrupt_and_the_checkpoint_is_usable():
    running = process("-c", CTRL_C, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"JAXTYPING_DISABLE": "1"})
    try:
        for expected in ("running", "running", "running", "as before"):
            assert running.stdout.readline() == f"{expected}\n"
            running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert (rest, running.returncode) == ("", -signal.SIGINT), errors
    assert errors.count("Traceback") == 1 and errors.splitlines()[-1] == "KeyboardInterrupt"
