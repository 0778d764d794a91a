"""What a template is given of a chat, and what it may not lose: beside transformers wherever that renders."""

import copy
import enum
import functools
import json
import types

import numpy as np
import pytest
import tokenizers
import torch
from helpers import ROOT, unchecked
from hypothesis import given
from hypothesis import strategies as st
from qwen3_files import npm_file
from tiers import examples
from transformers import PreTrainedTokenizerFast

from qwen3_scratch import Error
from qwen3_scratch.tokenizer import Tokenizer

BACKEND = tokenizers.Tokenizer(tokenizers.models.BPE())
EMBEDDED = (ROOT / "qwen3_scratch" / "tiny" / "chat_template.jinja").read_text("utf-8")
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
CLOCK = {"name": "now", "description": "The time.", "parameters": {}}
READS_PARTS = """
{%- macro said(content) %}
    {%- if content is string %}{{ content }}
    {%- else %}{% for part in content %}{{ part.text if 'text' in part else raise_exception('no text') }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- for m in messages %}<{{ m.role }}>{{ said(m.content) | trim }}{{ '</s>' }}{% endfor %}"""
TEMPLATES = {
    "each role": "{{ bos_token }}{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ eos_token }}{% endfor %}",
    "three roles": "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "[{{ m.role }}] {{ m.content | trim }}{% endif %}{% endfor %}",
    "a system turn at the head alone": "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    "capitals": "{% for m in messages %}{{ m.role }} {{ m.content | upper }}{% endfor %}",
    "JSON": "{{ messages | tojson }}",
    "escaped": "{% for m in messages %}<p>{{ m.content | e }}</p>{% endfor %}",
    "answers without thinking": "{% for m in messages %}"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}{% endfor %}",
    "turns that alternate": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}",
    "parts": READS_PARTS,
    "the embedded one": EMBEDDED,
}  # fmt: skip


def turn(role, content, **fields):
    return {"role": role, "content": content, **fields}


user, assistant, system, tool = (functools.partial(turn, role) for role in ("user", "assistant", "system", "tool"))


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def ours(template, chat, tools=None, **named):
    with unchecked():
        found = Tokenizer(BACKEND, template, "folder/of/it", special_tokens=NAMED)
        return found.render_chat(chat, tools=tools, **named)


def theirs(template, chat, tools=None, **named):
    reference = PreTrainedTokenizerFast(tokenizer_object=BACKEND, chat_template=template, **NAMED)
    named = {"add_generation_prompt": True, "enable_thinking": True} | named
    return reference.apply_chat_template(chat, tools=tools, tokenize=False, **named)


def refused(template, chat, tools=None, **named):
    with pytest.raises(Error) as caught:
        ours(template, chat, tools, **named)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return json.loads(npm_file("tokenizer_config.json", tmp_path_factory))["chat_template"]


# ---- as transformers gives it ---------------------------------------------------------------

CALL = [{"type": "function", "function": {"name": "now", "arguments": {}}}]
SHOWN = "{% for m in messages %}{{ m | tojson }}{% endfor %}"  # all that a template gets


@pytest.mark.parametrize(
    "message",
    [
        user("Hi", name=None),
        assistant(None, tool_calls=CALL),
        assistant("Hi", tool_calls=None, reasoning_content=None),
        assistant("2", thinking="1"),
        assistant("2", reasoning="1"),
        assistant("2", reasoning_content="1", thinking="other", reasoning="third"),
        assistant("2", reasoning="third", thinking=None),
        assistant("2", thinking=""),
        user("Hi", number=np.int64(3), share=np.float32(0.5), sure=np.bool_(False), whole=(1, 2)),
        user(enum.StrEnum("E", {"A": "Hi"}).A, more={"deep": [np.str_("x")]}),
        types.MappingProxyType(user("Hi")),
        tool({"a": [1, None]}),
    ],
)
def test_a_message_reaches_the_template_as_transformers_hands_it_on(message):
    assert ours(SHOWN, [message]) == theirs(SHOWN, [message])


