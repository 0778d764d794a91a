"""ps2, continued: the heads side by side, and the whole step. `attention` lists the whole set."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...config import Config
from ...model import LayerWeights, Ops, Table
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded
from .attention_masks import SET
from .attention_scores import EPS, given, other_masks

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
        trained(merge_shapes),
    ),
    loose=True,
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


def self_case(
    g: torch.Generator, batch: int, seq: int, kv_heads: int, group: int, bias: bool, note: str = "", eps: float = EPS
) -> Case:
    heads, hidden, head_dim = kv_heads * group, 2 * randint(g, 5, 12), 2 * randint(g, 2, 6)
    layer = made_layer(g, heads, kv_heads, hidden, head_dim, bias)
    config = Config(
        model_type="qwen3", vocab_size=16, hidden_size=hidden, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, attention_bias=bias,
        rms_norm_eps=eps,
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
    yield self_case(g, 2, 4, 2, 2, bias=False, note="a large eps", eps=0.5)
    x, layer, config, table, mask = self_case(g, 2, 5, 2, 2, bias=False).args
    halved = torch.utils._pytree.tree_map_only(Tensor, Tensor.bfloat16, layer)
    yield case(x.bfloat16(), halved, config, table, mask, note="bf16 with a table in fp32")


def self_other_masks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for note, mask in other_masks(g, 2, 1, 5, 5):
        yield case(*self_case(g, 2, 5, 2, 2, bias=False).args[:4], mask, note=note)


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
        Stage("other masks", self_other_masks),
        Stage("the real checkpoint's activations", self_real),
        trained(self_shapes, "table"),
    ),
    loose=True,
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
