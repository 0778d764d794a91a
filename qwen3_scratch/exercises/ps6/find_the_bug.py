"""ps6: sick models to find the mistake in (notebook 13). Each is right but for one step, the last but for two."""

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ... import model
from ...cache import KVCache
from ...config import Config
from ...errors import Error
from ...inside.compare import first_difference
from ...inside.mistakes import MISTAKES
from ...model import Ops, Weights
from ...tracing import WATCHED, Trace, trace
from ..checking import Case, Exercise, Mistake, Stage, Wrong, case, trained
from ..material import text_ids, tiny
from ..watching import Raised
from .other_mends import OTHERS

SET = "ps6_find_the_bug"

FIELDS = {step.__name__: field for field, step in Ops()._asdict().items() if step in WATCHED}

# Which mistakes a patient has: the beginning of the digest of each one's name, so that this file does not tell.
CHARTS = {
    0: ("b57443c0",),
    1: ("3fb4d2cf",),
    2: ("c90f7acc",),
    3: ("cd0f72fd",),
    4: ("4d7ec7aa",),
    5: ("b1134207",),
    6: ("890520b3",),
    7: ("abacb7c2", "d784e1f5"),
}

ALLOWED = ("exercises/ps6/find_the_bug.py", "cache.py", "inside/compare.py")

NEAR = 1e-5  # what another order of the same sums may change, of a tensor's length

# ---- the patients ----------------------------------------------------------------------------


class Patient(NamedTuple):
    """A model that is wrong somewhere. Its steps bear the names of the right ones; where they are is not said."""

    number: int
    ops: Ops

    def __repr__(self) -> str:
        return f"patient({self.number})"

    @property
    def steps(self) -> tuple[Callable[..., Any], ...]:
        """Its functions, for `trace(*steps)`: a trace records only those that it is given, besides the model's own."""
        return tuple(getattr(self.ops, field) for field in FIELDS.values())

    def forward(self, *args: Any, **options: Any) -> Float[Tensor, "batch kept vocab"]:
        """Takes what the model's `forward` takes."""
        return model.forward(*args, ops=self.ops, **options)

    def mended(self, **steps: Callable[..., Any]) -> "Patient":
        """The same with other functions in the place of some, by their names: `mended(rope=my_rope)`.

        Raises Error for a name that is no step of the model.
        """
        for name in sorted(steps.keys() - FIELDS.keys()):
            raise Error(f"{self}: no step is called {name!r}, expected one of {', '.join(FIELDS)}: mend the name")
        return self._replace(ops=self.ops._replace(**{FIELDS[name]: step for name, step in steps.items()}))


@functools.cache
def patient(number: int) -> Patient:
    """One of the sick models of the exercises; 0 is the example. Raises Error for a number that there is not."""
    if number not in CHARTS:
        raise Error(f"patient: found {number!r}, expected 0 to {len(CHARTS) - 1}: mend the number")
    return Patient(number, _disguised(Ops()._replace(**_mistakes(number)), number))


def _mistakes(number: int) -> dict[str, Callable[..., Any]]:
    """Field of Ops -> the wrong function that a patient has there."""
    return {field: step for field, name, step, _ in _known() if _digest(name) in CHARTS[number]}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _known() -> list[tuple[str, str, Callable[..., Any], str]]:
    """Every wrong step that is known: where it stands, its name, the function, and what it does in words."""
    museum = [
        (field, name, step, f"{mistake.wrong}; right: {mistake.right}")
        for name, mistake in MISTAKES.items()
        for field, step in mistake.ops._asdict().items()
        if step in mistake.steps
    ]
    return museum + [(FIELDS[name], step.__name__, step, message) for name, step, message in OTHERS]


def _disguised(ops: Ops, number: int) -> Ops:
    """Copies of all steps, right and wrong, that look alike: with the right ones' names and without a source.

    What a wrong step calls are copies too, which no trace records. Line numbers make code that would be equal differ,
    since a trace knows a function by its code.
    """
    right = {name: _copy(getattr(model, name), name, 10000, {}) for name in FIELDS}
    given = {**right, "model": SimpleNamespace(**{**vars(model), **right})}
    steps = {field: _copy(getattr(ops, field), name, number + 1, given) for name, field in FIELDS.items()}
    return ops._replace(**steps)


def _copy(function: Callable[..., Any], name: str, line: int, given: dict[str, Any]) -> Callable[..., Any]:
    plain = inspect.unwrap(function)
    about = dict(co_name=name, co_qualname=name, co_filename="<patient>", co_firstlineno=line)
    return FunctionType(plain.__code__.replace(**about), {**plain.__globals__, **given}, name, plain.__defaults__)


# ---- how an answer is checked ----------------------------------------------------------------


class Treated(NamedTuple):
    """What an answer gives: the name of the guilty function, or a set of two, and the mended patient's logits."""

    guilty: Any
    logits: Tensor


