"""How an answer to an exercise is checked: stage by stage, against the reference, with the likely mistake named."""

import functools
import inspect
import linecache
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..model import forward
from ..tiny.evaluate import chat_ids, questions
from ..tracing import Call, trace
from .comparing import difference, dtype_name


class Wrong(AssertionError):
    """An answer that is not right: which exercise, stage and case, what was found and expected, what is likely.

    Each part of the message is an argument; as text they are one line.
    """

    def __str__(self) -> str:
        return " ".join(part for part in self.args if part)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the message alone, each part on a line of its own (an IPython hook)."""
        return ["Wrong: " + "\n".join(part for part in self.args if part)]


class Unwritten(Wrong):
    """An answer of which nothing is written yet."""


class Passed(list[tuple[str, int]]):
    """The stages that passed with their number of cases, none for what is not written yet.

    A notebook shows nothing of it, since the lines were printed.
    """

    def _ipython_display_(self) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """The arguments of one call, and what is particular about them ("one token"), which a message repeats."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    note: str = ""


def case(*args: Any, note: str = "", **kwargs: Any) -> Case:
    """A case, written as the call would be."""
    return Case(args, kwargs, note)


@dataclass(frozen=True)
class Stage:
    """Some cases under one title.

    `cases(seed)` yields the same cases whenever it is called with one seed: answer and reference each get arguments
    of their own, so that neither sees what the other did to them. `tolerance` and `share` are those of `difference`.
    With a `limit` the stage is about time: the answer may take so many times as long as the reference.
    """

    title: str
    cases: Callable[[int], Iterable[Case]]
    tolerance: int | float | None = None
    share: int | float = 0
    limit: int | float | None = None
    advice: str = "a Python loop does what one product of whole tensors can do"


@dataclass(frozen=True)
class Mistake:
    """A wrong way that is known: where it gives what the answer gives, the message names it."""

    message: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """One function to write. `own` are functions that the answer must not call, since they are the answer.

    `hidden` are stages that the graded notebook runs besides the visible ones.
    """

    name: str
    set: str
    reference: Callable[..., Any]
    stages: tuple[Stage, ...]
    mistakes: tuple[Mistake, ...] = ()
    own: tuple[Callable[..., Any], ...] = ()
    hidden: tuple[Stage, ...] = ()

    def check(self, answer: Callable[..., Any], seed: int = 0, hidden: bool = False) -> Passed:
        """Prints a line for each stage that passes; raises Wrong at the first case that does not.

        Where nothing is written yet it says so, and a chapter can go on; with `hidden`, to be graded, that is Wrong.
        """
        if not callable(answer):
            raise Wrong(f"{self.name}: found {answer!r:.60}, expected a function: give its name without parentheses")
        passed = Passed()
        for stage in (*self.stages, *(self.hidden if hidden else ())):
            try:
                with _settled():
                    count = self._timed(stage, answer, seed) if stage.limit else self._compared(stage, answer, seed)
            except Unwritten as nothing:
                if hidden:
                    raise
                print(nothing)
                return Passed()
            print(f"{self.name}: {stage.title} ok ({count} case{'s' if count != 1 else ''})")
            passed.append((stage.title, count))
        return passed

    def _compared(self, stage: Stage, answer: Callable[..., Any], seed: int) -> int:
        number = -1
        draws = zip(stage.cases(seed), stage.cases(seed), stage.cases(seed), strict=True)
        for number, (mine, theirs, before) in enumerate(draws):
            where = f"{self.name}, {stage.title}, {self._described(before)}"
            expected = self.reference(*theirs.args, **theirs.kwargs)
            found = self._answered(answer, mine)
            wrong = _compare(found, expected, stage) if not isinstance(found, Raised) else found.told(answer)
            if wrong:
                raise Wrong(f"{where}:", f"{wrong}.", self._likely(answer, stage, seed, number))
            if changed := self._changed(mine, theirs):
                advice = "work on new tensors (no `+=`, no `x[...] =`)"
                raise Wrong(f"{where}:", f"right, but {changed} was changed in place: {advice}")
        if number < 0:
            raise RuntimeError(f"{self.name}, {stage.title}: no cases")
        return number + 1

    def _answered(self, answer: Callable[..., Any], given: Case) -> Any:
        """The answer's result or what it raised; Wrong where it is unwritten or calls what it should be."""
        forbidden = _Forbidden(self.own)
        with trace(*forbidden.python) as calls, forbidden:
            found = _outcome(answer, given)
        if isinstance(found, Raised) and isinstance(found.error, NotImplementedError) and len(found.frames) == 2:
            raise Unwritten(f"{self.name}: not written yet: replace `raise NotImplementedError` by your code")
        called = [name for name in forbidden.names if calls[name]] + forbidden.seen
        if called:
            raise Wrong(f"{self.name}: this calls `{called[0]}`, which is the answer itself: write it yourself")
        return found

    def _likely(self, answer: Callable[..., Any], stage: Stage, seed: int, number: int) -> str:
        """The known mistake that does on this case what the answer did, as a further sentence, or nothing.

        Where several do, it is the one that agrees with the answer on the most cases of all stages.
        """
        likely = [mistake for mistake in self.mistakes if _alike(answer, mistake.function, stage, seed, number)]
        if len(likely) > 1:
            cases = [(each, i) for each in self.stages if not each.limit for i, _ in enumerate(each.cases(seed))]
            agreeing = [sum(_alike(answer, mistake.function, each, seed, i) for each, i in cases) for mistake in likely]
            likely = [likely[agreeing.index(max(agreeing))]]
        return likely[0].message if likely else ""

    def _changed(self, mine: Case, theirs: Case) -> str | None:
        """The name of an argument that the answer wrote into and the reference did not."""
        left, right = (self._bound(given) for given in (mine, theirs))
        for name, value in right.items():
            parts = zip(*(torch.utils._pytree.tree_leaves(side) for side in (left[name], value)), strict=False)
            if any(isinstance(a, Tensor) and not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in parts):
                return name
        return None

    def _timed(self, stage: Stage, answer: Callable[..., Any], seed: int) -> int:
        """The best of a few runs each, over all cases; what else the machine does can only make a run longer."""
        count, ratio = self._compared(stage, answer, seed), 0.0
        for given in stage.cases(seed):
            mine = min(_seconds(answer, given) for _ in range(3))
            ratio = max(ratio, mine / min(_seconds(self.reference, given) for _ in range(9)))
        if stage.limit is not None and ratio > stage.limit:
            about = 10 ** math.floor(math.log10(ratio))
            times = f"about {round(ratio / about) * about} times slower than it could be"
            raise Wrong(f"{self.name}, {stage.title}: right, but {times}: {stage.advice}")
        return count

    def _bound(self, given: Case) -> dict[str, Any]:
        return inspect.signature(self.reference).bind(*given.args, **given.kwargs).arguments

    def _described(self, given: Case) -> str:
        parts = [f"{name} {_brief(value)}" for name, value in self._bound(given).items()]
        return ", ".join(parts) + (f" ({given.note})" if given.note else "")


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return str([*value.shape]) + ("" if value.dtype == torch.float32 else f" {dtype_name(value)}")
    text = "" if isinstance(value, tuple) and hasattr(value, "_fields") else repr(value)  # of weights it takes long
    return text if 0 < len(text) <= 40 else type(value).__name__


