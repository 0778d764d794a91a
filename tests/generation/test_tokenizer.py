"""Text to token ids and back: Qwen3's own tokenizer, and the one that the recipe trains for the embedded checkpoint."""

import ast
import hashlib
import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from helpers import TINY
from hypothesis import example, given
from hypothesis import strategies as st
from qwen3_files import npm_file, qwen_ranks, qwen_tokenizer_json
from tokenizers import Regex, pre_tokenizers

from qwen3_scratch import Error, read_tokenizer
from qwen3_scratch.tiny import corpus
from qwen3_scratch.tiny.recipe import (
    ADDED,
    SEED,
    SPECIAL,
    prompt_and_target,
    train_tokenizer,
    write_tokenizer,
)
from qwen3_scratch.tokenizer import QWEN_PATTERN

IDS = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647, "<|box_start|>": 151648, "<|box_end|>": 151649, "<|quad_start|>": 151650,
    "<|quad_end|>": 151651, "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655, "<|video_pad|>": 151656, "<tool_call>": 151657, "</tool_call>": 151658,
    "<|fim_prefix|>": 151659, "<|fim_middle|>": 151660, "<|fim_suffix|>": 151661, "<|fim_pad|>": 151662,
    "<|repo_name|>": 151663, "<|file_sep|>": 151664, "<tool_response>": 151665, "</tool_response>": 151666,
    "<think>": 151667, "</think>": 151668,
}  # fmt: skip
# Unassigned characters are left out: which of them compose depends on the Unicode version of who is asked.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60)
TRICKY = (
    "", " ", "\n\n", "  \n \t x", "\r\n\r\nend ", "I'LL we've don't", "12345 1,000.5", "naïve cafe\u0301 Ångström",
    "한국어 \u1112\u1161\u11ab", "日本語のテキスト。", "हिन्दी", "مرحبا", "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u200b\ufeff\x00\x7f", "𝔘𝔫𝔦 \U0010ffff", "\u212b\u2126ﬁ",
    "<think>\n\n</think>\n\n", "<|im_start|>user\n<|im_end|>", "<|im_sta", "a" * 300,
)  # fmt: skip


def nfc(text):
    return unicodedata.normalize("NFC", text)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    (folder / "tokenizer.json").write_text(qwen_tokenizer_json(), encoding="utf-8")
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def reference():
    """Another implementation of the same vocabulary, which works from ranks and knows no merges."""
    return tiktoken.Encoding("qwen3", pat_str=QWEN_PATTERN, mergeable_ranks=qwen_ranks(), special_tokens=IDS)


@pytest.fixture(scope="module")
def ours():
    return train_tokenizer(chats=400)


@pytest.fixture(params=["qwen", "ours"])
def either(request):
    return request.getfixturevalue(request.param)


# ---- Qwen3's own ----------------------------------------------------------------------------


def test_the_rebuilt_tokenizer_file_is_qwen3s_own_to_the_byte():
    assert hashlib.sha256(qwen_tokenizer_json().encode()).hexdigest().startswith("aeb13307")


def test_the_rebuilt_tokenizer_file_is_the_one_that_npm_serves(tmp_path_factory):
    assert json.loads(npm_file("tokenizer.json", tmp_path_factory)) == json.loads(qwen_tokenizer_json())


def test_a_known_sentence_has_its_known_ids(qwen):
    ids = [785, 1172, 3166, 358, 1414, 374, 429, 358, 1414]
    assert qwen.encode("The only thing I know is that I know") == ids
    assert qwen.decode(ids) == "The only thing I know is that I know"


def test_the_vocabulary_counts_151669_tokens(qwen):
    assert qwen.vocab_size == 151669


