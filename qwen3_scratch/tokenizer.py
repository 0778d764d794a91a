"""Text <-> token ids by the `tokenizers` library, and chats -> text by the checkpoint's own Jinja template."""

import os
from collections.abc import Callable, Mapping, Sequence
from operator import index
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import tokenizers

from .errors import Error, of_kind, one_line, shown, true_or_false
from .trust.chat_template import (
    LONGEST_TEMPLATE,
    check_nothing_lost,
    compile_template,
    read_messages,
    read_tools,
    render,
)
from .trust.chat_template import Message as Message
from .trust.chat_template import Tools as Tools
from .trust.files import json_object, no_mark, read_bytes, read_json
from .trust.messages import as_the_template_reads, continued, marks_for
from .trust.tokenizer_checks import check_added, check_parts, check_vocabulary, tell_lacking

LARGEST_TOKENIZER = 40_000_000  # bytes; Qwen3's tokenizer.json has 11 million
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# The pattern that cuts Qwen's text before byte-pair merging: contractions, words with one leading mark, single
# digits, runs of other marks, line breaks, spaces. GPT-2's differs on "\n\n" at the end of a prompt.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """A byte-pair tokenizer, `encode` and `decode`, with the chat template of its checkpoint."""

    def __init__(
        self, backend: tokenizers.Tokenizer, chat_template: str | None = None, name: str = "tokenizer", *,
        templates: Mapping[str, str] = MappingProxyType({}), special_tokens: Mapping[str, str] = MappingProxyType({}),
    ):  # fmt: skip
        of_kind(name, "backend", backend, tokenizers.Tokenizer)
        self.backend, self.chat_template, self.name = backend, chat_template, name
        self.templates = {**templates, **({} if chat_template is None else {"default": chat_template})}  # by name
        self.special_tokens = dict(special_tokens)  # what a template may call them: "eos_token", ...
        self._compiled: dict[str, jinja2.Template] = {}  # the templates that have been used
        self.added = backend.get_added_tokens_decoder()  # by id
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than the largest token id; an embedding may have more rows, whose tail is never sampled."""

    def encode(self, text: str, *, plain: bool = False) -> list[int]:
        """Token ids of a text. Nothing is added, and special tokens written out in it become their one id.

        With `plain` no added token is looked for, special or not: "<|im_end|>" is then some letters like any others.
        """
        if not isinstance(text, str):
            raise Error(f"text is {shown(text)}, expected a text: pass a string")
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as undecodable bytes of a terminal become
            raise Error(f"text: {text!r:.60} cannot be written as UTF-8, expected whole characters: mend it") from None
        if not isinstance(plain, bool):
            plain = true_or_false(self.name, "plain", plain)
        if plain:
            return self._ask(lambda: self._spell(text), "text", text)
        return self._ask(lambda: self.backend.encode(text, add_special_tokens=False).ids, "text", text)

    def _spell(self, text: str) -> list[int]:
        """What the library does with the text between two added tokens."""
        normalizer, cutter, model = self.backend.normalizer, self.backend.pre_tokenizer, self.backend.model
        text = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in cutter.pre_tokenize_str(text)] if cutter else [text]
        return [token.id for word in words for token in model.tokenize(word)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that form no UTF-8 character become U+FFFD."""
        try:
            numbers = [index(token) for token in ids]
        except TypeError:
            raise Error(f"token ids are {one_line(shown(ids))}, expected a list of whole numbers: check them") from None
        for number in numbers:
            if not 0 <= number < 2**32:
                raise Error(f"token id {shown(number)} found, expected 0 to {self.vocab_size - 1}: check its origin")
        skip = skip_special_tokens
        if not isinstance(skip, bool):
            skip = true_or_false(self.name, "skip_special_tokens", skip)
        return self._ask(lambda: self.backend.decode(numbers, skip_special_tokens=skip), "ids", numbers)

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
        if not isinstance(token, str):
            of_kind(self.name, "token", token, str)
        return self.backend.token_to_id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; several tokens may share one character between them."""
        try:
            token_id = index(token_id)
        except TypeError:
            raise Error(f"token id {shown(token_id)} found, expected a whole number: check its origin") from None
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
        add_generation_prompt: bool = True, continue_final_message: bool | str = False,
    ) -> str:  # fmt: skip
        """The chat as the text that the model reads, by the checkpoint's template in an immutable sandbox.

        It is what transformers renders, but for what it would lose without a word. `continue_final_message` leaves the
        last turn open behind its content, or behind the field of that name, such as reasoning_content, and no other
        turn is begun then.

        Raises:
            Error: no template, no messages, a message that the template refuses or leaves out, or one that fails.
        """
        chat, described = read_messages(messages), read_tools(tools)
        return self._write(chat, described, thinking, add_generation_prompt, continue_final_message)

    def encode_chat(
        self, messages: Sequence[Message], *, tools: Tools | None = None, thinking: bool = True,
        add_generation_prompt: bool = True, continue_final_message: bool | str = False, plain_user_text: bool = False,
    ) -> list[int]:  # fmt: skip
        """Token ids of a chat as `render_chat` writes it.

        With `plain_user_text` only the template writes added tokens, such as <|im_end|>: where one stands in a message
        or in a description of a tool, it is spelled in ordinary tokens, so that nobody can speak in another's turn.
        """
        chat, described = read_messages(messages), read_tools(tools)
        if not isinstance(plain_user_text, bool):
            plain_user_text = true_or_false(self.name, "plain_user_text", plain_user_text)
        if not plain_user_text:
            return self.encode(self._write(chat, described, thinking, add_generation_prompt, continue_final_message))
        marks = marks_for([chat, described], [str(token) for token in self.added.values() if str(token).strip()])
        said = self._write(chat, described, thinking, add_generation_prompt, continue_final_message, marks.put)
        ids: list[int] = []
        for number, piece in enumerate(marks.split(said)):
            ids += (spelled := self.encode(piece, plain=number % 2 == 1))
            if number % 2 and self.token_id(piece) in spelled:
                found = f"{self.name}: the tokenizer makes the token {shown(piece)} of plain text, too"
                raise Error(f"{found}, expected its letters in other tokens: take it out of the messages")
        return ids

    def _write(
        self, chat: list[Message], tools: list[Message] | None, thinking: bool, prompt: bool, goes_on: bool | str,
        mark: Callable[[Any], Any] | None = None,
    ) -> str:  # fmt: skip
        for name, given in {"thinking": thinking, "add_generation_prompt": prompt}.items():
            if not isinstance(given, bool):
                true_or_false(self.name, name, given)
        if not isinstance(goes_on, bool | str):
            of_kind(self.name, "continue_final_message", goes_on, bool, str)
        template, field = self._template(tools is not None), "content" if goes_on is True else goes_on

        def draw(chat: list[Message], tools: list[Message] | None = tools) -> str:
            given = dict(messages=chat, tools=tools, documents=None, enable_thinking=thinking)
            given["add_generation_prompt"] = prompt and not field
            return render(template, self.name, **self.special_tokens | given)

        if any(isinstance(message.get("content"), (list, tuple)) for message in chat):
            chat = as_the_template_reads(chat, draw)
        said = draw(chat)
        check_nothing_lost(self.name, chat, said, draw)
        if tools and "tool_use" not in self.templates and draw(chat, None) == said:
            found = "the chat template leaves out the tools"
            raise Error(f"{self.name}: {found}, expected one that writes them: pass no tools")
        if mark is not None:
            chat, tools = mark(chat), mark(tools)
            said = draw(chat, tools)
        return continued(self.name, chat, lambda chat: draw(chat, tools), field) if field else said

    def _template(self, with_tools: bool) -> jinja2.Template:
        name = "tool_use" if with_tools and "tool_use" in self.templates else "default"
        if name not in self.templates:
            found = f"only the chat templates {shown(sorted(self.templates))}" if self.templates else "no chat template"
            raise Error(f"{self.name}: has {found}, expected one for chats: pass raw=True and plain text")
        if name not in self._compiled:
            self._compiled[name] = compile_template(self.templates[name], self.name)
        return self._compiled[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": {}}  # Jinja's functions can be neither copied nor pickled


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json, and the chat template from chat_template.jinja or tokenizer_config.json if there is one.

    Tokens that other files name and tokenizer.json does not hold are told on standard error, and read as plain text.

    Raises Error for no such file, one that is something else or too large, a tokenizer whose ids are not in order or
    that could take up all time or memory, or a template that is no text.
    """
    folder = Path(of_kind("read_tokenizer", "folder", folder, str, os.PathLike))
    backend, templates = _read_backend(folder / "tokenizer.json"), _read_templates(folder)
    default, special = templates.pop("default", None), _read_special_tokens(folder)
    tell_lacking(folder, backend, NAMED)
    return Tokenizer(backend, default, str(folder), templates=templates, special_tokens=special)


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    content = read_bytes(path, LARGEST_TOKENIZER)
    no_mark(path, content)
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


