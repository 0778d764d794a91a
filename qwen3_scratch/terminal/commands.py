"""The commands of the terminal, each a few lines on functions that can be imported as well."""

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import Field, fields
from importlib.metadata import version
from typing import Annotated, Any, TypeVar, get_args

import torch
import typer

from .. import fast
from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.verifying import verify as verdicts_of
from ..checkpoints.weights import DTYPES
from ..devices.launch import agree, ranks, started_by_torchrun
from ..devices.slices import DISPATCH, load_slices
from ..errors import Error
from ..generation import KEYWORD, Options, prompt_ids, stream
from ..hub.download import fetch, find_snapshot
from ..hub.find import chosen, find_local
from ..model import forward
from ..tracing import trace as open_trace
from .report import checkpoint_report, plan_report, route_table, slices_report, verdict_line
from .screen import complain, one_line_ends, read_line, screen, show, speaker

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

Command = TypeVar("Command", bound=Callable[..., Any])
Model = Annotated[str | None, typer.Option("--model", "-m", help="`tiny`, a folder, or a hub id.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`.")]
Dtype = Annotated[str, typer.Option(help="`auto` keeps the type of the files; else float32, bfloat16, float16.")]
TopExperts = Annotated[int | None, typer.Option(help="Experts each token goes to, instead of the config's number.")]
System = Annotated[str | None, typer.Option(help="A system message before the first turn.")]
TensorParallel = Annotated[int, typer.Option(min=1, help="Cut every matrix over so many processes (torchrun).")]
ExpertParallel = Annotated[int, typer.Option(min=1, help="Deal the experts out to so many processes (torchrun).")]
Int8 = Annotated[bool, typer.Option("--int8", help="Decode compiled, from a copy of the weights in 8 bits.")]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the text as it stands, without the chat format.")]


def main() -> None:
    """Runs the command line; an error is one line on standard error and a non-zero exit."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages; torch reads it at its first allocation
    with suppress(AttributeError):  # a character that the terminal lacks is no reason to stop
        output: Any = sys.stdout
        output.reconfigure(errors="replace")
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


def with_generation_options(*without: str, **defaults: Any) -> Callable[[Command], Command]:
    """Gives a command the fields of `Options` in the place of `**options`, all but some, with defaults of its own."""

    def option(f: Field[Any]) -> inspect.Parameter:
        kind, help_text = get_args(f.type)[:2]
        default = defaults.get(f.name, f.default)
        name = f"--{f.name.replace('_', '-')}" + (f"/--no-{f.name}" if default is True else "")
        if f.name == "stop":
            kind, default = list[str], []
        elif float in get_args(kind):
            kind = float | None
        annotation: Any = Annotated[kind, typer.Option(name, help=help_text)]
        return inspect.Parameter(f.name, KEYWORD, default=default, annotation=annotation)

    def change(command: Command) -> Command:
        given = list(inspect.signature(command).parameters.values())
        more = [option(f) for f in fields(Options) if f.name not in (*without, "tools")]
        taken = [each.replace(kind=KEYWORD) for each in given[:-1]]
        command.__signature__ = inspect.Signature([*taken[:2], *more, *taken[2:]])  # type: ignore[attr-defined]  # typeshed lacks it
        return command

    return change


@app.command("generate")
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
    expert_dispatch: Annotated[
        str, typer.Option(help="With experts dealt out: `own-experts` adds answers up, `all-to-all` sends tokens.")
    ] = "own-experts",
    **options: Any,
) -> None:
    """Answer one prompt, streaming. What is left out comes from the checkpoint's generation_config.json.

    Example: `qwen3-scratch generate "What is the capital of France?" --routes`

    On many devices: `torchrun --nproc-per-node 4 -m qwen3_scratch generate ... --tensor-parallel 2 --expert-parallel 2`
    """
    place = place_for(device)
    many = tensor_parallel * expert_parallel > 1 or started_by_torchrun()
    with ranks(tensor_parallel, expert_parallel, place) if many else nullcontext() as mesh, speaker(mesh) as first:
        prompt = agree(sys.stdin.read().removesuffix("\n") if prompt == "-" and first else prompt)
        if many and options["seed"] is None:
            options["seed"] = agree(int(torch.seed() % 2**63))
        checkpoint = load(model, place, dtype, revision, num_experts_per_tok, mesh, expert_dispatch)
        checkpoint = fast.int8(checkpoint) if int8 else checkpoint
        asked: Any = prompt
        if system is not None and not options["raw"]:
            asked = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        found = show(stream(checkpoint, asked, **options))
        if found.finish_reason == "length":
            screen.print(f"(cut off after {len(found.token_ids)} tokens; raise --max-new-tokens to see more)")
        if routes:
            screen.print(route_table(checkpoint, [*found.prompt_ids, *found.token_ids], len(found.prompt_ids)))


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

    Ctrl-C stops an answer, and ends the chat where it waits for you.

    Example: `qwen3-scratch chat --no-thinking --temperature 0.7`
    """
    checkpoint = load(model, place_for(device), dtype, revision, num_experts_per_tok)
    checkpoint = fast.int8(checkpoint) if int8 else checkpoint
    most, start = options["max_new_tokens"], [] if system is None else [{"role": "system", "content": system}]
    messages = start
    screen.print("Type a message. /new, /think, /quit, /help.", style="dim")
    while (text := read_line()) is not None and text != "/quit":
        if text == "/new":
            messages = start
        elif text == "/think":
            options["thinking"] = not options["thinking"]
            screen.print(f"thinking is {'on' if options['thinking'] else 'off'}", style="dim")
        elif text.startswith("/"):
            screen.print("/new starts afresh, /think switches thinking, /quit or Ctrl-D ends", style="dim")
        elif text:
            asked = [*messages, {"role": "user", "content": text}]
            try:
                read = prompt_ids(checkpoint, asked, thinking=options["thinking"])
                room = checkpoint.config.max_position_embeddings - len(read)
                if room < 1:
                    raise Error("the chat has filled the model's context: /new starts afresh")
                found = show(stream(checkpoint, asked, **options | {"max_new_tokens": min(most, room)}))
                messages = [*asked, {"role": "assistant", "content": found.text}]
            except Error as error:
                complain(error)
            except KeyboardInterrupt:
                screen.print("(stopped; this turn is forgotten)", style="dim")


