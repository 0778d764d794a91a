"""What is asked of a tokenizer.json that the library accepts: ids in order, and no part that never ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import Error, shown
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
