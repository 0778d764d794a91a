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
from .experts import answers

FIRST, SECOND = range(10), range(1, 10)  # the corpus adds, subtracts and multiplies by no 0
SHAPE = (len(OPERATORS), len(FIRST), len(SECOND))


class Sums(NamedTuple):
    """What is said for each sign in the order of OPERATORS and each pair of digits, and who took part."""

    said: Int[Tensor, "3 10 9"]  # token ids
    right: Bool[Tensor, "3 10 9"]
    first: Int[Tensor, "layers 3 10 9"]  # the strongest choice at the token behind which it is said


class Raised(NamedTuple):
    """Which of the ten digits is raised most at the token behind which a result is said."""

    by_expert: Int[Tensor, "experts 3 10 9"]  # each expert's answer alone, whether it was chosen or not
    before: Int[Tensor, "3 10 9"]  # the stream that reaches the experts
    right: Int[Tensor, "3 10 9"]  # the digit that is the result


def lines_asked(
    checkpoint: Checkpoint,
) -> tuple[list[tuple[int, str, int]], Int[Tensor, "270 seq"], Int[Tensor, "270"]]:
    """Every sum, difference and product of two digits modulo 10: each case, its chat with the thinking up to its
    result, and where that ends.

    A second step follows in the question, times 1: a chain of one is rare in the corpus.
    """
    tokenizer = tokenizer_of(checkpoint)
    cases = [(a, sign, b) for sign in OPERATORS for a in FIRST for b in SECOND]
    rows = []
    for a, sign, b in cases:
        chat = [{"role": "user", "content": f"({a} {sign} {b}) * 1 % 10"}]
        rows.append(torch.tensor(tokenizer.encode(f"{tokenizer.render_chat(chat)}<think>\n{a} {sign} {b} = ")))
    return cases, pad_sequence(rows, batch_first=True), torch.tensor([len(row) - 1 for row in rows])


@torch.inference_mode()
def all_sums(checkpoint: Checkpoint, ops: Ops = Ops()) -> Sums:
    """What is said behind `lines_asked`, and by which experts."""
    tokenizer, config, weights = tokenizer_of(checkpoint), checkpoint.config, checkpoint.weights
    cases, ids, last = lines_asked(checkpoint)
    keep, each = torch.arange(ids.shape[1]) <= last[:, None], torch.arange(len(cases))
    with trace() as recorded:
        x = hidden_states(weights, ops.embed(ids, weights.embed_tokens), config, keep, ops=ops)
    head = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    said = ops.head(x[each, last][None], head)[0].argmax(-1)
    chosen = [call.output.experts[:, 0].view(ids.shape)[each, last] for call in recorded["moe_route"]]
    right = [
        tokenizer.decode([one]).strip() == str(apply(sign, a, b))
        for one, (a, sign, b) in zip(said.tolist(), cases, strict=True)
    ]
    return Sums(said.view(SHAPE), torch.tensor(right).view(SHAPE), torch.stack(chosen).view(-1, *SHAPE))


@torch.inference_mode()
def raised_digits(checkpoint: Checkpoint, layer: int) -> Raised:
    """Which digit's logit each expert of a layer raises most behind `lines_asked`, as if nothing came after its answer.

    Direct logit attribution (Elhage et al. 2021) through the last norm's weight and the output head; the size by which
    the norm divides changes no order.
    """
    weights, tokenizer = checkpoint.weights, tokenizer_of(checkpoint)
    cases, ids, last = lines_asked(checkpoint)
    keep, each = torch.arange(ids.shape[1]) <= last[:, None], torch.arange(len(cases))
    with trace() as recorded:
        hidden_states(weights, Ops().embed(ids, weights.embed_tokens), checkpoint.config, keep)
    norm = [call for call in recorded["rms_norm"] if call.layer == layer][-1]  # the one in front of the experts
    stream, x = (part[each, last] for part in (norm.inputs["x"], norm.output))
    said = torch.cat((answers(weights.layers[layer], x), stream[None])).float() * weights.norm.float()
    digits = torch.tensor([tokenizer.encode(str(digit))[-1] for digit in range(10)])
    unembed = (weights.embed_tokens if weights.lm_head is None else weights.lm_head)[digits].float()
    *experts, before = (said @ unembed.T).argmax(-1).view(-1, *SHAPE)
    right = torch.tensor([int(apply(sign, a, b)) for a, sign, b in cases]).view(SHAPE)
    return Raised(torch.stack(experts), before, right)
