"""Other ways to route than softmax, top-k and a loss: noise, a capacity, a bias that is moved, a shared expert.

Each takes the place of `route` or `moe` in `Ops`. Notebook A4 builds them in the open, and trains them.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import Error
from ..model import Route, expert_ffn, moe, moe_route


def noisy_route(
    x: Float[Tensor, "tokens dim"],
    router: Float[Tensor, "two_experts dim"],
    top_k: int,
    norm_topk_prob: bool,
    normal: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Route:
    """moe_route by logits with noise on them: gate + normal * softplus(noise), a row of each for every expert.

    `router` holds the gate's rows above those that learn how much noise each expert gets. `normal` draws numbers of
    mean 0 and deviation 1 in the form of what it is given; `torch.zeros_like` reads without noise. Shazeer et al. 2017,
    arXiv:1701.06538, equations 3 to 5. Raises Error for an odd number of rows, or a top_k that exceeds the experts.
    """
    if len(router) % 2:
        raise Error(f"noisy_route: router has {len(router)} rows, expected two an expert: put the noise's below")
    check_top_k("noisy_route", top_k, len(router) // 2)
    gate, noise = router.chunk(2)
    logits = F.linear(x, gate)
    logits = logits + normal(logits) * F.softplus(F.linear(x, noise))
    scores = logits.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
    return route_to(scores.topk(top_k, dim=-1).indices, scores, norm_topk_prob, logits)


def route_to(
    experts: Int[Tensor, "tokens top_k"],
    scores: Float[Tensor, "tokens all_experts"],
    norm_topk_prob: bool,
    logits: Float[Tensor, "tokens all_experts"],
) -> Route:
    """The route to these experts, each weighing its score, made to sum to one if `norm_topk_prob`."""
    weights = scores.gather(1, experts)
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Route(weights.to(logits.dtype), experts, logits)


def check_top_k(where: str, top_k: int, experts: int) -> None:
    if not 1 <= top_k <= experts:
        raise Error(f"{where}: top_k is {top_k}, expected 1 to {experts}, the number of experts: mend it")


def capacity_of(tokens: int, experts: int, top_k: int, factor: int | float) -> int:
    """How many choices an expert serves: `factor` times its even share, at least one. Error: a factor not above 0."""
    if not 0 < factor < math.inf:
        raise Error(f"capacity_of: factor is {factor}, expected a number above 0: 1 is the even share")
    return max(1, math.ceil(factor * tokens * top_k / experts))


def capacity_route(
    x: Float[Tensor, "tokens dim"],
    router: Float[Tensor, "experts dim"],
    top_k: int,
    norm_topk_prob: bool,
    factor: int | float = 1.25,
) -> Route:
    """moe_route, after which each expert serves its first `capacity_of` choices; a choice beyond weighs 0.

    All first choices come before all second ones, each in the order of the tokens, so that what a token gets hangs on
    the others: its second choice on later tokens, too. Lepikhin et al. 2020 (GShard), arXiv:2006.16668; Fedus et al.
    2021 (Switch), arXiv:2101.03961.
    """
    route = moe_route(x, router, top_k, norm_topk_prob)
    most = capacity_of(len(x), len(router), top_k, factor)
    asked = F.one_hot(route.experts.T.flatten(), len(router))  # [top_k * tokens, experts], first choices first
    place = (asked.cumsum(0) * asked).sum(-1)  # 1 for the first who asks an expert, 2 for the second, ...
    served = (place <= most).view(top_k, len(x)).T
    return route._replace(weights=route.weights * served)


def biased_route(
    x: Float[Tensor, "tokens dim"],
    router: Float[Tensor, "experts dim"],
    top_k: int,
    norm_topk_prob: bool,
    bias: Float[Tensor, "experts"],
    score: Callable[[Tensor], Tensor] = torch.sigmoid,
) -> Route:
    """Scores of the logits; the `top_k` largest of score + bias are chosen, and weigh their scores.

    So the bias decides who is asked and never how much an answer counts, and no gradient reaches it. A sigmoid scores
    each expert by itself, as in DeepSeek-V3, arXiv:2412.19437, section 2.1.2. Raises Error for a bias of another
    length, or a top_k out of range.
    """
    if len(bias) != len(router):
        raise Error(f"biased_route: bias has {len(bias)} numbers, expected {len(router)}, one an expert: mend it")
    check_top_k("biased_route", top_k, len(router))
    logits = F.linear(x, router)
    scores = score(logits.to(torch.promote_types(x.dtype, torch.float32)))
    return route_to((scores + bias).topk(top_k, dim=-1).indices, scores, norm_topk_prob, logits)


def moved_bias(
    bias: Float[Tensor, "experts"], counts: Float[Tensor, "experts"], speed: float
) -> Float[Tensor, "experts"]:
    """The bias after a step: `speed` up for an expert that was chosen less than the mean, down for one chosen more.

    Wang et al. 2024 (auxiliary-loss-free load balancing), arXiv:2408.15664, algorithm 1.
    """
    return bias + speed * (counts.mean() - counts).sign()


def in_turn(
    biases: Sequence[Float[Tensor, "experts"]], score: Callable[[Tensor], Tensor] = torch.sigmoid
) -> Callable[..., Route]:
    """`biased_route` for one pass through the model: each sparse layer takes the next bias. Error: there is none."""
    left = iter(biases)

    def route(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
        bias = next(left, None)
        if bias is None:
            raise Error(f"in_turn: {len(biases)} biases, expected one a sparse layer: make it anew for each pass")
        return biased_route(x, router, top_k, norm_topk_prob, bias, score)

    return route


def moe_with_shared(
    x: Float[Tensor, "tokens dim"],
    route: Route,
    gate_up_proj: Float[Tensor, "one_more two_intermediate dim"],
    down_proj: Float[Tensor, "one_more dim intermediate"],
    expert: Callable[..., Tensor] = expert_ffn,
) -> Float[Tensor, "tokens dim"]:
    """moe of all experts but the last, and the last one's answer to every token, which no router weighs.

    The stacks hold one expert more than the router has rows. DeepSeekMoE (Dai et al. 2024), arXiv:2401.06066,
    section 3.2; Qwen1.5-MoE puts a gate before it. Raises Error where the stacks hold another number of experts.
    """
    routed = route.logits.shape[1]
    if len(gate_up_proj) != routed + 1:
        found = f"gate_up_proj holds {len(gate_up_proj)} experts"
        raise Error(f"moe_with_shared: {found}, expected {routed + 1}, those of the router and a shared one: mend it")
    answer = expert(x, *gate_up_proj[-1].chunk(2), down_proj[-1])
    return moe(x, route, gate_up_proj[:-1], down_proj[:-1], expert) + answer
