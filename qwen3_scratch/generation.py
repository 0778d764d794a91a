"""Prompt -> answer: prefill, then one token at a time, for one prompt as a stream or for many as a batch."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from . import fast
from .cache import KVCache, check_memory, turned_anew
from .checkpoints.checkpoint import Checkpoint
from .errors import Error, of_kind, shown
from .fast.eager import PREFILL_CHUNK, eager_decoder, prefill
from .model import Weights
from .request import Options, Prompt, as_batch, no_such_option, with_options
from .request import prompt_ids as prompt_ids
from .sampling import NOT_FINITE, Sampling, check_generation_config, choose
from .text_stream import Piece, TextStream
from .tokenizer import Message
from .tracing import explain
from .trust.memory import telling_too_little_memory


class Generation(NamedTuple):
    """One answer. `token_ids` are all that were generated, with the stop token; the text is without it."""

    text: str
    thinking: str | None  # None where the model did not think
    token_ids: list[int]
    finish_reason: str  # "stop": a stop token or stop string came; "length": max_new_tokens were reached
    prompt_ids: list[int]
    stop: str | None = None  # the stop string that was met
    cut_in_thinking: bool = False  # it ended while the model still thought, so that an answer is missing

    @property
    def message(self) -> Message:
        """The answer as the assistant's turn of a chat, thinking included, to be given back with the next question."""
        thinking = {} if self.thinking is None else {"reasoning_content": self.thinking}
        return {"role": "assistant", "content": self.text, **thinking}


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
        stop, cut = (self.stream.stopped, self.stream.thinking) if self.stream else (None, False)
        return Generation(text, thinking or None, self.tokens, self.finish_reason or "length", self.prompt, stop, cut)


