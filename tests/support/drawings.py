"""Every figure of `qwen3_scratch.plots`, drawn from made-up numbers at any length: what tests/test_plots.py looks at.

A new figure needs a line in DRAWINGS, and is then proven to cut nothing off and to let no texts overlap.
"""

import math
from itertools import combinations

import torch
from reference import small_config
from safetensors.torch import save

from qwen3_scratch import Config, forward, init_weights, plots, trace
from qwen3_scratch.inside.cutting import pipeline_starts
from qwen3_scratch.model import NEVER, Route
from qwen3_scratch.plots.canvas import Figure

WORDS = ("<|im_start|>", "user", "⏎", "Nora", "␣is", "␣in", "␣the", "␣kitchen", ".", "␣$5", "_a^b$", "␣wheelbarrow")
LENGTHS = (1, 5, 60)
WAYS = ("no balancing", "balancing loss", "noise", "loss and capacity", "moved bias",
        "moved bias, softmax", "loss and shared expert")  # fmt: skip
# Figures whose size no length changes: drawn once.
CONSTANT = ("model_map", "router_ways")


def random_routes(tokens, layers=4, experts=8, top_k=2):
    generator = torch.Generator().manual_seed(tokens)
    logits = torch.randn(layers, tokens, experts, generator=generator)
    weights, chosen = logits.softmax(-1).topk(top_k)
    return {layer: Route(weights[layer], chosen[layer], logits[layer]) for layer in range(layers)}


STAGES = ("1 loop", "2 gathered", "3 static cache", "5 compiled")


def labels(tokens):
    return [WORDS[token % len(WORDS)] for token in range(tokens)]


def attention(heads, tokens):
    scores = torch.randn(heads, tokens, tokens, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)


def one_head(tokens):
    return attention(1, tokens)[0]


def head_numbers(heads, layers=4):
    return torch.rand(layers, heads, generator=torch.Generator().manual_seed(heads))


def noisy(rows, n=6):
    return torch.rand(rows, n, generator=torch.Generator().manual_seed(rows))


def routed(seeds, chats, domains=("spanish", "facts")):
    names = ("the other domain's expert", "the dense model", "tuned on both", "its own expert")
    fixed = {name: noisy(len(domains), chats) / 8**at for at, name in enumerate(names)}
    random = noisy(seeds, len(domains)) + 0.02
    return domains, fixed, random, random / 5


def pairs_of_heads(count):
    return [((1, one), (1, other)) for one, other in combinations(range(12), 2)][:count]


