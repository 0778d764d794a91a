"""Seconds of one mixture-of-experts block by number of experts, at top-2, for 1 token and for 512.

The block is a router and its experts: 1,024 wide, experts of 768, bf16. So many layers are visited in turn, each
time with other tokens, that no weights are found in the processor's cache, as in a model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qwen3_scratch.fast.compiling import Part
from qwen3_scratch.fast.dispatch import moe_by_size, moe_gathered, moe_grouped
from qwen3_scratch.fast.streamed import moe_streamed, route_streamed
from qwen3_scratch.model import Route, moe, moe_route

from . import figures, models, script
from .measure import BANDWIDTH, Contest, compare, now
from .script import Device, Out, Quick, Rounds, Run, Shape

QUESTION = "What does a block of experts cost as there are more of them?"
EXPERTS, TOP_K, TOKENS = (2, 8, 32, 128), 2, (1, 512)
SIZES = {"huihui": (1024, 768), "tiny": (64, 32)}  # width of the model, of an expert
CALLS = {1: 24, 512: 2}  # blocks of one measurement; of few tokens as of one
COLD = {"huihui": 2**28, "tiny": 2**18}  # bytes that the layers together take at least
FORMS = {"model.moe": moe, "moe_gathered": moe_gathered, "moe_grouped": moe_grouped, "moe_by_size": moe_by_size}
TOO_MUCH = "moe_gathered would copy the experts of 1,024 choices, several gigabytes"
ONE_TOKEN = "is the form of single tokens, in prompts the others run"


class Block(NamedTuple):
    """The weights of one layer's experts and what arrives there."""

    x: Tensor
    router: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor


def main(
    rounds: Rounds = 7, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto", out: Out = script.OUT
) -> None:
    run = Run("experts", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape, dtype="bfloat16")
    models.shape_config(shape)
    for tokens in TOKENS:
        contests = []
        for count in EXPERTS:
            blocks = make_blocks(shape, count, tokens, run.device)
            forms, absent = forms_for(shape, count, tokens)
            measures = {
                name: partial(per_block, form, blocks, CALLS[tokens], run.device) for name, form in forms.items()
            }
            contests.append(Contest({"experts": count, "tokens": tokens}, measures, absent))
        run.say(f"{tokens} tokens, {EXPERTS} experts ...")
        run.add(compare(contests, run.rounds, "s", device=run.device))
    run.finish(draw)


@torch.inference_mode()
def make_blocks(shape: str, count: int, tokens: int, device: torch.device) -> list[Block]:
    """So many layers that their weights exceed every cache, visited with so many texts that what they choose does, too.

    With few layers of many experts, one text would find the experts of its choice in the cache each time.
    """
    width, wide = SIZES[shape]
    layers = max(2, -(-COLD[shape] // (count * 3 * width * wide * 2)))
    kind = dict(dtype=torch.bfloat16, device=device)

    def drawn(*sizes: int) -> Tensor:
        return torch.empty(sizes, **kind).normal_(std=0.02)

    sizes = ((count, width), (count, 2 * wide, width), (count, width, wide))
    weights = [tuple(drawn(*each) for each in sizes) for _ in range(layers)]
    visits = max(layers, CALLS.get(tokens, CALLS[1]))
    return [Block(torch.randn(tokens, width, **kind), *weights[number % layers]) for number in range(visits)]


def forms_for(shape: str, count: int, tokens: int) -> tuple[dict[str, Callable[[Block], Tensor]], dict[str, str]]:
    """Every form that can run at this number of tokens, and a sentence for each that cannot."""
    found, absent = {name: partial(ours, form) for name, form in FORMS.items()}, {}
    if tokens > 1:
        del found["moe_gathered"]
        absent |= {"moe_gathered": TOO_MUCH, "compiled": ONE_TOKEN}
    else:
        found["compiled"] = Part(partial(ours, moe_streamed, route=route_streamed))
    for experts in ("grouped_mm", "eager", *(["batched_mm"] if tokens == 1 else [])):
        name = f"transformers, {experts}" + " (default)" * (experts == "grouped_mm")
        found[name] = partial(theirs, reference_block(shape, count, experts))
    return found, absent


def ours(form: Callable[..., Tensor], block: Block, route: Callable[..., Route] = moe_route) -> Tensor:
    return form(block.x, route(block.x, block.router, TOP_K, True), block.gate_up_proj, block.down_proj)


def reference_block(shape: str, count: int, experts: str) -> Any:
    """transformers' block without weights: each call lends it those of a layer."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    width, wide = SIZES[shape]
    sizes = dict(hidden_size=width, moe_intermediate_size=wide, num_experts=count, num_experts_per_tok=TOP_K)
    config = Qwen3MoeConfig(**sizes, norm_topk_prob=True)
    config._experts_implementation = experts
    with torch.device("meta"):
        return Qwen3MoeSparseMoeBlock(config).eval()


def theirs(module: Any, block: Block) -> Tensor:
    module.gate._parameters["weight"] = block.router
    module.experts._parameters |= {"gate_up_proj": block.gate_up_proj, "down_proj": block.down_proj}
    return module(block.x[None])[0]


@torch.inference_mode()
def per_block(form: Callable[[Block], Tensor], blocks: Sequence[Block], calls: int, device: torch.device) -> float:
    start = now(device)
    for number in range(calls):
        form(blocks[number % len(blocks)])
    return (now(device) - start) / calls


def draw(found: dict[str, Any]):
    panels: dict[str, dict[str, list]] = {}
    for row in found["rows"]:
        if "median" in row and row["name"] != BANDWIDTH:
            case = row["case"]
            panel = panels.setdefault(f"{case['tokens']:,} token{'s' * (case['tokens'] > 1)}", {})
            point = (case["experts"], *(1e3 * row[key] for key in ("median", "low", "high")))
            panel.setdefault(row["name"], []).append(point)
    one = panels["1 token"]
    fastest = "compiled" if "compiled" in one else "moe_by_size"
    few, many = one[fastest][0][1], one[fastest][-1][1]
    title = (
        f"For one token a block of {EXPERTS[-1]} experts costs {many / few:.2f} times one of {EXPERTS[0]} ({fastest})"
    )
    return figures.lines(title, panels, "experts, of which each token takes 2", "milliseconds for one block")


if __name__ == "__main__":
    script.main(main)
