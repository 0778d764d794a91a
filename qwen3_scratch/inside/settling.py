"""When routes settle while a model is trained: the same tokens, asked again at many steps."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def saturation(
    routes: Int[Tensor, "steps layers tokens top_k"], experts: int
) -> tuple[Float[Tensor, "steps layers tokens"], Float[Tensor, "steps layers"]]:
    """Of each token the share of its experts that it has at the last step, too; and what the loads alone would give.

    Router saturation, as in Muennighoff et al. 2024 (arXiv:2409.02060, section 5.1). By load an expert of a token is
    among its last ones as often as it is among the last ones of any.
    """
    chosen = F.one_hot(routes.long(), experts).sum(3).float()  # [steps, layers, tokens, experts]
    loads, top_k = chosen.mean(2), routes.shape[-1]
    return (chosen * chosen[-1]).sum(-1) / top_k, (loads * loads[-1]).sum(-1) / top_k


def last_change(steps: Int[Tensor, "steps"], first: Int[Tensor, "steps *tokens"]) -> Int[Tensor, "*tokens"]:
    """The first step from which on each token has the expert that it has at the end, as far as was asked."""
    kept = (first == first[-1]).flip(0).cumprod(0).sum(0)
    return steps[len(steps) - kept]
