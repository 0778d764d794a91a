"""Every figure of `qwen3_scratch.plots`, drawn from made-up numbers at any length: what tests/test_plots.py looks at.

A new figure needs a line in DRAWINGS, and is then proven to cut nothing off and to let no texts overlap.
"""

import torch

from qwen3_scratch import plots
from qwen3_scratch.model import Route

WORDS = ("<|im_start|>", "user", "⏎", "Nora", "␣is", "␣in", "␣the", "␣kitchen", ".", "␣$5", "_a^b$", "␣wheelbarrow")
LENGTHS = (1, 5, 60)
# Figures whose size no length changes: drawn once.
CONSTANT = ("model_map", "domain_footprint")


def random_routes(tokens, layers=4, experts=8, top_k=2):
    generator = torch.Generator().manual_seed(tokens)
    logits = torch.randn(layers, tokens, experts, generator=generator)
    weights, chosen = logits.softmax(-1).topk(top_k)
    return {layer: Route(weights[layer], chosen[layer], logits[layer]) for layer in range(layers)}


def labels(tokens):
    return [WORDS[token % len(WORDS)] for token in range(tokens)]


def attention(heads, tokens):
    scores = torch.randn(heads, tokens, tokens, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)


def history(entries):
    return [{"step": 10 * at, "loss": 5 / at, "balance": 2 + 1 / at} for at in range(1, entries + 1)]


def lens(tokens, layers=4):
    guesses = [labels(tokens + depth)[depth:] for depth in range(layers)]
    guesses = [[guess[:9] for guess in line] for line in [*guesses, guesses[-1]]]
    return plots.logit_lens(guesses, torch.linspace(0, 1, (layers + 1) * tokens).view(-1, tokens), labels(tokens))


DRAWINGS = {  # each from a number of tokens
    "model_map": lambda n: plots.model_map(),
    "model_map, all lit": lambda n: plots.model_map(plots.PARTS),
    "route_map": lambda n: plots.route_map(random_routes(n), labels(n), written=n // 2),
    "route_map, top-4 of 16": lambda n: plots.route_map(random_routes(n, 1, 16, 4), labels(n)),
    "route_map, deep": lambda n: plots.route_map(random_routes(n // 3 + 1, 28, 2, 1), labels(n // 3 + 1)),
    "expert_load": lambda n: plots.expert_load(random_routes(n)),
    "expert_load, 128 experts": lambda n: plots.expert_load(random_routes(n, 12, 128, 8)),
    "domain_footprint": lambda n: plots.domain_footprint(torch.arange(4 * 6 * 8).view(4, 6, 8), ["arithmetic"] * 6),
    "domain_footprint, 5 layers": lambda n: plots.domain_footprint(torch.ones(5, 2, 16).long() * n, ["a", "stories"]),
    "domain_footprint, one layer": lambda n: plots.domain_footprint(torch.eye(2, 4).long()[None], ["a", "b"]),
    "attention_maps": lambda n: plots.attention_maps(attention(8, n), labels(n)),
    "attention_maps, 3 heads": lambda n: plots.attention_maps(attention(3, n), labels(n)),
    "attention_maps, one query": lambda n: plots.attention_maps(attention(4, n)[:, -1:], labels(n)),
    "next_token_bars": lambda n: plots.next_token_bars(torch.arange(float(n)), None),
    "logit_lens": lens,
    "residual_norms": lambda n: plots.residual_norms(torch.ones(5, n), attention=torch.ones(4, n) / 2),
    "residual_norms, deep": lambda n: plots.residual_norms(
        torch.arange(29.0 * n).view(29, n), experts=torch.ones(28, n)
    ),
    "loss_curve": lambda n: plots.loss_curve(history(n)),
}
