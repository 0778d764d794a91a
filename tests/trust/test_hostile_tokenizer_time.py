"""Hostile tokenizers are read or refused soon and small."""

import json
import os

import pytest
from helpers import ROOT, finished
from tokenizer_files import MODEL, model, replace, write

PROGRAM = """
import json, resource, sys, time, types
package = types.ModuleType("qwen3_scratch")
package.__path__ = [sys.argv[1]]
sys.modules["qwen3_scratch"] = package  # without torch, which takes seconds and a gigabyte of addresses
from qwen3_scratch.errors import Error
from qwen3_scratch.tokenizer import read_tokenizer
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
for folder in sys.argv[2:]:
    start = time.process_time()
    try:
        found = len(read_tokenizer(folder).encode("a" * 100_000 + "é" * 100_000 + "!"))
    except Error as error:
        found = str(error)
    print(json.dumps([found, time.process_time() - start]), flush=True)
"""
HEAVY = {
    "a file of a terabyte": "expected at most 40,000,000",
    "settings of a terabyte": "expected at most 10,000,000",
    "a template of a terabyte": "expected at most 1,048,576",
    "settings a million deep": "cannot be read as JSON",
    "a key that stands twice among a million": "stands twice",
    "padding to a billion": None,
    "normalizers that double": "replaced by one no longer",
    "a vocabulary of half a million": None,
}


def heavy(name, folder):
    vocab = MODEL["vocab"] | {f"token{number}": 5000 + number for number in range(500_000)}
    double = {"type": "Sequence", "normalizers": [replace("a", "aa")] * 15}
    pad = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    contents = {
        "padding to a billion": {"padding": pad}, "normalizers that double": {"normalizer": double},
        "a vocabulary of half a million": model(vocab=vocab) | {"added_tokens": []},
    }  # fmt: skip
    write(folder, contents.get(name, {}))
    names = {"a file": "tokenizer.json", "settings": "tokenizer_config.json", "a template": "chat_template.jinja"}
    for kind in (kind for kind in names if name == f"{kind} of a terabyte"):
        (folder / names[kind]).touch()
        os.truncate(folder / names[kind], 10**12)
    twice = ",".join(f'"{number}":1' for number in range(700_000))
    deep = {"settings a million deep": "[" * 10**6, "a key that stands twice among a million": f'{{{twice},"7":1}}'}
    if name in deep:
        (folder / "tokenizer_config.json").write_text(deep[name])
    return folder


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folders = [heavy(name, tmp_path_factory.mktemp("heavy")) for name in HEAVY]
    said = finished("-c", PROGRAM, str(ROOT / "qwen3_scratch"), *map(str, folders))
    assert said.code == 0, said.err
    return dict(zip(HEAVY, map(json.loads, said.out.splitlines()), strict=True))


@pytest.mark.parametrize("name", HEAVY)
def test_a_tokenizer_is_read_or_refused_soon_and_small(outcomes, name):
    found, seconds = outcomes[name]
    assert seconds < 40  # a guard against hanging
    if HEAVY[name] is None:
        assert isinstance(found, int)
        assert 0 < found < 400_000
    else:
        assert HEAVY[name] in found
        assert "\n" not in found
