"""The one run for a machine with a GPU, rehearsed without: each part ends in words, and what was found is whole."""

import json
import os
import tarfile

import pytest
import torch
from helpers import ROOT

from benchmarks import gpu
from qwen3_scratch import Error


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "describe", lambda device: {"machine": {"device": str(device)}})
    return tmp_path


def part(*words, seconds=60.0, needs=()):
    return gpu.Part("part", ["-c", *words], seconds, needs)


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        (part("print('measured')"), "done"),
        (part("raise SystemExit(3)"), "failed with exit status 3: see part.txt"),
        (part("import time; time.sleep(600)", seconds=1.0), "cut off after 1 s: see part.txt"),
        (part("", needs=("no_such_package",)), "left out: ModuleNotFoundError: No module named 'no_such_package'"),
    ],
    ids=["done", "failed", "cut off", "left out"],
)  # fmt: skip
def test_each_part_ends_in_words(out, asked, how):
    assert gpu.run(asked, out, {**os.environ}, 100.0).how == how


def test_when_the_minutes_are_over_nothing_is_begun(out):
    assert gpu.run(part("raise SystemExit(3)"), out, {**os.environ}, 5.0).how == "left out: the minutes are over"


def test_after_each_part_the_page_and_the_archive_are_whole(out):
    ended = []
    for word in ("one", "two"):
        ended.append(gpu.run(part(f"print('{word}')")._replace(name=word), out, {**os.environ}, 100.0))
        gpu.write_page(out, ended, rehearsal=True)
        page = (out / "GPU.md").read_text(encoding="utf-8")
        assert "nothing here is a result" in page and f"| {word} | done |" in page and f"```\n{word}\n```" in page
        assert len(json.loads((out / "gpu.json").read_text(encoding="utf-8"))["parts"]) == len(ended)
        with tarfile.open(out / "gpu.tar.gz") as archive:
            assert {"gpu/GPU.md", "gpu/gpu.json", *(f"gpu/{each.name}.txt" for each in ended)} <= {*archive.getnames()}


def test_what_is_asked_of_a_gpu_is_there_to_be_asked():
    for rehearsal in (True, False):
        for asked in gpu.parts(ROOT, rehearsal):
            for word in asked.words:
                if word.startswith("benchmarks."):
                    assert (ROOT / (word.replace(".", "/") + ".py")).exists()
                if word.endswith(".py"):
                    assert (ROOT / word).exists()
    assert (ROOT / "notebooks" / f"{gpu.LAST}.ipynb").exists()
    limits = [asked.seconds for asked in gpu.parts(ROOT, False)]
    assert sum(limits[:3]) <= 480, "the three that matter most have time, whatever the others take"


def test_without_a_gpu_one_sentence_says_how_to_rehearse(out, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Error, match=r"^this machine has no GPU that torch sees: --rehearsal runs without$"):
        gpu.main(out=out)
    with pytest.raises(Error, match=r"^--only names nothing, expected some of \['decode-1'"):
        gpu.main(out=out, rehearsal=True, only=["nothing"])
    assert not list(out.iterdir())
