"""What a type checker says of a script that uses the package; `make lint` holds the package itself against it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RIGHT = """
from collections.abc import Generator
from pathlib import Path
from typing import assert_type

import torch

from qwen3_scratch import Checkpoint, Generation, forward, generate, load_checkpoint, stream, trace
from qwen3_scratch.text_stream import Piece

ck = load_checkpoint(Path("folder"), dtype=torch.bfloat16)
assert_type(ck, Checkpoint)
texts, ids, pieces = ["a", "b"], [1, 2, 3], stream(ck, "x", max_new_tokens=8)
chat = [{"role": "user", "content": "x"}]

assert_type(generate(ck, "x"), Generation)
assert_type(generate(ck, "x", temperature=0, stop=["\\n"]).text, str)
assert_type(generate(ck, ids).token_ids, list[int])
assert_type(generate(ck, chat).thinking, str | None)
assert_type(generate(ck, [{"role": "user", "content": "x"}]).text, str)
assert_type(generate(ck, texts)[0].text, str)
assert_type(generate(ck, ["a", "b"])[0].text, str)
assert_type(generate(ck, [ids, [4]]), list[Generation])
assert_type(generate(ck, [chat, chat]), list[Generation])
assert_type(generate(ck, torch.tensor(ids)), Generation | list[Generation])

assert_type(pieces, Generator[Piece, None, Generation])
for piece in pieces:
    print(piece.upper() if piece.thinking else piece, end="")

with trace() as seen:
    assert_type(forward(ck.weights, torch.tensor([ids]), ck.config), torch.Tensor)
print(seen.table(), [call.layer for call in seen["moe_route"]])
"""

# The code of the error that each line is to give.
WRONG = """
from qwen3_scratch import generate, load_checkpoint, stream

ck = load_checkpoint()
generate(ck, ["a", "b"]).text  # attr-defined
generate(ck, [[1], [2]]).token_ids  # attr-defined
generate(ck, "x")[0].token_ids  # attr-defined
generate(ck, 5)  # call-overload
generate("tiny", "x")  # call-overload
stream(ck, "x").text  # attr-defined
next(stream(ck, "x")).thoughts  # attr-defined
load_checkpoint(device=0)  # arg-type
ck.tokenizer.encode("x")  # union-attr
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Script -> line -> the codes of its errors. One run for all, with what `make lint` left behind."""
    folder = tmp_path_factory.mktemp("scripts")
    readme = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
    scripts = {"right": RIGHT, "wrong": WRONG, "readme": readme.replace("my_rope", "print")}
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    paths = [str(folder / f"{name}.py") for name in scripts]
    done = subprocess.run([sys.executable, "-m", "mypy", *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = re.findall(r"(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert errors, done.stdout + done.stderr
    return {name: {(int(line), code) for script, line, code in errors if script == name} for name in scripts}


def test_a_script_as_users_write_it_has_the_types_that_they_count_on(found):
    assert not found["right"]


def test_the_examples_of_the_readme_have_no_wrong_type(found):
    assert not found["readme"]


def test_a_slip_in_a_script_is_found(found):
    expected = {(n, line.split("# ")[1]) for n, line in enumerate(WRONG.splitlines(), 1) if "# " in line}
    assert found["wrong"] == expected
