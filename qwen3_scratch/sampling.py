"""Logits -> the next token: penalty, temperature, top-k, top-p, min-p, and a draw that one number decides."""

import math
from numbers import Integral, Real
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import Error, shown

NOT_FINITE = -1  # stands for a token where the logits are NaN or infinite
COLDEST = 1e-30  # a lower temperature would divide past the largest number of fp32, and infinity - infinity is none


class Sampling(NamedTuple):
    """How the next token is chosen. The defaults change nothing; temperature 0 takes the most likely token."""

    temperature: float = 1.0
    top_k: int = 0  # keep so many of the most likely; 0 keeps all
    top_p: float = 1.0  # keep the most likely until their probabilities reach this sum
    min_p: float = 0.0  # keep what is at least this share of the most likely
    repetition_penalty: float = 1.0  # above 1 makes tokens of the prompt and the answer less likely


def check_sampling(sampling: Sampling) -> Sampling:
    """The same settings, if each is within its range; Error names the first that is not."""
    for name, holds, expected in (
        ("temperature", lambda value: 0 <= value < math.inf, "a number, 0 (greedy) or more"),
        ("top_k", lambda value: value >= 0 and isinstance(value, Integral), "a whole number, 0 (off) or more"),
        ("top_p", lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
        ("min_p", lambda value: 0 <= value <= 1, "a number between 0 and 1"),
        ("repetition_penalty", lambda value: 0 < value < math.inf, "a number above 0, where 1 changes nothing"),
    ):
        found = getattr(sampling, name)
        if not isinstance(found, Real) or isinstance(found, bool) or not holds(found):
            raise Error(f"{name} is {shown(found)}, expected {expected}: mend the argument or generation_config.json")
    return sampling


def penalise_repetition(
    logits: Float[Tensor, "batch vocab"], seen: Bool[Tensor, "batch vocab"], penalty: int | float
) -> Float[Tensor, "batch vocab"]:
    """Divides the positive and multiplies the negative logits of each row's seen tokens (arXiv:1909.05858)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def probabilities(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float[Tensor, "batch vocab"]:
    """The distribution that is drawn from: temperature first, then top-k, top-p and min-p, each on what is left.

    top-p: Holtzman et al. 2019, arXiv:1904.09751. min-p: arXiv:2407.01082.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / max(sampling.temperature, COLDEST)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the sum before a token already suffices
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter_(1, order, beyond), -torch.inf)
    found = logits.softmax(-1)
    if sampling.min_p > 0:
        found = found.masked_fill(found < sampling.min_p * found.amax(-1, keepdim=True), 0.0)
        found = found / found.sum(-1, keepdim=True)
    return found


def draw(probability: Float[Tensor, "batch vocab"], uniform: Float[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """The token in whose stretch of the cumulative distribution a number between 0 and 1 falls.

    The number comes in from outside, so that the draw is a pure function: the same number gives the same token on
    any device and in a batch of any size.
    """
    reached = probability.double().cumsum(-1)
    target = uniform.double()[:, None].to(reached.device) * reached[:, -1:]
    found = torch.searchsorted(reached, target, right=True)[:, 0]
    last = (probability > 0).long().mul(torch.arange(probability.shape[-1], device=reached.device)).amax(-1)
    return torch.minimum(found, last)


def choose(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    barred: Bool[Tensor, "vocab"],
    seen: Bool[Tensor, "batch vocab"] | None = None,
    uniform: Float[Tensor, "batch"] | None = None,
) -> Int[Tensor, "batch"]:
    """The next token of each row, never one that is `barred`; `NOT_FINITE` where the largest logit is NaN or infinite.

    `seen` are the tokens that a repetition penalty concerns, `uniform` one number between 0 and 1 a row, for the draw;
    without a penalty and at temperature 0 they may be None. Nothing here waits for a value of the device.
    """
    finite = logits.amax(dim=-1).isfinite()
    logits = logits.masked_fill(barred, -torch.inf)
    if sampling.repetition_penalty != 1.0:
        assert seen is not None
        logits = penalise_repetition(logits.float(), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        found = logits.float().argmax(dim=-1)  # of bf16 it takes four times as long
    else:
        assert uniform is not None
        found = draw(probabilities(logits, sampling), uniform)
    return torch.where(finite, found, NOT_FINITE)
