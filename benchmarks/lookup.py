"""What drafts that are looked up in the text save: tokens a pass by domain, seconds an answer, and what a pass costs.

The embedded checkpoint answers held-out questions of each domain with thinking, greedily, drafting and not, plain
and compiled. A pass that verifies reads 1 + 3 tokens; what it costs beside a pass of one is measured for Huihui's
layers and for single blocks of 2 and 128 experts, where each token may ask for others.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from qwen3_scratch import Checkpoint, generate, load_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast import compiled
from qwen3_scratch.fast.compiling import Part, compiled_decoder
from qwen3_scratch.fast.drafts import DRAFT
from qwen3_scratch.fast.eager import eager_decoder, prefill
from qwen3_scratch.fast.streamed import moe_streamed, route_streamed
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

from . import experts, figures, models, script
from .decode import PROMPT
from .measure import BANDWIDTH, Contest, Row, compare, now, ratio, row_of, seconds
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "What do drafts that are looked up in the text save?"
ASKED = 10  # questions of a domain
READ = (1, 2, 3, 4, 5)  # tokens in a pass
BLOCKS = (2, 128)  # experts of a block, top-2
CALLS = 8  # passes of one measurement
PLAIN, DRAFTED, COUNTED = "without drafts", "with drafts", "tokens a pass"


def main(
    rounds: Rounds = 7, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("lookup", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape, draft=DRAFT)
    answered(run)
    run.say("passes of several tokens: loading ...")
    checkpoint = models.load(script.checkpoint_folder(run, shape, store), "bfloat16", run.device)
    contests = [Contest({"tokens in a pass": new}, passes(checkpoint, shape, new)) for new in READ]
    run.add(compare(contests, run.rounds, "s", device=run.device))
    run.finish(draw)


def answered(run: Run) -> None:
    """The embedded checkpoint's answers: seconds for all questions of a domain, and how many tokens a pass gave."""
    checkpoint = load_checkpoint("tiny", device=run.device)
    ways = {"plain": checkpoint, "compiled": compiled(checkpoint)}
    contests = []
    for domain in DOMAINS:
        asked = [example.messages for example in questions(domain, 1 if run.quick else ASKED)]
        run.say(f"{domain}: counting ...")
        run.add([Row({"domain": domain, "quantity": COUNTED}, DRAFTED, "tokens", [tokens_a_pass(checkpoint, asked)])])
        for way, form in ways.items():
            both = {PLAIN: partial(answers, form, asked), DRAFTED: partial(answers, form, asked, lookup=True)}
            measures = {name: partial(seconds, act, run.device) for name, act in both.items()}
            contests.append(Contest({"domain": domain, "decoding": way}, measures))
    run.say("answering ...")
    run.add(compare(contests, run.rounds, "s", device=run.device))


def answers(checkpoint: Checkpoint, asked: Sequence[Any], **options: Any) -> list[Any]:
    return [generate(checkpoint, chat, temperature=0, max_new_tokens=160, **options) for chat in asked]


def tokens_a_pass(checkpoint: Checkpoint, asked: Sequence[Any]) -> float:
    """Tokens after each prompt's first, over the passes that wrote them."""
    calls = 0

    def counting(checkpoint: Checkpoint, cache: KVCache, pick: Any, new: int = 1, /) -> Any:
        advance = eager_decoder(checkpoint, cache, pick, new)

        def counted(tokens: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return advance(tokens)

        return counted

    found = answers(replace(checkpoint, decoder=counting), asked, lookup=True)
    return sum(len(answer.token_ids) - 1 for answer in found) / calls


def passes(checkpoint: Checkpoint, shape: str, new: int) -> dict[str, Any]:
    """Seconds of a compiled pass of so many tokens through all layers, and of a block of so many experts."""
    room = PROMPT + CALLS * new
    cache = KVCache(checkpoint.config, 1, room, dtype=checkpoint.dtype, device=checkpoint.device)
    prefill(checkpoint, models.random_prompts(checkpoint.config, 1, PROMPT), cache)
    advance = compiled_decoder(checkpoint, cache, lambda logits: logits, new)
    tokens = torch.tensor(models.random_prompts(checkpoint.config, 1, room)[0][PROMPT:], device=checkpoint.device)

    def whole() -> float:
        start = now(checkpoint.device)
        for few in tokens.split(new):
            advance(few if new == 1 else few[None])  # rows of a batch, or new tokens of each row
        took = now(checkpoint.device) - start
        cache.rewind(len(tokens))
        return took / CALLS

    found: dict[str, Any] = {"all layers": whole}
    for count in BLOCKS:
        blocks = experts.make_blocks(shape, count, new, checkpoint.device)
        form = partial(experts.ours, moe_streamed, route=route_streamed)
        form = Part(form) if shape != "tiny" else form  # a rehearsal compiles nothing that it does not need
        found[f"a block of {count} experts"] = partial(experts.per_block, form, blocks, CALLS, checkpoint.device)
    return found


def draw(found: dict[str, Any]):
    rows = found["rows"]
    panels: dict[str, dict[str, list]] = {}
    for row in rows:
        if "tokens in a pass" in row["case"] and "median" in row and row["name"] != BANDWIDTH:
            point = (row["case"]["tokens in a pass"], *(1e3 * row[key] for key in ("median", "low", "high")))
            panel = "all layers" if row["name"] == "all layers" else "a block"
            panels.setdefault(panel, {}).setdefault(row["name"], []).append(point)
    given = {domain: row_of(rows, DRAFTED, domain=domain, quantity=COUNTED)["median"] for domain in DOMAINS}
    most = max(given, key=lambda domain: given[domain])
    pair = [row_of(rows, name, domain=most, decoding="compiled")["samples"] for name in (DRAFTED, PLAIN)]
    title = f"In {most} a pass with a draft gives {given[most]:.2f} tokens; answers take {ratio(*pair):.2f} × the time"
    return figures.lines(title, panels, "tokens in a pass", "milliseconds of a pass")


if __name__ == "__main__":
    script.main(main)
