"""The page reads and writes texts as the tokenizer does, and draws tokens as sampling.py does."""

import functools
import random

import pytest
import tokenizers
import torch
from helpers import TINY, checkpoint, tokenizer
from page_model import PageModel
from qwen3_files import qwen_tokenizer_json

from qwen3_scratch import Sampling, Tokenizer, generate, load_checkpoint
from qwen3_scratch.explorer.reading import chat_parts, tokenizer_data
from qwen3_scratch.sampling import draw, probabilities
from qwen3_scratch.text_stream import TextStream
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

SIGNS = [
    *"abcdefgzAZ éüßñ中文 日本,.;:!?'\"-_/\\()[]{}<>|@#%&*+=~`0123456789\n\n\r\t", "  ", "'s", "'RE", "'ſ", "e\u0301",
    "\u0085", "\u00a0", "\ufeff", "\u200b", "\u2028", "\u3000", "👍🏽", "\U0001d54f", "①", "٣", "<|im_end|>", "<think>",
    "</think>", "<|im_", "<tool_call>", "الله", "кот",
]  # fmt: skip


@functools.cache
def page() -> PageModel:
    return PageModel(load_checkpoint(TINY))


@functools.cache
def texts() -> list[str]:
    """300 of them: 30 questions of each domain, the signs alone, and signs in any order."""
    draws = random.Random(1)
    asked = [example.messages[-1]["content"] for domain in DOMAINS for example in questions(domain, 30)]
    mixed = ["".join(draws.choices(SIGNS, k=draws.randint(1, 30))) for _ in range(300 - len(asked) - len(SIGNS))]
    return [*asked, *SIGNS, *mixed]


def test_token_ids_of_three_hundred_texts_are_those_of_the_tokenizer():
    assert len(texts()) == 300
    found = page()("texts.map((text) => qwen3.encode(text))", texts=texts())
    assert found == [tokenizer().encode(text) for text in texts()]


@pytest.mark.proof
def test_with_qwens_own_vocabulary_they_are_too():
    own = Tokenizer(tokenizers.Tokenizer.from_str(qwen_tokenizer_json()))
    given = [*texts()[:40], *texts()[-100:]]
    encode = "{ const own = new Tokenizer(data); return texts.map((text) => own.encode(text)); }"
    assert page()(encode, data=tokenizer_data(own), texts=given) == [own.encode(text) for text in given]


def test_any_tokens_are_read_back_as_the_tokenizer_reads_them():
    draws = random.Random(2)
    rows = [draws.choices(range(tokenizer().vocab_size), k=20) for _ in range(100)]
    assert page()("rows.map((ids) => qwen3.decode(ids))", rows=rows) == [tokenizer().decode(ids) for ids in rows]


def test_thinking_is_parted_from_the_answer_as_in_a_stream_of_text():
    draws, known = random.Random(3), tokenizer()
    tags = [known.token_id(tag) for tag in ("<think>", "</think>", "<|im_end|>")]
    breaks = known.encode("\n")
    letters = known.encode("so it is é 中文")
    for _ in range(100):
        ids = draws.choices([*tags, *breaks * 3, *letters], k=25)
        stream = TextStream(known, [])
        pieces = [piece for token in ids for piece in stream.feed(token)] + stream.finish()
        own = ["".join(piece for piece in pieces if piece.thinking == thinks) for thinks in (True, False)]
        found = page()("model.tokenizer.parted(ids)", ids=ids)
        assert [found["thinking"] or "", found["text"]] == own


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("domain", DOMAINS)
def test_answers_are_those_of_generate(domain, thinking):
    asked = questions(domain, 1)[0].messages[-1]["content"]
    found = page()("qwen3.generate(asked, {thinking})", asked=asked, thinking=thinking)
    own = generate(page().checkpoint, asked, thinking=thinking)
    assert (found["tokenIds"], found["text"], found["thinking"]) == (own.token_ids, own.text, own.thinking)


def test_a_chat_is_rendered_by_its_constant_parts_as_by_the_template():
    parts, known = chat_parts(tokenizer()), tokenizer()
    for name, thinking in (("thinking", True), ("direct", False)):
        own = known.render_chat([{"role": "user", "content": "Who?\n"}], thinking=thinking)
        assert parts[name]["before"] + "Who?\n" + parts[name]["after"] == own


