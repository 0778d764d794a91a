"""ps4: small models to try an answer on. `forward_and_cache` lists the set."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...checkpoints.weights import init_weights
from ...config import Config
from ...model import Weights
from ..material import randint, randn

SET = "ps4_forward_and_cache"


def small_config(g: torch.Generator, **fixed: Any) -> Config:
    """Two sparse layers, the second with a sliding window; no two sizes that a student could mix up are equal."""
    kv_heads, layers = randint(g, 1, 3), fixed.get("num_hidden_layers", 2)
    sizes = dict(
        model_type="qwen3_moe", vocab_size=randint(g, 30, 40), hidden_size=4 * randint(g, 5, 8), intermediate_size=29,
        num_hidden_layers=layers, num_attention_heads=2 * kv_heads, num_key_value_heads=kv_heads, head_dim=8,
        num_experts=3, num_experts_per_tok=2, moe_intermediate_size=11, norm_topk_prob=True, tie_word_embeddings=True,
        use_sliding_window=True, sliding_window=3, rms_norm_eps=1e-6,
        layer_types=tuple(("full_attention", "sliding_attention")[number % 2] for number in range(layers)),
    )  # fmt: skip
    return Config(**{**sizes, **fixed})


def drawn_weights(g: torch.Generator, config: Config, dtype: torch.dtype = torch.float32) -> Weights:
    """Weights of a size that keeps numbers near 1; norms differ from 1, so that a swapped one is seen."""

    def draw(like: Tensor) -> Tensor:
        x = randn(g, *like.shape)
        return (1 + x / 2 if like.ndim == 1 else 1.5 * x / like.shape[-1] ** 0.5).to(dtype)

    return tree_map_only(Tensor, draw, init_weights(config, seed=0))


def copied(tree: Any) -> Any:
    """The same with tensors of its own, which an answer may spoil."""
    return tree_map_only(Tensor, Tensor.clone, tree)
