"""The commands of the terminal, each a few lines on functions that can be imported as well."""

import os
import sys
from contextlib import nullcontext, suppress
from importlib.metadata import version
from typing import Annotated, Any

import torch
import typer

from .. import fast
from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.verifying import verify as verdicts_of
from ..checkpoints.weights import DTYPES
from ..devices.launch import TIMEOUT, agree, ranks, started_by_torchrun
from ..devices.slices import DISPATCH, load_slices
from ..errors import Error, first_of, shown
from ..explorer import write
from ..generation import Conversation, stream
from ..hub.download import fetch, find_snapshot
from ..hub.find import chosen, find_local
from ..model import forward
from ..request import prompt_ids
from ..tokenizer import Message
from ..tracing import trace as open_trace
from .command_line import (
    EXPERT_PARALLEL,
    TENSOR_PARALLEL,
    Device,
    Dtype,
    ExpertDispatch,
    ExpertParallel,
    Int8,
    Model,
    Prompted,
    Raw,
    Revision,
    System,
    TensorParallel,
    TopExperts,
    with_generation_options,
)  # fmt: skip
from .keyboard import lines_of_any_length, prepare_input, read_all, read_line
from .report import checkpoint_report, plan_report, route_table, slices_report, verdict_line
from .screen import complain, note, one_line_ends, say, show, show_table, speaker, tell_why_short

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: the boxes leave too little room at 80 columns and cut long names off
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Run and look into Qwen3 mixture-of-experts models, written from scratch as pure functions.\n\n"
    "MODEL is `tiny` (embedded, needs no network), a folder in the hub's format, or a hub id such as "
    "`huihui-ai/Huihui-MoE-0.8B-2E`, which is downloaded once. Without it the environment variable "
    "QWEN3_SCRATCH_MODEL decides, else `tiny`.",
)


