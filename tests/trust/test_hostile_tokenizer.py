"""Tokenizer files of strangers: what is not one, what has its ids out of order, and what would never end."""

import gzip
import json
import os
import re
import shutil

import numpy as np
import pytest
import tokenizers
import torch
from helpers import TINY, unchecked
from hypothesis import given
from hypothesis import strategies as st
from tiers import examples
from tokenizer_files import ADDED, HONEST, MODEL, model, replace, write

from qwen3_scratch import Error, load_checkpoint, read_tokenizer
from qwen3_scratch.tokenizer import QWEN_PATTERN
from qwen3_scratch.trust.patterns import may_never_end

PAIR = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def last_added(**changes):
    return {"added_tokens": [*ADDED[:-1], ADDED[-1] | changes]}


def refused(folder, read=read_tokenizer):
    with pytest.raises(Error) as caught, unchecked():
        read(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 900
    assert str(caught.value).startswith(str(folder))
    return str(caught.value).removeprefix(f"{folder}/")


# ---- what is no tokenizer, or one out of order -----------------------------------------------

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
FILES = {
    "an empty file": (b"", "is no tokenizer file"),
    "a list": ("[1, 2]", "is no tokenizer file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no tokenizer file"),
    "a packed file": (gzip.compress(json.dumps(HONEST).encode()), "is no tokenizer file"),
    "zeros": (bytes(1000), "is no tokenizer file"),
    "UTF-16": (json.dumps(HONEST).encode("utf-16"), "begins with the byte order mark of UTF-16"),
    "the config": ((TINY / "config.json").read_bytes(), "is no tokenizer file"),
    "half of the file": (json.dumps(HONEST)[:20000], "is no tokenizer file"),
    "a page of the web": ("<!DOCTYPE html><html>404</html>", "is no tokenizer file"),
    "brackets a million deep": ("[" * 10**6 + "]" * 10**6, "is no tokenizer file"),
    "objects a million deep": ('{"model":' * 10**6, "is no tokenizer file"),
    "a key that stands twice": (json.dumps(HONEST)[:-1] + ', "a": 1, "a": 2}', "is no tokenizer file"),
    "a model of a kind that nobody knows": (model(type="Neural"), "is no tokenizer file"),
    "a merge of tokens that are none": (model(merges=[["no", "such"]]), "is no tokenizer file"),
    "a pattern that is none": ({"pre_tokenizer": split("(")}, "is no tokenizer file"),
    "an id of 33 bits": (last_added(id=2**32), "is no tokenizer file"),
    "a negative id": (last_added(id=-1), "is no tokenizer file"),
    "an added token far out": (last_added(id=2**32 - 1), "has the id 4294967295, expected 2047, the next that is free"),
    "an added token after a gap": (last_added(id=5000), "has the id 5000, expected 2047"),
    "an added token with the id of another": (last_added(id=0), "has the id 0, expected 2047"),
    "an added token without text": (last_added(content=""), "the added token '' has the id 2047, expected None"),
    "all tokens with one id": (model(vocab=dict.fromkeys(MODEL["vocab"], 0)), "share the id"),
    "two tokens with one id": (model(vocab=MODEL["vocab"] | {"!": 1}), "share the id 1, expected one id each"),
    "no token at all": (model(vocab={}, merges=[]) | {"added_tokens": []}, "holds no token"),
    "a pattern without end": ({"pre_tokenizer": split("(a+)+$")}, "which may take for ever"),
    "a pattern of choices without end": ({"pre_tokenizer": split("(?:a|aa)*$")}, "which may take for ever"),
    "a pattern that repeats what it found": ({"pre_tokenizer": split(r"(a+)\1")}, "which may take for ever"),
    "a pattern of pages": ({"pre_tokenizer": split("a|" * 10000)}, "which may take for ever"),
    "a pattern without end, deep inside": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LEVEL, split("(a*){9}")]}}, "may take for ever",
    ),
    "a text that grows": ({"normalizer": replace("a", "aa")}, "expected a text that is replaced by one no longer"),
    "a text that grows out of nothing": ({"normalizer": replace("", "a")}, "replaced by one no longer"),
    "an answer that grows": ({"decoder": replace("a", "a" * 10**6)}, "replaced by one no longer"),
    "bytes of bytes": ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LEVEL] * 40}}, "40 of them ByteLevel"),
    "a hundred normalizers": ({"normalizer": PAIR | {"normalizers": [{"type": "NFC"}] * 100}}, "has 101 parts"),
    "a normalizer of bytes": ({"normalizer": {"type": "ByteLevel"}}, "is of type 'ByteLevel', expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_tokenizer_file_is_refused_that_is(tmp_path, name):
    content, expected = FILES[name]
    found = refused(write(tmp_path / "it", content))
    assert re.match(rf"tokenizer\.json: [^\n]*{re.escape(expected)}", found)


# Of patterns that others' tokenizers use, and of what has some of their look.
SAFE = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",  # DeepSeek's
    "[一-龥぀-ゟ゠-ヿ]+",
    r"\p{N}{1,3}",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}\p{M}]+(?i:'s|'t|'re|'ve)?|[^\s\p{L}]+[\r\n/]*",
    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    r"(?=(\d{3})+(?!\d))",
    r"[\p{L}&&[^\p{Han}]]+|\p{Han}+",
    r"[^(\s|[.,!?…。，、।۔،])]+",
    r"\)+\(*",
    r"[])*]+[[:alpha:])+]*",
    r"(?:\\\))+",
    r"(?#a comment)(?<word>[\p{L}']+(?:-[\p{L}']+)*)",
    r" ?(?:[A-Z][a-z]*)+",
    r"(?:\r?\n)+",
    r"(ab|cd)*",
    r"(?:a|b)*",
    r"(ab?)+",
    r"(a{3}){2}b",
    r"(?>a+)b",
    r"(?:x(?:y z)*)+",
    r"(?:a,)*a",
    QWEN_PATTERN,
)
ENDLESS = (
    r"(a+)+", r"(?:a+){2,}", r"(a*){9}", r"(?:a*)*", r"(a|a)*", r"(?:a|aa)*", r"(a|ab|b)+", r"(a?){50}a{50}",
    r"((x))+((b+)+)", r"(?=(a+)+)x", r"(?<!(?:a|a)*)x", r"(\d{1,3})+", r"(\w|\d)+", r"(?:[a-z]+\d*)+", r"(?i:a|A)+",
    r"(?:\s|\n)+", r"([A-z]|[a-c])*", r"(a{2,3}){4,9}", r"(a{1,2}){60}", r"a{2,3}+", r"(.*,){11}P", r"(x+x+)+y",
    r"((?:|)a)+", r"(?:\p{L}|\p{Lu})+", r"(?:一|\p{Han})+", r"(?:é|[è-ê])+", r"(a+)\1", r"(?<x>a)\k<x>", r"\g<1>(a)",
    r"([^,]*,?)*", r"(?:ab|a|b)*", r"(a{1,30}){1,30}", r"(?:[a-z])+(?:[)*]|\))*",
)  # fmt: skip


