"""Several tokens from one read of the weights: drafts that are looked up in the text, and verified in one pass.

Where the end of the text stood before, what followed it there is guessed to follow again (prompt lookup: Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding); one pass says of each guess whether the model would have written it
(Leviathan et al. 2022, arXiv:2211.17192). It gains where a pass of several tokens takes hardly longer than of one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cache import KVCache, turned_anew
from ..checkpoints.checkpoint import Advance, Checkpoint, Decoder, Pick
from ..errors import Error
from .eager import eager_decoder

DRAFT = 3  # tokens that are guessed at a time: of 40 stories' answers 3 give 1.52 tokens a pass, 7 give 1.55
LONGEST = 3  # tokens at the end of the text that are looked for; where they are new, fewer, down to one


class Text:
    """Token ids, and of each one, two and three in a row what came after them last."""

    def __init__(self, token_ids: Sequence[int]):
        self.token_ids, self.after = list[int](), dict[tuple[int, ...], int]()
        for token in token_ids:
            self.append(token)

    def append(self, token: int) -> None:
        for length in range(1, LONGEST + 1):
            self.after[tuple(self.token_ids[-length:])] = len(self.token_ids)
        self.token_ids.append(token)

    def draft(self, count: int = DRAFT) -> list[int] | None:
        """What followed the end of the text where it stood last before, over and over up to `count`; None: nowhere."""
        for length in range(LONGEST, 0, -1):
            if start := self.after.get(tuple(self.token_ids[-length:])):
                found = self.token_ids[start:]
                return [found[number % len(found)] for number in range(count)]
        return None


def looking_up(checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], length: int) -> Checkpoint:
    """The checkpoint that answers one prompt with drafts, in a text of at most `length` tokens.

    Raises Error for several rows, which would part at different tokens, and where keys are turned by angles that
    depend on how long the text is, drafts included.
    """
    if len(prompts) > 1:
        raise Error(f"lookup: {len(prompts)} rows found, expected one prompt with one answer: ask one by one")
    if turned_anew(checkpoint.config, length):
        found = f"up to {length} tokens, and rope_type {checkpoint.config.rope_parameters['rope_type']!r}"
        advice = "lower max_new_tokens or leave lookup out"
        raise Error(f"lookup: {found} turns all keys anew, expected a text within the trained length: {advice}")
    return replace(checkpoint, decoder=with_drafts(checkpoint.decoder or eager_decoder, prompts[0]))


def with_drafts(decoder: Decoder, prompt: Sequence[int]) -> Decoder:
    """A decoder of one row that reads the last token and a draft of the next ones together.

    Each token is picked from the model's own logits as it would be without: a draft is kept as far as the picked
    tokens are those that it guessed. So in law nothing changes (this is rejection sampling where the guess is certain),
    and with a seed nothing at all, unless the rounding of a pass of several tokens decides.
    """

    def decode(checkpoint: Checkpoint, cache: KVCache, pick: Pick, new: int = 1, /) -> Advance:
        one, several = decoder(checkpoint, cache, pick), decoder(checkpoint, cache, lambda logits: logits, 1 + DRAFT)
        text, ahead = Text(prompt), deque[tuple[int, Float[Tensor, "1 vocab"]]]()  # each guess, the logits after it

        @torch.inference_mode()
        def advance(tokens: Int[Tensor, "1"]) -> Tensor:
            text.append(int(tokens))
            if ahead and ahead[0][0] == int(tokens):
                return pick(ahead.popleft()[1])
            cache.rewind(len(ahead))  # the draft went wrong here
            ahead.clear()
            draft = text.draft()
            if draft is None or cache.length + 1 + DRAFT > cache.max_length:
                return one(tokens)
            logits = several(torch.tensor([[int(tokens), *draft]], device=tokens.device))
            ahead.extend(zip(draft, logits[:, 1:].unbind(1), strict=True))
            return pick(logits[:, 0])

        return advance

    return decode
