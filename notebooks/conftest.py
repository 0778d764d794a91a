"""Makes nbval strict: what passes is a notebook that was run, and that shows what a fresh run shows.

As it comes, nbval passes whatever was never run, never looks at pictures, and runs cells without
history, so that `plt.title("...");` prints although Jupyter keeps it quiet. And it compares by bytes,
which another processor writes otherwise: what is compared by meaning stands in comparing.py.
tests/test_nbval_is_strict.py proves each point with a notebook that must fail.
"""

import os
from tempfile import gettempdir
from uuid import uuid4

import nbval.kernel
import pytest
from comparing import differences, entries
from jupyter_client.manager import KernelManager
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile
from traitlets import default

MAX_LINES = 15  # of a code cell: one idea

collect, compare = IPyNbFile.collect, IPyNbCell.compare_outputs


class ApartKernelManager(KernelManager):
    """Its sockets are files: of ports that were found free, another process may take one before the kernel does."""

    @default("transport")
    def by_files(self):
        return "ipc"

    @default("ip")
    def files(self):
        return f"{gettempdir()}/kernel-{uuid4().hex}"


def execute_as_jupyter_does(self, source, allow_stdin=None):
    return self.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def collect_what_was_run(self):
    self.skip_compare = tuple(key for key in self.skip_compare if not key.startswith("image/"))
    cells = list(collect(self))
    if not any(item.cell.outputs for item in cells):
        raise self.CollectError(f"{self.path.name} shows no output to compare with: run `make refresh`.")
    return cells


def compare_by_meaning(self, fresh, stored, skip_compare=None):
    """nbval's own comparison, after what says the same in other bytes was made equal."""
    reasons = {}
    for new, old in pairs(fresh, stored):
        apart = differences(new, old, self.sanitize)
        for kind in entries(new).keys() & entries(old).keys() - apart.keys():
            entries(new)[kind] = entries(old)[kind]
        reasons |= apart
    same = compare(self, fresh, stored, skip_compare)
    self.comparison_traceback += [f"\n {kind}: {how}" for kind, how in reasons.items()]
    return same


def pairs(fresh, stored):
    """Outputs of the same kind in their order: results, and each stream; nbval reports unequal numbers."""
    for name in {output.get("name") for output in fresh}:
        yield from zip(*([one for one in each if one.get("name") == name] for each in (fresh, stored)), strict=False)


if os.name == "posix":  # elsewhere there are no such sockets
    nbval.kernel.KernelManager = ApartKernelManager
RunningKernel.execute_cell_input = execute_as_jupyter_does
IPyNbFile.collect = collect_what_was_run
IPyNbCell.compare_outputs = compare_by_meaning


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield  # refuse a cell only after it ran, or every later cell would fail with it
    if isinstance(item, IPyNbCell):
        lines = len(item.cell.source.splitlines())
        if item.cell.execution_count is None:
            item.raise_cell_error("This cell was never run: run `make refresh`.")
        if lines > MAX_LINES:
            item.raise_cell_error(f"This cell has {lines} lines, more than {MAX_LINES}: split it.")
    return result
