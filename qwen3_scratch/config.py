"""The sizes and choices that fix a Qwen3 model, what follows from them, and what is asked of each.

`checkpoints.config_json` reads and writes them as config.json.
"""

import sys
from dataclasses import dataclass, field, fields
from functools import partial
from types import UnionType
from typing import Any, get_args, get_origin

from .errors import Error, shown

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
EXPERT_FIELDS = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "router_aux_loss_coef",
)  # fmt: skip


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

    def __post_init__(self) -> None:
        check_sizes(self)
        if not self.layer_types:
            object.__setattr__(self, "layer_types", _default_layer_types(self))
        check_relations(self)

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
        layers = [attention + (sparse if self.is_sparse(i) else dense) for i in range(self.num_hidden_layers)]
        norms = hidden * (1 + 2 * len(layers))
        return sum(layers) + norms + self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)

    def to_dict(self) -> dict[str, Any]:
        """config.json in the hub's spelling, which transformers 4 and 5, vLLM and SGLang all read."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        rope = dict(found.pop("rope_parameters"))
        found["rope_theta"] = rope.pop("rope_theta")
        found["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        found["torch_dtype"] = found.pop("dtype")
        if self.model_type == "qwen3":
            for name in EXPERT_FIELDS:
                found.pop(name)
            architecture = "Qwen3ForCausalLM"
        else:
            found.pop("layer_types")  # the family knows one kind of layer: all sliding or none
            architecture = "Qwen3MoeForCausalLM"
        return {"architectures": [architecture], **found}


def _default_layer_types(config: Config) -> tuple[str, ...]:
    """Where config.json names none: the MoE family slides everywhere or nowhere, the dense one from a layer on."""
    first = config.max_window_layers if config.model_type == "qwen3" else 0
    slides = config.use_sliding_window and config.sliding_window is not None
    kinds = ("full_attention", "sliding_attention")
    return tuple(kinds[slides and layer >= first] for layer in range(config.num_hidden_layers))


# ---- what is asked of the fields, each failure in one sentence --------------------------------


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


def need(config: Config, holds: bool, name: str, expected: str) -> None:
    if not holds:
        raise Error(f"config: {name} is {shown(getattr(config, name))}, expected {expected}: mend config.json")


def check_sizes(config: Config) -> None:
    """Each size for itself, before anything is as long as one of them."""
    for name in (*AT_LEAST_ONE, *ANY_SIZE):
        most = MOST_LAYERS if name == "num_hidden_layers" else LARGEST
        need(config, getattr(config, name) <= most, name, f"at most {most}")
    for name in AT_LEAST_ONE:
        need(config, getattr(config, name) >= 1, name, "at least 1")
    layers = config.mlp_only_layers
    holds = len(layers) <= MOST_LAYERS and all(0 <= layer <= LARGEST for layer in layers)
    need(config, holds, "mlp_only_layers", f"at most {MOST_LAYERS} numbers of layers, counted from 0")


def check_relations(config: Config) -> None:
    """Every relation between fields that computing relies on."""
    must = partial(need, config)
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
    # No id is negative, and padding has a row of the embedding, as the reference asks. The others may lie beyond it,
    # where they begin and end nothing: small models often carry those of a large one.
    begin, pad = config.bos_token_id, config.pad_token_id
    must(begin is None or begin >= 0, "bos_token_id", "0 or more, or null")
    must(all(end >= 0 for end in config.eos_token_ids), "eos_token_id", "0 or more, each of them, or null")
    row = f"0 to {config.vocab_size - 1}, a row of the embedding, or null"
    must(pad is None or 0 <= pad < config.vocab_size, "pad_token_id", row)
    check_rope(config)


def check_rope(config: Config) -> None:
    """The rotary settings: those that their type needs, and those that may stand beside them."""
    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        raise Error(f"config: rope_type is {shown(kind)}, expected one of {', '.join(ROPE_TYPES)}: no other is built")
    needed = ["rope_theta"] + ([] if kind == "default" else ["factor"])
    needed += ["original_max_position_embeddings"] if kind == "yarn" else []
    optional = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    for name in (*needed, *(name for name in optional if name in rope)):
        found = rope.get(name)
        if not is_number(found):
            expected = "a number above 0, from {:g} to {:g}".format(*ROPE_RANGE)
            raise Error(f"config: {name} of rope type {kind} is {shown(found)}, expected {expected}: mend config.json")
    if kind == "yarn" and not (rope["rope_theta"] > 1 and isinstance(rope.get("truncate", True), bool)):
        found = f"rope_theta is {shown(rope['rope_theta'])} and truncate {shown(rope.get('truncate', True))}"
        raise Error(f"config: {found}, expected more than 1 and true or false for rope type yarn: mend config.json")
    if kind == "dynamic" and config.head_dim < 4:
        found = f"head_dim is {config.head_dim}"
        raise Error(f"config: {found}, expected 4 or more for rope type dynamic, which divides by it less 2")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        found = shown(rope["partial_rotary_factor"])
        raise Error(f"config: partial_rotary_factor is {found}, expected 1.0: this family turns whole heads")