def main() -> None:
    """Runs the command line; an error is one line on standard error and a non-zero exit."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages; torch reads it at its first allocation
    with suppress(AttributeError):  # a character that the terminal lacks is no reason to stop
        output: Any = sys.stdout
        output.reconfigure(errors="replace")
    prepare_input()
    with one_line_ends():
        app()


def print_version(asked: bool) -> bool:
    if asked:
        print(f"qwen3-scratch {version('qwen3-scratch')}")
        raise typer.Exit
    return asked


@app.callback()
def before_any_command(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("generate", cls=Prompted)
@with_generation_options()
def generate_command(
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads standard input.")],
    model: Model = None,
    system: System = None,
    int8: Int8 = False,
    routes: Annotated[bool, typer.Option("--routes", help="Then show which experts each token went to.")] = False,
    num_experts_per_tok: TopExperts = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    tensor_parallel: TensorParallel = 1,
    expert_parallel: ExpertParallel = 1,
    expert_dispatch: ExpertDispatch = None,
    rank_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a process waits for one that is slow (torchrun).")
    ] = TIMEOUT,
    **options: Any,
) -> None:
    """Answer one prompt, streaming. What is left out comes from the checkpoint's generation_config.json.

    Example: `qwen3-scratch generate "What is the capital of France?" --routes`

    On many devices: `torchrun --nproc-per-node 4 -m qwen3_scratch generate ... --tensor-parallel 2 --expert-parallel 2`
    """
    if system is not None and options["raw"]:
        raise Error("--system is for the chat format, and --raw leaves that out: leave one of them out")
    place = place_for(device)
    many = tensor_parallel * expert_parallel > 1 or started_by_torchrun()
    if rank_timeout != TIMEOUT and not many:
        raise Error("--rank-timeout is for many processes, and this is one alone: start it by torchrun or leave it out")
    together = ranks(tensor_parallel, expert_parallel, place, rank_timeout) if many else nullcontext()
    with together as mesh, speaker(mesh) as first:
        prompt = agree(read_all() if prompt == "-" and first else prompt)
        if many and options["seed"] is None:
            options["seed"] = agree(int(torch.seed() % 2**63))
        check_dispatch(expert_dispatch, expert_parallel)
        settings = place, dtype, revision, num_experts_per_tok, int8
        checkpoint = load(model, *settings, mesh, expert_dispatch or "own-experts")
        asked: Any = prompt
        if system is not None:
            asked = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        found = show(stream(checkpoint, asked, **options))
        tell_why_short(found, "raise --max-new-tokens to see more")
        if routes:
            show_table(route_table(checkpoint, [*found.prompt_ids, *found.token_ids], len(found.prompt_ids)))


@app.command()
@with_generation_options("min_new_tokens", "stop", "raw", max_new_tokens=1024)
def chat(
    model: Model = None,
    system: System = None,
    int8: Int8 = False,
    num_experts_per_tok: TopExperts = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    **options: Any,
) -> None:
    """Talk in turns. `/new` starts afresh, `/think` switches thinking, `/quit` or Ctrl-D ends.

    Any other line is said, whatever it begins with; `//think` says `/think`. Lines that are pasted at once are one
    message. Ctrl-C stops an answer, and ends the chat where it waits for you.

    Example: `qwen3-scratch chat --no-thinking --temperature 0.7`
    """
    checkpoint = load(model, place_for(device), dtype, revision, num_experts_per_tok, int8)
    start = [] if system is None else [{"role": "system", "content": system}]
    messages, options["conversation"] = start, Conversation()
    note("Type a message. /new, /think, /quit, /help.", "dim")
    with lines_of_any_length():
        while (text := read_line()) is not None and text != "/quit":
            if text == "/new":
                messages = start
            elif text == "/think":
                options["thinking"] = not options["thinking"]
                note(f"thinking is {'on' if options['thinking'] else 'off'}", "dim")
            elif text == "/help":
                note(f"{HELP}; any other line is said, and //think says /think", "dim")
            elif text:
                said = text[1:] if text.startswith("//") and text.lstrip("/") in WORDS else text
                messages = take_turn(checkpoint, messages, said, **options)


WORDS = ("new", "think", "quit", "help")
HELP = "/new starts afresh, /think switches thinking, /quit or Ctrl-D ends"


def take_turn(checkpoint: Checkpoint, messages: list[Message], text: str, **options: Any) -> list[Message]:
    """The chat with one more turn of both; as it was where an error or Ctrl-C ended the turn."""
    asked = [*messages, {"role": "user", "content": text}]
    most, advice = options["max_new_tokens"], "raise --max-new-tokens to see more"
    try:
        how = {"thinking": options["thinking"], "plain_user_text": options.pop("plain_user_text")}
        ids = prompt_ids(checkpoint, asked, **how)
        room = checkpoint.config.longest - len(ids)
        if room < 1:
            raise Error("the chat has filled the model's context: /new starts afresh")
        if room < most:
            most, advice = room, "the chat has filled the model's context: /new starts afresh"
        found = show(stream(checkpoint, ids, **options | {"max_new_tokens": most}))
        tell_why_short(found, advice)
        return [*asked, found.message]
    except Error as error:
        complain(error)
    except KeyboardInterrupt:
        note("(stopped; this turn is forgotten)", "dim")
    return messages


@app.command("trace", cls=Prompted)
def trace_command(
    prompt: Annotated[str, typer.Argument(help="The text whose pass is traced.")] = "Who has the kite?",
    model: Model = None,
    raw: Raw = False,
    num_experts_per_tok: TopExperts = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Print the shapes that go into and come out of every function.

    Example: `qwen3-scratch trace "Who has the kite?" --num-experts-per-tok 1`
    """
    checkpoint = load(model, place_for(device), dtype, revision, num_experts_per_tok)
    ids = torch.tensor([prompt_ids(checkpoint, prompt, raw=raw)], device=checkpoint.device)
    with torch.inference_mode(), open_trace() as recorded:
        forward(checkpoint.weights, ids, checkpoint.config)
    say(recorded.table())


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="`tiny`, a folder, a hub id, or a config.json alone.")] = None,
    revision: Revision = None,
    tensor_parallel: Annotated[int | None, TENSOR_PARALLEL] = None,
    expert_parallel: Annotated[int | None, EXPERT_PARALLEL] = None,
) -> None:
    """Show a checkpoint's files, sizes, parameters and memory.

    Parameters are counted in all and active per token, memory at each dtype; no weight is read. With
    --tensor-parallel or --expert-parallel: what each device would hold and send, for which config.json is enough.

    Example: `qwen3-scratch info Qwen/Qwen3-30B-A3B --tensor-parallel 2 --expert-parallel 4`
    """
    if not (model and model.endswith("config.json")):
        check_revision(model, revision)
    if tensor_parallel is None and expert_parallel is None:
        say(checkpoint_report(model, revision))
    else:
        say(slices_report(model, tensor_parallel or 1, expert_parallel or 1, revision))


