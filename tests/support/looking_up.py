"""Which heads look words up."""

from qwen3_scratch.tiny.lookups import weight_on
from qwen3_scratch.tracing import head_weights


def seekers_of(tiny, lookups):
    scores = weight_on(head_weights(tiny.weights, tiny.config, lookups.token_ids), lookups, lookups.followers)
    return [divmod(place, scores.shape[1]) for place in (scores.flatten() > 0.5).nonzero()[:, 0].tolist()]
