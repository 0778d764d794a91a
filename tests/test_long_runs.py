"""Long answers: memory stays flat with a sliding window, and what is left early is let go of."""

import gc
import weakref

from helpers import checkpoint, finished, generate_module

from qwen3_scratch import generate, stream

LONG = """
import gc, sys
sys.path.insert(0, "tests")
from helpers import checkpoint
from qwen3_scratch import stream

model = checkpoint(1, {"eos_token_id": []}, sliding_window=64, use_sliding_window=True, num_hidden_layers=1,
                   num_experts=2, max_position_embeddings=40_000)

def resident():
    gc.collect()
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

seen, pieces, characters = {}, stream(model, "Who has the kite?", max_new_tokens=20_000, temperature=1.0, seed=1), 0
try:
    for count in range(10**9):
        characters += len(next(pieces))
        if count in (1_000, 12_000):
            seen[count] = resident()
except StopIteration as end:
    found = end.value
    print(len(found.token_ids), len(set(found.token_ids[-1000:])), len(found.text) + len(found.thinking or ""))
print(characters, seen[12_000] - seen[1_000])
"""


def test_twenty_thousand_tokens_with_a_sliding_window_take_no_more_memory_than_two_thousand():
    """Without a window the cache would have grown by 11,000 tokens of 64 numbers, and texts grow by their own bytes."""
    found = finished("-c", LONG, env={"JAXTYPING_DISABLE": "1"}, timeout=400)
    assert found.code == 0, found.err
    tokens, kinds, length, characters, grown = map(int, found.out.split())
    assert tokens == 20_000 and kinds > 100 and length == characters > 20_000
    assert grown < 6_000_000, "the token ids and pieces of text themselves"


def test_a_stream_that_is_left_early_lets_go_of_its_cache(monkeypatch):
    made, plain = [], generate_module.KVCache

    def noting(*args, **options):
        made.append(weakref.ref(cache := plain(*args, **options)))
        return cache

    monkeypatch.setattr(generate_module, "KVCache", noting)
    for leave in (lambda pieces: pieces.close(), lambda pieces: None):
        pieces = stream(checkpoint(), "Hi", max_new_tokens=50, temperature=0)
        next(pieces)
        assert made[-1]() is not None
        leave(pieces)
        del pieces
        gc.collect()
        assert made[-1]() is None


def test_ctrl_c_at_any_step_leaves_the_checkpoint_as_it_was(monkeypatch):
    model, plain = checkpoint(2), generate_module.forward
    expected = generate(model, "Who?", max_new_tokens=5, temperature=0)
    for stop in range(5):
        calls = []

        def interrupted(*args, stop=stop, calls=calls, **options):
            calls.append(1)
            logits = plain(*args, **options)
            if len(calls) > stop:
                raise KeyboardInterrupt
            return logits

        monkeypatch.setattr(generate_module, "forward", interrupted)
        try:
            generate(model, "Who?", max_new_tokens=5, temperature=0)
            raise AssertionError("Ctrl-C was swallowed")
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(generate_module, "forward", plain)
        assert generate(model, "Who?", max_new_tokens=5, temperature=0) == expected
