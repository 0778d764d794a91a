"""Stories told to a checkpoint: what it notes and looks up in its notes, and whom its heads look at without notes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint, tokenizer_of
from ..generation import generate, prompt_ids
from ..tiny.corpus import Example
from ..tiny.lookups import Lookups, lookups_in
from ..tracing import head_weights

TOGETHER = 32  # stories in one pass
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


def name_looks(checkpoint: Checkpoint, examples: Sequence[Example]) -> Float[Tensor, "n layers heads"]:
    """How much more a head looks at the right name than at a wrong one, where a direct answer is to begin.

    For stories that ask for a person; a wrong name's weight is the mean over all wrong ones of the story.
    """
    found = []
    for start in range(0, len(examples), TOGETHER):
        some = examples[start : start + TOGETHER]
        prompts = [prompt_ids(checkpoint, example.messages, thinking=False) for example in some]
        rows = [torch.tensor(ids, device=checkpoint.device) for ids in prompts]
        token_ids = pad_sequence(rows, batch_first=True)  # at the end, where causal attention never looks
        every = head_weights(checkpoint.weights, checkpoint.config, token_ids)
        for row, (example, ids) in enumerate(zip(some, prompts, strict=True)):
            looks = every[:, row, :, len(ids) - 1, : len(ids)]  # [layers, heads, seq]
            texts = [tokenizer_of(checkpoint).decode([token]).strip() for token in ids]
            names = [line.split()[1] for line in example.thinking.splitlines() if line.startswith("-")]
            on = {name: looks[..., [text == name for text in texts]].sum(-1) for name in names}
            right = on.pop(example.answer.split()[0])
            found.append(right - torch.stack([*on.values()]).mean(0))
    return torch.stack(found)