@dataclass(frozen=True)
class Treatment(Exercise):
    """A patient to examine and to mend. A wrong name is told what the trace says of it, and never the right one."""

    number: int = 0

    @property
    def guilty(self) -> frozenset[str]:
        return frozenset(name for name, field in FIELDS.items() if field in _mistakes(self.number))

    def _answered(self, answer: Callable[..., Any], given: Case) -> Any:
        healthy = [step for other in CHARTS if other != self.number for step in patient(other).steps]
        with trace(*healthy) as calls:
            found = super()._answered(answer, given)
        borrowed = [name for name in FIELDS if calls[name]]  # a patient's own steps are in no trace of others
        if borrowed == list(FIELDS):
            raise Wrong(f"{self.name}: these are the reference's logits: run patient({self.number}), mended")
        for name in borrowed:
            raise Wrong(f"{self.name}: this calls a healthy `{name}` instead of mending: write the step yourself")
        if isinstance(found, Raised):
            return found
        if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], (str, set, frozenset)):
            raise Wrong(f"{self.name}: found {found!r:.60}, expected a name and logits: `return name, logits`")
        named = frozenset({found[0]} if isinstance(found[0], str) else found[0])
        for name in sorted(map(str, named - self.guilty)):
            raise Wrong(f"{self.name}: you name `{name}`.", self._seen_of(name))
        if named != self.guilty:
            raise Wrong(f"{self.name}: you name {len(named)} of {len(self.guilty)} guilty functions: one hides",
                        "behind the other, or in another setting. Trace the half-mended patient again.")  # fmt: skip
        return Treated(self.reference(*given.args, **given.kwargs).guilty, found[1])

    def _seen_of(self, name: str) -> str:
        """Why this is not the guilty one: what the first case says in which the patient is sick."""
        if name not in {function.__name__ for function in WATCHED}:
            return f"No function of the model is called that, expected one of {', '.join(FIELDS)}."
        draws = [chain.from_iterable(stage.cases(0) for stage in self.stages) for _ in range(2)]  # a cache each
        sick = patient(self.number)
        for given, again in zip(*draws, strict=True):
            with trace() as right:
                model.forward(*given.args, **given.kwargs)
            with trace(*sick.steps) as wrong:
                sick.forward(*again.args, **again.kwargs)
            if first_difference(right, wrong, NEAR) is not None:
                return f"In a trace ({given.note}), {_verdict(name, right, wrong)}"
        raise RuntimeError(f"{self.name}: no case shows the mistake")

    def _described(self, given: Case) -> str:
        return f"token_ids {[*given.args[1].shape]} ({given.note})"


def _verdict(name: str, right: Trace, wrong: Trace) -> str:
    for pair in zip(right[name], wrong[name], strict=True):
        sides = (Trace(), Trace())
        for side, call in zip(sides, pair, strict=True):
            side.roots.append(call)
        found = first_difference(*sides, NEAR)
        if found is not None and found.calls[0] is not pair[0]:
            return f"the difference arises in a call within `{name}`: name the innermost function."
        if found is not None and found.what.startswith("input"):
            return (
                f"`{name}` differs only after its {found.what} does: it passes on what it got. That is a symptom; "
                "find an earlier call whose inputs agree and whose output does not."
            )
    return f"no call of `{name}` differs from the reference's."


# ---- settings --------------------------------------------------------------------------------


def texts(seed: int) -> Iterator[Case]:
    """As everybody tries a model: a text in one pass."""
    for length, shift in ((40, 0), (23, 1)):
        given = _case(f"a text of {length} tokens", text_ids(seed + shift, length))
        yield replace(given, args=(tree_map_only(Tensor, Tensor.clone, given.args[0]), *given.args[1:]))