def heads_of(count):
    return [(at // 8, at % 8) for at in range(count)]


def history(entries):
    return [{"step": 10 * at, "loss": 5 / at, "balance": 2 + 1 / at} for at in range(1, entries + 1)]


def scored(entries, domains=("stories", "arithmetic", "python", "facts", "spanish", "chat")):
    ways = [f"{domain}/{way}" for domain in domains for way in ("thinking", "direct")]
    return [{"step": 250 * at, **dict.fromkeys(ways, min(1.0, at / 9))} for at in range(1, entries + 1)]


def lens(tokens, layers=4):
    guesses = [labels(tokens + depth)[depth:] for depth in range(layers)]
    guesses = [[guess[:9] for guess in line] for line in [*guesses, guesses[-1]]]
    return plots.logit_lens(guesses, torch.linspace(0, 1, (layers + 1) * tokens).view(-1, tokens), labels(tokens))


def filtered(tokens):
    values = torch.arange(1.0, tokens + 1) / tokens
    names = ("as predicted", "temperature 0.8", "top-k 12", "top-p 0.95", "min-p 0.1")
    return {
        name: values.masked_fill(values < at / 5, 0.0).softmax(0) * (values >= at / 5) for at, name in enumerate(names)
    }


PARTS = ("embedding", "norms", "attention", "router", "experts", "feed-forward", "head")


def passed(tokens, num_experts=8):
    """The trace of a pass through a small model, dense without experts."""
    kind: dict = {"model_type": "qwen3"}
    if num_experts:
        kind = dict(model_type="qwen3_moe", num_experts=num_experts, num_experts_per_tok=2, moe_intermediate_size=8)
    sizes = dict(vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=3, head_dim=4)
    config = Config(**sizes, num_attention_heads=2, num_key_value_heads=1, **kind)
    with trace() as t:
        forward(init_weights(config, seed=0), torch.arange(tokens)[None] % 64, config)
    return t


def ring(steps, slots):
    """Which token each slot holds after each of so many steps."""
    held = torch.full((steps, slots), NEVER)
    for step in range(steps):
        held[step:, step % slots] = step
    return held


def answered(asked):
    """Counts, questions, intervals and guesses, as `shares_right` takes them."""
    groups, ways = (
        ("stories, one question", "stories, several", "arithmetic"),
        ("thinking", "direct", "thinking, drawn"),
    )
    right = {group: {way: asked // (at + 1) for at, way in enumerate(ways)} for group in groups}
    intervals = {group: {way: (count / asked / 2, 1.0) for way, count in each.items()} for group, each in right.items()}
    return right, asked, intervals, dict.fromkeys(groups, 0.1)


def layout(layers):
    segments = [("header", 9_000), *[("embedding", 400_000)], *[(part, 90_000) for part in PARTS[1:]] * layers]
    return plots.file_layout(segments, (409_000, 949_000))


def active(models):
    return plots.active_parameters({name: small_config() for name in labels(models)})


def merging(pieces):
    return plots.merge_steps([["a"] * pieces, *[["aa"] + ["a"] * (pieces - 2)] * (pieces > 1)], [12345] * (pieces > 1))


def sentences(languages, named=""):
    sizes = {name: (at + 20, at + 30, at + 5) for at, name in enumerate(labels(languages))}
    return plots.sentence_lengths(sizes, (named, dict.fromkeys(sizes, 7) if named else {}))


def chips(tokens, *turns, ids=False):
    words = [*(word for turn in turns for word in ("<|im_start|>", turn, "⏎")), *labels(tokens + 1)[1:]]
    below = range(151_000, 151_000 + len(words)) if ids else ()
    return plots.token_chips(words, [word == "<|im_start|>" for word in words], ids=below)


def random_vectors(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))


def norm_names(count):
    return [f"layer {at // 2} {('input', 'post-att.')[at % 2]}" for at in range(count - 1)] + ["last"]


DOMAINS = ("stories", "arithmetic", "python", "facts", "spanish", "chat")


def guesses(layers):
    names = ("nothing", "domain", "word", "word + domain", "word + one before")
    return {name: (torch.linspace(0.2, 1, layers), torch.full((layers,), 0.03)) for name in names}


def expert_table(layers, experts, words):
    words_of = [labels(words % (expert + 2) + 1) for expert in range(experts)]
    shares = [expert / experts for expert in range(experts)]
    return dict.fromkeys(range(layers), words_of), dict.fromkeys(range(layers), shares)


def beside(rows):
    found = {name: (torch.linspace(0.1, 0.9, rows), torch.full((rows,), 0.03)) for name in ("measured", "words alone")}
    return found, (torch.linspace(-0.1, 0.2, rows), torch.full((rows,), 0.03))


def pairs_and_loads(layers, experts):
    pairs = 30 * torch.rand(layers, experts, experts, generator=torch.Generator().manual_seed(experts))
    return pairs, torch.full_like(pairs, 15)


def damage():
    return torch.arange(4.0 * 8 * 12).view(4, 8, 12) / 200, torch.arange(12) // 2


def rises(places, chats):
    rise = torch.randn(places, chats, generator=torch.Generator().manual_seed(chats))
    return {name: rise + at for at, name in enumerate(("random experts", "the next in line", "equal weights"))}


def speeds(pairs):
    return 10_000 ** -torch.linspace(0, 1, pairs + 1)[:-1]


def mistake_names(count):
    return [f"{'pads_counted_after_prefill'[: 4 + at]}" for at in range(count)]


def differences(count, tokens):
    far = 10 ** (2 * random_vectors(count, tokens) - 4)
    return far, far < 0.1, mistake_names(count)


def split_config(**changes):
    sizes = dict(vocab_size=2112, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=16)
    sizes |= dict(num_key_value_heads=2, head_dim=32, num_experts=16, num_experts_per_tok=2, moe_intermediate_size=64)
    return Config(**{"model_type": "qwen3_moe", **sizes, "mlp_only_layers": (0,), **changes})


def device_bytes(counts):
    sizes = {2**at: 6e10 / 2**at for at in range(counts)}
    ways = {"tensor only": sizes, "experts only": {count: size + 2e9 for count, size in sizes.items()}}
    return {"Qwen3-30B-A3B": ways, "Qwen3-235B-A22B": {"tensor x experts": {c: 8 * s for c, s in sizes.items()}}}


def ring_counts(ranks):
    """Of how many ranks each part on each rank is the sum, at first and after each step around a ring."""
    held = torch.ones(2 * ranks - 1, ranks, ranks, dtype=torch.long)
    for step in range(2 * ranks - 2):
        held[step + 1] = held[step]
        for rank in range(ranks):
            part = (rank - 1 - step) % ranks
            held[step + 1, rank, part] = held[step, rank - 1, part] + (step < ranks - 1)
    return held


def dispatch(ranks):
    owners = range(2, 2 + ranks)
    moved = [(ranks - 1) / ranks for ranks in owners]
    sending = {
        f"top-{k}, once a choice": [2 * k * part / at for at, part in zip(owners, moved, strict=True)]
        for k in (1, 2, 8)
    }
    return plots.dispatch_cost(owners, [2 * part for part in moved], sending, moved)


def timed(counts):
    """Of one and of many tokens over two links: seconds of work and of sending by number of ranks."""
    return {
        f"{tokens:,} tokens\n{link}": (
            [tokens * 2e-3 / 2**at for at in range(counts)],
            [cost * at for at in range(counts)],
        )
        for link, cost in {"between hosts": 2e-3, "inside one": 2e-4}.items()
        for tokens in (1, 64, 4096)
    }


DRAWINGS = {  # each from a number of tokens
    "model_map": lambda n: plots.model_map(),
    "model_map, all lit": lambda n: plots.model_map(plots.PARTS),
    "route_map": lambda n: plots.route_map(random_routes(n), labels(n), written=n // 2),
    "route_map, top-4 of 16": lambda n: plots.route_map(random_routes(n, 1, 16, 4), labels(n)),
    "route_map, deep": lambda n: plots.route_map(random_routes(n // 3 + 1, 28, 2, 1), labels(n // 3 + 1)),
    "mixture_layer": lambda n: plots.mixture_layer(random_routes(n)[0], labels(n)),
    "mixture_layer, top-1 of 2": lambda n: plots.mixture_layer(random_routes(n, 1, 2, 1)[0], labels(n)),
    "dispatch_order": lambda n: plots.dispatch_order(
        random_routes(n)[0].experts, random_routes(n)[0].weights, labels(n)
    ),
    "dispatch_order, top-4 of 16": lambda n: plots.dispatch_order(
        random_routes(n, 1, 16, 4)[0].experts, random_routes(n, 1, 16, 4)[0].weights, labels(n)
    ),
    "router_probabilities": lambda n: plots.router_probabilities(
        random_routes(n)[0].logits.softmax(-1), random_routes(n)[0].experts, labels(n), range(0, n, 3)
    ),
    "router_probabilities, top-8 of 128": lambda n: plots.router_probabilities(
        random_routes(n, 1, 128, 8)[0].logits.softmax(-1), random_routes(n, 1, 128, 8)[0].experts, labels(n)
    ),
    "silu_gate": lambda n: plots.silu_gate(torch.linspace(-3, 2, 7 * n).view(n, 7)),
    "top_k_loss": lambda n: plots.top_k_loss(
        torch.linspace(0.2, 0.01, 7 * n).view(7, n), [1, 2, 4, 8, 16, 32, 64], 8, torch.linspace(1, 2, n)
    ),
    "expert_load": lambda n: plots.expert_load(torch.rand(min(n, 48), 8) + 0.1, range(min(n, 48))),
    "expert_load, 128 experts": lambda n: plots.expert_load(torch.rand(12, 128) * n + 0.1, range(12)),
    "attention_maps": lambda n: plots.attention_maps(attention(8, n), labels(n)),
    "attention_maps, 3 heads": lambda n: plots.attention_maps(attention(3, n), labels(n)),
    "attention_maps, one query": lambda n: plots.attention_maps(attention(4, n)[:, -1:], labels(n)),
    "attention_steps": lambda n: plots.attention_steps(
        torch.linspace(-9, 9, n * n).view(n, n), torch.ones(n, n).tril().bool(), attention(1, n)[0], labels(n)
    ),
    "attention_shapes": lambda n: plots.attention_shapes(32 * n, 4 * n, n, 128, 9 * n),
    "attention_shapes, MHA": lambda n: plots.attention_shapes(2048, n, n, 64, 40_000),
    "weighted_sum": lambda n: plots.weighted_sum(
        torch.arange(3.0).softmax(0), n * torch.tensor([[0.0, 4.0], [4.0, 4.0], [4.0, -1.0]]), labels(3)
    ),
    "weighted_sum, one value": lambda n: plots.weighted_sum(torch.ones(1), torch.tensor([[-3.0, n]]), ["Nora"]),
    "softmax_by_blocks": lambda n: plots.softmax_by_blocks([[0.1, 0.7], [n / 9]], [[8, 8], [n]]),
    "softmax_by_blocks, three": lambda n: plots.softmax_by_blocks([[2.0], [1.0, 0.0], [n / 60]], [[n], [1, 1], [2]]),
    "two_looks": lambda n: plots.two_looks(labels(n + 1), n // 3, (0, 1)),
    "two_looks, not found yet": lambda n: plots.two_looks(labels(n + 1), n // 2),
    "two_looks, far": lambda n: plots.two_looks(labels(n + 1), max(n - 1, 0), (0, 27)),
    "hidden_looks": lambda n: plots.hidden_looks(
        dict.fromkeys(("> coat", "> cup"), noisy(4, min(n, 6))),
        dict.fromkeys(("> coat", "> cup"), range(26, 26 + min(n, 6))),
        ("nothing", "one head's look", "other heads'", "its other look"),
        dict.fromkeys(("> coat", "> cup"), ("␣Leo 100.0%", "␣Mia 87.0%", "␣Leo 100.0%", "␣Leo 100.0%")),
    ),
    "head_lengths": lambda n: plots.head_lengths(torch.rand(n, 9) + 0.1, torch.rand(n, 9) + 1, "q", 1.0, 2.0),
    "head_sharing": lambda n: plots.head_sharing(
        4 * n,
        {"a pair for each": 4 * n, "shared by four": n, "one for all": 1},
        [4096 * n, 1024 * n, 1024],
    ),
    "mask_panels": lambda n: plots.mask_panels(
        {
            "causal": torch.ones(n, n).tril().bool(),
            "a window": torch.eye(n).bool(),
            "left padding": torch.zeros(n, n).bool(),
        }
    ),
    "mask_panels, one": lambda n: plots.mask_panels({"causal": torch.ones(n, n).tril().bool()}),
    "token_looks": lambda n: plots.token_looks(attention(8, n)[:, -1], labels(n), "␣wheelbarrow"),
    "token_looks, 40 heads": lambda n: plots.token_looks(attention(40, n)[:, -1], labels(n), "coat"),
    "next_token_bars": lambda n: plots.next_token_bars(torch.arange(float(n)), None),
    "logit_lens": lens,
    "logit_parts": lambda n: plots.logit_parts(
        [f"layer {at} attention" for at in range(n)],
        random_vectors(n),
        random_vectors(n).flip(0),
        ("␣P", "␣wheelbarrow"),
    ),
    "head_scores": lambda n: plots.head_scores(head_numbers(n), "the first token", 0.1),
    "head_scores, nothing found": lambda n: plots.head_scores(head_numbers(n), "the token before", 0.7),
    "head_scores, deep": lambda n: plots.head_scores(head_numbers(16, 28), "the token before", 0.01 * n),
    "head_map": lambda n: plots.head_map(one_head(n), labels(n), "L1H4"),
    "head_map, some rows": lambda n: plots.head_map(one_head(n)[-20:], labels(n), "L27H12", start=n // 2),
    "followed_mark": lambda n: plots.followed_mark(
        dict.fromkeys(("as it is", "L0H2 says another word"), attention(1, n + 1)[0, -1]),
        {"as it is": labels(n), "L0H2 says another word": labels(n)[::-1]},
        labels(n),
        labels(n)[0],
    ),
    "head_costs": lambda n: plots.head_costs(noisy(4 * n).view(4, n, 6), noisy(4 * n).view(4, n, 6), [(0, 0)], 10.0),
    "group_costs": lambda n: plots.group_costs(noisy(n), pairs_of_heads(n), pairs_of_heads(n)[0]),
    "lent_part": lambda n: plots.lent_part((n, n), n + 1),
    "ways_in": lambda n: plots.ways_in(
        {name: noisy(min(n, 8)) for name in ("the keys", "the queries")},
        {name: noisy(min(n, 8)) for name in ("the keys", "the queries", "the values")},
        heads_of(min(n, 8)),
        0.8,
    ),
    "copying_and_looking": lambda n: plots.copying_and_looking(head_numbers(n), head_numbers(n) ** 3, 1, 48),
    "heads_over_training": lambda n: plots.heads_over_training(
        torch.arange(1, n + 1) * 100, noisy(32).view(4, 8, 6).mean(-1).expand(n, -1, -1), {100 * n: 0.5}, 0.02
    ),
    "loss_curve": lambda n: plots.loss_curve(history(n)),
    "score_curves": lambda n: plots.score_curves(scored(n)),
    "score_curves, one domain": lambda n: plots.score_curves(scored(n, ("stories",))),
    "target_losses": lambda n: plots.target_losses(torch.arange(float(n)), torch.arange(n) % 3 / 2, labels(n), 7.6),
    "step_downhill": lambda n: plots.step_downhill(lambda x: (x - n) ** 2, n + 3.0, 1 / (n + 1), "logit of a word"),
    "balance_bars": lambda n: plots.balance_bars(2 * torch.arange(1.0, n + 1).softmax(0), torch.ones(n) / n),
    "balance_sweep": lambda n: plots.balance_sweep(
        [0.0, *(10.0**-at for at in range(6, -1, -1))],
        noisy(8, n),
        torch.rand(8) / 9,
        (9 * noisy(8, n)).int(),
        32,
        0.01,
    ),
    "load_curves": lambda n: plots.load_curves(
        range(0, 10 * n, 10), {name: torch.rand(n, 2, 16).softmax(-1) for name in ("without balancing", "with it")}
    ),
    "expert_places": lambda n: plots.expert_places(torch.arange(n) % 7 % 4, 4, max(1, n // 5), labels(n)),
    "router_loads": lambda n: plots.router_loads({name: torch.rand(3, 2, n).softmax(-1) for name in WAYS}),
    "router_ways": lambda n: plots.router_ways(),
    "router_comparison": lambda n: plots.router_comparison(
        {name: [1.0 + at * seed for seed in range(min(n, 3))] for at, name in enumerate(WAYS)},
        {name: [0.3 + 0.1 * seed for seed in range(min(n, 3))] for name in WAYS},
        WAYS[1],
    ),
    "load_curves, one layer": lambda n: plots.load_curves(range(n), {"alone": torch.ones(n, 1, 128) / 128}),
    "file_layout": layout,
    "small_file": lambda n: plots.small_file(save({name: torch.ones(1) for name in labels(min(n, 8))})),
    "small_file, one tensor": lambda n: plots.small_file(save({"embedding.weight": torch.ones(min(n, 8), 1)})),
    "active_parameters": lambda n: active(min(n, 6)),
    "number_bits": lambda n: plots.number_bits(-(0.1**n) / 7),
    "word_chips": lambda n: plots.word_chips(labels(n), [n // 2]),
    "word_chips, with ids": lambda n: plots.word_chips(labels(n), range(0, n, 3), range(151_000, 151_000 + n)),
    "word_vectors": lambda n: plots.word_vectors(
        random_vectors(5 * 2, 8 * n).view(5, 2, -1), ["in the story", "later"]
    ),
    "word_vectors, one place and one depth": lambda n: plots.word_vectors(torch.ones(1, 1, n), ["alone"]),
    "word_heads": lambda n: plots.word_heads(attention(8, n)[:, -1].repeat(4, 1, 1), labels(n), n // 2),
    "word_heads, deep": lambda n: plots.word_heads(attention(16, n)[:, -1].repeat(28, 1, 1), labels(n), 0),
    "word_experts": lambda n: plots.word_experts(passed(n), [n // 2, n - 1], ["in the story", "in the question"]),
    "word_experts, dense": lambda n: plots.word_experts(passed(n, num_experts=0), [0, n - 1], ["in one", "in two"]),
    "word_experts, 128 experts": lambda n: plots.word_experts(passed(n, num_experts=128), [n - 1], ["alone"]),
    "right_with_notes": lambda n: plots.right_with_notes({"after notes": [True] * n, "at once": [False] * n}, 0.4),
    "first_words": lambda n: plots.first_words(torch.arange(float(n)), None, n // 2, n - 1),
    "tensor_sizes": lambda n: plots.tensor_sizes(
        {f"mlp.experts.{at}.down_proj": [n, 9 + at] for at in range(min(n, 16))}, {"mlp.experts.0.down_proj": n}
    ),
    "tensor_sizes, vectors alone": lambda n: plots.tensor_sizes({"post_attention_layernorm": [n], "q_norm": [2]}),
    "changes_by_lead": lambda n: plots.changes_by_lead(random_vectors(20 * n).exp(), torch.arange(20 * n) % 7 == 0),
    "rounded_apart": lambda n: plots.rounded_apart(
        {name: random_vectors(n, 9).flatten().bfloat16() for name in ("all in bf16", "cast, then weight")},
        random_vectors(n, 9).flatten().double(),
    ),
    "running_sums": lambda n: plots.running_sums(
        {"a loop in bf16": torch.arange(float(9 * n)).clamp(max=n), "exact": torch.arange(float(9 * n))}
    ),
    "merge_steps": lambda n: merging(min(n, 20)),
    "sentence_lengths": lambda n: sentences(min(n, 12)),
    "sentence_lengths, another's": lambda n: sentences(min(n, 12), "Qwen3's own merges"),
    "cache_growth": lambda n: plots.cache_growth(n, n),
    "cache_step": lambda n: plots.cache_step(torch.ones(n, 2 * n).tril(n).bool()),
    "padding_sides": lambda n: plots.padding_sides([labels(n), labels(n // 2 + 1), labels(n)]),
    "ring_steps": lambda n: plots.ring_steps(ring(n + 3, n)),
    "ring_steps, small": lambda n: plots.ring_steps(ring(n, min(n, 4))),
    "step_work": lambda n: plots.step_work(
        range(40, 40 + 8 * (n + 1), 8),
        {"reading all again": [10**9 * (at + 1) for at in range(n + 1)], "with a cache": [9 + n] * (n + 1)},
        [at % 9 for at in range(n + 1)],
    ),
    "cache_size": lambda n: plots.cache_size(
        [2**at for at in range(4, 4 + min(n, 12))],
        {
            "each head its own": [2**at * 10**3 for at in range(min(n, 12))],
            "grouped": [2**at * 500 for at in range(min(n, 12))],
        },
    ),
    "sampling_steps": lambda n: plots.sampling_steps(filtered(n), None),
    "sampling_steps, 3": lambda n: plots.sampling_steps(dict(list(filtered(n).items())[:3]), None),
    "sampling_steps, named": lambda n: plots.sampling_steps(filtered(n), labels(n)),
    "inverse_draw": lambda n: plots.inverse_draw(torch.arange(1.0, n + 1).softmax(0), 0.3, labels(n)),
    "upcycled_layer": lambda n: plots.upcycled_layer(n),
    "agreement_bars": lambda n: plots.agreement_bars(
        {"top-1, renormalised": 1.0, "top-1, raw probability, zero router": 1 / (n + 1)}, 100 * n
    ),
    "branches_mixed": lambda n: plots.branches_mixed(("spanish", "facts", "arithmetic", "code")[:n]),
    "routed_losses": lambda n: plots.routed_losses(*routed(min(n, 8), n)),
    "routed_losses, one domain": lambda n: plots.routed_losses(*routed(n, 3, ("spanish",))),
    "trained_on": lambda n: plots.trained_on(
        range(0, 100 * n + 1, 100),
        {name: 0.1 * noisy(min(n, 5), n + 1) for name in ("top-1, raw", "top-1, renormalised", "top-2, renormalised")},
        dict.fromkeys(("top-1, raw", "top-1, renormalised", "top-2, renormalised"), [0.1] * (n + 1)),
    ),
    "shares_right": lambda n: plots.shares_right(*answered(n)),
    "answers_follow": lambda n: plots.answers_follow(
        {
            kind: {"the story": n // 2, "the notes": n - n // 2, "neither": 0}
            for kind in ("right notes", "two words exchanged", "as many dashes")
        },
        n,
    ),
    "token_similarity": lambda n: plots.token_similarity(random_vectors(n, 8), labels(n)),
    "token_similarity, groups": lambda n: plots.token_similarity(
        random_vectors(n, 8), labels(n), [n // 3, n // 3, n - 2 * (n // 3)]
    ),
    "token_chips": lambda n: chips(n),
    "token_chips, a chat": lambda n: chips(n, "system", "user", "assistant"),
    "token_chips, a chat with ids": lambda n: chips(n, "system", "user", ids=True),
    "stream_growth": lambda n: plots.stream_growth(random_vectors(n, 9).exp(), random_vectors(n, 9).mul(9).exp()),
    "stream_growth, out of range": lambda n: plots.stream_growth(torch.ones(n, 2), torch.full((n, 2), torch.nan)),
    "stream_sum": lambda n: plots.stream_sum(
        n * torch.tensor([[1.0, 7.0], [7.0, 1.0], [6.0, -6.0]]), ["embedding", "attention", "experts"], ("cat", "dog")
    ),
    "norm_inputs": lambda n: plots.norm_inputs(random_vectors(n, 9).exp(), norm_names(n)),
    "beside_words": lambda n: plots.beside_words(
        *beside(4), torch.full((4,), 0.01 * n), [f"layer {at} → {at + 1}" for at in range(4)], "bits are told", "{:.2f}"
    ),
    "beside_words, deep": lambda n: plots.beside_words(
        *beside(28), torch.full((28,), 0.1), [f"layer {at}" for at in range(28)], f"of {n} tokens take the expert"
    ),
    "co_activation": lambda n: plots.co_activation(*pairs_and_loads(4, 8), range(4), (1, 2, 5, 2.5, 0.3, n, 100 * n)),
    "co_activation, 128 experts": lambda n: plots.co_activation(
        *pairs_and_loads(28, 128), range(28), (1, 20, 125, 12.5, 10.3, n, 100 * n)
    ),
    "carried_tokens": lambda n: plots.carried_tokens(
        dict(zip([f"{word}, L27H12" for word in WORDS[:4]], noisy(20, n + 1).view(4, 5, -1), strict=True)),
        [0, 1, 2, 4, 8 * n],
        0.05,
    ),
    "routes_over_training": lambda n: plots.routes_over_training(
        torch.arange(1, n + 2) * 100,
        torch.linspace(0.1, 1, n + 1)[:, None].expand(-1, 4),
        torch.full((n + 1, 4), 0.15),
        noisy(n, 4) / 5,
        70 * n,
        f"{100 * n} tokens",
    ),
    "said_without": lambda n: plots.said_without(
        [[labels(9)] * 10] * 3,
        torch.rand(3, 10, 9) > 0.5,
        {"+": "sums", "-": "differences", "*": "products"},
        f"expert {n} of layer 2",
        range(1, 10),
    ),
    "word_routes": lambda n: plots.word_routes(random_routes(n), labels(n)),
    "domain_experts": lambda n: plots.domain_experts(torch.rand(6, 8).mul(100 * n), DOMAINS, 3),
    "domain_experts, 16": lambda n: plots.domain_experts(torch.rand(2, 16).mul(n), ["a", "stories"], 27),
    "route_guesses": lambda n: plots.route_guesses(guesses(4), 1000 * n),
    "route_guesses, deep": lambda n: plots.route_guesses(guesses(28), n),
    "expert_lifts": lambda n: plots.expert_lifts(guesses(4), 100 * n, n, range(4)),
    "expert_knockouts": lambda n: plots.expert_knockouts(*damage(), DOMAINS),
    "expert_knockouts, top-4 of 16": lambda n: plots.expert_knockouts(
        torch.randn(5, 16, 12) - 3, torch.arange(12) // 2, DOMAINS
    ),
    "expert_knockouts, one layer": lambda n: plots.expert_knockouts(
        torch.ones(1, 2, 2), torch.arange(2), ["a", "b"], [27]
    ),
    "expert_words": lambda n: plots.expert_words(*expert_table(4, 8, n), *torch.rand(2, 2), torch.arange(100 * n) // 9),
    "expert_words, 128 experts": lambda n: plots.expert_words(
        *expert_table(4, 128, n), *torch.rand(2, 2) / 50, torch.arange(n)
    ),
    "expert_words, one layer": lambda n: plots.expert_words(
        {27: [labels(n), []]}, {27: [1.0, math.nan]}, torch.ones(2), torch.zeros(2), torch.zeros(n).long()
    ),
    "changes_of_loss": lambda n: plots.changes_of_loss(rises(6, n), DOMAINS, "its own routes"),
    "changes_of_loss, one": lambda n: plots.changes_of_loss({"k = 1": torch.ones(1, n)}, ["layer 27"], "k = 2"),
    "one_pair": lambda n: plots.one_pair(
        torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]), [(0, 0), (1, 0), (3, 2), (n, 0)], 1.5708
    ),
    "one_pair, close": lambda n: plots.one_pair(torch.ones(2), torch.tensor([1.0, 0.9]), [(n, n)], 0.1),
    "clock_hands": lambda n: plots.clock_hands(speeds(n), [0, 1, 2, 3, 6, 10]),
    "clock_hands, far": lambda n: plots.clock_hands(speeds(n), [0, 40960]),
    "pair_wavelengths": lambda n: plots.pair_wavelengths(speeds(n), 1024),
    "halves_and_neighbours": lambda n: plots.halves_and_neighbours(2 * min(n, 6)),
    "looks_by_distance": lambda n: plots.looks_by_distance(
        *torch.rand(2, 5, 3, n + 3, n + 3, generator=torch.Generator().manual_seed(n)) / n
    ),
    "score_waves": lambda n: plots.score_waves(
        *random_vectors(2, 2 * n), speeds(n), ("␣coat", "␣white"), farthest=min(n, 60)
    ),
    "met_angles": lambda n: plots.met_angles(speeds(n), 51, 182, 1024),
    "slowed_pairs": lambda n: plots.slowed_pairs(
        {
            name: {"default": speeds(m), "linear": speeds(m) / 4, "dynamic": speeds(m) ** 1.1, "yarn": speeds(m) / 2}
            for name, m in {"here": n, "in Qwen3's shape": 64}.items()
        }
    ),
    "mean_losses": lambda n: plots.mean_losses(
        {
            way: {f"number {at}, nothing new": noisy(min(n, 16))[at] * at for at in range(min(n, 16))}
            for way in ("no gap", "a gap of 512")
        }
    ),
    "mean_losses, about one way": lambda n: plots.mean_losses(
        {
            way: {f"way {at}": noisy(min(n, 16))[at] * at for at in range(min(n, 16))}
            for way in ("no gap", "a gap of 512", "a gap of 900")
        },
        about="way 0",
    ),
    "mean_losses, one setting": lambda n: plots.mean_losses({"behind": {"default": torch.ones(n)}}),
    "trained_longer": lambda n: plots.trained_longer(
        [0, n, 2 * n],
        {
            way: {name: torch.rand(3, 12) * 7 for name in ("default", "linear", "dynamic", "yarn")}
            for way in ("behind 512 tokens", "alone", "over a gap of 512")
        },
    ),
    "draft_passes": lambda n: plots.draft_passes(
        [labels(min(n, 5)), ["no", *labels(min(n, 5))[1:]]], [*labels(min(n, 5)), "end"], ["the"]
    ),
    "overlap_bars": lambda n: plots.overlap_bars(
        torch.arange(1.0, min(n, 12) + 1).softmax(0), torch.ones(min(n, 12)) / min(n, 12), labels(min(n, 12))
    ),
    "draft_yield": lambda n: plots.draft_yield(
        {name: [1 + at / (n + 1) for at in range(min(n, 9))] for name in ("1/3", "1/2", "4/5")},
        {
            name: [1 + at / 2 for at in range(min(n, 9))]
            for name in ("dense", "Qwen3-30B-A3B", "Qwen3-30B-A3B (shared)")
        },
    ),
    "difference_map": lambda n: plots.difference_map(*differences(22, n), labels(n), n // 2),
    "difference_map, one": lambda n: plots.difference_map(*differences(1, n), labels(n)),
    "check_grid": lambda n: plots.check_grid(
        mistake_names(n),
        {f"nine of ten of {at} next tokens agree": [at > mistake % 7 for mistake in range(n)] for at in range(8)},
        [mistake % 3 == 0 for mistake in range(n)],
    ),
    "check_grid, one": lambda n: plots.check_grid(mistake_names(n), {"all logits agree": [True] * n}, [True] * n),
    "device_shares": lambda n: plots.device_shares(split_config(attention_bias=True), 2, min(1 << n.bit_length(), 16)),
    "device_shares, dense": lambda n: plots.device_shares(split_config(num_experts=0, tie_word_embeddings=True), 1, 1),
    "device_shares, shared kv heads": lambda n: plots.device_shares(split_config(mlp_only_layers=()), 8, 1),
    "feed_forward_cut": lambda n: plots.feed_forward_cut(2048, 768 * n, min(n, 5)),
    "ring_sums": lambda n: plots.ring_sums(ring_counts(min(n, 6))),
    "ring_sums, never whole": lambda n: plots.ring_sums(ring_counts(min(n, 6)).clamp(max=2)),
    "device_memory": lambda n: plots.device_memory(device_bytes(min(n, 8)), (24, 80)),
    "dispatch_cost": lambda n: dispatch(n),
    "token_times": lambda n: plots.token_times([2**at for at in range(min(n, 4))], timed(min(n, 4))),
    "way_times": lambda n: plots.way_times(
        [f"way {at} of {n}, 61 GB" for at in range(min(n, 7))],
        {f"{many:,} tokens": [(1e-3 * at, 1e-2 * many) for at in range(min(n, 7))] for many in (1, 4096)},
    ),
    "pipeline_times": lambda n: plots.pipeline_times(
        {f"{texts} texts": pipeline_starts(texts, min(n, 6), 10, 1) for texts in (1, min(n, 8))}, 10
    ),
    "dispatch_forms": lambda n: plots.dispatch_forms([at * at % 5 for at in range(min(n, 8))], 5),
    "dispatch_forms, two": lambda n: plots.dispatch_forms([at * at % 5 for at in range(min(n, 8))], 5, grouped=False),
    "step_bill": lambda n: plots.step_bill(
        {name: (at, 50 * n - 10 * at, 10 ** min(n, 6) // (1 + at), 4.7) for at, name in enumerate(STAGES)},
        ["questions", "changing calls", "launches", "MB"],
    ),
    "step_bill, some not counted": lambda n: plots.step_bill(
        {name: (at, 50 * n - 10 * at, 10 ** min(n, 6) // (1 + at), 4.7) for at, name in enumerate(STAGES)},
        ["questions", "changing calls", "launches", "MB"],
        {STAGES[-1]: ["launches", "MB"]},
    ),
    "step_bill, one": lambda n: plots.step_bill({"a stage": (n,)}, ["launches"]),
    "cache_slots": lambda n: plots.cache_slots(min(n, 8), min(n, 8) + 4),
    "one_loop": lambda n: plots.one_loop([(f"step {at}", [f"t{at}", "up"], f"t{at + 1}") for at in range(min(n, 2))]),
    "launch_sketch": lambda n: plots.launch_sketch(
        {
            "short kernels": plots.eager_rows([0.4] * min(n, 9)),
            "long kernels, and a wait": plots.eager_rows([1.8] * min(n, 9), [0, 2]),
            "short kernels, recorded": plots.recorded_rows([0.4] * min(n, 9)),
        }
    ),
    "launch_sketch, one": lambda n: plots.launch_sketch({"a case": plots.eager_rows([n])}),
    "stage_times": lambda n: plots.stage_times(
        {name: 0.003 - 0.0005 * at for at, name in enumerate(STAGES)} | {"captured": None},
        dict.fromkeys(STAGES, 0.002 / n),
        0.0002 / n,
    ),
    "stage_times, one beyond the bound": lambda n: plots.stage_times({"a stage": 0.01 / n}, {"a stage": 0.1}, 0.02),
    "longer_of_two": lambda n: plots.longer_of_two(
        [2**at for at in range(min(n + 1, 9))], [0.25] * min(n + 1, 9), [2**at / 64 for at in range(min(n + 1, 9))]
    ),
    "arithmetic_intensity": lambda n: plots.arithmetic_intensity(
        [4**at for at in range(7)],
        {name: [4.0**at / n for at in range(7)] for name in ("dense", "8 experts, top-2", "128 experts, top-8")},
        {"an H100 (data sheet)": 295.0, "this machine (measured)": 3.0},
    ),
}


def title(figure: Figure) -> str:
    """What stands above a figure, as one line."""
    return " ".join(figure.get_suptitle().split())
