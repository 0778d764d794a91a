"""A second implementation, mlx-lm's, reads the same files and says the same: logits, and greedy tokens by its cache.

It shares no code with the reference, nor its framework: a mistake that both this project and transformers make would
have to be made a third time. fp32 on a CPU; within 1e-4 of the largest logit, since other kernels add in other orders
and compute exp, sin and rsqrt in other ways.
"""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY
from reference import (
    assert_near,
    dense_config,
    distance,
    greedy,
    random_tokens,
    random_weights,
    reference_logits,
    small_config,
)
from tiers import only
from torch import Tensor
from transformers import Qwen3MoeForCausalLM

from qwen3_scratch import Checkpoint, Config, forward, load_checkpoint, save_checkpoint

REASON = "mlx-lm has wheels for Linux and macOS alone: make test gets them there"
mx = pytest.importorskip("mlx.core", reason=REASON, exc_type=ImportError)
qwen3 = pytest.importorskip("mlx_lm.models.qwen3", reason=REASON)
qwen3_moe = pytest.importorskip("mlx_lm.models.qwen3_moe", reason=REASON)
cache = pytest.importorskip("mlx_lm.models.cache", reason=REASON)

NEAR = 1e-4
ROPES = (
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0},
    {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16},
)


def drawn_config(seed: int) -> Config:
    """What mlx-lm's two models can be: no biases, no windows, and a scaled rope in the dense one alone."""
    draw = random.Random(seed)
    sizes: dict[str, Any] = dict(
        hidden_size=draw.choice([32, 48]), head_dim=draw.choice([16, 32]), num_key_value_heads=draw.choice([1, 2, 4]),
        num_hidden_layers=draw.choice([1, 2, 3]), tie_word_embeddings=draw.random() < 0.5,
        rms_norm_eps=draw.choice([1e-6, 1e-3]), max_position_embeddings=128,
    )  # fmt: skip
    if seed % 3 == 0:
        return dense_config(**sizes, rope_parameters=ROPES[seed // 3 % 3])
    experts, top_k = draw.choice([(2, 1), (8, 2), (16, 4), (4, 4)])
    sizes |= dict(num_experts=experts, num_experts_per_tok=top_k, norm_topk_prob=seed % 2 == 0)
    return small_config(**sizes, mlp_only_layers=(0,) if draw.random() < 0.3 else ())


def second(folder: Path) -> Any:
    """mlx-lm's model with the weights of a folder, read by its own classes and nothing of this project."""
    config = json.loads((folder / "config.json").read_text())
    family = qwen3_moe if config["model_type"] == "qwen3_moe" else qwen3
    model = family.Model(family.ModelArgs.from_dict(config))
    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= mx.load(str(path))
    weights = {name: value.astype(mx.float32) for name, value in weights.items()}
    model.load_weights(list((model.sanitize(weights) if hasattr(model, "sanitize") else weights).items()), strict=True)
    return model


def second_logits(model: Any, token_ids: Tensor, held: Any = None) -> Tensor:
    return torch.tensor(model(mx.array(token_ids.tolist()), cache=held).tolist())


def second_greedy(model: Any, token_ids: Tensor, steps: int) -> Tensor:
    held, chosen = cache.make_prompt_cache(model), []
    for _ in range(steps):
        token_ids = second_logits(model, token_ids, held)[:, -1:].argmax(-1)
        chosen.append(token_ids)
    return torch.cat(chosen, 1)


def assert_alike(folder: Path, checkpoint: Checkpoint, token_ids: Tensor) -> None:
    model, config, weights = second(folder), checkpoint.config, checkpoint.weights
    assert_near(forward(weights, token_ids, config), second_logits(model, token_ids), NEAR)
    found = greedy(weights, config, token_ids, None, 32)
    assert found.tolist() == second_greedy(model, token_ids, 32).tolist()


@pytest.mark.parametrize("seed", only(range(12), 0, 1, 2))
def test_random_models_say_the_same_in_a_second_implementation(seed, tmp_path):
    config = drawn_config(seed)
    checkpoint = Checkpoint(config, random_weights(config, seed))
    save_checkpoint(checkpoint, tmp_path / "model")
    assert_alike(tmp_path / "model", checkpoint, random_tokens(config, 2, 20, seed=seed))


def test_the_embedded_checkpoint_says_the_same_in_a_second_implementation():
    tiny = load_checkpoint("tiny", dtype=torch.float32)
    assert tiny.tokenizer is not None
    chat = tiny.tokenizer.render_chat([{"role": "user", "content": "Where is the red ball?"}])
    assert_alike(TINY, tiny, torch.tensor([tiny.tokenizer.encode(chat)]))


def test_the_drawn_models_are_of_every_kind():
    configs = [drawn_config(seed) for seed in range(12)]
    for kinds in (
        {config.num_experts > 0 for config in configs}, {config.tie_word_embeddings for config in configs},
        {config.norm_topk_prob for config in configs if config.num_experts},
        {bool(config.mlp_only_layers) for config in configs},
    ):  # fmt: skip
        assert kinds == {True, False}
    assert {config.num_key_value_heads for config in configs} == {1, 2, 4}
    assert {config.rope_parameters["rope_type"] for config in configs} == {"default", "linear", "yarn"}


def test_the_second_implementation_passes_over_a_scaled_rope_in_the_sparse_family_and_the_reference_does_not(tmp_path):
    """Where the two differ the reference is right: config.json asks for the scaling, and the dense model gets it."""
    config = small_config(rope_parameters=ROPES[1])
    weights = random_weights(config)
    save_checkpoint(Checkpoint(config, weights), tmp_path / "model")
    token_ids = random_tokens(config, 1, 20)
    found = second_logits(second(tmp_path / "model"), token_ids)
    unscaled = replace(config, rope_parameters={"rope_type": "default", "rope_theta": 1000.0})
    assert_near(found, forward(weights, token_ids, unscaled), NEAR)
    reference = Qwen3MoeForCausalLM.from_pretrained(tmp_path / "model")
    assert_near(forward(weights, token_ids, config), reference_logits(reference, token_ids))
    assert distance(found, forward(weights, token_ids, config)) > 0.01
