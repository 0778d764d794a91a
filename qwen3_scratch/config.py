"""The sizes and choices that fix a Qwen3 model, what follows from them, and what is asked of each.

`checkpoints.config_json` reads them from config.json; `Config.to_dict` is what is written there.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

from .errors import Error, one_line, shown

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")
FROM_A_LENGTH = ("yarn", "llama3", "longrope")  # these stretch what was trained at original_max_position_embeddings
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


class ConfigError(Error):
    """What is wrong with a Config that was made by hand. `args[0]` says it without the place."""

    def __str__(self) -> str:
        return f"config: {self.args[0]}"


class ReadOnly(dict[str, Any]):
    """A dict that is written once. `{**it}` and `dict(it)` are copies that can be changed."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a Config is frozen: make another one with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return ReadOnly, (dict(self),)


class Implied(tuple[str, ...]):
    """Kinds of layers that follow from the other fields, and follow them also when those are replaced."""


@dataclass(frozen=True)
class Config:
    """A frozen reading of config.json; the fields bear its names.

    Sizes are counts of numbers, lengths are counts of tokens. Made by hand, read or replaced, it holds the same:
    `rope_parameters` always has `rope_type`, `rope_theta` and what the type takes from the other fields; `layer_types`
    has one entry a layer, and follows the fields about windows where it does not say something else; without
    `use_sliding_window` there is no `sliding_window`, as in the reference. `dtype` is "auto" where the files decide.
    Raises Error for every field, and every two of them, that computing could not rely on.
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
    rope_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
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
        put = partial(object.__setattr__, self)
        for name, value in plain_fields(vars(self)).items():
            put(name, value)
        check_types(vars(self), "config")
        if not self.use_sliding_window:
            put("sliding_window", None)
        check_sizes(self)
        put("rope_parameters", ReadOnly(whole_rope(self)))
        implied = implied_layer_types(self)
        if not self.layer_types or isinstance(self.layer_types, Implied) or self.layer_types == implied:
            put("layer_types", implied)
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
    def longest(self) -> int:
        """How many positions a text may have: as many as were trained, stretched as far as the rotary setting says.

        dynamic stretches as far as the text goes. The reference has no such limit; past it a model writes nonsense.
        """
        rope, trained = self.rope_parameters, self.max_position_embeddings
        if rope["rope_type"] == "dynamic":
            return LARGEST
        before = rope["original_max_position_embeddings"] if rope["rope_type"] in FROM_A_LENGTH else trained
        reach = 0 if rope["rope_type"] == "default" else int(before * rope.get("factor", 1.0))
        return max(trained, min(reach, LARGEST))

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
        """config.json in the hub's spelling, which transformers 4 and 5, vLLM and SGLang all read.

        Raises Error for kinds of layers that differ in the family that knows one kind: no reader would take them.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        rope = dict(found.pop("rope_parameters"))
        found["rope_theta"] = rope.pop("rope_theta")
        found["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        found["torch_dtype"] = None if self.dtype == "auto" else self.dtype
        del found["dtype"]
        if self.model_type == "qwen3":
            for name in EXPERT_FIELDS:
                found.pop(name)
            architecture = "Qwen3ForCausalLM"
        else:
            if found.pop("layer_types") != implied_layer_types(self):
                expected = "expected what the fields about windows imply: config.json of qwen3_moe says no more"
                raise ConfigError(f"layer_types is {shown(self.layer_types)}, {expected}")
            architecture = "Qwen3MoeForCausalLM"
        return {"architectures": [architecture], **found}


def implied_layer_types(config: Config) -> Implied:
    """Where nobody names them: the MoE family slides everywhere or nowhere, the dense one from a layer on."""
    first = config.max_window_layers if config.model_type == "qwen3" else 0
    slides = config.sliding_window is not None
    kinds = ("full_attention", "sliding_attention")
    return Implied(kinds[slides and layer >= first] for layer in range(config.num_hidden_layers))


def whole_rope(config: Config) -> dict[str, Any]:
    """The rotary settings with all that the reference takes from elsewhere where they are silent."""
    given = {} if config.rope_parameters is None else config.rope_parameters
    if not isinstance(given, Mapping):
        raise ConfigError(f"rope_parameters is {shown(given)}, expected an object: mend config.json")
    rope = {name: plain(value, None) for name, value in given.items() if value is not None}
    rope |= {name: plain(rope[name], tuple[float, ...]) for name in ("short_factor", "long_factor") if name in rope}
    if nested := [name for name, value in rope.items() if isinstance(value, Mapping)]:
        expected = "expected one set for all layers"
        raise ConfigError(f"rope_parameters differ by kind of layer ({one_line(nested[0])}), {expected}")
    older = rope.pop("type", "default")
    rope = {"rope_type": older, "rope_theta": 10000.0, **rope}
    if rope["rope_type"] == "default" or rope.get("partial_rotary_factor") == 1.0:
        rope.pop("partial_rotary_factor", None)  # the reference does not look at it there
    if rope["rope_type"] in FROM_A_LENGTH:
        trained = rope.setdefault("original_max_position_embeddings", config.max_position_embeddings)
        if rope["rope_type"] != "llama3" and "factor" not in rope and is_number(trained):
            rope["factor"] = config.max_position_embeddings / trained
    return rope


# ---- what is asked of the fields, each failure in one sentence --------------------------------


def plain(value: Any, kind: Any) -> Any:
    """A value as JSON would give it: numbers of numpy or torch as Python's own, lists as tuples, 1 as 1.0 at need."""
    if isinstance(value, list | tuple) and not isinstance(value, Implied) and kinds_of_tuple(kind):
        return tuple(entry if type(entry) in (int, str, float, bool) else plain(entry, None) for entry in value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return float(value) if kind is float and type(value) is int and abs(value) <= sys.float_info.max else value


def kinds_of_tuple(kind: Any) -> list[Any]:
    return [each for each in (kind, *get_args(kind)) if get_origin(each) is tuple]


def plain_fields(values: dict[str, Any]) -> dict[str, Any]:
    kinds = {f.name: f.type for f in fields(Config)}
    return {name: value if name == "rope_parameters" else plain(value, kinds[name]) for name, value in values.items()}


def check_types(values: dict[str, Any], where: str | Path) -> None:
    """Each value, against the type of the field of its name."""
    for f in fields(Config):
        if f.type in TYPES and f.name in values and not fits(values[f.name], f.type):
            raise Error(f"{where}: {f.name} is {shown(values[f.name])}, expected {TYPES[f.type]}: mend config.json")


def fits(found: Any, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type: true is no 1, 1 is a number, and a number is finite."""
    if isinstance(found, tuple):
        wanted = [get_args(each)[0] for each in kinds_of_tuple(kind)]
        return bool(wanted) and all(type(entry) is wanted[0] for entry in found)
    if kind is float:
        return type(found) in (int, float) and abs(found) <= sys.float_info.max  # false of NaN
    return type(found) in (get_args(kind) if isinstance(kind, UnionType) else (kind,))


def is_number(found: Any) -> bool:
    """Whether a value from JSON can be a rotary setting; true and false are none."""
    return isinstance(found, int | float) and not isinstance(found, bool) and ROPE_RANGE[0] <= found <= ROPE_RANGE[1]


def need(config: Config, holds: bool, name: str, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {shown(getattr(config, name))}, expected {expected}: mend config.json")


def check_sizes(config: Config) -> None:
    """Each size for itself, before anything is as long as one of them."""
    need(config, config.model_type in ("qwen3_moe", "qwen3"), "model_type", "'qwen3_moe' or 'qwen3'")
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
    must(0 <= config.initializer_range <= 1e30, "initializer_range", "0 to 1e30, so that fp32 holds what is drawn")
    must(config.hidden_act in ("silu", "swish"), "hidden_act", "'silu', the only one this family was trained with")
    must(config.head_dim % 2 == 0, "head_dim", "an even number, since rotary embedding turns pairs")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    must(heads % kv_heads == 0, "num_attention_heads", f"a multiple of num_key_value_heads, which is {kv_heads}")
    must(config.num_experts >= 0, "num_experts", "0 (dense) or more")
    dense = config.num_experts == 0 or config.model_type == "qwen3_moe"
    must(dense, "num_experts", "0 for model_type 'qwen3', which is dense, or model_type 'qwen3_moe'")
    sparse = [layer for layer in range(config.num_hidden_layers) if config.is_sparse(layer)]
    if sparse:
        top_k, experts = config.num_experts_per_tok, config.num_experts
        must(1 <= top_k <= experts, "num_experts_per_tok", f"1 to num_experts, which is {experts}")
        must(config.moe_intermediate_size >= 1, "moe_intermediate_size", "at least 1")
    if len(sparse) < config.num_hidden_layers:
        must(config.intermediate_size >= 1, "intermediate_size", "at least 1, since there are dense layers")
    if config.sliding_window is not None:
        window = config.sliding_window
        must(1 <= window <= LARGEST, "sliding_window", f"at least 1 and at most {LARGEST}")
    kinds, count = {"full_attention", "sliding_attention"}, config.num_hidden_layers
    must(len(config.layer_types) == count, "layer_types", f"one entry for each of the {count} layers")
    must(set(config.layer_types) <= kinds, "layer_types", "'full_attention' or 'sliding_attention' in each entry")
    # Padding has a row of the embedding, as the reference asks, or is -1, as some write for none. The others may lie
    # beyond it, where they begin and end nothing: small models often carry those of a large one.
    begin, pad, none = config.bos_token_id, config.pad_token_id, "or -1 or null for none"
    must(begin is None or begin >= -1, "bos_token_id", f"0 or more, {none}")
    must(all(end >= -1 for end in config.eos_token_ids), "eos_token_id", f"0 or more, each of them, {none}")
    row = f"0 to {config.vocab_size - 1}, a row of the embedding, {none}"
    must(pad is None or -1 <= pad < config.vocab_size, "pad_token_id", row)
    check_rope(config)


def check_rope(config: Config) -> None:
    """The rotary settings: those that their type needs, and those that may stand beside them."""
    rope = config.rope_parameters
    kind = rope["rope_type"]

    def must(holds: bool, names: str, expected: str) -> None:
        if not holds:
            found = " and ".join(f"{name} of rope type {kind} is {shown(rope.get(name))}" for name in names.split())
            raise ConfigError(f"{found}, expected {expected}: mend config.json")

    if kind not in ROPE_TYPES:
        raise ConfigError(f"rope_type is {shown(kind)}, expected one of {', '.join(ROPE_TYPES)}: no other is built")
    stretched = kind not in ("default", "proportional") or ("factor" in rope and kind != "default")
    needed = ["rope_theta"] + ["factor"] * stretched
    needed += ["original_max_position_embeddings"] * (kind in FROM_A_LENGTH)
    needed += ["low_freq_factor", "high_freq_factor"] * (kind == "llama3")
    optional = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "partial_rotary_factor"}
    for name in (*needed, *sorted(optional & rope.keys())):
        must(is_number(rope.get(name)), name, "a number above 0, from {:g} to {:g}".format(*ROPE_RANGE))
    most = 1.0 if kind == "proportional" else 0.0
    expected = "at most 1" if most else "1.0: this family turns whole heads with it"
    must(rope.get("partial_rotary_factor", 0.0) <= most, "partial_rotary_factor", expected)
    if kind == "yarn":
        must(rope["rope_theta"] > 1, "rope_theta", "more than 1")
        must(isinstance(rope.get("truncate", True), bool), "truncate", "true or false")
    if kind == "dynamic":
        need(config, config.head_dim >= 4, "head_dim", "4 or more for rope type dynamic, which divides by it less 2")
    if kind == "llama3":
        holds = rope["low_freq_factor"] < rope["high_freq_factor"]
        must(holds, "low_freq_factor high_freq_factor", "the first below the second, between which the ramp lies")
    if kind == "longrope":
        trained, pairs = "original_max_position_embeddings", config.head_dim // 2
        must(rope[trained] > 1, trained, "more than 1, since its logarithm is divided by")
        for name in ("short_factor", "long_factor"):
            found = rope.get(name)
            holds = isinstance(found, tuple) and len(found) == pairs and all(map(is_number, found))
            must(holds, name, f"a list of {pairs} numbers above 0, one for each pair of a head")
