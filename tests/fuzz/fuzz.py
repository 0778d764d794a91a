"""Fuzzes one reader: `python tests/fuzz/fuzz.py TARGET SECONDS`, or a finding again: `... TARGET FILE`.

Anything but success or `qwen3_scratch.Error` ends the run and is written to build/fuzz, beside the inputs that reached
new code, which the next run begins with. An input that takes longer than 20 seconds or 2 GB is a finding too, and stays
in build/fuzz/TARGET-last.
"""

import faulthandler
import hashlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qwen3_scratch", "jinja2"]):
    import qwen3_scratch

from mutate import MUTATORS
from targets import ROOT, TARGETS, seeds

HOME = ROOT / "build" / "fuzz"
LONGEST = {"config": 4096, "index": 8192, "header": 8192, "tokenizer": 16384, "template": 4096}  # bytes of an input
SECONDS = 20  # for one input


def main() -> None:
    name, what = sys.argv[1:3]
    corpus = HOME / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if Path(what).is_file():
            read(name, Path(folder), Path(what).read_bytes())
            return
        for number, content in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(content)

        def mutated(content: bytes, largest: int, seed: int) -> bytes:
            return MUTATORS[name](content, seed, atheris.Mutate, largest)[:largest]

        options = [f"-max_total_time={what}", f"-max_len={LONGEST[name]}", "-rss_limit_mb=2048", "-print_final_stats=1"]
        options += [f"-artifact_prefix={HOME}/{name}-", str(corpus)]
        atheris.Setup([sys.argv[0], *options], lambda one: watched(name, Path(folder), one), custom_mutator=mutated)
        atheris.Fuzz()


def watched(name: str, folder: Path, content: bytes) -> None:
    """One input. What it was is on the disk while it is read, since what takes too long cannot be asked any more."""
    last = HOME / f"{name}-last"
    last.write_bytes(content)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        read(name, folder, content)
    except BaseException:
        traceback.print_exc()
        found = last.rename(HOME / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}")
        print(
            f"A finding. Again: {sys.executable} tests/fuzz/fuzz.py {name} {found.relative_to(ROOT)}", file=sys.stderr
        )
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()


def read(name: str, folder: Path, content: bytes) -> None:
    try:
        TARGETS[name](folder, content)
    except qwen3_scratch.Error as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, "an Error is one short line"


if __name__ == "__main__":
    main()
