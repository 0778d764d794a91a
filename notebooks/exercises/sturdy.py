"""Runs a handed-in notebook to its end, in this Python whatever it names: what a cell breaks costs its own points."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbgrader.preprocessors import Execute
from traitlets import List

MOST_SHOWN = 100_000  # characters that a cell may print; what follows is left out

# What a cell has put in place of the checks, of PyTorch's functions or of Python's is gone before the next check runs.
KEEP = """
import builtins, math, os, signal, sys, torch, types
sys.modules["as_it_was"] = kept = types.ModuleType("as_it_was")
kept.folder, kept.streams = os.getcwd(), (sys.stdout, sys.stderr, sys.displayhook)
kept.depth, kept.shell = sys.getrecursionlimit(), get_ipython()
kept.shown = kept.shell.ast_node_interactivity
kept.shell.ask_exit = lambda: None  # exit() would end Python a moment later, in the midst of another cell
kept.tensor = torch.Tensor
kept.owners = (torch.Tensor, torch, torch.nn.functional, math, builtins)
kept.values = [dict(vars(owner)) for owner in kept.owners]
"""
RESTORE = """
import os, signal, sys
_kept = sys.modules["as_it_was"]
for _owner, _values in zip(reversed(_kept.owners), reversed(_kept.values)):
    for _name, _value in _values.items():
        if _owner.__dict__.get(_name) is not _value and _name != "_":
            setattr(_owner, _name, _value)
for _name in vars(_kept.tensor).keys() - _kept.values[0].keys():
    delattr(_kept.tensor, _name)
os.makedirs(_kept.folder, exist_ok=True)
os.chdir(_kept.folder)
sys.stdout, sys.stderr, sys.displayhook = _kept.streams
sys.setrecursionlimit(_kept.depth)
sys.settrace(None), sys.setprofile(None), signal.setitimer(signal.ITIMER_REAL, 0)
_kept.shell.ast_node_interactivity = _kept.shown
_kept.shell.ast_transformers.clear()
for _name in [name for name in sys.modules if name.split(".")[0] == "qwen3_scratch"]:
    del sys.modules[_name]
