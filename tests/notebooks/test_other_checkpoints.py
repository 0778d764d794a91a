"""The same notebooks run unchanged on checkpoints of another form: other sizes, other routing, no router at all.

Each is executed as a reader would, in a kernel of its own, from a folder that is not the notebooks'; the kernels are
forked, since importing torch 48 times takes minutes.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import nbformat
import pytest
from forked_kernels import ForkedKernelManager, prepare
from helpers import PATIENCE, ROOT
from nbclient import NotebookClient
from other_checkpoints import MADE, write
from tiers import in_proof

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
KEPT = {
    "dense": {"start_here", "layer_to_logits"},
    "sixteen": {"cache"},
    "huihui": set(),
}
NO_ROUTER = "This checkpoint is dense"
SPARSE_ONLY = {
    "07_router_and_experts", "12_inside_the_router", "13_pitfalls", "17_topk_moe_on_gpu",
    "A5_more_of_heads_and_routers",
    "A6_other_ways_to_share",
    "A7_many_tokens_a_step",
}  # fmt: skip


def environment() -> dict[str, str]:
    """One thread each, since two run at a time. Nothing is fetched, and nothing measured is asked for."""
    foreign = {"MPLBACKEND", "HF_ENDPOINT", "JAXTYPING_DISABLE", "QWEN3_SCRATCH_MODEL"}
    kept = {key: value for key, value in os.environ.items() if key not in foreign}
    return kept | {"CI": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def executed(name: str, checkpoint: str, folder: str, env: dict[str, str]) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    options = {"resources": {"metadata": {"path": folder}}, "kernel_manager_class": ForkedKernelManager}
    client = NotebookClient(notebook, timeout=PATIENCE, allow_errors=True, **options)
    client.execute(env=env | {"QWEN3_SCRATCH_MODEL": checkpoint})
    return notebook


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory) -> Iterator[dict[tuple[str, str], Future]]:
    """All selected runs, two at a time."""
    wanted = [item.callspec.params for item in request.session.items if item.path == request.path]
    pairs = dict.fromkeys((params["checkpoint"], params["notebook"]) for params in wanted)
    work = tmp_path_factory.mktemp("checkpoints")
    folders = {name: write(name, work / name) for name in dict.fromkeys(name for name, _ in pairs)}
    prepare(env := environment())  # once, since pytest writes into the process's own while these run
    with ThreadPoolExecutor(2) as pool:
        yield {pair: pool.submit(executed, pair[1], str(folders[pair[0]]), str(work), env) for pair in pairs}


def cases() -> Iterator[Any]:
    """`make test` runs what each small form of checkpoint changes most: no router, windows."""
    for checkpoint in MADE:
        for notebook in NOTEBOOKS:
            kept = notebook[3:] in KEPT[checkpoint]
            yield (checkpoint, notebook) if kept else in_proof(checkpoint, notebook)


@pytest.mark.parametrize(("checkpoint", "notebook"), list(cases()))
def test_the_notebook_runs_unchanged_and_quietly(notebook, checkpoint, runs):
    cells = [cell for cell in runs[checkpoint, notebook].result().cells if cell.cell_type == "code"]
    outputs = [(number, output) for number, cell in enumerate(cells) for output in cell.outputs]
    errors = [(number, *output.traceback) for number, output in outputs if output.output_type == "error"]
    assert errors == []
    said = "".join(output.text for _, output in outputs if output.get("name") == "stderr")
    assert [line for line in said.replace("\r", "\n").split("\n") if line and not line.startswith("Compiling")] == []
    texts = "".join(output.text for _, output in outputs if output.output_type == "stream")
    if checkpoint == "dense" and notebook in SPARSE_ONLY:
        assert NO_ROUTER in texts
    if checkpoint == "sixteen":
        assert NO_ROUTER not in texts
    assert all(cell.execution_count for cell in cells)
