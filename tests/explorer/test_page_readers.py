"""The page for everybody: by keyboard alone, for a screen reader, small, dark and in both languages."""

import json

import pytest
from axe_core_python.base import AXE_SCRIPT
from page_window import ANSWERED, FACT, STORY, asks, click, look, needs_chromium, text_of
from tiers import in_proof

from qwen3_scratch.explorer.writing import PAGE

pytestmark = needs_chromium


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


PRESSED = (
    "#lanes [data-token='12']", "#board [data-expert='1.2']", "#grid [data-cell='5.1']", "#expert-panel [data-read]",
    "#expert-panel [data-do='off']", "#heads [data-head='0.1']",
)  # fmt: skip


def test_what_is_pressed_keeps_the_focus_or_gives_it_to_what_takes_its_place(window, file):
    look(window, file, asks(FACT, "expert=0.4"))
    window("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for pressed in PRESSED:
        window("document.getElementById('spoken').textContent = ''")
        window(f"(found => {{ found.focus(); found.click(); }})(document.querySelector({json.dumps(pressed)}))")
        if "-do" in pressed or "-head" in pressed:  # the answers are written anew
            window.until(ANSWERED)
        assert window(f"document.activeElement.matches({json.dumps(pressed)})"), pressed
    places = {"[data-lane='1'] [data-token='12']": "[data-lane='0'] [data-token='12']", "#undo-all": "#change"}
    for focused, then in places.items():
        look(window, file, asks(FACT, "off=0.4"))
        window(f"document.querySelector({json.dumps(focused)}).focus()")
        click(window, "#undo-all")
        window.until("document.querySelectorAll('.lane').length === 1")
        assert window(f"document.activeElement.matches({json.dumps(then)})"), focused


def test_what_is_read_out_is_not_read_out_again_by_a_look_at_something_else(window, file):
    look(window, file, asks(STORY, "tour=4"))
    changes = window("""(() => {
      const watcher = new MutationObserver(() => {});
      for (const each of document.querySelectorAll("[aria-live], [role=alert]")) {
        watcher.observe(each, {childList: true, characterData: true, subtree: true, attributes: true});
      }
      for (const pressed of ["#lanes [data-token='12']", "#board [data-expert='1.2']", "#grid [data-cell='5.1']"]) {
        document.querySelector(pressed).click();
      }
      return watcher.takeRecords().length;
    })()""")
    assert changes == 0 and text_of(window, "spoken") and text_of(window, "tour-text")


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
