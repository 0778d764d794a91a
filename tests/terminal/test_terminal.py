"""What reaches a terminal commands nothing; what a person says arrives whole, from the keyboard, a file or a pipe."""

import codecs
import re
import shutil
import signal
import termios

import pytest
from helpers import TINY, never, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from pseudo_terminal import Terminal
from tiers import in_proof, only

from qwen3_scratch.fast import eager
from qwen3_scratch.request import prompt_ids
from qwen3_scratch.terminal import keyboard, screen
from qwen3_scratch.terminal.screen import visible

END = tokenizer().token_id("<|im_end|>")


@pytest.fixture(scope="module")
def folder(polite) -> str:
    return polite


# ---- nothing commands the terminal -----------------------------------------------------------------

CLIPBOARD, CLEAR, TITLE = "\x1b]52;c;cm0gLXJm\x07", "\x1b[2J\x1b[H", "\x9d0;title\x9c"
COMMANDS = CLIPBOARD + CLEAR + TITLE + "a\rb\bc\x00\x7f\x9b31m\u202eback\u2066\x0b\x0c"
BARE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text() | st.text(st.characters(max_codepoint=0x2070)))
def test_text_made_visible_holds_no_command_and_is_else_as_it_was(text):
    found = visible(text)
    assert not BARE.search(found)
    plain = BARE.sub("", text)
    assert visible(plain) == plain and visible(found) == found
    assert found == "".join(visible(one) if BARE.match(one) else one for one in text)


def test_what_is_drawn_says_what_it_was():
    assert visible("\x1b[2J\x07\x7f\x9b\u202e\r\n\t") == "␛[2J␇␡\\x9b\\u202e␍\n\t"


def test_no_answer_and_no_thinking_commands_the_terminal(run, says, folder):
    text = f"<think>\nhm {COMMANDS}\n</think>\n\nsee {COMMANDS}\tend\n<|im_end|>"
    for words, stdin in ((["generate", "Hi"], ""), (["generate", "Hi", "--raw"], ""), (["chat"], "Hi\n")):
        script = says(text)
        found = run(*words, "-m", folder, "--max-new-tokens", str(len(script.tokens)), stdin=stdin)
        assert found.code == 0 and not BARE.search(found.out + found.err)
        assert f"see {visible(COMMANDS)}\tend\n" in found.out
        assert f"hm {visible(COMMANDS)}" in (found.out if "--raw" in words else found.err)


def test_no_name_of_a_file_and_no_error_commands_the_terminal(run, folder, tmp_path):
    odd = tmp_path / "model\x1b[2J\x07\nline"
    shutil.copytree(folder, odd)
    (odd / "notes\x1b]0;x\x07.txt").touch()
    for words in (["info", odd], ["verify", odd], ["generate", "Hi", "--max-new-tokens", "1", "-m", odd],
                  ["info", tmp_path / "no\x1b[2Jwhere\n"], ["chat", "-m", "\x9b31m"]):  # fmt: skip
        found = run(*map(str, words))
        assert not BARE.search(found.out + found.err), words
        assert found.code == 0 or found.err.count("\n") == 1
    (odd / "config.json").write_text('{"model_type": "qwen3_moe\\u001b[2J"}', "utf-8")
    found = run("info", str(odd))
    assert found.code == 1 and not BARE.search(found.err) and found.err.count("\n") == 1


def test_no_token_commands_the_terminal_in_the_table_of_routes(run, folder):
    found = run("generate", COMMANDS, "--raw", "-m", folder, "--max-new-tokens", "2", "--routes")
    assert found.code == 0 and not BARE.search(found.out + found.err)


# ---- a terminal of any width --------------------------------------------------------------------------


@pytest.mark.parametrize("width", only([0, 1, 2, 3, 5, 10, 20, 39, 79, 80, 81, 120, 200, 399, 400], 1))
def test_at_any_width_the_same_is_said(run, folder, monkeypatch, width):
    asked = (
        ["generate", "Who has it?", "-m", folder, "--max-new-tokens", "5", "--routes"], ["info", folder],
        ["generate", "Hi", "-m", f"{folder}/nowhere"], ["chat", "-m", folder, "--max-new-tokens", "3"],
    )  # fmt: skip
    expected = [run(*words, stdin="Hi\n/think\n/help\n") for words in asked]
    monkeypatch.setenv("COLUMNS", str(width))
    assert [run(*words, stdin="Hi\n/think\n/help\n") for words in asked] == expected
    found = run("generate", "--help")
    assert found.code == 0 and "--frequency-penalty" in found.out


