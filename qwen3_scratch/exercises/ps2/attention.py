"""ps2: queries, keys and values, who looks at whom, and what is gathered (notebook 06)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...config import Config
from ...inside import wrong_steps
from ...model import LayerWeights, Ops, Table
from ..checking import Case, Exercise, Mistake, Stage, case, randint, randn, recorded
from .attention_masks import CAUSAL_MASK, SET, SLIDING_MASK
from .attention_scores import ATTENTION_WEIGHTS, EPS, QK_NORM, causal, given

# ---- gqa_attention ---------------------------------------------------------------------------


def gqa_case(
    g: torch.Generator, batch: int, heads: int, kv_heads: int, q_len: int, k_len: int, head_dim: int, note: str = ""
) -> Case:
    k, v = (randn(g, batch, kv_heads, k_len, head_dim) for _ in range(2))
    return case(2 * randn(g, batch, heads, q_len, head_dim), k, v, causal(q_len, k_len), note=note)


def gqa_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        kv_heads, group, q_len = randint(g, 2, 4), randint(g, 2, 4), randint(g, 2, 6)
        yield gqa_case(g, randint(g, 2, 4), kv_heads * group, kv_heads, q_len, q_len + randint(g, 1, 4), 7)


def gqa_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield gqa_case(g, 2, 3, 3, 4, 5, 8, note="as many kv heads as query heads (MHA)")
    yield gqa_case(g, 2, 6, 1, 4, 5, 8, note="one kv head for all (MQA)")
    yield gqa_case(g, 2, 10, 2, 3, 5, 8, note="five query heads to each kv head")
    yield gqa_case(g, 3, 6, 2, 1, 9, 8, note="one query after a cache of keys")
    yield gqa_case(g, 1, 2, 2, 1, 1, 4, note="one token")
    q, k, v, _ = gqa_case(g, 2, 4, 2, 5, 7, 8).args
    yield case(q, k, v, note="no mask")
    seen = torch.rand(2, 1, 5, 7, generator=g) < 0.6
    seen[..., 0] = True
    yield case(q, k, v, seen, note="another mask for each row of the batch")
    q, k, v = (part.transpose(1, 2).contiguous().transpose(1, 2).bfloat16() for part in (q, k, v))
    yield case(q, k, v, seen, note="bf16, transposed in memory")


def gqa_real(seed: int) -> Iterator[Case]:
    for call in recorded("gqa_attention", seed):
        yield case(*given(call, "q", "k", "v", "mask"))


def gqa_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    q, k, v, _ = gqa_case(g, 4, 8, 2, 96, 9, 8).args
    yield case(q, k, v)


def shared(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor) -> Tensor:
    """Attention in which the query heads read the key and value heads of these numbers."""
    return model.attention_weights(q, k[:, keys], mask) @ v[:, values]


def first_head_for_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    first = torch.zeros(q.shape[1], dtype=torch.long)
    return shared(q, k, v, mask, first, first)


def in_turn_and_in_groups(heads: int, kv_heads: int) -> tuple[Tensor, Tensor]:
    number = torch.arange(heads)
    return number % kv_heads, number // (heads // kv_heads)


def values_in_turn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    turn, grouped = in_turn_and_in_groups(q.shape[1], k.shape[1])
    return shared(q, k, v, mask, grouped, turn)


def keys_in_turn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    turn, grouped = in_turn_and_in_groups(q.shape[1], k.shape[1])
    return shared(q, k, v, mask, turn, grouped)


def pairs(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    number = (torch.arange(q.shape[1]) // 2).clamp(max=k.shape[1] - 1)
    return shared(q, k, v, mask, number, number)


def not_scaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q * q.shape[-1] ** 0.5, k, v, mask)


def unmasked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.gqa_attention(q, k, v)


def keys_gathered(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return model.attention_weights(q, k, mask) @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def mask_inverted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    group = q.shape[1] // k.shape[1]
    return model.attention_weights(q, k, None if mask is None else ~mask) @ v.repeat_interleave(group, dim=1)


def needs_a_mask(q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
    return model.gqa_attention(q, k, v, ~(~mask))


GROUPS = "query head h reads kv head h // (heads / kv_heads), neighbours together"
GQA_ATTENTION = Exercise(
    "gqa_attention",
    SET,
    model.gqa_attention,
    stages=(
        Stage("random shapes", gqa_shapes),
        Stage("odd configurations", gqa_odd),
        Stage("the real checkpoint's activations", gqa_real),
        Stage("at size", gqa_large, limit=60, advice="one product serves all heads and all queries"),
    ),
    mistakes=(
        Mistake(f"You lay the shared heads out as 0 1 0 1 (`repeat`): {GROUPS} (`repeat_interleave`).",
                wrong_steps.repeated_heads),
        Mistake(f"Keys are shared rightly but values in the order 0 1 0 1: {GROUPS}.", values_in_turn),
        Mistake(f"Values are shared rightly but keys in the order 0 1 0 1: {GROUPS}.", keys_in_turn),
        Mistake(f"The size of a group is that of one checkpoint (4): {GROUPS}.", wrong_steps.groups_of_four),
        Mistake(f"The size of a group is that of one checkpoint (2): {GROUPS}.", pairs),
        Mistake(f"All query heads read kv head 0: {GROUPS}.", first_head_for_all),
        Mistake("The scale is missing: divide the scores by the square root of head_dim.", not_scaled),
        Mistake("You divide by the root of the width of all heads together; it is that of one head, head_dim.",
                wrong_steps.scaled_by_all_heads),
        Mistake("The mask is not used.", unmasked),
        Mistake("You hide what the mask lets through: True means that a query may look.", mask_inverted),
        Mistake("You average the keys; keys are for finding, values are what is gathered.", keys_gathered),
        Mistake("`mask` may be None: then every key is seen.", needs_a_mask),
    ),
    own=(model.gqa_attention, model.attention_weights, F.scaled_dot_product_attention),
)  # fmt: skip

# ---- merge_heads -----------------------------------------------------------------------------


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)


def merge_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield case(randn(g, *(randint(g, 2, 8) for _ in range(4))))


def merge_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 1, 1, 4), note="one token, one head")
    yield case(randn(g, 2, 5, 5, 5), note="as many heads as tokens as numbers")
    yield case(randn(g, 3, 2, 1, 6), note="one token")
    yield case(randn(g, 2, 7, 3, 4).transpose(1, 2), note="transposed in memory")
    yield case(randn(g, 2, 3, 5, 4, dtype=torch.bfloat16), note="bf16")


def merge_real(seed: int) -> Iterator[Case]:
    for call in recorded("gqa_attention", seed):
        yield case(call.output.clone())


def seq_not_moved(x: Tensor) -> Tensor:
    return x.reshape(len(x), x.shape[2], -1)


def numbers_first(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(-2)


MERGE_HEADS = Exercise(
    "merge_heads",
    SET,
    merge_heads,
    stages=(
        Stage("random shapes", merge_shapes, tolerance=0),
        Stage("odd configurations", merge_odd, tolerance=0),
        Stage("the real checkpoint's activations", merge_real, tolerance=0),
    ),
    mistakes=(
        Mistake("You merge without moving the heads back: swap heads and seq (`transpose(1, 2)`) before you flatten.",
                seq_not_moved),
        Mistake("The heads are interleaved: lay whole heads side by side, head 0 first with all its numbers.",
                numbers_first),
        Mistake("The heads lie side by side, but in the order from last to first.", lambda x: merge_heads(x.flip(1))),
        Mistake("You add or average the heads; lay them side by side.", lambda x: x.mean(1)),
    ),
)  # fmt: skip

# ---- self_attention --------------------------------------------------------------------------

PARTS = ("x", "layer", "config", "table", "mask")


def made_layer(g: torch.Generator, heads: int, kv_heads: int, hidden: int, head_dim: int, bias: bool) -> LayerWeights:
    """A layer's attention; its feed-forward is not looked at."""
    rows = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    maps = {f"{name}_proj": randn(g, size, hidden) / hidden**0.5 for name, size in rows.items()}
    maps["o_proj"] = randn(g, hidden, heads * head_dim) / (heads * head_dim) ** 0.5
    rows["o"] = hidden
    biases = {f"{name}_bias": randn(g, size) for name, size in rows.items()} if bias else {}
    norms = {"q_norm": 1 + randn(g, head_dim), "k_norm": 1 + randn(g, head_dim)}
    empty = torch.zeros(0, hidden)
    others = {"input_layernorm": torch.ones(hidden), "post_attention_layernorm": torch.ones(hidden)}
    return LayerWeights(**maps, **norms, **others, **biases, gate_up_proj=empty, down_proj=empty.T)


