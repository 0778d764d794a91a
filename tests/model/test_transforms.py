"""What torch does to functions and trees: derivatives, batching, export, compiling, pickling: each gives what it must.

`moe` asks how many tokens each expert got, which neither vmap nor a whole graph can follow; `moe_gathered` stands in.
"""

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers import unchecked
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from tiers import in_proof
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._pytree import tree_leaves, tree_map_only

from qwen3_scratch import (
    Error,
    KVCache,
    Ops,
    Weights,
    attention_mask,
    attention_weights,
    embed,
    expert_ffn,
    forward,
    generate,
    gqa_attention,
    load_balancing_loss,
    load_checkpoint,
    moe,
    moe_route,
    rms_norm,
    rope,
    rope_table,
)
from qwen3_scratch.fast import compiled, int8
from qwen3_scratch.fast.dispatch import moe_gathered
from qwen3_scratch.learning.training import gradients
from qwen3_scratch.trust.arguments import checked

CONFIG = small_config(num_hidden_layers=2, mlp_only_layers=(1,))
WEIGHTS, IDS = random_weights(CONFIG), random_tokens(CONFIG, 3, 7)
GATHERED = Ops(moe=moe_gathered)


def loss(weights: Weights) -> Tensor:
    return forward(weights, IDS, CONFIG).square().mean()


# ---- derivatives -----------------------------------------------------------------------------


def test_torch_func_gives_the_gradients_that_backward_gives_and_none_where_there_is_no_weight():
    found = gradients(loss, WEIGHTS)
    assert found.layers[0].q_bias is None and found.layers[1].router is None
    leaves = tree_map_only(Tensor, lambda tensor: tensor.clone().requires_grad_(), WEIGHTS)
    loss(leaves).backward()
    pairs = [pair for pair in zip(tree_leaves(found), tree_leaves(leaves), strict=True) if pair[0] is not None]
    assert len(pairs) == 2 * 10 + 1 + 3
    for one, other in pairs:
        assert_near(one, other.grad)


def test_torch_func_gives_the_gradient_by_a_tree_without_gaps():
    norms = [layer.input_layernorm for layer in WEIGHTS.layers]

    def of_norms(norms):
        layers = [layer._replace(input_layernorm=norm) for layer, norm in zip(WEIGHTS.layers, norms, strict=True)]
        return loss(WEIGHTS._replace(layers=tuple(layers)))

    expected = gradients(loss, WEIGHTS)
    for found, layer in zip(torch.func.grad(of_norms)(norms), expected.layers, strict=True):
        assert_near(found, layer.input_layernorm)


