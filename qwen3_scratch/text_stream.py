"""Token ids, one at a time -> pieces of text: whole characters only, thinking split from answer, stop strings cut."""

import codecs
from collections.abc import Sequence

from .tokenizer import Tokenizer


class Piece(str):
    """Some text of an answer; `thinking` says whether it belongs to the thinking before it."""

    thinking: bool

    def __new__(cls, text: str, thinking: bool = False) -> "Piece":
        piece = super().__new__(cls, text)
        piece.thinking = thinking
        return piece


class TextStream:
    """Turns one answer's token ids into text as they arrive.

    Held back are: bytes that are no whole UTF-8 character yet, text that a stop string may begin with, and line
    breaks that may turn out to stand at the end of the thinking or of the answer, where they are dropped. With `raw`
    the text is passed on as it is, tags and line breaks included.
    """

    open: int | None  # the token that begins thinking, and that which ends it
    close: int | None
    stopped: str | None  # the stop string that was met

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = (), raw: bool = False):
        self.tokenizer, self.stop, self.raw = tokenizer, stop, raw
        self.open, self.close = (None, None) if raw else map(tokenizer.token_id, ("<think>", "</think>"))
        self.special = {i for i, t in tokenizer.added.items() if t.special}
        # Some templates open the thinking themselves; a tag that a person typed stands before the last turn's end.
        turn = max((place for place, token in enumerate(prompt, 1) if token in self.special), default=0)
        tags = [token for token in prompt[turn:] if token in (self.open, self.close)]
        self.thinking = bool(tags) and tags[-1] == self.open
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.begun, self.stopped = "", False, None

    def feed(self, token: int) -> list[Piece]:
        """The pieces that became certain with this token."""
        if self.stopped is not None or token in self.special:
            return []
        if token is not None and token in (self.open, self.close):
            before = self._release(final=True)
            self.thinking, self.begun = token == self.open, False
            self.decoder.reset()
            return before
        self.held += self.decoder.decode(self.tokenizer.token_bytes(token))
        return self._release()

    def finish(self) -> list[Piece]:
        """What was held back, once nothing follows; the bytes of an unfinished character are dropped."""
        return [] if self.stopped is not None else self._release(final=True)

    def _release(self, final: bool = False) -> list[Piece]:
        head = 0 if self.begun or self.raw else len(self.held) - len(self.held.lstrip("\n"))  # will be dropped
        starts = {text: 0 if text.strip("\n") else head for text in self.stop}
        if ends := [(cut, text) for text in starts if (cut := self.held.find(text, starts[text])) >= 0]:
            cut, self.stopped = min(ends)
            text, self.held = self.held[head:cut], ""
        else:
            keep = 0 if final else self._uncertain()
            text, self.held = self.held[head : len(self.held) - keep], self.held[len(self.held) - keep :]
        if (final or self.stopped is not None) and not self.raw:
            text = text.rstrip("\n")
        self.begun = self.begun or bool(text)
        return [Piece(text, self.thinking)] if text else []

    def _uncertain(self) -> int:
        """How many characters at the end may still be cut off by what comes next."""
        starts = (length for stop in self.stop for length in range(1, len(stop)) if self.held.endswith(stop[:length]))
        keep = max(starts, default=0)
        if not self.raw:  # line breaks before what is kept may prove to be the last
            keep += len(self.held[: len(self.held) - keep]) - len(self.held[: len(self.held) - keep].rstrip("\n"))
        return keep
