"""How the page reads: the tokenizer as plain lists, and the chat template as the texts before and after a question."""

import json
from typing import Any

from ..errors import Error, shown
from ..tokenizer import QWEN_PATTERN, Tokenizer

MARK = "\ue000question\ue000"  # of the private use area: in no template
NOT_QWEN = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
FLAGS = ("single_word", "lstrip", "rstrip")
PROBES = ("x", "  two\n lines \n", "<|im_end|>", "'\"{{ 1 }}")


def tokenizer_data(tokenizer: Tokenizer) -> dict[str, Any]:
    """Tokens by id, merges in order, added tokens, and whether texts are brought into Unicode's form NFC first.

    Raises Error for a tokenizer that does not read as Qwen's: another kind, pattern or normaliser, other flags.
    """
    parts = json.loads(tokenizer.backend.to_str())
    check_kind(tokenizer, parts)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"]["merges"]]
    ids = {number: token for token, number in parts["model"]["vocab"].items()}
    ids |= {entry["id"]: entry["content"] for entry in parts["added_tokens"]}
    return {
        "tokens": [ids.get(number) for number in range(tokenizer.vocab_size)],
        "merges": merges,
        "added": [{name: entry[name] for name in ("id", "content", "special", "normalized")}
                  for entry in parts["added_tokens"]],
        "nfc": parts["normalizer"] is not None,
    }  # fmt: skip


def check_kind(tokenizer: Tokenizer, parts: dict[str, Any]) -> None:
    model, cutter = parts["model"], parts["pre_tokenizer"] or {}
    pieces = cutter.get("pretokenizers", [cutter])
    patterns = [piece["pattern"].get("Regex") for piece in pieces if piece.get("type") == "Split"]
    kinds = [piece.get("type") for piece in pieces]
    right = {
        "model": model.get("type") == "BPE" and not any(model.get(name) for name in NOT_QWEN),
        "pattern": patterns == [QWEN_PATTERN] and kinds == ["Split", "ByteLevel"],
        "prefix space": not any(piece.get("add_prefix_space") for piece in pieces),
        "normalizer": (parts["normalizer"] or {"type": "NFC"})["type"] == "NFC",
        "added tokens": not any(entry[name] for entry in parts["added_tokens"] for name in FLAGS),
    }
    wrong = [name for name, holds in right.items() if not holds]
    if wrong:
        found = f"its {wrong[0]} is none that Qwen's tokenizers have"
        raise Error(f"{tokenizer.name}: {found}, expected a tokenizer as Qwen's: explore another checkpoint")


def chat_parts(tokenizer: Tokenizer) -> dict[str, dict[str, str]]:
    """With thinking and without: what the template writes before a question and after it.

    Raises Error for a template that changes the question, since it then has no constant parts.
    """
    if tokenizer.chat_template is None:
        return {name: {"before": "", "after": ""} for name in ("thinking", "direct")}
    return {name: parts_around(tokenizer, thinking) for name, thinking in (("thinking", True), ("direct", False))}


def parts_around(tokenizer: Tokenizer, thinking: bool) -> dict[str, str]:
    def said(text: str) -> str:
        return tokenizer.render_chat([{"role": "user", "content": text}], thinking=thinking)

    before, _, after = said(MARK).partition(MARK)
    for probe in PROBES:
        if said(probe) != before + probe + after:
            found = f"the chat template changes the question {shown(probe)}"
            raise Error(
                f"{tokenizer.name}: {found}, expected one that writes it as it stands: explore another checkpoint"
            )
    return {"before": before, "after": after}
