"""What an answer does while it runs: whose functions it calls, how many products it takes, what it takes out."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..tracing import profiled

PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
OFFERED = tuple(PACKAGE + name for name in ("model.py", "config.py", "errors.py", "tracing.py"))
"""Where the functions lie that every answer may call, but for its own."""

CHECKS = str(Path(__file__).resolve().parent)
FOLDERS = (
    Path(os.__file__).resolve().parent,
    Path(torch.__file__).resolve().parents[1],
)  # Python's own, and what is installed
WRAPPER = PACKAGE + os.path.join("trust", "arguments.py")  # what stands around public functions
LIBRARIES = (*(str(folder) + os.sep for folder in FOLDERS), WRAPPER, "<@beartype", "<frozen", "<patient>")
HARMLESS = ("<module>", "__repr__", "__str__")  # to import and to print
TAKEN_OUT = {"tolist", "item", "__int__", "__float__", "__bool__", "__index__"}


class Watch(TorchFunctionMode):
    """Sees, under whatever name it is called, what an answer must not call, and counts calls of PyTorch's functions.

    `own` are the functions that the answer stands for: refused at any depth. `may` are further files of the package,
    or functions, that it may call besides `OFFERED`.
    """

    def __init__(self, own: Iterable[Callable[..., Any]] = (), may: Iterable[Any] = ()):
        super().__init__()
        python = {function: inspect.unwrap(function) for function in own}
        self.own = {plain.__code__: plain.__name__ for plain in python.values() if hasattr(plain, "__code__")}
        names = [function.__name__ for function, plain in python.items() if not hasattr(plain, "__code__")]
        self.roots = tuple({"_".join(name.split("_")[:3]) for name in names})
        self.files = OFFERED + tuple(PACKAGE + file for file in may if isinstance(file, str))
        self.codes = {inspect.unwrap(function).__code__ for function in may if not isinstance(function, str)}
        self.called: list[str] = []  # its own name elsewhere
        self.entered: list[str] = []  # other functions of the package
        self.calls = 0
        self.taken_out = 0  # numbers
        self.arrays = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = getattr(func, "__name__", str(func))
        self._named(name)
        if name in TAKEN_OUT and args and isinstance(args[0], Tensor):
            self.taken_out += args[0].numel()
        self.arrays += name in ("numpy", "__array__")
        return func(*args, **(kwargs or {}))

    def _named(self, name: str) -> None:
        """Notes a function of PyTorch's that bears an own one's name, as its operators and private forms do too."""
        words = name.split(".")[0]
        if words.endswith("__") or not words.endswith("_"):  # what changes a tensor is another function
            self.called += [name for root in self.roots if f"_{root}_" in f"_{words}_"]

    def report(self, frame: FrameType, event: Any, value: Any) -> None:
        """What the interpreter says of a call."""
        if event == "c_call" and self.roots:
            self._named(getattr(value, "__name__", ""))
        if event != "call":
            return
        code = frame.f_code
        if code.co_flags & inspect.CO_GENERATOR:  # closed when Python collects it, whoever made it
            return
        if code in self.own:
            self.called.append(self.own[code])
        elif code.co_filename.startswith(PACKAGE) and not self._may(code) and not _from_the_package(frame.f_back):
            self.entered.append(code.co_qualname)

    def _may(self, code: CodeType) -> bool:
        ours = code.co_filename in (__file__, WRAPPER) or code.co_name in HARMLESS
        return ours or code.co_filename in self.files or code in self.codes


def _from_the_package(frame: FrameType | None) -> bool:
    """Whether a call comes from the package's own code rather than from an answer; what libraries do lies between."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and file != WRAPPER:
            return os.path.dirname(file) != CHECKS
        if not file.startswith(LIBRARIES):
            return False
        frame = frame.f_back
    return True


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """While the block runs, the watch sees what is called; a profiler that was there before is told on."""
    profiler = sys.getprofile()
    with profiled(watch.report, profiler if callable(profiler) else None), watch:
        yield


class Products(TorchDispatchMode):
    """Counts the products of matrices that are not empty, and all work: multiplications, and numbers written else."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; to be skipped, PyTorch would load its compiler: seconds

    def __init__(self) -> None:
        super().__init__()
        self.count, self.work = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (cost := flop_registry.get(func._overloadpacket)) is not None:
            work = cost(*args, **(kwargs or {}), out_val=out)
            self.count += work > 0
        else:
            work = sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and not leaf._is_view())
        self.work += work
        return out


class Raised:
    """What came of a call instead of a result."""

    def __init__(self, error: BaseException):
        self.error = error
        self.frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)

    @property
    def said(self) -> tuple[str, str]:
        return type(self.error).__name__, (str(self.error).strip() or "no message").splitlines()[0][:200]

    @property
    def alike(self) -> tuple[str, str]:
        """The same for one mistake in two spellings: sizes that clash clash in another dimension there."""
        kind, text = self.said
        return kind, text.split(" at non-singleton dimension")[0]

    def told(self, answer: Callable[..., Any]) -> str:
        """Type and message of the error, and the last line of the answer's own code on the way to it."""
        code = getattr(inspect.unwrap(answer), "__code__", None)
        own = [frame for frame in self.frames if code is not None and frame.filename == code.co_filename]
        at = f" at `{own[-1].line.strip()}`" if own and own[-1].line else ""
        return f"your function raised {self.said[0]}{at}: {self.said[1].removesuffix('.')}"


def outcome(function: Callable[..., Any], given: Any, *modes: Any) -> Any:
    """The result of a call, or Raised. Only the user's own interrupt passes through."""
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        try:
            return function(*given.args, **given.kwargs)
        except (Exception, SystemExit) as error:
            return Raised(error)