def test_notebook_02_says_what_qwen3_makes_of_its_sentences(qwen):
    notebook = Path(__file__).parents[2] / "notebooks" / "02_tokens_and_chat.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    [lines] = [ast.parse(cell).body for cell in cells if "\nqwen3 = {" in cell]
    values = {line.targets[0].id: line.value for line in lines if isinstance(line, ast.Assign)}
    said, counts = (ast.literal_eval(values[name]) for name in ("said", "qwen3"))
    assert {language: len(qwen.encode(text)) for language, text in said.items()} == counts
    assert any(f"Qwen3's {len(qwen_ranks()) - 256:,} merges" in cell for cell in cells)


@pytest.mark.parametrize("token", IDS)
def test_a_special_token_is_one_id_also_in_the_middle_of_a_text(qwen, token):
    assert qwen.token_id(token) == IDS[token]
    assert qwen.encode(token) == [IDS[token]]
    assert qwen.encode(f"the{token}the") == [1782, IDS[token], 1782]
    assert qwen.decode([IDS[token]]) == token
    assert qwen.token_bytes(IDS[token]) == token.encode()


def test_an_empty_thinking_block_is_four_known_ids(qwen):
    assert qwen.encode("<think>\n\n</think>\n\n") == [151667, 271, 151668, 271]


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts_have_the_ids_that_tiktoken_gives(qwen, reference, text):
    assert qwen.encode(text) == reference.encode(nfc(text), allowed_special="all")


@given(text=TEXTS)
def test_any_text_has_the_ids_that_tiktoken_gives(qwen, reference, text):
    assert qwen.encode(text) == reference.encode(nfc(text), allowed_special="all")


@given(ids=st.lists(st.integers(0, 151668), max_size=20))
def test_any_ids_stand_for_the_bytes_that_tiktoken_gives(qwen, reference, ids):
    content = reference.decode_bytes(ids)
    assert b"".join(map(qwen.token_bytes, ids)) == content
    assert qwen.decode(ids) == content.decode("utf-8", errors="replace")


# ---- both -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts_come_back_composed(either, text):
    assert either.decode(either.encode(text)) == nfc(text)


@given(text=TEXTS)
@example("é" * 5 + "\u0301")
def test_any_text_comes_back_composed(qwen, ours, text):
    assert qwen.decode(qwen.encode(text)) == nfc(text)
    assert ours.decode(ours.encode(text)) == nfc(text)


@given(text=TEXTS)
def test_the_bytes_of_the_tokens_are_the_utf8_of_the_text(qwen, ours, text):
    for tokenizer in (qwen, ours):
        pieces = [tokenizer.token_bytes(one) for one in tokenizer.encode(text)]
        assert b"".join(pieces) == nfc(text).encode()
        assert all(pieces)


class Asked:
    """Stands before the library, and notes what it is asked for."""

    def __init__(self, backend: Any):
        self.backend, self.names = backend, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.append(name)
        return getattr(self.backend, name)


def test_the_bytes_of_a_token_and_the_size_of_the_vocabulary_ask_the_library_for_no_table():
    tokenizer = read_tokenizer(TINY)
    asked = tokenizer.backend = Asked(tokenizer.backend)
    for token in (5, max(tokenizer.added), tokenizer.vocab_size):
        tokenizer.token_bytes(token)
    assert asked.names == ["id_to_token"] * 3


def test_half_a_character_decodes_to_the_replacement_character(either):
    ids = either.encode("\U0010fffd")  # rare enough to be one token a byte
    assert len(ids) > 1
    assert either.decode(ids[:1]) == "\ufffd"
    assert either.decode(ids) == "\U0010fffd"


def test_special_tokens_are_left_out_of_the_text_when_asked(either):
    ids = either.encode("<|im_start|>user\n<think>hi<|im_end|>")
    assert either.decode(ids) == "<|im_start|>user\n<think>hi<|im_end|>"
    assert either.decode(ids, skip_special_tokens=True) == "user\n<think>hi"


def test_an_id_beyond_the_vocabulary_stands_for_nothing(either):
    assert either.token_bytes(either.vocab_size) == b""
    assert either.decode([either.vocab_size]) == ""
    assert either.token_id("no such token") is None


@pytest.mark.parametrize("text", ["\ud800", "cut \udcff off", "\udc00\ud800"])
def test_half_a_surrogate_pair_is_refused(either, text):
    with pytest.raises(Error, match=r"^text: [^\n]*expected whole characters[^\n]*$"):
        either.encode(text)


# ---- the recipe's ---------------------------------------------------------------------------


def test_the_recipes_tokenizer_has_the_hubs_special_tokens_in_the_hubs_order(ours, qwen):
    first = ours.token_id("<|endoftext|>")
    for token, identity in IDS.items():
        assert ours.token_id(token) - first == identity - IDS["<|endoftext|>"]
        assert ours.encode(f"x{token}x")[1:-1] == [ours.token_id(token)]
    assert ours.vocab_size == first + len(IDS)
    added = {tokenizer: tokenizer.backend.get_added_tokens_decoder() for tokenizer in (ours, qwen)}
    flags = [[(str(one), one.special) for one in found.values()] for found in added.values()]
    assert flags[0] == flags[1]
    assert (*SPECIAL, *ADDED) == tuple(IDS)


def test_the_recipe_trains_the_same_tokenizer_every_time(ours):
    assert train_tokenizer(chats=400).backend.to_str() == ours.backend.to_str()


def corpus_chats(count):
    """Chats of every domain, with and without thinking."""
    for domain in corpus.DOMAINS:
        shown = itertools.islice(corpus.examples(SEED + 7, domains=(domain,)), count)
        yield from itertools.product(shown, (True, False))


def test_a_prompt_and_its_answer_are_tokenised_apart_as_they_are_together(ours):
    for shown, thinking in corpus_chats(20):
        prompt, target = prompt_and_target(ours, shown, thinking)
        whole = ours.decode(prompt) + ours.decode(target)
        assert ours.encode(whole) == prompt + target
        assert ours.decode(prompt) == ours.render_chat(shown.messages, thinking=thinking)


def test_the_line_breaks_that_end_a_prompt_are_tokenised_as_within_a_text(ours):
    prompt = ours.render_chat([{"role": "user", "content": "Hi"}], thinking=False)
    assert prompt.endswith("</think>\n\n")
    assert ours.encode(prompt + "Yes") == ours.encode(prompt) + ours.encode("Yes")


def test_gpt2s_pattern_would_have_split_the_end_of_a_prompt_differently():
    gpt2, qwens = (
        pre_tokenizers.Split(Regex(pattern), "isolated")
        for pattern in (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", QWEN_PATTERN)
    )
    pieces = {name: [[p for p, _ in cut.pre_tokenize_str(text)] for text in ("\n\n", "\n\nYes")]
              for name, cut in (("gpt2", gpt2), ("qwen", qwens))}  # fmt: skip
    assert pieces["gpt2"] == [["\n\n"], ["\n", "\n", "Yes"]]
    assert pieces["qwen"] == [["\n\n"], ["\n\n", "Yes"]]


def test_the_recipes_files_read_back_as_the_same_tokenizer(ours, tmp_path):
    write_tokenizer(ours, tmp_path)
    found = read_tokenizer(tmp_path)
    assert found.chat_template == ours.chat_template
    assert found.backend.to_str() == ours.backend.to_str()


# ---- reading --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, ours):
    ours.backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def with_settings(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return read_tokenizer(folder)


def test_the_template_comes_from_tokenizer_config_json(folder):
    assert with_settings(folder, chat_template="é").chat_template == "é"


def test_a_template_in_a_file_of_its_own_comes_first(folder):
    (folder / "chat_template.jinja").write_text("of its own", encoding="utf-8")
    assert with_settings(folder, chat_template="of the settings").chat_template == "of its own"


def test_of_several_named_templates_the_default_is_taken(folder):
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert with_settings(folder, chat_template=named).chat_template == "b"
    assert with_settings(folder, chat_template=named[:1]).chat_template is None


def test_a_folder_without_a_template_still_has_a_tokenizer(folder):
    assert read_tokenizer(folder).chat_template is None
    assert with_settings(folder).chat_template is None
    assert read_tokenizer(folder).encode("<|im_end|>") == [read_tokenizer(folder).token_id("<|im_end|>")]


@pytest.mark.parametrize("template", [3, {"a": 1}, ["x"], [{"name": "default"}], [{"name": "default", "template": 1}]])
def test_a_template_that_is_no_text_is_refused_by_name(folder, template):
    with pytest.raises(Error, match=r"^[^\n]*tokenizer_config\.json: chat_template [^\n]*expected[^\n]*$"):
        with_settings(folder, chat_template=template)


def test_a_missing_tokenizer_file_is_named(tmp_path):
    with pytest.raises(Error, match=r"^[^\n]*tokenizer\.json: no such file[^\n]*check the path[^\n]*$"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xc3\x28", b"not JSON", b'{"model": {"type": "BPE"}}', b"[1]"])
def test_a_damaged_tokenizer_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(Error, match=r"^[^\n]*tokenizer\.json: is no tokenizer file[^\n]*fetch[^\n]*$"):
        read_tokenizer(tmp_path)


def test_damaged_settings_are_named(folder):
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(Error, match=r"^[^\n]*tokenizer_config\.json: [^\n]*fetch[^\n]*$"):
        read_tokenizer(folder)
