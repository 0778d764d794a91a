"""Tokens a second of compiled decoding with weights as loaded and in 8 bits, and how many greedy tokens stay the same.

The embedded checkpoint answers held-out questions of each domain with and without thinking, both ways; a token that
only one of two answers has, or that differs at its place, has changed.
"""

from functools import partial
from typing import Any

from qwen3_scratch import Checkpoint, generate, load_checkpoint
from qwen3_scratch.fast import compiled, int8
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

from . import contestants, figures, models, script
from .decode import PROMPT, speed
from .measure import BANDWIDTH, Contest, Row, compare, ratio, row_of
from .script import Device, Out, Quick, Rounds, Run, Shape, Store

QUESTION = "What do weights in 8 bits gain, and what do they change?"
BATCHES, STEPS = (1, 4), 16
AS_LOADED, IN_8_BITS = "as loaded", "in 8 bits"
ASKED, TOGETHER = 40, 4  # questions of a domain, and how many are answered in one batch
KEPT = {"dtype": "float32", "quantity": "greedy tokens of the embedded checkpoint that stay"}


def main(
    rounds: Rounds = 9, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto",
    out: Out = script.OUT, store: Store = models.STORE,
) -> None:  # fmt: skip
    run = Run("int8", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    folder = script.checkpoint_folder(run, shape, store)
    for dtype in models.DTYPES:
        run.say(f"{dtype}: loading, rounding ...")
        checkpoint = models.load(folder, dtype, run.device)
        both = {AS_LOADED: compiled(checkpoint), IN_8_BITS: int8(checkpoint)}
        decoders = {name: contestants.ours(each) for name, each in both.items()}
        for batch in BATCHES:
            run.say(f"{dtype}, batch {batch} ...")
            prompts = models.random_prompts(checkpoint.config, batch, PROMPT)
            steps = 2 if run.quick else STEPS
            measures = {name: partial(speed, decode, prompts, steps) for name, decode in decoders.items()}
            contest = Contest({"dtype": dtype, "batch": batch}, measures)
            run.add(compare([contest], run.rounds, "tokens/s", device=run.device))
    run.say("the embedded checkpoint's answers ...")
    run.add([Row(KEPT, IN_8_BITS, "of all", [kept(load_checkpoint("tiny"), 1 if run.quick else ASKED)])])
    run.finish(draw)


def kept(checkpoint: Checkpoint, asked: int) -> float:
    """The share of the greedy tokens of `asked` questions a domain that 8 bits leave as they are."""
    same = count = 0
    for domain in DOMAINS:
        texts = [example.messages for example in questions(domain, asked)]
        for start in range(0, len(texts), TOGETHER):
            for thinking in (True, False):
                options = dict(thinking=thinking, temperature=0, max_new_tokens=160, compiled=True)
                answers = [
                    generate(each, texts[start : start + TOGETHER], **options)
                    for each in (checkpoint, int8(checkpoint))
                ]
                for one, other in zip(*answers, strict=True):
                    count += max(len(one.token_ids), len(other.token_ids))
                    same += sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))
    return same / count


def draw(found: dict[str, Any]):
    rows = found["rows"]
    cases = [row["case"] for row in rows if row["name"] == IN_8_BITS and "batch" in row["case"]]
    panels = {
        f"{case['dtype']}, batch {case['batch']}": figures.spans(rows, case, leave_out=[BANDWIDTH]) for case in cases
    }
    pair = [row_of(rows, name, dtype="bfloat16", batch=1)["samples"] for name in (IN_8_BITS, AS_LOADED)]
    share = row_of(rows, IN_8_BITS, **KEPT)["median"]
    title = f"8 bits decode {ratio(*pair):.2f} × as fast as bf16 at batch 1; {share:.2%} of greedy tokens stay"
    return figures.bars(title, panels, "tokens a second")


if __name__ == "__main__":
    script.main(main)
