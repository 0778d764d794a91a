"""Text <-> token ids by the `tokenizers` library, and chats -> text by the checkpoint's own Jinja template."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .config import read_json
from .errors import Error

Message = dict[str, Any]


class Tokenizer:
    """A byte-pair tokenizer, `encode` and `decode`, with the chat template of its checkpoint."""

    def __init__(self, backend: tokenizers.Tokenizer, chat_template: str | None = None, name: str = "tokenizer"):
        self.backend, self.chat_template, self.name = backend, chat_template, name
        self._compiled = None  # the template, parsed at its first use

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id; an embedding may have more rows, whose tail is never sampled."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written out in it become their one id. Nothing is added."""
        try:
            return self.backend.encode(text, add_special_tokens=False).ids
        except TypeError:  # what the library says to half a surrogate pair, as undecodable bytes of a terminal become
            raise Error(f"text: {text!r:.60} cannot be written as UTF-8, expected whole characters: mend it") from None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that form no UTF-8 character become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_id(self, token: str) -> int | None:
        """The id of one token as it stands in the vocabulary, or None."""
        return self.backend.token_to_id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; several tokens may share one character between them."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.backend.get_added_tokens_decoder():
            return token.encode()
        return bytes(BYTE_OF[character] for character in token)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict] | None = None,
        thinking: bool = True,
        add_generation_prompt: bool = True,
    ) -> str:
        """The chat as the text that the model reads, by the checkpoint's template in an immutable sandbox.

        Raises:
            Error: no template, no messages, a message that the template refuses, or a template that fails.
        """
        if self.chat_template is None:
            raise Error(f"{self.name}: has no chat template, expected one for chats: pass raw=True and plain text")
        check_messages(messages)
        try:
            self._compiled = self._compiled or _environment().from_string(self.chat_template)
            return self._compiled.render(
                messages=list(messages),
                tools=list(tools) if tools else None,
                enable_thinking=thinking,
                add_generation_prompt=add_generation_prompt,
            )
        except (
            jinja2.TemplateError,
            RuntimeError,  # a macro without end
            MemoryError,  # 'a' * 10**13
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
        ) as error:
            raise Error(
                f"{self.name}: the chat template failed ({error}): check the messages and the template"
            ) from None


def check_messages(messages: Sequence[Message]) -> None:
    if not messages:
        raise Error("messages: the chat is empty, expected at least one message: write one")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Error(
                f"messages: entry {number} is {message!r:.80}, expected a role and a content: write a dict of both"
            )
        if "content" not in message and not message.get("tool_calls"):
            raise Error(f"messages: entry {number} ({message['role']}) has no content, expected a text: add it")


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json, and the chat template from chat_template.jinja or tokenizer_config.json if there is one."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Error(f"{path}: no such file: a checkpoint that talks has one, so fetch it again") from None
    except Exception as error:  # the library raises bare Exception for a file that it cannot parse
        raise Error(f"{path}: is no tokenizer file ({error}): fetch it again") from None
    template, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if template.exists():
        return Tokenizer(backend, template.read_text(encoding="utf-8"), str(folder))
    found = read_json(settings).get("chat_template") if settings.exists() else None
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):  # several named templates
        found = next((entry.get("template", entry) for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str | None):
        raise Error(f"{settings}: chat_template is {found!r:.60}, expected a text: fetch the file again")
    return Tokenizer(backend, found, str(folder))


def _environment() -> ImmutableSandboxedEnvironment:
    """Templates see no attribute that leads out of them and cannot change what they are given."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes for HTML; templates of the hub count on plain JSON and on these options."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 stands for itself, the rest follows from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
