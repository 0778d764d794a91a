"""Qwen3 mixture-of-experts language models as pure functions, as the notebooks beside this package develop them."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import Config, read_config
from .errors import Error
from .generate import Generation, generate, stream
from .model import attention_weights, expert_ffn, forward, gqa_attention, moe_route, rms_norm, rope, rope_table
from .tokenizer import Tokenizer, read_tokenizer
from .trace import trace
from .training import load_balancing_loss
from .tree import Weights
from .weights import init_weights, load_weights

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