def _read_templates(folder: Path) -> dict[str, str]:
    """The chat templates by name: of files of their own if there are any, else of tokenizer_config.json."""
    alone, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if os.path.lexists(alone):
        files = {"default": alone} | files
    if files:
        return {name: _read_text(path) for name, path in files.items()}
    found = _read_settings(settings).get("chat_template")
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        found = {entry.get("name"): entry.get("template", entry) for entry in found}
    found = found if isinstance(found, dict) else {} if found is None else {"default": found}
    for name, template in found.items():
        if not (isinstance(name, str) and isinstance(template, str)):
            raise Error(f"{settings}: chat_template is {shown(template)}, expected a text: fetch the file again")
    return found


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, 4 * LONGEST_TEMPLATE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Error(f"{path}: is no text in UTF-8 ({error}): fetch the file again") from None


def _read_settings(path: Path) -> dict[str, Any]:
    return read_json(path) if os.path.lexists(path) else {}


def _read_special_tokens(folder: Path) -> dict[str, str]:
    """What a template may call "bos_token", "eos_token" and so on, as transformers finds it in a folder.

    Older folders keep it in special_tokens_map.json; and what Qwen's class of tokenizer brings along holds where
    nothing else is said.
    """
    path, older = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    settings = _read_settings(path)
    said = {name: (path, token) for name, token in settings.items()}
    if "added_tokens_decoder" not in settings:
        said |= {name: (older, token) for name, token in _read_settings(older).items()}
    origin, extra = said.get("extra_special_tokens", (path, None))
    said |= {name: (origin, token) for name, token in (extra.items() if isinstance(extra, dict) else ())}
    found = {}
    if settings.get("tokenizer_class", "Qwen2Tokenizer") in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        found = dict.fromkeys({"eos_token", "unk_token", "pad_token"} - said.keys(), "<|endoftext|>")
    for name, (origin, token) in said.items():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and (name.endswith("_token") or name in (extra or ())):
            found[name] = text
        elif name in NAMED and token is not None:
            raise Error(f"{origin}: {name} is {shown(token)}, expected a text: fetch the file again")
    return found


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 stands for itself, the rest follows from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
