"""What is asked of the values of config.json, each failure in one sentence, before any weight is read.

`config` is a `Config` everywhere, which stands above this and is checked while it is made.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin

from .errors import Error
from .files import shown

ROPE_TYPES = ("default", "linear", "dynamic", "yarn")
LARGEST = 2**31 - 1  # of a size, length or token id; the largest that anybody trained with is a thousandth of it
MOST_LAYERS = 1000  # ten times those of the largest of the family; what is counted by layer stays quick
ROPE_RANGE = (1e-6, 1e15)  # of every number of a rotary setting: all that is computed from two of them is finite
AT_LEAST_ONE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "decoder_sparse_step",
)  # fmt: skip
ANY_SIZE = ("intermediate_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "max_window_layers")

TYPES = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    int | None: "a whole number or null",
    int | tuple[int, ...] | None: "a whole number, a list of whole numbers or null",
    tuple[int, ...]: "a list of whole numbers",
    tuple[str, ...]: "a list of strings",
}


def check_types(values: dict[str, Any], kind: type, where: Any) -> None:
    """Each value, against the type of the field of its name of a dataclass."""
    for f in fields(kind):
        if f.type in TYPES and f.name in values and not fits(values[f.name], f.type):
            raise Error(f"{where}: {f.name} is {shown(values[f.name])}, expected {TYPES[f.type]}: mend config.json")


def fits(found: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type: true is no 1, 1 is a number, and a number is finite."""
    if isinstance(found, tuple):
        kinds = [t for t in (kind, *get_args(kind)) if get_origin(t) is tuple]
        return bool(kinds) and all(type(entry) is get_args(kinds[0])[0] for entry in found)
    if kind is float:
        return type(found) in (int, float) and abs(found) <= sys.float_info.max  # false of NaN
    return type(found) in (get_args(kind) if isinstance(kind, UnionType) else (kind,))


def is_number(found: Any) -> bool:
    """Whether a value from JSON can be a rotary setting; true and false are none."""
    return isinstance(found, int | float) and not isinstance(found, bool) and ROPE_RANGE[0] <= found <= ROPE_RANGE[1]


def need(holds: bool, config: Any, where: str, name: str, expected: str) -> None:
    if not holds:
        raise Error(f"{where}: {name} is {shown(getattr(config, name))}, expected {expected}: mend config.json")


def check_sizes(config: Any, where: str) -> None:
    """Each size for itself, before anything is as long as one of them."""
    for name in (*AT_LEAST_ONE, *ANY_SIZE):
        most = MOST_LAYERS if name == "num_hidden_layers" else LARGEST
        need(getattr(config, name) <= most, config, where, name, f"at most {most}")
    for name in AT_LEAST_ONE:
        need(getattr(config, name) >= 1, config, where, name, "at least 1")
    layers = config.mlp_only_layers
    holds = len(layers) <= MOST_LAYERS and all(0 <= layer <= LARGEST for layer in layers)
    need(holds, config, where, "mlp_only_layers", f"at most {MOST_LAYERS} numbers of layers, counted from 0")


def check_relations(config: Any, where: str) -> None:
    """Every relation between fields that computing relies on."""

    def must(holds: bool, name: str, expected: str) -> None:
        need(holds, config, where, name, expected)

    must(config.rms_norm_eps > 0, "rms_norm_eps", "more than 0")
    must(config.initializer_range >= 0, "initializer_range", "0 or more")
    must(config.hidden_act in ("silu", "swish"), "hidden_act", "'silu', the only one this family was trained with")
    must(config.head_dim % 2 == 0, "head_dim", "an even number, since rotary embedding turns pairs")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    must(heads % kv_heads == 0, "num_attention_heads", f"a multiple of num_key_value_heads, which is {kv_heads}")
    must(config.num_experts >= 0, "num_experts", "0 (dense) or more")
    sparse = [layer for layer in range(config.num_hidden_layers) if config.is_sparse(layer)]
    if sparse:
        top_k, experts = config.num_experts_per_tok, config.num_experts
        must(1 <= top_k <= experts, "num_experts_per_tok", f"1 to num_experts, which is {experts}")
        must(config.moe_intermediate_size >= 1, "moe_intermediate_size", "at least 1")
    if len(sparse) < config.num_hidden_layers:
        must(config.intermediate_size >= 1, "intermediate_size", "at least 1, since there are dense layers")
    if config.sliding_window is not None:
        window = config.sliding_window
        must(isinstance(window, int) and 1 <= window <= LARGEST, "sliding_window", f"at least 1 and at most {LARGEST}")
    kinds, count = {"full_attention", "sliding_attention"}, config.num_hidden_layers
    must(len(config.layer_types) == count, "layer_types", f"one entry for each of the {count} layers")
    must(set(config.layer_types) <= kinds, "layer_types", "'full_attention' or 'sliding_attention' in each entry")
    check_special_ids(config, where)
    check_rope(config, where)


