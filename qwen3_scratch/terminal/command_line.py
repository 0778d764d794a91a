"""The words of a command line: the options that commands share, and what is said of those that are none."""

import inspect
import shlex
from collections.abc import Callable
from dataclasses import Field, fields
from itertools import pairwise
from typing import Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperCommand

from ..request import KEYWORD, Options
from .screen import visible

Command = TypeVar("Command", bound=Callable[..., Any])
Model = Annotated[str | None, typer.Option("--model", "-m", help="`tiny`, a folder, or a hub id.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`.")]
Dtype = Annotated[str, typer.Option(help="`auto` keeps the type of the files; else float32, bfloat16, float16.")]
TopExperts = Annotated[int | None, typer.Option(help="Experts each token goes to, instead of the config's number.")]
System = Annotated[str | None, typer.Option(help="A system message before the first turn.")]
TENSOR_PARALLEL = typer.Option(min=1, help="Cut every matrix over so many processes (torchrun).")
EXPERT_PARALLEL = typer.Option(min=1, help="Deal the experts out to so many processes (torchrun).")
TensorParallel = Annotated[int, TENSOR_PARALLEL]
ExpertParallel = Annotated[int, EXPERT_PARALLEL]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Hold the weights in 8 bits, half of bf16, and decode compiled from them.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the text as it stands, without the chat format.")]
ExpertDispatch = Annotated[
    str | None,
    typer.Option(
        help="With experts dealt out: `own-experts` (so without it) adds answers up, `all-to-all` sends tokens."
    ),
]
UsageError: Any = typer.BadParameter.__base__  # typer gives this no name of its own


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
        more = [option(f) for f in fields(Options) if f.name not in (*without, "tools", "num_samples")]
        taken = [each.replace(kind=KEYWORD) for each in given[:-1]]
        command.__signature__ = inspect.Signature([*taken[:2], *more, *taken[2:]])  # type: ignore[attr-defined]  # typeshed lacks it
        return command

    return change


class Prompted(TyperCommand):
    """A command with a prompt. One that begins with a dash is taken for an option, so the way out is said."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)  # what parses them empties the list
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            valued = {name for each in self.params for name in each.opts if not getattr(each, "is_flag", True)}
            known = {"-", "--", *(name for each in self.params for name in (*each.opts, *each.secondary_opts))}
            pairs = pairwise(["", *words])
            odd = [word for last, word in pairs if word[:1] == "-" and last not in valued and word not in known]
            if not odd:
                raise
            way_out = f"qwen3-scratch {self.name} -- {visible(shlex.quote(odd[0]))}"
            said = f"{error.format_message()} A prompt that begins with a dash stands behind --, as in {way_out}"
            raise UsageError(said, ctx=ctx) from None
