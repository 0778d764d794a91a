"""A trace is the tree of the calls with their true values, and costs nothing and changes nothing when it is off."""

import ast
import cProfile
import gc
import inspect
import profile
import pstats
import sys
import threading
from collections import Counter
from contextlib import ExitStack

import pytest
import torch
from helpers import checkpoint, finished, unchecked
from reference import dense_config, random_tokens, random_weights, small_config

from qwen3_scratch import Error, attention_weights, forward, generate, gqa_attention, moe_route, rms_norm, trace
from qwen3_scratch import model as model_module
from qwen3_scratch.fast.eager import LONG
from qwen3_scratch.tracing import WATCHED, Call, Trace

TWICE = "def twice(x):\n    return rms_norm(rms_norm(x, x[0], 1e-6), x[0], 1e-6)\n"


def traced(config=None, shape=(2, 7)) -> tuple[Trace, torch.Tensor]:
    config = config or small_config()
    ids = random_tokens(config, *shape)
    with torch.inference_mode(), trace() as found:
        logits = forward(random_weights(config), ids, config)
    return found, logits


def outline(call: Call) -> list:
    """The tree of names, equal neighbours named once."""
    children = [outline(child) for child in call.children]
    return [call.name, *(child for number, child in enumerate(children) if children[:number][-1:] != [child])]


def test_the_tree_holds_every_function_where_it_was_called():
    found, _ = traced()
    norm, attention = ["rms_norm"], ["self_attention", ["rms_norm"], ["rope"], ["gqa_attention"]]
    layer = ["decoder_layer", norm, attention, norm, ["feed_forward", ["moe_route"], ["moe", ["expert_ffn"]]]]
    states = ["hidden_states", ["rope_table"], ["attention_mask"], layer, norm]
    assert [outline(root) for root in found.roots] == [["forward", ["embed"], states]]
    watched = {function.__name__ for function in WATCHED}
    assert {call.name for call in found} == watched - {"attention_weights"}  # which the fast kernel does without
    functions = {name for name, value in vars(model_module).items() if inspect.isfunction(value)}
    own = {name for name in functions if vars(model_module)[name].__module__ == model_module.__name__}
    inner = {"rope_frequencies", "yarn_ramp", "yarn_attention_factor"}  # of rope_table
    checks = {name for name in own if name.startswith("check_")} | {"heads_per_kv_head", "within_texts"}
    assert own == watched | inner | checks, "a new step of the model is to be watched"


def test_a_dense_model_has_no_route_in_its_tree():
    found, _ = traced(dense_config())
    assert found["moe_route"] == [] and found["moe"] == []
    assert [call.layer for call in found["expert_ffn"]] == [0, 1, 2]


@pytest.mark.parametrize("config", [small_config(), dense_config()], ids=["sparse", "dense"])
def test_inputs_and_outputs_are_those_of_calling_by_hand(config):
    found, logits = traced(config)
    assert found.roots[0].output is logits
    with torch.inference_mode():
        for call in found:
            again = getattr(model_module, call.name)(**call.inputs)
            pairs = zip(again, call.output, strict=True) if isinstance(again, tuple) else [(again, call.output)]
            assert all(torch.equal(one, two) for one, two in pairs), call.name
    for call in found:
        signature = inspect.signature(getattr(model_module, call.name))
        assert list(call.inputs) == list(signature.parameters)
        assert all(child.parent is call for child in call.children)


def test_each_call_knows_its_layer_in_every_pass():
    model, steps = checkpoint(), 3
    layers = model.config.num_hidden_layers
    with trace() as found:
        generate(model, "Hi", max_new_tokens=steps)
    assert len(found["forward"]) == steps
    assert all(call.output.isfinite().all() for call in found["forward"]), "sampling masks a copy"
    for name, times in (("decoder_layer", 1), ("gqa_attention", 1), ("moe_route", 1), ("moe", 1), ("rope", 2)):
        expected = [layer for layer in range(layers) for _ in range(times)] * steps
        assert [call.layer for call in found[name]] == expected
    outside = [call for name in ("forward", "embed", "rope_table", "hidden_states") for call in found[name]]
    assert {call.layer for call in outside} == {None}
    assert [call.layer for call in found["rms_norm"]][-2:] == [layers - 1, None]


def test_what_generate_puts_in_the_place_of_a_function_is_shown_under_its_name():
    """A long prompt is read without a mask; the token after it goes to its experts at once."""
    model = checkpoint()
    with trace() as found:
        generate(model, "a " * LONG, max_new_tokens=2, raw=True)
    prompt, token = (call for call in found.roots if call.name == "forward")
    layers = model.config.num_hidden_layers
    for whole in (prompt, token):
        counts = Counter(call.name for call in whole.walk())
        assert counts["rms_norm"] == 4 * layers + 1  # two of a layer, one each of q and k, and the last
        assert counts["gqa_attention"] == counts["moe"] == counts["moe_route"] == layers
    assert prompt.inputs["token_ids"].shape[1] >= LONG
    assert {call.parent.name for call in prompt.walk() if call.name == "expert_ffn"} == {"moe"}


