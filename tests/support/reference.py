"""What the tests share: small random models, the reference implementation, and how near is near enough."""

import json
import random
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Config, Weights, forward, init_weights
from qwen3_scratch.cache import KVCache

TOLERANCE = 1e-5
"""Of the largest expected number. fp32 carries 6e-8 of each number; the two sides add the same few hundred products
in different orders through at most four layers, which was measured to move a logit by up to 3e-6 of the largest."""

TRAINED = 32  # tokens: the max_position_embeddings of every configuration here, and less than the tests run to


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected number. NaN counts as infinitely far."""
    assert found.shape == expected.shape
    far = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    return float(far.nan_to_num(float("inf")))


def assert_near(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    far = distance(found, expected)
    assert far <= tolerance, f"{far:.2e} of scale apart, expected at most {tolerance:.0e}"


# ---- small models without the reference ------------------------------------------------------


def small_config(**changes: Any) -> Config:
    """A model of a few thousand numbers: 3 layers, 4 heads of 16 on 2 key/value heads, 8 experts top-2."""
    sizes = dict(
        model_type="qwen3_moe", vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=24, norm_topk_prob=True, max_position_embeddings=TRAINED,
    )  # fmt: skip
    return Config(**{**sizes, **changes})


def dense_config(**changes: Any) -> Config:
    experts = dict(num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    return small_config(model_type="qwen3", **{**experts, **changes})


def random_weights(config: Config, seed: int = 0) -> Weights:
    """Weights of which none is zero or one, large enough that attention is not even and logits are not flat."""
    generator = torch.Generator().manual_seed(seed)
    return tree_map_only(
        Tensor, lambda tensor: random_like(tensor, generator), init_weights(config, dtype=torch.float32)
    )


def random_like(tensor: Tensor, generator: torch.Generator, scale: float = 0.3) -> Tensor:
    drawn = scale * torch.randn(tensor.shape, generator=generator)
    return drawn if tensor.ndim > 1 else drawn + 1.2  # norms about one; a bias may be there as well


def random_tokens(config: Config, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def greedy(weights: Weights, config: Config, token_ids: Tensor, keep: Tensor | None, steps: int) -> Tensor:
    """The likeliest next token, `steps` times, one forward pass each on the new token alone: [batch, steps]."""
    cache, chosen = KVCache(config, len(token_ids), token_ids.shape[1] + steps), []
    with torch.no_grad():
        for _ in range(steps):
            logits = forward(weights, token_ids, config, attention_mask=keep, cache=cache, logits_to_keep=1)
            token_ids, keep = logits.argmax(-1), None
            chosen.append(token_ids)
    return torch.cat(chosen, dim=-1)


def padded(rows: list[Tensor], side: str, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as one batch, and which of its tokens are real."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad, padding_side=side)
    ones = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return ids, torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)


# ---- what a checkpoint may be: few configurations that hold every pair of choices ---------------

SPARSE = ("2 experts top-1", "8 experts top-2", "16 experts top-4")
BODY = {  # these choices depend on each other: `fits`
    "kind": (*SPARSE, "no experts in the moe family", "dense family"),
    "norm_topk_prob": (True, False, None),
    "layers": ("all sparse", "every second sparse", "all but one sparse", "every second but one sparse", None),
    "window": ("none", "all layers", "from one layer on", "layers by name"),
}
FREE = {
    "head_dim": ("hidden / heads", "another"),
    "kv_heads": (1, 2, 4),
    "attention_bias": (True, False),
    "tied": (True, False),
    "rope": ("default", "linear", "dynamic", "yarn", "yarn mscale", "yarn attention_factor", "yarn ramp"),
    "spelling": ("transformers 4", "transformers 5"),
    "files": ("one", "shards"),
}
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn mscale": {"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5,
                    "original_max_position_embeddings": 24},
    "yarn attention_factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.4},
    "yarn ramp": {"rope_type": "yarn", "factor": 4, "beta_fast": 2, "beta_slow": 0.5, "truncate": False,
                  "original_max_position_embeddings": 24},
}  # fmt: skip
Row = dict[str, Any]


def fits(row: Row) -> bool:
    """Whether the choices that depend on each other go together: a model without experts routes nothing."""
    routes = row["kind"] in SPARSE
    windows = (
        {"none", "from one layer on", "layers by name"} if row["kind"] == "dense family" else {"none", "all layers"}
    )
    return (row["norm_topk_prob"] is not None) == (row["layers"] is not None) == routes and row["window"] in windows


BODIES = [body for values in product(*BODY.values()) if fits(body := dict(zip(BODY, values, strict=True)))]


def pairs(row: Row) -> set[tuple]:
    return set(combinations(row.items(), 2))


def pairwise(seed: int = 0) -> list[Row]:
    """Rows that hold every pair of choices that can stand together: always the best of some that hold a missing one."""
    free = [(name, value) for name, values in FREE.items() for value in values]
    missing = {pair for body in BODIES for pair in pairs(body) | set(product(body.items(), free))}
    missing |= {(one, two) for one, two in combinations(free, 2) if one[0] != two[0]}
    draw, rows = random.Random(seed), []
    while missing:
        wanted = dict(min(missing, key=repr))
        bodies = [body for body in BODIES if all(body[name] == wanted[name] for name in wanted if name in body)]
        candidates = [
            {**draw.choice(bodies), **{name: wanted.get(name, draw.choice(values)) for name, values in FREE.items()}}
            for _ in range(40)
        ]
        rows.append(max(candidates, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(rows[-1])
    return rows


# ---- the reference ---------------------------------------------------------------------------


def reference_config(row: Row):
    """The reference's own config object of one row."""
    from transformers import Qwen3Config, Qwen3MoeConfig

    layers = {"every second sparse": 3, "every second but one sparse": 4}.get(row["layers"], 2)
    found: dict[str, Any] = dict(
        vocab_size=101, hidden_size=48, intermediate_size=40, num_attention_heads=4, max_position_embeddings=TRAINED,
        num_key_value_heads=row["kv_heads"], num_hidden_layers=layers, attention_bias=row["attention_bias"],
        tie_word_embeddings=row["tied"], rope_parameters={"rope_theta": 1000, **ROPES[row["rope"]]},
        use_sliding_window=row["window"] != "none", sliding_window=7,
    )  # fmt: skip
    if row["head_dim"] == "another":
        found |= dict(head_dim=16)
    if row["kind"] == "dense family":
        found |= dict(num_hidden_layers=3, max_window_layers=1, head_dim=found.get("head_dim", 12))
        if row["window"] == "layers by name":
            found |= dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"])
        return Qwen3Config(**found)
    experts, top_k = (int(row["kind"].split()[0]), int(row["kind"][-1])) if row["kind"] in SPARSE else (0, 2)
    found |= dict(num_experts=experts, num_experts_per_tok=top_k, moe_intermediate_size=20)
    found |= dict(norm_topk_prob=bool(row["norm_topk_prob"]))
    found |= dict(decoder_sparse_step=2 if str(row["layers"]).startswith("every second") else 1)
    found |= dict(mlp_only_layers=[1] if "but one" in str(row["layers"]) else [])
    return Qwen3MoeConfig(**found)