@pytest.mark.parametrize("name", ["thinking", "reasoning", "reasoning_content"])
def test_thinking_is_given_back_under_each_of_its_names(name, qwen3):
    chat = [user("?"), assistant("Yes.", **{name: "Hm."})]
    expected = "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes.<|im_end|>\n"
    for template in (EMBEDDED, qwen3):
        assert ours(template, chat, add_generation_prompt=False).endswith(expected)


def test_an_answer_that_was_cut_within_its_thinking_can_be_given_back(qwen3):
    chat = [user("?"), assistant("", reasoning_content="Hm")]
    assert ours(qwen3, chat) == theirs(qwen3, chat)
    assert "<think>\nHm\n</think>" in ours(EMBEDDED, [user("?"), {"role": "assistant", "reasoning_content": "Hm"}])


def test_special_tokens_are_known_to_the_template_by_their_names():
    assert ours(TEMPLATES["each role"], [user("Hi")]) == "<s>user: Hi</s>"


@pytest.mark.parametrize("field", [torch.zeros(2), object(), {1, 2}, b"bytes", lambda: 1])
def test_what_is_neither_text_nor_number_is_refused_by_its_kind(field):
    found = refused(SHOWN, [user("Hi", more=[field])])
    assert found.startswith(
        f"messages: entry 0 holds a {type(field).__name__}, expected texts, numbers, lists and dicts"
    )


# ---- content in parts -----------------------------------------------------------------------


def test_parts_are_joined_where_the_template_knows_only_text(qwen3):
    chat = [system(parts("Be ", "brief.")), user(parts("a", "b")), assistant(parts("c")), user("d")]
    plain = [system("Be brief."), user("ab"), assistant("c"), user("d")]
    for template in (EMBEDDED, qwen3, *(TEMPLATES[name] for name in ("each role", "JSON", "three roles"))):
        assert ours(template, chat) == ours(template, plain)


def test_parts_are_given_as_they_are_to_a_template_that_reads_them():
    first = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    chat = [system(parts("Be ", "brief.")), user(parts(" a", "b "))]
    for template in (READS_PARTS, first):
        assert ours(template, chat) == theirs(template, chat)
    assert ours(first, chat) == "<Be ><brief.>< a><b >"