# `tee` shows the answers, here empty lines, when it gets to it: also behind the prompt; a narrow terminal breaks it.
ASKS = r"> \s*$"


@pytest.mark.parametrize("width", [in_proof(1), in_proof(2), in_proof(400)])
def test_a_chat_goes_on_a_terminal_of_any_width(folder, width):
    with Terminal("-m", "qwen3_scratch", "chat", "-m", folder, "--max-new-tokens", "2", width=width) as seat:
        seat.until(ASKS)
        seat.type("Who has the kite?\n")
        seat.until(f"(?s)cut.*{ASKS}")
        seat.type("/quit\n")
        assert seat.ends() == 0


# ---- what a person says arrives whole -------------------------------------------------------------------

# Says on standard error what it has heard; after "wait" it speaks until something else has been typed.
LISTENING = """
import fcntl, sys, termios, array
from qwen3_scratch.generation import Generation
from qwen3_scratch.terminal import commands

def typed():
    found = array.array("i", [0])
    fcntl.ioctl(0, termios.FIONREAD, found)
    return found[0]

def stream(checkpoint, asked, **options):
    text = asked[-1]["content"]
    print(f"heard {len(text)}:{sum(map(ord, text))}:{text.count(chr(10))};", file=sys.stderr, flush=True)
    while text == "wait" and typed() < 3000:
        pass
    return Generation("ok", None, [1], "stop", [1])
    yield

commands.stream, commands.prompt_ids = stream, lambda _, asked, **__: asked
commands.main()
"""


def heard(text: str) -> str:
    """The line that says that exactly this has been heard."""
    return f"heard {len(text)}:{sum(map(ord, text))}:{text.count(chr(10))};"


@pytest.mark.parametrize("piped", ["", "| tee {log}"], ids=["terminal", "tee"])
def test_lines_of_any_length_and_several_at_once_arrive_whole_in_a_chat(folder, tmp_path, piped):
    log = tmp_path / "log"
    long, lines = "é" * 3000 + "x" * 6000, ["first", "y" * 5000, "last"]
    (tmp_path / "inputrc").write_text("set enable-bracketed-paste off\n", "utf-8")  # as some versions have it
    env = {"INPUTRC": str(tmp_path / "inputrc")}
    with Terminal("-c", LISTENING, "chat", "-m", folder, piped=piped.format(log=log), env=env) as seat:
        seat.until(ASKS)
        assert "\x1b[?2004h" in seat.commands, "the terminal is asked to mark what is pasted"
        seat.type(f"{long}\n")
        seat.until(f"(?s){heard(long)}.*{ASKS}")
        seat.type("".join(f"{line}\n" for line in lines))  # as keys: each is a message
        seat.until("(?s)" + ".*".join(map(heard, lines)) + f".*{ASKS}")
        seat.type("\x1b[200~" + "\n".join(lines) + "\x1b[201~\n")  # marked as pasted: all are one
        seat.until("(?s)" + heard("\n".join(lines)) + f".*{ASKS}")
        seat.type("wait\n")
        seat.until(heard("wait"))
        seat.type("z" * 6000 + "\n")  # while it speaks
        seat.until(f"(?s){heard('z' * 6000)}.*{ASKS}")
        seat.type("/quit\n")
        assert seat.ends() == 0
    assert not piped or "> " not in log.read_text("utf-8"), "the log holds the answers alone"


@pytest.mark.parametrize(
    "leave", [in_proof("/quit\n"), in_proof("\x04"), in_proof(signal.SIGINT), signal.SIGTERM], ids=repr
)
def test_a_chat_leaves_the_terminal_as_it_was_however_it_ends(folder, leave):
    with Terminal("-m", "qwen3_scratch", "chat", "-m", folder) as seat:
        before = termios.tcgetattr(seat.side)
        seat.until("> $")
        if isinstance(leave, str):
            seat.type(leave)
        else:
            seat.running.send_signal(leave)
            seat.type("\n")  # a signal between prompt and waiting is seen with the next key
        assert seat.ends() == (143 if leave == signal.SIGTERM else 0)
        assert termios.tcgetattr(seat.side) == before


