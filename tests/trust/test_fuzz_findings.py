"""What fuzzing and hypothesis have found, each as the input that it was, written legibly."""

import json

import pytest

from qwen3_scratch import Error, read_config, read_tokenizer
from qwen3_scratch.trust.files import json_object


def config(folder, **content):
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    return read_config(folder)


def test_nan_under_one_of_two_names_is_refused(tmp_path):
    """NaN is not equal to itself, and so differed from the other name, which was not there."""
    with pytest.raises(Error, match="dtype is nan, expected a string"):
        config(tmp_path, model_type="qwen3", torch_dtype=float("nan"))


def test_a_key_that_stands_twice_is_found_soon_among_many():
    """It was sought among all keys once for each."""
    many = ",".join(f'"{number}":1' for number in range(200_000))
    with pytest.raises(ValueError, match="the key '199999' stands twice"):
        json_object(f'{{{many},"199999":2}}'.encode())


def test_a_part_of_a_tokenizer_is_judged_by_what_the_library_makes_of_it(tmp_path):
    """Its type was a list, which the library overlooks: the fields say that it replaces."""
    replaces = {"type": ["Replace", "Replace"], "pattern": {"String": "a"}, "content": "aaaa"}
    content = {"normalizer": replaces, "model": {"unk_id": 0, "vocab": [["?", 0.0], ["a", 1]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(
        Error, match="normalizer replaces 'a' by 'aaaa', expected a text that is replaced by one no long"
    ):
        read_tokenizer(tmp_path)
