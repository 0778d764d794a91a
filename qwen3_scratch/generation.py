"""Prompt -> answer: prefill, then one token at a time, for one prompt as a stream or for many as a batch."""

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from . import fast
from .cache import KVCache, check_memory
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.config_json import check_generation_config
from .errors import Error, shown
from .fast.eager import PREFILL_CHUNK, eager_decoder, prefill
from .sampling import NOT_FINITE, Sampling, check_sampling, choose
from .text_stream import Piece, TextStream
from .tokenizer import Message, Tools
from .tracing import explain
from .trust.memory import telling_too_little_memory

Prompt = str | Sequence[int] | Sequence[Message] | Tensor
Number = int | float
Function = TypeVar("Function", bound=Callable[..., Any])
KEYWORD = inspect.Parameter.KEYWORD_ONLY


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an answer is generated: the keyword arguments of `generate` and `stream`, and options of the terminal.

    What is None comes from the checkpoint's generation_config.json; how those that choose a token work, `Sampling`
    says. Each row of a batch draws by itself, so with a seed its answer does not depend on the others.
    """

    max_new_tokens: Annotated[int, "Most tokens to generate."] = 256
    min_new_tokens: Annotated[int, "Fewest tokens before a stop token may come."] = 0
    thinking: Annotated[bool, "Let the model think before it answers, where its chat template knows how."] = True
    temperature: Annotated[Number | None, "0 takes the most likely token; higher is freer."] = None
    top_k: Annotated[int | None, "Draw from so many of the most likely tokens; 0 is off."] = None
    top_p: Annotated[Number | None, "Draw from the most likely tokens that add up to this probability."] = None
    min_p: Annotated[Number | None, "Leave out what is less likely than this share of the most likely."] = None
    repetition_penalty: Annotated[Number | None, "Above 1 discourages repeating."] = None
    seed: Annotated[int | None, "Makes a random answer repeatable."] = None
    stop: Annotated[str | Sequence[str], "Text that ends the answer and is no part of it; may be several."] = ()
    tools: Annotated[Tools | None, "Descriptions of functions for the chat template."] = None
    raw: Annotated[bool, "Continue the text as it stands, without the chat format."] = False
    compiled: Annotated[bool, "Compile first, some seconds once a process, then decode faster."] = False

    def __post_init__(self) -> None:
        most, least, seed = self.max_new_tokens, self.min_new_tokens, self.seed
        if not (isinstance(most, int) and most >= 1):
            raise Error(f"max_new_tokens is {shown(most)}, expected a whole number, at least 1: raise it")
        if not (isinstance(least, int) and 0 <= least <= most):
            expected = f"a whole number, 0 to max_new_tokens, which is {most}"
            raise Error(f"min_new_tokens is {shown(least)}, expected {expected}: mend the argument")
        if seed is not None and not (isinstance(seed, int) and -(2**63) <= seed < 2**64):
            raise Error(f"seed is {shown(seed)}, expected a whole number of at most 64 bits: mend the argument")
        if not all(isinstance(text, str) and text for text in self.stops):
            expected = "a text or a list of texts that are not empty"
            raise Error(f"stop is {shown(self.stop)}, expected {expected}: mend the argument")

    @property
    def stops(self) -> list[Any]:
        return [self.stop] if isinstance(self.stop, str) or not isinstance(self.stop, Sequence) else [*self.stop]

    def sampling(self, checkpoint: Checkpoint) -> Sampling:
        """What is asked for, and for what is None the checkpoint's own."""
        asked = {name: getattr(self, name) for name in Sampling._fields if getattr(self, name) is not None}
        return check_sampling(default_sampling(checkpoint)._replace(**asked))


def with_options(function: Function) -> Function:
    """Shows the fields of `Options` in the place of `**options`, to `help` and to whoever completes names."""
    signature = inspect.signature(function)
    first = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [inspect.Parameter(f.name, KEYWORD, default=f.default, annotation=f.type) for f in fields(Options)]
    function.__signature__ = signature.replace(parameters=[*first, *more])  # type: ignore[attr-defined]  # typeshed lacks it
    return function