@app.command("trace")
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
    print(recorded.table())


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="`tiny`, a folder, a hub id, or a config.json alone.")] = None,
    revision: Revision = None,
    tensor_parallel: TensorParallel | None = None,
    expert_parallel: ExpertParallel | None = None,
) -> None:
    """Show a checkpoint's files, sizes, parameters and memory.

    Parameters are counted in all and active per token, memory at each dtype; no weight is read. With
    --tensor-parallel or --expert-parallel: what each device would hold and send, for which config.json is enough.

    Example: `qwen3-scratch info Qwen/Qwen3-30B-A3B --tensor-parallel 2 --expert-parallel 4`
    """
    if tensor_parallel is None and expert_parallel is None:
        print(checkpoint_report(model, revision))
    else:
        print(slices_report(model, tensor_parallel or 1, expert_parallel or 1, revision))


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
    if (folder := find_local(name)) is not None:
        screen.print("(a folder of this machine: there is nothing to download)")
    else:
        snapshot = find_snapshot(str(name), revision)
        screen.print(plan_report(snapshot), markup=False, soft_wrap=True)
        folder = fetch(snapshot, tell=lambda file: screen.print(f"  verified  {file}", markup=False))
    print(folder)


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
    folder, verdicts = verdicts_of(model, revision, against)
    print(folder)
    wrong = []
    for verdict in verdicts:
        print(verdict_line(verdict), flush=True)
        wrong += [verdict.name] if verdict.right is False else []
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise Error(f"{folder}: {wrong[0]}{others} wrong or missing, expected what the hub has: download it again")


def place_for(device: str) -> str:
    """`auto` is a GPU where there is one, and with many processes each has its own."""
    if device != "auto" or not torch.cuda.is_available():
        return "cpu" if device == "auto" else device
    return f"cuda:{os.environ['LOCAL_RANK']}" if started_by_torchrun() else "cuda"


def load(
    model: str | None, device: str, dtype: str, revision: str | None, top_k: int | None, mesh: Any = None, way: str = ""
) -> Checkpoint:
    """A whole checkpoint, or of a mesh this rank's slices of one, whose experts are reached in this way."""
    if mesh is not None and way not in DISPATCH:
        raise Error(f"--expert-dispatch is {way!r}, expected {' or '.join(DISPATCH)}: choose one")
    if dtype != "auto" and dtype not in DTYPES:
        raise Error(f"--dtype is {dtype!r}, expected auto, {', '.join(DTYPES)}: choose one")
    options: dict[str, Any] = dict(device=device, revision=revision, num_experts_per_tok=top_k, dtype=DTYPES.get(dtype))
    if mesh is None:
        return load_checkpoint(model, **options)
    return load_slices(model, mesh, dispatch=DISPATCH[way], **options)
