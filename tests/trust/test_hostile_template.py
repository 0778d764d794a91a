"""Chat templates of strangers: what they may not reach, and what they may not use up."""

import json
import re
import threading

import jinja2
import pytest
from helpers import ROOT, finished, unchecked
from jinja2.sandbox import ImmutableSandboxedEnvironment
from template_attacks import ATTACKS
from tiers import one_of_each, selected
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from qwen3_scratch import Error
from qwen3_scratch.tokenizer import Tokenizer
from qwen3_scratch.trust import chat_template
from qwen3_scratch.trust.chat_template import DEEPEST, LARGEST, LONGEST_TEMPLATE, compile_template, render

CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Hello é <b> & 'x'"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes.", "tool_calls": [{"arguments": {"a": 1}}]},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object"}}}]


def rendered(template, chat=CHAT, tools=TOOLS):
    """What the template makes of a chat, whatever it leaves out."""
    name = "folder/of/it"
    return render(compile_template(template, name), name, messages=chat, tools=tools, enable_thinking=True)


def given(template, chat=CHAT, tools=TOOLS):
    with unchecked():
        return Tokenizer(Backend(BPE()), template, "folder/of/it").render_chat(chat, tools=tools)


def refused(template, chat=CHAT, tools=TOOLS, by=rendered):
    with pytest.raises(Error) as caught:
        by(template, chat, tools)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return str(caught.value)


# ---- time and memory -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(request):
    """What came of each selected attack, in one process that has a gigabyte of memory."""
    names = [name for name in selected(request, "name") if name in ATTACKS]
    said = finished(str(ROOT / "tests" / "support" / "template_attacks.py"), "1000000000", *names)
    assert said.code == 0, said.err
    return dict(map(json.loads, said.out.splitlines()))


@pytest.mark.parametrize("name", one_of_each(ATTACKS, lambda name: ATTACKS[name][1] or name))
def test_an_attack_ends_in_one_sentence_or_does_no_harm(outcomes, name):
    found, expected = outcomes[name], ATTACKS[name][1]
    if expected is None:
        assert found is None
    else:
        assert re.fullmatch(rf"checkpoint: the chat template failed \([^\n]*{re.escape(expected)}[^\n]*", found)
        assert len(found) < 500


def test_what_is_written_is_bounded_where_each_value_is_small():
    piece = "x" * 1000
    found = refused("{% for i in range(99999) %}" + piece + "{% endfor %}")
    assert f"larger than {LARGEST} bytes" in found


def test_a_rendering_does_not_pay_for_the_one_before(monkeypatch):
    monkeypatch.setattr(chat_template, "WORK", 1_000_000)
    template = "{% for i in range(2000) %}{{ messages[0].content }}{% endfor %}"
    compiled = compile_template(template, "it")
    assert len({render(compiled, "it", messages=CHAT) for _ in range(5)}) == 1


