"""What is watched while the embedded checkpoint is trained."""

import pytest
import torch
from helpers import unchecked

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.model import Ops, forward, moe_route
from qwen3_scratch.tiny import corpus
from qwen3_scratch.tiny.evaluate import chat_ids
from qwen3_scratch.tiny.probes import Probes, asked_questions, asked_stories, note, probe, read_probes


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def found(tiny):
    with unchecked():  # sixty traced passes, of shapes that other tests check
        return probe(tiny, 100)


def test_a_probe_holds_the_experts_of_every_token_of_its_questions(tiny, found):
    asked = asked_questions()
    assert len(asked) == 60 and {example.domain for example in asked} == set(corpus.DOMAINS)
    for number in (0, 25, 59):
        chat, words = chat_ids(tiny, asked[number])
        of_it, routes = found.questions == number, []
        ops = Ops(route=lambda *args, into=routes: into.append(moe_route(*args)) or into[-1])
        forward(tiny.weights, torch.tensor([chat[: words.stop]]), tiny.config, ops=ops)
        assert found.token_ids[of_it].tolist() == chat[words]
        assert torch.equal(found.routes[0][:, of_it], torch.stack([route.experts[words] for route in routes]).byte())
        assert set(found.domains[of_it].tolist()) == {corpus.DOMAINS.index(asked[number].domain)}


def test_the_head_that_looks_up_the_words_of_a_story_stands_out_in_a_probe(tiny, found):
    assert len(asked_stories()) == 20
    scores = found.look_ups[0]
    assert scores.shape == (tiny.config.num_hidden_layers, tiny.config.num_attention_heads)
    assert scores.max() > 0.3 > 5 * scores.median(), "most heads do something else"


def test_a_run_that_goes_on_from_an_earlier_step_replaces_what_it_had_found_later(found, tmp_path):
    path = tmp_path / "work" / "probes.safetensors"
    for step, share in ((100, 0.1), (200, 0.2), (300, 0.3), (200, 0.5)):
        note(path, found._replace(steps=torch.tensor([step]), look_ups=torch.full_like(found.look_ups, share)))
    kept = read_probes(path)
    assert kept.steps.tolist() == [100, 200] and kept.look_ups[:, 0, 0].tolist() == pytest.approx([0.1, 0.5])
    assert isinstance(kept, Probes) and torch.equal(kept.token_ids, found.token_ids)


@pytest.mark.parametrize("content", [None, b"something else", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_file_of_probes_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "probes.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Error, match=r"^[^\n]*probes\.safetensors: holds no probes of a training run [^\n]*make train$"):
        read_probes(path)
