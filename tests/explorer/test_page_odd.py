"""What an address or a hand may ask of the page: what cannot be is answered by a sentence, and the page goes on."""

import json

import pytest
from helpers import checkpoint
from page_window import ANSWERED, FACT, answers, ask, asks, click, look, needs_chromium, text_of

from qwen3_scratch.explorer import write

pytestmark = needs_chromium


ODD = {
    "#off=9.9&end": "The address names expert 9.9, which this model has not: it was left out.",
    "#expert=0.8&end": "The address names expert 0.8, which this model has not: it was left out.",
    "#layer=7&end": "The address names layer 7, which this model has not: it was left out.",
    "#head=9&end": "The address names head 9, which this model has not: it was left out.",
    "#x$&=1&end": "The address says “x$”, which means nothing here: it was left out. "
                  "The address says “=1”, which means nothing here: it was left out.",
    "#heads=0.8&end": "The address names head 0.8, which this model has not: it was left out.",
    "#wrong=none&end": "The address names the mistake “none”, which is none of these: it was left out.",
    "#k=9&end": "The address asks for 9 experts a token, more than there are: it was left out.",
    "#q=Hi%E4%B&end": "The address says “q=Hi%E4%B”, which means nothing here: it was left out.",
    "#temp=warm&end": "The address says “temp=warm”, which means nothing here: it was left out.",
    "#toString=1&end": "The address says “toString=1”, which means nothing here: it was left out.",
    "#layer=1&hea": "The address does not end as this page writes it: a part of it may be missing. "
                    "The address says “hea”, which means nothing here: it was left out.",
}  # fmt: skip


@pytest.mark.parametrize("address", ODD)
def test_an_odd_address_is_answered_by_a_sentence_and_a_page_that_works(window, file, address):
    look(window, file, address)
    assert window("document.getElementById('said').innerText") == ODD[address]
    ask(window, FACT)
    assert answers(window) == ["The capital of France is Paris."]


def test_what_an_address_asks_is_answered_beside_the_sentence_on_what_it_says_wrongly(window, file):
    look(window, file, asks(FACT, "off=9.9"))
    window.until(ANSWERED)
    assert text_of(window, "said") == ODD["#off=9.9&end"] and not window("document.getElementById('said').hidden")
    assert answers(window) == ["The capital of France is Paris."]


@pytest.mark.parametrize(("text", "said"), [
    ("", "prompt is empty, expected at least one word: write something"),
    ("a " * 3000, "prompt has 3009 tokens, expected fewer than 1024 tokens: shorten it"),
])  # fmt: skip
def test_a_prompt_that_cannot_be_read_is_answered_by_a_sentence(window, file, text, said):
    look(window, file)
    ask(window, text)
    assert window("document.getElementById('said').innerText") == said
    ask(window, "ʘ‿ʘ 日本語 🦜")  # never seen, and read all the same
    assert window("document.getElementById('said').hidden") and not window.complaints()


def test_changes_that_exclude_each_other_are_answered_by_a_sentence_until_one_is_undone(window, file):
    look(window, file, asks(FACT, "force=0.2", "expert=0.2"))
    click(window, "[data-do=off]")
    said = "force: expert 2 of layer 0 is off, expected one that is on: choose"
    window.until(f"document.getElementById('said').innerText === {json.dumps(said)}")
    window("document.getElementById('spoken').textContent = ''")
    click(window, "#undo-all")
    window.until(ANSWERED)
    assert answers(window) == ["The capital of France is Paris."]
    assert window("document.getElementById('said').hidden") and not window.complaints()


def test_a_browser_that_cannot_run_the_scripts_says_so(window, file, tmp_path):
    text = file.read_text("utf-8").replace("function rmsNorm(", "function rmsNorm(?", 1)
    text = text.replace("Content-Security-Policy", "x", 1)  # by which the changed script would not even be read
    (tmp_path / "old.html").write_text(text, "utf-8")
    window.open((tmp_path / "old.html").as_uri())
    window.until("document.readyState === 'complete'")
    assert window("document.getElementById('said').innerText").startswith("This browser is too old")


def test_a_dense_model_has_a_page_without_experts(window, tmp_path):
    dense = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    file = write(checkpoint(seed=2, **dense), tmp_path / "dense.html", questions=1)
    look(window, file, asks("Hi", "most=5"))
    assert window("document.getElementById('grid').hidden && document.getElementById('k-row').hidden")
    assert "dense" in window("document.getElementById('expert-panel').innerText") and not window.complaints()


def test_a_checkpoints_own_sampling_stands_in_the_fields_and_what_is_left_out_of_it_is_said(window, tmp_path):
    asked = {"do_sample": True, "temperature": 0.7, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.05}
    look(window, write(checkpoint(generation_config=asked), tmp_path / "drawn.html", questions=0))
    held = {id: window(f"document.getElementById('{id}').placeholder") for id in ("temperature", "top-k", "top-p")}
    assert held == {"temperature": "0.7", "top-k": "3", "top-p": "1"}
    assert "leaves out min_p 0.1, repetition_penalty 1.05, so answers may differ" in text_of(window, "about")


def test_where_nothing_was_measured_the_tour_is_shorter_and_an_address_past_its_end_shows_its_last_step(
    window, tmp_path
):
    file = write(checkpoint(), tmp_path / "unmeasured.html", questions=0)
    look(window, file, asks("Hi", "most=3", "tour=10"))
    window.until("document.querySelector('.marked') !== null")
    assert text_of(window, "tour-title").startswith("8/8 · One wrong line") and text_of(window, "tour-next") == "Done"
    click(window, "#tour-next")
    assert window("document.getElementById('tour').hidden") and not window.complaints()
