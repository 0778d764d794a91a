"""Seconds until a fresh process has its first token, beside those of importing torch, and what compiling takes.

Each is a process of its own, as someone meets it who types the command; the embedded checkpoint answers. What compiling
takes is measured in a process whose compiled code an earlier one left on the disk.
"""

import subprocess
import sys
from functools import partial
from typing import Any

from qwen3_scratch import Error

from . import figures, script
from .measure import BANDWIDTH, ROOT, Row, interleave, read_bandwidth, seconds
from .script import Out, Quick, Rounds, Run

QUESTION = "How long until a fresh process has its first token?"
WHOLE, WITHIN = "whole process", "within it"
TORCH, PACKAGE, TOKEN, COMPILING = "import torch", "import qwen3_scratch", "first token", "compiling, found on the disk"
ASK = ["generate", "Where is the ball?", "--max-new-tokens", "1"]
PROCESSES = {
    TORCH: ["-c", "import torch"],
    PACKAGE: ["-c", "import qwen3_scratch"],
    TOKEN: ["-m", "qwen3_scratch", *ASK],
}
COMPILES = """
import time
from qwen3_scratch import generate, load_checkpoint
checkpoint = load_checkpoint("tiny")
def answer(**how):
    start = time.perf_counter()
    generate(checkpoint, "Where is the ball?", temperature=0, max_new_tokens=2, **how)
    return time.perf_counter() - start
answer()
print(answer(compiled=True))
"""


def main(rounds: Rounds = 9, quick: Quick = False, out: Out = script.OUT) -> None:
    run = Run("start", QUESTION, rounds=rounds, quick=quick, device="cpu", out=out)
    measures: dict[str, Any] = {name: partial(seconds, partial(fresh, words)) for name, words in PROCESSES.items()}
    measures[COMPILING] = compiling
    run.say("fresh processes, once unmeasured ...")
    for measure in measures.values():
        measure()
    samples = interleave({**measures, BANDWIDTH: read_bandwidth}, run.rounds)
    for name, found in samples.items():
        case = {"measured": WITHIN if name == COMPILING else WHOLE}
        run.add([Row(case, name, "GB/s" if name == BANDWIDTH else "s", found)])
    run.finish(draw)


def fresh(words: list[str]) -> str:
    """What a process of Python prints. Raises Error where it fails."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise Error(f"python {' '.join(words)[:60]}: ended with code {done.returncode} ({last}): run it by hand")
    return done.stdout


def compiling() -> float:
    return float(fresh(["-c", COMPILES]))


def draw(found: dict[str, Any]):
    panels = {where: figures.spans(found["rows"], {"measured": where}, [BANDWIDTH]) for where in (WHOLE, WITHIN)}
    spans = panels[WHOLE]
    title = f"The first token comes {spans[TOKEN][0] - spans[TORCH][0]:.1f} s after torch is imported"
    return figures.bars(title, panels, "seconds", ours=[PACKAGE, TOKEN, COMPILING], columns=1)


if __name__ == "__main__":
    script.main(main)
