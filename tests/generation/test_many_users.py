"""Many at once: threads that share weights, rows that share a batch, runs that share a seed: none disturbs another."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import checkpoint, finished

from qwen3_scratch import generate, stream, trace

WORDS = [
    "Mia", "Tom", "Ana", "has", "the", "red", "blue", "green", "ball", "cup", "book", "kite", "Who", "where", "is",
    "¿Dónde", "está?", "7", "+", "8",
]  # fmt: skip


def asked(seed: int) -> tuple[str, dict]:
    """A prompt of 1 to 40 words and how to answer it: greedy or sampled, each with a seed of its own."""
    draw = random.Random(seed)
    words = " ".join(draw.choices(WORDS, k=draw.choice([1, 3, 10, 40])))
    options = dict(temperature=draw.choice([0, 0.7, 1.5]), top_k=draw.choice([0, 20]), seed=draw.getrandbits(60))
    return words, dict(options, max_new_tokens=draw.randrange(4, 8))


def last(pieces):
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def test_eight_threads_with_the_same_weights_get_the_tokens_that_each_gets_alone():
    model = checkpoint(4)
    cases = [asked(seed) for seed in range(16)]
    alone = [generate(model, words, **options) for words, options in cases]
    together = threading.Barrier(8)

    def work(number: int) -> list:
        together.wait()
        found = []
        for words, options in cases[number::8]:
            if number % 3 == 0:
                found.append(last(stream(model, words, **options)))
            elif number % 3 == 1:
                found.append(generate(model, words, **options))
            else:  # one that looks on does not see what the others do
                with trace() as seen:
                    found.append(generate(model, words, **options))
                assert len(seen["forward"]) == len(found[-1].token_ids)
        return found

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(work, range(8))):
            assert found == alone[number::8]
    assert len({tuple(one.token_ids) for one in alone}) > 8, "they are not all the same answer"


@pytest.mark.parametrize(
    "sampling", [dict(temperature=0), dict(temperature=1.2, seed=7), dict(temperature=0.8, top_p=0.9, seed=8)]
)
def test_a_prompt_has_the_same_tokens_in_a_batch_of_any_size_and_order(sampling):
    """In fp32. In bf16 a product over more rows may round the other way, and the likeliest token may change with it."""
    model, draw = checkpoint(6), random.Random(0)
    prompts = [asked(seed)[0] for seed in range(16)]
    alone = {words: generate(model, words, max_new_tokens=5, **sampling).token_ids for words in prompts}
    for size in (1, 2, 3, 7, 16):
        rows = draw.sample(prompts, size)
        found = generate(model, rows, max_new_tokens=5, **sampling)
        assert [one.token_ids for one in found] == [alone[words] for words in rows]


SEEDED = """
import json, sys
sys.path[:0] = ["tests/support", "tests/generation"]
from test_many_users import asked, checkpoint, generate
print(json.dumps([generate(checkpoint(4), words, **options).token_ids for words, options in map(asked, range(6))]))
"""


def test_a_seed_gives_the_same_tokens_in_another_process():
    found = finished("-c", SEEDED, env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0, found.err
    here = [generate(checkpoint(4), words, **options).token_ids for words, options in map(asked, range(6))]
    assert json.loads(found.out) == here and len(set(map(tuple, here))) == 6
    words, options = asked(1)
    sampled = dict(options, temperature=1.5, top_k=0)
    assert generate(checkpoint(4), words, **sampled) != generate(checkpoint(4), words, **dict(sampled, seed=1))
