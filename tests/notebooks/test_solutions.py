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
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.inside.wrong_steps import repeated_heads
from qwen3_scratch.learning.other_routers import biased_route, capacity_route, moved_bias
from qwen3_scratch.learning.upcycling import upcycle

STUB = re.compile(r"^def (my_\w+)\(.*?raise NotImplementedError", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
ROUTE_TO = re.compile(r"^def route_to.*?\n\n\n", re.MULTILINE | re.DOTALL)
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


def test_the_routers_that_a4_asks_for_are_the_packages():
    space = pasted("A4_other_routers")
    exec(
        ROUTE_TO.search("\n\n\n".join(cell.source for cell in NOTEBOOKS["A4_other_routers"]))[0], space
    )  # which the chapter gives
    generator = torch.Generator().manual_seed(0)
    x, router, bias = (torch.randn(*size, generator=generator) for size in ((40, 16), (8, 16), (8,)))
    for top_k in (1, 2):
        for factor in (0.5, 1.25):
            found = space["my_capacity_route"](x, router, top_k, True, factor)
            assert all(map(torch.equal, found, capacity_route(x, router, top_k, True, factor)))
        found = space["my_biased_route"](x, router, top_k, True, bias)
        assert all(map(torch.equal, found, biased_route(x, router, top_k, True, bias)))
    counts = torch.tensor([9.0, 1, 5, 5, 5, 5, 5, 5])
    assert torch.equal(space["my_moved_bias"](bias, counts, 0.1), moved_bias(bias, counts, 0.1))
