"""The routers of notebook A4, trained side by side on the corpus: `python -m qwen3_scratch.tiny.router_trials`.

Every way starts from the same weights and reads the same batches, seed by seed. What is measured goes into
`training/routers.json` beside the embedded checkpoint, a run after the other; a script that was stopped goes on.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from jaxtyping import Bool, Float
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint, tokenizer_of
from ..config import Config
from ..hub.find import embedded_folder
from ..learning.other_routers import capacity_route, in_turn, moe_with_shared, moved_bias, noisy_route
from ..learning.training import Batch, Moment, Plan, make_optimizer, start, train_step, trainable
from ..model import Ops, Route, Weights, moe_route
from ..tokenizer import Tokenizer
from . import corpus
from .evaluate import Chats, answer_losses, padded_chats, questions
from .recipe import make_batch
from .records import as_a_script, begun_record, read_record, small_config, write_record

RECORD = "training/routers.json"
PLAN = Plan(steps=450, learning_rate=5e-3, warmup=40, decay=0.3, balance_weight=0.01)
SEEDS = (0, 1, 2)
ROWS, ROW = 8, 128  # of a batch: rows, and tokens in each
EACH = 10  # held-out questions a domain
SPEED = 0.001  # of the bias, a step
TOP_K = 4
KIND = "record of routers", "router_trials", ("way", "seed", "seconds", "looks", "shares")
FIRST = 20  # steps until the first look, few enough to be repeated

NOTHING, LOSS, NOISE, CAPACITY, BIAS, SOFTMAX_BIAS, SHARED = WAYS = (
    "no balancing", "balancing loss", "noise", "loss and capacity", "moved bias", "moved bias, softmax",
    "loss and shared expert",
)  # fmt: skip
BALANCED = (LOSS, CAPACITY, SHARED)  # those whose loss has the load-balancing term


class State(NamedTuple):
    """All that a way may remember beside the weights: one bias a layer, and where its noise is drawn."""

    biases: tuple[Float[Tensor, "experts"], ...]
    normal: Callable[[Tensor], Tensor]


class Trial(NamedTuple):
    """What all ways of a seed have in common."""

    config: Config
    plan: Plan
    batch_of: Callable[[int, int], Batch]  # of a seed and a step
    asked: Sequence[Chats]  # held out, a batch for each domain


def ops_of(name: str, state: State, limited: Callable[..., Route] = capacity_route) -> Ops:
    """The steps of a way's layers in one pass of training."""
    return {
        NOISE: Ops(route=partial(noisy_route, normal=state.normal)),
        CAPACITY: Ops(route=limited),
        BIAS: Ops(route=in_turn(state.biases)),
        SOFTMAX_BIAS: Ops(route=in_turn(state.biases, partial(torch.softmax, dim=-1))),
        SHARED: Ops(moe=moe_with_shared),
    }.get(name, Ops())


def reading_ops(name: str, state: State) -> Ops:
    """The same when the model is read: without noise, and with room for every choice."""
    return ops_of(name, state._replace(normal=torch.zeros_like), moe_route)


def make_trial(checkpoint: Checkpoint, plan: Plan = PLAN, each: int = EACH) -> Trial:
    """Two layers of 16 narrow experts, top-4, for a checkpoint's tokenizer, and `each` questions of every domain."""
    tokenizer = tokenizer_of(checkpoint)
    asked = [padded_chats(checkpoint, questions(domain, each)) for domain in corpus.DOMAINS]
    return Trial(small_config(tokenizer, TOP_K), plan, cache(partial(batch_of, tokenizer)), asked)


def batch_of(tokenizer: Tokenizer, seed: int, step: int) -> Batch:
    return make_batch(tokenizer, step, seed, ROWS, ROW)


def fitted(name: str, weights: Weights, config: Config) -> tuple[Weights, Config]:
    """The same weights in the form that a way asks for: rows for the noise, zero at first, or one expert of all shared.

    A shared expert is the last of the stack; the router has no row for it, and asks for one expert less.
    """

    def routers(change: Callable[[Tensor], Tensor]) -> Weights:
        layers = (part if part.router is None else part._replace(router=change(part.router)) for part in weights.layers)
        return weights._replace(layers=tuple(layers))

    if name == NOISE:
        return routers(lambda router: torch.cat((router, torch.zeros_like(router)))), config
    if name == SHARED:
        fewer = replace(config, num_experts=config.num_experts - 1, num_experts_per_tok=config.num_experts_per_tok - 1)
        return routers(lambda router: router[:-1].clone()), fewer
    return weights, config


def begun(name: str, config: Config, plan: Plan, seed: int) -> tuple[Moment, Config]:
    """A way's weights, those of every other way of this seed as far as it has the same, and an optimiser."""
    weights, config = fitted(name, start(config, plan, seed).weights, config)
    weights = trainable(weights)
    return Moment(0, weights, make_optimizer(weights, plan), []), config


def noting(ops: Ops, routes: list[Route]) -> Ops:
    """The same steps, which note each route."""

    def route(*args: Any) -> Route:
        routes.append(ops.route(*args))
        return routes[-1]

    return ops._replace(route=route)


