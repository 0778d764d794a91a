"""What the balancing loss does: small models trained with several of its weights, from like seeds on like batches.

The file `training/balancing.json` beside the embedded checkpoint holds what was found; `read_runs` gives it back.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..checkpoints.checkpoint import load_checkpoint, tokenizer_of
from ..checkpoints.saving import write_text, writing
from ..config import Config
from ..errors import Error
from ..learning.training import Batch, Plan, losses, start, train_step
from ..model import Weights
from ..tokenizer import Tokenizer
from ..tracing import trace
from .recipe import make_batch

WEIGHTS = (0.0, 0.001, 0.01, 0.03, 0.1, 1.0)  # of the balancing loss; the recipe's is 0.01
SEEDS = 8  # each another beginning and other batches
PLAN = Plan(steps=300, learning_rate=0.01, warmup=12)
ROWS, ROW = 4, 96  # of a batch, and its tokens
FRESH_ROWS = 32  # of the batch that measures
RUNS = "training/balancing.json"


class Runs(NamedTuple):
    """What was measured at the end of each run, on a batch that no run was trained on."""

    weights: list[float]  # of the balancing loss
    nats: Float[Tensor, "weights seeds"]  # cross-entropy per target
    shares: Float[Tensor, "weights seeds layers experts"]  # of the choices in a layer
    setup: dict[str, Any]  # what all runs have in common


def small_config(tokenizer: Tokenizer) -> Config:
    """Two layers of 16 narrow experts, top-2: enough for some to fall idle, and trained within a minute."""
    return Config(
        model_type="qwen3_moe", vocab_size=tokenizer.vocab_size, tie_word_embeddings=True,
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, initializer_range=0.05,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_experts=16, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
    )  # fmt: skip


@torch.no_grad()
def measured(weights: Weights, batch: Batch, config: Config) -> tuple[float, Float[Tensor, "layers experts"]]:
    """Cross-entropy in nats per target, and each expert's share of its layer's choices; padding is left out."""
    with trace() as recorded:
        found = losses(weights, batch, config, balance_weight=0.0)
    kept = (batch.chat >= 0).flatten()
    chosen = [call.output.experts[kept].flatten() for call in recorded["moe_route"]]
    counts = torch.stack([experts.bincount(minlength=config.num_experts) for experts in chosen])
    return found.cross_entropy.item(), counts / counts.sum(-1, keepdim=True)


def setup_of(config: Config, plan: Plan) -> dict[str, Any]:
    """What runs have in common, as JSON gives it back."""
    fresh = {"rows": ROWS, "row": ROW, "fresh_rows": FRESH_ROWS}
    return json.loads(json.dumps({"config": config.to_dict(), "plan": plan._asdict()} | fresh))


def add_runs(path: Path, weights: tuple[float, ...] = WEIGHTS, seeds: int = SEEDS, plan: Plan = PLAN) -> None:
    """Trains with every weight from every seed and notes each run in the file; those that stand there are kept.

    Raises Error where the file holds something else, or runs of another model or plan.
    """
    tokenizer = tokenizer_of(load_checkpoint("tiny"))
    config = small_config(tokenizer)
    setup = setup_of(config, plan)
    noted: dict[str, Any] = contents(path) if path.exists() else {"setup": setup, "runs": []}
    if noted["setup"] != setup:
        raise Error(f"{path}: holds runs of another model or plan, expected those of this one: name another file")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    there = {(run["weight"], run["seed"]) for run in noted["runs"]}
    for seed in tqdm(range(seeds), unit="seed", file=sys.stderr):
        batches = [make_batch(tokenizer, step, seed, ROWS, ROW) for step in range(plan.steps)]
        fresh = make_batch(tokenizer, plan.steps, seeds + seed, FRESH_ROWS, ROW)
        for weight in [one for one in weights if (one, seed) not in there]:
            moment = start(config, plan, seed)
            for step, batch in enumerate(batches):
                train_step(*moment[1:3], batch, config, plan._replace(balance_weight=weight), step)
            nats, shares = measured(moment.weights, fresh, config)
            rounded = [[round(share, 5) for share in layer] for layer in shares.tolist()]
            noted["runs"].append({"weight": weight, "seed": seed, "nats": round(nats, 5), "shares": rounded})
            write_runs(path, noted)


def write_runs(path: Path, noted: dict[str, Any]) -> None:
    """JSON, a run on each line."""
    runs = ",\n".join(map(json.dumps, noted["runs"]))
    write_text(path, f'{{"setup": {json.dumps(noted["setup"])},\n"runs": [\n{runs}\n]}}\n')


def contents(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ = [(run["weight"], run["seed"], run["nats"], run["shares"]) for run in found["runs"]], found["setup"]
        return found
    except Exception as error:
        advice = "make them with python -m qwen3_scratch.tiny.balancing"
        raise Error(f"{path}: holds no runs with balancing weights ({error}): {advice}") from None


def read_runs(path: Path) -> Runs:
    """The runs of a file, ordered by weight and seed. Raises Error where there is none, or it holds something else."""
    found = contents(path)
    runs = sorted(found["runs"], key=lambda run: (run["weight"], run["seed"]))
    weights = sorted({run["weight"] for run in runs})
    try:
        pairs = (torch.tensor([run[name] for run in runs]) for name in ("nats", "shares"))
        nats, shares = (each.unflatten(0, (len(weights), -1)) for each in pairs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Error(f"{path}: lacks runs ({error}), expected every seed with every weight: run it to its end") from None
    return Runs(weights, nats, shares, found["setup"])


def main(folder: Annotated[Path, typer.Argument(help="Of the embedded checkpoint.")] = Path("data/tiny-moe")) -> None:
    """Train small models with several weights of the balancing loss; note the ends (ten minutes of one core)."""
    torch.set_num_threads(1)
    add_runs(folder / RUNS)


if __name__ == "__main__":
    typer.run(main)