class Generation(NamedTuple):
    """One answer. `token_ids` are all that were generated, with the stop token; the text is without it."""

    text: str
    thinking: str | None  # None where the model did not think
    token_ids: list[int]
    finish_reason: str  # "stop": a stop token or stop string came; "length": max_new_tokens were reached
    prompt_ids: list[int]
    stop: str | None = None  # the stop string that was met


@dataclass
class Row:
    """One prompt of a batch and what has come of it so far."""

    prompt: list[int]
    generator: torch.Generator
    stream: TextStream | None
    tokens: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    finish_reason: str | None = None

    def result(self) -> Generation:
        thinking = "".join(piece for piece in self.pieces if piece.thinking)
        text = "".join(piece for piece in self.pieces if not piece.thinking)
        stop = self.stream.stopped if self.stream else None
        return Generation(text, thinking or None, self.tokens, self.finish_reason or "length", self.prompt, stop)


class Settings(NamedTuple):
    """What `Options` come to for one checkpoint."""

    options: Options
    sampling: Sampling
    stop_ids: frozenset[int]
    vocabulary: int  # rows of the embedding behind it are never sampled
    length: int  # of the longest prompt with all its new tokens


@overload
def generate(checkpoint: Checkpoint, prompt: str | list[int] | list[Message], **options: Any) -> Generation: ...
@overload
def generate(
    checkpoint: Checkpoint, prompt: list[str] | list[list[int]] | list[list[Message]], **options: Any
) -> list[Generation]: ...
@overload
def generate(checkpoint: Checkpoint, prompt: Tensor, **options: Any) -> Generation | list[Generation]: ...
@with_options
def generate(
    checkpoint: Checkpoint, prompt: Prompt | Sequence[Prompt], **options: Any
) -> Generation | list[Generation]:
    """The whole answer to a prompt, or a list of answers to a list of prompts, which run as one batch.

    Args:
        prompt: a text (one user turn, or continued as it stands with `raw` or without a chat template), a list of
            chat messages, a list (or tensor) of token ids, or a list of any of these.
        options: the fields of `Options`.

    Raises:
        Error: an argument out of its range, an empty prompt, a token id outside the vocabulary, text for a checkpoint
            without tokenizer, more tokens than `max_position_embeddings` allows or than there is memory for; all
            before any computing. While computing: memory that is refused, or logits that are not finite.
    """
    prompts, many = as_batch(prompt)
    checkpoint, rows, settings = prepare(checkpoint, prompts, **options)
    with telling_what_needs_less(checkpoint, rows, settings):
        for _ in steps(checkpoint, rows, settings):
            pass
    results = [row.result() for row in rows]
    return results if many else results[0]


@with_options
def stream(checkpoint: Checkpoint, prompt: Prompt, **options: Any) -> Generator[Piece, None, Generation]:
    """The answer to one prompt, piece by piece as it comes; takes the options of `generate` and returns its result.

    A piece is a str with an attribute `thinking`; never does one hold half a character. The pieces with and without
    `thinking` add up to `Generation.thinking` and `Generation.text`. Errors are raised by the call itself, before
    the first piece is asked for.
    """
    prompts, many = as_batch(prompt)
    if many:
        raise Error(f"prompt: {len(prompts)} prompts found, expected one: use generate for a batch")
    checkpoint, rows, settings = prepare(checkpoint, prompts, **options)

    def pieces() -> Generator[Piece, None, Generation]:
        with telling_what_needs_less(checkpoint, rows, settings):
            for new in steps(checkpoint, rows, settings):
                yield from new[0]
        return rows[0].result()

    return pieces()


# ---- everything that can be wrong is found before anything is computed ------------------------


