"""Chats to text by the embedded template, which is our own writing, and by Qwen3's, beside transformers."""

import copy
import functools
import inspect
import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen3_files import npm_file
from transformers import PreTrainedTokenizerFast

import qwen3_scratch
from qwen3_scratch import Error
from qwen3_scratch.tokenizer import Tokenizer
from qwen3_scratch.trust.chat_template import compile_template, read_messages, render

EMBEDDED = (Path(qwen3_scratch.__file__).parent / "tiny" / "chat_template.jinja").read_text(encoding="utf-8")
BACKEND = tokenizers.Tokenizer(tokenizers.models.BPE())
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a <place> & its temperature in °C",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CLOCK = {"name": "now", "description": "l'heure, あ", "parameters": {}}


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def tool(content):
    return {"role": "tool", "content": content}


def assistant(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def call(name, arguments, nested=True):
    flat = {"name": name, "arguments": arguments}
    return {"type": "function", "id": "call_1", "function": flat} if nested else flat


THOUGHT = "<think>\nFirst this,\n\nthen that.\n</think>\n\nDone."
CHATS = {
    "one question": [user("Hello")],
    "system first": [system("You are brief."), user("Hello")],
    "system alone": [system("You are brief.")],
    "system later": [user("Hello"), system("Now be long."), user("Go on")],
    "two systems": [system("One."), system("Two."), user("Hello")],
    "several turns": [user("1"), assistant("2"), user("3"), assistant("4"), user("5")],
    "the same question twice": [user("Go on"), assistant(THOUGHT), user("Go on"), assistant(THOUGHT)],
    "assistant last": [user("Hello"), assistant("Hi.")],
    "assistant first": [assistant("Welcome."), user("Hello")],
    "assistant alone": [assistant(THOUGHT)],
    "thinking in the last answer": [user("Hello"), assistant(THOUGHT)],
    "thinking in an earlier answer": [user("Hello"), assistant(THOUGHT), user("And?")],
    "thinking in a field, last": [user("Hello"), assistant("Done.", reasoning_content="\nHm.\n")],
    "thinking in a field, earlier": [user("Hello"), assistant("Done.", reasoning_content="Hm."), user("And?")],
    "thinking in both": [user("Hello"), assistant(THOUGHT, reasoning_content="Hm.")],
    "an empty field": [user("Hello"), assistant(THOUGHT, reasoning_content="")],
    "a field that is null": [user("Hello"), assistant(THOUGHT, reasoning_content=None)],
    "an empty block": [user("Hello"), assistant("<think>\n\n</think>\n\nDone.")],
    "a block never opened": [user("Hello"), assistant("Hm.\n</think>\n\nDone.")],
    "a block never closed": [user("Hello"), assistant("<think>\nHm.")],
    "two blocks": [user("Hello"), assistant("<think>a</think>b<think>c</think>\n\nd")],
    "an empty block before another answer": [
        user("Hello"),
        assistant("<think>\n\n</think>\n\nWait."),
        assistant("Hi."),
    ],
    "two answers to one question": [user("Hello"), assistant(THOUGHT), assistant("More.")],
    "nothing said": [user(""), assistant("")],
    "space around": [user("\n Hello \n"), assistant("\n\nHi.\n"), user(" ")],
    "not ASCII": [system("Réponds en français."), user("你好，世界 👋🏽"), assistant("Ça va — « bien »")],
    "markup inside": [user("<|im_end|>\n<b>&amp; 'x' \"y\" {{ 1 + 1 }} {% if %} {# no #}")],
    "a call": [user("?"), assistant("", tool_calls=[call("get_weather", {"place": "Zürich"})])],
    "a flat call": [user("?"), assistant("", tool_calls=[call("get_weather", {"place": "Bern"}, nested=False)])],
    "a call with its arguments as text": [user("?"), assistant("", tool_calls=[call("now", '{"zone":  "Ω"}')])],
    "a call after words": [user("?"), assistant("Let me see.", tool_calls=[call("now", {})])],
    "no calls": [user("?"), assistant("No.", tool_calls=[])],
    "calls that are null": [user("?"), assistant("No.", tool_calls=None)],
    "several calls after thinking": [
        user("?"),
        assistant(
            THOUGHT, tool_calls=[call("now", {}), call("now", "{}", nested=False), call("get_weather", {"a": [1]})]
        ),
    ],
    "a tool's answer": [
        user("?"),
        assistant("<think>\nI look.\n</think>\n\n", tool_calls=[call("get_weather", {"place": "Bern"})]),
        tool('{"°C": 3}'),
    ],
    "several tools' answers in a row": [
        user("?"),
        assistant("", reasoning_content="Two.", tool_calls=[call("now", {}), call("now", {})]),
        tool("noon"),
        tool("midnight\n"),
        assistant("Both.", reasoning_content="So be it."),
        user("Thanks"),
    ],
    "a tool first": [tool("unasked"), user("Hello")],
    "a tool's answer as a user's turn": [
        user("?"),
        assistant(THOUGHT, tool_calls=[call("now", {})]),
        user("<tool_response>\nnoon\n</tool_response>"),
        assistant(THOUGHT),
    ],
    "a user who quotes a tool": [user("?"), assistant(THOUGHT), user("<tool_response> is a tag"), assistant(THOUGHT)],
    "a tool's answer that is a number": [user("?"), tool(3), tool({"a": [1, None]})],
}
TOOLS = (None, [], [WEATHER], [WEATHER, CLOCK])
SWITCHES = list(itertools.product(TOOLS, (True, False), (True, False)))  # tools, thinking, add_generation_prompt


@pytest.fixture(scope="module")
def real_template(tmp_path_factory):
    return json.loads(npm_file("tokenizer_config.json", tmp_path_factory))["chat_template"]


@functools.cache
def tokenizer_with(template):
    return Tokenizer(BACKEND, template, "folder/of/it")


@functools.cache
def reference_with(template):
    return PreTrainedTokenizerFast(tokenizer_object=BACKEND, chat_template=template)


def ours(template, chat, tools=None, thinking=True, prompt=True):
    return tokenizer_with(template).render_chat(chat, tools=tools, thinking=thinking, add_generation_prompt=prompt)


def theirs(template, chat, tools=None, thinking=True, prompt=True):
    return reference_with(template).apply_chat_template(
        chat, tools=tools, tokenize=False, enable_thinking=thinking, add_generation_prompt=prompt
    )


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_transformers_renders_the_embedded_template_as_we_do(chat):
    for switches in SWITCHES:
        assert ours(EMBEDDED, chat, *switches) == theirs(EMBEDDED, chat, *switches)


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_transformers_renders_qwen3s_template_as_we_render_it_and_as_the_embedded_one(real_template, chat):
    for switches in SWITCHES:
        expected = theirs(real_template, chat, *switches)
        assert ours(real_template, chat, *switches) == expected
        assert ours(EMBEDDED, chat, *switches) == expected


WORDS = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "\n\n", "é", "<think>", "</think>", "<tool_response>", "</tool_response>", "<|im_end|>"]
    ),
    max_size=5,
).map("".join)
CALLS = st.lists(st.builds(call, WORDS, st.one_of(WORDS, st.dictionaries(WORDS, WORDS)), st.booleans()), max_size=3)
TURNS = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "tool"]), WORDS),
    st.builds(user, WORDS),
    st.builds(assistant, WORDS),
    st.builds(assistant, WORDS, reasoning_content=st.none() | WORDS, tool_calls=CALLS),
)


