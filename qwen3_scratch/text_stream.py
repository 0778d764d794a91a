"""Token ids, one at a time -> pieces of text: whole characters only, thinking split from answer, stop strings cut."""

import codecs
from collections.abc import Sequence

from .errors import Error, shown
from .tokenizer import Tokenizer

TAGS = "<think>", "</think>"


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
    breaks that may turn out to stand at the end of the thinking or of the answer, where they are dropped.

    A stop string is looked for in the answer alone, not in the thinking before it; one that is the text of a special
    token, or of a tag, is met where that token comes. With `raw` there is no thinking: tags and line breaks are text
    like any other. Special tokens are never text.

    Raises Error for a stop string that holds a special token beside other text: it would never be met.
    """

    open: int | None  # the token that begins thinking, and that which ends it
    close: int | None
    stopped: str | None  # the stop string that was met

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = (), raw: bool = False):
        self.tokenizer, self.raw = tokenizer, raw
        tags = {tag: token for tag in TAGS if (token := tokenizer.token_id(tag)) is not None}
        self.open, self.close = (None, None) if raw else (tags.get(TAGS[0]), tags.get(TAGS[1]))
        special = {number for number, added in tokenizer.added.items() if added.special}
        self.special = special - {*tags.values()}  # some files call the tags special too
        silent = {tokenizer.added[i].content: i for i in self.special} | ({} if raw else tags)
        self.stop_ids = {silent[text]: text for text in stop if text in silent}
        self.stop = [text for text in stop if text not in silent]
        for text, name in ((text, name) for text in self.stop for name in silent if name in text):
            found = f"stop is {shown(text)}, which holds {shown(name)}, a token of its own"
            raise Error(f"{found}, expected text alone or the token alone: mend the argument")
        self.thinking = self._opened(prompt)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.begun, self.stopped = "", False, None

    def _opened(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends within thinking: some templates open it themselves."""
        # A tag that a person typed stands before the last turn's end.
        turn = max((place for place, token in enumerate(prompt, 1) if token in self.special), default=0)
        tags = [token for token in prompt[turn:] if token in (self.open, self.close)]
        return bool(tags) and tags[-1] == self.open

    def feed(self, token: int) -> list[Piece]:
        """The pieces that became certain with this token."""
        if self.stopped is not None:
            return []
        if token in self.stop_ids:
            before = self._release(final=True)
            self.stopped = self.stop_ids[token]
            return before
        if token in (self.open, self.close):
            before = self._release(final=True)
            self.thinking, self.begun = token == self.open, False
            self.decoder.reset()
            return before
        if token in self.special:
            return []
        self.held += self.decoder.decode(self.tokenizer.token_bytes(token))
        return self._release()

    def finish(self) -> list[Piece]:
        """What was held back, once nothing follows; the bytes of an unfinished character are dropped."""
        return [] if self.stopped is not None else self._release(final=True)

    def _release(self, final: bool = False) -> list[Piece]:
        head = 0 if self.begun or self.raw else len(self.held) - len(self.held.lstrip("\n"))  # will be dropped
        stops = () if self.thinking else self.stop
        starts = {text: 0 if text.strip("\n") else head for text in stops}
        found = ((self.held.find(text, start), text) for text, start in starts.items())
        if ends := [(cut + len(text), cut, text) for cut, text in found if cut >= 0]:
            _, cut, self.stopped = min(ends)  # the one that is complete first, however tokens cut the text
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
        stops = () if self.thinking else self.stop
        starts = (size for stop in stops for size in range(1, len(stop)) if self.held.endswith(stop[:size]))
        keep = max(starts, default=0)
        if not self.raw:  # line breaks before what is kept may prove to be the last
            keep += len(self.held[: len(self.held) - keep]) - len(self.held[: len(self.held) - keep].rstrip("\n"))
        return keep
