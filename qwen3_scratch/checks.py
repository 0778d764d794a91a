"""What is asked of the arguments of the model's functions, each failure in one sentence, before any computing."""

import torch
from torch import Tensor

from .errors import Error


def check_inputs(
    rows: int,
    token_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    logits_to_keep: int,
) -> None:
    """The arguments of `forward`, for an embedding of so many rows."""
    if (token_ids is None) == (inputs_embeds is None):
        raise Error("forward: expected exactly one of token_ids and inputs_embeds: leave one of them None")
    shape = (token_ids if inputs_embeds is None else inputs_embeds).shape[:2]
    for name, found in (("attention_mask", attention_mask), ("positions", positions)):
        if found is not None and found.shape not in (shape, (1, *shape[1:])):
            raise Error(f"forward: {name} has shape {[*found.shape]}, expected {[*shape]}: one entry a token")
    if logits_to_keep < 0:
        raise Error(f"forward: logits_to_keep is {logits_to_keep}, expected 0 (all) or a count: mend the argument")
    if token_ids is not None:
        check_token_ids(rows, token_ids)


def check_token_ids(rows: int, token_ids: Tensor) -> None:
    """Each id names a row. On a GPU this is not checked, since that would wait for the device."""
    if token_ids.ndim != 2 or token_ids.numel() == 0:
        found = f"shape {[*token_ids.shape]}"
        raise Error(f"forward: token_ids has {found}, expected [batch, seq] with at least one token: check the prompt")
    if token_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = token_ids[(token_ids < 0) | (token_ids >= rows)]
        if len(wrong):
            found = f"token id {int(wrong[0])}"
            raise Error(f"forward: {found} in token_ids, expected 0 to {rows - 1}: check which tokenizer made it")


def check_top_k(top_k: int, experts: int) -> None:
    if not 1 <= top_k <= experts:
        raise Error(f"moe_route: top_k is {top_k}, expected 1 to {experts}, the number of experts: mend the argument")


def heads_per_kv_head(q: Tensor, k: Tensor) -> int:
    """How many query heads share each key/value head, which must come out even."""
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads % kv_heads:
        raise Error(f"attention: q has {heads} heads, expected a multiple of the {kv_heads} of k: check the config")
    return heads // kv_heads
