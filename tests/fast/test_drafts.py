"""Answers with drafts that are looked up in the text are the answers without them, from fewer passes.

Everything is in fp32: in bf16 a pass of several tokens rounds otherwise than one of each, which turns a token now and
then.
"""

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import dense_config, random_tokens, random_weights, small_config
from tiers import only

from qwen3_scratch import Checkpoint, Conversation, Error, forward, generate, load_checkpoint, stream
from qwen3_scratch.fast import eager
from qwen3_scratch.fast.drafts import DRAFT, LONGEST, Text
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

LONG = dict(max_position_embeddings=512)
WINDOW = dict(use_sliding_window=True, sliding_window=7)
CONFIGS = {
    "experts": small_config(**LONG),
    "one of two experts, tied": small_config(num_experts=2, num_experts_per_tok=1, tie_word_embeddings=True, **LONG),
    "a window": small_config(**WINDOW, **LONG),
    "dense, full and sliding layers": dense_config(**WINDOW, max_window_layers=1, **LONG),
}
WAYS = {
    "greedy": dict(temperature=0),
    "drawn": dict(temperature=1.3, seed=3),
    "filtered and penalised": dict(
        temperature=0.8, top_k=9, top_p=0.9, repetition_penalty=1.1, presence_penalty=0.3, frequency_penalty=0.2, seed=1
    ),
}


def model(name: str) -> Checkpoint:
    return Checkpoint(CONFIGS[name], random_weights(CONFIGS[name], seed=len(name)))


def prompt(config, seed: int = 0) -> list[int]:
    """Twelve tokens of five kinds, so that most have stood there before."""
    return (random_tokens(config, 12, seed=seed) % 5).tolist()


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Tokens that each pass after the prompt's has read."""
    read: list[int] = []

    def noting(weights, token_ids, *args, **kwargs):
        if "logits_to_keep" not in kwargs:  # as reading a prompt has it
            read.append(token_ids.shape[1])
        return forward(weights, token_ids, *args, **kwargs)

    monkeypatch.setattr(eager, "forward", noting)
    return read


@pytest.mark.parametrize("way", only(WAYS, "greedy", "filtered and penalised"))
@pytest.mark.parametrize("name", CONFIGS)
def test_drafts_change_no_token(name, way, monkeypatch, passes):
    monkeypatch.setattr("qwen3_scratch.generation.PREFILL_CHUNK", 12)  # so that rings come round
    checkpoint, options = model(name), dict(max_new_tokens=60, min_new_tokens=50, **WAYS[way])
    for seed in range(2):
        asked = prompt(checkpoint.config, seed)
        expected = generate(checkpoint, asked, **options)
        passes.clear()
        assert generate(checkpoint, asked, lookup=True, **options) == expected
        assert 1 + DRAFT in passes


@pytest.mark.parametrize("domain", only(DOMAINS, "facts", "python"))
def test_the_embedded_checkpoint_answers_the_same_with_drafts(domain):
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    for example in questions(domain, 2):
        expected = generate(checkpoint, example.messages, temperature=0)
        assert generate(checkpoint, example.messages, temperature=0, lookup=True) == expected
        pieces = stream(checkpoint, example.messages, temperature=0, lookup=True)
        assert "".join(piece for piece in pieces if not piece.thinking) == expected.text


def test_a_text_that_repeats_itself_takes_few_passes(passes):
    checkpoint = model("experts")
    token = generate(checkpoint, prompt(checkpoint.config), max_new_tokens=1, temperature=0).token_ids[0]

    def only_this(x, head):
        return x[..., :1] * 0 - (torch.arange(len(head)) - token).abs()

    always = replace(checkpoint, ops=checkpoint.ops._replace(head=only_this))
    passes.clear()
    answer = generate(always, [token, token], max_new_tokens=41, min_new_tokens=41, temperature=0, lookup=True)
    assert answer.token_ids == [token] * 41
    assert passes == [1 + DRAFT] * 10  # 40 tokens after the prompt's own, four a pass


