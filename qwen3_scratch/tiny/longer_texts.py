"""Texts longer than any that the embedded checkpoint was trained on, for notebook A2: what is asked, and a training.

`python -m qwen3_scratch.tiny.longer_texts` trains the checkpoint on, for some steps on longer rows, with each kind of
rope, and writes what it then costs to answer into `training/longer_texts.json` beside it, a run after the other; a
script that was stopped goes on.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint, tokenizer_of
from ..config import Config
from ..hub.find import embedded_folder
from ..learning.training import Batch, Plan, make_optimizer, train_step, trainable
from ..model import Ops, Weights, gqa_attention, rope_table
from ..tokenizer import Tokenizer
from . import corpus
from .evaluate import Chats, answer_losses, chat_ids, padded_chats, questions
from .recipe import PLAN as FIRST_PLAN
from .recipe import ROW, SEED, make_batch
from .records import as_a_script, begun_record, read_record, write_record

RECORD = "training/longer_texts.json"
FACTOR = 4.0
SLOWED: dict[str, tuple[str, ...]] = {  # what each kind of rope is told, besides theta
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
}
PLAN = Plan(steps=60, learning_rate=1e-3, warmup=10, decay=0.4, weight_decay=0.0)
LOOKS = (0, 5, 10, 20, 40, 60)  # steps after which it is asked
SEEDS = (0,)  # of the batches
ROWS, LONG = 6, 640  # of a batch: rows, and tokens in each
BEFORE, GAP = 512, 512  # tokens of other chats, positions left out
KIND = "record of longer texts", "longer_texts", ("kind", "seed", "looks")
WAYS = ("alone", "behind", "gap")  # in which the same chats are asked

Place = Callable[[Int[Tensor, "chats seq"]], Int[Tensor, "chats seq"]]


def rope_of(config: Config, kind: str, trained: int = ROW) -> Config:
    """The config with one of the kinds of `SLOWED`, for a model that was trained on so many tokens."""
    told = {"factor": FACTOR, "original_max_position_embeddings": trained}
    rope = {"rope_type": kind, "rope_theta": config.rope_theta} | {name: told[name] for name in SLOWED[kind]}
    return replace(config, max_position_embeddings=trained, rope_parameters=rope)


# ---- what is asked -----------------------------------------------------------------------------


def short_stories(checkpoint: Checkpoint, count: int = 24, most: int = 110) -> list[corpus.Example]:
    """The first held-out stories of at most so many tokens, thinking and answer included."""
    told = questions("stories", 80)
    return [chat for chat in told if len(chat_ids(checkpoint, chat)[0]) <= most][:count]


def behind(checkpoint: Checkpoint, chats: Chats, count: int) -> Chats:
    """The same chats, before each of them the last `count` tokens of some twenty other chats of its own."""
    rows = []
    for seed in range(1, len(chats.token_ids) + 1):
        others = itertools.islice(corpus.examples(seed), 20)
        rows.append([token for chat in others for token in chat_ids(checkpoint, chat)[0]][-count:])
    before = torch.tensor(rows, device=checkpoint.device)
    token_ids = torch.cat((before, chats.token_ids), dim=1)
    keep, written = pad(chats.keep, (count, 0), value=True), pad(chats.written, (count, 0), value=False)
    return Chats(token_ids, keep, written)


def jump(chats: Chats, gap: int) -> Place:
    """Numbers a chat's tokens so that its answer begins `gap` positions later than its question ends."""
    begins = chats.written.int().argmax(dim=1)[:, None]
    return lambda order: order + gap * (order >= begins)


def in_pieces(rope: Config, count: int, piece: int = 64) -> Ops:
    """The steps for chats behind `count` tokens, a multiple of `piece`, without a distance that is longer than a piece
    and a chat: each piece of those is numbered from 0 and sees itself alone, the chat is numbered from `piece` on and
    sees all before it."""

    def table(_: Config, order: Int[Tensor, "chats seq"]) -> tuple[Tensor, Tensor]:
        return rope_table(rope, torch.where(order < count, order % piece, order - count + piece))

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        order = torch.arange(q.shape[2], device=q.device)
        same = order[:, None] // piece == order // piece
        return gqa_attention(q, k, v, mask & (same | (order[:, None] >= count)))

    return Ops(table=table, attention=attention)


