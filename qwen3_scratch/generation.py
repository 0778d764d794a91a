"""Prompt -> answer: prefill, then one token at a time, for one prompt as a stream or for many as a batch."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cache import KVCache, check_memory
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.config_json import check_generation_config
from .errors import Error, shown
from .fast.compiling import Advance, Pick, check_ops, compiled_decoder
from .fast.eager import alone, causal, faster
from .model import forward
from .nonfinite import explain
from .prompts import Prompt, as_batch, prompt_ids
from .sampling import NOT_FINITE, Sampling, check_sampling, choose
from .text_stream import Piece, TextStream
from .trust.memory import telling_too_little_memory

PREFILL_CHUNK = 2048  # tokens that one pass of the prompt brings at most, which bounds its memory
LONG = 256  # tokens from which on it pays to read a piece without a mask


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
    sampling: Sampling
    max_new_tokens: int
    min_new_tokens: int
    stop_ids: frozenset[int]
    vocabulary: int  # rows of the embedding behind it are never sampled
    decoder: Callable[[Checkpoint, KVCache, Pick], Advance]  # `plain_decoder` or `compiled_or_plain`


def generate(
    checkpoint: Checkpoint,
    prompt: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    thinking: bool = True,
    temperature: int | float | None = None,
    top_k: int | None = None,
    top_p: int | float | None = None,
    min_p: int | float | None = None,
    repetition_penalty: int | float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    tools: Sequence[dict] | None = None,
    raw: bool = False,
    compiled: bool = False,
) -> Generation | list[Generation]:
    """The whole answer to a prompt, or a list of answers to a list of prompts, which run as one batch.

    Args:
        prompt: a text (one user turn, or continued as it stands with `raw` or without a chat template), a list of
            chat messages, a list (or tensor) of token ids, or a list of any of these.
        max_new_tokens, min_new_tokens: bounds on the count of generated tokens; before the lower no stop token comes.
        thinking: whether the chat template leaves room for thinking before the answer.
        temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`; what is None comes from the checkpoint's
            generation_config.json. Temperature 0 is greedy.
        seed: makes draws repeatable; each row draws by itself, so its answer does not depend on the others.
        stop: texts that end the answer; they are not part of it.
        tools: descriptions of functions for the chat template.
        compiled: decode by the compiled layer (`compiled.py`): faster after a warm-up of seconds, once a process. A
            checkpoint from `int8.with_int8` reads its weights in 8 bits then.

    Raises:
        Error: an argument out of its range, an empty prompt, a token id outside the vocabulary, text for a checkpoint
            without tokenizer, more tokens than `max_position_embeddings` allows or than there is memory for; all
            before any computing. While computing: memory that is refused, or logits that are not finite.
    """
    options = dict(locals())
    del options["checkpoint"], options["prompt"]
    prompts, many = as_batch(prompt)
    rows, settings = prepare(checkpoint, prompts, **options)
    for _ in run(checkpoint, rows, settings):
        pass
    results = [row.result() for row in rows]
    return results if many else results[0]


def stream(checkpoint: Checkpoint, prompt: Prompt, **options: Any) -> Generator[Piece, None, Generation]:
    """The answer to one prompt, piece by piece as it comes; takes the options of `generate` and returns its result.

    A piece is a str with an attribute `thinking`; never does one hold half a character. The pieces with and without
    `thinking` add up to `Generation.thinking` and `Generation.text`. Errors are raised by the call itself, before
    the first piece is asked for.
    """
    prompts, many = as_batch(prompt)
    if many:
        raise Error(f"prompt: {len(prompts)} prompts found, expected one: use generate for a batch")
    rows, settings = prepare(checkpoint, prompts, **options)
    return _pieces(checkpoint, rows, settings)


def _pieces(checkpoint: Checkpoint, rows: list[Row], settings: Settings) -> Generator[Piece, None, Generation]:
    for new in run(checkpoint, rows, settings):
        yield from new[0]
    return rows[0].result()


def prepare(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    thinking: bool = True,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    tools: Sequence[dict] | None = None,
    raw: bool = False,
    compiled: bool = False,
    **sampling: int | float | None,
) -> tuple[list[Row], Settings]:
    """Everything that can be wrong is found here: rows with their token ids, and settings within their ranges."""
    unknown = sampling.keys() - set(Sampling._fields)
    if unknown:
        raise Error(f"{sorted(unknown)[0]}: no such option, expected one of generate's: check the spelling")
    if not (isinstance(max_new_tokens, int) and max_new_tokens >= 1):
        raise Error(f"max_new_tokens is {shown(max_new_tokens)}, expected a whole number, at least 1: raise it")
    if not (isinstance(min_new_tokens, int) and 0 <= min_new_tokens <= max_new_tokens):
        expected = f"a whole number, 0 to max_new_tokens, which is {max_new_tokens}"
        raise Error(f"min_new_tokens is {shown(min_new_tokens)}, expected {expected}: mend the argument")
    if seed is not None and not (isinstance(seed, int) and -(2**63) <= seed < 2**64):
        raise Error(f"seed is {shown(seed)}, expected a whole number of at most 64 bits: mend the argument")
    stops = list(stop) if isinstance(stop, Sequence) and not isinstance(stop, str) else [stop]
    if not all(isinstance(text, str) and text for text in stops):
        raise Error(f"stop is {shown(stop)}, expected a text or a list of texts that are not empty: mend the argument")
    if stops and checkpoint.tokenizer is None:
        raise Error("stop needs text, and this checkpoint has no tokenizer: leave it out")
    rows = []
    for prompt in prompts:
        ids = prompt_ids(checkpoint, prompt, thinking=thinking, tools=tools, raw=raw)
        room = checkpoint.config.max_position_embeddings
        if len(ids) + max_new_tokens > room:
            asked = f"{len(ids)} prompt tokens and max_new_tokens={max_new_tokens}"
            raise Error(f"prompt: {asked} exceed max_position_embeddings, which is {room}: shorten one of them")
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        text = TextStream(checkpoint.tokenizer, ids, stops, raw) if checkpoint.tokenizer else None
        rows.append(Row(ids, generator, text))
    check_generation_config(checkpoint.generation_config, Sampling._fields)
    chosen = check_sampling(
        default_sampling(checkpoint)._replace(**{k: v for k, v in sampling.items() if v is not None})
    )
    longest, place = max(len(row.prompt) for row in rows), dict(dtype=checkpoint.dtype, device=checkpoint.device)
    check_memory(checkpoint.config, len(rows), longest, max_new_tokens, chunk=PREFILL_CHUNK, **place)
    vocabulary = checkpoint.tokenizer.vocab_size if checkpoint.tokenizer else checkpoint.config.vocab_size
    if compiled:
        check_ops(checkpoint.ops)
    decoder, stop_ids = compiled_or_plain if compiled else plain_decoder, stop_token_ids(checkpoint)
    return rows, Settings(chosen, max_new_tokens, min_new_tokens, stop_ids, vocabulary, decoder)


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


def run(checkpoint: Checkpoint, rows: list[Row], settings: Settings) -> Iterator[list[list[Piece]]]:
    """Generates for all rows at once until each has finished; yields after every token each row's new pieces."""
    room = max(len(row.prompt) for row in rows) + settings.max_new_tokens
    what, advice = f"generate: {len(rows)} x {room} tokens", "lower max_new_tokens or give fewer prompts at once"
    with telling_too_little_memory(what, advice, checkpoint.device):
        yield from steps(checkpoint, rows, settings, room)


def steps(checkpoint: Checkpoint, rows: list[Row], settings: Settings, room: int) -> Iterator[list[list[Piece]]]:
    kind = dict(dtype=checkpoint.dtype, device=checkpoint.device)
    cache = KVCache(checkpoint.config, len(rows), room, chunk=PREFILL_CHUNK, **kind)
    choice = new_choice(checkpoint, rows, settings)
    pick = partial(choose, sampling=settings.sampling, **choice._asdict())
    logits = prefill(checkpoint, [row.prompt for row in rows], cache)
    advance = settings.decoder(checkpoint, cache, pick)
    renew(choice, rows, settings, 0)
    tokens = pick(logits)
    for count in range(settings.max_new_tokens):
        chosen = tokens.tolist()
        for number, row in enumerate(rows):
            if chosen[number] == NOT_FINITE and row.finish_reason is None:
                what = f"generate: row {number} after {count} tokens"
                raise explain(checkpoint, row.prompt + row.tokens, what)
        yield [take(row, token, settings) for row, token in zip(rows, chosen, strict=True)]
        if all(row.finish_reason for row in rows) or count + 1 == settings.max_new_tokens:
            break
        renew(choice, rows, settings, count + 1)
        tokens = advance(tokens.clamp(min=0))  # a row that has finished may say what it likes


@torch.inference_mode()
def prefill(checkpoint: Checkpoint, prompts: list[list[int]], cache: KVCache) -> Tensor:
    """Reads the prompts, padded on the left to one length, in chunks; the logits of the token after each."""
    longest = max(map(len, prompts))
    token_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    keep = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for number, prompt in enumerate(prompts):
        token_ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        keep[number, longest - len(prompt) :] = True
    token_ids, keep = token_ids.to(checkpoint.device), keep.to(checkpoint.device)
    padded = any(len(prompt) < longest for prompt in prompts)
    options = dict(cache=cache, logits_to_keep=1)
    for ids, kept in zip(token_ids.split(PREFILL_CHUNK, dim=1), keep.split(PREFILL_CHUNK, dim=1), strict=True):
        ops = faster(checkpoint.ops, checkpoint.dtype)
        if cache.length == 0 and not padded and all_is_seen(checkpoint, ids.shape[1]):
            ops = causal(ops)
        logits = forward(checkpoint.weights, ids, checkpoint.config, attention_mask=kept, ops=ops, **options)
    return logits[:, -1]


def all_is_seen(checkpoint: Checkpoint, length: int) -> bool:
    """Whether every layer sees all that came before, and there is enough of it to gain by saying so."""
    config = checkpoint.config
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    return length >= LONG and all(window is None or window >= length for window in windows)


@torch.inference_mode()
def decode(checkpoint: Checkpoint, tokens: Tensor, cache: KVCache) -> Tensor:
    """Reads one new token a row; the logits of the token after it."""
    token_ids, ops = tokens[:, None].to(checkpoint.device), faster(checkpoint.ops, checkpoint.dtype)
    ops = alone(ops) if len(tokens) == 1 else ops
    return forward(checkpoint.weights, token_ids, checkpoint.config, cache=cache, ops=ops)[:, -1]


def plain_decoder(checkpoint: Checkpoint, cache: KVCache, pick: Pick) -> Advance:
    """From one new token a row to the next, without compiling anything."""
    return lambda tokens: pick(decode(checkpoint, tokens, cache))


def compiled_or_plain(checkpoint: Checkpoint, cache: KVCache, pick: Pick) -> Advance:
    return compiled_decoder(checkpoint, cache, pick) or plain_decoder(checkpoint, cache, pick)


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
    if count == settings.min_new_tokens:
        choice.barred[[token for token in settings.stop_ids if token < settings.vocabulary]] = False
    if settings.sampling.repetition_penalty != 1.0:
        for number, row in enumerate(rows):
            choice.seen[number, row.tokens[-1:]] = True
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
    if row.finish_reason is None and len(row.tokens) == settings.max_new_tokens:
        row.finish_reason = "length"
    if row.finish_reason is not None and row.stream is not None:
        pieces += row.stream.finish()
    row.pieces += pieces
    return pieces
