"""What is watched while the embedded checkpoint is trained: the same questions, asked again every so many steps.

The file `training/probes.safetensors` beside the weights holds what was found; `read_probes` gives it back as `Probes`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.saving import whole, writing
from ..errors import Error
from ..model import forward
from ..tracing import head_weights, trace
from . import corpus
from .corpus import Example
from .evaluate import chat_ids, questions
from .lookups import story_lookups, weight_on

EACH = 10  # questions of every domain
STORIES = 20  # whose look-ups are scored
PROBES = "training/probes.safetensors"  # programs take every *.safetensors beside config.json for weights


class Probes(NamedTuple):
    """The routes of fixed questions, and each head's score at looking up, at the steps that were asked."""

    steps: Int[Tensor, "steps"]
    routes: UInt8[Tensor, "steps layers tokens top_k"]  # the experts of every token, the strongest first
    look_ups: Float[Tensor, "steps layers heads"]  # share of its weight on the words that are right, averaged
    token_ids: Int[Tensor, "tokens"]  # of the questions, one after the other
    domains: UInt8[Tensor, "tokens"]  # of the question that a token stands in, in the order of corpus.DOMAINS
    questions: UInt8[Tensor, "tokens"]  # its number


def asked_questions() -> list[Example]:
    """`EACH` held-out questions of every domain."""
    return [example for domain in corpus.DOMAINS for example in questions(domain, EACH)]


def asked_stories() -> list[Example]:
    """Held-out stories of one turn with one question, whose thinking ends in one line of look-ups."""
    found = (one for one in questions("stories", 20 * STORIES) if len(one.messages) == 1 and one.kind != "several")
    return [example for example, _ in zip(found, range(STORIES), strict=False)]


@torch.inference_mode()
def probe(checkpoint: Checkpoint, step: int) -> Probes:
    """What the weights do at one step."""
    routes, ids, domains, numbers = [], [], [], []
    for number, example in enumerate(asked_questions()):
        chat, asked = chat_ids(checkpoint, example)
        with trace() as recorded:
            forward(checkpoint.weights, torch.tensor([chat[: asked.stop]]), checkpoint.config, logits_to_keep=1)
        routes.append(torch.stack([call.output.experts[asked] for call in recorded["moe_route"]]))
        ids += chat[asked]
        domains += [corpus.DOMAINS.index(example.domain)] * len(chat[asked])
        numbers += [number] * len(chat[asked])
    lookups = story_lookups(checkpoint, asked_stories())
    looks = head_weights(checkpoint.weights, checkpoint.config, lookups.token_ids)
    scores = weight_on(looks, lookups, lookups.followers)
    bytes_of: Sequence[Tensor] = [torch.tensor(each, dtype=torch.uint8) for each in (domains, numbers)]
    experts = torch.cat(routes, dim=1).to(torch.uint8)
    return Probes(torch.tensor([step]), experts[None], scores[None], torch.tensor(ids), *bytes_of)


def note(path: Path, found: Probes) -> None:
    """Adds a probe to the file; what stands there of the same or a later step, from a run that was stopped, goes."""
    if path.exists():
        before = read_probes(path)
        kept = before.steps < found.steps[0]
        over_time = ("steps", "routes", "look_ups")
        found = found._replace(
            **{name: torch.cat((getattr(before, name)[kept], getattr(found, name))) for name in over_time}
        )
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        save_file(found._asdict(), partial)


def read_probes(path: Path) -> Probes:
    """The probes of a file. Raises Error where there is none, or it holds something else."""
    try:
        return Probes(**load_file(path))
    except Exception as error:
        raise Error(f"{path}: holds no probes of a training run ({error}): make them with make train") from None
