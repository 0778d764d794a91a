"""A dense model turned into a mixture of experts says the same, here and in transformers."""

import pytest
import torch
from reference import assert_near, dense_config, random_tokens, random_weights, small_config
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM

from qwen3_scratch import Checkpoint, Config, Error, forward, read_config, save_checkpoint
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.learning.upcycling import mix, side_by_side, upcycle
from qwen3_scratch.model import Ops, Route

DENSE = dense_config(tie_word_embeddings=True)
WEIGHTS = random_weights(DENSE)
TOKENS = random_tokens(DENSE, 2, 24)


def logits(weights, config):
    return forward(weights, TOKENS, config)


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 1), (2, 2), (5, 3)])
@pytest.mark.parametrize("seed", [0, 1, None])
def test_an_upcycled_model_says_what_the_dense_one_says(experts, top_k, seed):
    assert_near(logits(*upcycle(WEIGHTS, DENSE, experts, top_k=top_k, seed=seed)), logits(WEIGHTS, DENSE))


def test_without_renormalising_top_1_it_says_something_else():
    found = logits(*upcycle(WEIGHTS, DENSE, 2, norm_topk_prob=False))
    assert (found - logits(WEIGHTS, DENSE)).abs().max() > 0.05 * found.abs().max()


def test_without_renormalising_all_experts_together_still_sum_to_one():
    assert_near(logits(*upcycle(WEIGHTS, DENSE, 2, top_k=2, norm_topk_prob=False)), logits(WEIGHTS, DENSE))


def test_down_proj_times_the_experts_mends_a_zero_router_without_renormalising():
    weights, config = upcycle(WEIGHTS, DENSE, 4, norm_topk_prob=False, seed=None)
    layers = tuple(layer._replace(down_proj=4 * layer.down_proj) for layer in weights.layers)
    assert_near(logits(weights._replace(layers=layers), config), logits(WEIGHTS, DENSE))


def test_transformers_loads_it_and_says_what_its_dense_model_says(tmp_path):
    save_checkpoint(Checkpoint(DENSE, WEIGHTS), tmp_path / "dense")
    save_checkpoint(Checkpoint(*reversed(upcycle(WEIGHTS, DENSE, 2))), tmp_path / "sparse")
    theirs = [AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("dense", "sparse")]
    assert [type(model) for model in theirs] == [Qwen3ForCausalLM, Qwen3MoeForCausalLM]
    with torch.no_grad():
        dense, sparse = (model(TOKENS).logits for model in theirs)
    assert_near(sparse, dense)
    assert_near(dense, logits(WEIGHTS, DENSE))
    assert read_config(tmp_path / "sparse") == upcycle(WEIGHTS, DENSE, 2)[1]


def test_the_dense_weights_are_not_shared_with_the_experts():
    before = [tensor.clone() for tensor in tensor_tree(WEIGHTS)]
    weights, _ = upcycle(WEIGHTS, DENSE, 2)
    for layer in weights.layers:
        layer.gate_up_proj[0].zero_()
        layer.down_proj[0].zero_()
        assert layer.gate_up_proj[1].any()
    assert all(torch.equal(old, new) for old, new in zip(before, tensor_tree(WEIGHTS), strict=True))


def test_the_seed_decides_the_routers_and_none_leaves_them_zero():
    routers = {seed: upcycle(WEIGHTS, DENSE, 2, seed=seed)[0].layers[0].router for seed in (0, 1, None)}
    assert torch.equal(routers[0], upcycle(WEIGHTS, DENSE, 2, seed=0)[0].layers[0].router)
    assert not torch.equal(routers[0], routers[1])
    assert not routers[None].any()


def test_qwen3_0_6b_with_two_experts_has_the_size_of_huihui_moe():
    sizes = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=3072, tie_word_embeddings=True)
    config = Config("qwen3_moe", 151936, 1024, 3072, 28, 16, 8, 128, **sizes)
    assert config.num_parameters() == 860_348_416
    assert config.num_parameters(active=True) == 596_107_264


def test_a_window_of_all_layers_is_kept_and_one_that_no_layer_has_is_dropped(tmp_path):
    kinds = dict(use_sliding_window=True, sliding_window=8)
    for first, window in ((0, 8), (3, None)):
        dense = dense_config(max_window_layers=first, **kinds)
        weights, config = upcycle(random_weights(dense), dense, 2)
        assert [config.window(layer) for layer in range(3)] == [window] * 3
        save_checkpoint(Checkpoint(config, weights), tmp_path / str(first))
        assert read_config(tmp_path / str(first)).layer_types == config.layer_types


def everyone(share):
    """A route to all experts, each with the same weight."""

    def route(x, router, top_k, norm_topk_prob):
        numbers = torch.arange(len(router)).expand(len(x), -1)
        return Route(torch.full(numbers.shape, share), numbers, x @ router.T)

    return Ops(route=route)


@pytest.mark.parametrize("dense_layers", [(), (1,)])
def test_experts_side_by_side_say_what_all_of_them_say_with_the_same_weight(dense_layers):
    config = small_config(mlp_only_layers=dense_layers)
    weights, ids = random_weights(config), random_tokens(config, 2, 24)
    dense, dense_config = side_by_side(weights, config, 0.3)
    assert not dense_config.num_experts and all(layer.router is None for layer in dense.layers)
    assert_near(forward(dense, ids, dense_config), forward(weights, ids, config, ops=everyone(0.3)))


def test_a_dense_model_side_by_side_is_itself():
    dense, config = side_by_side(WEIGHTS, DENSE, 0.3)
    assert config.intermediate_size == DENSE.intermediate_size
    assert_near(logits(dense, config), logits(WEIGHTS, DENSE))


@pytest.mark.parametrize("number", [0, 1])
def test_where_all_tokens_go_to_one_of_the_mixed_experts_the_model_says_what_that_one_says(number):
    others = [random_weights(DENSE, seed) for seed in (1, 2)]
    experts = [WEIGHTS._replace(layers=tuple(
        own._replace(gate_up_proj=other.gate_up_proj, down_proj=other.down_proj)
        for own, other in zip(WEIGHTS.layers, tuned.layers, strict=True)
    )) for tuned in others]  # fmt: skip
    newborn, config = upcycle(WEIGHTS, DENSE, 2)

    def there(x, router, top_k, norm_topk_prob):
        return Route(torch.ones(len(x), 1), torch.full((len(x), 1), number), x @ router.T)

    found = forward(mix(newborn, experts), TOKENS, config, ops=Ops(route=there))
    assert_near(found, logits(experts[number], DENSE))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (small_config(), {}, "upcycle: the model has 8 experts, expected a dense one"),
        (DENSE, {"num_experts": 0}, "num_experts is 0, expected at least 1"),
        (DENSE, {"top_k": 3}, "num_experts_per_tok is 3, expected 1 to num_experts, which is 2"),
        (dense_config(use_sliding_window=True, sliding_window=8, max_window_layers=1), {}, "layer_types differ"),
    ],
)
def test_what_cannot_be_upcycled_is_said(config, options, message):
    with pytest.raises(Error, match=message):
        upcycle(random_weights(config), config, **{"num_experts": 2, **options})
