"""Does it matter which expert a token goes to? A dense model is tuned on two domains apart, and both become experts.

Branch-Train-MiX in small (Sukhbaatar et al. 2024, arXiv:2403.07816), with feed-forwards alone tuned. The file
`training/branches.json` beside the embedded checkpoint holds what was found; `read_branches` gives it back.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ..checkpoints.checkpoint import load_checkpoint, tokenizer_of
from ..checkpoints.saving import write_json, writing
from ..config import Config
from ..learning.training import Batch, losses
from ..learning.upcycling import mix, side_by_side, upcycle
from ..model import Weights, forward
from ..tokenizer import Tokenizer
from ..tracing import trace
from . import corpus
from .evaluate import HELD_OUT_SEED, Chats, answer_losses
from .recipe import prompt_and_target
from .records import UNREADABLE, no_record

DOMAINS = ("spanish", "facts")  # whoever is tuned on one forgets the other
BRANCHES = "training/branches.json"


class Setup(NamedTuple):
    """How much is done; the same for all runs of a record."""

    seeds: int = 8  # random routers
    steps: int = 80  # of tuning, each on `chats` chats
    rate: float = 5e-3
    router_steps: int = 30
    router_rate: float = 0.02
    chats: int = 12
    asked: int = 48  # held-out chats of a domain


class Branches(NamedTuple):
    """Mean cross-entropy of answers, in nats a token, on the held-out chats of each domain."""

    domains: list[str]
    dense: Float[Tensor, "domains chats"]  # before
    both: Float[Tensor, "domains chats"]  # tuned on both domains, for as many steps as the two experts together
    experts: Float[Tensor, "experts domains chats"]  # each tuned on one
    random: Float[Tensor, "seeds domains"]  # both experts under a random router, one of them for each token
    trained: Float[Tensor, "seeds domains"]  # the same routers after training
    all_answer: Float[Tensor, "seeds domains"]  # those, as they were trained: every expert answers every token
    to_own: Float[Tensor, "2 seeds layers domains"]  # share of tokens that go to the domain's own expert, then and now
    by_right: Float[Tensor, "2 seeds domains right 2"]  # tokens of answers, and their nats in sum: `by_right_choices`
    setup: Setup


def dense_start() -> tuple[Weights, Config, Tokenizer]:
    """The embedded checkpoint's experts side by side: a dense model that has forgotten half of what they knew."""
    tiny = load_checkpoint("tiny")
    share = tiny.config.num_experts_per_tok / tiny.config.num_experts
    return *side_by_side(tiny.weights, tiny.config, share), tokenizer_of(tiny)


def answered(tokenizer: Tokenizer, domains: tuple[str, ...], count: int, seed: int, held_out: bool = False) -> Batch:
    """Chats answered without thinking, one a row; only the tokens of answers are targets."""
    chosen = islice(corpus.examples(seed, domains=domains, held_out=held_out), count)
    pairs = [prompt_and_target(tokenizer, example, False) for example in chosen]
    ids = pad_sequence([torch.tensor(asked + answer) for asked, answer in pairs], batch_first=True)
    start, end = torch.tensor([(len(asked), len(asked + answer)) for asked, answer in pairs]).T[..., None]
    at = torch.arange(ids.shape[1]).expand_as(ids)
    return Batch(ids, at, torch.where(at < end, 0, -1), ((at >= start) & (at < end)).float())


def exam(tokenizer: Tokenizer, domain: str, count: int) -> Chats:
    batch = answered(tokenizer, (domain,), count, HELD_OUT_SEED, held_out=True)
    return Chats(batch.token_ids, batch.chat >= 0, batch.loss_weights > 0)


def tuned(
    weights: Weights, config: Config, tokenizer: Tokenizer, domains: tuple[str, ...], steps: int, setup: Setup
) -> Weights:
    """The dense model with its feed-forwards trained on these domains, at a rate that rises for ten steps and falls."""
    layers = [
        layer._replace(
            gate_up_proj=layer.gate_up_proj.detach().clone().requires_grad_(),
            down_proj=layer.down_proj.detach().clone().requires_grad_(),
        )
        for layer in weights.layers
    ]
    learned = [tensor for layer in layers for tensor in (layer.gate_up_proj, layer.down_proj)]
    optimizer = torch.optim.Adam(learned, lr=setup.rate)
    model = weights._replace(layers=tuple(layers))
    for step in tqdm(range(steps), desc=" and ".join(domains), unit="step"):
        optimizer.param_groups[0]["lr"] = setup.rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        optimizer.zero_grad()
        losses(model, answered(tokenizer, domains, setup.chats, step), config, 0.0).total.backward()
        optimizer.step()
    for tensor in learned:
        tensor.requires_grad_(False)
    return model