def test_attention_maps_are_rebuilt_from_what_attention_was_given():
    found, _ = traced()
    for call in found["gqa_attention"]:
        q, k, v, mask = call.inputs.values()
        weights = attention_weights(q, k, mask)
        torch.testing.assert_close(weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1), call.output)
        assert torch.allclose(weights.sum(-1), torch.ones(())) and (weights.triu(1) == 0).all()


def test_traces_may_be_nested_and_the_outer_one_sees_all():
    x = torch.randn(3, 4)
    with trace() as outer:
        rms_norm(x, x[0], 1e-6)
        with trace() as inner:
            rms_norm(x, x[1], 1e-6)
        rms_norm(x, x[2], 1e-6)
    assert [len(found["rms_norm"]) for found in (outer, inner)] == [3, 1]
    assert outer["rms_norm"][1].output is inner["rms_norm"][0].output
    assert sys.getprofile() is None


def test_an_exception_inside_leaves_nothing_behind_and_ends_its_call():
    router = torch.randn(4, 8)
    with pytest.raises(Error, match="moe_route"), trace() as found:
        moe_route(torch.randn(3, 8), router, 9, True)
    assert sys.getprofile() is None
    assert [(call.name, call.output) for call in found] == [("moe_route", None)]
    with trace() as after:
        moe_route(torch.randn(3, 8), router, 2, True)
    assert [call.name for call in after] == ["moe_route"] and len(found.roots) == 1


def test_a_profile_function_that_was_there_is_called_on_and_put_back():
    seen = []

    def mine(frame, event, value):
        seen.append(frame.f_code.co_name)

    sys.setprofile(mine)
    try:
        with trace() as found:
            rms_norm(torch.ones(1, 2), torch.ones(2), 1e-6)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    assert len(found["rms_norm"]) == 1 and "rms_norm" in seen


def counted(profiler) -> Counter:
    return Counter({name: row[1] for (_, _, name), row in pstats.Stats(profiler).stats.items()})


@pytest.mark.parametrize("kind", [cProfile.Profile, profile.Profile])
def test_under_a_profiler_all_is_recorded_and_the_profiler_counts_on(kind):
    config, profiler, seen = small_config(), kind(), []
    ids, weights = random_tokens(config, 1, 5), random_weights(config)
    expected, layers = forward(weights, ids, config), config.num_hidden_layers

    def work():
        forward(weights, ids, config)
        before = sys.getprofile()
        with trace() as outer:
            with trace() as inner:
                forward(weights, ids, config)
            with pytest.raises(Error):
                moe_route(ids.float(), torch.randn(4, 5), 9, True)
            forward(weights, ids, config)
        assert sys.getprofile() is before and sys.gettrace() is None
        forward(weights, ids, config)
        seen.extend((outer, inner))

    gc.disable()  # at a collection hypothesis is called in the midst of a call, and profile.py then loses count
    try:
        with unchecked():
            profiler.runcall(work)
    finally:
        gc.enable()
    outer, inner = seen
    assert [root.name for root in outer.roots] == ["forward", "moe_route", "forward"]
    assert [root.name for root in inner.roots] == ["forward"]
    plain, _ = traced(config, (1, 5))
    for root in (outer.roots[0], outer.roots[2], inner.roots[0]):
        assert outline(root) == outline(plain.roots[0]) and torch.equal(root.output, expected)
    assert counted(profiler)["decoder_layer"] == 4 * layers and counted(profiler)["moe_route"] == 4 * layers + 1


def test_under_a_profiler_and_a_debugger_at_once_each_is_told():
    lines, x, profiler = [], torch.randn(2, 4), cProfile.Profile()

    def debugger(frame, event, value):
        lines.append((frame.f_code.co_name, event))
        return debugger

    before = sys.gettrace()
    sys.settrace(debugger)
    profiler.enable()
    try:
        with trace() as found:
            out = rms_norm(x, x[0], 1e-6)
        assert sys.gettrace() is debugger
    finally:
        profiler.disable()
        sys.settrace(before)
    assert [call.output is out for call in found] == [True]
    assert {event for name, event in lines if name == "rms_norm"} == {"call", "line", "return"}
    assert counted(profiler)["rms_norm"] == 1


def test_a_trace_that_begins_within_a_function_does_not_take_its_end_for_another_calls():
    with ExitStack() as stack:

        def norm(*given):
            if not found:
                found.append(stack.enter_context(trace()))
            return rms_norm(*given)

        found, config = [], small_config(num_hidden_layers=1)
        forward(random_weights(config), random_tokens(config, 1, 3), config, ops=model_module.Ops(norm=norm))
    assert sys.getprofile() is None
    assert [call.name for call in found[0]][:2] == ["rms_norm", "self_attention"] and len(found[0]["rms_norm"]) == 5


def test_other_threads_are_not_recorded():
    x = torch.ones(1, 2)
    with trace() as found:
        thread = threading.Thread(target=rms_norm, args=(x, x[0], 1e-6))
        thread.start()
        thread.join()
        rms_norm(x, x[0], 1e-5)
    assert [call.inputs["eps"] for call in found] == [1e-5]


