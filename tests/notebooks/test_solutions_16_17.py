"""Where 16 and 17 ask for a function that is no exercise, the folded solution does what the package's function does."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers import unchecked
from reference import random_weights, small_config
from test_notebooks import NOTEBOOKS

from qwen3_scratch.devices.slices import answers
from qwen3_scratch.fast.dispatch import moe_gathered
from qwen3_scratch.model import expert_ffn, moe_route

FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
CONFIG = small_config()
LAYER = random_weights(CONFIG, seed=0).layers[0]
X = torch.randn(7, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))


def pasted(chapter, function):
    """The folded solution, and that its stub stands above it."""
    cells = NOTEBOOKS[chapter]
    (stub,) = [at for at, cell in enumerate(cells) if f"def {function}(" in cell.source and cell.cell_type == "code"]
    assert "raise NotImplementedError" in cells[stub].source
    folded = [text for cell in cells[stub:] if cell.cell_type == "markdown" for text in FOLDED.findall(cell.source)]
    space = {"torch": torch, "F": F, "expert_ffn": expert_ffn}
    exec(next(text for text in folded if text.startswith(f"def {function}(")), space)
    return space[function]


@pytest.fixture
def route():
    with unchecked():
        return moe_route(X, LAYER.router, CONFIG.num_experts_per_tok, CONFIG.norm_topk_prob)


def test_the_gathered_form_that_17_asks_for_is_the_packages(route):
    with unchecked():
        expected = moe_gathered(X, route, LAYER.gate_up_proj, LAYER.down_proj)
        found = pasted("17_topk_moe_on_gpu", "my_gathered")(X, route, LAYER.gate_up_proj, LAYER.down_proj)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("held", [[0, 1], [3], list(range(CONFIG.num_experts))])
def test_the_answers_that_16_asks_for_are_the_packages(route, held):
    stacks = LAYER.gate_up_proj[held], LAYER.down_proj[held]
    with unchecked():
        found = pasted("16_beyond_one_gpu", "my_answers")(X, route, LAYER, held)
        torch.testing.assert_close(found, answers(X, route, *stacks, expert_ffn, held[0]))
