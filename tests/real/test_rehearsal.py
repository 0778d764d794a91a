"""`make real` to its last line, with a hub on this machine and random weights in the place of the real ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, TINY, finished
from hub_faults import stage
from other_checkpoints import TEXT_FILES, huihui
from qwen3_files import qwen_tokenizer_json
from reference import random_like
from stand_in_hub import SHA, StandInHub
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qwen3_scratch import Config, Error, init_weights
from qwen3_scratch.checkpoints.saving import save_weights

pytestmark = pytest.mark.proof
NAMES = ("huihui-ai/Huihui-MoE-0.8B-2E", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base")
SMALL = dict(hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
SPARSE = replace(huihui(), **SMALL, moe_intermediate_size=64)
DENSE = replace(SPARSE, model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)


def written(folder: Path, config: Config) -> Path:
    """A small model of the family with Qwen3's own tokenizer, all weights random."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = init_weights(config)
    weights = tree_map_only(Tensor, lambda tensor: random_like(tensor, generator, 0.1).to(tensor.dtype), weights)
    save_weights(folder, weights, config)
    for file in TEXT_FILES:
        shutil.copy(TINY / file, folder)
    (folder / "tokenizer.json").write_text(qwen_tokenizer_json(), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    work = tmp_path_factory.mktemp("hub")
    sparse, dense = written(work / "sparse", SPARSE), written(work / "dense", DENSE)
    with StandInHub(dict(zip(NAMES, (sparse, dense, dense), strict=True))) as hub:
        yield hub


def real(tmp_path, url, *words, **settings):
    env = {
        "HF_ENDPOINT": url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_OFFLINE": "0",
    }
    script = str(ROOT / "tests" / "real" / "real.py")
    return finished(script, "--page", str(tmp_path / "REAL.md"), *words, env=env | settings, timeout=3600)


def test_a_rehearsal_reaches_its_last_line_and_only_what_is_published_of_logits_does_not_hold(hub, tmp_path):
    said = real(tmp_path, hub.url, "--rehearsal", "--notebooks", "02_tokens_and_chat")
    assert said.code == 0, said.err
    assert said.out == f"{tmp_path / 'REAL.md'}\n"
    assert "are to come" in said.err and "are free." in said.err
    page = (tmp_path / "REAL.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "claim" not in line and "---" not in line]
    wrong = [line for line in rows if "**no**" in line]
    assert len(wrong) == 3 and all(line.startswith("| published: ") for line in wrong)
    assert len([line for line in rows if "greedy tokens after" in line and "64 of 64" in line]) == 10
    assert "norm_topk_prob: False" in page and page.count(SHA) == 3
    assert "| 02_tokens_and_chat | yes |" in page
    assert page.splitlines()[-1].startswith("Not held: published: the mean logit")


def test_a_rehearsal_runs_every_notebook(hub, tmp_path):
    said = real(tmp_path, hub.url, "--rehearsal")
    assert said.code == 0, said.err
    page = (tmp_path / "REAL.md").read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"| {path.stem} | yes |" in page


def test_outside_a_rehearsal_what_does_not_hold_is_a_failure(hub, tmp_path):
    said = real(tmp_path, hub.url, "--notebooks")
    assert said.code == 1 and (tmp_path / "REAL.md").exists()


@pytest.mark.parametrize(
    ("words", "settings", "expected"),
    [
        (
            (),
            {"HF_ENDPOINT": "http://127.0.0.1:1"},
            f"hub id {NAMES[0]}: not in the cache and the hub cannot be reached",
        ),
        ((), {"HF_HUB_OFFLINE": "1"}, "cannot be reached, since HF_HUB_OFFLINE forbids it: unset it"),
        ((), {"HF_HUB_CACHE": "~nosuch"}, "the environment variable HF_HUB_CACHE is '~nosuch'"),
        (("--notebooks", "99_nothing"), {}, "--notebooks names 99_nothing, expected names such as 00_"),
        (("--page", "/no/such/folder/REAL.md"), {}, "/no/such/folder/REAL.md: its folder is not there"),
    ],
)
def test_what_prevents_it_is_one_sentence(hub, tmp_path, words, settings, expected):
    said = real(tmp_path, hub.url, "--rehearsal", *words, **settings)
    assert (said.code, said.out) == (1, "")
    assert said.err.splitlines()[-1].startswith("error: ") and expected in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert not (tmp_path / "REAL.md").exists()


def test_too_little_room_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "real"))
    import real as script

    stage(hub, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    before = len(hub.asked)
    with pytest.raises(
        Error, match=r"^the three checkpoints need 1\.\d\d GB with some to spare, found 1\.00 GB free: make room"
    ):
        script.download(script.Page())
    assert not any("resolve" in asked.path for asked in hub.asked[before:])
