"""What a checkpoint of the corpus's domains knows: held-out scores, and which experts each domain goes to."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..config import Config
from ..generation import generate
from ..model import Ops, Weights, forward, hidden_states
from ..tracing import trace
from . import corpus

HELD_OUT_SEED = 7  # the questions asked; training never sees a held-out one, whatever the seed


def questions(domain: str, count: int, seed: int = HELD_OUT_SEED) -> list[corpus.Example]:
    """Held-out examples of a domain, the same for the same arguments."""
    return list(itertools.islice(corpus.examples(seed, held_out=True, domains=(domain,)), count))


def score(checkpoint: Checkpoint, examples: Sequence[corpus.Example], *, thinking: bool, batch: int = 50) -> float:
    """Share of greedy answers that equal the expected ones, white space aside."""
    right = 0
    for start in range(0, len(examples), batch):
        asked = examples[start : start + batch]
        chats = [example.messages for example in asked]
        answers = generate(checkpoint, chats, thinking=thinking, temperature=0, max_new_tokens=160)
        right += sum(corpus.is_correct(example, answer.text) for example, answer in zip(asked, answers, strict=True))
    return right / len(examples)


def scores(checkpoint: Checkpoint, count: int = 200) -> dict[str, dict[str, float]]:
    """domain -> {"thinking": share right, "direct": share right} on `count` held-out questions each."""
    ways, found = {"thinking": True, "direct": False}, {}
    for domain in corpus.DOMAINS:
        asked = questions(domain, count)
        found[domain] = {name: score(checkpoint, asked, thinking=way) for name, way in ways.items()}
    return found


class Footprints(NamedTuple):
    """How often each expert of each layer was chosen, by domain in the order of corpus.DOMAINS."""

    first: Float[Tensor, "layers domains experts"]  # as the strongest, by the tokens of the questions
    question: Float[Tensor, "layers domains experts"]  # among the top k, by the tokens of the questions
    everything: Float[Tensor, "layers domains experts"]  # among the top k, by all tokens: answers and template too


@torch.inference_mode()
def footprints(checkpoint: Checkpoint, count: int = 100) -> Footprints:
    """Counts of the routers' choices over `count` held-out chats of each domain, with the answers as they should be."""
    found = []
    for domain in corpus.DOMAINS:
        counts = torch.zeros(3, checkpoint.config.num_hidden_layers, checkpoint.config.num_experts, device="cpu")
        for example in questions(domain, count):
            ids, asked = chat_ids(checkpoint, example)
            with trace() as recorded:
                token_ids = torch.tensor([ids], device=checkpoint.device)
                forward(checkpoint.weights, token_ids, checkpoint.config, logits_to_keep=1, ops=checkpoint.ops)
            for call in recorded["moe_route"]:
                experts = call.output.experts.cpu()
                for part, chosen in enumerate((experts[asked, 0], experts[asked], experts)):
                    counts[part, call.layer] += chosen.flatten().bincount(minlength=checkpoint.config.num_experts)
        found.append(counts)
    return Footprints(*torch.stack(found, 2))


def chat_ids(checkpoint: Checkpoint, example: corpus.Example) -> tuple[list[int], slice]:
    """A whole chat, thinking and answer included, and where in it the words of the last question stand."""
    tokenizer = tokenizer_of(checkpoint)
    answer = {"role": "assistant", "content": example.answer, "reasoning_content": example.thinking}
    text = tokenizer.render_chat([*example.messages, answer], add_generation_prompt=False)
    asked = example.messages[-1]["content"]
    before = text.rindex(f"<|im_start|>user\n{asked}<|im_end|>") + len("<|im_start|>user\n")
    start = len(tokenizer.encode(text[:before]))
    return tokenizer.encode(text), slice(start, start + len(tokenizer.encode(asked)))


def prompt_length(checkpoint: Checkpoint, example: corpus.Example) -> int:
    """Tokens of a chat before its thinking and answer."""
    tokenizer = tokenizer_of(checkpoint)
    return len(tokenizer.encode(tokenizer.render_chat(example.messages)))


def answer_ids(checkpoint: Checkpoint, example: corpus.Example) -> tuple[list[int], slice]:
    """The same of its thinking and answer, up to the last token but one: those from which it is said what follows."""
    ids, _ = chat_ids(checkpoint, example)
    return ids, slice(prompt_length(checkpoint, example), len(ids) - 2)


def bits(counts: Float[Tensor, "*batch a b"]) -> Float[Tensor, "*batch"]:
    """Mutual information of rows and columns: how many bits one tells about the other, as often as they occur."""
    joint = counts / counts.sum((-2, -1), keepdim=True)
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.where(joint > 0, joint * (joint / apart).log2(), 0.0).sum((-2, -1))


def mutual_information(counts: Float[Tensor, "layers domains experts"]) -> Float[Tensor, "layers"]:
    """Bits that a token's expert tells about its domain, with each domain weighing the same.

    0: every domain uses the experts alike; log2(domains): the expert gives the domain away.
    """
    return bits(counts / counts.sum(-1, keepdim=True))


def least_share(counts: Float[Tensor, "layers domains experts"]) -> Float[Tensor, "layers"]:
    """The share of a layer's choices that its least used expert gets, over all domains together."""
    each = counts.sum(1)
    return (each / each.sum(-1, keepdim=True)).amin(-1)


class Chats(NamedTuple):
    """Whole chats as one batch, padded on the right, and which of the tokens the model would have written itself."""

    token_ids: Int[Tensor, "chats seq"]
    keep: Bool[Tensor, "chats seq"]
    written: Bool[Tensor, "chats seq"]


def padded_chats(checkpoint: Checkpoint, examples: Sequence[corpus.Example]) -> Chats:
    """The examples with thinking and answer; written is all behind the prompt up to the token that ends the turn."""
    rows = [chat_ids(checkpoint, example)[0] for example in examples]
    prompts = [prompt_length(checkpoint, example) for example in examples]
    tensor = partial(torch.tensor, device=checkpoint.device)
    ends = tensor([len(row) for row in rows])[:, None]
    token_ids = pad_sequence([tensor(row) for row in rows], batch_first=True)
    places = torch.arange(token_ids.shape[1], device=checkpoint.device)
    written = (places >= tensor(prompts)[:, None]) & (places < ends - 1)  # the template ends with a line break
    return Chats(token_ids, places < ends, written)


@torch.inference_mode()
def answer_losses(weights: Weights, config: Config, chats: Chats, ops: Ops = Ops()) -> Float[Tensor, "chats"]:
    """Each chat's mean cross-entropy in nats over the tokens that are to be written, shown the true ones before them.

    The head runs at those tokens only: at all of them its logits would be the largest tensor of the pass.
    """
    x = hidden_states(weights, ops.embed(chats.token_ids, weights.embed_tokens), config, chats.keep, ops=ops)
    before = x[:, :-1][chats.written[:, 1:]][None]  # [1, written, hidden]
    logits = ops.head(before, weights.embed_tokens if weights.lm_head is None else weights.lm_head)[0]
    nats = F.cross_entropy(logits.float(), chats.token_ids[chats.written], reduction="none")
    total = nats.new_zeros(len(chats.token_ids)).index_add(0, chats.written.nonzero()[:, 0], nats)
    return total / chats.written.sum(1)
