"""Folders that hold one model in one of many ways, and the logits that come of them, theirs and ours."""

from pathlib import Path

import pytest
import torch
from reference import assert_near, random_tokens, random_weights, small_config
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qwen3_scratch import Checkpoint, Config, Error, forward, load_checkpoint, save_checkpoint
from qwen3_scratch.checkpoints.saving import save_weights, write_json
from qwen3_scratch.trust.shards import INDEX, SINGLE

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
TIED = small_config(tie_word_embeddings=True, num_hidden_layers=2, num_experts=4)


def tensors_of(folder: Path, config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    save_weights(folder, random_weights(config, seed), config)
    found = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    return found


def write(folder: Path, tensors: dict[str, torch.Tensor], config: Config, shards: int = 1, **changes) -> Path:
    """A folder of these tensors; a change of the config that is ... leaves the field out."""
    folder.mkdir(exist_ok=True, parents=True)
    fields = config.to_dict() | changes
    write_json(folder / "config.json", {name: value for name, value in fields.items() if value is not ...})
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)] if shards > 1 else [SINGLE]
    parts = [dict(list(tensors.items())[n::shards]) for n in range(shards)]
    for name, part in zip(names, parts, strict=True):
        save_file({key: tensor.contiguous().clone() for key, tensor in part.items()}, folder / name, {"format": "pt"})
    if shards > 1:
        table = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        write_json(folder / INDEX, {"metadata": {}, "weight_map": table})
    return folder


def theirs(folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    """The logits of transformers, which must have found everything it needed."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    with torch.no_grad():
        return model.eval()(token_ids).logits


def ours(folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    found = load_checkpoint(folder)
    return forward(found.weights, token_ids, found.config)


def check_same(folder: Path, config: Config) -> Checkpoint:
    """As transformers computes it, here, and after it was saved and loaded again by either."""
    token_ids = random_tokens(config, 2, 9)
    expected, found = theirs(folder, token_ids), load_checkpoint(folder)
    tolerance = 1e-5 if found.dtype == torch.float32 else 0.0  # of half precision the same bits, in the same order
    assert found.dtype == expected.dtype
    assert_near(forward(found.weights, token_ids, found.config), expected, tolerance)
    save_checkpoint(found, folder / "again")
    assert_near(ours(folder / "again", token_ids), expected, tolerance)
    assert_near(theirs(folder / "again", token_ids), expected, tolerance)
    return found


def refused(act, *parts):
    with pytest.raises(Error) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 800
    for part in parts:
        assert part in message, message
    return message