def as_batch(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether a list of them was given rather than one."""
    prompt = as_sequence(prompt)
    if isinstance(prompt, str):
        return [prompt], False
    if not prompt:
        raise Error("prompt is empty, expected at least one token or message: write something")
    return ([prompt], False) if isinstance(prompt[0], (dict, int, float)) else (list(prompt), True)


def as_sequence(prompt: Any) -> Sequence[Any]:
    """A text as it is, a tensor or an array as a list; Error for what is no prompt of any kind."""
    found = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if isinstance(found, bytes) or not isinstance(found, Sequence):
        raise Error(f"prompt is a {type(found).__name__}, expected text, messages, token ids, or a list of these")
    return found


def prompt_ids(
    checkpoint: Checkpoint, prompt: Prompt, *, thinking: bool = True, tools: Tools | None = None, raw: bool = False
) -> list[int]:
    """The token ids that the model will read for a prompt of any kind."""
    tokenizer, rows, given = checkpoint.tokenizer, checkpoint.config.vocab_size, as_sequence(prompt)
    if not isinstance(given, str) and all(isinstance(token, (int, float)) for token in given[:1]):
        ids = list(given)
    elif tokenizer is None:
        raise Error("prompt is text, and this checkpoint has no tokenizer, expected token ids: pass a list of them")
    elif isinstance(given, str) and (raw or tokenizer.chat_template is None):
        ids = tokenizer.encode(given)
    else:
        if isinstance(given, str) and not given.strip():
            raise Error("prompt is empty, expected at least one word: write something")
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        ids = tokenizer.encode(tokenizer.render_chat(messages, tools=tools, thinking=thinking))
    if not ids:
        raise Error("prompt is empty, expected at least one token: write something")
    wrong = [token for token in ids if type(token) is not int or not 0 <= token < rows]
    if wrong:
        found = f"token id {shown(wrong[0])}"
        raise Error(f"prompt: {found} found, expected 0 to {rows - 1}: check which tokenizer made it")
    return ids


def prepare(checkpoint: Checkpoint, prompts: list[Prompt], **options: Any) -> tuple[Checkpoint, list[Row], Settings]:
    """The checkpoint as it is to decode, rows with their token ids, and settings within their ranges."""
    if unknown := options.keys() - {f.name for f in fields(Options)}:
        raise Error(f"{sorted(unknown)[0]}: no such option, expected one of generate's: check the spelling")
    asked = Options(**options)
    if asked.stops and checkpoint.tokenizer is None:
        raise Error("stop needs text, and this checkpoint has no tokenizer: leave it out")
    rows = []
    for prompt in prompts:
        ids = prompt_ids(checkpoint, prompt, thinking=asked.thinking, tools=asked.tools, raw=asked.raw)
        room = checkpoint.config.max_position_embeddings
        if len(ids) + asked.max_new_tokens > room:
            found = f"{len(ids)} prompt tokens and max_new_tokens={asked.max_new_tokens}"
            raise Error(f"prompt: {found} exceed max_position_embeddings, which is {room}: shorten one of them")
        generator = torch.Generator()
        generator.seed() if asked.seed is None else generator.manual_seed(asked.seed)
        text = TextStream(checkpoint.tokenizer, ids, asked.stops, asked.raw) if checkpoint.tokenizer else None
        rows.append(Row(ids, generator, text))
    check_generation_config(checkpoint.generation_config, Sampling._fields)
    sampling = asked.sampling(checkpoint)
    read, dtype, device = max(len(row.prompt) for row in rows), checkpoint.dtype, checkpoint.device
    needed = len(rows), read, asked.max_new_tokens
    check_memory(checkpoint.config, *needed, chunk=PREFILL_CHUNK, dtype=dtype, device=device)
    vocabulary = checkpoint.tokenizer.vocab_size if checkpoint.tokenizer else checkpoint.config.vocab_size
    if asked.compiled and checkpoint.decoder is None:
        checkpoint = fast.compiled(checkpoint)
    settings = Settings(asked, sampling, stop_token_ids(checkpoint), vocabulary, read + asked.max_new_tokens)
    return checkpoint, rows, settings


def default_sampling(checkpoint: Checkpoint) -> Sampling:
    """What generation_config.json asks for; without `do_sample` that is the most likely token."""
    asked = checkpoint.generation_config
    known = {name: asked[name] for name in Sampling._fields if asked.get(name) is not None}
    return Sampling(**known) if asked.get("do_sample") else Sampling(**(known | {"temperature": 0.0}))


def stop_token_ids(checkpoint: Checkpoint) -> frozenset[int]:
    asked = checkpoint.generation_config.get("eos_token_id")
    listed = [] if asked is None else [asked] if isinstance(asked, int) else list(asked)
    rows = checkpoint.config.vocab_size  # small models often carry the end tokens of the large one's vocabulary
    return frozenset(token for token in (*listed, *checkpoint.config.eos_token_ids) if 0 <= token < rows)


# ---- one token after the other -----------------------------------------------------------------


def telling_what_needs_less(checkpoint: Checkpoint, rows: list[Row], settings: Settings) -> telling_too_little_memory:
    """Stands around `steps`, and not in it: its frame, which an error holds on to, would keep the cache."""
    what, advice = f"{len(rows)} x {settings.length} tokens", "give fewer prompts at once"
    return telling_too_little_memory(f"generate: {what}", f"lower max_new_tokens or {advice}", checkpoint.device)


def steps(checkpoint: Checkpoint, rows: list[Row], settings: Settings) -> Iterator[list[list[Piece]]]:
    """Generates for all rows at once until each has finished; yields after every token each row's new pieces."""
    dtype, device, most = checkpoint.dtype, checkpoint.device, settings.options.max_new_tokens
    cache = KVCache(checkpoint.config, len(rows), settings.length, chunk=PREFILL_CHUNK, dtype=dtype, device=device)
    choice = new_choice(checkpoint, rows, settings)
    pick = partial(choose, sampling=settings.sampling, barred=choice.barred, seen=choice.seen, uniform=choice.uniform)
    logits = prefill(checkpoint, [row.prompt for row in rows], cache)
    advance = (checkpoint.decoder or eager_decoder)(checkpoint, cache, pick)
    renew(choice, rows, settings, 0)
    tokens = pick(logits)
    for count in range(1, most + 1):
        chosen = tokens.tolist()
        for number, row in enumerate(rows):
            if chosen[number] == NOT_FINITE and row.finish_reason is None:
                raise explain(checkpoint, row.prompt + row.tokens, f"generate: row {number} after {count - 1} tokens")
        yield [take(row, token, settings) for row, token in zip(rows, chosen, strict=True)]
        if count == most or all(row.finish_reason for row in rows):
            break
        renew(choice, rows, settings, count)
        tokens = advance(tokens.clamp(min=0))  # a row that has finished may say what it likes


class Choice(NamedTuple):
    """What `choose` needs besides the logits. The tensors are renewed in place: a recorded step reads them again."""

    barred: Tensor  # [vocab]
    seen: Tensor  # [batch, vocab]
    uniform: Tensor  # [batch]


@torch.inference_mode()
def new_choice(checkpoint: Checkpoint, rows: list[Row], settings: Settings) -> Choice:
    """Rows of the embedding behind the tokenizer's vocabulary are never chosen, nor stop tokens at first."""
    vocabulary, device = checkpoint.config.vocab_size, checkpoint.device
    barred = torch.arange(vocabulary) >= settings.vocabulary
    barred[sorted(settings.stop_ids)] = True
    seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool)
    for number, row in enumerate(rows):
        seen[number, row.prompt] = True
    return Choice(barred.to(device), seen.to(device), torch.zeros(len(rows), dtype=torch.float64, device=device))


@torch.inference_mode()
def renew(choice: Choice, rows: list[Row], settings: Settings, count: int) -> None:
    """Brings the tensors up to date before token number `count` is chosen."""
    if count == settings.options.min_new_tokens:
        choice.barred[[token for token in settings.stop_ids if token < settings.vocabulary]] = False
    if settings.sampling.repetition_penalty != 1.0:
        for number, row in enumerate(rows):
            choice.seen[number, row.tokens[-1:]] = True
    if settings.sampling.temperature > 0:
        choice.uniform.copy_(torch.cat([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows]))


def take(row: Row, token: int, settings: Settings) -> list[Piece]:
    """Notes a row's new token; a row that has finished ignores what the batch computes for it."""
    if row.finish_reason is not None:
        return []
    row.tokens.append(token)
    pieces = []
    if token in settings.stop_ids:
        row.finish_reason = "stop"
    elif row.stream is not None:
        pieces = row.stream.feed(token)
        row.finish_reason = "stop" if row.stream.stopped is not None else None
    if row.finish_reason is None and len(row.tokens) == settings.options.max_new_tokens:
        row.finish_reason = "length"
    if row.finish_reason is not None and row.stream is not None:
        pieces += row.stream.finish()
    row.pieces += pieces
    return pieces
