"""config.json and generation_config.json <-> Config and settings that hold what they promise.

Both spellings of the keys are read: transformers 4 (`num_experts`, `rope_theta`, `rope_scaling`, `torch_dtype`)
and transformers 5 (`num_local_experts`, `rope_parameters`, `dtype`). Both families are read: `qwen3_moe` and the
dense `qwen3`, which is the case of no experts at all.
"""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import Config, check_types, fits, is_number
from ..errors import Error, one_line, shown
from ..trust.files import read_json

# What transformers takes where config.json is silent; the two families differ.
FAMILY_DEFAULTS = {
    "qwen3_moe": dict(
        vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=4, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
    ),
    "qwen3": dict(
        vocab_size=151936, hidden_size=4096, intermediate_size=22016, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0, head_dim=128,
    ),
}  # fmt: skip
SPELLINGS = {"num_local_experts": "num_experts", "torch_dtype": "dtype"}


def read_config(folder: str | Path) -> Config:
    """Reads `folder/config.json`.

    Raises:
        Error: no such file, no JSON object, another architecture, a field of the wrong type or out of range.
    """
    path = Path(folder) / "config.json"
    if (Path(folder) / "old.partial").is_dir() and not os.path.lexists(path):
        found = "has no config.json but old.partial, where a save moved the files of before when it was cut off"
        raise Error(f"{folder}: {found}, expected a whole checkpoint: save it again")
    raw = read_json(path)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILY_DEFAULTS:
        found = f"model_type is {shown(family)}"
        raise Error(f"{path}: {found}, expected 'qwen3_moe' or 'qwen3': choose a checkpoint of these")
    if raw.get("quantization_config") is not None:
        raise Error(f"{path}: quantization_config is set, expected plain weights: fetch those that are not quantised")
    for key, name in SPELLINGS.items():
        if key in raw and name in raw and raw[name] != raw[key]:
            found = f"{key} is {shown(raw[key])} and {name} {shown(raw[name])}"
            raise Error(f"{path}: {found}, expected one value under both names: mend config.json")
    values = {**FAMILY_DEFAULTS[family], **{SPELLINGS.get(key, key): value for key, value in raw.items()}}
    values["rope_parameters"] = _rope_parameters(values, path)
    for name in ("mlp_only_layers", "layer_types", "eos_token_id"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    names = {f.name for f in fields(Config)}
    keep_none = {"sliding_window", "bos_token_id", "eos_token_id", "pad_token_id"}
    keep_none |= FAMILY_DEFAULTS[family].keys() - {"head_dim"}  # a size that is null is refused below
    known = {k: v for k, v in values.items() if k in names and (v is not None or k in keep_none)}
    if known["num_key_value_heads"] is None:  # as many as query heads, as the reference reads it
        known["num_key_value_heads"] = known["num_attention_heads"]
    if family == "qwen3":  # a dense model carries no expert fields, whatever its config.json says
        known |= dict(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    else:  # the reference reads only sliding_window here: every layer slides, or none
        known.pop("layer_types", None)
    known.setdefault("sliding_window", 4096)
    if not known.get("use_sliding_window", False):
        known["sliding_window"] = None
    check_types(known, Config, path)
    known |= {f.name: float(known[f.name]) for f in fields(Config) if f.type is float and f.name in known}
    known.setdefault("head_dim", known["hidden_size"] // max(known["num_attention_heads"], 1))
    try:
        return Config(**known)
    except Error as error:
        raise Error(str(error).replace("config:", f"{path}:", 1)) from None


def _rope_parameters(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary settings under one spelling: `rope_scaling` + `rope_theta`, or `rope_parameters` that hold both."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name), dict | None):
            raise Error(f"{path}: {name} is {shown(values[name])}, expected an object or null: mend config.json")
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    rope = {key: value for key, value in rope.items() if value is not None}
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested:
        kind = one_line(nested[0])
        raise Error(f"{path}: rope_parameters differ by kind of layer ({kind}), expected one set for all layers")
    older = rope.pop("type", "default")
    rope.setdefault("rope_type", older)
    for name, default in (("rope_theta", 10000.0), ("partial_rotary_factor", 1.0)):  # older files: beside the object
        rope.setdefault(name, default if values.get(name) is None else values[name])
    if rope["partial_rotary_factor"] == 1.0:
        del rope["partial_rotary_factor"]
    if rope["rope_type"] == "yarn":
        longest = values.get("max_position_embeddings") or 32768
        rope.setdefault("original_max_position_embeddings", values.get("original_max_position_embeddings") or longest)
        if "factor" not in rope and is_number(longest) and is_number(rope["original_max_position_embeddings"]):
            rope["factor"] = longest / rope["original_max_position_embeddings"]
    return rope


def check_generation_config(values: dict[str, Any], numbers: Sequence[str]) -> None:
    """The kinds of the entries of generation_config.json that are used: so many finite numbers, ends, do_sample."""
    for name in numbers:
        found = values.get(name)
        if found is not None and not fits(found, float):
            raise Error(f"{name} is {shown(found)}, expected a finite number: mend generation_config.json")
    ends = values.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else ends
    listed = ends if isinstance(ends, tuple) else () if ends is None else (ends,)
    if not all(fits(end, int) and end >= 0 for end in listed):
        expected = "a token id, a list of token ids or null"
        raise Error(f"eos_token_id is {shown(ends)}, expected {expected}: mend generation_config.json")
    if type(values.get("do_sample")) not in (bool, type(None)):
        found = shown(values["do_sample"])
        raise Error(f"do_sample is {found}, expected true or false: mend generation_config.json")
