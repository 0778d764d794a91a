"""A headless Chromium, spoken to over two pipes in its own protocol: no driver, no port, no further package."""

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
PATIENCE = 120  # seconds


def found() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Window:
    """One page of the browser."""

    def __init__(self, browser: "Browser", session: str):
        self.browser, self.session = browser, session

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **given)

    def open(self, url: str) -> None:
        self.ask("Page.bringToFront")  # what lies behind another has its timers slowed to one a second
        self.browser.events = [event for event in self.browser.events if event.get("sessionId") != self.session]
        self.ask("Page.navigate", url="about:blank")  # another part behind # alone would load nothing anew
        self.ask("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def __call__(self, expression: str) -> Any:
        """The value of an expression, for which is waited where it is a promise."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := self(expression)):
            assert time.monotonic() < end, f"waited in vain for {expression}"
            time.sleep(0.02)
        return value

    def press(self, key: str, modifiers: int = 0) -> None:
        text = {"Enter": "\r", " ": " "}.get(key, {})
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
            self.ask("Input.dispatchKeyEvent", type=kind, modifiers=modifiers, **code, **more)

    def write(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def size(self, width: int, height: int = 900) -> None:
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, **features: str) -> None:
        each = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=each)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Requests and errors of this page since it was opened."""
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def requests(self) -> list[str]:
        sent = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if url != "about:blank"]

    def complaints(self) -> list[Any]:
        wanted = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in wanted]


class Browser:
    def __init__(self, output: int, answers: int):
        self.output, self.answers, self.numbers = output, answers, itertools.count(1)
        self.held, self.events = b"", []

    def ask(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": given}
        if session:
            message["sessionId"] = session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.held:
            piece = os.read(self.answers, 2**20)
            assert piece, "the browser has ended"
            self.held += piece
        message, _, self.held = self.held.partition(b"\0")
        return json.loads(message)

    def window(self) -> Window:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        window = Window(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            window.ask(f"{domain}.enable")
        return window


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """A browser with a profile of its own, which goes with it."""
    to_read, output = os.pipe()
    answers, to_write = os.pipe()
    for end in (to_read, to_write):
        os.set_inheritable(end, True)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # It reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
        line = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        words = ["bash", "-c", line, program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        settings = {**os.environ, "HOME": folder}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = subprocess.Popen(words, pass_fds=(to_read, to_write), env=settings, **quiet)
        for end in (to_read, to_write):
            os.close(end)
        try:
            yield Browser(output, answers)
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            os.close(output)
            os.close(answers)