def configs(seed: int) -> Iterator[Case]:
    """As few try it: the config's other values."""
    ids, config = text_ids(seed, 40), tiny().config
    yield _case("one token", ids[:, 4:5])
    yield _case("a long text", text_ids(seed + 1, 150))
    window = dict(use_sliding_window=True, sliding_window=8, layer_types=("sliding_attention",) * 4)
    changes: dict[str, dict[str, Any]] = {
        "norm_topk_prob false": dict(norm_topk_prob=not config.norm_topk_prob),
        "three experts a token": dict(num_experts_per_tok=3),
        "another rope_theta": dict(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        "a large eps": dict(rms_norm_eps=0.1),
        "a sliding window": window,
        "a window of one token": window | dict(sliding_window=1),
    }
    for start, (note, changed) in enumerate(changes.items(), 1):
        yield _case(note, ids[:, start:], replace(config, **changed))


def stretched(seed: int) -> Iterator[Case]:
    """For texts longer than those of training."""
    yarn = dict(factor=4.0, original_max_position_embeddings=16)
    for start, (kind, changed) in enumerate({"yarn": yarn, "linear": dict(factor=3.0)}.items()):
        rope = {"rope_type": kind, "rope_theta": 1e4, **changed}
        yield _case(f"{kind} scaling", text_ids(seed, 30)[:, start:], replace(tiny().config, rope_parameters=rope))


def in_use(seed: int) -> Iterator[Case]:
    """As a model is used: padding, a cache, and both."""
    ids = text_ids(seed, 40)
    both, keep = _padded(seed)
    yield _case("two rows, the second padded", both, attention_mask=keep)
    for new in (10, 1):
        note = f"{new} token{'s' * (new > 1)} after a cache"
        yield _case(note, ids[:, 30 - new : 30], cache=_filled(seed, 30 - new))
    note = "two rows, the second padded, after a cache"
    yield _case(note, both[:, -1:], attention_mask=keep[:, -1:], cache=_filled(seed, 29, padded=True))


def loud(seed: int) -> Iterator[Case]:
    """What a short text leaves out: exclamation marks, which are token 0, and a text said three times."""
    marked = text_ids(seed, 24).clone()
    marked[:, 6::7] = 0
    yield _case("a text with exclamation marks", marked)
    yield _case("a text said three times", text_ids(seed + 1, 40).repeat(1, 3))


def learning(seed: int) -> Iterator[Case]:
    yield _case("a text of 12 tokens", text_ids(seed % 7, 12))


def _case(note: str, ids: Tensor, config: Config | None = None, **options: Any) -> Case:
    """With the checkpoint's own weights: an answer that writes into weights fails at the copies of the first stage."""
    return case(tiny().weights, ids.clone(), config or tiny().config, note=note, **options)


class _Cache(KVCache):
    def __repr__(self) -> str:
        return f"a cache of {self.length} tokens"


@functools.lru_cache(maxsize=16)
def _read(seed: int, length: int, padded: bool) -> KVCache:
    ids, keep = _padded(seed) if padded else (text_ids(seed, 30), torch.ones(1, 30, dtype=torch.bool))
    cache = _Cache(tiny().config, len(ids), 64)
    with torch.no_grad():
        model.forward(tiny().weights, ids[:, :length], tiny().config, attention_mask=keep[:, :length], cache=cache)
    return cache


def _filled(seed: int, length: int, padded: bool = False) -> KVCache:
    """A cache that holds the first tokens of a text, or of the two rows of `_padded`."""
    return copy.deepcopy(_read(seed, length, padded))


def _padded(seed: int) -> tuple[Tensor, Tensor]:
    """Two texts in a batch, the second behind padding, and which tokens are none."""
    ids = torch.cat((text_ids(seed, 30), F.pad(text_ids(seed + 1, 23), (7, 0))))
    return ids, torch.arange(30) >= torch.tensor([[0], [7]])


# ---- the exercises ---------------------------------------------------------------------------


def _treatment(number: int, *further: Stage) -> Treatment:
    wrong = _mistakes(number)
    names = frozenset(name for name, field in FIELDS.items() if field in wrong)
    guilty = next(iter(names)) if len(names) == 1 else names

    def treated(run: Callable[..., Tensor]) -> Callable[..., Treated]:
        def function(
            weights: Weights, token_ids: Tensor, config: Config, *, attention_mask: Any = None, cache: Any = None
        ) -> Treated:
            return Treated(guilty, run(weights, token_ids, config, attention_mask=attention_mask, cache=cache))

        return function

    def with_steps(**steps: Callable[..., Any]) -> Callable[..., Treated]:
        return treated(functools.partial(model.forward, ops=Ops(**steps)))

    untreated = "These are the untreated patient's numbers: your mend changes nothing here."
    left = "One mistake is mended and the other is left: trace the half-mended patient again."
    mistakes = [Mistake(untreated, with_steps(**wrong))]
    if len(wrong) > 1:
        mistakes += [Mistake(left, with_steps(**{field: step})) for field, step in wrong.items()]
    for field, _, step, message in _known():
        if field in wrong and wrong[field] is not step:
            mistakes.append(Mistake(f"As you have mended it, {message}.", with_steps(**{field: step})))
    return Treatment(
        f"patient_{number}", SET, treated(model.forward),
        stages=(
            Stage("texts", texts, tolerance=5e-5),
            Stage("other configs", configs, tolerance=5e-5),
            Stage("padding and a cache", in_use, tolerance=5e-5),
            *further,
            Stage("stretched for long texts", stretched, tolerance=5e-5),
            trained(learning),
        ),
        mistakes=tuple(mistakes), number=number, may=ALLOWED, loose=True,
    )  # fmt: skip


EXERCISES = (
    *(_treatment(number) for number in range(1, 7)),
    _treatment(7, Stage("loud and long texts", loud, tolerance=5e-5)),
)