def wide(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


SEEN = attention_mask(torch.arange(3)[None], torch.arange(3)[None])
TABLE = tuple(part.double() for part in rope_table(CONFIG, torch.arange(3)[None]))
STEPS = {
    "rms_norm": (lambda x, weight: rms_norm(x, weight, 1e-6), (2, 4), (4,)),
    "rope": (lambda x: rope(x, *TABLE), (1, 2, 3, 16)),
    "attention_weights": (lambda q, k: attention_weights(q, k, SEEN), (1, 4, 3, 4), (1, 2, 3, 4)),
    "gqa_attention": (lambda q, k, v: gqa_attention(q, k, v, SEEN), (1, 4, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)),
    "gqa_attention of one query": (gqa_attention, (1, 4, 1, 4), (1, 2, 3, 4), (1, 2, 3, 4)),
    "moe_route": (lambda x, router: moe_route(x, router, 2, True)[::2], (3, 4), (5, 4)),
    "moe_route, raw": (lambda x, router: moe_route(x, router, 2, False).weights, (3, 4), (5, 4)),
    "expert_ffn": (expert_ffn, (3, 4), (5, 4), (5, 4), (4, 5)),
    "moe": (lambda x, router, up, down: moe(x, moe_route(x, router, 2, True), up, down), (3, 4), (5, 4), (5, 6, 4),
            (5, 4, 3)),
    "embed": (lambda table: embed(torch.tensor([[0, 2, 2]]), table), (4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_derivatives_equal_differences_in_fp64(name):
    """Numbers of fp64 stay so: narrowed to fp32 anywhere, differences of 1e-6 would be noise."""
    function, *shapes = STEPS[name]
    assert gradcheck(function, [wide(*shape) for shape in shapes])


def test_a_pass_in_fp64_is_in_fp64_throughout():
    """But for the angles of rope, which are fp32 in the reference, too: they are the same in both runs."""
    double = tree_map_only(Tensor, Tensor.double, WEIGHTS)
    found = forward(double, IDS, CONFIG)
    assert found.dtype == torch.float64
    assert_near(found.float(), forward(WEIGHTS, IDS, CONFIG))
    moved = forward(double._replace(embed_tokens=double.embed_tokens * (1 + 1e-12)), IDS, CONFIG)
    assert 1e-14 < (moved - found).abs().max() / found.abs().max() < 1e-10  # fp32 anywhere would swallow that
    assert load_balancing_loss([wide(6, 4)], 4, 2).dtype == torch.float64


# ---- batching and whole graphs ---------------------------------------------------------------


def test_vmap_over_texts_equals_a_batch():
    def of_one(ids: Tensor) -> Tensor:
        return forward(WEIGHTS, ids[None], CONFIG, ops=GATHERED)[0]

    assert_near(torch.func.vmap(of_one)(IDS), forward(WEIGHTS, IDS, CONFIG))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_steps_that_ask_for_values_names_those_that_ask_for_none():
    with unchecked(), pytest.raises(Error, match=r"^forward: torch\.func transforms it, .*\.moe_gathered\)$"):
        torch.func.vmap(lambda ids: forward(WEIGHTS, ids[None], CONFIG))(IDS)


def test_vmap_over_models_runs_each_of_them():
    several = [random_weights(dense_config(num_hidden_layers=1), seed) for seed in range(3)]
    tensors = [[leaf for leaf in tree_leaves(weights) if leaf is not None] for weights in several]
    stacked = [torch.stack(each) for each in zip(*tensors, strict=True)]

    def of_one(leaves: list[Tensor]) -> Tensor:
        filled = iter(leaves)
        weights = tree_map_only(Tensor, lambda _: next(filled), several[0])
        return forward(weights, IDS, dense_config(num_hidden_layers=1))

    for found, weights in zip(torch.func.vmap(of_one)(stacked), several, strict=True):
        assert_near(found, forward(weights, IDS, dense_config(num_hidden_layers=1)))


class Module(torch.nn.Module):
    def forward(self, token_ids: Tensor) -> Tensor:
        return forward(WEIGHTS, token_ids, CONFIG, ops=GATHERED)


@pytest.mark.compiled
def test_an_exported_program_gives_the_logits_at_any_length():
    batch, seq = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "seq"))
    program = torch.export.export(Module(), (IDS,), dynamic_shapes=({0: batch, 1: seq},))
    for shape in ((3, 7), (2, 12), (5, 2)):
        ids = random_tokens(CONFIG, *shape)
        assert_near(program.module()(ids), forward(WEIGHTS, ids, CONFIG))


@pytest.mark.compiled
@pytest.mark.parametrize("kv_heads", [in_proof(1), 2, in_proof(4)])
def test_one_whole_graph_of_symbolic_sizes_gives_the_logits(kv_heads):
    """Traced whole, and run by torch's own operations: what a compiler makes of them is its own affair."""
    config = small_config(num_hidden_layers=1, num_key_value_heads=kv_heads, use_sliding_window=True, sliding_window=4)
    weights = random_weights(config)
    whole = torch.compile(forward, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((2, 6), (1, 9), (3, 2)):
        ids = random_tokens(config, *shape)
        assert_near(whole(weights, ids, config, ops=GATHERED), forward(weights, ids, config))


class Step(torch.nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]):
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


TRACED = {
    "compiled": lambda step: torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2)),
    "exported": lambda step: torch.export.export(Step(step), (torch.ones(2),)).module()(torch.ones(2)),
}


@pytest.mark.compiled
@pytest.mark.parametrize("trace", TRACED.values(), ids=TRACED)
def test_while_torch_compiles_or_exports_nothing_is_asked_of_arguments(trace):
    """It would be traced with the rest: of `forward` that takes minutes."""
    asked = []
    step = checked(lambda x: x + 1, asked.append)
    assert trace(step).tolist() == [2.0, 2.0]
    assert asked == []
    step(torch.ones(2))
    assert len(asked) == 1


# ---- copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deep", "pickle"]
)
def test_copies_of_weights_config_functions_and_cache_do_what_the_first_do(copied):
    cache = KVCache(CONFIG, 3, 9)
    forward(WEIGHTS, IDS[:, :5], CONFIG, cache=cache)
    weights, config, function, ops, other = copied((WEIGHTS, CONFIG, forward, GATHERED, cache))
    assert function is forward and ops == GATHERED and config == CONFIG and type(weights) is Weights
    assert weights.norm is not WEIGHTS.norm
    found = function(weights, IDS[:, 5:], config, cache=other, ops=ops)
    assert_near(found, forward(WEIGHTS, IDS, CONFIG)[:, 5:])
    assert cache.length == 5
    for step in (rms_norm, rope, moe_route, embed, Ops().table):
        assert copied(step) is step


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deep", "pickle"]
)
@pytest.mark.parametrize("form", [lambda one: one, compiled, int8], ids=["plain", "compiled", "int8"])
def test_a_copy_of_a_checkpoint_answers_as_the_first_and_is_another(form, copied):
    model = form(load_checkpoint("tiny"))
    other = copied(model)
    assert other != model and len({model, other}) == 2
    assert other.weights.norm is not model.weights.norm and type(other.decoder) is type(model.decoder)
    chat = [{"role": "user", "content": "Where is Tom?"}]
    assert other.tokenizer.encode_chat(chat) == model.tokenizer.encode_chat(chat)
    plain = [dataclasses.replace(each, decoder=None) for each in (model, other)]  # without a warm-up
    assert generate(plain[1], chat, max_new_tokens=5) == generate(plain[0], chat, max_new_tokens=5)
