"""Where chapters ask for a function that is no exercise, the folded solution does what the package's function does."""

import re
from functools import cache

import pytest
import torch
from helpers import unchecked
from reference import dense_config, random_tokens, random_weights, small_config
from test_chapters import imports
from test_notebooks import NOTEBOOKS

from qwen3_scratch import forward, trace
from qwen3_scratch.inside.compare import first_difference, read
from qwen3_scratch.inside.drafting import kept, look_up
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.inside.wrong_steps import repeated_heads
from qwen3_scratch.learning.upcycling import upcycle

STUB = re.compile(r"^def (my_\w+)\(.*?raise NotImplementedError", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
ASKED = [
    (name, function)
    for name, cells in NOTEBOOKS.items()
    for cell in cells
    if cell.cell_type == "code" and "exercise" not in cell.metadata
    for function in STUB.findall(cell.source)
]


@cache
def pasted(name):
    """What a chapter's folded solutions define, after its own imports."""
    space = {}
    exec(
        "\n".join(node for cell in NOTEBOOKS[name] if cell.cell_type == "code" for node in imports(cell.source)), space
    )
    for cell in NOTEBOOKS[name]:
        if cell.cell_type == "markdown" and "exercise" not in cell.metadata:
            for solution in FOLDED.findall(cell.source):
                exec(solution, space)
    return space


@pytest.mark.parametrize(("name", "function"), ASKED, ids="-".join)
def test_below_each_stub_stands_a_folded_solution_of_its_name(name, function):
    assert callable(pasted(name)[function])


def test_the_mistake_that_13_asks_for_is_the_catalogues():
    q, k, v = torch.randn(1, 8, 5, 16), torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16)
    mask = torch.ones(5, 5).tril().bool()[None, None]
    with unchecked():
        found = pasted("13_pitfalls")["my_repeat"](q, k, v, mask)
    assert torch.equal(found, repeated_heads(q, k, v, mask))


@pytest.mark.parametrize("name", ["interleaved_rope", "window_off_by_one", "gate_and_up_swapped", "layer_norm"])
def test_the_search_that_13_asks_for_finds_the_call_that_the_packages_finds(name):
    mistake, config = MISTAKES[name], small_config(**MISTAKES[name].shows_in.config)
    weights, ids, traces = random_weights(config), random_tokens(config, 1, 24), []
    for model, steps in ((forward, ()), (mistake.forward, mistake.steps)):
        with unchecked(), torch.no_grad(), trace(*steps) as recorded:
            read(model, weights, ids, config, mistake.shows_in.way)
        traces.append(recorded)
    assert pasted("13_pitfalls")["my_first"](*traces) is first_difference(*traces).calls[0]


def test_the_layer_that_14_asks_for_is_the_packages():
    config = dense_config()
    weights = random_weights(config)
    for old, new in zip(weights.layers, upcycle(weights, config, 3)[0].layers, strict=True):
        found = pasted("14_upcycling")["my_upcycled"](old, new.router)
        assert all(one is two or torch.equal(one, two) for one, two in zip(found, new, strict=True))


def test_what_stands_and_what_is_looked_up_in_a3_is_as_in_the_package():
    tokens = torch.randint(3, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    space = pasted("A3_several_tokens_a_read")
    for end in range(1, 40):
        draft, picks = tokens[end : end + 3], tokens[end - 1 : end + 3]
        assert space["my_kept"](draft[: len(picks) - 1], picks) == kept(draft[: len(picks) - 1], picks)
        assert space["my_look_up"](tokens[:end]) == look_up(tokens[:end])


def test_the_rule_that_a3_asks_for_keeps_the_chance_of_every_token():
    p, q = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    accept, rest = pasted("A3_several_tokens_a_read")["my_rule"](p, q)
    assert accept.max() == 1 and not rest[accept < 1].any()
    torch.testing.assert_close(q * accept + (1 - (q * accept).sum()) * rest, p)


def test_the_rounding_that_a1_asks_for_is_pytorchs():
    numbers = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).exp() ** 9
    numbers = torch.cat((numbers, -numbers, torch.tensor([257.0, 259.0, 0.0, -0.0, torch.inf, 3.4e38])))
    found = pasted("A1_bytes_and_rounding")["my_to_bf16"](numbers.view(torch.int32).long() & 0xFFFFFFFF)
    assert torch.equal(found, numbers.bfloat16().view(torch.int16).long() & 0xFFFF)
