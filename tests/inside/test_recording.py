"""A recording does again what was done, in the same memory: it is right where nothing is asked and no shape changes."""

import pytest
import torch

from qwen3_scratch import generate, load_checkpoint
from qwen3_scratch.fast.dispatch import moe_gathered
from qwen3_scratch.inside.kernels import bill
from qwen3_scratch.inside.recording import StaticCache, Writer, agreed, growing_cache, record
from qwen3_scratch.model import moe

STORY = "Nora is in the garden. She has a pink cup. Leo, who has a white coat, is at the school. Who has the coat?"


@pytest.fixture(scope="module")
def told():
    checkpoint = load_checkpoint("tiny", dtype=torch.float32)
    return checkpoint, generate(checkpoint, STORY, temperature=0, max_new_tokens=36)


def test_a_replay_reads_what_stands_there_now_and_keeps_what_was_asked():
    x, out = torch.tensor([3.0]), torch.zeros(1)
    found = []
    for work in (lambda: out.copy_((x + 1) * 2), lambda: out.copy_((x + 1) * (x + 1).item())):
        x.fill_(3)
        replay = record(work)
        x.fill_(5)
        replay()
        found.append(out.item())
    assert found == [12, 24]


def test_a_replay_goes_through_views_tuples_and_writing_in_place():
    x, out = torch.arange(4.0), torch.zeros(2)

    def work():
        values, places = x.view(2, 2).sort(descending=True)
        out.add_(values[:, 0] + places[:, 0])

    replay = record(work)
    x.copy_(torch.tensor([8.0, 7, 6, 5]))
    replay()
    assert out.tolist() == [1 + 1 + 8, 3 + 1 + 6]


@pytest.mark.parametrize("form", [moe, moe_gathered])
@pytest.mark.parametrize("cache", [growing_cache, StaticCache])
def test_each_form_with_each_cache_writes_what_generate_does(form, cache, told):
    checkpoint, answer = told
    assert Writer(checkpoint, answer.prompt_ids, form, cache).write(len(answer.token_ids)) == answer.token_ids


def test_only_without_questions_and_with_fixed_shapes_a_recording_writes_the_text(told):
    checkpoint, answer = told
    right = {}
    for form in (moe, moe_gathered):
        for cache in (growing_cache, StaticCache):
            writer = Writer(checkpoint, answer.prompt_ids, form, cache)
            counted = bill(Writer(checkpoint, answer.prompt_ids, form, cache).step)
            written = writer.write(len(answer.token_ids), writer.recorded())
            recordable = counted.questions == counted.changing == 0
            right[recordable] = [*right.get(recordable, []), written == answer.token_ids]
    assert right == {True: [True], False: [False] * 3}


def test_a_question_a_layer_is_what_the_loop_asks(told):
    checkpoint, answer = told
    assert bill(Writer(checkpoint, answer.prompt_ids).step).questions == checkpoint.config.num_hidden_layers
    assert bill(Writer(checkpoint, answer.prompt_ids, moe_gathered).step).questions == 0


def test_agreement_ends_at_the_first_wrong_token():
    assert agreed([1, 2, 9, 4], [1, 2, 3, 4]) == 2
    assert agreed([1, 2], [1, 2]) == 2