SETTINGS = [
    dict(temperature=1.0), dict(temperature=0.3), dict(top_k=5), dict(top_p=0.7), dict(top_p=0.01),
    dict(temperature=2.0, top_k=20, top_p=0.9), dict(temperature=0.0),
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_drawn_from_and_drawn_is_that_of_sampling(setting):
    logits = 3 * torch.randn(1, 60, dtype=torch.float64)
    own = probabilities(logits, Sampling(**setting))
    names = {"temperature": "temperature", "top_k": "topK", "top_p": "topP"}
    given = {names[name]: value for name, value in setting.items()}
    ask = "Array.from(probabilities(Float64Array.from(logits), given))"
    found = torch.tensor(page()(ask, logits=logits[0].tolist(), given=given), dtype=torch.float64)
    torch.testing.assert_close(found, own[0], atol=1e-12, rtol=1e-9)
    for uniform in torch.rand(50, dtype=torch.float64):
        chosen = page()("draw(Float64Array.from(p), uniform)", p=own[0].tolist(), uniform=float(uniform))
        assert chosen == int(draw(own, uniform[None]))


def test_numbers_of_a_seed_are_spread_evenly_and_are_the_same_again():
    ask = "Array.from({length: 4000}, (_, i) => uniformOf(7, i))"
    numbers = torch.tensor(page()(ask))
    assert numbers.tolist() == torch.tensor(page()(ask)).tolist() and numbers.min() >= 0 and numbers.max() < 1
    shares = torch.histc(numbers, 10, 0, 1) / len(numbers)
    assert (shares - 0.1).abs().max() < 0.02
    assert numbers.tolist() != torch.tensor(page()(ask.replace("7", "8"))).tolist()


def test_a_seed_gives_the_same_answer_again_and_another_seed_another():
    ask = "qwen3.generate('How are you?', {temperature: 3, seed, maxNewTokens: 12}).tokenIds"
    first, again, other = (page()(ask, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


# ---- bad input ----------------------------------------------------------------------------------

WRONG = {
    "generate('')": "prompt is empty, expected at least one word: write something",
    "generate('  \\n')": "prompt is empty, expected at least one word: write something",
    "generate('a '.repeat(2000))": "prompt has 2009 tokens, expected fewer than 512 tokens: shorten it",
    "generate('a'.repeat(2e6))": "prompt has 2000000 characters, expected fewer than 512 tokens: shorten it",
    "generate('Hi', {maxNewTokens: 0})": "maxNewTokens is 0, expected a whole number, at least 1: mend it",
    "generate('Hi', {maxNewTokens: 600})":
        "maxNewTokens is 600, expected at most 503 after a prompt of 9 tokens: lower it",
    "generate('Hi', {topk: 3})": None,
    "generate('Hi', {temperature: -1})": 'temperature is -1, expected 0 (greedy) or more: mend it',
    "generate('Hi', {temperature: NaN})": 'temperature is null, expected 0 (greedy) or more: mend it',
    "generate('Hi', {topP: 0})": "topP is 0, expected a number above 0 and at most 1: mend it",
    "generate('Hi', {topK: 1.5})": "topK is 1.5, expected a whole number, 0 (off) or more: mend it",
    "generate('Hi', {seed: -1})": "seed is -1, expected a whole number from 0 to 4294967295: mend it",
    "generate('Hi', {k: 5})": "k is 5, expected 1 to 4, the number of experts: mend it",
    "generate('Hi', {off: [[0, 9]]})":
        "off: expert is [0,9], expected a layer from 0 to 1 with experts, and experts from 0 to 3: mend it",
    "generate('Hi', {off: [[7, 0]]})":
        "off: expert is [7,0], expected a layer from 0 to 1 with experts, and experts from 0 to 3: mend it",
    "generate('Hi', {headsOff: [3]})":
        "headsOff: head is 3, expected a layer from 0 to 1 with heads, and heads from 0 to 3: mend it",
    "generate('Hi', {swap: [[0, 1]]})":
        "swap: expert is [0,1], expected a layer from 0 to 1 with experts, and experts from 0 to 3: mend it",
    "generate('Hi', {off: [[1, 0], [1, 1], [1, 2], [1, 3]]})":
        "off: layer 1 has no expert left, expected one at least: switch one on",
    "generate('Hi', {force: [[1, 0]], off: [[1, 0]]})":
        "force: expert 0 of layer 1 is off, expected one that is on: choose",
    "generate('Hi', {force: [[1, 0], [0, 2], [1, 3]]})":
        "force: experts 0 and 3 of layer 1 are to read every token, expected one: choose",
    "generate('Hi', {swap: [[1, 0, 2]], off: [[1, 2]]})":
        "swap: expert 2 of layer 1 is off, expected one that is on: choose",
    "generate('Hi', {mistakes: ['no_causal_mask', 'window_off_by_one']})":
        "mistakes: two of them replace the step mask, expected one: choose",
    "generate('Hi', {mistakes: ['toString']})": None,
    "forward([])": "prompt is [], expected a text or a list of token ids: mend it",
    "forward([5000])": "token id is 5000, expected 0 to 2111: mend it",
    "encode('a\\ud800b')": "text: half a character found, expected whole ones: mend it",
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> PageModel:
    return PageModel(checkpoint(seed=1))


@pytest.mark.parametrize("call", WRONG)
def test_what_cannot_be_done_ends_in_one_sentence(small, call):
    said = small.error(f"qwen3.{call}")
    assert said and "\n" not in said and "expected" in said
    assert WRONG[call] in (None, said)