@pytest.mark.parametrize("pattern", SAFE)
def test_a_pattern_that_ends_is_read(tmp_path, pattern):
    found = read_tokenizer(write(tmp_path / "it", {"pre_tokenizer": split(pattern)}))
    for text in ("a" * 30 + "!", "Ab" * 20, "123456789 " * 3, " - a-b) \n" * 5, "x yz y z" * 4):
        found.encode(text)  # at once


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_may_never_end_is_refused(tmp_path, pattern):
    assert "which may take for ever" in refused(write(tmp_path / "it", {"pre_tokenizer": split(pattern)}))


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:" + "|".join("[a-z]" * 1 for _ in range(400)) + ")+",
        "(?:" + "[a-z]?" * 400 + "x)+",
        "(" * 400 + "a" + ")+" * 400,
        "(?:a|" * 200 + "b" + ")+" * 200,
        r"(?:\d{3}){60}" * 100 + "(a|a)*",
    ],
)
def test_a_pattern_that_is_long_to_judge_is_refused_soon(pattern):
    assert may_never_end(pattern)


@examples(300)
@given(pattern=st.text(alphabet=r"()[]{}|*+?\ap1,-^:=!<>.k$ ", max_size=25))
def test_any_pattern_is_judged(pattern):
    assert may_never_end(pattern) in (True, False)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "a link to nothing", "a link to another folder"])
def test_what_is_no_file_of_the_folder_is_not_opened(tmp_path, name, kind):
    folder = write(tmp_path / "it", {})
    path, secret = folder / name, tmp_path / "secret"
    secret.write_text("{}")
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        targets = {"a device": "/dev/zero", "a link to nothing": folder / "nowhere", "a link to another folder": secret}
        path.symlink_to(targets[kind])
    found = refused(folder)
    assert found.startswith(f"{name}: is ")


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path):
    folder = tmp_path / "it"
    shutil.copytree(TINY, folder)
    config = json.loads((TINY / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 2040}), "utf-8")
    assert "the embedding 2040 rows" in refused(folder, load_checkpoint)


