"""config.json -> Config: the sizes and choices that fix a Qwen3 model, and what follows from them.

Both spellings of the keys are read: transformers 4 (`num_experts`, `rope_theta`, `rope_scaling`, `torch_dtype`)
and transformers 5 (`num_local_experts`, `rope_parameters`, `dtype`). Both families are read: `qwen3_moe` and the
dense `qwen3`, which is the case of no experts at all.
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .config_checks import check_relations, check_sizes, check_types, is_number
from .errors import Error
from .files import one_line, read_json, shown

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


@dataclass(frozen=True)
class Config:
    """A frozen reading of config.json; the fields bear its names.

    Sizes are counts of numbers, lengths are counts of tokens. `rope_parameters` always holds `rope_type` and
    `rope_theta`, whatever the spelling was; `layer_types` always has one entry a layer.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    router_aux_loss_coef: float = 0.001
    max_position_embeddings: int = 32768
    rope_parameters: dict[str, Any] = field(
        default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0}, hash=False
    )
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = None
    max_window_layers: int = 28
    layer_types: tuple[str, ...] = ()
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    dtype: str = "float32"

    def __post_init__(self):
        check_sizes(self, "config")
        if not self.layer_types:
            object.__setattr__(self, "layer_types", _default_layer_types(self))
        check_relations(self, "config")

    def is_sparse(self, layer: int) -> bool:
        """Whether layer number `layer` (from 0) has experts and a router, rather than one dense feed-forward."""
        chosen = (layer + 1) % self.decoder_sparse_step == 0 and layer not in self.mlp_only_layers
        return self.num_experts > 0 and chosen

    def window(self, layer: int) -> int | None:
        """How many tokens, itself included, a token of this layer looks back over; None: all."""
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else None

    @property
    def rope_theta(self) -> float:
        return float(self.rope_parameters["rope_theta"])

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        found = self.eos_token_id
        return () if found is None else (found,) if isinstance(found, int) else tuple(found)

    def num_parameters(self, *, active: bool = False) -> int:
        """Count of weights; with `active`, only those that one token passes through."""
        hidden, q_dim = self.hidden_size, self.num_attention_heads * self.head_dim
        kv_dim = self.num_key_value_heads * self.head_dim
        attention = 2 * hidden * (q_dim + kv_dim) + 2 * self.head_dim
        attention += (q_dim + 2 * kv_dim + hidden) * self.attention_bias
        experts = self.num_experts_per_tok if active else self.num_experts
        sparse = 3 * hidden * self.moe_intermediate_size * experts + self.num_experts * hidden
        dense = 3 * hidden * self.intermediate_size
        layers = sum(
            attention + 2 * hidden + (sparse if self.is_sparse(i) else dense) for i in range(self.num_hidden_layers)
        )
        return layers + hidden + self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)

    def to_dict(self) -> dict[str, Any]:
        """config.json in the hub's spelling, which transformers 4 and 5, vLLM and SGLang all read."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        rope = dict(found.pop("rope_parameters"))
        found["rope_theta"] = rope.pop("rope_theta")
        found["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        found["torch_dtype"] = found.pop("dtype")
        if self.model_type == "qwen3":
            for name in _EXPERT_FIELDS:
                found.pop(name)
            architecture = "Qwen3ForCausalLM"
        else:
            found.pop("layer_types")  # the family knows one kind of layer: all sliding or none
            architecture = "Qwen3MoeForCausalLM"
        return {"architectures": [architecture], **found}


_EXPERT_FIELDS = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "router_aux_loss_coef",
)  # fmt: skip


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


def _default_layer_types(config: Config) -> tuple[str, ...]:
    """Where config.json names none: the MoE family slides everywhere or nowhere, the dense one from a layer on."""
    first = config.max_window_layers if config.model_type == "qwen3" else 0
    slides = config.use_sliding_window and config.sliding_window is not None
    kinds = ("full_attention", "sliding_attention")
    return tuple(kinds[slides and layer >= first] for layer in range(config.num_hidden_layers))
