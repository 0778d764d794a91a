"""ps3, last part: what a token costs. `router_and_experts` lists the whole set."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.names import all_slots
from ...config import Config
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, recorded, tiny
from .expert_counts import SET, chosen_experts

# ---- active_from_shapes ----------------------------------------------------------------------

Shapes = Mapping[str, Sequence[int]]


def counted_shapes(shapes: Shapes, part: str = "") -> int:
    """How many numbers the tensors have whose names hold `part`."""
    return sum(math.prod(shape) for name, shape in shapes.items() if part in name)


def active_from_shapes(shapes: Shapes, num_experts: int, top_k: int) -> int:
    in_experts = counted_shapes(shapes, ".experts.")
    return counted_shapes(shapes) - in_experts + in_experts * top_k // num_experts


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


# ---- numbers_read ----------------------------------------------------------------------------

Choices = Sequence[Tensor]


def numbers_read(shapes: Shapes, choices: Choices, num_experts: int) -> int:
    return with_experts(shapes, sum(len(experts.unique()) for experts in choices), choices, num_experts)


def with_experts(shapes: Shapes, read: int, choices: Choices, num_experts: int) -> int:
    """All numbers that belong to no expert, and those of so many experts."""
    in_experts = counted_shapes(shapes, ".experts.")
    return counted_shapes(shapes) - in_experts + in_experts * read // max(1, len(choices) * num_experts)


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


def batch_case(g: torch.Generator, config: Config, tokens: int, note: str) -> Case:
    """A batch whose tokens chose among the experts of each layer, some of which are preferred."""
    sparse = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    choices = [chosen_experts(g, tokens, config.num_experts, config.num_experts_per_tok) for _ in range(sparse)]
    return case({slot.name: list(slot.shape) for slot in all_slots(config)}, choices, config.num_experts, note=note)


def random_batches(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 1000)
    for _ in range(6):
        config = drawn_config(g)
        yield batch_case(g, config, randint(g, 2, 6), sizes(config))


def odd_batches(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield batch_case(g, drawn_config(g), 1, "one token")
    yield batch_case(g, drawn_config(g, mlp_only_layers=(0, 3)), 4, "layers 0 and 3 without experts")
    dense = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    yield batch_case(g, drawn_config(g, **dense), 4, "no experts at all")
    yield batch_case(g, drawn_config(g, attention_bias=True, tie_word_embeddings=False), 3, "biases, a head of its own")
    yield batch_case(g, drawn_config(g, num_experts_per_tok=1), 9, "one expert a token")
    yield batch_case(g, drawn_config(g, num_experts=200, num_experts_per_tok=50), 3, "50 of 200 experts")
    yield batch_case(g, drawn_config(g, num_experts=4, num_experts_per_tok=4), 5, "all experts")


def real_batches(seed: int) -> Iterator[Case]:
    shapes = {slot.name: list(slot.shape) for slot in all_slots(tiny().config)}
    chosen = [call.output.experts for call in recorded("moe_route", seed)]
    for tokens in (1, 4, 48):
        yield case(shapes, [experts[:tokens].clone() for experts in chosen], tiny().config.num_experts)


def read_if(count: Callable[[Choices, int], int]) -> Callable[..., int]:
    """What a batch would read if so many experts were read."""
    return lambda shapes, choices, num_experts: with_experts(shapes, count(choices, num_experts), choices, num_experts)


def joined(choices: Choices, num_experts: int) -> int:
    """How many numbers of experts occur in any layer."""
    return len(torch.cat([experts.flatten() for experts in choices]).unique()) if choices else 0


NUMBERS_READ = Exercise(
    "numbers_read",
    SET,
    numbers_read,
    stages=(
        Stage("random batches", random_batches),
        Stage("odd configurations", odd_batches),
        Stage("the real checkpoint's routes", real_batches),
    ),
    mistakes=(
        Mistake("You count all experts; only those that some token chose are read.",
                lambda shapes, choices, num_experts: counted_shapes(shapes)),
        Mistake("You count an expert for each token that chose it; the batch reads it once.",
                read_if(lambda choices, num_experts: sum(experts.numel() for experts in choices))),
        Mistake("This is what one token reads; others of the batch may have chosen other experts.",
                read_if(lambda choices, num_experts: sum(experts.shape[1] for experts in choices))),
        Mistake("You count the first choice alone; every choice of a token is read.",
                read_if(lambda choices, num_experts: sum(len(experts[:, :1].unique()) for experts in choices))),
        Mistake("Every layer has experts of its own: expert 2 of one layer is not that of another.",
                read_if(joined)),
        Mistake("Every layer has experts of its own: expert 2 of one layer is not that of another.",
                read_if(lambda choices, num_experts: len(choices) * joined(choices, num_experts))),
        Mistake("You count what the first layer with experts reads for all of them; each layer has choices of its own.",
                read_if(lambda choices, num_experts: sum(len(choices[0].unique()) for _ in choices))),
        Mistake("These are the numbers that rest: take them from all.",
                lambda shapes, choices, num_experts: counted_shapes(shapes) - numbers_read(
                    shapes, choices, num_experts)),
        Mistake("These are the experts' numbers alone; all others are read, too.",
                lambda shapes, choices, num_experts: numbers_read(shapes, choices, num_experts) - with_experts(
                    shapes, 0, choices, num_experts)),
    ),
    loose=True,
)  # fmt: skip
