"""ps3: a file, one expert, the choice among them, dispatch and combine, who does the work, counts (01 and 07)."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import model
from ...inside import wrong_steps
from ...model import Route
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded
from .expert_counts import BALANCE_BY_LAYER, EXPERT_LOAD, ROUTER_ENTROPY, SET, chosen_experts
from .parameter_counts import ACTIVE_FROM_SHAPES, NUMBERS_READ
from .weight_files import READ_TENSORS

# ---- expert_ffn ------------------------------------------------------------------------------


def matrices(g: torch.Generator, dim: int, intermediate: int) -> tuple[Tensor, Tensor, Tensor]:
    """gate_proj, up_proj and down_proj, scaled so that numbers stay near 1."""
    gate, up = (2 * randn(g, intermediate, dim) / dim**0.5 for _ in range(2))
    return gate, up, randn(g, dim, intermediate) / intermediate**0.5


def ffn_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        dim = randint(g, 4, 9)
        yield case(randn(g, randint(g, 2, 9), dim), *matrices(g, dim, dim + randint(g, 1, 9)))


def ffn_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(randn(g, 1, 6), *matrices(g, 6, 9), note="one token")
    yield case(randn(g, 0, 6), *matrices(g, 6, 9), note="no token")
    yield case(randn(g, 5, 6), *matrices(g, 6, 6), note="square matrices")
    yield case(randn(g, 5, 8), *matrices(g, 8, 1), note="an intermediate size of 1")
    yield case(50 * randn(g, 5, 8), *matrices(g, 8, 12), note="large numbers")
    yield case(*(part.bfloat16() for part in (randn(g, 5, 8), *matrices(g, 8, 12))), note="bf16")


def ffn_real(seed: int) -> Iterator[Case]:
    for call in recorded("expert_ffn", seed)[::4]:
        yield case(*(value.clone() for value in call.inputs.values()))


def gated(gate: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The expert with another function on the gate."""

    def expert(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
        return F.linear(gate(F.linear(x, gate_proj)) * F.linear(x, up_proj), down_proj)

    return expert


def added(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate_proj)) + F.linear(x, up_proj), down_proj)


def silu_around_both(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate_proj) * F.linear(x, up_proj)), down_proj)


def no_up(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate_proj)), down_proj)


EXPERT_FFN = Exercise(
    "expert_ffn",
    SET,
    model.expert_ffn,
    stages=(
        Stage("random shapes", ffn_shapes),
        Stage("odd configurations", ffn_odd),
        Stage("the real checkpoint's activations", ffn_real),
        trained(ffn_shapes),
    ),
    loose=True,
    mistakes=(
        Mistake("silu belongs on the gate; you have it on up.", wrong_steps.gate_and_up_swapped),
        Mistake("You add gate and up; multiply them.", added),
        Mistake("silu belongs on the gate alone, before it meets up.", silu_around_both),
        Mistake("up is missing: silu(gate) decides how much of it passes.", no_up),
        Mistake("silu is missing: without it the gate is no gate.", gated(lambda gate: gate)),
        Mistake("You use relu; SwiGLU has silu, which has a slope below 0 too.", gated(F.relu)),
        Mistake("You use gelu; SwiGLU has silu.", gated(F.gelu)),
        Mistake("You use gelu; SwiGLU has silu.", gated(lambda gate: F.gelu(gate, approximate="tanh"))),
        Mistake("You use the sigmoid alone; silu(z) is z * sigmoid(z).", gated(torch.sigmoid)),
    ),
    own=(model.expert_ffn,),
)

# ---- moe_route -------------------------------------------------------------------------------