def reference_model(config, seed: int = 0):
    """The reference implementation with random numbers in every one of its parameters."""
    from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM

    model = (Qwen3MoeForCausalLM if config.model_type == "qwen3_moe" else Qwen3ForCausalLM)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(random_like(parameter, generator))
    return model


def save_reference(model, folder: Path, row: Row) -> None:
    """The reference writes its own files; the older spelling of config.json is put over its newer one."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size="30KB" if row["files"] == "shards" else "1GB")
    path = folder / "config.json"
    if row["spelling"] == "transformers 4":
        path.write_text(json.dumps(older_spelling(json.loads(path.read_text()), row)))


def older_spelling(config: dict, row: Row) -> dict:
    """config.json as transformers 4 wrote it."""
    older, rope = dict(config), dict(config["rope_parameters"])
    del older["rope_parameters"], older["transformers_version"]
    kind, older["rope_theta"] = rope.pop("rope_type"), rope.pop("rope_theta")
    if rope.get("original_max_position_embeddings") == older["max_position_embeddings"]:
        del rope["original_max_position_embeddings"]  # the older one left it out where it was the default
    older["rope_scaling"] = None if kind == "default" else {"rope_type" if kind == "yarn" else "type": kind, **rope}
    older["torch_dtype"] = older.pop("dtype")
    if "num_local_experts" in older:
        older["num_experts"] = older.pop("num_local_experts")
    if row["window"] != "layers by name":
        older.pop("layer_types", None)
    return older


def forget(model) -> None:
    """Dynamic rope remembers the longest text that it saw: back to what a fresh reference would compute."""
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def reference_logits(model, token_ids: Tensor, keep: Tensor | None = None) -> Tensor:
    forget(model)
    positions = None if keep is None else (keep.long().cumsum(-1) - 1).clamp(min=0)
    keep = None if keep is None else keep.long()
    with torch.no_grad():
        return model(token_ids, attention_mask=keep, position_ids=positions, use_cache=False).logits


def reference_greedy(model, token_ids: Tensor, keep: Tensor, steps: int) -> Tensor:
    """The reference's own `generate`, with nothing that would stop it early: [batch, steps]."""
    forget(model)
    found = model.generate(
        token_ids, attention_mask=keep.long(), do_sample=False, max_new_tokens=steps, eos_token_id=None, pad_token_id=0
    )
    return found[:, token_ids.shape[1] :]