class Conversation:
    """What a model has read of a chat, to be read no second time: token ids, and the cache that holds them.

    Given to `generate` or `stream` again and again it grows with the chat, and only what its prompt has not in common
    with it is read: the new turns, or for the same prompt a single token. It is the one argument that is written to,
    and serves one prompt at a time; with other weights it begins anew. In fp32 answers are those without it up to
    rounding, since a text that is read in two pieces adds up in another order.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.cache: KVCache | None = None
        self.weights: Weights | None = None

    def resume(self, checkpoint: Checkpoint, prompt: list[int], length: int) -> tuple[KVCache, list[int]]:
        """A cache with room for `length` tokens that holds the beginning of the prompt, and the rest to be read."""
        pairs = zip(self.token_ids, prompt[:-1], strict=False)  # one at least is read, since its logits are wanted
        common = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
        cache = self.cache if self.weights is checkpoint.weights else None
        if turned_anew(checkpoint.config, max(len(self.token_ids), len(prompt))):
            cache = None
        try:
            if cache is not None:
                cache.rewind(cache.length - common)
        except Error:  # a sliding window has let go of what would be needed
            cache = None
        if cache is None:
            cache, common = new_cache(checkpoint, 1, length), 0
        elif cache.max_length < length:
            cache = cache.copy(max_length=min(2 * length, checkpoint.config.longest))
        self.cache, self.weights, self.token_ids = cache, checkpoint.weights, prompt[:common]
        return cache, prompt[common:]


class Settings(NamedTuple):
    """What `Options` come to for one checkpoint."""

    options: Options
    sampling: Sampling
    stop_ids: frozenset[int]
    vocabulary: int  # rows of the embedding behind it are never sampled
    length: int  # of the longest prompt with all its new tokens
    conversation: Conversation | None = None


One = str | list[int] | list[Message]
Many = list[str] | list[list[int]] | list[list[Message]]


@overload
def generate(checkpoint: Checkpoint, prompt: One, *, num_samples: None = None, **options: Any) -> Generation: ...
@overload
def generate(checkpoint: Checkpoint, prompt: Many, *, num_samples: None = None, **options: Any) -> list[Generation]: ...
@overload
def generate(checkpoint: Checkpoint, prompt: One, *, num_samples: int, **options: Any) -> list[Generation]: ...
@overload
def generate(checkpoint: Checkpoint, prompt: Many, *, num_samples: int, **options: Any) -> list[list[Generation]]: ...
@overload
def generate(
    checkpoint: Checkpoint, prompt: Tensor, *, num_samples: None = None, **options: Any
) -> Generation | list[Generation]: ...
@with_options
def generate(
    checkpoint: Checkpoint,
    prompt: Prompt | Sequence[Prompt],
    *,
    conversation: Conversation | None = None,
    **options: Any,
) -> Any:
    """The whole answer to a prompt, or a list of answers to a list of prompts, which run as one batch.

    With `num_samples` each answer is a list of so many: `generate(checkpoint, prompt, num_samples=1)` is the plain
    answer in a list, and what more samples bring comes behind it.

    Args:
        prompt: a text (one user turn, or continued as it stands with `raw` or without a chat template), a list of
            chat messages, a list (or tensor) of token ids, or a list of any of these.
        conversation: what has been read already, for a single prompt; see `Conversation`.
        options: the fields of `Options`.

    Raises:
        Error: an argument out of its range or without effect, an empty prompt, a token id outside the vocabulary, text
            for a checkpoint without tokenizer, more tokens than `max_position_embeddings` allows or than there is
            memory for; all before any computing. Of a batch the row is named, counted from 0.
            While computing: memory that is refused, or logits that are not finite.
    """
    prompts, many = as_batch(prompt)
    checkpoint, rows, settings = prepare(checkpoint, prompts, conversation, **options)
    with telling_what_needs_less(checkpoint, rows, settings):
        for _ in steps(checkpoint, rows, settings):
            pass
    results: list[Any] = [row.result() for row in rows]
    if (samples := settings.options.num_samples) is not None:
        results = [results[start : start + samples] for start in range(0, len(results), samples)]
    return results if many else results[0]


@with_options
def stream(
    checkpoint: Checkpoint, prompt: Prompt, *, conversation: Conversation | None = None, **options: Any
) -> Generator[Piece, None, Generation]:
    """The answer to one prompt, piece by piece as it comes; takes what `generate` takes and returns its result.

    A piece is a str with an attribute `thinking`; never does one hold half a character. The pieces with and without
    `thinking` add up to `Generation.thinking` and `Generation.text`. Errors are raised by the call itself, before
    the first piece is asked for.
    """
    prompts, many = as_batch(prompt)
    if many:
        raise Error(f"prompt: {len(prompts)} prompts found, expected one: use generate for a batch")
    if options.get("num_samples") is not None:
        raise Error("num_samples is for generate, expected one answer in a stream: leave it out")
    checkpoint, rows, settings = prepare(checkpoint, prompts, conversation, **options)

    def pieces() -> Generator[Piece, None, Generation]:
        with telling_what_needs_less(checkpoint, rows, settings):
            for new in steps(checkpoint, rows, settings):
                yield from new[0]
        return rows[0].result()

    return pieces()


# ---- everything that can be wrong is found before anything is computed ------------------------


def prepare(
    checkpoint: Checkpoint, prompts: list[Prompt], conversation: Conversation | None = None, **options: Any
) -> tuple[Checkpoint, list[Row], Settings]:
    """The checkpoint as it is to decode, rows with their token ids, and settings within their ranges."""
    if not isinstance(checkpoint, Checkpoint):
        of_kind("generate", "checkpoint", checkpoint, Checkpoint)
    if unknown := options.keys() - {f.name for f in fields(Options)}:
        raise no_such_option(min(unknown))
    asked = Options(**options)
    if asked.stops and checkpoint.tokenizer is None:
        raise Error("stop needs text, and this checkpoint has no tokenizer: leave it out")
    read = []
    for number, prompt in enumerate(prompts):
        try:
            read.append(ids_that_fit(checkpoint, prompt, asked))
        except Error as error:
            raise Error(f"row {number}: {error}") if len(prompts) > 1 else error from None
    check_generation_config(checkpoint.generation_config)
    sampling = asked.sampling(checkpoint)
    samples, longest = asked.num_samples or 1, max(map(len, read))
    needed = len(read) * samples, longest, asked.max_new_tokens
    where: Any = dict(dtype=checkpoint.dtype, device=checkpoint.device)
    check_memory(checkpoint.config, *needed, chunk=PREFILL_CHUNK, **where)
    rows = [new_row(checkpoint, ids, asked, sample) for ids in read for sample in range(samples)]
    if conversation is not None and not (isinstance(conversation, Conversation) and len(rows) == 1):
        found = f"is {shown(conversation)}, for {len(rows)} rows"
        raise Error(f"conversation {found}, expected a Conversation, and one prompt with one answer: leave it out")
    vocabulary = checkpoint.tokenizer.vocab_size if checkpoint.tokenizer else checkpoint.config.vocab_size
    if asked.compiled and checkpoint.decoder is None:
        checkpoint = fast.compiled(checkpoint)
    ends, length = stop_token_ids(checkpoint), longest + asked.max_new_tokens
    if asked.lookup:
        checkpoint = fast.looking_up(checkpoint, [row.prompt for row in rows], length)
    return checkpoint, rows, Settings(asked, sampling, ends, vocabulary, length, conversation)


def ids_that_fit(checkpoint: Checkpoint, prompt: Prompt, asked: Options) -> list[int]:
    """The token ids of one prompt, which leave room for its answer."""
    names = "thinking", "tools", "raw", "plain_user_text"
    ids = prompt_ids(checkpoint, prompt, **{name: getattr(asked, name) for name in names})
    room = checkpoint.config.longest
    if len(ids) + asked.max_new_tokens > room:
        found = f"{len(ids)} prompt tokens and max_new_tokens={shown(asked.max_new_tokens)}"
        advice = "shorten one of them, or raise it in the config (better with rope_scaling)"
        raise Error(f"prompt: {found} exceed max_position_embeddings, which comes to {room}: {advice}")
    return ids


def new_row(checkpoint: Checkpoint, ids: list[int], asked: Options, sample: int) -> Row:
    text = TextStream(checkpoint.tokenizer, ids, asked.stops, asked.raw) if checkpoint.tokenizer else None
    return Row(ids, asked.generator(sample), text)


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
    most, talk = settings.options.max_new_tokens, settings.conversation
    if talk is None:
        cache, unread = new_cache(checkpoint, len(rows), settings.length), [row.prompt for row in rows]
    else:
        cache, rest = talk.resume(checkpoint, rows[0].prompt, settings.length)
        unread = [rest]
    choice = new_choice(checkpoint, rows, settings)
    pick = partial(choose, sampling=settings.sampling, barred=choice.barred, seen=choice.seen)
    pick = partial(pick, uniform=choice.uniform, counts=choice.counts)
    logits = prefill(checkpoint, unread, cache)
    if talk is not None:  # noted once it is read: what was cut off does not count
        talk.token_ids = [*rows[0].prompt]
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
        if talk is not None:
            talk.token_ids.append(chosen[0])


def new_cache(checkpoint: Checkpoint, rows: int, length: int) -> KVCache:
    kind: Any = dict(dtype=checkpoint.dtype, device=checkpoint.device)
    return KVCache(checkpoint.config, rows, length, chunk=PREFILL_CHUNK, **kind)


class Choice(NamedTuple):
    """What `choose` needs besides the logits. The tensors are renewed in place: a recorded step reads them again."""

    barred: Tensor  # [vocab]
    seen: Tensor  # [batch, vocab]
    counts: Tensor | None  # [batch, vocab], where a penalty asks for them
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
    counting = settings.sampling.presence_penalty or settings.sampling.frequency_penalty
    counts = torch.zeros(len(rows), vocabulary, dtype=torch.int32, device=device) if counting else None
    uniform = torch.zeros(len(rows), dtype=torch.float64, device=device)
    return Choice(barred.to(device), seen.to(device), counts, uniform)


@torch.inference_mode()
def renew(choice: Choice, rows: list[Row], settings: Settings, count: int) -> None:
    """Brings the tensors up to date before token number `count` is chosen."""
    if count == settings.options.min_new_tokens:
        choice.barred[[token for token in settings.stop_ids if token < settings.vocabulary]] = False
    if settings.sampling.repetition_penalty != 1.0 or choice.counts is not None:
        for number, row in enumerate(rows):
            last = row.tokens[-1:]
            choice.seen[number, last] = True
            if choice.counts is not None:
                choice.counts[number, last] += 1
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
