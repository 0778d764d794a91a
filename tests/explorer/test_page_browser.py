"""The page in headless Chromium: from a file, where every request is forbidden, by keyboard, small and dark."""

import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from axe_core_python.base import AXE_SCRIPT
from browser import Browser, Window, browser, found
from helpers import TINY, checkpoint
from page_model import PageModel
from tiers import in_proof

from qwen3_scratch import generate, load_checkpoint
from qwen3_scratch.explorer import write
from qwen3_scratch.explorer.writing import PAGE
from qwen3_scratch.tiny.corpus import DOMAINS

WITHOUT = found() is None and os.environ.get("QWEN3_SCRATCH_BROWSER") != "must"  # as .ci/run sets it
pytestmark = pytest.mark.skipif(WITHOUT, reason="no Chromium here (Debian: apt install chromium): not tried")
STORY = "Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?"
FACT = "What is the capital of France?"
READY = "'ready' in document.documentElement.dataset"
ANSWERED = "document.querySelectorAll('.lane').length && document.getElementById('spoken').textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(found() or "") as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(load_checkpoint(TINY), tmp_path_factory.mktemp("page") / "explorer.html", questions=1)


@pytest.fixture(scope="module")
def window(chromium) -> Window:
    return chromium.window()


def look(window: Window, file: Path, address: str = "", width: int = 1440, **media: str) -> Window:
    """Opens the page at an address, and waits for its answer where it asks something."""
    window.size(width)
    window.media(**{"prefers_reduced_motion": "reduce", "prefers_color_scheme": "light", **media})
    window.open(f"{file.as_uri()}{address}")
    window.until(READY)
    if "pace=once" in address and "q=" in address:
        window.until(ANSWERED)
    return window


def asks(text: str, *more: str) -> str:
    return "#" + "&".join([f"q={quote(text)}", "pace=once", *more, "end"])


def answers(window: Window) -> list[str]:
    """Of each lane the chips of the answer, put together."""
    of = "[...lane.querySelectorAll('.chip.answer .text')].map((chip) => chip.textContent).join('')"
    found = window(f"[...document.querySelectorAll('.lane')].map((lane) => {of})")
    return [text.replace("␣", " ").replace("⏎", "") for text in found]


def click(window: Window, selector: str) -> None:
    window(f"document.querySelector({json.dumps(selector)}).click()")


# ---- one file, no request -----------------------------------------------------------------------


def test_the_file_is_below_nine_megabytes_and_asks_nobody_for_anything(window, file):
    look(window, file)
    assert file.stat().st_size < 9_000_000
    assert set(window.requests()) == {file.as_uri()} and not window.complaints()


class Forbidding(SimpleHTTPRequestHandler):
    """Serves the file under a policy by which the page may load nothing, and notes what is asked for."""

    asked: ClassVar[list[str]] = []

    def end_headers(self) -> None:
        self.send_header(
            "Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
        )
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        Forbidding.asked.append(self.path)


