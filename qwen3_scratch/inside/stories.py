"""Stories told to a checkpoint: what it notes and looks up in its notes, and other notes to put in their place."""

from collections.abc import Sequence
from typing import NamedTuple

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..generation import generate
from ..tiny.corpus import Example
from ..tiny.lookups import Lookups, lookups_in
from ..tokenizer import Tokenizer

SPARE = (
    "Nora is in the garden. She has a pink cup. Leo, who has a white coat, is at the school. Where is the white coat?"
)


class Told(NamedTuple):
    """A story, its notes and its look-ups. `said` tells what is not as it was asked for, else it is empty."""

    checkpoint: Checkpoint
    thinking: str
    text: str
    token_ids: list[int]  # of the whole chat
    lookups: Lookups
    said: str


def tell(checkpoint: Checkpoint, story: str) -> Told:
    """The story's answer with thinking, if it looks words up in its notes as the embedded checkpoint does.

    If not, the same of the embedded checkpoint, or, where the story asks for no look-up, of the story `SPARE`.
    """
    embedded = load_checkpoint("tiny", dtype=checkpoint.dtype)
    tried = (
        (checkpoint, story, ""),
        (embedded, story, "This checkpoint looks nothing up in notes. What follows is the embedded one's."),
        (embedded, SPARE, "No look-up in this story's answer: who has what, and who is where? Instead:\n" + SPARE),
    )
    for model, asked, said in tried:
        answer = generate(model, asked, temperature=0, max_new_tokens=96)
        token_ids = answer.prompt_ids + answer.token_ids
        try:
            lookups = lookups_in(model, [token_ids])
        except ValueError:  # no notes, or no line that reads on in them
            continue
        if lookups.followers.any(-1).all():
            return Told(model, (answer.thinking or "").strip(), answer.text, token_ids, lookups, said)
    raise AssertionError("the embedded checkpoint looks the spare story up")


class Notes(NamedTuple):
    """A thinking that is written for the model, and the answer that would follow it."""

    thinking: str
    answer: str


def other_notes(examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, list[Notes]]:
    """By kind, the right notes of each story and two in their place: wrong ones, and none.

    Each example asks one question about a story with at least two people in its notes. The wrong notes are the right
    ones with two words exchanged, the answering one and that in its place in another person's notes.
    """
    found: dict[str, list[Notes]] = {"right notes": [], "two words exchanged": [], "as many dashes": []}
    for own in examples:
        words, length = _answering(own), len(tokenizer.encode(own.thinking))
        made = (
            Notes(own.thinking, own.answer),
            Notes(_exchanged(own.thinking, *words), _exchanged(own.answer, *words)),
            Notes(" -" * length, "(none)"),
        )
        for notes, each in zip(found.values(), made, strict=True):
            notes.append(each)
    return found


def same_words(one: str, other: str) -> bool:
    """Whether two answers are one but for `in` and `at`, which change with the place: in the garden, at the school."""
    bare = ([word for word in text.split() if word not in ("in", "at")] for text in (one, other))
    return next(bare) == next(bare)


def _answering(example: Example) -> tuple[str, str]:
    """The word that answers, and the one in its place in another person's notes."""
    people = [line.split() for line in example.thinking.splitlines() if line.startswith("- ")]
    answer = example.thinking.split()[-1]  # the look-up ends with it
    own = next(row for row in people if answer in row)
    other = next(row for row in people if row is not own)
    return answer, other[own.index(answer)]


def _exchanged(text: str, one: str, other: str) -> str:
    return text.replace(one, "#").replace(other, one).replace("#", other)
