"""What a mistake costs is counted on the right model in the same setting, and by answers as they are written."""

from dataclasses import replace

import pytest
import torch
from helpers import unchecked
from reference import random_tokens, random_weights, small_config

from qwen3_scratch import forward, generate, load_checkpoint
from qwen3_scratch.inside.checks import answered, on_random_weights, read_both
from qwen3_scratch.inside.compare import read
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.tiny.corpus import is_correct
from qwen3_scratch.tiny.evaluate import questions

NAMES = list(MISTAKES)


@pytest.mark.parametrize("name", ["layer_norm", "window_off_by_one", "positions_from_zero"])
def test_both_models_read_a_text_in_the_setting_in_which_the_mistake_shows(name):
    mistake, config = MISTAKES[name], small_config()
    weights, ids = random_weights(config), random_tokens(config, 1, 24)
    changed = replace(config, **mistake.shows_in.config)
    with unchecked(), torch.no_grad():
        found = read_both(mistake, weights, ids, config)
        expected = [read(each, weights, ids, changed, mistake.shows_in.way)[0] for each in (forward, mistake.forward)]
    assert all(torch.equal(one.logits, other) for one, other in zip(found, expected, strict=True))
    assert not torch.equal(found[0].logits, found[1].logits)


def test_where_a_text_is_read_in_several_passes_the_question_is_the_first():
    config = small_config()
    weights, ids = random_weights(config), random_tokens(config, 1, 24)
    with unchecked(), torch.no_grad():
        right, wrong = read_both(MISTAKES["positions_from_zero"], weights, ids, config, asked=20)
    assert torch.equal(right.logits[:20], wrong.logits[:20])
    assert len(right.trace.roots) == len(wrong.trace.roots) == 5


def test_the_right_models_answers_are_those_that_it_generates():
    tiny, asked = load_checkpoint("tiny"), questions("arithmetic", 6)
    with unchecked():
        right, wrong = answered(tiny, asked)
        said = generate(tiny, [each.messages for each in asked], temperature=0, max_new_tokens=34)
    assert right.shape == wrong.shape == (len(MISTAKES), 6)
    as_it_is = [number for number, each in enumerate(MISTAKES.values()) if not each.shows_in.config]
    generated = [is_correct(example, answer.text) for example, answer in zip(asked, said, strict=True)]
    assert all(right[number].tolist() == generated for number in as_it_is)
    assert not wrong[NAMES.index("repeated_heads")].any()


def test_on_random_weights_every_mistake_moves_a_logit_and_not_every_one_the_likeliest_token():
    with unchecked(), torch.no_grad():
        share, far = on_random_weights(small_config(), seeds=2)
    assert share.shape == far.shape == (len(MISTAKES), 2)
    assert far.min() > 1e-4
    assert share[NAMES.index("frequencies_in_bf16")].min() > 0.9 > share[NAMES.index("repeated_heads")].max()
