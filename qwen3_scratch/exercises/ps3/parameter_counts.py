"""ps3, last part: what a token costs. `router_and_experts` lists the whole set."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...checkpoints.names import all_slots
from ...config import Config
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, tiny
from .expert_counts import SET

# ---- active_from_shapes ----------------------------------------------------------------------

Shapes = Mapping[str, Sequence[int]]


def counted_shapes(shapes: Shapes, part: str = "") -> int:
    """How many numbers the tensors have whose names hold `part`."""
    return sum(math.prod(shape) for name, shape in shapes.items() if part in name)


def active_from_shapes(shapes: Shapes, num_experts: int, top_k: int) -> int:
    in_experts = counted_shapes(shapes, ".experts.")
    return counted_shapes(shapes) - in_experts * (num_experts - top_k) // num_experts


def shapes_case(config: Config, note: str) -> Case:
    shapes = {slot.name: list(slot.shape) for slot in all_slots(config)}
    return case(shapes, config.num_experts, config.num_experts_per_tok, note=note)


def random_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 2000)
    for _ in range(5):
        config = drawn_config(g)
        yield shapes_case(config, sizes(config))


def odd_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 2000)
    yield shapes_case(drawn_config(g, tie_word_embeddings=False), "a head of its own")
    yield shapes_case(drawn_config(g, mlp_only_layers=(0, 3)), "layers 0 and 3 without experts")
    yield shapes_case(drawn_config(g, attention_bias=True), "attention with biases")
    yield shapes_case(drawn_config(g, num_experts_per_tok=1), "one expert a token")
    yield shapes_case(drawn_config(g, num_experts=4, num_experts_per_tok=4), "all experts")


def real_shapes(seed: int) -> Iterator[Case]:
    yield shapes_case(tiny().config, "the embedded checkpoint")


def scaled(part: str) -> Callable[..., int]:
    """The share of all tensors whose names hold another part than `.experts.`."""
    return lambda shapes, num_experts, top_k: (
        counted_shapes(shapes) - counted_shapes(shapes, part) * (num_experts - top_k) // num_experts
    )


ACTIVE_FROM_SHAPES = Exercise(
    "active_from_shapes",
    SET,
    active_from_shapes,
    stages=(
        Stage("random checkpoints", random_shapes),
        Stage("odd configurations", odd_shapes),
        Stage("the real checkpoint", real_shapes),
    ),
    mistakes=(
        Mistake("You count all experts; a token passes top_k of them.",
                lambda shapes, num_experts, top_k: counted_shapes(shapes)),
        Mistake("You count one expert; a token passes top_k of them.",
                lambda shapes, num_experts, top_k: active_from_shapes(shapes, num_experts, 1)),
        Mistake("These are the numbers that rest: take them from all.",
                lambda shapes, num_experts, top_k: counted_shapes(shapes) - active_from_shapes(
                    shapes, num_experts, top_k)),
        Mistake("These are the experts' numbers alone; all others count whole.",
                lambda shapes, num_experts, top_k: counted_shapes(shapes, ".experts.") * top_k // num_experts),
        Mistake("The router counts whole, and so does a layer without experts: only names with `.experts.` are shared.",
                scaled(".mlp.")),
        Mistake("All tensors are shared out; only those with `.experts.` in their names are.", scaled("")),
    ),
    loose=True,
)  # fmt: skip


# ---- active_parameters -----------------------------------------------------------------------


def active_parameters(config: Config) -> int:
    return config.num_parameters(active=True)


def drawn_config(g: torch.Generator, **fixed: Any) -> Config:
    heads, experts = 2 * randint(g, 2, 5), randint(g, 5, 17)
    sizes = dict(
        model_type="qwen3_moe", vocab_size=randint(g, 50, 99), hidden_size=randint(g, 20, 60), num_hidden_layers=4,
        intermediate_size=randint(g, 30, 90), num_attention_heads=heads, num_key_value_heads=heads // 2,
        head_dim=2 * randint(g, 4, 9), num_experts=experts, num_experts_per_tok=randint(g, 2, 5),
        moe_intermediate_size=randint(g, 10, 29), tie_word_embeddings=True,
    )  # fmt: skip
    return Config(**{**sizes, **fixed})


def sizes(config: Config) -> str:
    """What a message says of a config beside its shapes, which it has none of."""
    heads = f"{config.num_attention_heads} heads of {config.head_dim} on {config.num_key_value_heads}"
    experts = f"{config.num_experts_per_tok} of {config.num_experts} experts of {config.moe_intermediate_size}"
    width = f"vocabulary {config.vocab_size}, hidden_size {config.hidden_size}, {config.num_hidden_layers} layers"
    return f"{width}, {heads}, {experts}"


def random_configs(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 1000)
    for _ in range(6):
        config = drawn_config(g)
        yield case(config, note=sizes(config))


def odd_configs(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(drawn_config(g, tie_word_embeddings=False), note="a head of its own")
    yield case(drawn_config(g, mlp_only_layers=(0, 3)), note="layers 0 and 3 without experts")
    yield case(drawn_config(g, decoder_sparse_step=2), note="every second layer without experts")
    dense = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    yield case(drawn_config(g, **dense), note="no experts at all")
    yield case(drawn_config(g, attention_bias=True), note="attention with biases")
    yield case(drawn_config(g, num_experts=2, num_experts_per_tok=1), note="one of two experts")
    yield case(drawn_config(g, num_experts=200, num_experts_per_tok=50), note="50 of 200 experts")
    yield case(drawn_config(g, num_experts=4, num_experts_per_tok=4), note="all experts")


def real_configs(seed: int) -> Iterator[Case]:
    yield case(tiny().config, note="the embedded checkpoint")
    huihui = dict(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=3072,
    )  # fmt: skip
    yield case(drawn_config(torch.Generator().manual_seed(seed), **huihui), note="Huihui-MoE-0.8B-2E")


def counted(change: Callable[[Config], Config], more: Callable[[Config], int] = lambda config: 0) -> Callable[..., int]:
    """The count for a config that is read wrongly, and what is added to it."""
    return lambda config: active_parameters(change(config)) + more(config)


def same(config: Config) -> Config:
    return config


def sparse_layers(config: Config) -> int:
    return sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))


def missing_matrix(config: Config) -> int:
    dense = config.hidden_size * config.intermediate_size * (config.num_hidden_layers - sparse_layers(config))
    one = config.hidden_size * config.moe_intermediate_size * config.num_experts_per_tok
    return -dense - one * sparse_layers(config)


def rows_of_the_chosen(config: Config) -> int:
    return sparse_layers(config) * config.hidden_size * (config.num_experts_per_tok - config.num_experts)


ACTIVE_PARAMETERS = Exercise(
    "active_parameters",
    SET,
    active_parameters,
    stages=(
        Stage("random configs", random_configs),
        Stage("odd configurations", odd_configs),
        Stage("real checkpoints", real_configs),
    ),
    mistakes=(
        Mistake("You count all experts; a token passes num_experts_per_tok of them.",
                lambda config: config.num_parameters()),
        Mistake("You count one expert; a token passes num_experts_per_tok of them.",
                counted(lambda config: replace(config, num_experts_per_tok=min(1, config.num_experts)))),
        Mistake("An expert has three matrices: gate, up and down.", counted(same, missing_matrix)),
        Mistake("The whole router is used for every token, not only the rows of the experts that it chooses.",
                counted(same, rows_of_the_chosen)),
        Mistake("The router is missing: one row of hidden_size for each expert.",
                counted(same, lambda config: -sparse_layers(config) * config.num_experts * config.hidden_size)),
        Mistake("The norms of queries and keys are missing: two of head_dim in each layer.",
                counted(same, lambda config: -2 * config.num_hidden_layers * config.head_dim)),
        Mistake("The last norm is missing: hidden_size once more.", counted(same, lambda config: -config.hidden_size)),
        Mistake("The norms of the stream are missing: two of hidden_size in each layer.",
                counted(same, lambda config: -2 * config.num_hidden_layers * config.hidden_size)),
        Mistake("A head that is tied is the embedding: it is not counted twice.",
                counted(lambda config: replace(config, tie_word_embeddings=False))),
        Mistake("A head that is not tied is a matrix of its own.",
                counted(lambda config: replace(config, tie_word_embeddings=True))),
        Mistake("head_dim need not be hidden_size / num_attention_heads: take it from the config.",
                counted(lambda config: replace(config, head_dim=config.hidden_size // config.num_attention_heads))),
        Mistake("Keys and values have fewer heads than queries: num_key_value_heads.",
                counted(lambda config: replace(config, num_key_value_heads=config.num_attention_heads))),
        Mistake("Not every layer has experts: ask `config.is_sparse(layer)`.",
                counted(lambda config: replace(config, mlp_only_layers=(), decoder_sparse_step=1))),
        Mistake("The biases of attention are missing.",
                counted(lambda config: replace(config, attention_bias=False))),
    ),
    own=(Config.num_parameters,),
    loose=True,
)  # fmt: skip
