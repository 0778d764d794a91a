"""Chats that are more than texts in turn: content in parts, a last message that goes on, users' words kept plain."""

import re
from typing import Any, NamedTuple

from ..errors import Error, shown
from .chat_template import THINKING, Message, Render, attempt, texts, unheard

# ---- content in parts ---------------------------------------------------------------------------


def as_the_template_reads(chat: list[Message], render: Render) -> list[Message]:
    """The chat with the parts of a content as they are for a role whose parts the template reads, else joined."""
    in_parts = [number for number, message in enumerate(chat) if isinstance(message.get("content"), (list, tuple))]
    joined = [
        {**message, "content": "".join(part["text"] for part in message["content"])} if number in in_parts else message
        for number, message in enumerate(chat)
    ]
    roles = sorted({chat[number]["role"] for number in in_parts})
    word, note = unheard(chat, "part"), unheard(chat, "note")
    for own in (roles, *([role] for role in roles)):  # all of them, else each by itself
        asked, count = list(joined), 0
        for number in in_parts:  # a template that prints a part as it stands would print the note as well
            if chat[number]["role"] in own:
                parts = [{"type": "text", "text": word, "note": note} for _ in chat[number]["content"]]
                asked[number], count = {**chat[number], "content": parts}, count + len(parts)
        said = (attempt(render, asked) or "").lower()
        if said.count(word) >= count and note not in said:
            joined = [original if original["role"] in own else one for original, one in zip(chat, joined, strict=True)]
            if own == roles:
                break
    return joined


# ---- a last message that goes on ----------------------------------------------------------------


def continued(name: str, chat: list[Message], render: Render, field: str) -> str:
    """The rendering up to where the last message's `field` ends, so that the model goes on there."""
    last, text = chat[-1], chat[-1].get(field)
    if not isinstance(text, str):
        found = f"messages: the last entry has the {field} {shown(text)}"
        raise Error(f"{found}, expected a text to be continued: write the beginning of the answer there")
    word = unheard(chat, "goes on") + " "
    fields = [field, *(other for other in THINKING if field in THINKING and other in last)]
    said = render([*chat[:-1], last | dict.fromkeys(fields, text + word)])
    cut = said.rfind(word.strip())
    if cut < 0 or text.strip() not in said:
        raise Error(f"{name}: the chat template changes the last message, expected it as it is: it cannot be continued")
    return said[:cut] if said[cut:].startswith(word) else said[:cut].rstrip()


# ---- users' words kept apart from the template's ------------------------------------------------


class Marks(NamedTuple):
    """Two characters that no text holds, to stand around the tokens that a user has written out."""

    tokens: list[str]
    pattern: str  # any of the tokens, the longest first
    begin: str
    end: str

    def put(self, value: Any) -> Any:
        """The value with marks around each token in its texts, names of fields included."""
        if isinstance(value, str):
            return re.sub(self.pattern, lambda found: self.begin + found[0] + self.end, value)
        if isinstance(value, dict):
            return {self.put(name): self.put(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._closed(self.put(item)) for item in value]
        return value

    def _closed(self, part: Any) -> Any:
        """A mark after a part that ends as a token begins, which the next part might complete."""
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str) and any(text.endswith(t[:n]) for t in self.tokens for n in range(1, len(t))):
            return {**part, "text": text + self.end}
        return part

    def split(self, said: str) -> list[str]:
        """What the template wrote and, at every second place, a token that was a user's."""
        for mark in (self.begin, self.end):  # as `tojson` writes it where only ASCII is wanted
            said = said.replace(f"\\u{ord(mark):04x}", mark)
        marked = f"{self.begin}({self.pattern}){self.end}|[{self.begin}{self.end}]"
        return [piece or "" for piece in re.split(marked, said)]


def marks_for(value: Any, tokens: list[str]) -> Marks:
    said = "\n".join(texts(value)).lower()
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in said and f"\\u{code:04x}" not in said)
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
    return Marks(tokens, pattern, next(free), next(free))