TEXT = "Who has\nthe kite, ¿quién?"
SPELLINGS = {
    "plain": TEXT, "line break at the end": f"{TEXT}\n", "CRLF": TEXT.replace("\n", "\r\n") + "\r\n",
    "mark": f"\ufeff{TEXT}\n", "mark and CRLF": "\ufeff" + TEXT.replace("\n", "\r\n"), "CR": TEXT.replace("\n", "\r"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_prompt_from_a_pipe_or_a_file_is_read_whatever_system_wrote_it(run, says, folder, spelling):
    script = says("x")
    assert run("generate", "-", "-m", folder, "--max-new-tokens", "1", stdin=SPELLINGS[spelling]).code == 0
    assert f"user\n{TEXT}<|im_end|>" in script.prompts[0]
    script = says("xx")
    assert run("chat", "-m", folder, "--max-new-tokens", "1", stdin=SPELLINGS[spelling]).code == 0
    first, second = script.prompts
    assert "user\nWho has<|im_end|>" in first and "user\nthe kite, ¿quién?<|im_end|>" in second


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_by_a_sentence(run, folder, monkeypatch, encoding):
    monkeypatch.setattr(eager, "forward", never)
    for words in (["generate", "-"], ["chat"]):
        for content in (f"{TEXT}\n".encode(encoding), "Hi\n".encode(encoding)):
            found = run(*words, "-m", folder, stdin=content)
            assert (found.code, found.out) == (1, "")
            assert found.err.removeprefix("Type a message. /new, /think, /quit, /help.\n> ") in (
                f"error: {keyboard.WIDE}\n",
                *(f"error: standard input is no text in utf-8 ({why}): convert it\n" for why in UNREADABLE),
            )
    bom = codecs.BOM_UTF16_LE + "Hi".encode("utf-16-le")
    assert run("generate", "-", "-m", folder, stdin=bom).err == f"error: {keyboard.WIDE}\n"


UNREADABLE = ("invalid continuation byte", "invalid start byte")  # as of accents in UTF-16 without its mark


def test_standard_input_that_is_closed_is_a_sentence(run, monkeypatch):
    import sys

    monkeypatch.setattr(keyboard, "prepare_input", lambda: None)
    monkeypatch.setattr(
        "qwen3_scratch.terminal.commands.prepare_input", lambda: monkeypatch.setattr(sys, "stdin", None)
    )
    found = run("generate", "-")
    assert found == (1, "", "error: standard input is closed, expected the prompt there: write it behind the command\n")
    assert run("chat").code == 0


# ---- what may be said in a chat -----------------------------------------------------------------------


def test_only_whole_words_of_the_chat_are_commands_and_every_line_can_be_said(run, says, folder):
    lines = ["/etc/passwd is what?", "/think about it", "//think", "///quit", "// a comment", "/thinking", "/", "/new"]
    said = ["/etc/passwd is what?", "/think about it", "/think", "//quit", "// a comment", "/thinking", "/"]
    script = says("x<|im_end|>" * len(said))
    found = run("chat", "-m", folder, "--max-new-tokens", "9", stdin="\n".join(lines))
    assert (found.code, found.out) == (0, "x\n" * len(said))
    for prompt, text in zip(script.prompts, said, strict=True):
        assert f"user\n{text}<|im_end|>\n<|im_start|>assistant\n" in prompt
    assert "thinking is" not in found.err


def test_an_answer_that_is_cut_or_lacking_is_said_with_what_to_do(run, says, folder):
    cases = (
        ("<think>\nOne two three four", "(cut off after 5 tokens, within the thinking: no answer yet; raise --max-new"),
        ("One two three four five six", "(cut off after 5 tokens; raise --max-new-tokens to see more)"),
        ("<think>\nOne<|im_end|>", "(ended within the thinking after 5 tokens: there is no answer)"),
        ("<|im_end|>", "(ended without a word after 1 tokens: there is no answer)"),
        ("Yes.<|im_end|>", ""),
    )
    for words, stdin in ((["generate", "Hi"], ""), (["chat"], "Hi\n")):
        for script, notice in cases:
            says(script)
            found = run(*words, "-m", folder, "--max-new-tokens", "5", stdin=stdin)
            assert found.code == 0 and notice in found.err
            assert ("(cut" in found.err or "(ended" in found.err) == bool(notice)


def test_a_chat_gives_the_thinking_back_and_forgets_nothing(run, says, folder, monkeypatch):
    taken = []
    plain = screen.show
    monkeypatch.setattr("qwen3_scratch.terminal.commands.show", lambda pieces: taken.append(plain(pieces)) or taken[-1])
    asked = []
    how = "qwen3_scratch.terminal.commands.prompt_ids"
    monkeypatch.setattr(how, lambda ck, chat, **o: asked.append(chat) or prompt_ids(ck, chat, **o))
    says("<think>\nHm.\n</think>\n\nOne.<|im_end|>Two.<|im_end|>")
    assert run("chat", "-m", folder, "--max-new-tokens", "20", stdin="a\nb\n").code == 0
    assert asked[1] == [{"role": "user", "content": "a"}, taken[0].message, {"role": "user", "content": "b"}]
    assert taken[0].message == {"role": "assistant", "content": "One.", "reasoning_content": "Hm."}


# ---- command lines that could have no effect, or were meant otherwise ---------------------------------------


@pytest.mark.parametrize("prompt", ["- Tom", "-5 + 3 = ?", "--what is this?", "-x", "-m is what?", "--no-such"])
@pytest.mark.parametrize("name", ["generate", "trace"])
def test_a_prompt_that_begins_with_a_dash_hints_at_the_two_dashes(run, says, folder, name, prompt):
    found = run(name, prompt)
    if (name, prompt) != ("trace", "-m is what?"):  # here the prompt may be left out, so this names a model
        assert found.code == 2 and f"stands behind --, as in qwen3-scratch {name} -- " in " ".join(found.err.split())
    if name == "generate":
        script = says("x")
        assert run(name, "-m", folder, "--max-new-tokens", "1", "--", prompt).code == 0
        assert f"user\n{prompt}<|im_end|>" in script.prompts[0]


NO_EFFECT = [
    ("generate Hi --raw --system Short", "--system is for the chat format, and --raw leaves that out: leave one of"),
    ("generate Hi --expert-dispatch nonsense", "--expert-dispatch is 'nonsense', expected own-experts or all-to-all:"),
    ("generate Hi --rank-timeout 60", "--rank-timeout is for many processes, and this is one alone: start it by"),
    ("generate Hi --expert-dispatch all-to-all", "--expert-dispatch is for experts dealt out, expected --expert-par"),
    ("generate Hi --revision main", "--revision is for a hub id, and the model is a folder of this machine: leave it"),
    ("info --revision main", "--revision is for a hub id, and the model is a folder of this machine: leave it out"),
    ("generate Hi --raw --plain-user-text", "plain_user_text is for the chat format, and raw is True: leave one of"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), NO_EFFECT)
def test_an_option_of_the_terminal_that_could_have_no_effect_is_refused(run, monkeypatch, words, message):
    monkeypatch.setattr(eager, "forward", never)
    found = run(*words.split())
    assert (found.code, found.out) == (1, "") and found.err.startswith(f"error: {message}")


@pytest.mark.parametrize("count", ["0", "-1", "x"])
@pytest.mark.parametrize("name", ["--tensor-parallel", "--expert-parallel"])
def test_a_number_of_processes_below_one_is_refused_wherever_it_is_given(run, name, count):
    for words in (["generate", "Hi"], ["info"]):
        found = run(*words, name, count)
        assert found.code == 2 and f"Invalid value for '{name}'" in found.err
        assert ("greater than or equal to 1" if count != "x" else "a valid integer") in " ".join(found.err.split())
        assert "begins with a dash" not in found.err, "a value is no prompt"


def test_the_embedded_checkpoint_answers_a_prompt_that_begins_with_a_dash(run):
    found = run("generate", "--no-thinking", "-m", str(TINY), "--", "- What is the capital of France?")
    assert found.code == 0 and found.out.strip()