def test_a_template_may_read_the_parts_of_one_role_and_only_the_text_of_another():
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}<{{ p.text }}>{% endfor %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert ours(template, [system(parts("Be ", "brief.")), user(parts("a", "b"))]) == "Be brief.<a><b>"


@pytest.mark.parametrize(
    "part",
    [{"type": "image", "url": "x.png"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"},
     {"type": "text", "text": None}, {"type": "image", "text": "a cat"}, "Hi", 3, None],
)  # fmt: skip
@pytest.mark.parametrize("template", [EMBEDDED, READS_PARTS], ids=["text alone", "parts"])
def test_a_part_that_is_no_text_is_refused(template, part):
    found = refused(template, [user("Hi"), user([*parts("See: "), part])])
    assert found.startswith("messages: entry 1 (user) has the part ")
    assert "expected only texts, which are all that this model reads" in found


# ---- what is lost ---------------------------------------------------------------------------

LOST = {
    "human": [{"role": "human", "content": "Hi"}],
    "developer": [{"role": "developer", "content": "Be brief."}, user("Hi")],
    "User": [user("Hi"), assistant("Ha"), {"role": "User", "content": "Hi"}],
    "function": [user("?"), assistant("", tool_calls=CALL), {"role": "function", "content": "noon"}],
    "critic": [user("Hi"), {"role": "critic", "content": ""}],
    "bot": [user("Hi"), {"role": "bot", "content": None, "tool_calls": CALL}],
    "": [{"role": "", "content": "Hi"}, user("Hi")],
}


@pytest.mark.parametrize("role", LOST)
def test_a_message_whose_role_the_template_passes_over_is_refused(role, qwen3):
    for template in (EMBEDDED, qwen3, TEMPLATES["three roles"]):
        found = refused(template, LOST[role])
        assert found.startswith(
            f"folder/of/it: the chat template leaves out entry {LOST[role].index(odd(role))} of the"
        )
        assert f"({role}), expected a role that it writes, of which system, user, assistant, tool are" in found


def odd(role):
    return next(message for message in LOST[role] if message["role"] == role)


@pytest.mark.parametrize("role", [role for role in LOST if role != "bot"])
def test_the_same_role_is_right_where_the_template_writes_it(role):
    assert ours(TEMPLATES["each role"], LOST[role]) == theirs(TEMPLATES["each role"], LOST[role])


def test_a_usual_role_that_this_template_passes_over_is_refused():
    found = refused(TEMPLATES["three roles"], [user("?"), tool("noon")])
    assert "leaves out entry 1 of the messages (tool), expected every text to come out again" in found
    found = refused(TEMPLATES["a system turn at the head alone"], [user("?"), system("Be brief."), user("!")])
    assert "leaves out entry 1 of the messages (system)" in found


@pytest.mark.parametrize("value", [3, True, ["a"], {"a": 1}])
def test_content_of_another_kind_that_comes_out_as_nothing_is_refused(value):
    text_alone = TEMPLATES["each role"].replace("m.content", "(m.content if m.content is string else '')")
    found = refused(text_alone, [user("?"), tool(value)])
    assert "leaves out entry 1 of the messages (tool)" in found or "entry 1 (tool) has the part 'a'" in found
    if not isinstance(value, list):
        assert ours(TEMPLATES["each role"], [tool(value)]) == theirs(TEMPLATES["each role"], [tool(value)])


def test_the_same_text_said_twice_does_not_hide_that_it_is_lost_once():
    assert "entry 1 of the messages (human)" in refused(EMBEDDED, [user("Hi"), {"role": "human", "content": "Hi"}])
    assert "entry 0 of the messages (human)" in refused(EMBEDDED, [{"role": "human", "content": "user"}, user("x")])


@pytest.mark.parametrize(
    "chat",
    [
        [user("1"), assistant("<think>\nHm.\n</think>\n\n2"), user("3")],
        [user("1"), assistant("2", reasoning_content="Hm."), user("3")],
        [user("1"), assistant("<think>\nHm.\n</think>"), user("3")],
        [user("1"), assistant("<think>\nHm."), user("3")],
        [user(" \n 1 \n"), assistant(""), user(" "), assistant("\n")],
        [user("?"), assistant("", tool_calls=CALL), tool("noon")],
        [user("<tool_response>\nx\n</tool_response>")],
        [user("heard0q heard"), user("HEARD1Q")],
    ],
)
def test_what_a_template_drops_on_purpose_is_no_loss(chat, qwen3):
    for template in (EMBEDDED, qwen3):
        assert ours(template, chat) == theirs(template, chat)


def test_a_template_that_leaves_out_what_is_said_beside_a_call_is_right():
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.tool_calls | tojson if m.tool_calls else m.content }}{% endfor %}"
    )
    chat = [user("?"), assistant("I look.", tool_calls=CALL), tool("noon")]
    assert ours(template, chat) == theirs(template, chat)


def test_a_template_may_leave_out_an_answer_that_is_still_thinking_and_no_question():
    silent = "{{ '' if '<think>' in m.content and '</think>' not in m.content else m.content }}"
    template = "{% for m in messages %}<{{ m.role }}>" + silent + "{% endfor %}"
    chat = [user("?"), assistant("<think>\nHm."), user("!")]
    assert ours(template, chat) == theirs(template, chat)
    assert "leaves out entry 1 of the messages (user)" in refused(template, [user("?"), user("<think> is a tag")])


