"""Where chapters ask for a function that is no exercise, the folded solution does what the package's function does."""

import re
from functools import cache

import pytest
import safetensors.torch
import torch
from helpers import TINY, unchecked
from reference import dense_config, random_tokens, random_weights, small_config
from test_chapters import imports
from test_notebooks import NOTEBOOKS
from transformers import Qwen3MoeForCausalLM

from qwen3_scratch import forward, load_checkpoint, trace
from qwen3_scratch.exercises.comparing import difference
from qwen3_scratch.inside.checks import unseen
from qwen3_scratch.inside.compare import Way, first_difference, read
from qwen3_scratch.inside.drafting import kept, look_up
from qwen3_scratch.inside.heads import attention_inputs, lending, normed_terms, previous_token, without
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.inside.routers import guessed
from qwen3_scratch.learning.other_routers import biased_route, capacity_route, moved_bias
from qwen3_scratch.model import attention_weights, expert_ffn, moe, moe_route
from qwen3_scratch.tiny.evaluate import padded_chats, questions
from qwen3_scratch.tiny.lookups import story_lookups
from qwen3_scratch.tracing import head_weights

STUB = re.compile(r"^def (my_\w+)\(.*?raise NotImplementedError", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<summary>One solution</summary>\n\n```python\n(.*?)\n```", re.DOTALL)
DEFINED = r"^def {}\(.*?\n\n\n"
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


def test_the_normed_terms_that_08_asks_for_are_the_packages():
    terms, weight = torch.randn(5, 8), torch.rand(8)
    with unchecked():
        found = pasted("08_layer_to_logits")["my_normed_terms"](terms, weight, 0.1)
    torch.testing.assert_close(found, normed_terms(terms, weight, 0.1))


def test_the_scores_and_the_patch_that_11_asks_for_are_the_packages():
    written, config, looks = pasted("11_inside_attention"), small_config(), torch.rand(2, 3, 4, 10, 10)
    weights = random_weights(config)
    with unchecked():
        torch.testing.assert_close(written["my_previous_token"](looks), previous_token(looks))
    ids, models = random_tokens(config, 2, 9), (weights, without(weights, config, [(0, 1)]))
    with unchecked(), torch.no_grad():
        whole, lent = (attention_inputs(each, config, ids, 1) for each in models)
        for part in "qk":
            with trace() as t:
                forward(weights, ids, config, ops=lending(lent, 1, part))
            call = t["gqa_attention"][1].inputs
            wanted = attention_weights(call["q"], call["k"], call["mask"])
            assert torch.equal(written["my_patched"](whole, lent, part), wanted)
            assert not torch.equal(wanted, attention_weights(whole["q"], whole["k"], whole["mask"]))


def test_the_place_that_11_asks_for_gets_most_of_the_weight_of_the_head_that_costs_most():
    tiny = load_checkpoint("tiny")
    lookups = story_lookups(tiny, [one for one in questions("stories", 30) if one.kind != "several"][:4])
    with unchecked():
        place = pasted("11_inside_attention")["my_target"](lookups)
        looks = head_weights(tiny.weights, tiny.config, lookups.token_ids)[0, lookups.text, 3, lookups.query]
    assert looks.gather(1, place[:, None]).mean() > 0.7


def test_the_guess_that_12_asks_for_is_the_packages():
    written = pasted("12_inside_the_router")
    word, expert, question = torch.randint(9, (60,)), torch.randint(5, (60,)), torch.arange(60) // 4
    learn = question % 2 == 0
    with unchecked():
        written["my_guess"].__globals__["total"] = 5
        found = written["my_guess"](word, expert, learn)
    torch.testing.assert_close(found, guessed(expert[None], [word], question, 5)[0, ~learn].float().mean())


def test_the_blanks_that_12_asks_for_stand_behind_equals_signs_of_sums_and_differences():
    tokenizer = load_checkpoint("tiny").tokenizer
    text = "7 - 9 = 8\n8 * 3 = 4\n4 + 2 = 6"
    ids = torch.tensor([tokenizer.encode(text)])
    with unchecked():
        found = pasted("12_inside_the_router")["my_places"]
        found.__globals__["tokenizer"] = tokenizer
        there, none = found(ids, torch.ones_like(ids) > 0), found(ids, torch.ones_like(ids) < 0)
    said = [tokenizer.decode(ids[0, at : at + 2].tolist()) for at in there[0].nonzero()[:, 0].tolist()]
    assert said == [" 8", " 6"] and not none.any()


def test_the_few_tokens_that_12_asks_for_are_those_behind_which_thinking_begins():
    tiny = load_checkpoint("tiny")
    batch = padded_chats(tiny, questions("spanish", 4))
    with unchecked():
        found = pasted("12_inside_the_router")["my_few"]
        found.__globals__["tokenizer"] = tiny.tokenizer
        there = found(batch.token_ids, batch.written)
    assert there.sum(1).tolist() == [1] * 4
    assert set(batch.token_ids.roll(-1, 1)[there].tolist()) == set(tiny.tokenizer.encode("<think>"))


def test_the_mistakes_that_13_swaps_in_are_the_catalogues():
    outputs = [output for cell in NOTEBOOKS["13_pitfalls"] for output in cell.get("outputs", ())]
    lines = [line for output in outputs for line in output.get("text", "").splitlines()]
    shown = [line for line in lines if re.match(r"\w+ +\d+% agree, ", line)]
    assert len(shown) > 20 and [line for line in shown if "catalogue" in line] == []
    assert {line.split()[0] for line in shown} <= MISTAKES.keys()


@pytest.mark.parametrize("name", ["interleaved_rope", "window_off_by_one", "gate_and_up_swapped", "layer_norm"])
def test_the_search_that_13_asks_for_finds_the_call_that_the_packages_finds(name):
    mistake, config = MISTAKES[name], small_config(**MISTAKES[name].shows_in.config)
    weights, ids, traces = random_weights(config), random_tokens(config, 1, 24), []
    for model, steps in ((forward, ()), (mistake.forward, mistake.steps)):
        with unchecked(), torch.no_grad(), trace(*steps) as recorded:
            read(model, weights, ids, config, mistake.shows_in.way)
        traces.append(recorded)
    assert given_in_13("off")["my_first"](*traces) is first_difference(*traces).calls[0]


def given_in_13(name):
    """What the folded solutions define, after a function that the chapter gives."""
    space = pasted("13_pitfalls")
    source = "\n\n\n".join(cell.source for cell in NOTEBOOKS["13_pitfalls"] if cell.cell_type == "code")
    exec(re.search(DEFINED.format(name), source, re.MULTILINE | re.DOTALL)[0], space)
    return space


def test_the_checks_of_13_that_need_no_right_model_pass_it_and_find_what_calls_padding_and_masks_do_wrong():
    checkpoint, space = load_checkpoint("tiny", dtype=torch.float32), given_in_13("off") | given_in_13("with_itself")
    found, own = space["with_itself"], {"weights": checkpoint.weights, "config": checkpoint.config}
    found.__globals__.update(own, token_ids=torch.arange(40, 72)[None], in_calls=Way(first=0.5))
    with unchecked(), torch.no_grad():
        assert max(found(forward).values()) < 1e-5
        far = {name: max(found(mistake.forward).values()) for name, mistake in MISTAKES.items()}
    told = {"positions_from_zero", "no_causal_mask", "pads_attended", "pads_counted_after_prefill"}
    assert {name for name, each in far.items() if each > 1e-4} == told


def test_the_two_settings_that_13_folds_away_show_every_mistake():
    settings, config = pasted("13_pitfalls")["my_settings"](), load_checkpoint("tiny").config
    with unchecked(), torch.no_grad():
        assert len(settings) == 2 and unseen(settings, config, bound=1.5e-4) == []


def test_the_hooks_of_13_note_what_each_layer_of_transformers_gives_and_so_in_which_a_norm_is_wrong():
    checkpoint, ids = load_checkpoint("tiny", dtype=torch.float32), torch.arange(40, 60)[None]
    model = Qwen3MoeForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    norm = torch.nn.LayerNorm(checkpoint.config.hidden_size, checkpoint.config.rms_norm_eps)
    norm.weight = model.model.layers[2].input_layernorm.weight
    off, outputs_of = given_in_13("off")["off"], given_in_13("outputs_of")["outputs_of"]
    with unchecked(), torch.no_grad(), trace() as right:
        forward(checkpoint.weights, ids, checkpoint.config)

    def beyond():
        with torch.no_grad():
            found = outputs_of(model, ids)
        outputs = [(call.output, found[f"model.layers.{layer}"]) for layer, call in enumerate(right["decoder_layer"])]
        return [off(*pair) > 1e-4 for pair in outputs]

    assert beyond() == [False] * 4
    assert not any(part._forward_hooks for part in model.modules())  # all hooks are gone
    model.model.layers[2].input_layernorm = norm
    assert beyond() == [False, False, True, True]


@pytest.fixture
def raw_answer():
    """What top-1 says at its raw probability under a router of zeros, and what the dense layer says."""
    layer, x = (
        random_weights(dense_config()).layers[0],
        torch.randn(7, dense_config().hidden_size, generator=torch.Generator().manual_seed(0)),
    )
    said = expert_ffn(x, *layer.gate_up_proj.chunk(2), layer.down_proj)
    route = moe_route(x, torch.zeros(3, x.shape[1]), 1, False)
    return lambda experts: moe(x, route, *experts(layer, 3)), said


def test_the_experts_that_14_asks_for_say_what_the_layer_said(raw_answer):
    answer, said = raw_answer
    torch.testing.assert_close(answer(pasted("14_upcycling")["my_experts"]), said)


@pytest.mark.parametrize(
    ("gate", "up", "down", "right"),
    [(1, 1, 3, True), (1, 3, 1, True), (1, 1, 1, False), (3, 1, 1, False), (3, 3, 1, False), (1, 3, 3, False)],
)
def test_of_the_experts_of_14_down_or_up_may_be_multiplied_and_nothing_else(raw_answer, gate, up, down, right):
    answer, said = raw_answer

    def experts(layer, number):
        gates, ups = layer.gate_up_proj.chunk(2)
        both = torch.cat((gate * gates, up * ups))
        return both.repeat(number, 1, 1), down * layer.down_proj.repeat(number, 1, 1)

    assert (difference(answer(experts), said, 1e-4) is None) == right


def asked_of_the_step():
    code = [cell.source for cell in NOTEBOOKS["14_upcycling"] if cell.cell_type == "code"]
    (cell,) = [source for source in code if "def my_step(" in source]
    exec(cell[cell.index("cases = [") : cell.index("\nfor ")], space := {})
    return [tuple(map(torch.tensor, case)) for case in space["cases"]]


def test_the_step_that_14_asks_for_is_one_of_gradient_descent():
    my_step, generator = pasted("14_upcycling")["my_step"], torch.Generator().manual_seed(0)
    weights, wanted = torch.rand(5, 3, generator=generator).softmax(1), torch.rand(5, generator=generator)
    for after, *given in asked_of_the_step():
        torch.testing.assert_close(my_step(*given), after)
    experts = torch.full((3,), 3.0, requires_grad=True)
    ((weights @ experts - wanted) ** 2 / 2).sum().backward()
    torch.testing.assert_close(my_step(weights, wanted), (experts - experts.grad).detach())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda w, t: 3 + w.T @ (w @ torch.full((2,), 3.0) - t),
        lambda w, t: 3 - w @ (w @ torch.full((2,), 3.0) - t),
        lambda w, t: 3 - w.T @ (w @ torch.full((2,), 3.0) - t) / 2,
        lambda w, t: 3 - 2 * w.T @ (w @ torch.full((2,), 3.0) - t),
        lambda w, t: 3 - (w @ torch.full((2,), 3.0) - t).sum().expand(2),
    ],
    ids=["uphill", "weights not turned", "a mean", "no half", "weights forgotten"],
)
def test_the_cases_of_14_tell_another_step_from_the_right_one(wrong):
    assert any(difference(wrong(*given), after, 1e-4) for after, *given in asked_of_the_step())


