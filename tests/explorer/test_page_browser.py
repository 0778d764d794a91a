"""The page in headless Chromium: from a file, where every request is forbidden, and what is done with it there."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from browser import Window
from helpers import TINY
from page_model import PageModel
from page_window import ANSWERED, FACT, READY, STORY, answers, asks, click, look, needs_chromium, text_of

from qwen3_scratch import generate, load_checkpoint
from qwen3_scratch.tiny.corpus import DOMAINS

pytestmark = needs_chromium


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


# Of the embedded checkpoint's 32 experts one alone turns this answer round.
DAY = "what is the day after Friday"
RIGHT, WRONG = "The day after Friday is Saturday.", "The day after Friday is Thursday."


def test_an_expert_that_is_switched_off_changes_the_answer_beside_the_untouched_one(window, file):
    look(window, file, asks(DAY))
    assert answers(window) == [RIGHT]
    click(window, "[data-expert='1.2']")
    window("document.getElementById('spoken').textContent = ''")
    click(window, "[data-do=off]")
    window.until(ANSWERED)
    assert answers(window) == [RIGHT, WRONG]
    written = "[...document.querySelectorAll('.written')].map((line) => line.textContent)"
    assert window(written) == [f"Answer: {RIGHT}", f"Answer: {WRONG}"]
    runs = [generate_in_page(window, options) for options in ("{}", "{off: [[1, 2]]}")]
    parts = next(i for i, (one, other) in enumerate(zip(*runs, strict=False)) if one != other)
    prompt = len(window(f"window.qwen3.promptIds({json.dumps(DAY)})"))
    assert (
        window("[...document.querySelectorAll('.differs')].map((chip) => Number(chip.dataset.token))")
        == [prompt + parts] * 2
    )
    assert f"token {parts + 1} " in window("document.getElementById('verdict').textContent")
    click(window, "#undo-all")
    window.until("document.querySelectorAll('.lane').length === 1")


def generate_in_page(window: Window, options: str) -> list[int]:
    return window(f"window.qwen3.generate({json.dumps(DAY)}, {options}).tokenIds")


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


# Of each chip its word, and how much of it the chosen token sees, in per cent.
LOOKED = """[...document.querySelector('.lane').querySelectorAll('.chip')].map((chip) =>
  [chip.querySelector('.text').textContent, Number(chip.dataset.look ?? 0)])"""


@pytest.mark.proof
def test_the_tour_has_ten_steps_and_each_shows_what_it_says(window, file):
    look(window, file)
    click(window, "#start-tour")
    titles = []
    for number in range(1, 11):
        title = f"document.getElementById('tour-title').textContent.startsWith('{number}/10')"
        window.until(f"{title} && document.querySelector('.marked') !== null")
        titles.append(window("document.getElementById('tour-title').textContent"))
        assert answers(window)[0] and len(window("document.getElementById('tour-text').textContent").split()) >= 20
        assert f"tour={number}" in window("location.hash")
        told = text_of(window, "tour-text")
        if "followed the same word" in told:
            lane, at = window(LOOKED), int(window("new URLSearchParams(location.hash.slice(1)).get('at')"))
            looked = max(range(at), key=lambda key: lane[key][1])
            words = [word for word, _ in lane]
            assert (words[looked - 1], words[looked]) == (words[at], words[at + 1]) and lane[looked][1] > 50
        if "≠ marks" in told or "one expert alone" in told:
            assert "part at token" in text_of(window, "verdict")
        window("document.querySelector('.marked').classList.remove('marked')")
        click(window, "#tour-next")
    window.until("document.getElementById('tour').hidden")
    assert len(set(titles)) == 10 and "tour=" not in window("location.hash") and not window.complaints()


def test_a_step_of_the_tour_can_be_sent_as_an_address(window, file):
    look(window, file, asks(FACT, "tour=4"))
    assert window("document.getElementById('tour-title').textContent").startswith("4/10")


@pytest.mark.parametrize(("clicks", "title", "address"), [
    (["#start-tour", "#tour-next", "#tour-next"], "3/", "tour=3"),
    (["#start-tour", "[data-token='3']"], "1/", "at=3"),
    (["#start-tour", "#tour-close"], "", ""),
])  # fmt: skip
def test_a_step_of_the_tour_that_was_left_paints_nothing_afterwards(window, file, clicks, title, address):
    look(window, file)
    window("; ".join(f"document.querySelector({json.dumps(each)}).click()" for each in clicks))
    window.until(ANSWERED)
    marked = "[...document.querySelectorAll('.marked')].map(({id}) => id)"
    if address == "tour=3":  # the step that is shown is painted; one that was left would be with it
        window.until(f"({marked}).includes('answer')")
    else:
        window("new Promise((done) => setTimeout(done, 100))")  # time to paint, had it something to paint
    assert window(marked) == (["answer"] if address == "tour=3" else [])
    found = [part for part in window("location.hash").split("&") if part.startswith(("tour=", "at="))]
    assert found == {"tour=3": ["tour=3"], "at=3": ["at=3", "tour=1"], "": []}[address]
    assert window("document.getElementById('tour').hidden") == (not title)
    assert not title or text_of(window, "tour-title").startswith(title)


def test_the_most_is_filled_to_the_top_of_boards_and_chips(window, file):
    look(window, file, asks(STORY, "at=20", "layer=1", "head=1"))
    full = "[...document.querySelectorAll('{}')].map((each) => parseFloat(each.style.getPropertyValue('{}')))"
    read = [int(said.split(", ")[2].split()[0]) for said in window(
        "[...document.querySelectorAll('#board button')].map((each) => each.getAttribute('aria-label'))")]  # fmt: skip
    fills = window(full.format("#board button", "--share"))
    assert fills == pytest.approx([100 * number / max(read) for number in read], abs=1e-3)
    chips = window(full.format("#lanes .chip", "--height"))
    shares = window("[...document.querySelectorAll('#lanes .chip')].map((each) => Number(each.dataset.look ?? 0))")
    assert max(chips) == 100 and chips.index(100) == shares.index(max(shares)) and sum(shares) <= 100


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
    window("document.getElementById('spoken').textContent = ''")  # each step is spoken, too
    click(window, "#rest")
    window.until(ANSWERED)
    assert answers(window) == ["The capital of France is Paris."]
