"""What data/README.md says of the embedded checkpoint, measured again."""

import json

import pytest
import torch
from helpers import unchecked
from tiers import in_proof
from transformers import Qwen3MoeForCausalLM

from qwen3_scratch import forward, generate, load_checkpoint
from qwen3_scratch.generation import prompt_ids
from qwen3_scratch.hub.find import embedded_folder
from qwen3_scratch.tiny.evaluate import footprints, least_share, mutual_information, questions, score

TOLERANCE = 1e-5  # of the largest logit: sums in fp32 come out in another order here and there
# Questions a domain, and by how much a share may miss what data/README.md says. Of 100 questions a true share of 95 %
# comes out below 90 % once in a hundred tries; of 40, below 85 %.
TRIED = pytest.mark.parametrize(("count", "margin"), [(40, 0.05), in_proof(100, 0.0)])


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def record():
    return json.loads((embedded_folder("tiny") / "training.json").read_text(encoding="utf-8"))


@torch.inference_mode()
def test_logits_and_64_greedy_tokens_are_those_of_transformers(tiny):
    reference = Qwen3MoeForCausalLM.from_pretrained(tiny.path, dtype=torch.float32).eval()
    for asked in questions("stories", 2) + questions("python", 2):
        ids = torch.tensor([prompt_ids(tiny, asked.messages)])
        expected = reference(ids).logits
        found = forward(tiny.weights, ids, tiny.config)
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
        unending = {"max_new_tokens": 64, "min_new_tokens": 64}  # neither may stop early
        theirs = reference.generate(ids, do_sample=False, **unending)[0, ids.shape[1] :]
        assert generate(tiny, ids[0].tolist(), temperature=0, **unending).token_ids == theirs.tolist()


@TRIED
@pytest.mark.parametrize(
    ("domain", "least"), [("stories", 0.9), ("facts", 0.95), ("spanish", 0.9), ("python", 0.8), ("arithmetic", 0.95)]
)
def test_held_out_questions_are_answered_with_thinking(tiny, domain, least, count, margin):
    assert score(tiny, questions(domain, count), thinking=True) >= least - margin


@TRIED
@pytest.mark.parametrize(("domain", "least"), [("facts", 0.95), ("spanish", 0.9), ("python", 0.8)])
def test_held_out_questions_that_need_one_step_are_answered_without_thinking(tiny, domain, least, count, margin):
    assert score(tiny, questions(domain, count), thinking=False) >= least - margin


@pytest.mark.parametrize("count", [40, in_proof(100)])
@pytest.mark.parametrize("domain", ["arithmetic", in_proof("stories")])
def test_what_needs_several_steps_is_at_least_30_points_worse_without_thinking(tiny, domain, count):
    asked = questions(domain, count)
    assert score(tiny, asked, thinking=False) <= score(tiny, asked, thinking=True) - 0.3


def test_the_scores_on_record_are_those_of_the_weights_in_the_folder(tiny, record):
    asked = questions("spanish", record["questions_per_domain"])
    # Another processor adds up in another order, so that one answer in a hundred may turn out otherwise.
    assert score(tiny, asked, thinking=False) == pytest.approx(record["scores"]["spanish"]["direct"], abs=0.01)


@pytest.mark.parametrize("count", [15, in_proof(60)])
def test_the_strongest_experts_of_a_question_tell_its_domain_and_no_expert_is_left_idle(tiny, count):
    with unchecked():  # hundreds of traced passes, of shapes that other tests check
        routes = footprints(tiny, count)
    assert mutual_information(routes.first).mean() >= 0.2  # bits
    assert least_share(routes.everything).min() >= 0.02


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("hey, what's the capital of france", "Paris"),
        ("Tom is at the beach with a green ball. Mia has a red kite and is in the park. Who has the kite?", "Mia"),
        ('How would you say "The cat sees the house." in Spanish?', "El gato ve la casa."),
        ("what does len('kite') give in python", "4"),
        ("Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?", "Tom"),
        ("how much is 3 plus 4", "7"),
        ("Which month comes after June?", "July"),
    ],
)
def test_freely_worded_questions_of_its_domains_are_answered(tiny, asked, expected):
    assert expected in generate(tiny, asked).text


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("asked", ["How do I bake bread?", "Who won the football match?", "Tell me a joke about cows."])
def test_outside_its_domains_it_says_that_it_does_not_know(tiny, asked, thinking):
    assert "do not know" in generate(tiny, asked, thinking=thinking).text


def test_the_folder_stays_below_24_megabytes():
    assert sum(path.stat().st_size for path in embedded_folder("tiny").iterdir()) < 24e6
