"""The terminal: the answer on standard output and all else on standard error; errors in one line; quiet ends."""

import io
import os
import re
import signal
import subprocess
import sys
import tomllib

import pytest
import torch
from helpers import PATIENCE, ROOT, TINY, checkpoint, never, process, tokenizer, unchecked
from pseudo_terminal import Terminal
from reference import dense_config, random_weights

from qwen3_scratch import Checkpoint, forward, generate, load_checkpoint, read_config, save_checkpoint, trace
from qwen3_scratch.fast import eager
from qwen3_scratch.request import prompt_ids
from qwen3_scratch.terminal.screen import visible
from qwen3_scratch.tokenizer import Tokenizer
from qwen3_scratch.trust.memory import size_text

END = tokenizer().token_id("<|im_end|>")
COMMANDS = ("generate", "chat", "trace", "info", "download", "verify", "explore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A model of random numbers that never ends by itself, so that what it says is long and means nothing."""
    path = tmp_path_factory.mktemp("model")
    save_checkpoint(checkpoint(seed=3), path)
    return str(path)


# ---- generate -----------------------------------------------------------------------------------


def test_the_answer_goes_to_standard_output_and_everything_else_to_standard_error(run, says, polite):
    says("<think>\nA :cat: [b]!\n</think>\n\nIt is\na [cat] :cat:.<|im_end|>")
    held = ["--stop", "A :cat: [b]!?", "--stop", "a [cat] :cat:!"]  # so that the rest comes in one piece
    found = run("generate", "Hi", "--model", polite, "--max-new-tokens", "50", *held)
    assert found.out == "It is\na [cat] :cat:.\n"  # nothing is read as markup, and nothing is turned into a picture
    assert (found.code, found.err) == (0, "A :cat: [b]!\n\n")


def test_an_answer_that_was_cut_off_says_so(run, folder):
    found = run("generate", "Hi", "-m", folder, "--max-new-tokens", "4")
    assert found.err == "(cut off after 4 tokens; raise --max-new-tokens to see more)\n"
    assert found.out == visible(generate(load_checkpoint(folder), "Hi", max_new_tokens=4).text) + "\n"


OPTIONS = [
    ("--temperature 1.5 --seed 3", dict(temperature=1.5, seed=3)),
    ("--temperature 1 --seed 4 --top-k 5 --top-p 0.9 --min-p 0.1",
     dict(temperature=1, seed=4, top_k=5, top_p=0.9, min_p=0.1)),
    ("--repetition-penalty 3", dict(repetition_penalty=3)),
    ("--presence-penalty 2 --frequency-penalty -1", dict(presence_penalty=2, frequency_penalty=-1)),
    ("--top-p 0.9 --seed 3", dict(top_p=0.9, seed=3)),
    ("--no-thinking --stop e --stop a", dict(thinking=False, stop=["e", "a"])),
    ("--raw --min-new-tokens 4", dict(raw=True, min_new_tokens=4)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "options"), OPTIONS)
def test_every_option_means_what_it_means_in_python(run, folder, words, options):
    found = run("generate", "Who has the kite?", "-m", folder, "--max-new-tokens", "8", *words.split())
    answer = generate(load_checkpoint(folder), "Who has the kite?", max_new_tokens=8, **options)
    assert found.out == visible(answer.text) + "\n"


def test_a_system_message_a_type_and_a_number_of_experts_are_taken_over(run, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qwen3_scratch.terminal.commands.stream", lambda *args, **options: asked.append(args) or iter(())
    )
    monkeypatch.setattr("qwen3_scratch.terminal.commands.show", lambda pieces: generate(*asked[-1], max_new_tokens=1))
    words = "generate Hi --system Short! --dtype bfloat16 --device cpu --num-experts-per-tok 1 --model"
    assert run(*words.split(" "), folder).code == 0
    model, messages = asked[0]
    assert (model.dtype, model.config.num_experts_per_tok) == (torch.bfloat16, 1)
    assert messages == [{"role": "system", "content": "Short!"}, {"role": "user", "content": "Hi"}]


def test_a_hyphen_reads_the_prompt_from_standard_input(run, says, folder):
    for typed in ("Who has\nthe kite?\n", "Who has\nthe kite?"):
        script = says("x")
        assert run("generate", "-", "-m", folder, "--max-new-tokens", "1", stdin=typed).code == 0
        assert "user\nWho has\nthe kite?<|im_end|>" in script.prompts[0]


def test_routes_show_the_experts_of_every_token(run, folder, monkeypatch):
    found = run("generate", "Hi [b]", "-m", folder, "--max-new-tokens", "3", "--routes")
    model = load_checkpoint(folder)
    answer = generate(model, "Hi [b]", max_new_tokens=3)
    ids = [*answer.prompt_ids, *answer.token_ids]
    with torch.inference_mode(), trace() as recorded:
        forward(model.weights, torch.tensor([ids]), model.config)
    routes = [call.output.experts.tolist() for call in recorded["moe_route"]]
    rows = re.findall(r"^  (\S+) +(\d \d) +(\d \d) *$", found.err, flags=re.MULTILINE)
    assert [row[1:] for row in rows] == [
        tuple(" ".join(map(str, layer[number])) for layer in routes) for number in range(len(ids))
    ]
    texts = (tokenizer().decode([token]).replace("\n", "⏎").replace(" ", "␣") for token in ids)
    shown = ["".join(one if one.isprintable() else "�" for one in text) for text in texts]
    assert [row[0] for row in rows] == shown and any("[" in text for text in shown)
    assert found.out == visible(answer.text) + "\n" and max(map(len, found.err.splitlines())) <= 80
    monkeypatch.setattr(
        "qwen3_scratch.terminal.report.token_text", lambda *_: "[i]"
    )  # a token of Qwen's, and no markup
    assert run("generate", "Hi [b]", "-m", folder, "--max-new-tokens", "3", "--routes").err.count("\n  [i] ") == len(
        ids
    )


@pytest.mark.parametrize(
    ("layers", "experts", "top_k", "said"),
    [(13, 16, 2, ", one layer in 2"), (28, 2, 1, ", one layer in 3"), (4, 128, 8, ", 2 of 8"), (4, 8, 2, "")],
)
def test_the_table_of_routes_leaves_out_what_does_not_fit_and_says_so(run, tmp_path, layers, experts, top_k, said):
    sizes = dict(num_hidden_layers=layers, num_experts=experts, num_experts_per_tok=top_k, hidden_size=8)
    save_checkpoint(checkpoint(**sizes, moe_intermediate_size=4), tmp_path)
    with unchecked():
        found = run("generate", "Hi", "--raw", "-m", str(tmp_path), "--max-new-tokens", "1", "--routes")
    assert f"\nExperts of each token by layer, strongest first{said}\n" in found.err
    lines = [line.rstrip() for line in found.err.splitlines()]
    heads, first = (re.split(r"  +", line.strip()) for line in (lines[4], lines[6]))
    step = int(said[-1]) if "layer" in said else 1
    assert heads == ["token, layer", *map(str, range(0, layers, step))] and len(first) == len(heads)
    assert {len(cell.split()) for cell in first[1:]} == {min(top_k, 2)}
    assert "…" not in found.err and max(map(len, found.err.splitlines())) <= 80


def test_a_dense_model_says_that_it_has_no_router(run, tmp_path):
    config = dense_config(vocab_size=read_config(TINY).vocab_size, max_position_embeddings=512)
    save_checkpoint(Checkpoint(config, random_weights(config), tokenizer(), {}, TINY), tmp_path)
    found = run("generate", "Hi", "-m", str(tmp_path), "--max-new-tokens", "2", "--routes")
    assert found.code == 0 and "(a dense model: it has no router, every token passes the same feed" in found.err


# ---- help and errors ----------------------------------------------------------------------------


def test_help_lists_the_commands_and_what_a_model_may_be(run):
    for words in (["--help"], ["-h"], []):
        found = run(*words)
        about, _, commands = (found.out + found.err).partition("Commands")
        assert all(f"  {name} " in commands for name in COMMANDS)
        assert "QWEN3_SCRATCH_MODEL" in about and "..." not in commands


def test_the_version_is_that_of_the_project(run):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert run("--version") == (0, f"qwen3-scratch {project['version']}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example_and_all_names_in_full(run, name):
    found = run(name, "--help")
    assert found.code == 0 and f"Example: `qwen3-scratch {name} " in found.out and "…" not in found.out
    options = {
        "generate": "--model --max-new-tokens --min-new-tokens --no-thinking --temperature --top-k --top-p --min-p"
        " --repetition-penalty --seed --stop --system --raw --routes --num-experts-per-tok --device --dtype --revision",
        "chat": "--model --max-new-tokens --no-thinking --temperature --seed --system /new /think /quit Ctrl-D Ctrl-C",
        "trace": "--model --raw --num-experts-per-tok --device --dtype --revision",
        "info": "--revision model",
        "download": "--revision model HF_ENDPOINT HF_TOKEN HF_HUB_OFFLINE",
        "verify": "--revision --against model",
        "explore": "--output --bits --questions --revision model",
    }[name]
    assert all(word in found.out for word in options.split())
    assert max(map(len, found.out.splitlines())) <= 80


WRONG = [
    ("generate Hi -m {tmp}/nowhere", "{tmp}/nowhere: no such folder, expected 'tiny', a folder, or a hub id"),
    ("generate Hi -m :cat:[b]", ":cat:[b]: no such folder, expected"),
    ("generate Hi -m {tmp}", "{tmp}/config.json: no such file"),
    ("generate Hi -m {tmp}/file", "{tmp}/file: is a file, expected a checkpoint's folder: name the folder that holds"),
    ("info {tmp}/file", "{tmp}/file: is a file, expected a checkpoint's folder"),
    ("trace Hi -m {tmp}/nowhere", "{tmp}/nowhere: no such folder"),
    ("chat -m {tmp}/nowhere", "{tmp}/nowhere: no such folder"),
    ("generate Hi --top-p 0", "top_p is 0.0, expected a number above 0 and at most 1: mend the argument"),
    ("generate Hi --temperature -1", "temperature is -1.0, expected a number, 0 (greedy) or more: mend the argument"),
    ("generate Hi --device nonsense", "device is 'nonsense', expected one that this machine has"),
    ("generate Hi --dtype int4", "--dtype is 'int4', expected auto, float32, bfloat16, float16: choose one"),
    ("generate Hi --max-new-tokens 0", "max_new_tokens is 0, expected a whole number, at least 1: raise it"),
    ("generate Hi --num-experts-per-tok 99", "num_experts_per_tok is 99, expected 1 to 8, the number of experts"),
    ("generate Hi --max-new-tokens 99999", "prompt: 9 prompt tokens and max_new_tokens=99999 exceed max_position"),
    ("generate {empty}", "prompt is empty, expected at least one word: write something"),
    ("generate -", "prompt is empty, expected at least one word: write something"),
    ("trace {empty}", "prompt is empty, expected at least one word: write something"),
    ("generate \udcff\udcfe", "text: "),  # bytes that are no UTF-8, as the shell hands them over
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_an_error_is_one_line_on_standard_error_and_exit_1(run, tmp_path, words, message, monkeypatch):
    monkeypatch.setattr(eager, "forward", never)
    (tmp_path / "file").touch()
    found = run(*(word.format(tmp=tmp_path, empty="") for word in words.split()), stdin="\n")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith(f"error: {message.format(tmp=tmp_path)}"), found.err
    assert found.err.count("\n") == 1 and found.err.endswith("\n")


def test_input_that_is_no_text_is_an_error_and_output_that_cannot_be_shown_is_none(run, says, polite, monkeypatch):
    for words in (["generate", "-"], ["chat"]):
        found = run(*words, stdin=b"caf\xe9 is Latin-1\n")
        message = "error: standard input is no text in utf-8 (invalid continuation byte): convert it\n"
        assert (found.code, found.out) == (1, "") and found.err.endswith(message)
    says("¿Qué?<|im_end|>")
    monkeypatch.setattr(sys, "stdout", shown := io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert run("generate", "Hi", "-m", polite).code == 0
    assert shown.buffer.getvalue() == b"?Qu??\n"


def test_a_wrong_command_line_exits_2_and_names_the_help(run):
    for words in ("generate", "generate Hi --no-such-option", "no-such-command", "generate Hi --seed x"):
        found = run(*words.split())
        assert (found.code, found.out) == (2, "") and "Usage: " in found.err and "Traceback" not in found.err


# ---- trace and info -----------------------------------------------------------------------------


def test_trace_prints_the_table_of_one_pass(run, folder):
    model = load_checkpoint(folder, num_experts_per_tok=1)
    with torch.inference_mode(), trace() as recorded:
        forward(model.weights, torch.tensor([prompt_ids(model, "Hi", raw=True)]), model.config)
    found = run("trace", "Hi", "--raw", "-m", folder, "--num-experts-per-tok", "1")
    assert (found.code, found.out, found.err) == (0, recorded.table() + "\n", "")
    assert "moe_route" in run("trace").out


def test_the_figures_of_info_are_those_of_the_config(run, folder, monkeypatch):
    found, config = run("info", folder), read_config(folder)
    total, active = config.num_parameters(), config.num_parameters(active=True)
    experts = f"{config.num_experts}, top {config.num_experts_per_tok}, weights sum to 1"
    heads = f"{config.num_attention_heads} of {config.head_dim}, {config.num_key_value_heads} for keys"
    context = f"{config.max_position_embeddings} tokens, rope default, theta 10000"
    share = f"{active:,}  ({active / total:.0%})"
    for figure in (folder, f"{total:,}", share, size_text(4 * total), experts, heads, context, "model.safetensors"):
        assert figure in found.out, figure
    assert max(map(len, found.out.splitlines()[1:])) <= 80 and (found.code, found.err) == (0, "")
    monkeypatch.setenv("QWEN3_SCRATCH_MODEL", folder)
    assert run("info").out == found.out
    monkeypatch.delenv("QWEN3_SCRATCH_MODEL")
    assert run("info").out == run("info", "tiny").out == run("info", str(TINY)).out != found.out


# ---- chat ---------------------------------------------------------------------------------------


def test_a_chat_remembers_its_turns_until_it_starts_afresh(run, says, polite):
    end = "<|im_end|>"
    script = says(f"One.{end}<think>\nHm.\n</think>\n\nTwo.{end}Three.{end}Four.{end}")
    lines = ["first", "", "second", "/help", "/new", "third", "/think", " " * 3, "x" * 3000, "fourth", "/quit", "never"]
    found = run("chat", "-m", polite, "--system", "Short!", "--max-new-tokens", "20", stdin="\n".join(lines))
    assert (found.code, found.out) == (0, "One.\nTwo.\nThree.\nFour.\n")
    first, second, third, fourth = script.prompts
    assert all(prompt.startswith("<|im_start|>system\nShort!<|im_end|>") for prompt in script.prompts)
    assert f"user\nfirst{end}\n<|im_start|>assistant\nOne.{end}\n<|im_start|>user\nsecond{end}" in second
    assert "first" not in third and "second" not in third and third.endswith("assistant\n")
    assert "Three." in fourth and "xxx" not in fourth and fourth.endswith("<think>\n\n</think>\n\n")
    assert "thinking is off" in found.err and "Hm." in found.err and "/new starts afresh" in found.err
    assert "error: the chat has filled the model's context: /new starts afresh" in found.err
    assert script.calls == len(script.tokens) and first.endswith("assistant\n")


def test_a_chat_turns_what_was_said_into_tokens_once_a_turn(run, says, polite, monkeypatch):
    says("One.<|im_end|>Two.<|im_end|>")
    rendered, render = [], Tokenizer.encode_chat

    def noting(self, messages, **options):
        rendered.append(len(messages))
        return render(self, messages, **options)

    monkeypatch.setattr(Tokenizer, "encode_chat", noting)
    assert run("chat", "-m", polite, "--max-new-tokens", "9", stdin="first\nsecond\n").out == "One.\nTwo.\n"
    assert rendered == [1, 3]


def test_a_chat_ends_where_its_input_ends(run, says, folder):
    says("x")
    assert run("chat", "-m", folder, "--max-new-tokens", "1", stdin="Hi\n").code == 0
    found = run("chat", "-m", folder, stdin="")
    assert (found.code, found.out) == (0, "") and found.err.endswith("> \n")


def test_a_chat_on_a_terminal_edits_lines_and_survives_ctrl_c(folder):
    seat = Terminal("-m", "qwen3_scratch", "chat", "-m", folder, "--max-new-tokens", "400")
    try:
        seat.until("/quit, /help.\n> $")
        seat.type("Hi\n")
        seat.until("Hi\n(?s:.{8})")  # it is speaking
        seat.running.send_signal(signal.SIGINT)
        assert "Traceback" not in seat.until(r"\(stopped; this turn is forgotten\)\n> $")
        seat.type("/thimk\x7f\x7fnk\n")  # two letters taken back
        seat.until("thinking is off\n> $")
        seat.type("\x04")
        assert seat.running.wait(300) == 0
    finally:
        seat.running.kill()
        os.close(seat.side)


# ---- how a process ends -------------------------------------------------------------------------

SPEAK = ("-m", "qwen3_scratch", "generate", "Hi", "--raw", "--max-new-tokens", "450", "--temperature", "2", "-m")


def test_ctrl_c_ends_an_answer_with_exit_130_and_no_traceback(folder):
    running = process(*SPEAK, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.read(1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "Traceback" not in err and len(err.splitlines()) <= 1


def test_a_reader_that_goes_away_ends_the_answer_quietly(folder):
    running = process(*SPEAK, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.read(1)
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(300) in (0, 1) and err == ""