def train_routers(weights: Weights, config: Config, tokenizer: Tokenizer, setup: Setup) -> Weights:
    """The mixture with its routers trained on both domains. All experts answer meanwhile (`config` asks for all).

    With one renormalised weight, which is 1 whatever the router says, there would be no gradient.
    """
    layers = tuple(
        layer._replace(router=None if layer.router is None else layer.router.clone().requires_grad_())
        for layer in weights.layers
    )
    model = weights._replace(layers=layers)
    routers = [layer.router for layer in layers if layer.router is not None]
    optimizer = torch.optim.Adam(routers, lr=setup.router_rate)
    for step in range(setup.router_steps):
        optimizer.zero_grad()
        batch = answered(tokenizer, DOMAINS, setup.chats, 10_000 + step)
        losses(model, batch, config, 0.0).total.backward()
        optimizer.step()
    for router in routers:
        router.requires_grad_(False)
    return model


@torch.no_grad()
def own_shares(weights: Weights, config: Config, exams: list[Chats]) -> Float[Tensor, "layers domains"]:
    """The share of each domain's tokens that each layer sends to the expert with the domain's number."""
    found = []
    for own, chats in enumerate(exams):
        with trace() as recorded:
            forward(weights, chats.token_ids, config, attention_mask=chats.keep, logits_to_keep=1)
        kept = chats.keep.flatten()
        found.append([(call.output.experts[kept, 0] == own).float().mean() for call in recorded["moe_route"]])
    return torch.tensor(found).T


@torch.no_grad()
def by_right_choices(weights: Weights, config: Config, exams: list[Chats]) -> Float[Tensor, "domains right 2"]:
    """Tokens of answers and the nats that they lose in sum, by how many layers chose rightly when they were said.

    Rightly: the token before went to the domain's own expert, which has the domain's number.
    """
    found = []
    for own, chats in enumerate(exams):
        with trace() as recorded:
            logits = forward(weights, chats.token_ids, config, attention_mask=chats.keep)[:, :-1]
        said = chats.written[:, 1:]
        nats = F.cross_entropy(logits[said], chats.token_ids[:, 1:][said], reduction="none")
        chosen = [call.output.experts[:, 0].view(chats.keep.shape)[:, :-1][said] for call in recorded["moe_route"]]
        right = (torch.stack(chosen) == own).sum(0)
        counts = right.bincount(minlength=len(chosen) + 1), right.bincount(nats, minlength=len(chosen) + 1)
        found.append(torch.stack(counts, dim=-1).float())
    return torch.stack(found)


def run(path: Path, setup: Setup) -> None:
    """Tunes, mixes and measures, and writes the record."""
    start, config, tokenizer = dense_start()
    exams = [exam(tokenizer, domain, setup.asked) for domain in DOMAINS]

    def nats(weights: Weights, config: Config = config) -> list[list[float]]:
        found = [answer_losses(weights, config, chats).tolist() for chats in exams]
        return [[round(one, 5) for one in line] for line in found]

    experts = [tuned(start, config, tokenizer, (domain,), setup.steps, setup) for domain in DOMAINS]
    both = tuned(start, config, tokenizer, DOMAINS, len(DOMAINS) * setup.steps, setup)
    record = {"setup": setup._asdict(), "domains": DOMAINS, "dense": nats(start), "both": nats(both)}
    record["experts"] = [nats(expert) for expert in experts]
    record["routers"] = routers = []
    for seed in tqdm(range(setup.seeds), unit="router"):
        newborn, config_of_all = upcycle(start, config, len(experts), top_k=len(experts), seed=seed)
        _, config_of_one = upcycle(start, config, len(experts))
        mixture, found = mix(newborn, experts), {"seed": seed}
        trained = train_routers(mixture, config_of_all, tokenizer, setup)
        for name, model in {"random": mixture, "trained": trained}.items():
            means = [sum(line) / len(line) for line in nats(model, config_of_one)]
            found[name] = [round(mean, 5) for mean in means]
            shares = own_shares(model, config_of_one, exams).tolist()
            found[f"{name}_to_own"] = [[round(share, 4) for share in line] for line in shares]
            counts = by_right_choices(model, config_of_one, exams).tolist()
            found[f"{name}_by_right"] = [[[round(tokens), round(nats, 3)] for tokens, nats in line] for line in counts]
        found["all_answer"] = [round(sum(line) / len(line), 5) for line in nats(trained, config_of_all)]
        routers.append(found)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def read_branches(path: Path) -> Branches:
    """The record of a file. Raises Error where there is none, or it holds something else."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seen = record["routers"]
        own, right = (
            torch.tensor([[each[f"{name}_{what}"] for each in seen] for name in ("random", "trained")])
            for what in ("to_own", "by_right")
        )
        return Branches(
            list(record["domains"]), torch.tensor(record["dense"]), torch.tensor(record["both"]),
            torch.tensor(record["experts"]), torch.tensor([each["random"] for each in seen]),
            torch.tensor([each["trained"] for each in seen]), torch.tensor([each["all_answer"] for each in seen]),
            own, right, Setup(**record["setup"]),
        )  # fmt: skip
    except UNREADABLE as error:
        raise no_record(path, "experts tuned apart", "branches", error) from None


def main(folder: Annotated[Path, typer.Argument(help="Of the embedded checkpoint.")] = Path("data/tiny-moe")) -> None:
    """Tune a dense model on two domains apart, mix both, and note what each route loses (some minutes)."""
    torch.set_num_threads(1)
    run(folder / BRANCHES, Setup())


if __name__ == "__main__":
    typer.run(main)
