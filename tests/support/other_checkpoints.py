"""Checkpoints on which the notebooks must run as well, made of random numbers: they know nothing, and differ in form.

`python tests/support/other_checkpoints.py FOLDER` writes them there, to try a notebook on one by hand:
`QWEN3_SCRATCH_MODEL=FOLDER/dense jupyter nbconvert --to notebook --execute --stdout NOTEBOOK`.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import TINY
from qwen3_files import qwen_tokenizer_json
from reference import random_like
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Config, init_weights
from qwen3_scratch.checkpoints.saving import save_weights

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json")


def huihui() -> Config:
    """huihui-ai/Huihui-MoE-0.8B-2E with 1 of its 28 layers; the rest of its sizes, and Qwen3's own tokenizer."""
    return Config(
        model_type="qwen3_moe", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=1,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=3072, norm_topk_prob=False, max_position_embeddings=40960, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, eos_token_id=151645, bos_token_id=151643,
        dtype="bfloat16",
    )  # fmt: skip


def dense() -> Config:
    """A dense Qwen3 model, of the family that has no router; biases, and heads as wide as hidden / heads."""
    return Config(
        model_type="qwen3", vocab_size=2112, hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, attention_bias=True,
        tie_word_embeddings=True, eos_token_id=2024, bos_token_id=2022,
    )  # fmt: skip


def sixteen() -> Config:
    """16 experts top-4 with an untied head, a sliding window and yarn; one layer of five is dense. In shards."""
    return Config(
        model_type="qwen3_moe", vocab_size=2112, hidden_size=64, intermediate_size=96, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=1, head_dim=32, num_experts=16, num_experts_per_tok=4,
        moe_intermediate_size=48, norm_topk_prob=True, mlp_only_layers=(1,), max_position_embeddings=2048,
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                         "original_max_position_embeddings": 512},
        use_sliding_window=True, sliding_window=24, tie_word_embeddings=False, eos_token_id=2024, bos_token_id=2022,
    )  # fmt: skip


MADE: dict[str, Callable[[], Config]] = {"huihui": huihui, "dense": dense, "sixteen": sixteen}


def write(name: str, folder: Path) -> Path:
    """Writes one of them into `folder`, norms and biases random too, and returns the folder."""
    folder.mkdir(parents=True)
    config, generator = MADE[name](), torch.Generator().manual_seed(0)
    weights = init_weights(config)
    weights = tree_map_only(Tensor, lambda tensor: random_like(tensor, generator, 0.05).to(tensor.dtype), weights)
    size = sum(tensor.nbytes for tensor in torch.utils._pytree.tree_leaves(weights) if tensor is not None)
    save_weights(folder, weights, config, max_shard_size=size // 3 if name == "sixteen" else 2 * size)
    for file in TEXT_FILES:
        shutil.copy(TINY / file, folder)
    if name == "huihui":
        (folder / "tokenizer.json").write_text(qwen_tokenizer_json(), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return folder


if __name__ == "__main__":
    for name in MADE:
        print(write(name, Path(sys.argv[1]) / name))
