"""A checkpoint's own Jinja template -> the text of a chat, within bounds of reach, time and memory.

Jinja's immutable sandbox bounds its reach; that operations take and make little, and pay for it, time and memory.
A chat is given to it as transformers gives it, and what it would lose of it is found by rendering once more.
"""

import functools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes, visitor
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import Error, one_line, shown

LONGEST_TEMPLATE = 2**18  # characters; the longest known of a checkpoint has some 30,000
LARGEST, DEEPEST = 2**23, 100  # of one value: bytes, which are two million tokens of English; lists in lists
MOST, WORK, SECONDS = 2**26, 2**27, 5  # of an operation, two sizes multiplied; of a rendering, bytes made and time
BY_NUMBER = {"*", "**", "batch", "center", "indent", "ljust", "rjust", "round", "slice", "zfill"}
LINEAR = {"+", "is", "count", "d", "default", "first", "length", "string", "tojson"}  # cost the sum of their sizes
LEFT_OUT = {"encode", "expandtabs", "format_map", "pprint", "striptags", "translate", "urlize", "wordwrap"}
FORMATS = {"%": r"%[^%a-zA-Z]*\*", "format": r"\{[^{}:]*[.\[]|\{[^{}]+\{"}  # fields whose size only a value knows
HOLDING = (list, tuple, dict, set, frozenset, range, *map(type, ({}.keys(), {}.values(), {}.items())))
_budget = threading.local()  # what the rendering of this thread has left


def weigh(value: Any, depth: int = 0) -> int:
    """The bytes of a value, roughly, with all that it holds as often as it holds it."""
    size = 40 + (len(value) * (1 if value.isascii() else 4) if isinstance(value, (str, bytes)) else 0)
    if isinstance(value, int):
        size += value.bit_length() ** 2 // 32  # as the time to print it: at most 16,384 bits
    elif isinstance(value, HOLDING):
        held: Any = (*value, *value.values()) if isinstance(value, dict) else value
        any((size := size + weigh(item, depth + 1)) > LARGEST for item in held)  # goes no further than that
    if size > LARGEST or depth > DEEPEST:
        raise SecurityError(f"a value is larger than {LARGEST} bytes or nested more than {DEEPEST} deep")
    return size


def _paid(value: Any, price: int = 64) -> Any:
    _budget.left -= price + weigh(value)
    if _budget.left < 0 or time.thread_time() > _budget.end:
        raise SecurityError("it computes too much, as a loop without end does")
    return value