# ---- trained on --------------------------------------------------------------------------------


def long_batch(tokenizer: Tokenizer, seed: int, step: int) -> Batch:
    """Rows as in the checkpoint's own training, but longer, and each is one text: its chats see those before them."""
    batch = make_batch(tokenizer, FIRST_PLAN.steps + step, SEED + 1 + seed, ROWS, LONG)
    positions = torch.arange(LONG).expand(ROWS, -1)
    return batch._replace(positions=positions, chat=batch.chat.clamp(max=0))


@torch.no_grad()
def look(weights: Weights, config: Config, rope: Config, asked: Mapping[str, Chats]) -> dict[str, list[float]]:
    """Each chat's loss in each of the three ways, in nats a token."""
    found = {}
    for way, chats in asked.items():
        place = jump(chats, GAP if way == "gap" else 0)
        ops = Ops(table=lambda _, order, place=place: rope_table(rope, place(order)))
        found[way] = answer_losses(weights, config, chats, ops)
    return {way: [round(each, 4) for each in losses.tolist()] for way, losses in found.items()}


def looks(checkpoint: Checkpoint, kind: str, seed: int, plan: Plan = PLAN) -> Iterator[dict[str, Any]]:
    """Trains copies of the weights on with a kind of rope; what is seen after each of `LOOKS`."""
    config, rope = checkpoint.config, rope_of(checkpoint.config, kind)
    chats = padded_chats(checkpoint, short_stories(checkpoint, 12))
    asked = dict(zip(WAYS, (chats, behind(checkpoint, chats, BEFORE), chats), strict=True))
    weights = trainable(checkpoint.weights)
    optimizer, ops = make_optimizer(weights, plan), Ops(table=lambda _, order: rope_table(rope, order))
    for step in range(plan.steps + 1):
        if step in LOOKS:
            yield {"step": step} | look(weights, config, rope, asked)
        if step < plan.steps:
            batch = long_batch(tokenizer_of(checkpoint), seed, step)
            train_step(weights, optimizer, batch, config, plan, step, ops)


# ---- the record --------------------------------------------------------------------------------


def settings_of(plan: Plan) -> dict[str, Any]:
    """What a record was made with."""
    return {"plan": plan._asdict(), "rows": ROWS, "row": LONG, "before": BEFORE, "gap": GAP, "looks": list(LOOKS)}


def read_longer(path: Path) -> dict[str, Any]:
    """The settings and runs of a record. Raises Error where there is none, or it holds something else."""
    return read_record(path, *KIND)


def by_kind(record: Mapping[str, Any], way: str) -> dict[str, Float[Tensor, "looks chats"]]:
    """What was measured in one of `WAYS`, by the kind of rope: the mean over seeds."""
    found: dict[str, list[Any]] = {}
    for run in record["runs"]:
        found.setdefault(run["kind"], []).append([seen[way] for seen in run["looks"]])
    return {kind: torch.tensor(seeds).mean(0) for kind, seeds in found.items()}


def make(path: Path, checkpoint: Checkpoint, seeds: Sequence[int] = SEEDS, plan: Plan = PLAN) -> None:
    """Trains with every kind and seed that the record lacks, and writes it after each run."""
    record = begun_record(path, *KIND, settings_of(plan))
    done = {(run["kind"], run["seed"]) for run in record["runs"]}
    for seed, kind in ((seed, kind) for seed in seeds for kind in SLOWED if (kind, seed) not in done):
        seen = list(looks(checkpoint, kind, seed, plan))
        record["runs"].append({"kind": kind, "seed": seed, "looks": seen})
        write_record(path, record)
        last = ", ".join(f"{way} {sum(seen[-1][way]) / len(seen[-1][way]):.3f}" for way in WAYS)
        print(f"{kind}, seed {seed}: {last} nats", file=sys.stderr, flush=True)


def main(path: Annotated[Path | None, typer.Argument(help="Where the record goes.")] = None) -> None:
    """Train the embedded checkpoint on with each kind of rope, and write what was measured."""
    with as_a_script():
        make(path or embedded_folder("tiny") / RECORD, load_checkpoint("tiny"))


if __name__ == "__main__":
    typer.run(main)
