"""Tokens a second of the embedded checkpoint, from a question of its own kind: plain, compiled, transformers.

Stop tokens do not stop anyone here, and everyone's greedy tokens are compared before the clock runs.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from qwen3_scratch import load_checkpoint
from qwen3_scratch.generation import prompt_ids

from . import contestants, figures, script
from .decode import differing, speed
from .measure import BANDWIDTH, Contest, compare
from .script import Device, Out, Quick, Rounds, Run

QUESTION = "How many tokens a second does the embedded checkpoint give?"
PROMPT = "Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?"
STEPS, BATCHES = 48, (1, 16)


def main(rounds: Rounds = 5, quick: Quick = False, device: Device = "auto", out: Out = script.OUT) -> None:
    run = Run("tiny", QUESTION, rounds=rounds, quick=quick, device=device, out=out)
    checkpoint = load_checkpoint("tiny", device=run.device)
    prompt = prompt_ids(checkpoint, PROMPT)
    endless = replace(checkpoint.config, eos_token_id=None)
    checkpoint = replace(checkpoint, config=endless, generation_config={}, tokenizer=None)
    reference = contestants.transformers_model(checkpoint)
    default = contestants.default_experts(reference)
    steps = 8 if run.quick else STEPS
    for batch in BATCHES:
        forms = {name: replace(checkpoint, decoder=decoder) for name, decoder in contestants.OURS.items()}
        decoders = {name: contestants.ours(form) for name, form in forms.items()}
        theirs = {f"transformers generate, {default} (default)": contestants.transformers_generate(reference, default)}
        theirs["transformers generate, eager"] = contestants.transformers_generate(reference, "eager")
        decoders, prompts = {**decoders, **theirs}, [prompt] * batch
        run.say(f"batch {batch}: warming up and comparing {len(decoders)} contestants ...")
        wrong = differing(decoders, prompts, checkpoint)
        right = {name: decode for name, decode in decoders.items() if name not in wrong}
        measures = {name: partial(speed, decode, prompts, steps) for name, decode in right.items()}
        case = {"dtype": str(checkpoint.dtype).removeprefix("torch."), "batch": batch}
        run.add(compare([Contest(case, measures, wrong)], run.rounds, "tokens/s", device=run.device))
    run.finish(draw)


def draw(found: dict[str, Any]):
    panels = {}
    for case in {str(row["case"]): row["case"] for row in found["rows"]}.values():
        panels[f"{case['dtype']}, batch {case['batch']}"] = figures.spans(found["rows"], case, leave_out=[BANDWIDTH])
    first = {name: span[0] for name, span in next(iter(panels.values())).items() if span}
    best = max((name for name in first if name in ("plain", "compiled")), key=first.get)
    others = [value for name, value in first.items() if name.startswith("transformers")]
    title = f"The embedded checkpoint gives {script.digits(first[best])} tokens a second ({best})"
    title += f", {first[best] / max(others):.2f} × transformers" if others else ""
    return figures.bars(title, panels, "tokens a second")


if __name__ == "__main__":
    script.main(main)