def untied(g: torch.Generator, tokens: int, dim: int, experts: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tokens and a router none of whose logits are equal for a token, so that the choice and its order are certain."""
    while True:
        x, router = (randn(g, size, dim, dtype=dtype) for size in (tokens, experts))
        logits = F.linear(x, router).float().sort(-1).values
        if experts == 1 or (logits.diff(dim=-1) > 1e-3 + 2**-7 * (dtype == torch.bfloat16) * logits[:, 1:].abs()).all():
            return [x, router / dim**0.5]


def route_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(10):
        experts = randint(g, 5, 10)
        yield case(*untied(g, randint(g, 10, 14), randint(g, 4, 9), experts), randint(g, 2, 5), number % 2 == 0)


def route_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for norm in (True, False):
        yield case(*untied(g, 9, 6, 2), 1, norm, note="one of two experts")
        yield case(*untied(g, 7, 6, 5), 5, norm, note="all experts")
        yield case(*untied(g, 1, 6, 4), 2, norm, note="one token")
        yield case(*untied(g, 3, 6, 1), 1, norm, note="one expert")
        yield case(*untied(g, 2, 64, 40), 24, norm, note="24 of 40 experts")
        yield case(*untied(g, 3, 16, 4, torch.bfloat16), 2, norm, note="bf16")


def route_real(seed: int) -> Iterator[Case]:
    for norm in (True, False):
        for call in recorded("moe_route", seed):
            yield case(call.inputs["x"].clone(), call.inputs["router"].clone(), 2, norm)


def route_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):  # one of them is timed well even on a busy machine
        yield case(randn(g, 2000, 16), randn(g, 8, 16), 2, True)


def in_order_of_number(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    route = model.moe_route(x, router, top_k, norm_topk_prob)
    experts, order = route.experts.sort(-1)
    return Route(route.weights.gather(-1, order), experts, route.logits)


def sigmoid_router(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    logits = F.linear(x, router)
    weights, experts = logits.float().sigmoid().topk(top_k)
    return Route((weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights).to(x.dtype), experts, logits)


def softmax_over_tokens(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    logits = F.linear(x, router)
    weights, experts = logits.float().softmax(0).topk(top_k)
    return Route((weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights).to(x.dtype), experts, logits)


def logits_as_weights(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    logits = F.linear(x, router)
    return Route(*logits.topk(top_k), logits)


def normed_over_tokens(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    route = model.moe_route(x, router, top_k, False)
    return route._replace(weights=route.weights / route.weights.sum()) if norm_topk_prob else route


def setting_inverted(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    return model.moe_route(x, router, top_k, not norm_topk_prob)


def left_wide(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    logits = F.linear(x, router)
    weights, experts = logits.float().softmax(-1).topk(top_k)
    return Route(weights / weights.sum(-1, keepdim=True) if norm_topk_prob else weights, experts, logits)


def probabilities_for_logits(x: Tensor, router: Tensor, top_k: int, norm_topk_prob: bool) -> Route:
    route = model.moe_route(x, router, top_k, norm_topk_prob)
    return route._replace(logits=route.logits.softmax(-1))


MOE_ROUTE = Exercise(
    "moe_route",
    SET,
    model.moe_route,
    stages=(
        Stage("random shapes", route_shapes),
        Stage("odd configurations", route_odd),
        Stage("the real checkpoint's activations", route_real),
        trained(route_shapes),
        Stage("at size", route_large, share=0.002, limit=40, advice="softmax and topk work on all tokens at once"),
    ),
    mistakes=(
        Mistake("Your weights do not sum to one, though norm_topk_prob is true: divide them by their sum.",
                wrong_steps.renormalisation_forgotten),
        Mistake("Your weights sum to one, though norm_topk_prob is false: softmax over all experts, keep the k largest "
                "probabilities as they are.", wrong_steps.softmax_over_top_k),
        Mistake("norm_topk_prob works the wrong way round.", setting_inverted),
        Mistake("You keep one expert for each token; keep top_k.", wrong_steps.argmax_expert),
        Mistake("You choose the least likely experts.",
                lambda x, router, top_k, norm_topk_prob: model.moe_route(x, -router, top_k, norm_topk_prob)),
        Mistake("The experts are in the order of their numbers; the likeliest comes first.", in_order_of_number),
        Mistake("You use the sigmoid of each logit; this router has a softmax over all experts.", sigmoid_router),
        Mistake("Your softmax runs over the tokens; it runs over the experts of each token.", softmax_over_tokens),
        Mistake("The weights are logits; take the softmax over all experts first.", logits_as_weights),
        Mistake("You divide by the sum over all tokens; each token's weights sum to one (`keepdim=True`).",
                normed_over_tokens),
        Mistake("The softmax runs in fp32, but the weights return to the type of x.", left_wide),
        Mistake("The third part is the logits, before the softmax.", probabilities_for_logits),
    ),
    own=(model.moe_route,),
    loose=("experts", "logits"),
)  # fmt: skip

# ---- moe -------------------------------------------------------------------------------------


def moe(x: Tensor, weights: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    return model.moe(x, Route(weights, experts, weights), gate_up_proj, down_proj)


def moe_case(g: torch.Generator, tokens: int, num_experts: int, top_k: int, note: str = "") -> Case:
    dim = randint(g, 4, 9)
    made = [matrices(g, dim, dim + 3) for _ in range(num_experts)]
    gate_up = torch.stack([torch.cat((gate, up)) for gate, up, _ in made])
    weights = torch.rand(tokens, top_k, generator=g).sort(descending=True).values / top_k
    experts = chosen_experts(g, tokens, num_experts, top_k)
    return case(randn(g, tokens, dim), weights, experts, gate_up, torch.stack([down for *_, down in made]), note=note)


def moe_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(8):
        yield moe_case(g, randint(g, 10, 15), randint(g, 4, 9), randint(g, 2, 4))


def moe_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield moe_case(g, 9, 2, 1, note="one of two experts")
    yield moe_case(g, 1, 4, 2, note="one token")
    yield moe_case(g, 3, 24, 2, note="most experts without a token")
    yield moe_case(g, 5, 3, 3, note="every token at every expert")
    yield moe_case(g, 6, 1, 1, note="one expert")
    x, weights, _, gate_up, down = moe_case(g, 7, 5, 1).args
    yield case(x, weights, torch.full((7, 1), 4), gate_up, down, note="all tokens at the last expert")
    wide = moe_case(g, 8, 4, 2).args
    yield case(*(part.bfloat16() if part.is_floating_point() else part for part in wide), note="bf16")


def moe_real(seed: int) -> Iterator[Case]:
    for call in recorded("moe", seed):
        x, route, gate_up, down = (call.inputs[name] for name in ("x", "route", "gate_up_proj", "down_proj"))
        yield case(x.clone(), route.weights.clone(), route.experts.clone(), gate_up.clone(), down.clone())


def moe_work(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for tokens, experts, top_k in ((60, 12, 2), (40, 24, 3)):
        yield moe_case(g, tokens, experts, top_k)


def moe_large(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):  # one of them is timed well even on a busy machine
        yield moe_case(g, 400, 2, 2)


def each(x: Tensor, experts: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """The answer of each token's experts [tokens, top_k, dim]."""
    rows = [moe(x, torch.ones_like(x[:, :1]), column[:, None], gate_up_proj, down_proj) for column in experts.T]
    return torch.stack(rows, dim=1)


def weights_on_the_way_in(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    pairs = zip(weights.T, experts.T, strict=True)
    return sum((each(x * w[:, None], e[:, None], gate_up, down)[:, 0] for w, e in pairs), torch.zeros_like(x))


def last_choice_only(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Going through the experts, each writes over what a lower one has written."""
    last = experts.argmax(-1, keepdim=True)
    return moe(x, weights.gather(-1, last), experts.gather(-1, last), gate_up, down)


def first_weight_for_all(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return moe(x, weights[:, :1].expand_as(weights), experts, gate_up, down)


def halves_swapped(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return moe(x, weights, experts, torch.cat(gate_up.chunk(2, dim=1)[::-1], dim=1), down)


def rows_in_turn(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return moe(x, weights, experts, torch.cat((gate_up[:, ::2], gate_up[:, 1::2]), dim=1), down)


def two_experts(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return moe(x, weights * (experts < 2), experts, gate_up, down)


ONCE = "ask each expert once, for the tokens that chose it and no others"
MOE = Exercise(
    "moe",
    SET,
    moe,
    stages=(
        Stage("random routes", moe_shapes),
        Stage("odd configurations", moe_odd),
        Stage("the real checkpoint's activations", moe_real),
        trained(moe_shapes),
        Stage("at size", moe_large, limit=40, advice="loop over the experts, not over the tokens: one call for each"),
        Stage("the work that it takes", moe_work, work=1.5, advice=ONCE, worth=4),  # what the task is about
    ),
    mistakes=(
        Mistake("You weigh what goes in; an expert is not linear, so weigh its answer.", weights_on_the_way_in),
        Mistake("A later expert writes over what an earlier one has given to the same token: add (`index_add_`).",
                last_choice_only),
        Mistake("The weights are missing: multiply each answer by its weight.",
                lambda x, weights, experts, gate_up, down: moe(x, torch.ones_like(weights), experts, gate_up, down)),
        Mistake("You take the first choice alone; add up all top_k of a token.",
                lambda x, weights, experts, gate_up, down: moe(x, weights[:, :1], experts[:, :1], gate_up, down)),
        Mistake("Every answer gets the weight of the first choice; each choice has its own.", first_weight_for_all),
        Mistake("The gate's rows lie above those of up: `gate_up_proj[e].chunk(2)` gives gate first.", halves_swapped),
        Mistake("Gate and up do not take turns: the first half of the rows is the gate's.", rows_in_turn),
        Mistake("You ask experts 0 and 1 only; their number is `len(gate_up_proj)`.", two_experts),
        Mistake("You divide the weights by their sum; the route has decided that already.",
                lambda x, weights, *rest: moe(x, weights / weights.sum(-1, keepdim=True), *rest)),
    ),
    own=(model.moe,),
    loose=True,
)  # fmt: skip

EXERCISES = (
    READ_TENSORS, EXPERT_FFN, MOE_ROUTE, MOE, EXPERT_LOAD, ROUTER_ENTROPY, BALANCE_BY_LAYER, ACTIVE_FROM_SHAPES,
    NUMBERS_READ,
)  # fmt: skip
