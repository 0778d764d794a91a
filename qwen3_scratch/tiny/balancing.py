"""What the balancing loss does: small models trained with several of its weights, from like seeds on like batches.

The file `training/balancing.json` beside the embedded checkpoint holds what was found; `read_runs` gives it back.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..checkpoints.checkpoint import load_checkpoint, tokenizer_of
from ..config import Config
from ..errors import Error
from ..learning.training import Batch, Plan, losses, start, train_step
from ..model import Weights
from ..tracing import trace
from .recipe import make_batch
from .records import begun_record, read_record, small_config, write_record

WEIGHTS = (0.0, 0.001, 0.01, 0.03, 0.1, 1.0)  # of the balancing loss; the recipe's is 0.01
SEEDS = 8  # each another beginning and other batches
PLAN = Plan(steps=300, learning_rate=0.01, warmup=12)
ROWS, ROW = 4, 96  # of a batch, and its tokens
FRESH_ROWS = 32  # of the batch that measures
RUNS = "training/balancing.json"
TOP_K = 2
KIND = "runs with balancing weights", "balancing", ("weight", "seed", "nats", "shares")


class Runs(NamedTuple):
    """What was measured at the end of each run, on a batch that no run was trained on."""

    weights: list[float]  # of the balancing loss
    nats: Float[Tensor, "weights seeds"]  # cross-entropy per target
    shares: Float[Tensor, "weights seeds layers experts"]  # of the choices in a layer
    settings: dict[str, Any]  # what all runs have in common


@torch.no_grad()
def measured(weights: Weights, batch: Batch, config: Config) -> tuple[float, Float[Tensor, "layers experts"]]:
    """Cross-entropy in nats per target, and each expert's share of its layer's choices; padding is left out."""
    with trace() as recorded:
        found = losses(weights, batch, config, balance_weight=0.0)
    kept = (batch.chat >= 0).flatten()
    chosen = [call.output.experts[kept].flatten() for call in recorded["moe_route"]]
    counts = torch.stack([experts.bincount(minlength=config.num_experts) for experts in chosen])
    return found.cross_entropy.item(), counts / counts.sum(-1, keepdim=True)


def settings_of(config: Config, plan: Plan) -> dict[str, Any]:
    """What runs have in common."""
    fresh = {"rows": ROWS, "row": ROW, "fresh_rows": FRESH_ROWS}
    return {"config": config.to_dict(), "plan": plan._asdict()} | fresh


def add_runs(path: Path, weights: tuple[float, ...] = WEIGHTS, seeds: int = SEEDS, plan: Plan = PLAN) -> None:
    """Trains with every weight from every seed and notes each run in the file; those that stand there are kept.

    Raises Error where the file holds something else, or runs of another model or plan.
    """
    tokenizer = tokenizer_of(load_checkpoint("tiny"))
    config = small_config(tokenizer, TOP_K)
    record = begun_record(path, *KIND, settings_of(config, plan))
    there = {(run["weight"], run["seed"]) for run in record["runs"]}
    for seed in tqdm(range(seeds), unit="seed", file=sys.stderr):
        batches = [make_batch(tokenizer, step, seed, ROWS, ROW) for step in range(plan.steps)]
        fresh = make_batch(tokenizer, plan.steps, seeds + seed, FRESH_ROWS, ROW)
        for weight in [one for one in weights if (one, seed) not in there]:
            moment = start(config, plan, seed)
            for step, batch in enumerate(batches):
                train_step(*moment[1:3], batch, config, plan._replace(balance_weight=weight), step)
            nats, shares = measured(moment.weights, fresh, config)
            rounded = [[round(share, 5) for share in layer] for layer in shares.tolist()]
            record["runs"].append({"weight": weight, "seed": seed, "nats": round(nats, 5), "shares": rounded})
            write_record(path, record)


def read_runs(path: Path) -> Runs:
    """The runs of a file, ordered by weight and seed. Raises Error where there is none, or it holds something else."""
    found = read_record(path, *KIND)
    runs = sorted(found["runs"], key=lambda run: (run["weight"], run["seed"]))
    weights = sorted({run["weight"] for run in runs})
    try:
        pairs = (torch.tensor([run[name] for run in runs]) for name in ("nats", "shares"))
        nats, shares = (each.unflatten(0, (len(weights), -1)) for each in pairs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Error(f"{path}: lacks runs ({error}), expected every seed with every weight: run it to its end") from None
    return Runs(weights, nats, shares, found["settings"])


def main(folder: Annotated[Path, typer.Argument(help="Of the embedded checkpoint.")] = Path("data/tiny-moe")) -> None:
    """Train small models with several weights of the balancing loss; note the ends (ten minutes of one core)."""
    torch.set_num_threads(1)
    add_runs(folder / RUNS)


if __name__ == "__main__":
    typer.run(main)
