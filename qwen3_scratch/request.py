"""What is asked: a prompt of any kind -> token ids, and the options of its answer, each within its range."""

import difflib
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar, get_args

import torch
from torch import Tensor

from .checkpoints.checkpoint import Checkpoint
from .errors import Error, shown
from .sampling import Sampling, check_sampling, own_number
from .text_stream import TextStream
from .tokenizer import Message, Tokenizer, Tools

Prompt = str | Sequence[int] | Sequence[Message] | Tensor
Number = int | float
Function = TypeVar("Function", bound=Callable[..., Any])
KEYWORD = inspect.Parameter.KEYWORD_ONLY
MOST_SAMPLES = 2**16  # of one prompt: more would be counted out before memory is asked for
TOP_K = 50  # transformers' own where generation_config.json asks to draw and says no more
ELSEWHERE = {  # what other libraries and servers call an option
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_length", "num_predict"), "max_new_tokens"),
    **dict.fromkeys(("n", "num_return_sequences"), "num_samples"),
    **dict.fromkeys(("stop_strings", "stop_sequences"), "stop"),
    "enable_thinking": "thinking",
    "do_sample": "temperature",
    "prompt_lookup_num_tokens": "lookup",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an answer is generated: the keyword arguments of `generate` and `stream`, and options of the terminal.

    What is None comes from the checkpoint's generation_config.json; how those that choose a token work, `Sampling`
    says. Where neither sets a temperature the most likely token is taken, unless `top_k`, `top_p` or `min_p` is given:
    these draw, at temperature 1. At temperature 0 they and `seed` change nothing.

    Each row of a batch draws by itself, so with a seed its answer does not depend on the others, and a prompt that
    stands there twice is answered twice the same. Different answers from one seed are what `num_samples` gives: each
    sample draws from a stream of its own, the first from that of the answer without `num_samples`.

    `thinking` speaks to the chat template: it changes nothing for token ids, for raw text, or where the template knows
    no such switch. `stop` concerns the answer and not the thinking before it; with `raw` all is answer.
    """

    max_new_tokens: Annotated[int, "Most tokens to generate."] = 256
    min_new_tokens: Annotated[int, "Fewest tokens before a stop token may come; a stop string may come sooner."] = 0
    num_samples: Annotated[int | None, "So many answers to each prompt, as a list."] = None
    thinking: Annotated[bool, "Let the model think before it answers, where its chat template knows how."] = True
    temperature: Annotated[Number | None, "0 takes the most likely token in any case; higher is freer."] = None
    top_k: Annotated[int | None, "Draw from so many of the most likely tokens; 0 is off."] = None
    top_p: Annotated[Number | None, "Draw from the most likely tokens that add up to this probability."] = None
    min_p: Annotated[Number | None, "Draw without what is less likely than this share of the most likely."] = None
    repetition_penalty: Annotated[Number | None, "Above 1 discourages repeating prompt and answer."] = None
    presence_penalty: Annotated[Number | None, "Above 0 discourages tokens that the answer has, to 2 at most."] = None
    frequency_penalty: Annotated[Number | None, "The same, as often as the answer has them."] = None
    seed: Annotated[int | None, "Makes a random answer repeatable."] = None
    stop: Annotated[str | Sequence[str], "Text that ends the answer and is no part of it; may be several."] = ()
    tools: Annotated[Tools | None, "Descriptions of functions for the chat template."] = None
    raw: Annotated[bool, "Continue the text as it stands, without the chat format."] = False
    plain_user_text: Annotated[bool, "Read special tokens written in the messages as plain text."] = False
    lookup: Annotated[bool, "Guess tokens by what the text says already, and check several in one pass."] = False
    compiled: Annotated[bool, "Compile first, some seconds once a process, then decode faster."] = False

    def __post_init__(self) -> None:
        for f in fields(self):
            found = own_number(getattr(self, f.name))
            object.__setattr__(self, f.name, found)
            if get_args(f.type)[0] is bool and not isinstance(found, bool):
                raise Error(f"{f.name} is {shown(found)}, expected True or False: mend the argument")
        most, least, samples, seed = self.max_new_tokens, self.min_new_tokens, self.num_samples, self.seed
        if not (type(most) is int and most >= 1):
            raise Error(f"max_new_tokens is {shown(most)}, expected a whole number, at least 1: raise it")
        if not (type(least) is int and 0 <= least <= most):
            expected = f"a whole number, 0 to max_new_tokens, which is {shown(most)}"
            raise Error(f"min_new_tokens is {shown(least)}, expected {expected}: mend the argument")
        if samples is not None and not (type(samples) is int and 1 <= samples <= MOST_SAMPLES):
            expected = f"a whole number, 1 to {MOST_SAMPLES}"
            raise Error(f"num_samples is {shown(samples)}, expected {expected}: mend the argument")
        if seed is not None and not (type(seed) is int and -(2**63) <= seed < 2**64):
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
        default = default_sampling(checkpoint)
        if default.temperature == 0 and asked.keys() & {"top_k", "top_p", "min_p"}:
            default = default._replace(temperature=checkpoint.generation_config.get("temperature") or 1.0)
        found = check_sampling(default._replace(**asked))
        if found.temperature == 0 and (self.num_samples or 1) > 1:
            same = "temperature is 0, at which they would all be the same"
            raise Error(f"num_samples is {self.num_samples}, and {same}: raise temperature or leave num_samples out")
        return found

    def generator(self, sample: int) -> torch.Generator:
        """The random numbers of one sample: of the first by the seed, of each other by the seed and its number."""
        found = torch.Generator()
        if self.seed is None:
            found.seed()
        else:
            found.manual_seed(random.Random(f"{self.seed} {sample}").getrandbits(63) if sample else self.seed)
        return found


def no_such_option(name: str) -> Error:
    """The sentence for an option that is none of `Options`, with the one that may be meant."""
    close = difflib.get_close_matches(name.lower(), [f.name for f in fields(Options)], 1)
    meant = ELSEWHERE.get(name) or "".join(close)
    advice = f"perhaps you mean {meant}" if meant else "check the spelling"
    return Error(f"{name}: no such option, expected one of generate's: {advice}")


def with_options(function: Function) -> Function:
    """Shows the fields of `Options` in the place of `**options`, to `help` and to whoever completes names."""
    signature = inspect.signature(function)
    first = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [inspect.Parameter(f.name, KEYWORD, default=f.default, annotation=f.type) for f in fields(Options)]
    function.__signature__ = signature.replace(parameters=[*first, *more])  # type: ignore[attr-defined]  # typeshed lacks it
    return function


def default_sampling(checkpoint: Checkpoint) -> Sampling:
    """What generation_config.json asks for, as transformers reads it: without `do_sample` the most likely token."""
    asked = checkpoint.generation_config
    known = {name: asked[name] for name in Sampling._fields if asked.get(name) is not None}
    return Sampling(**({"top_k": TOP_K} | known if asked.get("do_sample") else known | {"temperature": 0.0}))


# ---- prompts -----------------------------------------------------------------------------------


def as_batch(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts as a list, and whether a list of them was given rather than one."""
    prompt = as_sequence(prompt)
    if isinstance(prompt, str):
        return [prompt], False
    if not prompt:
        raise Error("prompt is empty, expected at least one token or message: write something")
    first = own_number(prompt[0])
    return ([prompt], False) if isinstance(first, dict | int | float) else (list(prompt), True)


def as_sequence(prompt: Any) -> Sequence[Any]:
    """A text as it is, a tensor or an array as a list; Error for what is no prompt of any kind."""
    try:
        found = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    except (RuntimeError, NotImplementedError, TypeError):  # a tensor that holds nothing, or a class
        found = None
    if isinstance(found, bytes) or not isinstance(found, Sequence):
        raise Error(f"prompt is a {type(prompt).__name__}, expected text, messages, token ids, or a list of these")
    return found


def prompt_ids(
    checkpoint: Checkpoint, prompt: Prompt, *, thinking: bool = True, tools: Tools | None = None, raw: bool = False,
    plain_user_text: bool = False,
) -> list[int]:  # fmt: skip
    """The token ids that the model will read for a prompt of any kind."""
    tokenizer, rows, given = checkpoint.tokenizer, checkpoint.config.vocab_size, as_sequence(prompt)
    text = given if isinstance(given, str) else None
    no_chat = None  # why the chat format is left out
    if text is None and all(isinstance(own_number(token), int | float) for token in given[:1]):
        ids, no_chat = [own_number(token) for token in given], "prompt is token ids"
    elif tokenizer is None:
        raise Error("prompt is text, and this checkpoint has no tokenizer, expected token ids: pass a list of them")
    elif text is not None and (raw or tokenizer.chat_template is None):
        ids, no_chat = tokenizer.encode(text), "raw is True" if raw else "this checkpoint has no chat template"
    elif raw:
        raise Error("raw is True and prompt is messages, expected a text to continue: leave raw out or join the texts")
    else:
        if text is not None and not text.strip():
            raise Error("prompt is empty, expected at least one word: write something")
        messages = given if text is None else [{"role": "user", "content": text}]
        ids = chat_ids(tokenizer, messages, tools, thinking, plain_user_text)
    if no_chat and (tools or plain_user_text):
        name = "tools" if tools else "plain_user_text"
        raise Error(f"{name} is for the chat format, and {no_chat}: leave one of them out")
    if not ids:
        raise Error("prompt is empty, expected at least one token: write something")
    wrong = [token for token in ids if type(token) is not int or not 0 <= token < rows]
    if wrong:
        found = f"token id {shown(wrong[0])}"
        raise Error(f"prompt: {found} found, expected 0 to {rows - 1}: check which tokenizer made it")
    return ids


def chat_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Tools | None, thinking: bool, plain: bool
) -> list[int]:
    """The token ids of a chat; Error for tools or a thinking switch that the template passes over without a word."""
    ids = tokenizer.encode_chat(messages, tools=tools, thinking=thinking, plain_user_text=plain)
    if tools and ids == tokenizer.encode_chat(messages, thinking=thinking, plain_user_text=plain):
        raise Error("tools are given, and this checkpoint's chat template does not write them: leave them out")
    if not thinking and TextStream(tokenizer, ids).thinking:
        found = "thinking is False, and this checkpoint's chat template opens the thinking all the same"
        raise Error(f"{found}, expected one with such a switch: leave it out")
    return ids
