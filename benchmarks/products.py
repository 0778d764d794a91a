"""Seconds of one product of a matrix with few rows: the libraries' against the compiled sum of `streamed.py`.

The matrix has 6,144 rows of 1,024 numbers; many are visited in turn, so that none is found in the processor's cache.
From which number of rows on a library wins is what `streamed.MOST_ROWS` says, and `MOST_ROWS_AMX` where bf16 has tiles.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_scratch.fast.compiling import Part
from qwen3_scratch.fast.eager import ONEDNN_LINEAR
from qwen3_scratch.fast.streamed import streamed_sum, written_down

from . import figures, models, script
from .measure import BANDWIDTH, Contest, compare, now
from .script import Device, Out, Quick, Rounds, Run, Shape

QUESTION = "From how many rows on is the library's product faster than a sum?"
ROWS, CALLS = (1, 2, 4, 8, 16, 32), 12
SUM, ONEDNN = "sum, compiled", "oneDNN"
SIZES = {"huihui": (6144, 1024, 20), "tiny": (64, 32, 2)}  # rows, columns, matrices


def main(
    rounds: Rounds = 7, quick: Quick = False, shape: Shape = "huihui", device: Device = "auto", out: Out = script.OUT
) -> None:
    run = Run("products", QUESTION, rounds=rounds, quick=quick, device=device, out=out, shape=shape)
    models.shape_config(shape)
    height, width, count = SIZES[shape]
    for dtype, kind in models.DTYPES.items():
        matrices = [torch.empty(height, width, dtype=kind, device=run.device).normal_() for _ in range(count)]
        for rows in ROWS:
            run.say(f"{dtype}, {rows} rows ...")
            x = torch.randn(rows, width, dtype=kind, device=run.device)
            forms: dict[str, Callable[..., Tensor]] = {"F.linear": F.linear, SUM: Part(summed)}
            if kind == torch.float32 and run.device.type == "cpu" and torch.backends.mkldnn.is_available():
                forms[ONEDNN] = partial(ONEDNN_LINEAR, B=None)
            measures = {name: partial(per_product, form, x, matrices, run.device) for name, form in forms.items()}
            run.add(compare([Contest({"dtype": dtype, "rows": rows}, measures)], run.rounds, "s", device=run.device))
    run.finish(draw)


def summed(x: Tensor, weight: Tensor) -> Tensor:
    """`streamed_linear` without its limit of rows."""
    return streamed_sum(written_down(x)[None], weight[:, None]).t()


@torch.inference_mode()
def per_product(form: Callable[..., Tensor], x: Tensor, matrices: list[Tensor], device: torch.device) -> float:
    start = now(device)
    for number in range(CALLS):
        form(x, matrices[number % len(matrices)])
    return (now(device) - start) / CALLS


def draw(found: dict[str, Any]):
    panels: dict[str, dict[str, list]] = {}
    for row in found["rows"]:
        if row["name"] != BANDWIDTH:
            panel = panels.setdefault(row["case"]["dtype"], {})
            point = (row["case"]["rows"], *(1e3 * row[key] for key in ("median", "low", "high")))
            panel.setdefault(row["name"], []).append(point)
    wins = [f"{name} up to {most_rows(panel)} rows" for name, panel in panels.items()]
    return figures.lines(f"The sum is faster in {', in '.join(wins)}", panels, "rows", "milliseconds for one product")


def most_rows(panel: dict[str, list]) -> int:
    """Up to how many rows, without a gap, the sum was the fastest; 0 where it never was."""
    most = 0
    for own, *libraries in zip(panel[SUM], *(points for name, points in panel.items() if name != SUM), strict=True):
        if own[1] >= min(library[1] for library in libraries):
            break
        most = own[0]
    return most


if __name__ == "__main__":
    script.main(main)
