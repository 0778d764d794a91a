"""A dense model -> a mixture of experts that says the same, and back: experts side by side are one feed-forward.

Sparse upcycling, Komatsuzaki et al. 2022, arXiv:2212.05055; experts tuned apart and then mixed, Branch-Train-MiX,
Sukhbaatar et al. 2024, arXiv:2403.07816.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ..config import Config
from ..errors import Error
from ..model import LayerWeights, Weights


def upcycle(
    weights: Weights,
    config: Config,
    num_experts: int,
    *,
    top_k: int = 1,
    norm_topk_prob: bool = True,
    seed: int | None = 0,
) -> tuple[Weights, Config]:
    """Copies every layer's feed-forward into `num_experts` experts, adds routers, and keeps all else.

    With `norm_topk_prob` a token's weights sum to one, so the answer is the dense model's, whatever the routers say.
    Without it the answer shrinks to the chosen experts' share of the probability, about top_k / num_experts.
    Routers are normal with `initializer_range`; `seed` None leaves them zero. The dense weights are not changed.

    Raises:
        Error: the model has experts already, fewer than one expert or a `top_k` that exceeds them, or layers of which
            only some have a sliding window, for which the config of the sparse family has no words.
    """
    if config.num_experts:
        raise Error(
            f"upcycle: the model has {config.num_experts} experts, expected a dense one: choose another checkpoint"
        )
    if num_experts < 1:
        raise Error(f"upcycle: num_experts is {num_experts}, expected at least 1: mend the argument")
    if len(set(config.layer_types)) > 1:
        raise Error(
            "upcycle: layer_types differ from layer to layer, expected one kind: the sparse family knows no mix"
        )
    slides = config.layer_types[0] == "sliding_attention"
    sparse = replace(
        config, model_type="qwen3_moe", num_experts=num_experts, num_experts_per_tok=top_k,
        moe_intermediate_size=config.intermediate_size, norm_topk_prob=norm_topk_prob, decoder_sparse_step=1,
        mlp_only_layers=(), use_sliding_window=slides, sliding_window=config.sliding_window if slides else None,
    )  # fmt: skip
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    layers = tuple(_upcycle_layer(layer, sparse, generator) for layer in weights.layers)
    return weights._replace(layers=layers), sparse


def _upcycle_layer(layer: LayerWeights, config: Config, generator: torch.Generator | None) -> LayerWeights:
    router = torch.zeros(config.num_experts, config.hidden_size)
    if generator is not None:
        router.normal_(std=config.initializer_range, generator=generator)
    return layer._replace(
        gate_up_proj=layer.gate_up_proj.detach().repeat(config.num_experts, 1, 1),
        down_proj=layer.down_proj.detach().repeat(config.num_experts, 1, 1),
        router=router.to(layer.down_proj),
    )


def mix(weights: Weights, experts: Sequence[Weights]) -> Weights:
    """An upcycled model whose expert i is the feed-forward of the dense `experts[i]`; all else stays its own."""
    layers = tuple(
        layer._replace(
            gate_up_proj=torch.stack([each.gate_up_proj for each in tuned]).detach(),
            down_proj=torch.stack([each.down_proj for each in tuned]).detach(),
        )
        for layer, *tuned in zip(weights.layers, *(expert.layers for expert in experts), strict=True)
    )
    return weights._replace(layers=layers)


def side_by_side(weights: Weights, config: Config, share: float) -> tuple[Weights, Config]:
    """A dense model of all experts of each layer, each answering every token with the same `share`.

    A feed-forward's answer is a sum over its intermediate numbers, so experts side by side, `down_proj` times `share`,
    are one wide feed-forward. Layers that are dense already get zeros up to the same width.
    """
    width = max(layer.down_proj.numel() // config.hidden_size for layer in weights.layers)
    dense = replace(
        config, model_type="qwen3", intermediate_size=width, num_experts=0, num_experts_per_tok=0,
        moe_intermediate_size=0, mlp_only_layers=(),
    )  # fmt: skip
    layers = tuple(_side_by_side(layer, share, width) for layer in weights.layers)
    return weights._replace(layers=layers), dense


def _side_by_side(layer: LayerWeights, share: float, width: int) -> LayerWeights:
    gate, up = (part.flatten(0, -2) for part in layer.gate_up_proj.chunk(2, dim=-2))  # [experts * intermediate, dim]
    down = layer.down_proj if layer.router is None else share * layer.down_proj.transpose(0, 1).flatten(1)
    gate, up = (F.pad(part, (0, 0, 0, width - len(part))) for part in (gate, up))
    down = F.pad(down, (0, width - down.shape[1]))
    return layer._replace(gate_up_proj=torch.cat((gate, up)), down_proj=down, router=None)
