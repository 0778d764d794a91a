"""Prompt -> answer: prefill, then one token at a time, for one prompt as a stream or for many as a batch."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cache import KVCache
from .checkpoint import Checkpoint
from .errors import Error
from .model import forward
from .sampling import Sampling, check_sampling, draw, penalise_repetition, probabilities
from .text_stream import Piece, TextStream
from .tokenizer import Message

PREFILL_CHUNK = 512  # tokens that one pass of the prompt brings at most, which bounds its memory
Prompt = str | Sequence[int] | Sequence[Message] | Tensor


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

    Raises:
        Error: an argument out of its range, an empty prompt, a token id outside the vocabulary, text for a checkpoint
            without tokenizer, or more tokens than `max_position_embeddings` allows; all before any computing.
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


def as_batch(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether a list of them was given rather than one."""
    prompt = as_sequence(prompt)
    if isinstance(prompt, str):
        return [prompt], False
    if not prompt:
        raise Error("prompt is empty, expected at least one token or message: write something")
    return ([prompt], False) if isinstance(prompt[0], (dict, int, float)) else (list(prompt), True)


def as_sequence(prompt: Any) -> Sequence:
    """A text as it is, a tensor or an array as a list; Error for what is no prompt of any kind."""
    found = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if isinstance(found, bytes) or not isinstance(found, Sequence):
        raise Error(f"prompt is a {type(found).__name__}, expected text, messages, token ids, or a list of these")
    return found


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
    **sampling: int | float | None,
) -> tuple[list[Row], Settings]:
    """Everything that can be wrong is found here: rows with their token ids, and settings within their ranges."""
    unknown = sampling.keys() - set(Sampling._fields)
    if unknown:
        raise Error(f"{sorted(unknown)[0]}: no such option, expected one of generate's: check the spelling")
    if not (isinstance(max_new_tokens, int) and max_new_tokens >= 1):
        raise Error(f"max_new_tokens is {max_new_tokens!r}, expected a whole number, at least 1: raise it")
    if not (isinstance(min_new_tokens, int) and 0 <= min_new_tokens <= max_new_tokens):
        expected = f"a whole number, 0 to max_new_tokens, which is {max_new_tokens}"
        raise Error(f"min_new_tokens is {min_new_tokens!r}, expected {expected}: mend the argument")
    if seed is not None and not (isinstance(seed, int) and -(2**63) <= seed < 2**64):
        raise Error(f"seed is {seed!r}, expected a whole number of at most 64 bits: mend the argument")
    stops = list(stop) if isinstance(stop, Sequence) and not isinstance(stop, str) else [stop]
    if not all(isinstance(text, str) and text for text in stops):
        raise Error(f"stop is {stop!r}, expected a text or a list of texts that are not empty: mend the argument")
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
    chosen = check_sampling(
        default_sampling(checkpoint)._replace(**{k: v for k, v in sampling.items() if v is not None})
    )
    vocabulary = checkpoint.tokenizer.vocab_size if checkpoint.tokenizer else checkpoint.config.vocab_size
    return rows, Settings(chosen, max_new_tokens, min_new_tokens, stop_token_ids(checkpoint), vocabulary)


def prompt_ids(
    checkpoint: Checkpoint,
    prompt: Prompt,
    *,
    thinking: bool = True,
    tools: Sequence[dict] | None = None,
    raw: bool = False,
) -> list[int]:
    """The token ids that the model will read for a prompt of any kind."""
    tokenizer, rows, prompt = checkpoint.tokenizer, checkpoint.config.vocab_size, as_sequence(prompt)
    if not isinstance(prompt, str) and all(isinstance(token, (int, float)) for token in prompt[:1]):
        ids = list(prompt)
    elif tokenizer is None:
        raise Error("prompt is text, and this checkpoint has no tokenizer, expected token ids: pass a list of them")
    elif isinstance(prompt, str) and (raw or tokenizer.chat_template is None):
        ids = tokenizer.encode(prompt)
    else:
        if isinstance(prompt, str) and not prompt.strip():
            raise Error("prompt is empty, expected at least one word: write something")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = tokenizer.encode(tokenizer.render_chat(messages, tools=tools, thinking=thinking))
    if not ids:
        raise Error("prompt is empty, expected at least one token: write something")
    wrong = next((token for token in ids if type(token) is not int or not 0 <= token < rows), None)
    if wrong is not None:
        raise Error(f"prompt: token id {wrong!r} found, expected 0 to {rows - 1}: check which tokenizer made it")
    return ids


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
    kind = dict(dtype=checkpoint.dtype, device=checkpoint.device)
    cache = KVCache(checkpoint.config, len(rows), room, chunk=PREFILL_CHUNK, **kind)
    logits = prefill(checkpoint, [row.prompt for row in rows], cache)
    for count in range(settings.max_new_tokens):
        tokens = next_tokens(logits, rows, settings, count)
        yield [take(row, token, settings) for row, token in zip(rows, tokens.tolist(), strict=True)]
        if all(row.finish_reason for row in rows) or count + 1 == settings.max_new_tokens:
            break
        logits = decode(checkpoint, tokens, cache)


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
    options = dict(cache=cache, logits_to_keep=1, ops=checkpoint.ops)
    for ids, kept in zip(token_ids.split(PREFILL_CHUNK, dim=1), keep.split(PREFILL_CHUNK, dim=1), strict=True):
        logits = forward(checkpoint.weights, ids, checkpoint.config, attention_mask=kept, **options)
    return logits[:, -1]


@torch.inference_mode()
def decode(checkpoint: Checkpoint, tokens: Tensor, cache: KVCache) -> Tensor:
    """Reads one new token a row; the logits of the token after it."""
    token_ids = tokens[:, None].to(checkpoint.device)
    return forward(checkpoint.weights, token_ids, checkpoint.config, cache=cache, ops=checkpoint.ops)[:, -1]


@torch.inference_mode()
def next_tokens(logits: Tensor, rows: list[Row], settings: Settings, count: int) -> Tensor:
    """One token a row. Rows of the embedding behind the tokenizer's vocabulary are never sampled."""
    logits = logits.to(torch.float32, copy=True)  # what forward returned stays as it is
    logits[:, settings.vocabulary :] = -torch.inf
    if count < settings.min_new_tokens:
        logits[:, sorted(settings.stop_ids)] = -torch.inf
    if settings.sampling.repetition_penalty != 1.0:
        seen = [torch.tensor(row.prompt + row.tokens, device=logits.device) for row in rows]
        logits = penalise_repetition(logits, seen, settings.sampling.repetition_penalty)
    if settings.sampling.temperature == 0:
        return logits.argmax(-1)
    uniform = torch.cat([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
    return draw(probabilities(logits, settings.sampling), uniform)


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
