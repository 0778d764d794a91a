"""Logits -> the next token: penalties, temperature, top-k, top-p, min-p, and a draw that one number decides."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import fits
from .errors import Error, shown

NOT_FINITE = -1  # stands for a token where the logits are NaN or infinite
LEAST, MOST = 1e-30, 1e30  # what a number beyond is taken for: in fp32 it would be 0 or infinite, and 0 / 0 is none


class Sampling(NamedTuple):
    """How the next token is chosen. The defaults change nothing; temperature 0 takes the most likely token."""

    temperature: float = 1.0
    top_k: int = 0  # keep so many of the most likely; 0 keeps all
    top_p: float = 1.0  # keep the most likely until their probabilities reach this sum
    min_p: float = 0.0  # keep what is at least this share of the most likely
    repetition_penalty: float = 1.0  # above 1 makes tokens of the prompt and the answer less likely
    presence_penalty: float = 0.0  # taken off the logit of each token that the answer has already
    frequency_penalty: float = 0.0  # the same, as often as the answer has the token


RANGES = {
    "temperature": (lambda value: value >= 0, "a number, 0 (greedy) or more"),
    "top_k": (lambda value: value >= 0, "a whole number, 0 (off) or more"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "a number between 0 and 1"),
    "repetition_penalty": (lambda value: value > 0, "a number above 0, where 1 changes nothing"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "a number between -2 and 2, where 0 changes nothing"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "a number between -2 and 2, where 0 changes nothing"),
}


def check_sampling(sampling: Sampling) -> Sampling:
    """The same settings in Python's own numbers, if each is within its range; Error names the first that is not."""
    found = Sampling(*map(own_number, sampling))
    for name, (holds, expected) in RANGES.items():
        value = getattr(found, name)
        if not fits(value, int if name == "top_k" else float) or not holds(value):
            given = shown(getattr(sampling, name))
            raise Error(f"{name} is {given}, expected {expected}: mend the argument or generation_config.json")
    return found


def check_generation_config(values: dict[str, Any]) -> None:
    """The kinds of the entries of generation_config.json that are used: the settings, ends, do_sample."""
    for name in Sampling._fields:
        found = values.get(name)
        if found is not None and not fits(found, float):
            raise Error(f"{name} is {shown(found)}, expected a finite number: mend generation_config.json")
    ends = values.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else ends
    listed = ends if isinstance(ends, tuple) else () if ends is None else (ends,)
    if not all(fits(end, int) and end >= 0 for end in listed):
        expected = "a token id, a list of token ids or null"
        raise Error(f"eos_token_id is {shown(ends)}, expected {expected}: mend generation_config.json")
    if type(values.get("do_sample")) not in (bool, type(None)):
        found = shown(values["do_sample"])
        raise Error(f"do_sample is {found}, expected true or false: mend generation_config.json")


def own_number(value: Any) -> Any:
    """A number of numpy's, torch's or another library's as Python's own int or float; what is no number as it is."""
    try:
        found = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(found, Real) and not isinstance(found, bool | int | float):
            return int(found) if isinstance(found, Integral) else float(found)
    except (RuntimeError, OverflowError):  # a tensor that holds nothing; a fraction beyond all floats
        return value
    return found


def within_fp32(number: int | float) -> float:
    return float(min(max(number, LEAST), MOST))


def widened(logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
    """In fp32, or fp64 where they are already."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def penalise_repetition(
    logits: Float[Tensor, "batch vocab"], seen: Bool[Tensor, "batch vocab"], penalty: int | float
) -> Float[Tensor, "batch vocab"]:
    """Divides the positive and multiplies the negative logits of each row's seen tokens (arXiv:1909.05858)."""
    penalty, largest = within_fp32(penalty), torch.finfo(logits.dtype).max
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty).clamp(-largest, largest)
    return torch.where(seen, penalised, logits)


def penalise_counts(
    logits: Float[Tensor, "batch vocab"],
    counts: Int[Tensor, "batch vocab"],
    presence: int | float,
    frequency: int | float,
) -> Float[Tensor, "batch vocab"]:
    """Takes `presence` off the logit of each token that its row's answer has, and `frequency` once for each time.

    `counts` are of generated tokens alone, not of the prompt's, as OpenAI's API defines both penalties ("Frequency and
    presence penalties" of its guide) and vLLM computes them (`apply_penalties`), after the repetition penalty.
    """
    return logits - presence * (counts > 0) - frequency * counts


def probabilities(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float[Tensor, "batch vocab"]:
    """The distribution that is drawn from: temperature first, then top-k, top-p and min-p, each on what is left.

    top-p: Holtzman et al. 2019, arXiv:1904.09751. min-p: arXiv:2407.01082.
    """
    logits = widened(logits)
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    # Less the largest, none can become infinite but those that are never drawn.
    logits = (logits - logits.amax(-1, keepdim=True)) / within_fp32(sampling.temperature)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= within_fp32(sampling.top_p)  # the sum before a token already suffices
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
    counts: Int[Tensor, "batch vocab"] | None = None,
) -> Int[Tensor, "batch"]:
    """The next token of each row, never one that is `barred`; `NOT_FINITE` where the largest logit is NaN or infinite.

    `seen` are the tokens that a repetition penalty concerns, `counts` how often each is in the answer, for the other
    two penalties, and `uniform` one number between 0 and 1 a row, for the draw; without penalties and at temperature 0
    they may be None. Nothing here waits for a value of the device.
    """
    finite = logits.amax(dim=-1).isfinite()
    if sampling.repetition_penalty != 1.0:
        assert seen is not None
        logits = penalise_repetition(widened(logits), seen, sampling.repetition_penalty)
    if sampling.presence_penalty or sampling.frequency_penalty:
        assert counts is not None
        logits = penalise_counts(widened(logits), counts, sampling.presence_penalty, sampling.frequency_penalty)
    logits = logits.masked_fill(barred, -torch.inf)
    if sampling.temperature == 0:
        found = widened(logits).argmax(dim=-1)  # of bf16 it takes four times as long
    else:
        assert uniform is not None
        found = draw(probabilities(logits, sampling), uniform)
    return torch.where(finite, found, NOT_FINITE)