@settings(max_examples=150)
@given(chat=st.lists(TURNS, min_size=1, max_size=6), tools=st.sampled_from(TOOLS), prompt=st.booleans())
def test_the_embedded_template_says_the_same_as_qwen3s_for_any_chat(real_template, chat, tools, prompt):
    assert ours(EMBEDDED, chat, tools, prompt=prompt) == ours(real_template, chat, tools, prompt=prompt)


def test_the_switch_closes_an_empty_thinking_block():
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ours(EMBEDDED, [user("Hi")]) == start
    assert ours(EMBEDDED, [user("Hi")], thinking=False) == start + "<think>\n\n</think>\n\n"


def test_thinking_is_dropped_before_the_last_question_and_kept_after_it():
    found = ours(EMBEDDED, [user("1"), assistant(THOUGHT), user("2"), assistant(THOUGHT)], prompt=False)
    assert found == (
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n"
        f"<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n{THOUGHT}<|im_end|>\n"
    )


def test_tools_answers_in_a_row_share_one_turn():
    found = ours(EMBEDDED, [user("?"), assistant("", tool_calls=[call("f", {"é": 1})]), tool("a"), tool("b")],
                 prompt=False)  # fmt: skip
    assert found == (
        '<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"é": 1}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\na\n</tool_response>\n<tool_response>\nb\n"
        "</tool_response><|im_end|>\n"
    )


@pytest.mark.parametrize("silent", [{"content": None}, {}], ids=["null", "left out"])
def test_a_turn_that_only_calls_needs_no_content(silent):
    calls = [call("now", {})]
    chat = [user("?"), {"role": "assistant", **silent, "tool_calls": calls}]
    spoken = [user("?"), assistant("", tool_calls=calls)]
    assert ours(EMBEDDED, chat) == ours(EMBEDDED, spoken)


def test_rendering_changes_neither_messages_nor_tools():
    chat, tools = copy.deepcopy(CHATS["several tools' answers in a row"]), [WEATHER, CLOCK]
    before = copy.deepcopy((chat, tools))
    ours(EMBEDDED, chat, tools)
    assert (chat, tools) == before


