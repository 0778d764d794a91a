"""Records the calls of the model's pure functions: names, shapes and values of what goes in and comes out, as a tree.

The interpreter itself reports the calls (`sys.setprofile`), only while a trace is open and only in its thread. So
the functions carry no hook: tracing costs nothing when off, `torch.compile` sees plain functions, and a call is seen
under whatever name it was imported. What runs inside a compiled graph is no Python call and is not recorded.
"""

import html
import inspect
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from types import CodeType, FrameType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import model
from .cache import KVCache
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.saving import named_tensors
from .checkpoints.weights import all_finite
from .config import Config
from .errors import Error
from .fast import eager

WATCHED: tuple[Callable[..., Any], ...] = (
    model.rms_norm, model.rope_table, model.rope, model.attention_mask, model.attention_weights, model.gqa_attention,
    model.moe_route, model.expert_ffn, model.moe, model.self_attention, model.feed_forward, model.decoder_layer,
    model.embed, model.hidden_states, model.forward,
)  # fmt: skip

# What `generate` puts in the place of some of them, to be shown under the same names.
STAND_INS: dict[Callable[..., Any], str] = {
    eager.library_norm: "rms_norm", eager.causal_attention: "gqa_attention",
    eager.ffn_by: "expert_ffn", eager.moe_of_one: "moe",
}  # fmt: skip


Report = Callable[[FrameType, Any, Any], Any]  # of an event: where, "call" or "return" or another, and what with it


@dataclass(eq=False)  # a call is itself: comparing would compare tensors
class Call:
    """One call of a pure function."""

    name: str
    inputs: dict[str, Any]
    output: Any = None
    children: list["Call"] = field(default_factory=list, repr=False)
    parent: "Call | None" = field(default=None, repr=False)

    @property
    def layer(self) -> int | None:
        """The number of the decoder layer that the call belongs to, or None outside the layers."""
        call: Call | None = self
        while call is not None and call.name != "decoder_layer":
            call = call.parent
        if call is None:
            return None
        siblings = call.parent.children if call.parent else [call]
        return [sibling for sibling in siblings if sibling.name == "decoder_layer"].index(call)

    def walk(self) -> Iterator["Call"]:
        """This call and all calls inside it, in the order in which they began."""
        yield self
        for child in self.children:
            yield from child.walk()


