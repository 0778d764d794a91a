"""A checkpoint's own Jinja template -> the text of a chat, within limits of reach, time and memory.

Jinja's sandbox keeps a template of others from reaching out and from changing what it is given, but not from looping
for ever or printing a gigabyte. Here each rendering has a budget (`template_limits.py`), and a template is rewritten
when it is compiled, so that what Jinja computes by itself passes by it too: loops, joined text, slices and literals.
"""

import json
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ..errors import Error, one_line
from .template_limits import (  # fmt: skip
    BEFORE_FILTER,
    BEFORE_OPERATOR,
    CALL,
    GIVES_WHAT_IS_THERE,
    ITEM,
    LEFT_OUT,
    STEP,
    WIDEST,
    Budget,
    Formatter,
    Notes,
    Steps,
    before_call,
    narrow,
    room,
    weigh,
)

LONGEST_TEMPLATE = 2**18  # characters; the longest known of a checkpoint has some 30,000
_BUDGET = "the budget"  # with a space: no template can write this name


# ---- the environment -------------------------------------------------------------------------


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything passes by the budget that the rendering brings in its context."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self):
        # Not optimised: constants, too, are computed at rendering, where there is a budget.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False, finalize=_finalize
        )
        del self.globals["lipsum"]
        self.globals |= {"namespace": Notes, "raise_exception": _raise_exception, "strftime_now": _strftime_now}
        kept = {name: function for name, function in self.filters.items() if name not in LEFT_OUT}
        self.filters = {name: _watched(name, function) for name, function in kept.items()}
        self.filters |= {"join": _join, "tojson": _to_json, **OPERATIONS}
        self.tests = {name: _watched(name, function) for name, function in self.tests.items()}

    def call(self, context: Context, function: Any, /, *args: Any, **named: Any) -> Any:
        budget = context.parent[_BUDGET]
        budget.pay(CALL)
        args = before_call(function, args)
        if isinstance(function, LoopContext) and args:  # a recursive loop goes down
            args = (budget.steps(args[0]), *args[1:])
        found = super().call(context, function, *args, **named)
        return found if getattr(function, "__name__", "") in GIVES_WHAT_IS_THERE else budget.made(found)

    def call_binop(self, context: Context, sign: str, left: Any, right: Any) -> Any:
        budget = context.parent[_BUDGET]
        if before := BEFORE_OPERATOR.get(sign):
            before(left, right)
        return budget.made(super().call_binop(context, sign, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if getattr(value, "__name__", None) not in ("format", "format_map"):
            return None
        if not isinstance(value, (types.MethodType, types.BuiltinMethodType)) or not isinstance(value.__self__, str):
            return None

        def formatted(*args: Any, **named: Any) -> str:
            by_name = value.__name__ == "format_map"
            room(len(value.__self__) * 64)  # a field takes a microsecond or two
            return Formatter(self).vformat(value.__self__, () if by_name else args, args[0] if by_name else named)

        return formatted


@jinja2.pass_context
def _finalize(context: Context, value: Any) -> str:
    """What is written out, as text."""
    return context.parent[_BUDGET].made(value if type(value) is str else str(value))


def _raise_exception(message: Any = "it gives no reason") -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: Any) -> str:
    return datetime.now().strftime(form)


def _watched(name: str, function: Callable) -> Callable:
    """A filter or test of Jinja that pays for what it does."""
    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
    before, is_there = BEFORE_FILTER.get(name), name in GIVES_WHAT_IS_THERE

    @jinja2.pass_context
    def watched(context: Context, *args: Any, **named: Any) -> Any:
        budget = context.parent[_BUDGET]
        budget.pay(STEP)
        if before:
            before(*args, **named)
        if any(isinstance(text, str) and len(text) > WIDEST for text in (named.get("attribute"), *args[1:2])):
            _long_argument(name)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        found = function(*([first[wants]] if wants else []), *args, **named)
        if isinstance(found, Iterator):
            return Steps(budget, found)
        return found if is_there else budget.made(found)

    return watched


def _long_argument(name: str) -> None:
    """The name of an attribute may be a path, which is walked for each item."""
    if name in ("groupby", "map", "max", "min", "rejectattr", "selectattr", "sort", "sum", "unique"):
        raise SecurityError(f"it names an attribute by more than {WIDEST} characters")


@jinja2.pass_context
def _join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    budget = context.parent[_BUDGET]
    items = list(budget.steps(value))
    if attribute is not None:
        items = list(context.environment.call_filter("map", items, kwargs={"attribute": attribute}, context=context))
    room(weigh(items) + len(items) * len(str(d)))
    return budget.made(str(d).join(map(str, items)))


@jinja2.pass_context
def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    """Jinja's own `tojson` escapes for HTML; templates of the hub count on plain JSON and on these options."""
    narrow(indent)
    wide = len(indent) if isinstance(indent, str) else max(indent or 0, 0)
    around = weigh(separators) if separators else 2
    room(weigh(value) * (1 + wide + around // ITEM))
    options = dict(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return context.parent[_BUDGET].made(json.dumps(value, **options))


# ---- what the compiled template calls, where Jinja would have computed by itself ---------------

LOOP, JOINED, MADE, TICK = "steps of a loop", "joined text", "a new value", "a moment"


@jinja2.pass_context
def _loop(context: Context, iterable: Any) -> Iterator:
    return context.parent[_BUDGET].steps(iterable)


@jinja2.pass_context
def _joined(context: Context, parts: list) -> str:
    """`a ~ b ~ c`"""
    texts = [str(part) for part in parts]
    room(sum(map(len, texts)))
    return context.parent[_BUDGET].made("".join(texts))


@jinja2.pass_context
def _made(context: Context, value: Any) -> Any:
    return context.parent[_BUDGET].made(value)


@jinja2.pass_context
def _tick(context: Context, value: Any) -> Any:
    context.parent[_BUDGET].pay(STEP)
    return value


OPERATIONS = {LOOP: _loop, JOINED: _joined, MADE: _made, TICK: _tick}


def _passing(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Rewriter(NodeTransformer):
    """Puts the four operations into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _passing(node.iter, LOOP)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _passing(nodes.List(node.nodes, lineno=node.lineno), JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Filter:
        return _passing(self.generic_visit(node), TICK)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const):
            return node
        return _passing(node, MADE if isinstance(node.arg, nodes.Slice) else TICK)

    def visit_List(self, node: nodes.List | nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _passing(node, MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self.visit_List(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        return _passing(self.generic_visit(node), MADE)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:
        return nodes.Const(node.data, lineno=node.lineno)  # text between the tags, which a loop may repeat

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> None:
        raise jinja2.TemplateSyntaxError("{% autoescape %} is for HTML, not for chats", node.lineno)


# ---- the two calls ---------------------------------------------------------------------------


def compile_template(source: str, name: str) -> jinja2.Template:
    """A template ready to be rendered; `name` is what messages call its checkpoint.

    Raises:
        Error: a template that is too long or that Jinja cannot read.
    """
    if len(source) > LONGEST_TEMPLATE:
        found = f"the chat template has {len(source)} characters, expected at most {LONGEST_TEMPLATE}"
        raise Error(f"{name}: {found}: fetch the file again")
    try:
        environment = _Environment()
        tree = _Rewriter().visit(environment.parse(source))
        code = environment.compile(tree, "chat template", "chat template")
        return jinja2.Template.from_code(environment, code, environment.make_globals(None))
    except Exception as error:  # Jinja's own, and Python's for what Jinja made of it: too deep, too many blocks
        raise _failed(name, error) from None


def render(template: jinja2.Template, name: str, **variables: Any) -> str:
    """The text that a compiled template makes of its variables, within the limits above.

    Raises:
        Error: whatever the template did wrong, or too much of.
    """
    parts, size = [], 0
    try:
        for part in template.generate(**variables, **{_BUDGET: Budget()}):
            size += len(part)
            room(size)
            parts.append(part)
        return "".join(parts)
    except Exception as error:  # a template is a program of others: anything may go wrong in it
        raise _failed(name, error) from None


def _failed(name: str, error: Exception) -> Error:
    found = one_line(" ".join(str(error).split()) or type(error).__name__)
    return Error(f"{name}: the chat template failed ({found}): check the messages and the template")