@dataclass(frozen=True)
class Raised:
    """What came of a call instead of a result."""

    error: BaseException
    frames: Sequence[traceback.FrameSummary]

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
        line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip() if own else ""
        at = f" at `{line}`" if line else ""
        return f"your function raised {self.said[0]}{at}: {self.said[1].removesuffix('.')}"


def _outcome(function: Callable[..., Any], given: Case) -> Any:
    """The result of a call, or Raised. Only the user's own interrupt passes through."""
    try:
        return function(*given.args, **given.kwargs)
    except (Exception, SystemExit) as error:
        return Raised(error, traceback.extract_tb(error.__traceback__))


def _compare(found: Any, expected: Any, stage: Stage) -> str | None:
    return difference(found, expected, stage.tolerance, stage.share)


def _alike(one: Callable[..., Any], other: Callable[..., Any], stage: Stage, seed: int, number: int) -> bool:
    """Whether two functions give the same result on a case, or fail in the same way."""
    a, b = (_outcome(function, next(islice(stage.cases(seed), number, None))) for function in (one, other))
    if isinstance(a, Raised) or isinstance(b, Raised):
        return isinstance(a, Raised) and isinstance(b, Raised) and a.alike == b.alike
    return not _compare(a, b, stage)


def _seconds(function: Callable[..., Any], given: Case) -> float:
    start = time.perf_counter()
    function(*given.args, **given.kwargs)
    return time.perf_counter() - start


class _Forbidden(TorchFunctionMode):
    """Sees calls of torch's own functions, which are no Python functions that a trace could see."""

    def __init__(self, functions: Iterable[Callable[..., Any]]):
        super().__init__()
        functions = tuple(functions)
        self.python = tuple(f for f in functions if hasattr(inspect.unwrap(f), "__code__"))
        self.names = [function.__name__ for function in self.python]
        self.builtin = [function for function in functions if function not in self.python]
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(func is function for function in self.builtin):
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def _settled() -> Iterator[None]:
    """Without gradients, in fp32 and with a seed, whatever cells before have set; afterwards as it was.

    What warnings would say on standard error is left out: nbgrader takes a mark for any word there.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(), redirect_stderr(sys.stdout):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


# ---- what the cases are made of --------------------------------------------------------------


def randn(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers; the same for the same state of the generator."""
    return torch.randn(shape, generator=generator).to(dtype)


def randint(generator: torch.Generator, low: int, high: int, *shape: int) -> Any:
    """Whole numbers from low to high - 1: a tensor of that shape, or an int without one."""
    drawn = torch.randint(low, high, shape, generator=generator)
    return drawn if shape else int(drawn)


@functools.cache
def tiny() -> Checkpoint:
    """The embedded checkpoint, read once."""
    return load_checkpoint("tiny")


@functools.lru_cache(maxsize=4)
def _texts(seed: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(chat_ids(tiny(), example)[0]) for example in questions("stories", 2, seed=100 + seed))


def text_ids(seed: int, length: int | None = None) -> Tensor:
    """Token ids [1, seq] of a chat that the embedded checkpoint was not trained on, another for each seed."""
    return torch.tensor([_texts(seed)[0][:length]])


@functools.lru_cache(maxsize=4)
def _recorded(seed: int) -> Any:
    with torch.no_grad(), trace() as calls:
        forward(tiny().weights, text_ids(seed, 48), tiny().config)
    return calls


def recorded(name: str, seed: int) -> list[Call]:
    """The calls of one of the model's functions while the embedded checkpoint reads a text: `call.inputs`, `.output`.

    They are kept: give answers a clone (`call.inputs["x"].clone()`), which they may spoil.
    """
    return _recorded(seed)[name]
