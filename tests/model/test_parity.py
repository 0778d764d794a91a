"""The same files give the same logits and the same text as transformers, whatever a checkpoint of the family may be.

The configurations are drawn so that every pair of choices that can stand together does so in at least one of them.
All texts are longer than the trained length of 32 tokens, where the kinds of rope part ways.
"""

import json
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from reference import (
    BODIES,
    BODY,
    FREE,
    SPARSE,
    TRAINED,
    Row,
    assert_near,
    fits,
    greedy,
    padded,
    pairwise,
    random_tokens,
    reference_config,
    reference_greedy,
    reference_logits,
    reference_model,
    save_reference,
)
from safetensors import safe_open
from tiers import in_proof
from torch import Tensor

from qwen3_scratch import Config, Weights, forward, load_weights, read_config
from qwen3_scratch.checkpoints.weights import tensor_tree

ROWS = pairwise()
NEW_TOKENS = 64


class Pair(NamedTuple):
    """One checkpoint folder, read by the reference's makers and by this project."""

    model: torch.nn.Module
    config: Config
    weights: Weights
    row: Row
    folder: Path


@pytest.fixture(scope="module", params=ROWS, ids=[f"{number:02d}" for number in range(len(ROWS))])
def pair(request, tmp_path_factory) -> Pair:
    row, folder = request.param, tmp_path_factory.mktemp("checkpoint")
    model = reference_model(reference_config(row), seed=200 + ROWS.index(row))
    save_reference(model, folder, row)
    config = read_config(folder)
    return Pair(model, config, load_weights(folder, config), row, folder)


def prompts(config: Config, *lengths: int) -> list[Tensor]:
    return [random_tokens(config, length, seed=length) for length in lengths]


def ours(pair: Pair, token_ids: Tensor, keep: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return forward(pair.weights, token_ids, pair.config, attention_mask=keep)


def test_the_configurations_hold_every_pair_of_choices_that_can_stand_together():
    assert len(ROWS) >= 30 and all(fits(row) for row in ROWS)
    choices = {**BODY, **FREE}
    for one, two in combinations(choices, 2):
        for values in product(choices[one], choices[two]):
            wanted = dict(zip((one, two), values, strict=True))
            possible = any(all(body.get(key, value) == value for key, value in wanted.items()) for body in BODIES)
            assert possible == any(wanted.items() <= row.items() for row in ROWS), wanted


def test_the_files_are_what_the_configuration_says(pair):
    """Else the tests below would prove less than they seem to."""
    row, files = pair.row, list(pair.folder.glob("*.safetensors"))
    assert len(files) == 1 if row["files"] == "one" else len(files) > 1
    held = {key for path in files for key in safe_open(path, "pt").keys()}  # noqa: SIM118 (a handle is no mapping)
    assert ("lm_head.weight" in held) != row["tied"]
    assert any(key.endswith("o_proj.bias") for key in held) == row["attention_bias"]
    assert any("experts.1.up_proj" in key for key in held) == (row["kind"] in SPARSE)
    keys = json.loads((pair.folder / "config.json").read_text()).keys()
    older, newer = {"rope_theta", "rope_scaling", "torch_dtype"}, {"rope_parameters", "dtype"}
    assert (older if row["spelling"] == "transformers 4" else newer) == keys & (older | newer)
    reread = type(pair.model.config).from_pretrained(pair.folder)
    assert reread.rope_parameters.items() >= pair.model.config.rope_parameters.items()
    assert reread.sliding_window == pair.model.config.sliding_window


def test_every_parameter_is_loaded_and_is_random(pair):
    count = sum(parameter.numel() for parameter in pair.model.parameters())
    assert pair.config.num_parameters() == count == sum(map(torch.numel, tensor_tree(pair.weights)))
    for tensor in tensor_tree(pair.weights):
        assert ((tensor == 0) | (tensor == 1)).sum() <= 1  # among so many random numbers one may be zero


def test_logits_equal_the_reference(pair):
    token_ids = random_tokens(pair.config, 1, TRAINED + 12)
    assert_near(ours(pair, token_ids), reference_logits(pair.model, token_ids))


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_padded_batch_equal_the_reference(pair, side):
    token_ids, keep = padded(prompts(pair.config, TRAINED + 8, 23, 5), side)
    assert_near(ours(pair, token_ids, keep)[keep], reference_logits(pair.model, token_ids, keep)[keep])


@pytest.mark.parametrize("count", [12, in_proof(NEW_TOKENS)])
def test_greedy_tokens_equal_those_of_the_reference(pair, count):
    """Dynamic rope too: both leave a key at the angle of the time when it was written, so cached text is its own."""
    token_ids, keep = padded(prompts(pair.config, 17, 6), "left")
    expected = reference_greedy(pair.model, token_ids, keep, count)
    # A text that repeats itself would prove little; in few tokens some have no time for anything else.
    assert count < NEW_TOKENS or min(len(row.unique()) for row in expected) > 2
    assert greedy(pair.weights, pair.config, token_ids, keep, count).tolist() == expected.tolist()
