"""What is asked of a tokenizer.json that the library accepts: ids in order, and no part that never ends."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import Error, first_of, shown
from .files import read_json
from .patterns import may_never_end

MOST_PARTS = 16  # in one sequence of normalizers or pre-tokenizers; Qwen3 has 2
NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Prepend", "Replace", "Sequence", "Strip",
    "StripAccents",
}  # fmt: skip


def check_parts(path: Path, backend: tokenizers.Tokenizer) -> None:
    """No text grows or stalls on its way to the tokens, whatever it says: a short list of parts, each harmless.

    Asked is what the library has built, since it takes some parts for what their fields look like, whatever their type.
    """
    for field in ("normalizer", "pre_tokenizer", "decoder"):
        built = getattr(backend, field)
        parts = list(_parts(json.loads(built.__getstate__()))) if built is not None else []
        kinds = [part["type"] for part in parts]
        if len(parts) > MOST_PARTS or kinds.count("ByteLevel") > 1:
            found = f"{len(parts)} parts, {kinds.count('ByteLevel')} of them ByteLevel"
            raise Error(f"{path}: {field} has {found}, expected at most {MOST_PARTS} and 1: fetch the file again")
        for part in parts:
            if field == "normalizer" and part["type"] not in NORMALIZERS:
                expected = f"expected one of {', '.join(sorted(NORMALIZERS))}: fetch the file again"
                raise Error(f"{path}: normalizer is of type {shown(part['type'])}, {expected}")
            _check_pattern(path, field, part)


def _parts(found: Any) -> Iterator[dict[str, Any]]:
    """All parts of a sequence of sequences."""
    if isinstance(found, dict):
        yield found
        for name in ("normalizers", "pretokenizers", "decoders"):
            for part in found.get(name) or ():
                yield from _parts(part)


def _check_pattern(path: Path, field: str, part: dict[str, Any]) -> None:
    pattern = part.get("pattern")
    pattern = pattern if isinstance(pattern, dict) else {}
    regex, text = pattern.get("Regex"), pattern.get("String")
    if isinstance(regex, str) and (len(regex) > 10_000 or may_never_end(regex)):
        expected = "expected none that reads one text in many ways, which may take for ever: do not trust it"
        raise Error(f"{path}: {field} has the pattern {shown(regex)}, {expected}")
    if part.get("type") == "Replace" and (not text or len(part.get("content") or "") > len(text)):
        expected = "expected a text that is replaced by one no longer: fetch the file again"
        raise Error(f"{path}: {field} replaces {shown(regex or text)} by {shown(part.get('content'))}, {expected}")


def check_added(path: Path, content: dict[str, Any], backend: tokenizers.Tokenizer) -> None:
    """The library gives an added token the next free id, whatever the file says: then the model knows another."""
    for entry in content.get("added_tokens") or ():
        token, number = entry.get("content"), entry.get("id")
        found = backend.token_to_id(token)
        if found != number:
            what = f"the added token {shown(token)} has the id {shown(number)}"
            raise Error(f"{path}: {what}, expected {found}, the next that is free: fetch the file again")


def check_vocabulary(path: Path, backend: tokenizers.Tokenizer) -> None:
    ids = backend.get_vocab(with_added_tokens=True)
    if not ids:
        raise Error(f"{path}: holds no token, expected a vocabulary: fetch the file again")
    if len(set(ids.values())) < len(ids):
        seen: dict[int, str] = {}
        first = next(token for token, number in sorted(ids.items()) if seen.setdefault(number, token) != token)
        what = f"the tokens {shown(seen[ids[first]])} and {shown(first)} share the id {ids[first]}"
        raise Error(f"{path}: {what}, expected one id each: fetch the file again")


def tell_lacking(folder: Path, backend: tokenizers.Tokenizer, named: Sequence[str]) -> None:
    """A line on standard error for tokens that transformers would add to those of tokenizer.json, under new ids.

    `named` are the fields that name one token each: "eos_token", ...
    """
    lacking: dict[Path, list[str]] = {}
    for origin, token in _tokens_beside(folder, named):
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text and backend.token_to_id(text) is None:
            lacking.setdefault(origin, []).append(text)
    for origin, texts in lacking.items():
        found = f"names {first_of([*dict.fromkeys(texts)])}, which tokenizer.json does not hold"
        advice = "let its AutoTokenizer save the tokenizer again, or take it out of the file"
        print(f"{origin}: {found}: read as plain text, where transformers adds a token; {advice}", file=sys.stderr)


def _tokens_beside(folder: Path, named: Sequence[str]) -> Iterator[tuple[Path, Any]]:
    """The tokens that the files beside tokenizer.json name, each with its file, where transformers looks for them."""
    settings = folder / "tokenizer_config.json"
    files = {settings: read_json(settings) if os.path.lexists(settings) else {}}
    if "added_tokens_decoder" not in files[settings]:
        others = [folder / name for name in ("special_tokens_map.json", "added_tokens.json")]
        files |= {path: read_json(path) for path in others if os.path.lexists(path)}
    for path, content in files.items():
        if path.name == "added_tokens.json":
            content = {"added_tokens_decoder": [*content]}  # its keys are the tokens
        for name in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
            held = content.get(name)
            tokens = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
            yield from ((path, token) for token in tokens)
        yield from ((path, content.get(name)) for name in named)
