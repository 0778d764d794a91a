"""One step of arithmetic, for all pairs of digits: what a checkpoint says behind `3 - 5 = `, and by which experts."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..model import Ops, hidden_states
from ..tiny.corpus.arithmetic import OPERATORS, apply
from ..tracing import trace

FIRST, SECOND = range(10), range(1, 10)  # the corpus adds, subtracts and multiplies by no 0


class Sums(NamedTuple):
    """What is said for each sign in the order of OPERATORS and each pair of digits, and who took part."""

    said: Int[Tensor, "3 10 9"]  # token ids
    right: Bool[Tensor, "3 10 9"]
    first: Int[Tensor, "layers 3 10 9"]  # the strongest choice at the token behind which it is said


@torch.inference_mode()
def all_sums(checkpoint: Checkpoint, ops: Ops = Ops()) -> Sums:
    """Asks for every sum, difference and product of two digits modulo 10, and reads the thinking up to its result.

    A second step follows in the question, times 1: a chain of one is rare in the corpus.
    """
    tokenizer, config, weights = tokenizer_of(checkpoint), checkpoint.config, checkpoint.weights
    cases = [(a, sign, b) for sign in OPERATORS for a in FIRST for b in SECOND]
    rows = []
    for a, sign, b in cases:
        chat = [{"role": "user", "content": f"({a} {sign} {b}) * 1 % 10"}]
        rows.append(torch.tensor(tokenizer.encode(f"{tokenizer.render_chat(chat)}<think>\n{a} {sign} {b} = ")))
    ids = pad_sequence(rows, batch_first=True)
    last = torch.tensor([len(row) - 1 for row in rows])
    keep, each = torch.arange(ids.shape[1]) <= last[:, None], torch.arange(len(rows))
    with trace() as recorded:
        x = hidden_states(weights, ops.embed(ids, weights.embed_tokens), config, keep, ops=ops)
    head = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    said = ops.head(x[each, last][None], head)[0].argmax(-1)
    chosen = [call.output.experts[:, 0].view(ids.shape)[each, last] for call in recorded["moe_route"]]
    right = [
        tokenizer.decode([one]).strip() == str(apply(sign, a, b))
        for one, (a, sign, b) in zip(said.tolist(), cases, strict=True)
    ]
    shape = (len(OPERATORS), len(FIRST), len(SECOND))
    return Sums(said.view(shape), torch.tensor(right).view(shape), torch.stack(chosen).view(-1, *shape))
