"""Stories told to a checkpoint: what it notes, and looks up in its notes."""

from typing import NamedTuple

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..generation import generate
from ..tiny.lookups import Lookups, lookups_in

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