@app.command("download")
def download_command(
    model: Annotated[str | None, typer.Argument(help="A hub id such as `huihui-ai/Huihui-MoE-0.8B-2E`.")] = None,
    revision: Revision = None,
) -> None:
    """Fetch a checkpoint from the hub, every file verified.

    Sizes and free disk are shown first, the folder is printed last. Every file is held against the hub's hash. Run
    again, it fetches what is lacking or wrong. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean
    to huggingface_hub.

    Example: `qwen3-scratch download huihui-ai/Huihui-MoE-0.8B-2E`
    """
    name = chosen(model)
    check_revision(model, revision)
    if (folder := find_local(name)) is not None:
        note("(a folder of this machine: there is nothing to download)")
    else:
        snapshot = find_snapshot(str(name), revision)
        note(plan_report(snapshot))
        folder = fetch(snapshot, tell=lambda file: note(f"  verified  {file}"))
    say(folder)


@app.command("verify")
def verify_command(
    model: Annotated[str | None, typer.Argument(help="`tiny`, a folder, or a hub id that was downloaded.")] = None,
    revision: Revision = None,
    against: Annotated[str | None, typer.Option(help="A hub id that a folder of your own is held against.")] = None,
) -> None:
    """Hash every file of a checkpoint anew.

    It is held against the hub's hash; the exit code is 1 if one is wrong. What was downloaded needs no network for it.
    A folder has no hashes of its own: --against names a hub id to ask; without it config, names, shapes and numbers
    are checked.

    Example: `qwen3-scratch verify huihui-ai/Huihui-MoE-0.8B-2E`
    """
    check_revision(model, revision)
    folder, verdicts = verdicts_of(model, revision, against)
    say(folder)
    wrong = []
    for verdict in verdicts:
        say(verdict_line(verdict))
        wrong += [verdict.name] if verdict.right is False else []
    if wrong:
        raise Error(f"{folder}: {first_of(wrong)} wrong or missing, expected what the hub has: download it again")


@app.command()
def explore(
    model: Annotated[str | None, typer.Argument(help="`tiny`, a folder, or a hub id.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")] = "explorer.html",
    bits: Annotated[int, typer.Option(help="16 (fp16) or 8 for each number of a matrix.")] = 16,
    questions: Annotated[int, typer.Option(help="Of each domain, to measure what experts are for; 0: not.")] = 8,
    revision: Revision = None,
) -> None:
    """Write a page that runs the model in a browser.

    It is one file of at most some hundred megabytes, which needs neither server nor network.

    Example: `qwen3-scratch explore tiny --output explorer.html`
    """
    say(write(load(model, "cpu", "auto", revision, None), output, bits=bits, questions=questions))


def place_for(device: str) -> str:
    """`auto` is a GPU where there is one, and with many processes each has its own."""
    if device != "auto" or not torch.cuda.is_available():
        return "cpu" if device == "auto" else device
    return f"cuda:{os.environ['LOCAL_RANK']}" if started_by_torchrun() else "cuda"


def check_revision(model: str | None, revision: str | None) -> None:
    if revision is not None and find_local(chosen(model)) is not None:
        raise Error("--revision is for a hub id, and the model is a folder of this machine: leave it out")


def check_dispatch(way: str | None, expert_parallel: int) -> None:
    if way is not None and way not in DISPATCH:
        raise Error(f"--expert-dispatch is {shown(way)}, expected {' or '.join(DISPATCH)}: choose one")
    if way is not None and expert_parallel == 1:
        raise Error("--expert-dispatch is for experts dealt out, expected --expert-parallel above 1: leave it out")


def load(
    model: str | None, device: str, dtype: str, revision: str | None, top_k: int | None, int8: bool = False,
    mesh: Any = None, way: str = "",
) -> Checkpoint:  # fmt: skip
    """A whole checkpoint, or of a mesh this rank's slices of one, whose experts are reached in this way."""
    check_revision(model, revision)
    if dtype != "auto" and dtype not in DTYPES:
        raise Error(f"--dtype is {dtype!r}, expected auto, {', '.join(DTYPES)}: choose one")
    options: dict[str, Any] = dict(device=device, revision=revision, num_experts_per_tok=top_k, dtype=DTYPES.get(dtype))
    if mesh is None:
        return (fast.load_int8 if int8 else load_checkpoint)(model, **options)
    if int8:
        raise Error("--int8 is for one process, and here are many: leave it out")
    return load_slices(model, mesh, dispatch=DISPATCH[way], **options)
