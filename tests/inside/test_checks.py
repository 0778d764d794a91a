"""What a mistake costs is counted on the right model in the same setting, and by answers as they are written."""

from dataclasses import replace

import pytest
import torch
from helpers import unchecked
from reference import random_tokens, random_weights, small_config

from qwen3_scratch import forward, generate, load_checkpoint
from qwen3_scratch.inside.checks import answered, on_random_weights, read_both, unseen
from qwen3_scratch.inside.compare import BATCHED, CACHED, read
from qwen3_scratch.inside.mistakes import DYNAMIC, MISTAKES, SLIDING, Setting
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


@pytest.mark.proof
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


def test_settings_leave_unseen_what_hides_in_each_of_them():
    config = small_config()
    with unchecked(), torch.no_grad():
        at_once, cached = (unseen([Setting(way=way)], config) for way in (Setting().way, CACHED))
        both = unseen([Setting(), Setting(way=CACHED)], config)
    assert {"positions_from_zero", "window_off_by_one", "pads_attended", "renormalised_unasked"} <= set(at_once)
    assert "positions_from_zero" not in cached
    assert both == [name for name in at_once if name in cached]
    assert unseen([], config) == NAMES


@pytest.mark.parametrize("norm", [True, False])
def test_one_setting_hides_what_another_norm_topk_prob_shows_and_nothing_else_if_all_else_is_in_it(norm):
    setting = Setting(SLIDING | DYNAMIC | {"norm_topk_prob": norm}, BATCHED)
    hides = [name for name in NAMES if MISTAKES[name].shows_in.config == {"norm_topk_prob": not norm}]
    with unchecked(), torch.no_grad():
        left = unseen([setting], load_checkpoint("tiny").config)
    assert left == [name for name in hides if name != "argmax_expert"] and left
