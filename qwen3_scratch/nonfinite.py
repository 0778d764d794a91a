"""Where numbers stopped being finite: a text is read again under `trace`, and the first call to blame is named."""

from typing import Any

import torch
from torch import Tensor

from .cache import KVCache
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.saving import named_tensors
from .checkpoints.weights import all_finite
from .errors import Error
from .model import Weights, forward
from .tracing import Call, trace

CHUNK = 64  # tokens whose activations are held at a time, of all layers
ACTIVATIONS = ("x", "q", "k", "v")  # how the model's functions call what they are given besides weights


def explain(checkpoint: Checkpoint, token_ids: list[int], what: str) -> Error:
    """The Error for logits that are NaN or infinite after a text: where it began, and what to do about it."""
    began, dtype = origin(checkpoint, token_ids), str(checkpoint.dtype).removeprefix("torch.")
    named = named_tensors(checkpoint.weights, checkpoint.config)
    spoilt = next((name for name, tensor in named if not all_finite(tensor)), None)
    if spoilt is not None:
        began, advice = f"tensor {spoilt} of the weights", "load or train them again"
    elif checkpoint.dtype == torch.float16:
        advice = "float16 ends at 65504, so load in bfloat16 or float32"
    else:
        advice = "check that weights and config belong together"
    where = f"first in {began}" if began else "which does not show when the text is read again"
    return Error(f"{what}: NaN or infinity in the logits ({dtype}), {where}, expected finite numbers: {advice}")


@torch.inference_mode()
def origin(checkpoint: Checkpoint, token_ids: list[int]) -> str | None:
    """The first function from which a number came that is not finite, such as "layer 3's expert_ffn (expert 5)".

    All chunks are read to the end even so: where a model lies on many devices, each of them takes part in every pass.
    """
    weights, config, ops = checkpoint.weights, checkpoint.config, checkpoint.ops

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return ops.linear(x, weight, bias)

    def head(x: Tensor, weight: Tensor) -> Tensor:
        return ops.head(x, weight)

    kind = dict(chunk=CHUNK, dtype=checkpoint.dtype, device=checkpoint.device)
    cache, found = KVCache(config, 1, len(token_ids), **kind), None
    for ids in torch.tensor([token_ids], device=checkpoint.device).split(CHUNK, dim=1):
        with trace(linear, head) as recorded:  # products are no functions of ours, so they are made such
            forward(weights, ids, config, cache=cache, logits_to_keep=1, ops=ops._replace(linear=linear, head=head))
        blamed = next(filter(None, map(_first, recorded.roots)), None)
        found = found or (blamed and _name(blamed, weights))
    return found


def _first(call: Call) -> Call | None:
    """The innermost call in which it began: what a call is given spoilt was spoilt between two calls of its parent."""
    if not all(map(_finite, (call.inputs.get(name) for name in ACTIVATIONS))):
        return call.parent
    inside = next(filter(None, map(_first, call.children)), None)
    return inside or (None if _finite(call.output) else call)


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _name(call: Call, weights: Weights) -> str:
    """With the weight that was used, or the expert, where there are several calls of the function in a layer."""
    of, used = "" if call.layer is None else f"layer {call.layer}'s ", call.inputs
    tree = weights if call.layer is None else weights.layers[call.layer]
    names = (name for name in tree._fields if used.get("weight") is getattr(tree, name) is not None)
    detail = "".join(f" ({name})" for name in names)
    if call.name == "expert_ffn" and tree.router is not None and _within(used["down_proj"], tree.down_proj):
        offset = used["down_proj"].storage_offset() - tree.down_proj.storage_offset()
        detail = f" (expert {offset // tree.down_proj.stride(0)})"
    return f"{of}{call.name}{detail}"


def _within(part: Tensor, stacked: Tensor) -> bool:
    return part.untyped_storage().data_ptr() == stacked.untyped_storage().data_ptr()
