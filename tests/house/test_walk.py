"""From `generate(...)` to the token: how many files, calls and moves between files it takes, as Python counts them."""

import itertools
import sys
from pathlib import Path

import qwen3_scratch
from qwen3_scratch import generate, load_checkpoint

HOUSE = Path(qwen3_scratch.__file__).parent


def files_entered(count: int) -> list[str]:
    """For every call of a function of the house the file that it stands in, in order, while `count` tokens are made."""
    checkpoint, found, before = load_checkpoint("tiny"), [], sys.getprofile()

    def report(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(HOUSE)):
            found.append(frame.f_code.co_filename)

    sys.setprofile(report)
    try:
        generate(checkpoint, "What is the capital of France?", max_new_tokens=count, min_new_tokens=count)
    finally:
        sys.setprofile(before)
    return found


def moves(files: list[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(files))


def test_a_token_takes_at_most_12_files_90_calls_and_40_moves_between_files():
    files_entered(2)  # whatever is set up at a first call
    shorter, longer = files_entered(10), files_entered(11)
    assert len(set(longer)) <= 12, sorted(set(longer))
    assert len(longer) - len(shorter) <= 90
    assert moves(longer) - moves(shorter) <= 40
