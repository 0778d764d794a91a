"""The routers of notebook A4, trained side by side on the corpus: `python -m qwen3_scratch.tiny.router_trials`.

Every way starts from the same weights and reads the same batches, seed by seed. What is measured goes into
`training/routers.json` beside the embedded checkpoint, a run after the other; a script that was stopped goes on.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from jaxtyping import Float
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.saving import write_json, writing
from ..checkpoints.weights import tensor_tree
from ..config import Config
from ..errors import Error
from ..hub.find import embedded_folder
from ..learning.other_routers import capacity_route, in_turn, moe_with_shared, moved_bias, noisy_route
from ..learning.training import Batch, Moment, Plan, make_optimizer, start, train_step
from ..model import Ops, Route, Weights
from ..tokenizer import Tokenizer
from . import corpus
from .evaluate import Chats, answer_losses, padded_chats, questions
from .recipe import make_batch

RECORD = "training/routers.json"
PLAN = Plan(steps=800, learning_rate=5e-3, warmup=50, decay=0.3, balance_weight=0.01)
SEEDS = (0, 1, 2)
ROWS, ROW = 8, 128  # of a batch: rows, and tokens in each
EACH = 20  # held-out questions a domain
SPEED = 0.001  # of the bias, a step
FIRST = 20  # steps until the first look, short enough to be repeated


class State(NamedTuple):
    """All that a way may remember beside the weights: one bias a layer, and where the noise is drawn."""

    biases: tuple[Float[Tensor, "experts"], ...]
    normal: Callable[[Tensor], Tensor]


class Way(NamedTuple):
    """One way to route: the steps of its layers in training and in reading, and whether the loss balances it."""

    training: Callable[[State], Ops]
    reading: Callable[[State], Ops]
    balanced: bool


def plain(state: State) -> Ops:
    return Ops()


def noisy(state: State) -> Ops:
    return Ops(route=partial(noisy_route, normal=state.normal))


def quiet(state: State) -> Ops:
    return Ops(route=partial(noisy_route, normal=torch.zeros_like))


def limited(state: State) -> Ops:
    return Ops(route=capacity_route)


def biased(state: State) -> Ops:
    return Ops(route=in_turn(state.biases))


def shared(state: State) -> Ops:
    return Ops(moe=moe_with_shared)


NOTHING, LOSS, NOISE, CAPACITY, BIAS, SHARED = (
    "no balancing", "balancing loss", "noise", "loss and capacity", "moved bias", "loss and shared expert",
)  # fmt: skip
WAYS = {
    NOTHING: Way(plain, plain, False),
    LOSS: Way(plain, plain, True),
    NOISE: Way(noisy, quiet, False),
    CAPACITY: Way(limited, plain, True),
    BIAS: Way(biased, biased, False),
    SHARED: Way(shared, shared, True),
}


def small_config(tokenizer: Tokenizer) -> Config:
    """Two layers of 16 narrow experts, top-4, for the embedded tokenizer."""
    return Config(
        model_type="qwen3_moe", vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=16,
        num_experts_per_tok=4, moe_intermediate_size=32, norm_topk_prob=True, tie_word_embeddings=True,
        initializer_range=0.05,
    )  # fmt: skip


def fitted(name: str, weights: Weights, config: Config) -> tuple[Weights, Config]:
    """The same weights in the form that a way asks for: rows for the noise, zero at first, or one expert of all shared.

    A shared expert is the last of the stack; the router has no row for it, and asks for one expert less.
    """

    def routers(change: Callable[[Tensor], Tensor]) -> Weights:
        layers = (
            layer if layer.router is None else layer._replace(router=change(layer.router)) for layer in weights.layers
        )
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
    for tensor in tensor_tree(weights):
        tensor.detach_().requires_grad_(True)
    return Moment(0, weights, make_optimizer(weights, plan), []), config


def noting(ops: Ops, routes: list[Route]) -> Ops:
    """The same steps, which note each route."""

    def route(*args: Any) -> Route:
        routes.append(ops.route(*args))
        return routes[-1]

    return ops._replace(route=route)


def counted(routes: Sequence[Route], keep: Tensor) -> Float[Tensor, "layers experts"]:
    """How many tokens of those kept chose each expert; a choice that was dropped is one, too."""
    kept = keep.flatten()
    return torch.stack(
        [each.experts[kept].flatten().bincount(minlength=each.logits.shape[1]) for each in routes]
    ).float()


@torch.no_grad()
def look(weights: Weights, config: Config, ops_of: Callable[[], Ops], asked: Sequence[Chats]) -> tuple[float, Tensor]:
    """Nats a token of held-out answers, each domain weighing the same; each expert's share of its layer's choices."""
    nats, counts = [], []
    for chats in asked:
        routes: list[Route] = []
        nats.append(answer_losses(weights, config, chats, noting(ops_of(), routes)).mean())
        counts.append(counted(routes, chats.keep))
    total = torch.stack(counts).sum(0)
    return torch.stack(nats).mean().item(), total / total.sum(-1, keepdim=True)


def looks(
    name: str, config: Config, plan: Plan, seed: int, batch_of: Callable[[int], Batch], asked: Sequence[Chats]
) -> Iterator[dict[str, Any]]:
    """Trains one way. What is seen before the first step, after `FIRST`, and ten times more, the last at the end."""
    moment, config = begun(name, config, plan, seed)
    way, generator = WAYS[name], torch.Generator().manual_seed(seed)
    zeros = tuple(torch.zeros(config.num_experts) for layer in moment.weights.layers if layer.router is not None)
    state = State(zeros, lambda logits: torch.randn(logits.shape, generator=generator))
    plan = plan._replace(balance_weight=plan.balance_weight * way.balanced)
    dropped: list[float] = []
    for step in range(plan.steps + 1):
        if step in (FIRST, plan.steps) or step % max(1, plan.steps // 10) == 0:
            loss, shares = look(moment.weights, config, partial(way.reading, state), asked)
            lost = sum(dropped) / max(1, len(dropped))  # share of the choices since the last look
            yield {"step": step, "loss": loss, "dropped": lost, "shares": shares.tolist()}
            dropped = []
        if step < plan.steps:
            routes: list[Route] = []
            batch = batch_of(step)
            train_step(moment.weights, moment.optimizer, batch, config, plan, step, noting(way.training(state), routes))
            keep = (batch.chat >= 0).flatten()
            dropped.append(torch.cat([route.weights.detach()[keep] == 0 for route in routes]).float().mean().item())
            if name == BIAS:
                moved = (moved_bias(*pair, SPEED) for pair in zip(state.biases, counted(routes, keep), strict=True))
                state = state._replace(biases=tuple(moved))


def settings_of(plan: Plan) -> dict[str, Any]:
    """What a record was made with, as JSON gives it back."""
    return {"plan": plan._asdict(), "rows": ROWS, "row": ROW, "questions": EACH * len(corpus.DOMAINS), "speed": SPEED}


def read_record(path: Path) -> dict[str, Any]:
    """The settings and runs of a record. Raises Error where there is none, or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for run in found["runs"]:
            assert {"way", "seed", "looks", "seconds"} <= run.keys()
        return {"settings": found["settings"], "runs": found["runs"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        said = f"holds no record of routers ({type(error).__name__}: {error})"
        advice = "make it with python -m qwen3_scratch.tiny.router_trials"
        raise Error(f"{path}: {said}, expected settings and runs: {advice}") from None


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """A look as the record keeps it, which says of all shares but the last ones only the least of each layer."""
    return {name: value if name == "step" else round(value, 5) for name, value in found.items() if name != "shares"} | {
        "least": [round(min(layer), 5) for layer in found["shares"]]
    }


def make(path: Path, plan: Plan = PLAN, seeds: Sequence[int] = SEEDS, checkpoint: Checkpoint | None = None) -> None:
    """Trains every way with every seed that the record lacks, and writes it after each run."""
    checkpoint = checkpoint or load_checkpoint("tiny")
    record = read_record(path) if path.exists() else {"settings": settings_of(plan), "runs": []}
    if record["settings"] != settings_of(plan):
        raise Error(f"{path}: is of other settings, expected those of this run: remove the file to start anew")
    done = {(run["way"], run["seed"]) for run in record["runs"]}
    config, asked = small_config(checkpoint.tokenizer), asked_chats(checkpoint)
    for seed in seeds:
        batch_of = cache(partial(make_batch, checkpoint.tokenizer, seed=seed, rows=ROWS, row=ROW))
        for name in (name for name in WAYS if (name, seed) not in done):
            began = time.process_time()
            seen = list(looks(name, config, plan, seed, batch_of, asked))
            took = round(time.process_time() - began)
            run = {"way": name, "seed": seed, "seconds": took, "looks": [rounded(each) for each in seen]}
            record["runs"].append(run | {"shares": [[round(one, 5) for one in layer] for layer in seen[-1]["shares"]]})
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
            print(f"{name}, seed {seed}: {seen[-1]['loss']:.3f} nats, {took} s", file=sys.stderr, flush=True)


def asked_chats(checkpoint: Checkpoint, each: int = EACH) -> list[Chats]:
    """Held-out questions with their answers, a batch for each domain."""
    return [padded_chats(checkpoint, questions(domain, each)) for domain in corpus.DOMAINS]


def main(
    path: Annotated[Path | None, typer.Argument(help="Where the record goes.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Fewer give a rehearsal.")] = PLAN.steps,
) -> None:
    """Train the routers of notebook A4 side by side, three seeds each, and write what was measured."""
    torch.set_num_threads(1)  # products this small gain nothing from a second core
    try:
        make(path or embedded_folder("tiny") / RECORD, PLAN._replace(steps=steps))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    typer.run(main)