@pytest.mark.proof
def test_stories_take_fewer_passes_than_tokens(passes):
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    answers = [
        generate(checkpoint, example.messages, temperature=0, lookup=True) for example in questions("stories", 6)
    ]
    assert len(passes) < 0.8 * sum(len(answer.token_ids) - 1 for answer in answers)


@pytest.mark.proof
def test_drawn_answers_are_as_frequent_as_without_drafts():
    """Two tokens of a model of eight, drawn 1,500 times each way: the distributions differ by chance alone.

    With 64 pairs, two samples of n = 1,500 from one distribution lie less than 0.17 apart (half the sum of the
    differences of shares) in all but one of a thousand cases: about sqrt(64 / (pi n)) = 0.117 is expected, and the
    distance moves by less than 1 / sqrt(2 n) = 0.018 for a standard deviation.
    """
    config = small_config(vocab_size=8, **LONG)
    checkpoint = Checkpoint(config, random_weights(config, seed=2))
    asked, draws = [1, 2, 3, 1, 2, 3, 1], 1500

    def shares(seeds: range, **options) -> Counter:
        options |= dict(max_new_tokens=3, min_new_tokens=3, temperature=1)
        drawn = (generate(checkpoint, asked, seed=seed, **options) for seed in seeds)
        return Counter(tuple(answer.token_ids[1:]) for answer in drawn)

    plain, drafted = shares(range(draws)), shares(range(draws, 2 * draws), lookup=True)
    apart = sum(abs(plain[pair] - drafted[pair]) for pair in plain | drafted) / (2 * draws)
    assert apart < 0.17


def test_a_chat_goes_on_after_an_answer_with_drafts_as_after_one_without():
    checkpoint, talks = load_checkpoint("tiny", dtype=torch.float32), (Conversation(), Conversation())
    chats: list[list] = [[], []]
    for question in ("Tom has the red ball. Who has the ball?", "Ana has the blue cup. Who has the cup?"):
        answers = []
        for chat, talk, lookup in zip(chats, talks, (False, True), strict=True):
            chat.append({"role": "user", "content": question})
            answers.append(generate(checkpoint, chat, temperature=0, conversation=talk, lookup=lookup))
            chat.append(answers[-1].message)
        assert answers[0] == answers[1]
    assert talks[0].token_ids == talks[1].token_ids


def test_a_draft_is_verified_by_the_decoder_that_the_checkpoint_carries():
    asked, calls = prompt(CONFIGS["experts"]), []

    def noting(checkpoint, cache, pick, new=1):
        calls.append(new)
        return eager.eager_decoder(checkpoint, cache, pick, new)

    noted = replace(model("experts"), decoder=noting)
    generate(noted, asked, max_new_tokens=3, temperature=0, lookup=True)
    assert calls == [1, 1 + DRAFT]


@pytest.mark.parametrize("options", [dict(num_samples=2, temperature=1), {}], ids=["samples", "prompts"])
def test_several_rows_are_refused(options):
    checkpoint = model("experts")
    asked = prompt(checkpoint.config)
    with pytest.raises(Error, match=re.escape("lookup: 2 rows found, expected one prompt with one answer")):
        generate(checkpoint, asked if options else [asked, asked], lookup=True, **options)


def test_angles_that_hang_on_the_length_are_refused_beyond_the_trained_length():
    rope = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    config = small_config(max_position_embeddings=32, rope_parameters=rope)
    checkpoint = Checkpoint(config, random_weights(config))
    options: dict = dict(temperature=0, lookup=True)
    generate(checkpoint, prompt(config), max_new_tokens=20, **options)
    with pytest.raises(Error, match="up to 33 tokens, and rope_type 'dynamic' turns all keys anew"):
        generate(checkpoint, prompt(config), max_new_tokens=21, **options)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_a_draft_is_what_followed_the_end_of_the_text_where_it_stood_last_before(tokens):
    def by_search() -> list[int] | None:
        for length in range(min(LONGEST, len(tokens) - 1), 0, -1):
            for start in range(len(tokens) - length - 1, -1, -1):
                if tokens[start : start + length] == tokens[-length:]:
                    found = tokens[start + length :]
                    return (found * DRAFT)[:DRAFT]
        return None

    assert Text(tokens).draft() == by_search()
