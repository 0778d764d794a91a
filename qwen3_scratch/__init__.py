"""Qwen3 mixture-of-experts language models as pure functions, as the notebooks beside this package develop them."""

from .checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .checkpoints.config_json import read_config
from .checkpoints.weights import init_weights, load_weights
from .config import Config
from .errors import Error
from .generation import Generation, generate, stream
from .learning.training import load_balancing_loss
from .model import Weights, attention_weights, expert_ffn, forward, gqa_attention, moe_route, rms_norm, rope, rope_table
from .tokenizer import Tokenizer, read_tokenizer
from .tracing import trace

__all__ = [
    "Checkpoint",
    "Config",
    "Error",
    "Generation",
    "Tokenizer",
    "Weights",
    "attention_weights",
    "expert_ffn",
    "forward",
    "generate",
    "gqa_attention",
    "init_weights",
    "load_balancing_loss",
    "load_checkpoint",
    "load_weights",
    "moe_route",
    "read_config",
    "read_tokenizer",
    "rms_norm",
    "rope",
    "rope_table",
    "save_checkpoint",
    "stream",
    "trace",
]
