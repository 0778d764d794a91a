"""Classic mistakes in writing this model, each swapped in for the right step: the bug museum.

Every entry of MISTAKES runs without an error and gives logits of the right shape. It says what is wrong, what the right
step does, where the mistake is often met, where it hides, and in which setting it shows.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from .. import model
from ..model import Ops
from . import wrong_steps as wrong
from .compare import BATCHED, CACHED, ONE_BY_ONE, ONE_PASS, PADDED, Way


class Setting(NamedTuple):
    """Where a mistake shows or hides: fields of the config to change, and how a text is read."""

    config: Mapping[str, Any] = MappingProxyType({})
    way: Way = ONE_PASS


class Mistake(NamedTuple):
    """One exhibit. `forward` is the wrong model and takes what the right `forward` takes."""

    wrong: str  # what is done
    right: str  # what should be done
    met: str  # where it is often met
    hides: str  # where it cannot be seen
    ops: Ops = Ops()
    run: Any = model.forward
    shows_in: Setting = Setting()
    hides_in: Setting | None = None  # None: nowhere

    def forward(self, *args: Any, **options: Any) -> Float[Tensor, "batch kept vocab"]:
        return self.run(*args, ops=self.ops, **options)

    @property
    def steps(self) -> tuple[Any, ...]:
        """The functions that stand in for right ones, which a trace is to record too."""
        return tuple(found for found, right in zip(self.ops, Ops(), strict=True) if found is not right)


SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0, "layer_types": ()}
ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}  # its frequencies depend on the text's length
DYNAMIC = {"rope_parameters": ROPE, "max_position_embeddings": 16}
SUMMING, RAW = Setting({"norm_topk_prob": True}), Setting({"norm_topk_prob": False})

MISTAKES: dict[str, Mistake] = {
    "no_qk_norm": Mistake(
        "q_norm and k_norm are left out", "RMSNorm of each head of q and k before rope",
        "code for Llama or Qwen2, which have no such norm", "nowhere", Ops(norm=wrong.no_qk_norm)),
    "layer_norm": Mistake(
        "the mean is subtracted", "RMSNorm divides and subtracts nothing",
        "code for GPT-2", "nowhere", Ops(norm=wrong.layer_norm)),
    "eps_outside_root": Mistake(
        "eps is added to the root", "eps is added under the root",
        "norms written from memory", "where vectors are much longer than eps: in almost every model",
        Ops(norm=wrong.eps_outside_root),
        shows_in=Setting({"rms_norm_eps": 0.1}), hides_in=Setting({"rms_norm_eps": 1e-9})),
    "weight_plus_one": Mistake(
        "norms multiply by 1 + weight", "norms multiply by weight",
        "code for Gemma", "nowhere", Ops(norm=wrong.weight_plus_one)),
    "interleaved_rope": Mistake(
        "pairs are neighbours", "pair i is (x[i], x[i + head_dim/2])",
        "code for Llama's original files, with complex numbers", "at the first token, and where head_dim is 2",
        Ops(rope=wrong.interleaved_rope), hides_in=Setting({"head_dim": 2})),
    "theta_of_qwen3": Mistake(
        "theta is 1,000,000", "theta is the config's",
        "a constant copied from another model's code", "where the config says 1,000,000, as on the hub",
        Ops(table=wrong.theta_of_qwen3),
        hides_in=Setting({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})),
    "frequencies_in_bf16": Mistake(
        "frequencies of rope are rounded to bf16", "frequencies and angles are fp32 in any model",
        "a whole module cast to bf16, with its buffer", "at the first tokens: the error grows with the position",
        Ops(table=wrong.frequencies_in_bf16), hides_in=Setting({"head_dim": 2})),
    "positions_from_zero": Mistake(
        "each call counts positions from 0", "positions go on after what the cache holds",
        "a cache added to code that had none", "in one pass without a cache",
        Ops(table=wrong.positions_from_zero), shows_in=Setting(way=CACHED), hides_in=Setting()),
    "repeated_heads": Mistake(
        "query head h reads key head h % kv_heads", "query head h reads key head h // (heads / kv_heads)",
        "repeat for repeat_interleave", "with one key head, or as many as query heads",
        Ops(attention=wrong.repeated_heads), hides_in=Setting({"num_key_value_heads": 1})),
    "groups_of_four": Mistake(
        "query head h reads key head h // 4", "query head h reads key head h // (heads / kv_heads)",
        "walkthroughs of Llama 3 8B", "where four query heads share a key head",
        Ops(attention=wrong.groups_of_four), hides_in=Setting({"num_attention_heads": 8, "num_key_value_heads": 2})),
    "scaled_by_all_heads": Mistake(
        "scores are divided by sqrt(heads * head_dim)", "scores are divided by sqrt(head_dim)",
        "d_model read for d_k in the formula", "with one head", Ops(attention=wrong.scaled_by_all_heads),
        hides_in=Setting({"num_attention_heads": 1, "num_key_value_heads": 1})),
    "softmax_in_bf16": Mistake(
        "attention's scores and softmax are bf16", "they are fp32",
        "a bf16 model written without a thought of types", "in the likeliest token, most of the time",
        Ops(attention=wrong.softmax_in_bf16)),
    "no_causal_mask": Mistake(
        "tokens see later ones", "a token sees itself and earlier ones",
        "code for one token, run on many", "one token at a time: nothing later is there yet",
        Ops(mask=wrong.no_causal_mask), hides_in=Setting(way=ONE_BY_ONE)),
    "window_off_by_one": Mistake(
        "a token sees itself and `window` earlier ones", "`window` tokens, itself included",
        "<= for <", "without a sliding window, and in texts no longer than it",
        Ops(mask=wrong.window_off_by_one), shows_in=Setting(SLIDING), hides_in=Setting()),
    "argmax_expert": Mistake(
        "the best expert alone, with its raw probability", "num_experts_per_tok experts, weighed by the config",
        "code for a top-1 model", "with top-1 and norm_topk_prob false",
        Ops(route=wrong.argmax_expert), shows_in=SUMMING,
        hides_in=Setting({"norm_topk_prob": False, "num_experts_per_tok": 1})),
    "renormalisation_forgotten": Mistake(
        "raw probabilities weigh the experts", "with norm_topk_prob they are made to sum to one",
        "one line left out", "where norm_topk_prob is false",
        Ops(route=wrong.renormalisation_forgotten), shows_in=SUMMING, hides_in=RAW),
    "renormalised_unasked": Mistake(
        "weights are made to sum to one", "without norm_topk_prob the raw probabilities stay",
        "norm_topk_prob never read", "where norm_topk_prob is true",
        Ops(route=wrong.renormalised_unasked), shows_in=RAW, hides_in=SUMMING),
    "softmax_over_top_k": Mistake(
        "top-k first, softmax after", "softmax first, top-k after",
        "code for Mixtral", "where norm_topk_prob is true: both are then the same",
        Ops(route=wrong.softmax_over_top_k), shows_in=RAW, hides_in=SUMMING),
    "gate_and_up_swapped": Mistake(
        "silu is applied to up", "silu is applied to gate",
        "a fused tensor split in the wrong order", "nowhere", Ops(expert=wrong.gate_and_up_swapped)),
    "pads_attended": Mistake(
        "padding is read as text", "no token sees padding",
        "attention_mask not passed on", "with one prompt, or prompts of one length",
        run=wrong.pads_attended, shows_in=Setting(way=PADDED), hides_in=Setting()),
    "pads_counted": Mistake(
        "padding counts as positions", "each row counts from its first token",
        "positions made by arange", "almost everywhere: rope sees differences of positions alone",
        run=wrong.pads_counted, shows_in=Setting(DYNAMIC, BATCHED), hides_in=Setting(way=BATCHED)),
    "pads_counted_after_prefill": Mistake(
        "new tokens count from the cache's length", "each row goes on from its own last position",
        "batched generation", "with one prompt, or in one pass",
        run=wrong.pads_counted_after_prefill, shows_in=Setting(way=Way(pads=16, first=0.5)),
        hides_in=Setting(way=CACHED)),
}  # fmt: skip
