"""What mistakes cost by checks that are often made: two traces of a text, the answers that are left, random weights.

Each mistake stands in the setting in which it shows, and the right model in the same; in `unseen`, in those given.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..checkpoints.weights import init_weights
from ..config import Config
from ..model import Weights, forward
from ..tiny import corpus
from ..tracing import Trace, trace
from .compare import Forward, agreement, read, write
from .mistakes import MISTAKES, Mistake, Setting

SMALL: dict[str, Any] = {"hidden_size": 64, "vocab_size": 512, "intermediate_size": 64, "moe_intermediate_size": 64}


class Reading(NamedTuple):
    """What a model made of a text."""

    logits: Float[Tensor, "seq vocab"]
    trace: Trace  # of all passes


def read_both(
    mistake: Mistake, weights: Weights, token_ids: Int[Tensor, "1 seq"], config: Config, asked: int = 0
) -> tuple[Reading, Reading]:
    """A text as the right and the wrong model read it.

    Where the setting has several passes, the first of them reads `asked` tokens; 0: as many as the setting says.
    """
    changed, way = replace(config, **mistake.shows_in.config), mistake.shows_in.way
    if asked and way.first != 1:
        way = way._replace(first=asked / token_ids.shape[1])
    with trace() as right:
        logits = read(forward, weights, token_ids, changed, way)[0]
    with trace(*mistake.steps) as wrong:
        others = read(mistake.forward, weights, token_ids, changed, way)[0]
    return Reading(logits, right), Reading(others, wrong)


def answered(
    checkpoint: Checkpoint, examples: Sequence[corpus.Example], count: int = 34
) -> tuple[Bool[Tensor, "mistakes questions"], Bool[Tensor, "mistakes questions"]]:
    """Which questions the right model answers rightly, and which a wrong one does; greedy, up to `count` tokens."""
    tokenizer = tokenizer_of(checkpoint)
    prompts = [tokenizer.encode(tokenizer.render_chat(example.messages)) for example in examples]

    def told(model: Callable[..., Tensor], config: Config) -> Bool[Tensor, "questions"]:
        written = write(model, checkpoint.weights, prompts, config, count, config.eos_token_ids)
        texts = [tokenizer.decode(ids).split("</think>")[-1] for ids in written]
        return torch.tensor([corpus.is_correct(*pair) for pair in zip(examples, texts, strict=True)])

    right: dict[str, Tensor] = {}  # by setting
    pairs = []
    for mistake in MISTAKES.values():
        changed = replace(checkpoint.config, **mistake.shows_in.config)
        if str(changed) not in right:
            right[str(changed)] = told(forward, changed)
        pairs.append((right[str(changed)], told(mistake.forward, changed)))
    first, second = zip(*pairs, strict=True)
    return torch.stack(first), torch.stack(second)


def on_random_weights(
    config: Config, seeds: int, spread: float = 0.02, length: int = 40
) -> tuple[Float[Tensor, "mistakes seeds"], Float[Tensor, "mistakes seeds"]]:
    """Small models with random weights of this spread: what share of next tokens agrees, and how far a logit is off.

    The latter is of the logit that is furthest off, in parts of the largest.
    """
    found = torch.zeros(2, len(MISTAKES), seeds)
    for seed in range(seeds):
        small = _small(config, seed, spread, length)
        for number, mistake in enumerate(MISTAKES.values()):
            one, two = (small.read(each, mistake.shows_in) for each in (forward, mistake.forward))
            found[0, number, seed] = agreement(one, two).float().mean()
            found[1, number, seed] = _off(one, two)
    return found[0], found[1]


def unseen(settings: Sequence[Setting], config: Config, bound: float = 1e-4, length: int = 24) -> list[str]:
    """The mistakes that none of these settings shows on a small model with random weights, by name.

    A setting, which leaves all shapes as they are, shows one where a logit is off by more than `bound` of the largest.
    """
    small, left = _small(config, 0, 0.02, length), list(MISTAKES)
    for setting in settings:
        right = small.read(forward, setting)
        left = [name for name in left if _off(right, small.read(MISTAKES[name].forward, setting)) <= bound]
    return left


class _Small(NamedTuple):
    """A small model with random weights, and a text for it."""

    config: Config
    weights: Weights
    token_ids: Int[Tensor, "1 seq"]

    def read(self, model: Forward, setting: Setting) -> Float[Tensor, "seq vocab"]:
        return read(model, self.weights, self.token_ids, replace(self.config, **setting.config), setting.way)[0]


def _small(config: Config, seed: int, spread: float, length: int) -> _Small:
    small = replace(config, **SMALL, pad_token_id=None, initializer_range=spread, dtype="float32")
    token_ids = torch.randint(512, (1, length), generator=torch.Generator().manual_seed(seed))
    return _Small(small, init_weights(small, seed=seed), token_ids)


def _off(right: Float[Tensor, "seq vocab"], wrong: Float[Tensor, "seq vocab"]) -> float:
    return float((wrong - right).abs().max() / right.abs().max())
