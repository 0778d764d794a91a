"""Records the calls of the model's pure functions: names, shapes and values of what goes in and comes out, as a tree.

The interpreter itself reports the calls (`sys.setprofile`), only while a trace is open and only in its thread. So
the functions carry no hook: tracing costs nothing when off, `torch.compile` sees plain functions, and a call is seen
under whatever name it was imported. What runs inside a compiled graph is no Python call and is not recorded.
"""

import html
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from . import model
from .cache import KVCache
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.saving import named_tensors
from .checkpoints.weights import all_finite
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


Event = Literal["call", "return", "c_call", "c_return", "c_exception"]  # what the interpreter reports


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
        return Table(_render([_row(root) for root in self.roots]))


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
    found, previous = Trace(), sys.getprofile()

    def report(frame: FrameType, event: Event, value: Any) -> None:
        if previous is not None:
            previous(frame, event, value)
        if event not in ("call", "return") or frame.f_code not in watched:
            return
        if event == "return":
            open_calls.pop().output = value
            return
        code, local = frame.f_code, frame.f_locals
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        parent = open_calls[-1] if open_calls else None
        call = Call(watched[code], {name: local[name] for name in names}, parent=parent)
        (parent.children if parent else found.roots).append(call)
        open_calls.append(call)

    sys.setprofile(report)
    try:
        yield found
    finally:
        sys.setprofile(previous)


# The table: each call becomes a row of shapes; rows of one form are merged, sizes that differ become ranges.

Range = tuple[int, int]


@dataclass
class Row:
    name: str
    count: Range
    inputs: dict[str, tuple[Range, ...]]
    outputs: list[tuple[Range, ...]]
    children: list["Row"]

    def form(self) -> tuple[Any, ...]:
        """Rows of equal form differ in sizes only."""
        ranks = tuple((name, len(shape)) for name, shape in self.inputs.items())
        return self.name, ranks, tuple(map(len, self.outputs)), tuple(child.form() for child in self.children)


def _row(call: Call) -> Row:
    inputs = {name: shape for name, value in call.inputs.items() for shape in _shapes(value)[:1]}
    return Row(call.name, (1, 1), inputs, _shapes(call.output), _fold([_row(child) for child in call.children]))


def _shapes(value: Any) -> list[tuple[Range, ...]]:
    """The shapes of a tensor, or of the tensors of a flat tuple; the weights of a whole layer are left out."""
    if isinstance(value, Tensor):
        return [tuple((size, size) for size in value.shape)]
    if isinstance(value, tuple) and not isinstance(value, (model.LayerWeights, model.Weights, model.Ops)):
        return [shape for part in value for shape in _shapes(part)]
    return []


def _fold(rows: list[Row]) -> list[Row]:
    folded: list[Row] = []
    for row in rows:
        if folded and folded[-1].form() == row.form():
            last = folded.pop()
            row = _merge(last, row, (last.count[0] + 1, last.count[1] + 1))
        folded.append(row)
    return folded


def _merge(a: Row, b: Row, count: Range) -> Row:
    def span(x: Range, y: Range) -> Range:
        return min(x[0], y[0]), max(x[1], y[1])

    def shape(x: tuple[Range, ...], y: tuple[Range, ...]) -> tuple[Range, ...]:
        return tuple(map(span, x, y))

    inputs = {name: shape(a.inputs[name], b.inputs[name]) for name in a.inputs}
    children = [_merge(x, y, span(x.count, y.count)) for x, y in zip(a.children, b.children, strict=True)]
    return Row(a.name, count, inputs, list(map(shape, a.outputs, b.outputs)), children)


def _render(rows: list[Row]) -> str:
    lines = [("function", "in", "out")]

    def visit(row: Row, depth: int) -> None:
        times = "" if row.count == (1, 1) else f"  x {_size(row.count)}"
        inputs = "  ".join(f"{name} {_shape(shape)}" for name, shape in row.inputs.items())
        lines.append(("  " * depth + row.name + times, inputs, "  ".join(map(_shape, row.outputs))))
        for child in row.children:
            visit(child, depth + 1)

    for row in rows:
        visit(row, 0)
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in lines)


def _size(found: Range) -> str:
    return str(found[0]) if found[0] == found[1] else f"{found[0]}-{found[1]}"


def _shape(shape: tuple[Range, ...]) -> str:
    return "[" + ", ".join(map(_size, shape)) + "]"


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
    for ids in torch.tensor([token_ids], device=device).split(CHUNK, dim=1):
        with trace(linear, head) as recorded:  # products are no functions of ours, so they are made such
            model.forward(
                weights, ids, config, cache=cache, logits_to_keep=1, ops=ops._replace(linear=linear, head=head)
            )
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
    if call.name == "expert_ffn" and stack is not None and _within(used["down_proj"], stack):
        offset = used["down_proj"].storage_offset() - stack.storage_offset()
        detail = f" (expert {offset // stack.stride(0)})"
    return f"{of}{call.name}{detail}"


def _within(part: Tensor, stacked: Tensor) -> bool:
    return part.untyped_storage().data_ptr() == stacked.untyped_storage().data_ptr()
