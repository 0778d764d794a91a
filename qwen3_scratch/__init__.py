"""Qwen3 mixture-of-experts language models as pure functions, as the notebooks beside this package develop them.

The small module  embed, rms_norm, rope_table, rope, attention_mask, attention_weights, gqa_attention, moe_route,
                  expert_ffn, moe, decoder_layer, forward
What it works on  Config, Weights, KVCache, Route, Ops
Files             load_checkpoint, save_checkpoint, Checkpoint, read_config, load_weights, init_weights
Text              read_tokenizer, Tokenizer, generate, stream, Generation, Conversation, Sampling
To look into      trace, load_balancing_loss, Error

`forward(weights, token_ids, config)` gives logits; `generate(load_checkpoint(), "...")` an answer. More lies in the
rooms: `fast` (compiled decoding, 8 bits), `devices`, `inside`, `learning`, `tiny`, `plots`, `exercises`,
`explorer` (a page that runs a checkpoint in a browser).
"""

from . import model
from .cache import KVCache
from .checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .checkpoints.config_json import read_config
from .checkpoints.weights import init_weights, load_weights
from .config import Config
from .errors import Error
from .generation import Conversation, Generation, generate, stream
from .learning.training import load_balancing_loss
from .model import Ops, Route, Weights
from .sampling import Sampling
from .tokenizer import Tokenizer, read_tokenizer
from .tracing import trace
from .trust.arguments import check_forward, checked

# The steps as they are called by hand: each first holds its arguments against its signature, which those that `model`
# itself calls need not.
attention_mask = checked(model.attention_mask)
attention_weights = checked(model.attention_weights)
decoder_layer = checked(model.decoder_layer)
embed = checked(model.embed)
expert_ffn = checked(model.expert_ffn)
forward = checked(model.forward, check_forward)
gqa_attention = checked(model.gqa_attention)
moe = checked(model.moe)
moe_route = checked(model.moe_route)
rms_norm = checked(model.rms_norm)
rope = checked(model.rope)
rope_table = checked(model.rope_table)

__all__ = [
    "Checkpoint", "Config", "Conversation", "Error", "Generation", "KVCache", "Ops", "Route", "Sampling", "Tokenizer",
    "Weights",
    "attention_mask", "attention_weights", "decoder_layer", "embed", "expert_ffn", "forward", "generate",
    "gqa_attention", "init_weights", "load_balancing_loss", "load_checkpoint", "load_weights", "moe", "moe_route",
    "read_config", "read_tokenizer", "rms_norm", "rope", "rope_table", "save_checkpoint", "stream", "trace",
]  # fmt: skip