def self_case(g: torch.Generator, batch: int, seq: int, kv_heads: int, group: int, bias: bool, note: str = "") -> Case:
    heads, hidden, head_dim = kv_heads * group, 2 * randint(g, 5, 12), 2 * randint(g, 2, 6)
    layer = made_layer(g, heads, kv_heads, hidden, head_dim, bias)
    config = Config(
        model_type="qwen3", vocab_size=16, hidden_size=hidden, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, attention_bias=bias,
    )  # fmt: skip
    positions = randint(g, 0, 40, batch, 1) + torch.arange(seq)
    mask = model.attention_mask(positions, positions)
    return case(randn(g, batch, seq, hidden), layer, config, model.rope_table(config, positions), mask, note=note)


def self_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield self_case(g, randint(g, 2, 4), randint(g, 4, 8), randint(g, 2, 4), randint(g, 2, 4), bias=False)


def self_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield self_case(g, 1, 1, 1, 1, bias=False, note="one token, one head")
    yield self_case(g, 2, 5, 2, 2, bias=True, note="with biases")
    yield self_case(g, 3, 4, 4, 1, bias=False, note="as many kv heads as query heads, as many tokens as heads")
    x, layer, config, table, mask = self_case(g, 2, 5, 2, 2, bias=False).args
    halved = torch.utils._pytree.tree_map_only(Tensor, Tensor.bfloat16, layer)
    yield case(x.bfloat16(), halved, config, table, mask, note="bf16 with a table in fp32")


