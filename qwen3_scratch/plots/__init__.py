"""Figures drawn from a trace or from tensors. Each function returns a matplotlib Figure and never calls show().

Titles state what the numbers say, shades run from light (little) to dark (much) and read the same in grey, and
token labels make spaces and line breaks visible. Nothing here touches pyplot or matplotlib's global settings. Uses
traces, generation and the slices of `devices`.
"""

from .attention import attention_maps, attention_steps, head_lengths, head_sharing, mask_panels, token_looks
from .canvas import Figure, token_labels
from .costs import cache_size, decoding_cost, inverse_draw, sampling_steps, shares_right
from .devices import device_memory, device_shares, dispatch_cost
from .experts import expert_knockouts, information_test, loss_by_top_k, rank_shares, route_guesses, two_expert_weight
from .files import file_layout, number_bits, parameters_by_part
from .heads import head_damage, head_map, head_scores, knock_outs, right_and_wrong, score_history
from .learning import (
    balance_bars,
    learning_rates,
    load_curves,
    loss_comparison,
    loss_curve,
    score_curves,
    target_losses,
)
from .mistakes import divergence_map, mistake_shares, stream_distances
from .overview import PARTS, model_map
from .positions import (
    angle_errors,
    divergence_by_position,
    loss_by_gap,
    pair_wavelengths,
    rotation_map,
    scores_by_distance,
    slowed_pairs,
    turning_pairs,
)
from .predictions import logit_lens, next_token_bars, residual_norms
from .routing import (
    answer_routes,
    domain_footprint,
    expert_load,
    route_flow,
    route_map,
    router_probabilities,
    routes,
    silu_gate,
    top_k_error,
)
from .speed import arithmetic_intensity, dispatch_times, distinct_experts, stage_speed
from .text import bytes_per_token, merge_steps
from .upcycling import agreement_bars, router_splits
from .vectors import (
    norm_weights,
    norms_before_after,
    norms_in_the_plane,
    rounding_errors,
    token_similarity,
    vector_lengths,
)

__all__ = [
    "PARTS",
    "Figure",
    "agreement_bars",
    "angle_errors",
    "answer_routes",
    "arithmetic_intensity",
    "attention_maps",
    "attention_steps",
    "balance_bars",
    "bytes_per_token",
    "cache_size",
    "decoding_cost",
    "device_memory",
    "device_shares",
    "dispatch_cost",
    "dispatch_times",
    "distinct_experts",
    "divergence_by_position",
    "divergence_map",
    "domain_footprint",
    "expert_knockouts",
    "expert_load",
    "file_layout",
    "head_damage",
    "head_lengths",
    "head_map",
    "head_scores",
    "head_sharing",
    "information_test",
    "inverse_draw",
    "knock_outs",
    "learning_rates",
    "load_curves",
    "logit_lens",
    "loss_by_gap",
    "loss_by_top_k",
    "loss_comparison",
    "loss_curve",
    "mask_panels",
    "merge_steps",
    "mistake_shares",
    "model_map",
    "next_token_bars",
    "norm_weights",
    "norms_before_after",
    "norms_in_the_plane",
    "number_bits",
    "pair_wavelengths",
    "parameters_by_part",
    "rank_shares",
    "residual_norms",
    "right_and_wrong",
    "rotation_map",
    "rounding_errors",
    "route_flow",
    "route_guesses",
    "route_map",
    "router_probabilities",
    "router_splits",
    "routes",
    "sampling_steps",
    "score_curves",
    "score_history",
    "scores_by_distance",
    "shares_right",
    "silu_gate",
    "slowed_pairs",
    "stage_speed",
    "stream_distances",
    "target_losses",
    "token_labels",
    "token_looks",
    "token_similarity",
    "top_k_error",
    "turning_pairs",
    "two_expert_weight",
    "vector_lengths",
]
