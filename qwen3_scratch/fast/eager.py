"""Reading prompts and writing tokens without compiling: what `generate` does unless a checkpoint says otherwise.

Some steps take another form here than in `model.py`, and compute the same: for prompts PyTorch's own choices on a CPU
are not the fastest; for one token at a time, the fewer calls the better.
"""

from functools import partial
from inspect import unwrap
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..cache import KVCache
from ..checkpoints.checkpoint import Advance, Checkpoint, Pick
from ..config import Config
from ..model import Ops, Route, expert_ffn, forward, gqa_attention, heads_per_kv_head, moe, rms_norm
from .dispatch import Down, GateUp, Step, Tokens

Queries = Float[Tensor, "batch heads seq head_dim"]
Keys = Float[Tensor, "batch kv_heads seq head_dim"]  # and values

BLOCK = 256  # queries that are weighed at a time
PREFILL_CHUNK = 2048  # tokens that one pass of the prompt brings at most, which bounds its memory
LONG = 256  # tokens from which on it pays to read a piece without a mask


# F.linear in fp32 on a CPU by oneDNN, since MKL, which PyTorch asks, leaves AMD's wide registers unused. Measured: 1.4
# times as fast with one row and with 512, at least 2.5 times with 4 to 17.
ONEDNN_LINEAR = partial(torch.ops.mkldnn._linear_pointwise, attr="none", scalars=[], algorithm="")


def library_norm(
    x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "dim"], eps: float
) -> Float[Tensor, "*batch dim"]:
    """`rms_norm` in two calls. The weight stays outside, since PyTorch's would multiply it on before the rounding."""
    return weight * F.rms_norm(x, x.shape[-1:], None, eps)


def ffn_by(x: Tokens, gate_proj: Any, up_proj: Any, down_proj: Any, *, linear: Step) -> Tokens:
    """`expert_ffn` by another product than F.linear, of matrices in whatever form that takes."""
    return linear(F.silu(linear(x, gate_proj, None)) * linear(x, up_proj, None), down_proj, None)


def moe_of_one(
    x: Tokens, route: Route, gate_up_proj: GateUp, down_proj: Down, expert: Step = expert_ffn, linear: Step = F.linear
) -> Tokens:
    """`moe` of a single token by `expert_ffn`: there is nothing to sort, and gate and up are one product."""
    out = torch.zeros_like(x)
    for number, weight in zip(route.experts[0].tolist(), route.weights[0], strict=True):
        gate, up = linear(x, gate_up_proj[number], None).chunk(2, dim=-1)
        out = out + linear(F.silu(gate) * up, down_proj[number], None) * weight
    return out


def causal_attention(q: Queries, k: Keys, v: Keys, mask: Tensor | None = None) -> Queries:
    """`gqa_attention` where keys and queries are the same tokens and none is padding, as at the start of a text.

    So the half that lies after each query is left out, instead of computed and masked.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return in_blocks(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1])


def in_blocks(q: Queries, k: Keys, v: Keys) -> Queries:
    """Causal attention as two products and a softmax for each block of queries and all keys up to its end.

    The heads of a group stand below each other as rows of one product. PyTorch's kernel takes 1.5 to 2.5 times as long
    in bf16. Memory grows with the block times the length.
    """
    batch, _, length, head_dim = q.shape
    rows = (q / head_dim**0.5).reshape(batch * k.shape[1], heads_per_kv_head(q, k), length, head_dim)
    keys, values, answers = k.flatten(0, 1), v.flatten(0, 1), []
    for start in range(0, length, BLOCK):
        block = rows[:, :, start : start + BLOCK]
        end = start + block.shape[2]
        scores = block.flatten(1, 2) @ keys[:, :end].transpose(1, 2)
        later = torch.full((block.shape[2], end), -torch.inf, dtype=q.dtype).triu(start + 1)
        weights = (scores.unflatten(1, block.shape[1:3]) + later).softmax(dim=-1)
        answers.append((weights.flatten(1, 2) @ values[:, :end]).view(block.shape))
    return torch.cat(answers, dim=2).view(q.shape)


def reading_ops(checkpoint: Checkpoint) -> Ops:
    """The steps for many tokens at once; what a checkpoint brings of its own stays."""
    return _faster(checkpoint, norm=library_norm, expert=ffn_by)


def writing_ops(checkpoint: Checkpoint, tokens: int) -> Ops:
    """The steps for so many new tokens in all."""
    return reading_ops(checkpoint) if tokens > 1 else _faster(checkpoint, moe=moe_of_one)


def _faster(checkpoint: Checkpoint, norm: Step = rms_norm, **experts: Step) -> Ops:
    """Each of the model's own steps by the given one, and products by the faster library."""
    ops, on_cpu = checkpoint.ops, checkpoint.device.type == "cpu" and checkpoint.dtype == torch.float32
    linear = ONEDNN_LINEAR if on_cpu and torch.backends.mkldnn.is_available() else F.linear
    if unwrap(ops.norm) is unwrap(rms_norm):
        ops = ops._replace(norm=norm)
    if ops.linear is F.linear:
        ops = ops._replace(linear=linear)
    if (unwrap(ops.expert), unwrap(ops.moe)) == (unwrap(expert_ffn), unwrap(moe)):
        forms: Any = {name: partial(step, linear=linear) for name, step in experts.items()}
        ops = ops._replace(**forms)
    return ops


def all_is_seen(config: Config, length: int) -> bool:
    """Whether every layer sees all that came before, and there is enough of it to gain by saying so."""
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    return length >= LONG and all(window is None or window >= length for window in windows)


@torch.inference_mode()
def prefill(checkpoint: Checkpoint, prompts: list[list[int]], cache: KVCache) -> Float[Tensor, "batch vocab"]:
    """Reads the prompts, padded on the left to one length, in chunks; the logits of the token after each."""
    longest = max(map(len, prompts))
    token_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    keep = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for number, prompt in enumerate(prompts):
        token_ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        keep[number, longest - len(prompt) :] = True
    weights, config, ops = checkpoint.weights, checkpoint.config, reading_ops(checkpoint)
    token_ids, keep = token_ids.to(checkpoint.device), keep.to(checkpoint.device)
    padded = any(len(prompt) < longest for prompt in prompts)
    for ids, kept in zip(token_ids.split(PREFILL_CHUNK, dim=1), keep.split(PREFILL_CHUNK, dim=1), strict=True):
        causal = cache.length == 0 and not padded and all_is_seen(config, ids.shape[1])
        causal = causal and unwrap(ops.attention) is unwrap(gqa_attention)
        used = ops._replace(attention=causal_attention) if causal else ops
        logits = forward(weights, ids, config, attention_mask=kept, cache=cache, logits_to_keep=1, ops=used)
    return logits[:, -1]


def eager_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1) -> Advance:
    """From one new token a row to the next, through a cache that holds the prompts; each call writes into it.

    With more than one new token a row, what is picked from are the logits after each of them.
    """
    weights, config, device = checkpoint.weights, checkpoint.config, checkpoint.device
    ops = writing_ops(checkpoint, cache.batch * new)

    @torch.inference_mode()
    def advance(tokens: Int[Tensor, "batch *new"]) -> Tensor:
        logits = forward(weights, tokens.view(cache.batch, new).to(device), config, cache=cache, ops=ops)
        return pick(logits if new > 1 else logits[:, -1])

    return advance
