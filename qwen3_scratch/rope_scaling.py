"""How fast each pair of a head turns with the position: the four ways to choose that a config.json can name."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import Config


def rope_frequencies(config: Config, longest: Int[Tensor, ""]) -> tuple[Float[Tensor, "pairs"], int | float]:
    """Radians per position of each pair of a head, and the factor on cos and sin, for every `rope_type`.

    default: theta^(-2i/d) (Su et al. 2021, arXiv:2104.09864). linear: all slower by `factor`. dynamic: theta grows
    once `longest`, the number of positions in use, passes what was trained. yarn: slow pairs are stretched by
    `factor`, fast ones left alone, a ramp in between (Peng et al. 2023, arXiv:2309.00071).
    """
    rope, dim = config.rope_parameters, config.head_dim
    kind, theta, factor = rope["rope_type"], rope["rope_theta"], rope.get("factor", 1.0)
    exponents = torch.arange(0, dim, 2, device=longest.device).float() / dim
    if kind == "dynamic":
        trained = config.max_position_embeddings
        growth = factor * longest.clamp(min=trained) / trained - (factor - 1)
        theta = theta * growth ** (dim / (dim - 2))
    frequencies = 1.0 / theta**exponents
    if kind == "linear":
        return frequencies / factor, 1.0
    if kind == "yarn":
        keep = yarn_ramp(config, longest.device)
        return frequencies / factor * (1 - keep) + frequencies * keep, yarn_attention_factor(rope)
    return frequencies, 1.0


def yarn_ramp(config: Config, device: torch.device | None = None) -> Float[Tensor, "pairs"]:
    """1 for pairs that turn often within the trained length and are kept, 0 for slow ones, which are stretched."""
    rope, dim = config.rope_parameters, config.head_dim

    def pair_with(
        turns: int | float,
    ) -> float:  # the pair, as a real number, that turns so often within the trained length
        wavelength = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(rope["rope_theta"]))

    first, last = pair_with(rope.get("beta_fast") or 32), pair_with(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=device)
    return 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)


def yarn_attention_factor(rope: dict[str, Any]) -> int | float:
    """How much yarn sharpens attention over the longer context: 0.1 ln(factor) + 1 unless the config says."""

    def magnitude(scale: int | float) -> int | float:
        return 0.1 * scale * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
    return magnitude(1.0)
