"""Does upcycling pay? A dense model is trained on, and mixtures made of it: `python -m qwen3_scratch.tiny.upcycled`.

Sparse upcycling in small (Komatsuzaki et al. 2022, arXiv:2212.05055). Seed by seed all ways begin from the same dense
model and read the same batches. What is measured goes into `training/upcycled.json` beside the embedded checkpoint, a
run after the other; a script that was stopped goes on.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import typer

from ..checkpoints.checkpoint import load_checkpoint, tokenizer_of
from ..config import Config
from ..hub.find import embedded_folder
from ..learning.training import Plan, make_optimizer, start, train_step, trainable
from ..learning.upcycling import upcycle
from ..model import Weights
from ..tokenizer import Tokenizer
from . import corpus
from .evaluate import answer_losses, padded_chats, questions
from .records import as_a_script, begun_record, read_record, small_config, write_record
from .router_trials import Trial, batch_of

RECORD = "training/upcycled.json"
PLAN = Plan(steps=400, learning_rate=5e-3, warmup=40, decay=0.3, balance_weight=0.01)  # of both halves
SEEDS = (0, 1, 2)
EACH = 20  # held-out questions a domain
EVERY = 100  # steps from look to look
EXPERTS = 2
KIND = "record of upcycled models", "upcycled", ("way", "seed", "seconds", "looks")

DENSE = "dense, as it is"
WAYS: Mapping[str, Mapping[str, Any]] = MappingProxyType({  # and the options of upcycle
    DENSE: {},
    "top-1, raw": {"top_k": 1, "norm_topk_prob": False},
    "top-1, renormalised": {"top_k": 1},
    "top-2, renormalised": {"top_k": 2},
})  # fmt: skip


def dense_config(tokenizer: Tokenizer) -> Config:
    """Two layers whose feed-forward is as wide as four of the other trials' experts."""
    config = small_config(tokenizer, 1)
    return replace(config, model_type="qwen3", intermediate_size=128, num_experts=0, num_experts_per_tok=0,
                   moe_intermediate_size=0)  # fmt: skip


def make_trial(plan: Plan = PLAN, each: int = EACH) -> Trial:
    """The dense model's config, batches that are kept once made, and `each` held-out questions of every domain."""
    checkpoint = load_checkpoint("tiny")
    tokenizer = tokenizer_of(checkpoint)
    asked = [padded_chats(checkpoint, questions(domain, each)) for domain in corpus.DOMAINS]
    return Trial(dense_config(tokenizer), plan, cache(partial(batch_of, tokenizer)), asked)


def dense_model(trial: Trial, seed: int) -> Weights:
    """The model from which all ways of a seed begin, trained to the end of the plan."""
    moment = start(trial.config, trial.plan, seed)
    for step in range(trial.plan.steps):
        train_step(moment.weights, moment.optimizer, trial.batch_of(seed, step), trial.config, trial.plan, step)
    return moment.weights


def begun(name: str, dense: Weights, config: Config, seed: int) -> tuple[Weights, Config]:
    """The dense model's numbers in the form of a way, as new tensors to be trained."""
    if name != DENSE:
        dense, config = upcycle(dense, config, EXPERTS, seed=seed, **WAYS[name])
    return trainable(dense), config


def expert_distance(weights: Weights) -> float:
    """|expert 0 - expert 1| over the root of their mean square length, a mean over layers; 0 where there are none."""
    found = []
    for layer in weights.layers:
        if layer.router is not None:
            one, two = (
                torch.cat([part[expert].detach().flatten() for part in (layer.gate_up_proj, layer.down_proj)])
                for expert in range(EXPERTS)
            )
            found.append((one - two).norm() / ((one.square().sum() + two.square().sum()) / 2).sqrt())
    return torch.stack(found).mean().item() if found else 0.0


@torch.no_grad()
def loss_of(weights: Weights, config: Config, trial: Trial) -> float:
    """Nats a token of held-out thinking and answers, each domain weighing the same."""
    return torch.stack([answer_losses(weights, config, chats).mean() for chats in trial.asked]).mean().item()


def looks(name: str, trial: Trial, dense: Weights, seed: int, every: int = EVERY) -> Iterator[dict[str, Any]]:
    """Trains one way from the dense model, on batches that it has not read. What is seen every so many steps."""
    weights, config = begun(name, dense, trial.config, seed)
    optimizer, plan = make_optimizer(weights, trial.plan), trial.plan
    for step in range(plan.steps + 1):
        if step % every == 0 or step == plan.steps:
            yield {"step": step, "loss": loss_of(weights, config, trial), "distance": expert_distance(weights)}
        if step < plan.steps:
            train_step(weights, optimizer, trial.batch_of(seed, plan.steps + step), config, plan, step)


# ---- the record --------------------------------------------------------------------------------


def settings_of(plan: Plan, each: int = EACH) -> dict[str, Any]:
    """What a record was made with."""
    return {"plan": plan._asdict(), "questions": each * len(corpus.DOMAINS), "experts": EXPERTS}


def read_upcycled(path: Path) -> dict[str, Any]:
    """The settings and runs of a record. Raises Error where there is none, or it holds something else."""
    return read_record(path, *KIND)


def make(path: Path, trial: Trial, seeds: Sequence[int] = SEEDS) -> None:
    """Trains every way with every seed that the record lacks, and writes it after each run."""
    record = begun_record(path, *KIND, settings_of(trial.plan))
    done = {(run["way"], run["seed"]) for run in record["runs"]}
    for seed in seeds:
        missing = [name for name in WAYS if (name, seed) not in done]
        if not missing:
            continue
        dense = dense_model(trial, seed)
        for name in missing:
            began = time.process_time()
            seen = [{key: round(value, 5) for key, value in each.items()} for each in looks(name, trial, dense, seed)]
            took = round(time.process_time() - began)
            record["runs"].append({"way": name, "seed": seed, "seconds": took, "looks": seen})
            write_record(path, record)
            print(f"{name}, seed {seed}: {seen[-1]['loss']:.3f} nats, {took} s", file=sys.stderr, flush=True)


def main(
    path: Annotated[Path | None, typer.Argument(help="Where the record goes.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Fewer give a rehearsal.")] = PLAN.steps,
) -> None:
    """Train a dense model, and from it mixtures of two copies beside it; write what was measured (ten minutes)."""
    with as_a_script():
        make(path or embedded_folder("tiny") / RECORD, make_trial(PLAN._replace(steps=steps)))


if __name__ == "__main__":
    typer.run(main)