def test_under_a_policy_that_forbids_every_request_it_answers_all_the_same(chromium, file):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Forbidding, directory=str(file.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        window = chromium.window()
        window.media(prefers_reduced_motion="reduce")
        window.open(f"http://127.0.0.1:{server.server_port}/{file.name}{asks(FACT)}")
        window.until(f"{READY} && {ANSWERED}")
        assert answers(window) == ["The capital of France is Paris."]
        assert Forbidding.asked == [f"/{file.name}"]
    finally:
        server.shutdown()
        server.server_close()


def test_a_question_of_every_domain_is_answered_as_by_generate(window, file):
    look(window, file)
    for domain in DOMAINS:
        window("document.getElementById('spoken').textContent = ''")
        click(window, f"[data-domain={domain}]")
        window.until(ANSWERED)
        prompt = window("document.getElementById('prompt').value")
        own = generate(load_checkpoint(TINY), prompt)
        assert window("document.getElementById('spoken').textContent").startswith(own.text) and own.text


def test_the_same_tokens_come_in_chromium_as_in_v8_alone(window, file):
    look(window, file)
    other = PageModel(load_checkpoint(TINY))
    for options in (
        "{}",
        "{thinking: false, off: [[0, 3]]}",
        "{temperature: 1, seed: 4}",
        "{mistakes: ['no_causal_mask']}",
    ):
        call = f"qwen3.generate({json.dumps(STORY)}, {options}).tokenIds"
        assert window(f"window.{call}") == other(call)


# ---- what one does ------------------------------------------------------------------------------


def test_an_expert_that_is_switched_off_changes_the_answer_beside_the_untouched_one(window, file):
    look(window, file, asks(STORY))
    assert answers(window) == ["Tom has the cup."]
    click(window, "[data-expert='0.4']")
    window("document.getElementById('spoken').textContent = ''")
    click(window, "[data-do=off]")
    window.until(ANSWERED)
    assert answers(window) == ["Tom has the cup.", "Mia has the cup."]
    written = "[...document.querySelectorAll('.written')].map((line) => line.textContent)"
    assert window(written) == ["Answer: Tom has the cup.", "Answer: Mia has the cup."]
    runs = [generate_in_page(window, options) for options in ("{}", "{off: [[0, 4]]}")]
    parts = next(i for i, (one, other) in enumerate(zip(*runs, strict=False)) if one != other)
    prompt = len(window(f"window.qwen3.promptIds({json.dumps(STORY)})"))
    assert (
        window("[...document.querySelectorAll('.differs')].map((chip) => Number(chip.dataset.token))")
        == [prompt + parts] * 2
    )
    assert f"token {parts + 1} " in window("document.getElementById('verdict').textContent")
    click(window, "#undo-all")
    window.until("document.querySelectorAll('.lane').length === 1")


def generate_in_page(window: Window, options: str) -> list[int]:
    return window(f"window.qwen3.generate({json.dumps(STORY)}, {options}).tokenIds")


def test_an_address_shows_the_same_in_a_second_window(chromium, window, file):
    look(
        window,
        file,
        asks(STORY, "off=0.4_1.2", "wrong=layer_norm", "expert=1.2", "layer=2", "head=3", "at=20", "lang=zh", "k=3"),
    )
    address = window("location.hash")
    other = look(chromium.window(), file, address)
    everything = "document.querySelector('main').innerText"
    assert window(everything) == other(everything) and other("location.hash") == address
    assert other("document.documentElement.lang") == "zh-Hans"


@pytest.mark.proof
def test_the_tour_has_ten_steps_and_each_shows_something(window, file):
    look(window, file)
    click(window, "#start-tour")
    titles = []
    for number in range(1, 11):
        title = f"document.getElementById('tour-title').textContent.startsWith('{number}/10')"
        window.until(f"{title} && document.querySelector('.marked') !== null")
        titles.append(window("document.getElementById('tour-title').textContent"))
        assert answers(window)[0] and len(window("document.getElementById('tour-text').textContent").split()) >= 20
        assert f"tour={number}" in window("location.hash")
        window("document.querySelector('.marked').classList.remove('marked')")
        click(window, "#tour-next")
    window.until("document.getElementById('tour').hidden")
    assert len(set(titles)) == 10 and "tour=" not in window("location.hash") and not window.complaints()


def test_a_step_of_the_tour_can_be_sent_as_an_address(window, file):
    look(window, file, asks(FACT, "tour=4"))
    assert window("document.getElementById('tour-title').textContent").startswith("4/10")


@pytest.mark.proof
def test_tokens_come_one_by_one_where_asked_for(window, file):
    look(window, file)
    window(f"""document.getElementById('pace').value = 'step';
      document.getElementById('pace').dispatchEvent(new Event('change'));
      document.getElementById('prompt').value = {json.dumps(FACT)}""")
    click(window, "#run")
    chips = "document.querySelectorAll('.chip[data-token]').length"
    count = window.until(f"!document.getElementById('go-on').hidden && {chips}")
    for more in (1, 2, 3):
        click(window, "#go-on")
        window.until(f"{chips} === {count + more}")
    click(window, "#rest")
    window.until(ANSWERED)
    assert answers(window) == ["The capital of France is Paris."]


def test_the_keyboard_alone_asks_chooses_a_token_and_switches_an_expert_off(window, file):
    look(window, file, "#pace=once&end")
    window("document.getElementById('prompt').focus()")
    window.write(STORY)
    window.press("Enter")
    window.until(ANSWERED)
    focused = "document.activeElement.dataset"
    for _ in range(40):
        window.press("Tab")
        if window(f"{focused}.token ?? ''"):
            break
    before = int(window(f"{focused}.token"))
    window.press("ArrowLeft")
    window.press("ArrowLeft")
    assert int(window(f"{focused}.token")) == before - 2
    assert window("document.getElementById('token-name').textContent").startswith(f"Token {before - 2}: ")
    for _ in range(40):
        window.press("Tab")
        if window(f"{focused}.expert ?? ''"):
            break
    window.press("ArrowRight")
    window.press("ArrowDown")
    window.press(" ")
    assert window(f"{focused}.expert") == "1.1"
    window.press("Tab")
    assert window(f"{focused}.do") == "off"
    window.press(" ")
    window.until("document.querySelectorAll('.lane').length === 2")
    assert "off=1.1" in window("location.hash")


# ---- for everybody ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "light"), *(in_proof(*each) for each in ((1440, "dark"), (360, "dark"), (1440, "light")))],
)
def test_nothing_is_cut_off_and_axe_finds_nothing(window, file, width, scheme):
    look(window, file, asks(STORY, "off=0.4", "expert=0.4", "layer=1", "head=1"), width, prefers_color_scheme=scheme)
    window("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert window("document.documentElement.scrollWidth") <= width
    window(AXE_SCRIPT + "; 0")
    found = window(
        "axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.slice(0, 3).map((n) => n.html)]))"
    )
    assert found == []


def test_every_word_of_the_page_is_there_in_both_languages(window, file):
    english, chinese = (json.loads((PAGE / f"labels.{name}.json").read_text("utf-8")) for name in ("en", "zh"))
    assert {key for key in chinese if not key.startswith("mistake.")} == english.keys()
    look(window, file, asks(FACT, "lang=zh"))
    used = set(window("[...document.querySelectorAll('[data-label]')].map((element) => element.dataset.label)"))
    assert used <= english.keys()
    assert {key.removeprefix("mistake.") for key in chinese if key.startswith("mistake.")} == set(
        window("window.qwen3.mistakes")
    )


# ---- bad input ----------------------------------------------------------------------------------

ODD = {
    "#off=9.9&end": "The address names expert 9.9, which this model has not: it was left out.",
    "#expert=0.8&end": "The address names expert 0.8, which this model has not: it was left out.",
    "#layer=7&end": "The address names head 7.0, which this model has not: it was left out.",
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


def ask(window: Window, text: str) -> None:
    window("document.getElementById('spoken').textContent = ''")
    window(f"document.getElementById('prompt').value = {json.dumps(text)}")
    click(window, "#run")
    window.until(f"{ANSWERED} || !document.getElementById('said').hidden")


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