def asked_of_the_slopes():
    """The chapter's cases, each with what autograd finds there, as the chapter has it."""
    code = [cell.source for cell in NOTEBOOKS["14_upcycling"] if cell.cell_type == "code"]
    (cell,) = [source for source in code if "def my_slopes(" in source]
    exec(cell[cell.index("def slopes(") : cell.index("\nfor ")], space := {"torch": torch})
    return [(space["slopes"](*case), *case) for case in space["tried"]]


def test_the_slopes_that_14_asks_for_are_those_of_the_loss_and_the_nearest_of_three_experts_does_not_gain():
    my_slopes = pasted("14_upcycling")["my_slopes"]
    for expected, *given in asked_of_the_slopes():
        torch.testing.assert_close(my_slopes(*given), expected)
    assert (my_slopes(torch.ones(3) / 3, torch.tensor([1.0, 3.0, 9.0]), 5.0) < 0).tolist() == [False, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, y, t: (t - p @ y) * p * (y - p @ y),
        lambda p, y, t: (p @ y - t) * p * y,
        lambda p, y, t: (p @ y - t) * (y - p @ y),
        lambda p, y, t: (p @ y - t) * p * (1 - p) * y,
        lambda p, y, t: p * (y - t) ** 2 / 2,
        lambda p, y, t: (p @ y - t) * p * (y - y.mean()),
    ],
    ids=["uphill", "its own alone", "no probability", "others forgotten", "each expert's loss", "a plain mean"],
)
def test_the_cases_of_14_tell_other_slopes_from_the_right_ones(wrong):
    assert any(difference(wrong(*given), expected, 1e-4) for expected, *given in asked_of_the_slopes())


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


def test_the_header_that_a1_asks_for_says_where_each_tensor_stands_in_any_file():
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 1, dtype=torch.bfloat16)}
    for about in (None, {"made": "here"}):
        content = safetensors.torch.save(tensors, about)
        with unchecked():
            entries, begin = pasted("A1_bytes_and_rounding")["my_read_header"](content)
        assert entries.keys() == tensors.keys()
        for name, tensor in tensors.items():
            start, stop = entries[name]["data_offsets"]
            assert content[begin + start : begin + stop] == bytes(tensor.view(torch.uint8).flatten().tolist())


def test_the_rounding_that_a1_asks_for_is_pytorchs():
    numbers = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).exp() ** 9
    numbers = torch.cat((numbers, -numbers, torch.tensor([257.0, 259.0, 0.0, -0.0, torch.inf, 3.4e38])))
    found = pasted("A1_bytes_and_rounding")["my_to_bf16"](numbers.view(torch.int32).long() & 0xFFFFFFFF)
    assert torch.equal(found, numbers.bfloat16().view(torch.int16).long() & 0xFFFF)