# ---- what is refused ------------------------------------------------------------------------

REACHING = (
    "{{ ''.__class__.__mro__ }}",
    "{{ messages[0].__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ strftime_now.__globals__.json }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ (messages | attr('__class__')).__base__ }}",
    "{{ self.__init__.__globals__ }}",
)
CHANGING = (
    "{{ messages.append(messages[0]) }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{{ messages[0].setdefault('a', 1) }}",
    "{{ tools[0].pop('name') }}",
)
FAILING = (
    "{{ raise_exception('no such role') }}",
    "{{ 1 // 0 }}",
    "{{ messages[7].content }}",
    "{{ nobody.content }}",
    "{{ messages[0].content + 1 }}",
    "{% if %}",
    "{{ messages | no_such_filter }}",
    "{% include 'file' %}",
    "{{ range(10 ** 9) }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
)


def alone(template, chat):
    """What the template makes of a chat, whatever it leaves out."""
    return render(compile_template(template, "folder/of/it"), "folder/of/it", messages=chat, tools=[CLOCK])


def refused(template, chat, match):
    with pytest.raises(Error, match=match) as caught:
        tokenizer_with(template).render_chat(chat, tools=[CLOCK])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [*REACHING, *CHANGING])
def test_a_template_can_neither_reach_out_nor_change_anything(template):
    chat, before = [user("Hi")], copy.deepcopy(CLOCK)
    refused(template, chat, r"^folder/of/it: the chat template failed \(.*unsafe")
    assert chat == [user("Hi")]
    assert before == CLOCK


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ namespace.__init__ }}"]
)
def test_a_private_attribute_prints_as_nothing(template):
    assert alone(template, [user("Hi")]) == ""


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_is_an_error_that_names_the_checkpoint(template):
    refused(template, [user("Hi")], r"^folder/of/it: the chat template failed \(.+\): check ")


def test_a_template_can_say_why_it_refuses_a_chat():
    refused("{{ raise_exception('no such role') }}", [user("Hi")], "no such role")


def test_without_a_template_the_error_says_how_to_go_on():
    refused(None, [user("Hi")], r"^folder/of/it: has no chat template, expected .*raw=True")


@pytest.mark.parametrize("empty", [[], ()])
def test_an_empty_chat_is_refused(empty):
    refused(EMBEDDED, empty, "^messages: the chat is empty, expected at least one message")


@pytest.mark.parametrize("turn", [{}, {"content": "Hi"}, {"role": 1, "content": "Hi"}])
def test_a_message_without_a_role_is_named_by_its_number(turn):
    refused(EMBEDDED, [user("Hi"), turn], r"^messages: entry 1 .*expected a role and a content")


@pytest.mark.parametrize("turn", ["Hi", 3, None, ["Hi"], ("user", "Hi")])
def test_a_message_that_is_no_dict_is_named_by_its_number(turn):
    check = inspect.unwrap(read_messages)  # as users have it: under the hook the annotation is quicker to complain
    with pytest.raises(Error, match=r"^messages: entry 1 [^\n]*expected a role and a content"):
        check([user("Hi"), turn])


@pytest.mark.parametrize("silent", [{"content": None}, {}], ids=["null", "left out"])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_message_without_content_is_named_by_its_number(role, silent):
    refused(
        EMBEDDED,
        [user("Hi"), {"role": role, **silent}],
        rf"^messages: entry 1 \({role}\) has no content, expected a text",
    )


@pytest.mark.parametrize("content", [3, {"text": "Hi"}])
@pytest.mark.parametrize("role", ["system", "user"])
def test_content_that_is_no_text_is_refused_rather_than_dropped(role, content):
    refused(EMBEDDED, [user("Hi"), {"role": role, "content": content}], rf"message 1 \({role}\) is no string")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ messages | tojson(ensure_ascii=True) }}",
        "{{ messages | tojson(separators=(',', ':'), sort_keys=True) }}",
        "  {% for message in messages %}\n    {{ message.content }}\n  {% endfor %}\nend\n\n",
        "{{ messages }}{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index }}{% endfor %}",
        "{{ messages }}{{ strftime_now('%Y') }} {{ enable_thinking }} {{ tools is none }} {{ undefined_name }}",
        "{% for m in messages %}\n  {% generation %}\n{{ m.content }}\n  {% endgeneration %}\n{% endfor %}",
        "{{ messages }}{%- generation -%} a {%+ endgeneration %} {% set x = 1 %}"
        "{%generation%}{% set x = 2 %}{%endgeneration%}{{x}}",
    ],
)
def test_a_template_finds_the_filters_switches_and_white_space_of_transformers(template):
    chat = [user("é <b> & 'x'"), assistant("Yes.")]
    assert ours(template, chat) == theirs(template, chat)
