"""A config.json of each family, as fields and as a file."""

import json

from qwen3_scratch import read_config

TINY = {
    "model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "max_position_embeddings": 128, "rope_theta": 1000000.0, "rope_scaling": None, "rms_norm_eps": 1e-06,
    "hidden_act": "silu", "initializer_range": 0.03, "router_aux_loss_coef": 0.01, "tie_word_embeddings": True,
    "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2,
    "bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": None, "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERT_FIELDS = {
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "router_aux_loss_coef",
}  # fmt: skip
DENSE = {name: value for name, value in TINY.items() if name not in EXPERT_FIELDS} | {"model_type": "qwen3"}


def read(folder, raw):
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return read_config(folder)
