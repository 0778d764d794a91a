"""How an answer to an exercise is checked: stage by stage, against the reference, with the likely mistake named."""

import copy
import inspect
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .comparing import brief, difference, same
from .watching import Products, Raised, Watch, outcome, watched


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


Cases = Callable[[int], Iterable[Case]]


@dataclass(frozen=True)
class Stage:
    """Some cases under one title.

    `cases(seed)` yields the same cases whenever it is called with one seed: answer and reference each get arguments
    of their own, so that neither sees what the other did to them. `tolerance` and `share` are those of `difference`;
    `of` says what of a result counts, where several are right. With `gradients` they are compared too, but for those of
    arguments that are `fixed`. With a `limit` the stage is about time: the answer may take so many times as long as the
    reference, and as many calls. `work` is the same for products of matrices, in number and in size. `worth` is its
    part of the points that the stages after the first divide: 2 is twice what a usual one has.
    """

    title: str
    cases: Cases
    tolerance: int | float | None = None
    share: int | float = 0
    limit: int | float | None = None
    fixed: tuple[str, ...] = ()
    advice: str = "a Python loop does what one product of whole tensors can do"
    gradients: bool = False
    work: int | float | None = None
    worth: int | float = 1
    of: Callable[[Any], Any] = lambda result: result


def trained(cases: Cases, *fixed: str, count: int = 3) -> Stage:
    """The first of these cases again, with other numbers, as in training: gradients have to come through.

    `fixed` are arguments that nobody trains: a table of angles may be used in parts.
    """
    return Stage("gradients", lambda seed: islice(cases(seed + 70), count), tolerance=1e-4, fixed=fixed, gradients=True)