"""


def is_given(cell: NotebookNode | None) -> bool:
    """Whether a cell is code of the set itself that is no check: its imports."""
    about = {} if cell is None else cell.metadata.get("nbgrader", {})
    locked = bool(about.get("locked")) and not about.get("grade")
    return locked and cell.cell_type == "code" and not is_closing(cell)


def is_closing(cell: NotebookNode) -> bool:
    """Whether a cell shows what answers can do, or says what is open: grading needs neither, and they call answers."""
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", "")).endswith(("_see", "_open"))


class Sturdy(Execute):
    """After a cell that kills its kernel or cannot be stopped there is a new kernel, in which the others ran again.

    Names that a cell has deleted and functions that it has replaced, in Python, PyTorch or in what checks it, are put
    back before each check. A check shows one sentence where it ends in an error, and no way through the checks.
    """

    extra_arguments = List(["--IPKernelApp.log_level=ERROR"])  # or each kernel warns of itself on standard error

    def preprocess(self, nb: NotebookNode, resources: Any, km: Any = None) -> tuple[NotebookNode, Any]:
        """Runs it in a folder of its own, which it may fill or delete."""
        self.broken: set[int] = set()
        self.printed: dict[int, int] = {}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            resources.setdefault("metadata", {})["path"] = folder
            return super().preprocess(nb, resources, km)

    def create_kernel_manager(self) -> Any:
        """A kernel of this Python: another of the same name may lie on Jupyter's path, and a notebook may name any."""
        self.kernel_name = "python3"
        manager = super().create_kernel_manager()
        start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=start, display_name="this Python", language="python")
        return manager

    def _get_timeout(self, cell: NotebookNode | None) -> int | None:
        """The cells of imports are ours and end; on a busy machine PyTorch takes longer to load than any check."""
        limit = super()._get_timeout(cell)
        return limit if limit is None or not is_given(cell) else max(limit, 600)

    def process_message(self, msg: Any, cell: NotebookNode, cell_index: int) -> Any:
        """What a cell prints without end would fill the memory here."""
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.printed[cell_index] = self.printed.get(cell_index, 0) + len(str(msg["content"]))
            if self.printed[cell_index] > MOST_SHOWN and msg["msg_type"] != "execute_result":
                return None
        return super().process_message(msg, cell, cell_index)

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        if is_closing(cell):
            cell.outputs = []
            return cell, resources
        graded = bool(cell.metadata.get("nbgrader", {}).get("grade"))
        try:
            if graded and not self._put_back(index):  # what ran since the last check has broken it
                checks = [
                    at
                    for at, other in enumerate(self.nb.cells[:index])
                    if other.metadata.get("nbgrader", {}).get("grade")
                ]
                self.broken.update(range(max(checks, default=-1) + 1, index))
                self._begin_anew(resources, index)
                self.broken.discard(index)
            done = super().preprocess_cell(cell, resources, index)
            if is_given(cell):
                self._silently(KEEP)
            late = any(output.get("ename") == "CellTimeoutError" for output in cell.get("outputs", ()))
            if late:
                self.broken.add(index)
            if late or graded:
                said = f"No end within {self._get_timeout(cell)} seconds: this cell was stopped." if late else None
                tidy(cell, graded, said)
            return done
        except (DeadKernelError, CellTimeoutError) as error:
            said = "This cell ended its Python process" if isinstance(error, DeadKernelError) else "No end in sight"
            cell.outputs = [failure("Stopped", f"{said}; the cells below ran in a new one.")]
            self._begin_anew(resources, index)
            return cell, resources

    def _silently(self, code: str) -> bool:
        """Runs code of ours; whether it ended well."""
        reply = self.wait_for_reply(self.kc.execute(code, silent=True))
        return reply is not None and reply["content"]["status"] == "ok"

    def _put_back(self, index: int) -> bool:
        given = [other.source for other in self.nb.cells[:index] if is_given(other)]
        return self._silently(RESTORE) and self._silently("\n".join(given))

    def _begin_anew(self, resources: Any, index: int) -> None:
        """Another kernel, in which the cells above ran, but for those that broke one."""
        self.broken.add(index)
        self.shutdown_kernel = "immediate"
        self._cleanup_kernel()
        Path(resources["metadata"]["path"]).mkdir(exist_ok=True)
        self.km = self.create_kernel_manager()
        self.start_new_kernel()
        self.start_new_kernel_client()
        for number, cell in enumerate(self.nb.cells[:index]):
            if is_given(cell):
                self.preprocess_cell(cell, resources, number)
            elif (
                cell.cell_type == "code"
                and number not in self.broken
                and not cell.metadata.get("nbgrader", {}).get("grade")
            ):
                self._silently(cell.source)


def failure(name: str, said: str) -> NotebookNode:
    """An error of one sentence."""
    return nbformat.v4.new_output("error", ename=name, evalue=said, traceback=[said])


def tidy(cell: NotebookNode, graded: bool, said: str | None) -> None:
    """Puts one sentence in the place of errors, and sees that a check ends in its points and nothing else."""
    errors = [output for output in cell.outputs if output.output_type == "error"]
    shown = [output for output in cell.outputs if output.output_type != "error" and output.get("name") != "stderr"]
    if said is not None:
        shown.append(failure("CellTimeoutError", said))
    elif errors:
        text = (str(errors[0].evalue).strip() or "no message").splitlines()[0][:200]
        shown.append(failure(errors[0].ename, f"The check could not run: {errors[0].ename}: {text}"))
    elif graded and not any(earned(output, cell.metadata.nbgrader.points) for output in shown):
        shown.append(failure("NoPoints", "The check ended without points: another cell has changed how it runs."))
    cell.outputs = shown


def earned(output: NotebookNode, most: float) -> bool:
    """Whether an output is a number of points that can be."""
    try:
        return output.output_type == "execute_result" and 0 <= float(output.data["text/plain"]) <= most
    except (KeyError, ValueError):
        return False
