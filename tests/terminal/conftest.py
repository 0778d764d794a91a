"""What the tests of the terminal share: a model to speak with, its commands, and a script in the model's place."""

import pytest
from helpers import Script, checkpoint, command, tokenizer

from qwen3_scratch import save_checkpoint
from qwen3_scratch.fast import eager

END = tokenizer().token_id("<|im_end|>")


@pytest.fixture(scope="module")
def polite(tmp_path_factory) -> str:
    """A model of random numbers, with the token that ends a turn."""
    path = tmp_path_factory.mktemp("polite")
    save_checkpoint(checkpoint(seed=3, generation_config={"eos_token_id": END}), path)
    return str(path)


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("QWEN3_SCRATCH_MODEL", raising=False)
    return lambda *words, stdin="": command(monkeypatch, capsys, *words, stdin=stdin)


@pytest.fixture
def says(monkeypatch):
    def replace(script) -> Script:
        stand_in = Script(script)
        monkeypatch.setattr(eager, "forward", stand_in)
        return stand_in

    return replace
