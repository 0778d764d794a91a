"""Files of weights, whole and in shards, and what it means that they are read or refused."""

import json

import pytest
import torch
from reference import small_config
from safetensors.torch import save_file
from torch.utils._pytree import tree_flatten

from qwen3_scratch import Error, load_weights
from qwen3_scratch.trust.shards import INDEX, SINGLE

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
CONFIG = small_config()


def write(folder, tensors, name=SINGLE):
    """A file beside the others; a tensor that is None is left out."""
    present = {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}
    save_file(present, folder / name, metadata={"format": "pt"})
    return folder


def write_index(folder, **files):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")


def write_shards(folder, *shards):
    """Files and the index that names them."""
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, tensors in zip(names, shards, strict=True):
        write(folder, tensors, name)
    write_index(folder, **{key: name for name, tensors in zip(names, shards, strict=True) for key in tensors})
    return names


def bits(weights):
    """All that weights are: the tree, the types, the bits; None where a tensor is not."""
    leaves, shape = tree_flatten(weights)
    return shape, [
        None if leaf is None else (leaf.dtype, leaf.shape, leaf.view(torch.uint8).numpy().tobytes()) for leaf in leaves
    ]


def same(left, right):
    return bits(left) == bits(right)


def refused(folder, *parts, config=CONFIG, dtype=None):
    """Loading fails in one line that starts in the folder, holds every part, and says what to do."""
    with pytest.raises(Error) as caught:
        load_weights(folder, config, dtype=dtype)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message and ("expected" in message or "fetch" in message)
    for part in parts:
        assert part in message
