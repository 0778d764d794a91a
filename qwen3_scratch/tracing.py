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
from typing import Any

from torch import Tensor

from . import model
from .errors import Error
from .fast import eager as reading

WATCHED = (
    model.rms_norm, model.rope_table, model.rope, model.attention_mask, model.attention_weights, model.gqa_attention,
    model.moe_route, model.expert_ffn, model.moe, model.self_attention, model.feed_forward, model.decoder_layer,
    model.embed, model.hidden_states, model.forward,
)  # fmt: skip

# What `generate` puts in the place of some of them, to be shown under the same names.
STAND_INS = {
    reading.library_norm: "rms_norm", reading.causal_attention: "gqa_attention",
    reading.onednn_ffn: "expert_ffn", reading.moe_of_one: "moe",
}  # fmt: skip


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
        call = self
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

    def __init__(self):
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
def trace(*functions: Callable) -> Iterator[Trace]:
    """Records every call of the model's functions, and of the given ones too, while the block runs.

    Values are kept by reference: a long trace holds all activations of its passes in memory. Raises Error for what
    is no Python function, whose calls the interpreter does not report.
    """
    for function in functions:
        if not hasattr(inspect.unwrap(function), "__code__"):
            raise Error(f"trace: {function!r} found, expected functions made by def: give the one that calls it")
    named = {function: function.__name__ for function in (*WATCHED, *functions)} | STAND_INS
    watched = {inspect.unwrap(function).__code__: name for function, name in named.items()}
    found, open_calls, previous = Trace(), [], sys.getprofile()

    def report(frame, event: str, value: Any) -> None:
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

    def form(self) -> tuple:
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