@examples(100)
@given(
    chat=st.lists(
        st.builds(turn, st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=8)),
        min_size=1, max_size=5,
    ),
    name=st.sampled_from(list(TEMPLATES)),
)  # fmt: skip
def test_any_chat_is_rendered_as_by_transformers_or_something_of_it_was_lost(chat, name):
    """Of the templates above it is known which lose what: those that choose by role."""
    chosen = {"three roles": ["tool"], "a system turn at the head alone": []}
    may_lose = [
        i
        for i, m in enumerate(chat)
        if m["role"] in chosen.get(name, ()) or ("head" in name and m["role"] == "system" and i)
    ]
    try:
        expected = theirs(TEMPLATES[name], chat)
    except Exception:
        refused(TEMPLATES[name], chat)
        return
    if may_lose:
        assert f"leaves out entry {may_lose[0]} of the messages" in refused(TEMPLATES[name], chat)
    else:
        assert ours(TEMPLATES[name], chat) == expected


def test_the_work_for_a_long_chat_is_a_few_renderings(monkeypatch):
    from qwen3_scratch import tokenizer

    calls, render = [], tokenizer.render
    monkeypatch.setattr(tokenizer, "render", lambda *args, **named: calls.append(1) or render(*args, **named))
    turns = [user("?"), assistant(None, tool_calls=CALL), tool("noon"), assistant("<think>x")] * 50
    for template, most in ((EMBEDDED, 3), (TEMPLATES["capitals"].replace("| upper", "| string | upper"), 8)):
        calls.clear()
        ours(template, turns)
        assert len(calls) <= most


def test_tools_that_the_template_never_mentions_are_refused(qwen3):
    found = refused(TEMPLATES["each role"], [user("?")], [CLOCK])
    assert found.startswith("folder/of/it: the chat template leaves out the tools, expected one that writes them")
    for template in (EMBEDDED, qwen3):
        assert ours(template, [user("?")], [CLOCK]) == theirs(template, [user("?")], [CLOCK])
    assert ours(TEMPLATES["each role"], [user("?")], []) == theirs(TEMPLATES["each role"], [user("?")], [])


def test_nothing_that_is_handed_in_changes():
    chat, tools = [user(parts("a", "b")), assistant("2", thinking="1", tool_calls=CALL)], [CLOCK]
    before = copy.deepcopy((chat, tools))
    ours(EMBEDDED, chat, tools, continue_final_message=True)
    assert (chat, tools) == before


# ---- a last message that goes on ------------------------------------------------------------


@pytest.mark.parametrize("text", ["Once upon", "Once upon ", "\n\nOnce", "", "<think>\nHm", "é\n"])
def test_the_last_message_is_continued_where_transformers_leaves_it(text, qwen3):
    chat = [user("A story"), assistant(text)]
    for template in (EMBEDDED, qwen3, READS_PARTS):
        expected = theirs(template, chat, continue_final_message=True, add_generation_prompt=False)
        assert ours(template, chat, continue_final_message=True) == expected


def test_thinking_is_continued_where_transformers_leaves_it(qwen3):
    for name in ("reasoning_content", "thinking"):
        chat = [user("A story"), assistant("", **{name: "Hm, a"})]
        expected = theirs(qwen3, chat, continue_final_message=name, add_generation_prompt=False)
        assert ours(qwen3, chat, continue_final_message=name) == expected
        assert expected.endswith("<think>\nHm, a")


@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "nothing"])
def test_what_is_not_there_cannot_be_continued(field):
    found = refused(EMBEDDED, [user("?"), {"role": "assistant", "tool_calls": CALL}], continue_final_message=field)
    assert found.startswith("messages: the last entry has the ") and "expected a text to be continued" in found


def test_a_message_that_the_template_changes_cannot_be_continued():
    found = refused(TEMPLATES["capitals"], [user("Hi")], continue_final_message=True)
    assert "changes the last message" in found