def _run(name: str, function: Any, owner: Any, /, *taken: Any, **named: Any) -> Any:
    """What an operator, a filter, a test or a method of a text gives, if that takes and makes little."""
    args = [_paid(list(one)) if name not in LINEAR and isinstance(one, Iterator) else one for one in taken]
    given = [*owner, *args[hasattr(function, "jinja_pass_arg") :], *named.values()]  # without what is Jinja's own
    sizes = [len(one) for one in given if name not in LINEAR and isinstance(one, Sized)]
    if name in FORMATS and isinstance(given[0], str):  # so many fields, each as wide as a number or a value
        if re.search(FORMATS[name], given[0].replace("{{", "")):
            raise SecurityError("a size that only the values know is unsafe")
        sizes = [given[0].count("%" if name == "%" else "{"), weigh(given[1:]), *map(int, re.findall(r"\d+", given[0]))]
    elif name in BY_NUMBER and (sizes or name != "*"):
        sizes += [8 * abs(one) for one in given["*" not in name :] if isinstance(one, int)]
    product = math.prod(sorted(sizes * (1 + (name == "sum")))[-2:])  # a sum of lists copies them again and again
    if product > MOST or name in LEFT_OUT:
        raise SecurityError(f"{name!r} is unsafe here, since it takes or makes too much")
    if name in ("list", "part") and isinstance(given[0], HOLDING):  # it holds what is there already
        return _paid(None, 64 * len(cast(Any, given[0]))) or function(*args, **named)
    return _paid(function(*args, **named), 64 + product // 32)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    concat = staticmethod(lambda parts: "".join(_paid(list(parts))))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], optimized=False)
        text = self.filters["string"]
        self.finalize = jinja2.pass_context(lambda _, value: weigh(value) and _paid(text(value)))
        notes = type("Namespace", (jinja2.utils.Namespace,), {"__repr__": lambda _: "<Namespace>"})  # may hold itself
        now, lipsum = lambda form: datetime.now().strftime(form[:256]), jinja2.Undefined(name="lipsum")
        join = jinja2.pass_eval_context(lambda context, value, d="": jinja2.filters.do_join(context, value, d))
        self.globals |= dict(raise_exception=self.raise_exception, strftime_now=now, namespace=notes, lipsum=lipsum)
        self.filters |= {"tojson": self.to_json, "join": join, "sum": sum, "paid": lambda it: it, "part": lambda it: it}
        for table in cast(Any, (self.filters, self.tests, self.binop_table)):
            for name, function in table.items():
                kind = "is" if table is self.tests else "%" if name == "format" else name
                table[name] = functools.update_wrapper(functools.partial(_run, kind, function, ()), function)

    def call(self, context: Any, function: Any, /, *args: Any, **named: Any) -> Any:
        method = getattr(function, "__wrapped__", function)  # of `str.format`, in whose place the sandbox has its own
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if type(method) is type(len) and not isinstance(owner, (str, list, tuple, dict)):
            raise SecurityError(f"the method {name} is unsafe")
        if isinstance(owner, str):
            function = functools.partial(_run, name, function, (owner,))
        weigh((args, named))
        return _paid(super().call(context, function, *args, **named))

    def raise_exception(self, reason: Any = "it gives no reason") -> None:
        raise jinja2.TemplateError(str(reason))

    def to_json(
        self, value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        wide = (len(indent) if isinstance(indent, str) else indent or 0) + weigh(separators)
        options = dict(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return _run("json", lambda: json.dumps(value, **options), (range(weigh(value)), range(1 + wide)))


class _Paying(visitor.NodeTransformer):  # puts a filter where Jinja would compute by itself
    def generic_visit(self, node: nodes.Node) -> nodes.Node:
        if isinstance(node, nodes.For):
            node.iter = nodes.Filter(node.iter, "list", [], [], None, None)
        elif isinstance(node, nodes.Concat):
            node = nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None)
        super().generic_visit(node)
        sliced = isinstance(getattr(node, "arg", None), nodes.Slice)
        made = sliced or isinstance(node, nodes.List | nodes.Tuple | nodes.Dict | nodes.Compare)
        is_target = getattr(node, "ctx", "load") == "store"
        return nodes.Filter(node, "part" if sliced else "paid", [], [], None, None) if made and not is_target else node


def compile_template(source: str, name: str) -> jinja2.Template:
    """A template ready to be rendered, or an Error; `name` is what messages call its checkpoint."""
    try:
        if len(source) > LONGEST_TEMPLATE:
            raise SecurityError(f"it has {len(source)} characters, expected at most {LONGEST_TEMPLATE}")
        environment = _Environment()
        source = source.removeprefix("\ufeff")  # a byte order mark, as editors of Windows put it before a text
        source = re.sub(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})", r"\1\2with\3", source)  # a mark for training
        tree = _Paying().visit(environment.parse(source))
        return jinja2.Template.from_code(environment, environment.compile(tree), environment.globals)
    except Exception as error:  # Jinja's own, and Python's for what Jinja made of it: too deep, too many blocks
        raise _failed(name, error) from None


def render(template: jinja2.Template, name: str, **variables: Any) -> str:
    """The text that a compiled template makes of its variables, or an Error: it did something wrong, or too much."""
    _budget.left, _budget.end = WORK, time.thread_time() + SECONDS
    try:
        return template.environment.concat(template.generate(**variables))
    except Exception as error:  # a template is a program of others: anything may go wrong in it
        raise _failed(name, error) from None


def _failed(name: str, error: Exception) -> Error:
    found = one_line(" ".join(str(error).split()) or type(error).__name__)
    return Error(f"{name}: the chat template failed ({found}): check the messages and the template")


# ---- what a template is given of a chat, and what it loses -------------------------------------------

Message = dict[str, Any]
Tools = Sequence[dict[str, Any]]  # descriptions of functions
Render = Callable[[list[Message]], str]
THINKING = ("reasoning_content", "thinking", "reasoning")  # the names of one thing, the templates' own first
ROLES = ("system", "user", "assistant", "tool")


def read_messages(messages: Any) -> list[Message]:
    """A copy of a chat in plain types, without what is null, thinking under the name that templates read.

    Raises Error for what is no chat: each message a dict of a role and of a content, of thinking or of calls.
    """
    if not isinstance(messages, (list, tuple)):
        raise Error(f"messages is {shown(messages)}, expected a list of messages: write a list of dicts")
    if not messages:
        raise Error("messages: the chat is empty, expected at least one message: write one")
    _check_size("messages", messages)
    chat = []
    for number, given in enumerate(messages):
        message = plain(given, f"messages: entry {number}") if isinstance(given, Mapping) else {}
        message = {name: value for name, value in message.items() if value is not None}
        role = message.get("role")
        if not isinstance(role, str):
            found = shown(given)
            raise Error(f"messages: entry {number} is {found}, expected a role and a content: write a dict of both")
        thought = next((message[name] for name in THINKING if name in message), None)
        if "content" not in message and not message.get("tool_calls") and (thought is None or role != "assistant"):
            raise Error(f"messages: entry {number} ({shown(role)[1:-1]}) has no content, expected a text: add it")
        if thought is not None:
            message = {"thinking": thought, **message, "reasoning_content": thought}
        _check_parts(number, message)
        chat.append(message)
    return chat


def read_tools(tools: Any) -> list[dict[str, Any]] | None:
    if not (tools is None or (isinstance(tools, (list, tuple)) and all(isinstance(tool, Mapping) for tool in tools))):
        raise Error(f"tools is {shown(tools)}, expected a list of descriptions of functions: write a list of dicts")
    _check_size("tools", tools)
    return None if tools is None else [plain(tool, "tools") for tool in tools]


def _check_size(name: str, value: Any) -> None:
    try:
        weigh(value)
    except SecurityError as error:
        raise Error(f"{name}: {error}, expected what a model can read: shorten it") from None


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value in Python's own types, numbers of numpy and torch included: others bring methods of their own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    kinds: Any = (str, int, float)
    for kind in kinds:
        if isinstance(value, kind):  # of a class derived from it: what it is without that class
            return kind.__getnewargs__(value)[0]
    if depth <= DEEPEST and isinstance(value, Mapping):
        return {plain(name, where, depth + 1): plain(item, where, depth + 1) for name, item in value.items()}
    if depth <= DEEPEST and isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(plain(item, where, depth + 1) for item in value)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return plain(value.item(), where, depth + 1)
    expected = "expected texts, numbers, lists and dicts: convert it"
    raise Error(f"{where} holds a {type(value).__name__}, {expected}")


def _check_parts(number: int, message: Message) -> None:
    content = message.get("content")
    for part in content if isinstance(content, (list, tuple)) else ():
        if not (isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"):
            expected = "expected only texts, which are all that this model reads: take it out"
            role = shown(message["role"])[1:-1]
            raise Error(f"messages: entry {number} ({role}) has the part {shown(part)}, {expected}")


def check_nothing_lost(name: str, chat: list[Message], said: str, render: Render) -> None:
    """Error where a message is in the chat and not in what the template made of it, which is `said`.

    One rendering more with another word at the end of each message tells; a message whose word does not come out is
    asked for by itself, the first of each kind. Templates leave out on purpose, and may: thinking before the answer,
    space around it, calls and what is said beside them.
    """
    word = unheard([chat, said], "heard")
    marked = [_with_word(message, f"{word}{number}q") for number, message in enumerate(chat)]
    heard, kinds = (attempt(render, marked) or "").lower(), set()
    for number, message in enumerate(chat):
        kind = (message["role"], *sorted(message), type(message.get("content")))
        if (marked[number] is not message and f"{word}{number}q" in heard) or kind in kinds:
            continue
        kinds.add(kind)
        before, after = chat[:number], chat[number + 1 :]
        if _is_text(message) and not _may_be_silent(message):
            alone = attempt(render, [*before, marked[number], *after])
            lost = alone is not None and f"{word}{number}q" not in alone.lower()
        else:
            others = [*before, *([] if _may_be_silent(message) else [{**message, "content": ""}]), *after]
            lost = attempt(render, others) == said
        if lost:
            role = shown(message["role"])[1:-1]
            expected = f"expected a role that it writes, of which {', '.join(ROLES)} are the usual ones: mend the role"
            if role in ROLES:
                expected = "expected every text to come out again: leave it out, or use another checkpoint"
            raise Error(f"{name}: the chat template leaves out entry {number} of the messages ({role}), {expected}")


def _is_text(message: Message) -> bool:
    return isinstance(message.get("content"), (str, list, tuple))


def _may_be_silent(message: Message) -> bool:
    """Whether a template may leave out what is said and write the turn alone: it only calls, or is still thinking."""
    content = message.get("content")
    thinks = isinstance(content, str) and "<think>" in content.rpartition("</think>")[2]
    return content is None or bool(message.get("tool_calls")) or (thinks and message["role"] == "assistant")


def _with_word(message: Message, word: str) -> Message:
    """The message with a word at the end of what it says, or as the name of what it calls; else the message itself."""
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, str):
        return {**message, "content": content + word}
    if isinstance(content, (list, tuple)) and content:
        return {**message, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + word}]}
    if isinstance(content, dict):
        return {**message, "content": {**content, word: word}}
    if content is None and isinstance(calls, (list, tuple)) and isinstance(calls[0], dict):
        flat = calls[0].get("function") or calls[0]
        if isinstance(flat, dict) and isinstance(flat.get("name"), str):
            named = {**flat, "name": flat["name"] + word}
            return {
                **message,
                "tool_calls": [{**calls[0], **({"function": named} if "function" in calls[0] else named)}],
            }
    return message


def unheard(value: Any, word: str) -> str:
    """A word like this one that stands in none of the texts."""
    said = "\n".join(texts(value)).lower()
    while word in said:
        word += "x"
    return word


def attempt(render: Render, chat: list[Message]) -> str | None:
    try:
        return render(chat)
    except Error:
        return None


def texts(value: Any) -> Iterator[str]:
    """All texts within a value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)