def test_functions_of_ones_own_are_recorded_where_they_are_given():
    space = {"rms_norm": rms_norm}  # a name that was imported before the trace began
    exec(TWICE, space)
    x = torch.randn(2, 4)
    with trace(space["twice"], gqa_attention) as found:
        out = space["twice"](x)
    (root,) = found.roots
    assert outline(root) == ["twice", ["rms_norm"]] and len(root.children) == 2
    assert root.output is out and root.inputs["x"] is x and root.children[1].inputs["x"] is root.children[0].output
    with trace() as without:
        space["twice"](x)
    assert [root.name for root in without.roots] == ["rms_norm", "rms_norm"]


@pytest.mark.parametrize("what", [torch.softmax, len, "rms_norm", dict], ids=["of torch", "builtin", "name", "class"])
def test_what_is_no_python_function_is_refused(what):
    message = r"^trace: .* found, expected functions made by def: "
    with unchecked(), pytest.raises(Error, match=message), trace(what):
        raise AssertionError("the block ran")
    assert sys.getprofile() is None


# ---- the table ----------------------------------------------------------------------------------


def test_the_table_has_one_line_for_each_distinct_step_and_is_no_wider_than_a_terminal():
    shallow, deep = (traced(small_config(num_hidden_layers=layers))[0].table() for layers in (1, 4))
    assert repr(deep) == deep
    lines, names = deep.splitlines(), [line.split()[0] for line in deep.splitlines()]
    assert names == [
        "function", "forward", "embed", "hidden_states", "rope_table", "attention_mask", "decoder_layer", "rms_norm",
        "self_attention", "rms_norm", "rope", "gqa_attention", "rms_norm", "feed_forward", "moe_route", "moe",
        "expert_ffn", "rms_norm",
    ]  # fmt: skip
    assert names == [line.split()[0] for line in shallow.splitlines()]
    assert max(map(len, lines)) < 140
    assert "decoder_layer  x 4" in deep and "decoder_layer  x" not in shallow
    assert lines[names.index("rope")].endswith(" [2, 2-4, 7, 16]")  # one line for the 4 heads of q and the 2 of k
    assert lines[names.index("moe_route")].split()[-6:] == ["[14,", "2]", "[14,", "2]", "[14,", "8]"]


def test_steps_of_another_kind_are_not_folded_together():
    mixed, _ = traced(small_config(num_hidden_layers=4, mlp_only_layers=(1,)))
    lines = [line for line in mixed.table().splitlines() if "decoder_layer" in line]
    assert ["x 2" in line for line in lines] == [False, False, True]


def test_the_table_of_an_empty_trace_is_its_heading():
    assert Trace().table().split() == ["function", "in", "out"]


# ---- what is not there when it is off -----------------------------------------------------------


def test_without_a_trace_a_pass_runs_under_no_profile_function():
    config, seen = small_config(), []

    def norm(*args):
        seen.append(sys.getprofile())
        return rms_norm(*args)

    ids, weights = random_tokens(config, 1, 3), random_weights(config)
    with trace() as found:
        forward(weights, ids, config, ops=model_module.Ops(norm=norm))
    assert None not in seen and len(found["rms_norm"]) == len(seen)
    seen.clear()
    forward(weights, ids, config, ops=model_module.Ops(norm=norm))
    assert set(seen) == {None}


def test_the_code_of_the_model_has_no_decorator_and_does_not_know_of_tracing():
    source = inspect.getsource(model_module)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert len(functions) >= len(WATCHED) and not any(function.decorator_list for function in functions)
    assert not [word for word in ("trace", "setprofile", "hook") if word in source]


COMPILE = """
import inspect, torch
from qwen3_scratch import rms_norm, trace
from qwen3_scratch.fast.eager import LONG
from qwen3_scratch.tracing import WATCHED
assert all(inspect.unwrap(function) is function for function in WATCHED)
x, weight = torch.randn(3, 8), torch.randn(8)
expected = rms_norm(x, weight, 1e-6)
compiled = torch.compile(rms_norm, fullgraph=True, backend='aot_eager')
torch.testing.assert_close(compiled(x, weight, 1e-6), expected)
with trace() as found:
    torch.testing.assert_close(compiled(x, weight, 1e-6), expected)
    rms_norm(x, weight, 1e-6)
assert len(found["rms_norm"]) == 1, "what runs inside a compiled graph is no Python call"
torch.testing.assert_close(compiled(x, weight, 1e-6), expected)
torch.testing.assert_close(compiled(x[:2], weight, 1e-6), expected[:2])
print("compiled")
"""


def test_a_function_compiles_as_one_graph_before_during_and_after_a_trace():
    """In a process of its own: the check of shapes, which this one may run under, and the compiler do not mix.

    `aot_eager` captures the whole graph as the default back end does, and needs no C++ compiler.
    """
    said = finished("-c", COMPILE, env={"JAXTYPING_DISABLE": "1"})
    assert (said.code, said.out) == (0, "compiled\n"), said.err
