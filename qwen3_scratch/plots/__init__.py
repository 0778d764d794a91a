"""Figures drawn from a trace or from tensors. Each function returns a matplotlib Figure and never calls show().

Titles state what the numbers say, shades run from light (little) to dark (much) and read the same in grey, and
token labels make spaces and line breaks visible. Nothing here touches pyplot or matplotlib's global settings.
"""

from .attention import attention_maps
from .canvas import Figure, token_labels
from .learning import loss_curve
from .overview import PARTS, model_map
from .predictions import logit_lens, next_token_bars, residual_norms
from .routing import answer_routes, domain_footprint, expert_load, route_map, routes

__all__ = [
    "PARTS",
    "Figure",
    "answer_routes",
    "attention_maps",
    "domain_footprint",
    "expert_load",
    "logit_lens",
    "loss_curve",
    "model_map",
    "next_token_bars",
    "residual_norms",
    "route_map",
    "routes",
    "token_labels",
]
