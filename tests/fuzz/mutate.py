"""How the next input is made where random bytes would hardly ever be a file: JSON as JSON, templates by words."""

import json
import random
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 2**31, 2**32 - 1, 2**63, 2**64, 10**30, 0.0, -0.5, 1e-300, 1e308,
    float("inf"), float("nan"), "", "a", "x" * 300, "\u0000", "\ud800", "\n", "../x", "/etc/passwd",
    "part-0.safetensors", [], {},
    [[]], [None], [-1, 0], {"": 0}, "default", "yarn", "linear", "dynamic", "qwen3", "qwen3_moe", "F32", "BF16",
    "F16", "I8", "BOOL", "sliding_attention", "full_attention", "BPE", "Unigram", "WordPiece", "ByteLevel", "Sequence",
    "Split", "Replace", "NFC", "NFKD", "Strip", "Prepend", "Metaspace", "Digits", "TemplateProcessing", "Fuse", "(a+)+",
    "a*a*a*b", "\\p{L}+|\\s", "(?i:a|b)", "[^a]", "é", "▁", "Ġ",
)  # fmt: skip
WORDS = (
    "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{% for a in ", "{% endfor %}", "{% if ", "{% elif ", "{% else %}",
    "{% endif %}", "{% set ", "{% set x %}", "{% endset %}", "{% macro f(a=1) %}", "{% endmacro %}", "{{ f(",
    "{% call f() %}", "{% endcall %}", "{% filter ", "{% endfilter %}", "{% block b %}", "{% endblock %}",
    "{% break %}", "{% continue %}", "{% raw %}", "{% endraw %}", "{% include ", "{% import ", "{% extends ",
    "{% with a=1 %}", "{% endwith %}", "{% generation %}", "{% endgeneration %}", "{#", "#}", "messages", "tools",
    "enable_thinking", "loop", "loop(",
    "loop.index", "loop.length", "loop.cycle(", "loop.changed(", "self", "caller()", "varargs", "kwargs", "namespace(",
    "ns.x", "cycler(", "joiner(", "dict(", "range(", "raise_exception(", "strftime_now(", "super()", "a", "x", "'a'",
    "''", "'%s'", "'{}'", "1", "0", "-1", "9", "99999", "1e9", "None", "true", "[", "]", "(", ")", "{", "}", ",", ":",
    ".", "..", "|", " ~ ", " + ", " - ", " * ", " ** ", " // ", " / ", " % ", " == ", " < ", " in ", " not in ",
    " is ", " and ", " or ", " not ", " if ", " else ", "=", "*", "**", "[::-1]", "[:2]", "[0]", " recursive",
    " scoped", ".append(", ".items()", ".get('role')", ".split(", ".join(", ".replace('a', 'bb')", ".format(",
    ".format_map(", ".center(", ".__class__", ".upper()", "'__class__'", "attribute='role'", "start=", "indent=",
    "width=",
    *(f"|{name}" for name in (
        "abs", "attr('a')", "batch(2)", "capitalize", "center(9)", "default(1)", "dictsort", "escape", "filesizeformat",
        "first", "float", "format(1)", "groupby('role')", "indent(2)", "int", "items", "join('-')", "last", "length",
        "list", "lower", "map('upper')", "map(attribute='role')", "max", "min", "reject('odd')", "rejectattr('role')",
        "replace('a','b')", "reverse", "round", "safe", "select", "selectattr('role')", "slice(2)", "sort", "string",
        "sum", "title", "tojson", "trim", "truncate(3)", "unique", "upper", "urlencode", "wordcount",
    )),
    *(f" is {name}" for name in ("defined", "none", "string", "mapping", "iterable", "odd", "sameas(1)")),
)  # fmt: skip
Mutator = Callable[[bytes, int], bytes]


def mutate_json(content: bytes, seed: int, plain: Mutator, largest: int) -> bytes:
    """The same JSON with a few values changed, moved, doubled or left out; sometimes changed as bytes."""
    draw = random.Random(seed)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return plain(content, largest)
    if draw.random() < 0.15:
        return plain(content, largest)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        found = _changed(found, draw)
    try:
        return json.dumps(found, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return content


def _changed(tree: Any, draw: random.Random) -> Any:
    """Goes down a random way and changes what is there."""
    places = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not places or draw.random() < 0.08:
        return _another(tree, draw)
    place = draw.choice(places)
    action = draw.random()
    if action < 0.06:
        del tree[place]
    elif action < 0.1 and isinstance(tree, dict):
        tree[draw.choice([str(draw.choice(ODD)), draw.choice(places)])] = deepcopy(tree[draw.choice(places)])
    elif action < 0.13 and isinstance(tree, list):
        tree.append(deepcopy(tree[draw.choice(places)]))
    else:
        tree[place] = _changed(tree[place], draw)
    return tree


def _another(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or draw.random() < 0.5:
        return (
            deepcopy(draw.choice(ODD))
            if draw.random() < 0.9
            else json.loads(json.dumps([value] * draw.choice((1, 2, 50))))
        )
    if isinstance(value, int):
        return draw.choice(
            (value + 1, value - 1, -value, value * 2, value * 10**9, value // 2, str(value), float(value))
        )
    cut = draw.randrange(len(value) + 1)
    return draw.choice((value[:cut], value + value, value[:cut] + str(draw.choice(ODD)) + value[cut:]))


def mutate_header(content: bytes, seed: int, plain: Mutator, largest: int) -> bytes:
    """A safetensors file: eight bytes of length, the header as JSON, the numbers."""
    draw = random.Random(seed)
    if len(content) < 8 or draw.random() < 0.1:
        return plain(content, largest)
    length = struct.unpack("<Q", content[:8])[0]
    head, rest = content[8 : 8 + length], content[8 + length :]
    head = mutate_json(head, seed + 1, plain, largest)
    told = len(head) if draw.random() < 0.9 else draw.choice((0, 1, len(head) - 1, len(head) + 1, 2**63, 2**64 - 1))
    if draw.random() < 0.1:
        rest = rest[: draw.randrange(len(rest) + 1)] + b"\0" * draw.choice((0, 1, 8))
    return struct.pack("<Q", told % 2**64) + head + rest


def mutate_template(content: bytes, seed: int, plain: Mutator, largest: int) -> bytes:
    """Words of the language put in, doubled, moved and taken out; sometimes bytes."""
    draw = random.Random(seed)
    text = content.decode("utf-8", "replace")
    if draw.random() < 0.1:
        return plain(content, largest)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        first, last = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        last = min(last, first + draw.choice((1, 5, 20, 80)))
        middle = draw.choice(("", draw.choice(WORDS), draw.choice(WORDS) + draw.choice(WORDS), text[first:last] * 2))
        text = text[:first] + middle + text[draw.choice((first, last)) :]
    return text.encode("utf-8", "replace")[:largest]


MUTATORS = {
    "config": mutate_json, "index": mutate_json, "header": mutate_header, "tokenizer": mutate_json,
    "template": mutate_template,
}  # fmt: skip
