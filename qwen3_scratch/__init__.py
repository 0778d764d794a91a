"""Qwen3 mixture-of-experts language models as pure functions, as the notebooks beside this package develop them.

The small module  embed, rms_norm, rope_table, rope, attention_mask, attention_weights, gqa_attention, moe_route,
                  expert_ffn, moe, decoder_layer, forward
What it works on  Config, Weights, KVCache, Route, Ops
Files             load_checkpoint, save_checkpoint, Checkpoint, read_config, load_weights, init_weights
Text              read_tokenizer, Tokenizer, generate, stream, Generation, Sampling
To look into      trace, load_balancing_loss, Error

`forward(weights, token_ids, config)` gives logits; `generate(load_checkpoint(), "...")` an answer. More lies in the
rooms: `fast` (compiled decoding, 8 bits), `devices`, `inside`, `learning`, `tiny`, `plots`, `exercises`.
"""

from .cache import KVCache
from .checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .checkpoints.config_json import read_config
from .checkpoints.weights import init_weights, load_weights
from .config import Config
from .errors import Error
from .generation import Generation, generate, stream
from .learning.training import load_balancing_loss
from .model import (  # fmt: skip
    Ops,
    Route,
    Weights,
    attention_mask,
    attention_weights,
    decoder_layer,
    embed,
    expert_ffn,
    forward,
    gqa_attention,
    moe,
    moe_route,
    rms_norm,
    rope,
    rope_table,
)
from .sampling import Sampling
from .tokenizer import Tokenizer, read_tokenizer
from .tracing import trace

__all__ = [
    "Checkpoint", "Config", "Error", "Generation", "KVCache", "Ops", "Route", "Sampling", "Tokenizer", "Weights",
    "attention_mask", "attention_weights", "decoder_layer", "embed", "expert_ffn", "forward", "generate",
    "gqa_attention", "init_weights", "load_balancing_loss", "load_checkpoint", "load_weights", "moe", "moe_route",
    "read_config", "read_tokenizer", "rms_norm", "rope", "rope_table", "save_checkpoint", "stream", "trace",
]  # fmt: skip