def test_threads_that_share_a_template_each_have_their_own_budget(monkeypatch):
    monkeypatch.setattr(chat_template, "WORK", 1_000_000)
    tokenizer = Tokenizer(Backend(BPE()), "{% for i in range(3000) %}{{ messages[-1].content }}{% endfor %}", "it")
    chats = [[{"role": "user", "content": str(number)}] for number in range(8)]
    found = {}

    def run(number):
        found[number] = tokenizer.render_chat(chats[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    with unchecked():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: str(number) * 3000 for number in range(8)}


def test_text_of_wide_characters_is_bounded_by_its_bytes():
    wide = "\N{GRINNING FACE}" * (LARGEST // 5)
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": wide}]) == wide
    assert "larger than" in refused(
        "{{ messages[0].content }}{{ messages[0].content }}", [{"role": "user", "content": wide}]
    )


def test_work_that_the_budget_misjudges_ends_by_the_clock(monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", -1)
    assert "computes too much" in refused("{{ 1 + 1 }}")


def test_the_longest_template_is_read_and_a_longer_one_is_not():
    assert rendered("x" * LONGEST_TEMPLATE) == "x" * LONGEST_TEMPLATE
    assert f"has {LONGEST_TEMPLATE + 1} characters" in refused("x" * (LONGEST_TEMPLATE + 1))


# ---- reach -----------------------------------------------------------------------------------

REACHING = {
    "a format string": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "a format string by name": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "a format string in two steps": "{{ ('{0.__cla' ~ 'ss__.x}').format(messages) }}",
    "the filter attr": "{{ '' | attr('__class__') | attr('mro') }}",
    "the filter attr of a macro": "{% macro f() %}{% endmacro %}{{ (f | attr('_func')).__globals__ }}",
    "a cycler": "{{ cycler(1).next.__func__ }}{{ cycler(1).next.__func__.__globals__ }}",
    "the context": "{{ self._TemplateReference__context.environment }}",
    "a method of dict": "{{ dict.fromkeys([1]) }}",
    "a method of bytes": "{{ 'a'.encode().decode() }}",
    "a method that adds": "{{ tools.append(1) }}",
    "a method that adds to a note": "{% set ns = namespace(a=[]) %}{{ ns.a.extend([1]) }}",
}


@pytest.mark.parametrize("name", REACHING)
def test_a_template_reaches_nothing_by(name):
    assert re.search(r"unsafe|undefined|no attribute", refused(REACHING[name]))


@pytest.mark.parametrize(
    "template", ["{% include 'x' %}", "{% import 'x' as x %}", "{% from 'x' import y %}", "{% extends 'x' %}"]
)
def test_a_template_can_read_no_other_file(template):
    assert "no loader" in refused(template)


@pytest.mark.parametrize(
    "template",
    ["{{ [''] | map(attribute='__class__') | list }}", "{{ messages | map(attribute='__len__') | first }}"],
)
def test_a_private_attribute_of_an_item_is_undefined(template):
    assert rendered(template) in ("[Undefined]", "")


def test_no_name_of_a_template_leads_to_the_budget():
    assert rendered("{{ budget }}{{ _budget }}{{ paid is defined }}{{ self.environment is defined }}") == "FalseFalse"
    assert "Budget" not in rendered("{{ dict(a=1) }}{{ namespace(b=2) }}{{ self }}")


# ---- what goes wrong is one short line -------------------------------------------------------

BROKEN = {
    "a reason of several lines": ("{{ raise_exception('a\nb\r\n\tc') }}", "(a b c)"),
    "a reason that commands the terminal": ("{{ raise_exception('\x1b[31mred') }}", "(\ufffd[31mred)"),
    "a reason without end": ("{{ raise_exception('x' * 1000000) }}", "x..."),
    "a reason that is a list": ("{{ raise_exception([1, 2]) }}", "([1, 2])"),
    "no reason": ("{{ raise_exception() }}", "gives no reason"),
    "a tag that nothing ends": ("{% for a in b %}", "Unexpected end of template"),
    "a tag that nobody knows": ("{% generate %}", "unknown tag"),
    "a filter that nobody knows": ("{{ 1 | nothing }}", "No filter named"),
    "a filter that is left out": ("{{ 'a' | pprint }}", "'pprint' is unsafe here"),
    "a method that is left out": ("{{ 'a'.encode() }}", "'encode' is unsafe here"),
    "a test that nobody knows": ("{{ 1 is nothing }}", "No test named"),
    "an argument too many": ("{{ 'a' | upper(1, 2) }}", "argument"),
    "a date that is none": ("{{ strftime_now(3) }}", "not subscriptable"),
    "a loop over a number": ("{% for a in 3 %}{% endfor %}", "not iterable"),
    "division by zero": ("{{ 1 % 0 }}", "zero"),
    "an attribute of what is not there": ("{{ nobody.name.first }}", "undefined"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_goes_wrong_is_said_in_a_line(name):
    template, expected = BROKEN[name]
    found = refused(template)
    assert found.startswith("folder/of/it: the chat template failed (")
    assert expected in found
    assert len(found) < 450


# ---- what users hand in ----------------------------------------------------------------------


def nested(depth):
    found = "x"
    for _ in range(depth):
        found = [found]
    return found


def cyclic():
    message = {"role": "user", "content": "Hi"}
    message["self"] = message
    return [message]


MESSAGES = {
    "a text": ("Hello", "messages is 'Hello', expected a list of messages"),
    "a number": (3, "messages is 3, expected a list of messages"),
    "one message": ({"role": "user", "content": "Hi"}, "expected a list of messages"),
    "None": (None, "messages is None, expected a list"),
    "a message that is a pair": ([("user", "Hi")], "entry 0 is ('user', 'Hi'), expected a role"),
    "a role that is a number": ([{"role": 3, "content": "Hi"}], "expected a role"),
    "a role of many lines": ([{"role": "a\nb" * 1000}], "has no content"),
    "nested deep": ([{"role": "user", "content": nested(DEEPEST + 1)}], f"nested more than {DEEPEST} deep"),
    "nested in itself": (cyclic(), f"nested more than {DEEPEST} deep"),
    "a huge text": ([{"role": "user", "content": "x" * LARGEST}] * 2, f"larger than {LARGEST}"),
    "a huge number": ([{"role": "user", "content": 10**9999}], f"larger than {LARGEST}"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_are_none_are_named(name):
    chat, expected = MESSAGES[name]
    found = refused("{{ messages | tojson }}", chat, by=given)
    assert found.startswith("messages")
    assert expected in found
    assert len(found) < 400


@pytest.mark.parametrize("tools", [3, "f", {"name": "f"}, ["f"], [None], [[]]])
def test_tools_that_are_none_are_named(tools):
    assert refused("x", tools=tools, by=given).startswith("tools is ")


def test_half_a_character_in_a_message_is_found_before_the_model_reads_it():
    text = given("{{ messages[0].content }}", [{"role": "user", "content": "a\ud800"}], None)
    with pytest.raises(Error, match="expected whole characters"):
        Tokenizer(Backend(BPE())).encode(text)


def test_content_in_parts_is_the_templates_to_read():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]
    template = "{% for part in messages[0].content %}{{ part.text }} {% endfor %}"
    assert given(template, [{"role": "user", "content": parts}], None) == "Hi you "


# ---- honest templates ------------------------------------------------------------------------

HONEST = (
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}"
    "{{ m['role'] }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ loop.revindex0 }}{{ loop.previtem.role if loop.previtem else '-' }}{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in messages | rejectattr('role', 'equalto', 'system') %}{{ loop.length }}{{ m.content }}{% endfor %}",
    "{% if tools | selectattr('name') %}a generator is true{% endif %}{{ tools | selectattr('type') | list | length }}",
    "{% set ns = namespace(n=0, all=[]) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}"
    "{% set ns.all = ns.all + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.all }}",
    "{% macro say(m, end='!') %}{{ m.role ~ ': ' ~ m.content ~ end }}{% endmacro %}{{ say(messages[0]) }}"
    "{{ say(messages[1], end='?') | upper }}",
    "{% macro box() %}[{{ caller('x') }}]{% endmacro %}{% call(a) box() %}{{ a * 3 }}{% endcall %}",
    "{% filter upper | replace('A', 'b') %}a{{ messages[0].role }}{% endfilter %}",
    "{% set text %}{% for m in messages %}{{ m.content }}\n{% endfor %}{% endset %}{{ text | trim | length }}"
    "{{ text }}",
    "{{ messages[1:] | map(attribute='role') | join(', ') }}{{ messages | map(attribute='content') | list }}",
    "{{ messages | length - 1 }}{{ messages[-1].tool_calls[0].arguments | dictsort }}{{ messages | groupby('role') }}",
    "{{ 'a,b,,c'.split(',') }}{{ ' x '.strip() }}{{ 'abc'.startswith('ab') }}"
    "{{ 'A-B'.replace('-', '+').lower().title() }}",
    "{{ '%s: %03d' | format('n', 7) }}{{ '%s%%' % 5 }}{{ '{:>5}|{a}'.format('x', a=[1]) }}{{ 'abc'.center(9, '*') }}",
    "{{ messages[1].content | escape }}{{ '<b>' | safe }}{{ 'x' | e ~ '<' }}{{ messages[0].content[4:7] }}",
    "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 7 / 2 }}{{ -3 + 1 }}{{ [1] + [2] }}{{ (1, 2) + (3,) }}"
    "{{ 'ab' * 2 }}{{ 1.5 * 2 }}",
    "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 4 not in [1, 2] }}{{ none is none }}{{ x is defined }}"
    "{{ messages is iterable }}",
    "{{ [3, 1, 2] | sort | join }}{{ [1, 2, 3, 4, 5] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}"
    "{{ [1, 2] | sum }}",
    "{{ [1, 1, 2] | unique | list }}{{ [1, 2] | max }}{{ 'a b c' | wordcount }}{{ 3.14159 | round(2) }}"
    "{{ '5' | int + 1 }}",
    "{{ 'a\nb' | indent(2) }}{{ 'long text here' | truncate(8) }}{{ nothing | default('d') }}{{ [] | first }}"
    "{{ [1, 2] | last }}",
    "{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a ~ loop.depth }}{% endfor %}",
    "{% block b scoped %}{{ messages[0].role }}{% endblock %}{{ self.b() }}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% with a = 1, b = [a] %}{{ a }}{{ b }}{% endwith %}{% set c, d = 1, (2, 3) %}{{ c }}{{ d }}",
    "{{ {'a': 1, 'b': [2]}.items() | list }}{{ dict(a=1).get('b', 'none') }}{{ {'a': {'b': 1}}.a.b }}"
    "{{ {'x y': 2}['x y'] }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}{{ j() }}{{ j() }}",
    "  {% if true %}\n  kept\n  {% endif %}\n{%- raw %}{{ raw }}{% endraw -%}\n  {# gone #}\n end\n\n",
    "{{ loop is defined }}{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{{ messages[0].items() | list }}{{ messages[0].keys() | list }}{{ 'content' in messages[0] }}"
    "{{ messages[0].nothing }}",
    "{% set found = messages | selectattr('tool_calls') %}{{ found is iterable }}"
    "{{ found | map(attribute='role') | join }}"
    "{{ ', '.join(messages | map(attribute='role')) }}{{ messages | map(attribute='role') | first }}",
    "{% autoescape true %}{{ '<b>' | safe }}{{ '<' ~ messages[1].content }}{% endautoescape %}{{ '<' }}",
    "{{ '<{}>{{}}'.format(messages[0].role) }}{{ '{:.2f}'.format(1.5) }}{{ '{a!r}{b}'.format(a='x', b=2) }}",
    "{{ {'a': '<'} | xmlattr }}{{ [messages[0].role] | random }}{{ 12 | filesizeformat }}{{ 'a b' | urlencode }}",
)  # fmt: skip


@pytest.mark.parametrize("template", HONEST)
def test_an_honest_template_renders_as_in_jinjas_own_sandbox(template):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    expected = environment.from_string(template).render(messages=CHAT, tools=TOOLS, enable_thinking=True)
    assert rendered(template) == expected


def test_a_long_chat_and_many_tools_stay_far_from_the_limits():
    embedded = (ROOT / "qwen3_scratch" / "tiny" / "chat_template.jinja").read_text("utf-8")
    chat = [{"role": role, "content": "word " * 2000} for _ in range(100) for role in ("user", "assistant")]
    assert len(given(embedded, chat, TOOLS * 100)) > 2_000_000


def test_the_template_is_compiled_once(monkeypatch):
    tokenizer, calls = Tokenizer(Backend(BPE()), "{{ messages | length }}{{ messages }}", "it"), []
    original = jinja2.Environment.compile
    monkeypatch.setattr(
        jinja2.Environment, "compile", lambda *args, **named: calls.append(1) or original(*args, **named)
    )
    assert [tokenizer.render_chat(CHAT)[0] for _ in range(5)] == ["3"] * 5
    assert len(calls) == 1