def self_real(seed: int) -> Iterator[Case]:
    for call in recorded("self_attention", seed):
        yield case(*given(call, *PARTS))


def with_ops(**steps: Any) -> Any:
    """The step in which these steps are others."""

    def step(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
        return model.self_attention(x, layer, config, table, mask, ops=Ops(**steps))

    return step


def with_layer(**parts: Any) -> Any:
    """The step in which these weights are others: name=function(layer)."""

    def step(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
        layer = layer._replace(**{name: part(layer) for name, part in parts.items()})
        return model.self_attention(x, layer, config, table, mask)

    return step


def turned_then_normed(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    def heads(weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    q = model.rms_norm(model.rope(heads(layer.q_proj, layer.q_bias), *table), layer.q_norm, EPS)
    k = model.rms_norm(model.rope(heads(layer.k_proj, layer.k_bias), *table), layer.k_norm, EPS)
    out = model.gqa_attention(q, k, heads(layer.v_proj, layer.v_bias), mask)
    return F.linear(merge_heads(out), layer.o_proj, layer.o_bias)


def values_turned(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return model.gqa_attention(q, k, model.rope(v, *table), mask)

    return with_ops(attention=attention)(x, layer, config, table, mask)


def not_moved_back(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention whose heads, moved back and flattened, lie as if they had been flattened at once."""
    out = model.gqa_attention(q, k, v, mask)
    return out.reshape(len(out), out.shape[2], out.shape[1], -1).transpose(1, 2)


def values_normed(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return model.gqa_attention(q, k, model.rms_norm(v, layer.k_norm, config.rms_norm_eps), mask)

    return with_ops(attention=attention)(x, layer, config, table, mask)


SELF_ATTENTION = Exercise(
    "self_attention",
    SET,
    lambda x, layer, config, table, mask: model.self_attention(x, layer, config, table, mask),
    stages=(
        Stage("random shapes", self_shapes),
        Stage("odd configurations", self_odd),
        Stage("the real checkpoint's activations", self_real),
    ),
    mistakes=(
        Mistake("QK-norm is missing: norm each head of q and k before it is turned.",
                with_ops(norm=lambda x, weight, eps: x)),
        Mistake("You turn first and norm afterwards; the model norms q and k, then turns them.", turned_then_normed),
        Mistake("rope is missing: turn q and k by `table`.", with_ops(rope=lambda x, cos, sin: x)),
        Mistake("You turn the values as well; only q and k are turned.", values_turned),
        Mistake("You norm the values as well; only q and k are normed.", values_normed),
        Mistake("The mask is not used.", with_ops(attention=lambda q, k, v, mask: model.gqa_attention(q, k, v))),
        Mistake("You merge without moving the heads back: swap heads and seq before you flatten.",
                with_ops(attention=not_moved_back)),
        Mistake("You norm the keys with the weight of the queries.", with_layer(k_norm=lambda layer: layer.q_norm)),
        Mistake("The biases are missing: a layer may have them (`layer.q_bias` and so on, else None).",
                with_layer(**{f"{name}_bias": lambda layer: None for name in "qkvo"})),
        Mistake("The bias of the last map is missing: `layer.o_bias`.", with_layer(o_bias=lambda layer: None)),
    ),
    own=(model.self_attention,),
)  # fmt: skip

EXERCISES = (QK_NORM, CAUSAL_MASK, SLIDING_MASK, ATTENTION_WEIGHTS, GQA_ATTENTION, MERGE_HEADS, SELF_ATTENTION)
