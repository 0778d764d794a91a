"""config.json -> a Config that holds what it promises.

Both spellings of the keys are read: transformers 4 (`num_experts`, `rope_theta`, `rope_scaling`, `torch_dtype`)
and transformers 5 (`num_local_experts`, `rope_parameters`, `dtype`). Both families are read: `qwen3_moe` and the
dense `qwen3`, which is the case of no experts at all.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import FROM_A_LENGTH, Config, ConfigError, check_types, plain_fields
from ..errors import Error, first_of, of_kind, shown
from ..trust.files import read_json
from ..trust.shards import INDEX, SINGLE
from .adapters import base_folder
from .names import check_not_quantised

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
    """Reads `folder/config.json`; where the folder holds an adapter alone, that of the model it was made for.

    Raises:
        Error: no such file, no JSON object, another architecture, a field of the wrong type or out of range,
            quantised weights.
    """
    path = base_folder(Path(of_kind("read_config", "folder", folder, str, os.PathLike))) / "config.json"
    if not os.path.lexists(path) and (path.parent / "old.partial").is_dir():
        found = "has no config.json but old.partial, where a save moved the files of before when it was cut off"
        raise Error(f"{folder}: {found}, expected a whole checkpoint: save it again")
    if not any(os.path.lexists(path.parent / name) for name in ("config.json", SINGLE, INDEX)):
        within = [*path.parent.glob("*/config.json"), *path.parent.glob("snapshots/*/config.json")]
        if folders := sorted(str(each.parent.relative_to(path.parent)) for each in within):
            found = f"has no config.json, but {first_of(folders)} within it"
            raise Error(f"{path.parent}: {found}, expected a checkpoint: name that folder")
    raw = read_json(path)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILY_DEFAULTS:
        found = f"model_type is {shown(family)}"
        raise Error(f"{path}: {found}, expected 'qwen3_moe' or 'qwen3': choose a checkpoint of these")
    check_not_quantised(path, raw)
    if not raw.get("is_causal", True):  # transformers then takes a mask that hides nothing
        found = f"is_causal is {shown(raw['is_causal'])}, by which each token sees those after it"
        raise Error(f"{path}: {found}, expected true: no text is written so; choose another checkpoint")
    for key, name in SPELLINGS.items():
        if key in raw and name in raw and raw[name] != raw[key]:
            found = f"{key} is {shown(raw[key])} and {name} {shown(raw[name])}"
            raise Error(f"{path}: {found}, expected one value under both names: mend config.json")
    values = {**FAMILY_DEFAULTS[family], **{SPELLINGS.get(key, key): value for key, value in raw.items()}}
    values["rope_parameters"] = _rope_parameters(values, path)
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
    known = plain_fields({"sliding_window": 4096, "dtype": "auto", **known})
    check_types(known, path)
    known.setdefault("head_dim", known["hidden_size"] // max(known["num_attention_heads"], 1))
    try:
        return Config(**known)
    except ConfigError as error:
        raise Error(f"{path}: {error.args[0]}") from None


def _rope_parameters(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary settings under one spelling: `rope_scaling` + `rope_theta`, or `rope_parameters` that hold both."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name), dict | None):
            raise Error(f"{path}: {name} is {shown(values[name])}, expected an object or null: mend config.json")
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    rope = {name: value for name, value in rope.items() if value is not None}
    for name in ("rope_theta", "partial_rotary_factor"):  # older files: beside the object
        if values.get(name) is not None:
            rope.setdefault(name, values[name])
    trained = values.get("original_max_position_embeddings")
    if trained is not None and rope.get("rope_type", rope.get("type")) in FROM_A_LENGTH:
        rope["original_max_position_embeddings"] = trained  # beside the object it counts for more, as in the reference
    return rope