def check_special_ids(config: Any, where: str) -> None:
    """No id is negative, and padding has a row of the embedding, as the reference asks.

    The others may lie beyond it, where they begin and end nothing: small models often carry those of a large one.
    """
    begin, ends, pad = config.bos_token_id, config.eos_token_ids, config.pad_token_id
    need(begin is None or begin >= 0, config, where, "bos_token_id", "0 or more, or null")
    need(all(end >= 0 for end in ends), config, where, "eos_token_id", "0 or more, each of them, or null")
    row = f"0 to {config.vocab_size - 1}, a row of the embedding, or null"
    need(pad is None or 0 <= pad < config.vocab_size, config, where, "pad_token_id", row)


def check_rope(config: Any, where: str) -> None:
    """The rotary settings: those that their type needs, and those that may stand beside them."""
    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        raise Error(f"{where}: rope_type is {shown(kind)}, expected one of {', '.join(ROPE_TYPES)}: no other is built")
    needed = ["rope_theta"] + ([] if kind == "default" else ["factor"])
    needed += ["original_max_position_embeddings"] if kind == "yarn" else []
    optional = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    for name in (*needed, *(name for name in optional if name in rope)):
        found = rope.get(name)
        if not is_number(found):
            low, high = ROPE_RANGE
            expected = f"a number above 0, from {low:g} to {high:g}"
            raise Error(f"{where}: {name} of rope type {kind} is {shown(found)}, expected {expected}: mend config.json")
    if kind == "yarn" and not (rope["rope_theta"] > 1 and isinstance(rope.get("truncate", True), bool)):
        found = f"rope_theta is {shown(rope['rope_theta'])} and truncate {shown(rope.get('truncate', True))}"
        raise Error(f"{where}: {found}, expected more than 1 and true or false for rope type yarn: mend config.json")
    if kind == "dynamic" and config.head_dim < 4:
        found = f"head_dim is {config.head_dim}"
        raise Error(f"{where}: {found}, expected 4 or more for rope type dynamic, which divides by it less 2")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        found = shown(rope["partial_rotary_factor"])
        raise Error(f"{where}: partial_rotary_factor is {found}, expected 1.0: this family turns whole heads")


def check_generation_config(values: dict[str, Any], numbers: Sequence[str]) -> None:
    """The kinds of the entries of generation_config.json that are used: so many finite numbers, ends, do_sample."""
    for name in numbers:
        found = values.get(name)
        if found is not None and not fits(found, float):
            raise Error(f"{name} is {shown(found)}, expected a finite number: mend generation_config.json")
    ends = values.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else ends
    holds = fits(ends, int | tuple[int, ...] | None)
    listed = (ends if isinstance(ends, tuple) else (ends,)) if holds and ends is not None else ()
    if not holds or any(end < 0 for end in listed):
        expected = "a token id, a list of token ids or null"
        raise Error(f"eos_token_id is {shown(ends)}, expected {expected}: mend generation_config.json")
    if type(values.get("do_sample")) not in (bool, type(None)):
        found = shown(values["do_sample"])
        raise Error(f"do_sample is {found}, expected true or false: mend generation_config.json")
