"""What cannot be answered is one sentence before anything is computed."""

import pytest
import torch
from helpers import checkpoint, never, unchecked

from qwen3_scratch import Checkpoint, Error, generate, generation, stream
from qwen3_scratch.fast import eager

ROWS = checkpoint().config.vocab_size
EMPTY, FIRST_WORD = "prompt is empty, expected at least one token", "prompt is empty, expected at least one word"
KINDS = "expected text, messages, token ids, or a list of these"
OUTSIDE = f"found, expected 0 to {ROWS - 1}: check which tokenizer made it"


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return checkpoint(seed=3)


WRONG = [
    ("", {}, f"{FIRST_WORD}: write something"),
    ("  \n ", {}, f"{FIRST_WORD}: write something"),
    (["Hi", " "], {}, f"row 1: {FIRST_WORD}: write something"),
    ("", {"raw": True}, f"{EMPTY}: write something"),
    ([], {}, f"{EMPTY} or message: write something"),
    ([[]], {}, f"{EMPTY}: write something"),
    (torch.tensor([], dtype=torch.long), {}, f"{EMPTY} or message: write something"),
    (None, {}, f"prompt is a NoneType, {KINDS}"),
    (5, {}, f"prompt is a int, {KINDS}"),
    (b"Hi", {}, f"prompt is a bytes, {KINDS}"),
    ({"role": "user"}, {}, f"prompt is a dict, {KINDS}"),
    (["Hi", 5], {}, f"row 1: prompt is a int, {KINDS}"),
    ([1, ROWS], {}, f"prompt: token id {ROWS} {OUTSIDE}"),
    ([1, -1], {}, f"prompt: token id -1 {OUTSIDE}"),
    ([1.0, 2.0], {}, f"prompt: token id 1.0 {OUTSIDE}"),
    ([1, 2.5], {}, f"prompt: token id 2.5 {OUTSIDE}"),
    ([True, 2], {}, f"prompt: token id True {OUTSIDE}"),
    ([[1], [2, "a"]], {}, f"row 1: prompt: token id 'a' {OUTSIDE}"),
    ([{"content": "Hi"}], {}, "messages: entry 0 is {'content': 'Hi'}, expected a role and a content"),
    ([["Hi"]], {}, "messages: entry 0 is 'Hi', expected a role and a content"),
    ([1] * 500, {"max_new_tokens": 13},
     "prompt: 500 prompt tokens and max_new_tokens=13 exceed max_position_embeddings, which comes to 512: "
     "shorten one of them, or raise it in the config (better with rope_scaling)"),
    (["Hi", [1] * 257], {}, "row 1: prompt: 257 prompt tokens and max_new_tokens=256 exceed max_position"),
    ("Hi", {"max_new_tokens": 0}, "max_new_tokens is 0, expected a whole number, at least 1: raise it"),
    ("Hi", {"max_new_tokens": 2.5}, "max_new_tokens is 2.5, expected a whole number, at least 1: raise it"),
    ("Hi", {"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9, expected a whole number, 0 to max_new"),
    ("Hi", {"min_new_tokens": -1}, "min_new_tokens is -1, expected a whole number, 0 to max_new_tokens, which is 256"),
    ("Hi", {"seed": 2**64}, f"seed is {2**64}, expected a whole number of at most 64 bits: mend the argument"),
    ("Hi", {"seed": "x"}, "seed is 'x', expected a whole number of at most 64 bits: mend the argument"),
    ("Hi", {"stop": ""}, "stop is '', expected a text or a list of texts that are not empty: mend the argument"),
    ("Hi", {"stop": ["a", ""]}, "stop is ['a', ''], expected a text or a list of texts that are not empty"),
    ("Hi", {"stop": None}, "stop is None, expected a text or a list of texts that are not empty"),
    ("Hi", {"top_p": 0}, "top_p is 0, expected a number above 0 and at most 1: mend the argument"),
    ("Hi", {"raw": 1}, "raw is 1, expected True or False: mend the argument"),
    ("Hi", {"thinking": None}, "thinking is None, expected True or False: mend the argument"),
    ("Hi", {"lookup": "no"}, "lookup is 'no', expected True or False: mend the argument"),
    ("Hi", {"compiled": 0.0}, "compiled is 0.0, expected True or False: mend the argument"),
    ("Hi", {"plain_user_text": []}, "plain_user_text is [], expected True or False: mend the argument"),
    ("Hi", {"temperature": "hot"}, "temperature is 'hot', expected a number, 0 (greedy) or more: mend the argument"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "options", "message"), WRONG, ids=[repr(row[:2])[:60] for row in WRONG])
def test_a_wrong_argument_is_one_sentence_before_anything_is_computed(prompt, options, message, monkeypatch):
    monkeypatch.setattr(eager, "forward", never)
    monkeypatch.setattr(generation, "KVCache", never)
    with unchecked(), pytest.raises(Error) as caught:
        generate(checkpoint(), prompt, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_text_for_a_model_without_tokenizer_is_an_error(model):
    bare = Checkpoint(model.config, model.weights)
    for prompt in ("Hi", [{"role": "user", "content": "Hi"}], ["Hi"]):
        with pytest.raises(Error, match=r"^prompt is text, and this checkpoint has no tokenizer, expected token ids"):
            generate(bare, prompt)
    with pytest.raises(Error, match=r"^stop needs text, and this checkpoint has no tokenizer: leave it out$"):
        generate(bare, [1], stop="a")


def test_a_wrong_setting_in_generation_config_and_an_option_that_does_not_exist_are_named(model):
    odd = Checkpoint(model.config, model.weights, model.tokenizer, {"do_sample": True, "temperature": "0.6"})
    with pytest.raises(Error, match=r"^temperature is '0\.6', expected a finite number: mend generation_config\.json$"):
        generate(odd, "Hi")
    for name, advice in {
        "topp": "perhaps you mean top_p",
        "Temperature": "perhaps you mean temperature",
        "max_tokens": "perhaps you mean max_new_tokens",
        "enable_thinking": "perhaps you mean thinking",
        "do_sample": "perhaps you mean temperature",
        "colour": "check the spelling",
    }.items():
        with pytest.raises(Error, match=rf"^{name}: no such option, expected one of generate's: {advice}$"):
            stream(model, "Hi", **{name: 1})