# ---- settings that are laid aside, and what the library cannot do -----------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
        {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}},
        {"padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "x"}},
    ],
)  # fmt: skip
def test_a_text_is_neither_cut_nor_padded_whatever_the_file_says(tmp_path, settings):
    assert read_tokenizer(write(tmp_path, settings)).encode("Hello there") == read_tokenizer(TINY).encode("Hello there")


def test_what_the_library_cannot_encode_is_an_error(tmp_path):
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}
    tokenizer = read_tokenizer(write(tmp_path, {"model": words, "added_tokens": [], "pre_tokenizer": None}))
    assert tokenizer.encode("a") == [0]
    with pytest.raises(Error, match=r"the tokenizer failed on the text 'b' \([^\n]*\), expected token ids"):
        tokenizer.encode("b")


def test_a_panic_of_the_library_is_an_error(capfd):
    tokenizer = read_tokenizer(TINY)
    tokenizer.backend = tokenizers.Tokenizer.from_str(json.dumps(HONEST | {"pre_tokenizer": split("(a+)+$")}))
    with pytest.raises(Error, match=r"the tokenizer failed on the text 'aa[^\n]*retry-limit[^\n]*"):
        tokenizer.encode("a" * 40 + "!")
    assert "panicked" in capfd.readouterr().err  # the library writes this itself


def test_a_stop_by_the_user_is_not_taken_for_a_failure(monkeypatch):
    tokenizer = read_tokenizer(TINY)

    class Stopped:
        def encode(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "backend", Stopped())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


@pytest.mark.parametrize("text", [None, 3, ["a"], b"a", {"a": 1}])
def test_what_is_no_text_is_not_encoded(text):
    with pytest.raises(Error, match=r"^text is [^\n]*expected a text"), unchecked():
        read_tokenizer(TINY).encode(text)


@pytest.mark.parametrize("ids", [[-1], [1, 2**32], [2**70], [1.5], ["a"], "a", 3, None, [1, None], [[1]]])
def test_what_are_no_ids_is_not_decoded(ids):
    with pytest.raises(Error, match=r"^token ids? [^\n]*expected "), unchecked():
        read_tokenizer(TINY).decode(ids)


def test_ids_of_a_tensor_or_an_array_are_decoded():
    tokenizer, ids = read_tokenizer(TINY), [5, 300, 7]
    with unchecked():
        assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(np.array(ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("token", [-1, 2**32, 2**70])
def test_an_id_out_of_range_stands_for_no_bytes(token):
    assert read_tokenizer(TINY).token_bytes(token) == b""


def test_a_token_that_is_not_written_in_bytes_stands_for_its_text_as_in_the_library(tmp_path):
    tokenizer = read_tokenizer(write(tmp_path, model(vocab=MODEL["vocab"] | {"▁世é": 5000}) | {"added_tokens": []}))
    assert tokenizer.token_bytes(5000) == "▁世é".encode()
    assert tokenizer.decode([5000]) == "▁世é"


# ---- the template's file ---------------------------------------------------------------------

TEMPLATES = {
    "a number": 3, "true": True, "an object of numbers": {"default": 3}, "a list of texts": ["x"],
    "a default without a template": [{"name": "default"}],
    "a default that is a list": [{"name": "default", "template": []}],
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_in_the_settings_is_refused_that_is(tmp_path, name):
    (write(tmp_path / "it", {}) / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATES[name]}))
    assert re.match(r"tokenizer_config\.json: chat_template is .*, expected a text", refused(tmp_path / "it"))


def test_a_template_that_is_not_in_utf8_is_named(tmp_path):
    (write(tmp_path / "it", {}) / "chat_template.jinja").write_bytes("é".encode("latin-1"))
    assert refused(tmp_path / "it").startswith("chat_template.jinja: is no text in UTF-8")


@pytest.mark.parametrize("names", [["default", "tool_use"], ["tool_use", "default"], ["tool_use"], []])
def test_of_named_templates_only_the_default_is_taken(tmp_path, names):
    listed = [{"name": name, "template": f"the {name}"} for name in names]
    (write(tmp_path, {}) / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert read_tokenizer(tmp_path).chat_template == ("the default" if "default" in names else None)