def counted(routes: Sequence[Route], keep: Bool[Tensor, "*tokens"]) -> Float[Tensor, "layers experts"]:
    """How many of the tokens that are kept chose each expert; a choice that was dropped is one, too."""
    chosen = ((each.experts[keep.flatten()].flatten(), each.logits.shape[1]) for each in routes)
    return torch.stack([experts.bincount(minlength=total) for experts, total in chosen]).float()


def dropped(routes: Sequence[Route], keep: Bool[Tensor, "*tokens"]) -> float:
    """The share of their choices that weigh nothing."""
    return torch.stack([each.weights.detach()[keep.flatten()] == 0 for each in routes]).float().mean().item()


@torch.no_grad()
def look(
    weights: Weights, config: Config, ops: Callable[[], Ops], asked: Sequence[Chats]
) -> tuple[float, Float[Tensor, "layers experts"]]:
    """Nats a token of held-out answers, each domain weighing the same; each expert's share of its layer's choices."""
    nats, counts = [], []
    for chats in asked:
        routes: list[Route] = []
        nats.append(answer_losses(weights, config, chats, noting(ops(), routes)).mean())
        counts.append(counted(routes, chats.keep))
    total = torch.stack(counts).sum(0)
    return torch.stack(nats).mean().item(), total / total.sum(-1, keepdim=True)


def looks(
    name: str,
    trial: Trial,
    seed: int,
    *,
    training: Callable[[str, State], Ops] = ops_of,
    move: Callable[[Tensor, Tensor, float], Tensor] = moved_bias,
) -> Iterator[dict[str, Any]]:
    """Trains one way. What is seen after `FIRST` steps, after half of them, and at the end.

    `shares` are of the choices when the model is read, `trained` of those in training since the last look.
    """
    moment, config = begun(name, trial.config, trial.plan, seed)
    generator, zeros = torch.Generator().manual_seed(seed), torch.zeros(config.num_experts)
    state = State((zeros,) * len(moment.weights.layers), lambda like: torch.randn(like.shape, generator=generator))
    plan = trial.plan._replace(balance_weight=trial.plan.balance_weight * (name in BALANCED))
    lost: list[float] = []
    trained = nobody = torch.zeros(len(moment.weights.layers), config.num_experts)
    for step in range(plan.steps + 1):
        if step in (FIRST, plan.steps // 2, plan.steps):
            loss, shares = look(moment.weights, config, partial(reading_ops, name, state), trial.asked)
            seen = {"step": step, "loss": loss, "dropped": sum(lost) / max(1, len(lost)), "shares": shares.tolist()}
            yield seen | {"trained": (trained / trained.sum(-1, keepdim=True).clamp(min=1)).tolist()}
            lost, trained = [], nobody  # of training since the last look: what was dropped, by step, and who was chosen
        if step < plan.steps:
            routes: list[Route] = []
            batch, ops = trial.batch_of(seed, step), noting(training(name, state), routes)
            train_step(moment.weights, moment.optimizer, batch, config, plan, step, ops)
            lost.append(dropped(routes, batch.chat >= 0))
            counts = counted(routes, batch.chat >= 0)
            trained = trained + counts
            if name in (BIAS, SOFTMAX_BIAS):
                state = state._replace(biases=tuple(map(move, state.biases, counts, [SPEED] * len(counts))))


# ---- the record --------------------------------------------------------------------------------


def settings_of(plan: Plan) -> dict[str, Any]:
    """What a record was made with."""
    return {"plan": plan._asdict(), "rows": ROWS, "row": ROW, "questions": EACH * len(corpus.DOMAINS), "speed": SPEED}


def read_trials(path: Path) -> dict[str, Any]:
    """The settings and runs of a record. Raises Error where there is none, or it holds something else."""
    return read_record(path, *KIND)


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """A look as the record keeps it: of the shares only the least of each layer."""
    kept = {name: round(found[name], 5) for name in ("step", "loss", "dropped")}
    return kept | {"least": [round(min(layer), 5) for layer in found["shares"]]}


def make(path: Path, trial: Trial, seeds: Sequence[int] = SEEDS) -> None:
    """Trains every way with every seed that the record lacks, and writes it after each run."""
    record = begun_record(path, *KIND, settings_of(trial.plan))
    done = {(run["way"], run["seed"]) for run in record["runs"]}
    for seed, name in ((seed, name) for seed in seeds for name in WAYS if (name, seed) not in done):
        began = time.process_time()
        seen = list(looks(name, trial, seed))
        took = round(time.process_time() - began)
        run = {"way": name, "seed": seed, "seconds": took, "looks": [rounded(each) for each in seen]}
        kept = ("shares", "trained") if name == NOISE else ("shares",)  # in training noise alone chooses otherwise
        run |= {what: [[round(one, 5) for one in layer] for layer in seen[-1][what]] for what in kept}
        record["runs"].append(run)
        write_record(path, record)
        print(f"{name}, seed {seed}: {seen[-1]['loss']:.3f} nats, {took} s", file=sys.stderr, flush=True)


def main(
    path: Annotated[Path | None, typer.Argument(help="Where the record goes.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Fewer give a rehearsal.")] = PLAN.steps,
) -> None:
    """Train the routers of notebook A4 side by side, three seeds each, and write what was measured."""
    with as_a_script():
        trial = make_trial(load_checkpoint("tiny"), PLAN._replace(steps=steps))
        make(path or embedded_folder("tiny") / RECORD, trial)


if __name__ == "__main__":
    typer.run(main)
