"""What a prompt may be: a text, chat messages, token ids, or a list of any of these; and the token ids it becomes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .checkpoints.checkpoint import Checkpoint
from .errors import Error, shown
from .tokenizer import Message

Prompt = str | Sequence[int] | Sequence[Message] | Tensor


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
    wrong = [token for token in ids if type(token) is not int or not 0 <= token < rows]
    if wrong:
        found = f"token id {shown(wrong[0])}"
        raise Error(f"prompt: {found} found, expected 0 to {rows - 1}: check which tokenizer made it")
    return ids