class Trace:
    """What was recorded: `t["moe_route"]` lists the calls of a function, `t.table()` shows the shapes of all."""

    def __init__(self) -> None:
        self.roots: list[Call] = []

    def __iter__(self) -> Iterator[Call]:
        for root in self.roots:
            yield from root.walk()

    def __getitem__(self, name: str) -> list[Call]:
        """All calls of one function, in order. A function that was never called gives an empty list."""
        return [call for call in self if call.name == name]

    def table(self) -> "Table":
        """One line a call, indented by depth, repeated calls of one form folded into one line with their count."""
        lines = [("function", "in", "out"), *(line for root in self.roots for line in _lines([[root]]))]
        widths = [max(len(line[column]) for line in lines) for column in range(2)]
        return Table("\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in lines))


class Table(str):
    """A text that shows itself as it is at the end of a notebook cell, and there scrolls sideways rather than wraps."""

    __repr__ = str.__str__

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre; overflow-x: auto; font-size: 85%">{html.escape(self)}</pre>'


@contextmanager
def trace(*functions: Callable[..., Any]) -> Iterator[Trace]:
    """Records every call of the model's functions, and of the given ones too, while the block runs.

    Values are kept by reference: a long trace holds all activations of its passes in memory. Raises Error for what
    is no Python function, whose calls the interpreter does not report.
    """
    for function in functions:
        if not hasattr(inspect.unwrap(function), "__code__"):
            raise Error(f"trace: {function!r} found, expected functions made by def: give the one that calls it")
    named = {function: function.__name__ for function in (*WATCHED, *functions)} | STAND_INS
    watched = {inspect.unwrap(function).__code__: name for function, name in named.items()}
    open_calls: list[Call] = []
    found = Trace()

    def report(frame: FrameType, event: Any, value: Any) -> None:
        if event not in ("call", "return") or frame.f_code not in watched:
            return
        if event == "return":
            if open_calls:  # none: it was called before the trace began
                open_calls.pop().output = value
            return
        code, local = frame.f_code, frame.f_locals
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        parent = open_calls[-1] if open_calls else None
        call = Call(watched[code], {name: local[name] for name in names}, parent=parent)
        (parent.children if parent else found.roots).append(call)
        open_calls.append(call)

    profiler = sys.getprofile()
    with profiled(report, profiler) if profiler is None or callable(profiler) else traced(report, watched.keys()):
        yield found


@contextmanager
def profiled(report: Report, before: Report | None) -> Iterator[None]:
    """Reports each call and return, and hands on what a profile function is told that was there before."""

    def both(frame: FrameType, event: Any, value: Any) -> None:
        if before is not None:
            before(frame, event, value)
        report(frame, event, value)

    sys.setprofile(both)
    try:
        yield
    finally:
        if sys.getprofile() is both:  # else another has taken the place since
            sys.setprofile(before)


@contextmanager
def traced(report: Report, codes: Container[CodeType]) -> Iterator[None]:
    """The same where the one place for a profiler is taken by one that is not written in Python: cProfile until 3.11.

    The interpreter tells a debugger of calls as well, and one that was there before is told on.
    """
    before: Any = sys.gettrace()

    def begin(frame: FrameType, event: Any, value: Any) -> Any:
        inner = before and before(frame, event, value)
        if frame.f_code not in codes:
            return inner
        report(frame, event, value)
        frame.f_trace_lines = inner is not None

        def within(frame: FrameType, event: Any, value: Any) -> Any:
            nonlocal inner
            inner = inner and inner(frame, event, value)
            report(frame, event, value)
            return within

        return within

    sys.settrace(begin)
    try:
        yield
    finally:
        sys.settrace(before)


# The table: neighbours of one form make a run and share a line, in which sizes that differ become ranges.


def _shapes(value: Any) -> list[torch.Size]:
    """The shapes of a tensor, or of the tensors of a flat tuple; the weights of a whole layer are left out."""
    if isinstance(value, Tensor):
        return [value.shape]
    if isinstance(value, tuple) and not isinstance(value, (model.LayerWeights, model.Weights, model.Ops)):
        return [shape for part in value for shape in _shapes(part)]
    return []


def _shown(call: Call) -> tuple[list[str], list[torch.Size]]:
    """The names of the inputs that have a shape, and all shapes: theirs, of a tuple the first, then the outputs'."""
    given = {name: shapes[0] for name, value in call.inputs.items() if (shapes := _shapes(value))}
    return list(given), [*given.values(), *_shapes(call.output)]


def _form(call: Call) -> tuple[Any, ...]:
    """Calls of equal form differ in sizes only, and in how often the same is called in them."""
    names, shapes = _shown(call)
    return call.name, names, [len(shape) for shape in shapes], [_form(run[0]) for run in _runs(call.children)]


def _runs(calls: list[Call]) -> list[list[Call]]:
    return [list(run) for _, run in groupby(calls, key=_form)]


def _lines(runs: Sequence[list[Call]], depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """The line of a run, together with those in the same place of other calls, and the lines of what they called."""
    calls = [call for run in runs for call in run]
    names, _ = _shown(calls[0])
    shapes = [_sizes(same) for same in zip(*(_shown(call)[1] for call in calls), strict=True)]
    times = _range([len(run) for run in runs])
    title = "  " * depth + calls[0].name + ("" if times == "1" else f"  x {times}")
    given = (f"{name} {shape}" for name, shape in zip(names, shapes, strict=False))
    yield title, "  ".join(given), "  ".join(shapes[len(names) :])
    for below in zip(*(_runs(call.children) for call in calls), strict=True):
        yield from _lines(below, depth + 1)


def _sizes(shapes: Sequence[torch.Size]) -> str:
    return "[" + ", ".join(map(_range, zip(*shapes, strict=True))) + "]"


def _range(sizes: Sequence[int]) -> str:
    least, most = min(sizes), max(sizes)
    return f"{least}" if least == most else f"{least}-{most}"


# ---- where numbers stopped being finite ---------------------------------------------------------

CHUNK = 64  # tokens whose activations are held at a time, of all layers
ACTIVATIONS = ("x", "q", "k", "v")  # how the model's functions call what they are given besides weights


def explain(checkpoint: Checkpoint, token_ids: list[int], what: str) -> Error:
    """The Error for logits that are NaN or infinite after a text: where it began, and what to do about it."""
    began, dtype = origin(checkpoint, token_ids), str(checkpoint.dtype).removeprefix("torch.")
    named = named_tensors(checkpoint.weights, checkpoint.config)
    spoilt = next((name for name, tensor in named if not all_finite(tensor)), None)
    if spoilt is not None:
        began, advice = f"tensor {spoilt} of the weights", "load or train them again"
    elif checkpoint.dtype == torch.float16:
        advice = "float16 ends at 65504, so load in bfloat16 or float32"
    else:
        advice = "check that weights and config belong together"
    where = f"first in {began}" if began else "which does not show when the text is read again"
    return Error(f"{what}: NaN or infinity in the logits ({dtype}), {where}, expected finite numbers: {advice}")


@torch.inference_mode()
def origin(checkpoint: Checkpoint, token_ids: list[int]) -> str | None:
    """The first function from which a number came that is not finite, such as "layer 3's expert_ffn (expert 5)".

    All chunks are read to the end even so: where a model lies on many devices, each of them takes part in every pass.
    """
    weights, config, ops = checkpoint.weights, checkpoint.config, checkpoint.ops

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return ops.linear(x, weight, bias)

    def head(x: Tensor, weight: Tensor) -> Tensor:
        return ops.head(x, weight)

    dtype, device, found = checkpoint.dtype, checkpoint.device, None
    cache = KVCache(config, 1, len(token_ids), chunk=CHUNK, dtype=dtype, device=device)
    watched = ops._replace(linear=linear, head=head)  # products are no functions of ours, so they are made such
    for ids in torch.tensor([token_ids], device=device).split(CHUNK, dim=1):
        with trace(linear, head) as recorded:
            model.forward(weights, ids, config, cache=cache, logits_to_keep=1, ops=watched)
        blamed = next(filter(None, map(_blamed, recorded.roots)), None)
        found = found or (None if blamed is None else _described(blamed, weights))
    return found


def _blamed(call: Call) -> Call | None:
    """The innermost call in which it began: what a call is given spoilt was spoilt between two calls of its parent."""
    if not all(map(_finite, (call.inputs.get(name) for name in ACTIVATIONS))):
        return call.parent
    inside = next(filter(None, map(_blamed, call.children)), None)
    return inside or (None if _finite(call.output) else call)


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _described(call: Call, weights: model.Weights) -> str:
    """With the weight that was used, or the expert, where there are several calls of the function in a layer."""
    of, used = "" if call.layer is None else f"layer {call.layer}'s ", call.inputs
    tree = weights if call.layer is None else weights.layers[call.layer]
    names = (name for name in tree._fields if used.get("weight") is getattr(tree, name) is not None)
    detail = "".join(f" ({name})" for name in names)
    stack = tree.down_proj if isinstance(tree, model.LayerWeights) and tree.router is not None else None
    if call.name == "expert_ffn" and stack is not None:
        part = used["down_proj"]
        if part.untyped_storage().data_ptr() == stack.untyped_storage().data_ptr():
            detail = f" (expert {(part.storage_offset() - stack.storage_offset()) // stack.stride(0)})"
    return f"{of}{call.name}{detail}"


# ---- what a trace makes visible -----------------------------------------------------------------


def head_weights(
    weights: model.Weights, config: Config, token_ids: Int[Tensor, "batch seq"], ops: model.Ops = model.Ops()
) -> Float[Tensor, "layers batch heads seq seq"]:
    """The attention weights of all heads in one pass, recomputed from the queries and keys that the pass used."""
    with trace() as t:
        model.forward(weights, token_ids, config, logits_to_keep=1, ops=ops)
    calls = [call.inputs for call in t["gqa_attention"]]
    return torch.stack([model.attention_weights(call["q"], call["k"], call["mask"]) for call in calls]).float()
