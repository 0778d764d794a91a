"""A reader who goes back is never surprised: any cell runs again, and shows what it showed before."""

from typing import Any

import nbformat
import pytest
from comparing import differences
from forked_kernels import ForkedKernelManager, prepare
from helpers import PATIENCE
from nbclient import NotebookClient
from settle import MEASURED, SANITIZE, cleaner
from test_notebooks import FOUND, WRITTEN_ANEW
from test_other_checkpoints import environment
from tiers import in_proof

CLEAN = cleaner(SANITIZE)
KEPT = "08_layer_to_logits"  # by `make test`


@pytest.fixture(scope="module", autouse=True)
def kernels():
    prepare(environment())


def shown(cell: Any) -> list[Any]:
    """What a cell shows, without what it measures and what another run words otherwise."""
    return [] if MEASURED in cell.metadata.get("tags", ()) else [*cell.outputs]


@pytest.mark.parametrize("name", [name if name == KEPT else in_proof(name) for name in WRITTEN_ANEW if name in FOUND])
def test_each_cell_run_twice_and_once_more_after_all_shows_what_it_showed_at_first(name, tmp_path):
    notebook = nbformat.read(FOUND[name], as_version=4)
    options = {"resources": {"metadata": {"path": str(tmp_path)}}, "kernel_manager_class": ForkedKernelManager}
    client = NotebookClient(notebook, timeout=PATIENCE, coalesce_streams=True, **options)
    code = [(number, cell) for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    first = {}
    with client.setup_kernel(env=environment()):
        for number, cell in [pair for each in code for pair in (each, each)] + code:
            before = first.get(number)
            client.execute_cell(cell, number)
            first.setdefault(number, shown(cell))
            if before is not None:
                again = shown(cell)
                assert len(again) == len(before), cell.source
                for new, old in zip(again, before, strict=True):
                    assert differences(new, old, CLEAN) == {}, cell.source
