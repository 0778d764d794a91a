"""An address says all that the page shows, and the tour has the steps that a checkpoint can show: in V8."""

import functools

import pytest
from helpers import checkpoint
from page_model import PageModel

from qwen3_scratch.explorer.measured import measured
from qwen3_scratch.explorer.writing import PAGE
from qwen3_scratch.inside.mistakes import MISTAKES

BROWSER = "const navigator = {language: 'en'}; const matchMedia = () => ({matches: true}); 0"
DENSE = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
EVERYTHING = {
    "prompt": "x&y=1 #é\n_.%", "thinking": False, "pace": "step", "temperature": 0.7, "topK": 3, "topP": 0.9, "seed": 5,
    "most": 9, "k": 1, "normTopkProb": False, "off": [[0, 1], [1, 2]], "force": [[0, 3]], "swap": [[1, 0, 3]],
    "headsOff": [[1, 3]], "mistakes": [name for name in MISTAKES if not name.startswith("pads_")],
    "lane": 1, "token": 7, "layer": 1, "head": 2, "expert": [1, 3], "tour": 4, "lang": "zh", "theme": "dark",
}  # fmt: skip


@functools.cache
def page(dense: bool = False) -> PageModel:
    found = PageModel(checkpoint(**(DENSE if dense else {})))
    found.engine.eval(BROWSER)
    for name in ("state", "tour"):
        found.engine.eval((PAGE / f"{name}.js").read_text("utf-8"))
    return found


def sent(state: dict) -> dict:
    return page()("readAddress(`#${writeAddress({...startState(), ...state})}`, model.config)", state=state)


def test_every_field_of_the_page_comes_through_an_address():
    assert page()("Object.keys(startState()).sort()") == sorted(EVERYTHING)
    found = sent(EVERYTHING)
    assert found["problems"] == [] and found["state"] == EVERYTHING


@pytest.mark.parametrize("mistake", EVERYTHING["mistakes"])
def test_every_mistake_comes_through_an_address(mistake):
    found = sent({"mistakes": [mistake]})
    assert found["problems"] == [] and found["state"]["mistakes"] == [mistake]


def test_the_page_as_it_opens_has_no_address():
    assert page()("writeAddress(startState())") == ""


def test_the_tour_has_the_steps_that_a_checkpoint_can_show():
    ask = "tourSteps({model, data: {measured}}).map(({key}) => key)"
    keys = {count: page()(ask, measured=measured(checkpoint(), count)) for count in (0, 2)}
    assert len(keys[2]) == 10 and [key for key in keys[2] if key not in keys[0]] == ["experts", "without"]
    dense = page(dense=True)(ask, measured=measured(checkpoint(**DENSE), 2))
    assert [key for key in keys[0] if key not in dense] == ["router", "k"]