@dataclass(frozen=True)
class Mistake:
    """A wrong way that is known: where it gives what the answer gives, the message names it."""

    message: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """One function to write. `own` are functions that the answer must not call, since they are the answer.

    `may` are files and functions of the package, besides the model's, that it may call. What is `loose` (all of a
    result, or some of its parts by name) may be of any type of whole or of floating numbers, since the text names none.
    """

    name: str
    set: str
    reference: Callable[..., Any]
    stages: tuple[Stage, ...]
    mistakes: tuple[Mistake, ...] = ()
    own: tuple[Callable[..., Any], ...] = ()
    may: tuple[Any, ...] = ()
    loose: bool | tuple[str, ...] = False

    def check(self, answer: Callable[..., Any], seed: int = 0, hidden: bool = False) -> Passed:
        """Prints a line for each stage that passes; raises Wrong at the first case that does not.

        Where nothing is written yet it says so, and a chapter can go on; with `hidden`, to be graded, that is Wrong.
        """
        passed = Passed()
        for stage, found in self.tried(answer, seed):
            if isinstance(found, Unwritten) and not hidden:
                print(found)
                return Passed()
            if isinstance(found, Wrong):
                raise found
            print(f"{self.name}: {stage.title} ok ({found} case{'s' if found != 1 else ''})")
            passed.append((stage.title, found))
        return passed

    def tried(self, answer: Callable[..., Any], seed: int = 0) -> Iterator[tuple[Stage, int | Wrong]]:
        """Each stage with the number of its cases, or with what is wrong in the first that is not right."""
        if not callable(answer):
            raise Wrong(f"{self.name}: found {answer!r:.60}, expected a function: give its name without parentheses")
        for stage in self.stages:
            try:
                with _settled():
                    found: int | Wrong = self._compared(stage, answer, seed)
                    if stage.limit:
                        self._timed(stage, answer, seed, stage.limit)
            except Wrong as wrong:
                found = wrong.with_traceback(None)
            yield stage, found

    def _compared(self, stage: Stage, answer: Callable[..., Any], seed: int) -> int:
        number = -1
        draws = zip(stage.cases(seed), stage.cases(seed), stage.cases(seed), strict=True)
        for number, (mine, theirs, before) in enumerate(draws):
            mine = copy.deepcopy(mine)  # some cases share a config, which an answer may spoil
            where = f"{self.name}, {stage.title}, {self._described(before)}"
            if stage.gradients:
                self._gradients(where, stage, answer, mine, theirs)
                continue
            expected = self.reference(*theirs.args, **theirs.kwargs)
            found = self._answered(answer, mine)
            wrong = self._differs(found, expected, stage) if not isinstance(found, Raised) else found.told(answer)
            if wrong:
                raise Wrong(f"{where}:", f"{wrong}.", self._likely(answer, stage, seed, number))
            if changed := self._changed(mine, theirs, before):
                advice = "work on new tensors (no `+=`, no `x[...] =`)"
                if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(self._bound(before)[changed])):
                    advice = "work on a copy"
                raise Wrong(f"{where}:", f"right, but {changed} was changed in place: {advice}")
            if stage.work:
                self._weighed(where, stage, answer, stage.work, before)
        if number < 0:
            raise RuntimeError(f"{self.name}, {stage.title}: no cases")
        return number + 1

    def _answered(self, answer: Callable[..., Any], given: Case) -> Any:
        """The answer's result or what it raised; Wrong where it is unwritten or calls what it should be."""
        watch = Watch((*self.own, self.reference), self.may)
        found = outcome(answer, given, watched(watch))
        if isinstance(found, Raised) and isinstance(found.error, NotImplementedError) and len(found.frames) == 2:
            raise Unwritten(f"{self.name}: not written yet: replace `raise NotImplementedError` by your code")
        if watch.called:
            raise Wrong(f"{self.name}: this calls `{watch.called[0]}`, which is the answer itself: write it yourself")
        if watch.entered:
            raise Wrong(
                f"{self.name}: this calls `{watch.entered[0]}`, which the task does not offer: write it yourself"
            )
        return found

    def _differs(self, found: Any, expected: Any, stage: Stage) -> str | None:
        with suppress(Exception):  # of another kind, which is what the comparison says
            found, expected = stage.of(found), stage.of(expected)
        return difference(found, expected, stage.tolerance, stage.share, self.loose)

    def _gradients(self, where: str, stage: Stage, answer: Callable[..., Any], mine: Case, theirs: Case) -> None:
        """Raises Wrong where a gradient of the result is not the reference's."""
        theirs, own = (self._learning(given, stage.fixed) for given in (theirs, mine))
        with torch.enable_grad():
            expected, found = self.reference(*theirs.args, **theirs.kwargs), self._answered(answer, own)
            right = [part for part in tree_leaves(expected) if _floating(part)]
            parts = [part for part in tree_leaves(found) if _floating(part)]
            if isinstance(found, Raised) or len(parts) != len(right) or self._differs(found, expected, stage):
                told = found.told(answer) if isinstance(found, Raised) else "the numbers are not right as in training"
                raise Wrong(f"{where}:", f"where gradients are kept, {told}.")
            how = "(no `.detach()`, `.data`, `torch.no_grad`, numpy, nor a new tensor of the numbers)"
            if not all(part.requires_grad for part in parts):
                raise Wrong(f"{where}:", f"right, but no gradient passes, so that nothing could be trained {how}")
            wanted, given = (
                [leaf for leaf in tree_leaves(side.kwargs) if _floating(leaf) and leaf.requires_grad]
                for side in (theirs, own)
            )
            try:
                theirs_of, own_of = _gradients_of(right, wanted), _gradients_of(parts, given)
            except RuntimeError as error:
                raise Wrong(
                    f"{where}:", f"right, but its gradient cannot be taken: {str(error).splitlines()[0]}"
                ) from None
        for name, value in own.kwargs.items():
            for number in (
                number for number, each in enumerate(given) if any(each is leaf for leaf in tree_leaves(value))
            ):
                if wrong := difference(own_of[number], theirs_of[number], 1e-3):
                    raise Wrong(f"{where}:", f"right, but the gradient that {name} gets is not: {wrong}.", how)

    def _weighed(self, where: str, stage: Stage, answer: Callable[..., Any], most: int | float, given: Case) -> None:
        """Raises Wrong where the answer takes more products, or larger ones, than the reference takes so many times."""
        mine, theirs = Products(), Products()
        outcome(answer, copy.deepcopy(given), mine)
        outcome(self.reference, copy.deepcopy(given), theirs)
        for count, usual, what in ((mine.work, theirs.work, "the work"), (mine.count, theirs.count, "the products")):
            if count > most * usual:
                raise Wrong(
                    f"{where}:", f"right, but it takes {count / usual:.1f} times {what} that suffice: {stage.advice}"
                )

    def _likely(self, answer: Callable[..., Any], stage: Stage, seed: int, number: int) -> str:
        """The known mistake that does on this case what the answer did, as a further sentence, or nothing.

        Where several do, it is the one that agrees with the answer on the most cases of all stages.
        """
        likely = [each for each in self.mistakes if self._alike(answer, each.function, stage, seed, number)]
        if len(likely) > 1:
            stages = [each for each in self.stages if not each.limit and not each.gradients]
            cases = [(each, i) for each in stages for i, _ in enumerate(each.cases(seed))]
            agreeing = [
                sum(self._alike(answer, mistake.function, each, seed, i) for each, i in cases) for mistake in likely
            ]
            likely = [likely[agreeing.index(max(agreeing))]]
        return likely[0].message if likely else ""

    def _alike(self, one: Callable[..., Any], other: Callable[..., Any], stage: Stage, seed: int, number: int) -> bool:
        """Whether two functions give the same result on a case, or fail in the same way."""
        draws = (copy.deepcopy(next(islice(stage.cases(seed), number, None))) for _ in range(2))
        a, b = (outcome(function, given) for function, given in zip((one, other), draws, strict=True))
        if isinstance(a, Raised) or isinstance(b, Raised):
            return isinstance(a, Raised) and isinstance(b, Raised) and a.alike == b.alike
        return not difference(a, b, stage.tolerance, stage.share, self.loose)

    def _changed(self, mine: Case, theirs: Case, before: Case) -> str | None:
        """The name of an argument that the answer changed and the reference did not."""
        after, right, fresh = (self._bound(given) for given in (mine, theirs, before))
        return next(
            (name for name in fresh if not same(after[name], fresh[name]) and same(right[name], fresh[name])), None
        )

    def _timed(self, stage: Stage, answer: Callable[..., Any], seed: int, limit: int | float) -> None:
        """The best of a few runs each, over all cases; what else the machine does can only make a run longer.

        So time alone says nothing: what is too slow has to make more calls as well, or to work outside of tensors.
        """
        given, mine_of, theirs_of = next(iter(stage.cases(seed))), Watch(), Watch()
        found = outcome(answer, copy.deepcopy(given), watched(mine_of))
        outcome(self.reference, given, watched(theirs_of))
        taken_out = mine_of.taken_out - sum(
            not isinstance(leaf, Tensor) for leaf in tree_leaves(found)
        )  # may be a list
        usual = max(theirs_of.calls, 3)
        where = f"{self.name}, {stage.title}: right, but"
        if mine_of.calls > 3 * usual or taken_out > 1000 or mine_of.arrays:
            ratio = max(self._ratio(answer, each) for each in stage.cases(seed))
            if ratio > limit:
                about = 10 ** math.floor(math.log10(ratio))
                times = f"about {round(ratio / about) * about} times slower than it could be"
                raise Wrong(f"{where} {times}: {stage.advice}")
        if taken_out > 1000:
            raise Wrong(f"{where} {taken_out} numbers leave their tensors one by one: {stage.advice}")
        if mine_of.calls > limit * usual:
            raise Wrong(f"{where} by {mine_of.calls} calls where {theirs_of.calls} do: {stage.advice}")

    def _ratio(self, answer: Callable[..., Any], given: Case) -> float:
        mine = min(_seconds(answer, given) for _ in range(3))
        return mine / min(_seconds(self.reference, given) for _ in range(9))

    def _learning(self, given: Case, fixed: tuple[str, ...]) -> Case:
        """The case with tensors that ask for a gradient."""

        def asking(leaf: Tensor) -> Tensor:
            return leaf.detach().clone().requires_grad_() if leaf.is_floating_point() else leaf

        bound = self._bound(given).items()
        return Case((), {k: v if k in fixed else tree_map_only(Tensor, asking, v) for k, v in bound}, given.note)

    def _bound(self, given: Case) -> dict[str, Any]:
        return inspect.signature(self.reference).bind(*given.args, **given.kwargs).arguments

    def _described(self, given: Case) -> str:
        parts = [f"{name} {brief(value)}" for name, value in self._bound(given).items()]
        return ", ".join(parts) + (f" ({given.note})" if given.note else "")


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _gradients_of(parts: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Of a weighted sum of all numbers of a result, zeros where it does not depend on a leaf."""
    g = torch.Generator().manual_seed(0)
    total = sum((part.double() * torch.randn(part.shape, generator=g)).sum() for part in parts)
    found = torch.autograd.grad(total, leaves, allow_unused=True)  # type: ignore[arg-type]
    return [torch.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True)]


def _seconds(function: Callable[..., Any], given: Case) -> float:
    start = time.perf_counter()
    function(*given.args, **given.kwargs)
    return time.perf_counter() - start


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
