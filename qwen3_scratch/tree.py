"""The weights of a model as a tree of named tensors, a pytree. `tree_map_only(Tensor, f, weights)` of
`torch.utils._pytree` moves and casts it; what a model does without, such as a bias, is None."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class LayerWeights(NamedTuple):
    """One decoder layer. A sparse layer stacks its experts and has a router; a dense one has neither stack nor router.

    `gate_up_proj` holds the gate's rows above the up-projection's.
    """

    input_layernorm: Float[Tensor, "hidden"]
    q_proj: Float[Tensor, "q_dim hidden"]
    k_proj: Float[Tensor, "kv_dim hidden"]
    v_proj: Float[Tensor, "kv_dim hidden"]
    o_proj: Float[Tensor, "hidden q_dim"]
    q_norm: Float[Tensor, "head_dim"]
    k_norm: Float[Tensor, "head_dim"]
    post_attention_layernorm: Float[Tensor, "hidden"]
    gate_up_proj: Float[Tensor, "*experts two_intermediate hidden"]
    down_proj: Float[Tensor, "*experts hidden intermediate"]
    router: Float[Tensor, "experts hidden"] | None = None
    q_bias: Float[Tensor, "q_dim"] | None = None
    k_bias: Float[Tensor, "kv_dim"] | None = None
    v_bias: Float[Tensor, "kv_dim"] | None = None
    o_bias: Float[Tensor, "hidden"] | None = None


class Weights(NamedTuple):
    """All weights as a tree of tensors; `lm_head` is None where it is tied to the embedding."""

    embed_tokens: Float[Tensor, "vocab hidden"]
    layers: tuple[LayerWeights, ...]
    norm: Float[Tensor, "hidden"]
    lm_head: Float[Tensor, "vocab hidden"] | None = None
