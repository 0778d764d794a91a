"""The page in a window of headless Chromium: how it is opened, asked and read."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import Window, found

WITHOUT = found() is None and os.environ.get("QWEN3_SCRATCH_BROWSER") != "must"  # as .ci/run sets it
needs_chromium = pytest.mark.skipif(WITHOUT, reason="no Chromium here (Debian: apt install chromium): not tried")
STORY = "Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?"
FACT = "What is the capital of France?"
READY = "'ready' in document.documentElement.dataset"
ANSWERED = "document.querySelectorAll('.lane').length && document.getElementById('spoken').textContent"

SAID = f"{ANSWERED} || !document.getElementById('said').hidden"  # or what stands in the way


def look(window: Window, file: Path, address: str = "", width: int = 1440, **media: str) -> Window:
    """Opens the page at an address, and waits for its answer where it asks something."""
    window.size(width)
    window.media(**{"prefers_reduced_motion": "reduce", "prefers_color_scheme": "light", **media})
    window.open(f"{file.as_uri()}{address}")
    window.until(READY)
    if "pace=once" in address and "q=" in address:
        window.until(SAID)
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


def text_of(window: Window, id: str) -> str:
    return window(f"document.getElementById('{id}').textContent")


def ask(window: Window, text: str) -> None:
    window("document.getElementById('spoken').textContent = ''")
    window(f"document.getElementById('prompt').value = {json.dumps(text)}")
    click(window, "#run")
    window.until(SAID)
