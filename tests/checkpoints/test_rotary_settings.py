"""Every rotary setting that transformers reads turns as it does there."""

from dataclasses import replace

import pytest
import torch
from layout_files import TIED, ours, tensors_of, theirs, write
from reference import assert_near, random_tokens, small_config
from tiers import in_proof
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qwen3_scratch import load_checkpoint, read_config, save_checkpoint
from qwen3_scratch.config import LARGEST
from qwen3_scratch.model import rope_frequencies

pytestmark = pytest.mark.usefixtures("quiet_transformers")

LONG, SHORT = [2.0, 3.0, 4.0, 5.5, 6.0, 7.0, 8.0, 9.0], [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0]
ROPES = {
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
    "llama3, a narrow ramp": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1.5, "high_freq_factor": 2},
    "longrope": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT,
                 "original_max_position_embeddings": 8},
    "longrope, a factor": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "factor": 6.0,
                           "original_max_position_embeddings": 20},
    "longrope, a scale": {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "attention_factor": 1.3},
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.4},
    "proportional, a factor": {"rope_type": "proportional", "partial_rotary_factor": 0.75, "factor": 3.0},
    "part of a head, which default does not look at": {"rope_type": "default", "partial_rotary_factor": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("place", ["rope_scaling", in_proof("rope_parameters")])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_every_kind_of_rope_turns_as_in_transformers(tmp_path, rope, place):
    """Frequencies to 1e-6 of each, where two fp32 roundings may lie; logits of short texts and of longer ones."""
    spelt = {place: rope | ({"rope_theta": 1000.0} if place == "rope_parameters" else {}), "rope_theta": 1000.0}
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, **{"rope_scaling": ...} | spelt)
    config = read_config(tmp_path)
    for length in (5, 40):
        token_ids = random_tokens(config, 1, length, seed=length)
        assert_near(ours(tmp_path, token_ids), theirs(tmp_path, token_ids))
        if rope["rope_type"] != "default":
            expected = ROPE_INIT_FUNCTIONS[rope["rope_type"]](AutoConfig.from_pretrained(tmp_path), seq_len=length)
            frequencies, scale = rope_frequencies(config, torch.tensor(length))
            torch.testing.assert_close(frequencies, expected[0], rtol=1e-6, atol=0)
            assert scale == pytest.approx(expected[1], rel=1e-12)
    save_checkpoint(load_checkpoint(tmp_path), tmp_path / "again")
    assert read_config(tmp_path / "again") == replace(config, dtype="float32")
    assert_near(theirs(tmp_path / "again", token_ids), theirs(tmp_path, token_ids))


def test_a_trained_length_beside_the_rotary_settings_counts_for_more_than_one_in_them(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
    write(tmp_path, tensors_of(tmp_path, TIED), TIED, rope_scaling=yarn, original_max_position_embeddings=8)
    token_ids = random_tokens(TIED, 1, 40)
    assert read_config(tmp_path).rope_parameters["original_max_position_embeddings"] == 8
    assert_near(ours(tmp_path, token_ids), theirs(tmp_path, token_ids))


def test_a_rope_that_stretches_lets_texts_be_as_long_as_it_reaches():
    def longest(**rope):
        return small_config(rope_parameters=rope).longest

    assert (longest(), longest(rope_type="linear", factor=4.0), longest(rope_type="dynamic", factor=2.0)) == (
        32,
        128,
        LARGEST,
    )
    assert longest(rope_type="yarn", factor=4.0) == 128
    assert longest(rope_type="yarn", factor=4.0, original_max_position_embeddings=16) == 64
    assert longest(rope_type="yarn", factor=1.5, original_max_position_embeddings=8) == 32
    assert longest(**ROPES["llama3"]) == 128 and longest(**ROPES["longrope"]) == 32
    assert longest(rope_type="linear", factor=1e15) == LARGEST
