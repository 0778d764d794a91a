"""Notebook 01 obtains the weights that the series is about if it is asked to, and says in one line where it cannot."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from helpers import PATIENCE, ROOT, checkpoint, each_tensor
from nbclient import NotebookClient
from nbformat import NotebookNode
from stand_in_hub import StandInHub
from tiers import in_proof

from qwen3_scratch import load_checkpoint, save_checkpoint

VARIABLE = "QWEN3_SCRATCH_MODEL"
NAME = "huihui-ai/Huihui-MoE-0.8B-2E"
NOT_REACHED = f"hub id {NAME}: not in the cache and the hub cannot be reached: connect, or name a local folder"
GO_ON = "What follows is about the checkpoint in tiny-moe."
AS_IT_IS, ASKED = "download = False", "download = True"
HUB_VARIABLES = ("HF_", "HUGGING", VARIABLE, "TQDM")


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """That of a reader who has never downloaded anything and has chosen no checkpoint."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(HUB_VARIABLES)}
    return {**plain, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def executed(environment: dict[str, str], until: str = "", *, asked: bool = False) -> NotebookNode:
    """Notebook 01 after a run, to the end or to the heading `until`, as it stands or after a reader has `asked`."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_checkpoint.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if AS_IT_IS in cell.source]
    cell.source = cell.source.replace(AS_IT_IS, ASKED) if asked else cell.source
    if until:
        [end] = [number for number, cell in enumerate(notebook.cells) if until in cell.source]
        notebook.cells = notebook.cells[:end]
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute(env=environment)
    return notebook


def printed(notebook: NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def bars(notebook: NotebookNode) -> str:
    """What progress bars say: as widgets, or as lines where there are none."""
    widgets = notebook.metadata.get("widgets", {}).values()
    states = [str(state) for kind in widgets for state in kind["state"].values()]
    shown = [str(output) for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output for output in shown if "widget-view" in output or "'stderr'" in output]
    return "\n".join([*states, *shown]) if shown else ""


@pytest.fixture
def huihui(tmp_path) -> Path:
    """Two experts of which one is chosen, in bf16, by the hub's names; what the hub has besides is not wanted."""
    made = checkpoint(seed=4, num_experts=2, num_experts_per_tok=1, norm_topk_prob=False)
    made = replace(made, weights=each_tensor(made.weights, torch.Tensor.bfloat16))
    save_checkpoint(made, tmp_path / "huihui")
    (tmp_path / "huihui" / "pytorch_model.bin").write_text("not wanted")
    return tmp_path / "huihui"


def test_the_notebook_downloads_the_weights_when_asked_and_is_then_about_them(huihui, environment):
    with StandInHub({NAME: huihui}) as hub:
        notebook = executed({**environment, "HF_ENDPOINT": hub.url}, asked=True)
    found, theirs = printed(notebook), load_checkpoint(huihui)
    assert f"What follows is about {NAME}.\n" in found
    wanted = {path.name for path in huihui.iterdir()} - {"pytorch_model.bin"}
    assert hub.fetched() == wanted and "model.safetensors" in wanted
    for line in (
        f"{'model.safetensors':34}{(huihui / 'model.safetensors').stat().st_size:>15,} bytes",
        f"{'num_experts':22}{2:>8}  experts in a sparse layer",
        f"{'all':14}{theirs.config.num_parameters():>15,}",
    ):
        assert line in found
    assert "model.safetensors" in bars(notebook) or "Fetching" in bars(notebook), "a progress bar was shown"


@pytest.mark.parametrize("silent", [False, in_proof(True)], ids=["closed", "silent"])
def test_where_no_hub_answers_the_notebook_says_so_in_one_line_and_goes_on(silent, environment):
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if silent:  # takes the connection and says nothing
            port.listen()
        endpoint = f"http://127.0.0.1:{port.getsockname()[1]}"
        notebook = executed({**environment, "HF_ENDPOINT": endpoint}, until="## How are the numbers stored", asked=True)
    lines = printed(notebook).splitlines()
    assert lines.count(f"Not downloaded: {NOT_REACHED}.") == 1
    assert lines.count(GO_ON) == 1
    assert bars(notebook) == ""
    tiny = load_checkpoint("tiny")
    assert f"{'num_experts':22}{tiny.config.num_experts:>8}  experts in a sparse layer" in lines


def test_run_all_asks_the_hub_for_nothing_and_says_in_one_line_what_it_does_without(huihui, environment):
    with StandInHub({NAME: huihui}) as hub:
        notebook = executed({**environment, "HF_ENDPOINT": hub.url}, until="## How are the numbers stored")
    assert printed(notebook).splitlines().count(f"Nothing is downloaded. {GO_ON}") == 1
    assert hub.asked == []


def test_a_checkpoint_that_was_chosen_stays_and_nothing_is_asked_for(huihui, environment):
    with StandInHub({NAME: huihui}) as hub:
        chosen = {**environment, "HF_ENDPOINT": hub.url, VARIABLE: str(huihui)}
        notebook = executed(chosen, until="## How are the numbers stored")
    said = "Nothing is downloaded. What follows is about the checkpoint in huihui."
    assert said in printed(notebook).splitlines()
    assert f"{'num_experts':22}{2:>8}  experts in a sparse layer" in printed(notebook)
    assert hub.asked == []
