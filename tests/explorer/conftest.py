"""A browser, and the page of the embedded checkpoint in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Window, browser, found
from helpers import TINY

from qwen3_scratch import load_checkpoint
from qwen3_scratch.explorer import write


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(found() or "") as running:
        yield running


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    return write(load_checkpoint(TINY), tmp_path_factory.mktemp("page") / "explorer.html", questions=1)


@pytest.fixture(scope="module")
def window(chromium) -> Window:
    return chromium.window()
