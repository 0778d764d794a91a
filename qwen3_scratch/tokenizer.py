"""Text <-> token ids by the `tokenizers` library, and chats -> text by the checkpoint's own Jinja template."""

import os
from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.exceptions import SecurityError

from .errors import Error, one_line, shown
from .trust.chat_template import LONGEST_TEMPLATE, compile_template, render, weigh
from .trust.files import json_object, read_bytes, read_json
from .trust.tokenizer_checks import check_added, check_parts, check_vocabulary

LARGEST_TOKENIZER = 40_000_000  # bytes; Qwen3's tokenizer.json has 11 million
Message = dict[str, Any]
Tools = Sequence[dict[str, Any]]  # descriptions of functions


class Tokenizer:
    """A byte-pair tokenizer, `encode` and `decode`, with the chat template of its checkpoint."""

    def __init__(self, backend: tokenizers.Tokenizer, chat_template: str | None = None, name: str = "tokenizer"):
        self.backend, self.chat_template, self.name = backend, chat_template, name
        self._compiled: jinja2.Template | None = None  # the template, compiled at its first use
        self.added = backend.get_added_tokens_decoder()  # by id
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than the largest token id; an embedding may have more rows, whose tail is never sampled."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written out in it become their one id. Nothing is added."""
        if not isinstance(text, str):
            raise Error(f"text is {shown(text)}, expected a text: pass a string")
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as undecodable bytes of a terminal become
            raise Error(f"text: {text!r:.60} cannot be written as UTF-8, expected whole characters: mend it") from None
        return self._ask(lambda: self.backend.encode(text, add_special_tokens=False).ids, "text", text)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that form no UTF-8 character become U+FFFD."""
        try:
            numbers = [index(token) for token in ids]
        except TypeError:
            raise Error(f"token ids are {one_line(shown(ids))}, expected a list of whole numbers: check them") from None
        for number in numbers:
            if not 0 <= number < 2**32:
                raise Error(f"token id {shown(number)} found, expected 0 to {self.vocab_size - 1}: check its origin")
        return self._ask(lambda: self.backend.decode(numbers, skip_special_tokens=skip_special_tokens), "ids", numbers)

    def _ask(self, call: Callable[[], Any], what: str, given: Any) -> Any:
        """What the library answers. Where it panics, as in a pattern without end, that is no Exception."""
        try:
            return call()
        except BaseException as error:
            if not _of_the_library(error):
                raise
            said = f"the tokenizer failed on the {what} {shown(given)} ({one_line(error)})"
            raise Error(f"{self.name}: {said}, expected token ids and back: fetch tokenizer.json again") from None

    def token_id(self, token: str) -> int | None:
        """The id of one token as it stands in the vocabulary, or None."""
        return self.backend.token_to_id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; several tokens may share one character between them."""
        token = self.backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        if token is None:
            return b""
        if token_id in self.added:
            return token.encode()
        try:
            return bytes(map(BYTE_OF.__getitem__, token))
        except KeyError:  # a vocabulary that does not stand for bytes
            return token.encode()

    def render_chat(
        self, messages: Sequence[Message], *, tools: Tools | None = None, thinking: bool = True,
        add_generation_prompt: bool = True,
    ) -> str:  # fmt: skip
        """The chat as the text that the model reads, by the checkpoint's template in an immutable sandbox.

        Raises:
            Error: no template, no messages, a message that the template refuses, or a template that fails.
        """
        if self.chat_template is None:
            raise Error(f"{self.name}: has no chat template, expected one for chats: pass raw=True and plain text")
        check_messages(messages)
        check_tools(tools)
        self._compiled = self._compiled or compile_template(self.chat_template, self.name)
        return render(
            self._compiled,
            self.name,
            messages=list(messages),
            tools=list(tools) if tools else None,
            enable_thinking=thinking,
            add_generation_prompt=add_generation_prompt,
        )


def check_messages(messages: Sequence[Message]) -> None:
    if not isinstance(messages, (list, tuple)):
        raise Error(f"messages is {shown(messages)}, expected a list of messages: write a list of dicts")
    if not messages:
        raise Error("messages: the chat is empty, expected at least one message: write one")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            found = shown(message)
            raise Error(f"messages: entry {number} is {found}, expected a role and a content: write a dict of both")
        if "content" not in message and not message.get("tool_calls"):
            role = shown(message["role"])[1:-1]
            raise Error(f"messages: entry {number} ({role}) has no content, expected a text: add it")
    _check_size("messages", messages)


def check_tools(tools: Tools | None) -> None:
    if not (tools is None or (isinstance(tools, (list, tuple)) and all(isinstance(tool, dict) for tool in tools))):
        raise Error(f"tools is {shown(tools)}, expected a list of descriptions of functions: write a list of dicts")
    _check_size("tools", tools)


def _check_size(name: str, value: Any) -> None:
    try:
        weigh(value)
    except SecurityError as error:
        raise Error(f"{name}: {error}, expected what a model can read: shorten it") from None


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json, and the chat template from chat_template.jinja or tokenizer_config.json if there is one.

    Raises Error for no such file, one that is something else or too large, a tokenizer whose ids are not in order or
    that could take up all time or memory, or a template that is no text.
    """
    folder = Path(folder)
    return Tokenizer(_read_backend(folder / "tokenizer.json"), _read_template(folder), str(folder))


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    content = read_bytes(path, LARGEST_TOKENIZER)
    try:
        backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        parts = json_object(content)
    except BaseException as error:
        if not isinstance(error, (ValueError, MemoryError)) and not _of_the_library(error):
            raise
        raise Error(f"{path}: is no tokenizer file ({one_line(error)}): fetch it again") from None
    check_parts(path, backend)
    check_added(path, parts, backend)
    check_vocabulary(path, backend)
    backend.no_truncation()  # such settings of a file are for batches of training: here a text is all of its tokens
    backend.no_padding()
    return backend


def _of_the_library(error: BaseException) -> bool:
    """Whether the tokenizers library raised this: a bare Exception, or what a panic of its code becomes."""
    return type(error) is Exception or type(error).__module__ == "pyo3_runtime"


def _read_template(folder: Path) -> str | None:
    template, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if os.path.lexists(template):
        try:
            return read_bytes(template, 4 * LONGEST_TEMPLATE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Error(f"{template}: is no text in UTF-8 ({error}): fetch the file again") from None
    found = read_json(settings).get("chat_template") if os.path.lexists(settings) else None
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):  # several named templates
        found = next((entry.get("template", entry) for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str | None):
        raise Error(f"{settings}: chat_template is {shown(found)}, expected a text: fetch the file again")
    return found


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 stands for itself, the rest follows from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
