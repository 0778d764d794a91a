"""The embedded checkpoint's tokenizer.json, with something else in it."""

import json

from helpers import TINY

HONEST = json.loads((TINY / "tokenizer.json").read_text("utf-8"))
ADDED, MODEL = HONEST["added_tokens"], HONEST["model"]


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def model(**changes):
    return {"model": MODEL | changes}


def write(folder, content):
    folder.mkdir(exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps(HONEST | content)
    (folder / "tokenizer.json").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
