"""What is fuzzed: each target reads bytes as one file of a checkpoint, and only `Error` may come of bad ones.

A target is a function of a folder and of the bytes; its seeds are honest files, made here and not kept in git.
"""

import json
import struct
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save

from qwen3_scratch.checkpoints.config_json import read_config
from qwen3_scratch.checkpoints.weights import all_slots, check_tensors
from qwen3_scratch.config import Config
from qwen3_scratch.tokenizer import Tokenizer, read_tokenizer
from qwen3_scratch.trust.shards import tensor_files

ROOT = Path(__file__).parents[2]
TINY = ROOT / "data" / "tiny-moe"
SMALL = Config(
    model_type="qwen3_moe", vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1, head_dim=2, num_experts=2, num_experts_per_tok=1,
    moe_intermediate_size=2, tie_word_embeddings=True,
)  # fmt: skip
BACKEND = tokenizers.Tokenizer(tokenizers.models.BPE())
CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Hello <think> é"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes.", "tool_calls": [{"name": "f", "arguments": {}}]},
    {"role": "tool", "content": "3"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TEXTS = ("", "Hello  world", "a" * 40, "<|im_start|>user\n12 é 世界\r\n", " \n\n x'll")


def small_shards() -> list[bytes]:
    """The tensors of the small model, half of them in each of two files."""
    tensors = {slot.name: np.zeros(slot.shape, np.float32) for slot in all_slots(SMALL)}
    halves = (sorted(tensors)[::2], sorted(tensors)[1::2])
    return [save({name: tensors[name] for name in half}) for half in halves]


def config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    found = read_config(folder)
    assert 0 < found.num_parameters(active=True) <= found.num_parameters()
    assert len(found.layer_types) == found.num_hidden_layers
    (folder / "config.json").write_text(json.dumps(found.to_dict()), "utf-8")
    again = read_config(folder)
    assert again.num_parameters() == found.num_parameters()


def index(folder: Path, content: bytes) -> None:
    for number, shard in enumerate(small_shards()):
        path = folder / f"part-{number}.safetensors"
        if not path.exists():
            path.write_bytes(shard)
    (folder / "model.safetensors.index.json").write_bytes(content)
    check_tensors(tensor_files(folder), SMALL)


def header(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    check_tensors(tensor_files(folder), SMALL)


def tokenizer(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    found = read_tokenizer(folder)
    for text in TEXTS:
        ids = found.encode(text)
        assert all(0 <= token < found.vocab_size for token in ids)
        found.decode(ids)
        b"".join(map(found.token_bytes, ids))


def template(folder: Path, content: bytes) -> None:
    found = Tokenizer(BACKEND, content.decode("utf-8", "replace"), "checkpoint")
    found.render_chat(CHAT, tools=TOOLS)
    found.render_chat(CHAT[1:2], thinking=False)


TARGETS = {target.__name__: target for target in (config, index, header, tokenizer, template)}


def seeds(name: str) -> list[bytes]:
    """Honest files for a target."""
    if name == "config":
        dense = {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
        yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 512}
        moe = SMALL.to_dict() | {"rope_scaling": None, "rope_parameters": yarn, "num_local_experts": 2}
        ends = {"eos_token_id": [1, 2], "use_sliding_window": True, "sliding_window": 4, "mlp_only_layers": [0]}
        return [(TINY / "config.json").read_bytes(), *(json.dumps(one).encode() for one in (dense, moe, moe | ends))]
    if name == "index":
        halves = (sorted(slot.name for slot in all_slots(SMALL))[part::2] for part in (0, 1))
        table = {key: f"part-{part}.safetensors" for part, half in enumerate(halves) for key in half}
        return [json.dumps({"metadata": {"total_size": 100}, "weight_map": table}).encode()]
    if name == "header":
        whole = save({slot.name: np.zeros(slot.shape, np.float32) for slot in all_slots(SMALL)}, {"format": "pt"})
        return [whole, *small_shards(), struct.pack("<Q", 2) + b"{}"]
    if name == "tokenizer":
        return [json.dumps(one).encode() for one in small_tokenizers()]
    embedded = (ROOT / "qwen3_scratch" / "tiny" / "chat_template.jinja").read_bytes()
    return [embedded, *(text.encode() for text in PHRASES)]


def small_tokenizers() -> list[dict]:
    """The embedded tokenizer with few merges, and other kinds of the library."""
    whole = json.loads((TINY / "tokenizer.json").read_text("utf-8"))
    merges = whole["model"]["merges"][:20]
    made = ["".join(merge) if isinstance(merge, list) else merge.replace(" ", "") for merge in merges]
    letters = [token for token in whole["model"]["vocab"] if len(token) == 1]
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*letters, *made]))}
    added = [entry | {"id": len(vocab) + number} for number, entry in enumerate(whole["added_tokens"][:4])]
    small = whole | {"model": whole["model"] | {"vocab": vocab, "merges": merges}, "added_tokens": added}
    level = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["a", -1.0]], "byte_fallback": False}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    others = {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [], "decoder": None}
    sentence = {"pre_tokenizer": space, "decoder": space, "normalizer": replace, "added_tokens": []}
    return [small, small | others | {"model": level}, small | sentence | {"model": unigram}]


PHRASES = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}",
    "{% macro f(n, *a) %}{% if n %}{{ f(n - 1) }}{{ caller() }}{% endif %}{% endmacro %}{% call f(3) %}{% endcall %}",
    "{% set ns = namespace(x='a', y=[1]) %}{% for i in range(9) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ messages | tojson(indent=2) }}{{ tools | map(attribute='function') | list | length }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map('upper') | join(', ') }}",
    "{{ '%s-%5d' | format('a', 3) }}{{ '{:>8}{0}'.format(1) }}{{ 'a,b'.split(',')[-1][::2] }}{{ 2 ** 9 % 7 // 2 }}",
    "{% filter upper %}{% set a, b = [1, 2] %}{% with c = a %}{{ c is odd or b in (1,) }}{% endwith %}{% endfilter %}",
    "{% block b scoped %}{{ self.b }}{% endblock %}{% raw %}{{ x }}{% endraw %}{# no #}{{ strftime_now('%Y') }}",
    "{% for a in [[1, [2]], 3] recursive %}{{ loop(a) if a is iterable else loop.depth }}{% else %}-{% endfor %}",
    "{{ messages | groupby('role') | list }}{{ messages[0] | dictsort }}{{ 'a b' |title|indent(2)|replace('A', 'c') }}",
    "{{ cycler(1, 2).next() }}{{ joiner('|')() }}{{ dict(a=1).items() | list | sort | batch(2, 0) | list }}",
    "{{ raise_exception('no ' ~ messages[0]['role']) }}",
    "{% for m in messages %}{% generation %}{{ m.content.strip('x') }}{% endgeneration %}{% endfor %}",
)
