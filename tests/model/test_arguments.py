"""Every public function, with any argument of a wrong kind, shape, range, type or device: one sentence, or right.

The wrong arguments follow from the signature: whatever it says of an argument is broken, one thing at a time.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers import unchecked
from reference import assert_near, random_tokens, random_weights, small_config
from torch import Tensor

import qwen3_scratch
from qwen3_scratch import Error, KVCache, Ops, Route, forward, load_balancing_loss
from qwen3_scratch.model import attention_mask, moe_route, rope_table

CONFIG = small_config()
WEIGHTS = random_weights(CONFIG)
LAYER, IDS = WEIGHTS.layers[0], random_tokens(CONFIG, 2, 6)
COUNT = torch.arange(6).expand(2, -1)
TABLE, SEEN = rope_table(CONFIG, COUNT), attention_mask(COUNT, COUNT)
Q, K, X = torch.randn(2, 4, 6, 16), torch.randn(2, 2, 6, 16), torch.randn(2, 6, 32)
TOKENS = X.flatten(0, 1)
RIGHT: dict[str, dict[str, Any]] = {
    "embed": dict(token_ids=IDS, embed_tokens=WEIGHTS.embed_tokens),
    "rms_norm": dict(x=X, weight=LAYER.input_layernorm, eps=1e-6),
    "rope_table": dict(config=CONFIG, positions=COUNT),
    "rope": dict(x=Q, cos=TABLE[0], sin=TABLE[1]),
    "attention_mask": dict(positions=COUNT, key_positions=COUNT, window=3),
    "attention_weights": dict(q=Q, k=K, mask=SEEN),
    "gqa_attention": dict(q=Q, k=K, v=K, mask=SEEN),
    "moe_route": dict(x=TOKENS, router=LAYER.router, top_k=2, norm_topk_prob=True),
    "expert_ffn": dict(x=TOKENS, gate_proj=LAYER.gate_up_proj[0, :24], up_proj=LAYER.gate_up_proj[0, 24:],
                       down_proj=LAYER.down_proj[0]),
    "moe": dict(x=TOKENS, route=moe_route(TOKENS, LAYER.router, 2, True), gate_up_proj=LAYER.gate_up_proj,
                down_proj=LAYER.down_proj),
    "decoder_layer": dict(x=X, layer=LAYER, config=CONFIG, table=TABLE, mask=SEEN),
    "forward": dict(weights=WEIGHTS, token_ids=IDS, config=CONFIG, attention_mask=torch.ones(2, 6), positions=COUNT,
                    cache=None, logits_to_keep=2),
    "load_balancing_loss": dict(router_logits=[torch.randn(12, 8)] * 2, num_experts=8, top_k=2,
                                attention_mask=torch.ones(2, 6)),
}  # fmt: skip
HALF = 2.5
OF_NO_KIND = (
    "three",
    object(),
    {"a": 1},
    [1, 2],
    HALF,
    float("nan"),
    -1,
    1 + 2j,
    b"1",
    np.ones(3),
    torch.ones(7, 7, 7),
)


def call(name: str, **changes: Any) -> Any:
    return getattr(qwen3_scratch, name)(**(RIGHT[name] | changes))


def kind_of(name: str, argument: str) -> tuple[Any, bool]:
    """The annotation without None, and whether None does."""
    kind = inspect.signature(getattr(qwen3_scratch, name)).parameters[argument].annotation
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return (kinds[0], True) if type(None) in get_args(kind) else (kind, False)


def wrong_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The same with one size less or more, one dimension more or less, of other kinds."""
    for dim in range(tensor.ndim):
        yield torch.cat([tensor, tensor], dim)
        yield tensor.narrow(dim, 0, tensor.shape[dim] - 1)
    yield tensor[None]
    yield tensor[0]
    yield tensor.to(torch.complex64)
    yield tensor.long() if tensor.is_floating_point() else tensor.float()


WRONG = [(name, argument) for name, arguments in RIGHT.items() for argument in arguments]


def finite(found: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(found)
    return all(leaf.isfinite().all() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


@pytest.mark.parametrize(("name", "argument"), WRONG)
def test_what_is_no_such_argument_at_all_ends_in_one_sentence(name, argument):
    optional = kind_of(name, argument)[1] or argument in ("attention_mask", "cache")
    as_good = {"eps": (HALF,)}.get(argument, ())
    for wrong in (*OF_NO_KIND, *(() if optional else (None,))):
        if any(wrong is each for each in as_good):
            continue
        with unchecked(), pytest.raises(Error) as raised:
            call(name, **{argument: wrong})
        said = str(raised.value)
        assert said.startswith(name) and argument in said and "expected" in said and "\n" not in said, said


TENSORS = [(name, argument) for name, argument in WRONG if isinstance(RIGHT[name][argument], Tensor)]


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_a_tensor_of_another_shape_or_kind_ends_in_one_sentence_or_is_as_good(name, argument):
    """As good is: sizes that no other argument shares. Then what comes out has them, too, and is finite."""
    refused = 0
    for wrong in wrong_tensors(RIGHT[name][argument]):
        try:
            with unchecked():
                found = call(name, **{argument: wrong})
        except Error as error:
            said, refused = str(error), refused + 1
            assert said.startswith((name, "attention: ")) and "expected" in said and "\n" not in said, said
        else:
            assert wrong.ndim == RIGHT[name][argument].ndim or "*" in kind_of(name, argument)[0].dim_str, wrong.shape
            assert finite(found)
    assert refused >= 2


FLOATING = [
    (name, argument)
    for name, argument in TENSORS
    if RIGHT[name][argument].is_floating_point() and argument != "attention_mask"  # which may be of any type
]


@pytest.mark.parametrize("other", ["meta", torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "argument"), FLOATING)
def test_tensors_of_two_types_or_devices_end_in_one_sentence_or_in_the_wider_type(name, argument, other):
    try:
        with unchecked():
            found = call(name, **{argument: RIGHT[name][argument].to(other)})
    except Error as error:
        assert "expected one type and one device" in str(error)
    else:
        # which multiply, and so widen, as the reference's do
        assert name in ("rms_norm", "rope", "embed", "decoder_layer")
        assert isinstance(found, Tensor)


NUMBERS: list[Callable[[int], Any]] = [np.int64, np.int32, np.uint8, torch.tensor]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_numpy_and_torch_count_as_numbers(number):
    for name, argument in (
        ("moe_route", "top_k"), ("attention_mask", "window"), ("forward", "logits_to_keep"),
        ("load_balancing_loss", "top_k"), ("load_balancing_loss", "num_experts"),
    ):  # fmt: skip
        with unchecked():
            found, expected = call(name, **{argument: number(RIGHT[name][argument])}), call(name)
        for one, other in zip(*map(torch.utils._pytree.tree_leaves, (found, expected)), strict=True):
            assert torch.equal(one, other)
    with unchecked():
        assert torch.equal(call("rms_norm", eps=np.float32(1e-6)), call("rms_norm", eps=float(np.float32(1e-6))))
        assert torch.equal(call("moe_route", norm_topk_prob=np.bool_(True)).weights, call("moe_route").weights)
        assert KVCache(CONFIG, number(2), number(8), chunk=number(3)).max_length == 8


@pytest.mark.parametrize("number", [0, -1, True, "2", 1.0, None])
def test_a_count_that_is_none_ends_in_one_sentence(number):
    for name, argument in (
        ("moe_route", "top_k"),
        ("attention_mask", "window"),
        ("load_balancing_loss", "num_experts"),
    ):
        if (argument, number) != ("window", None):
            with (
                unchecked(),
                pytest.raises(Error, match=f"{name}: {argument} is .*, expected a whole number of at least 1"),
            ):
                call(name, **{argument: number})
    for argument in ("batch", "max_length"):
        with unchecked(), pytest.raises(Error, match=f"cache: {argument} is .*, expected a whole number"):
            KVCache(CONFIG, **(dict(batch=2, max_length=8) | {argument: number}))


# ---- forward ---------------------------------------------------------------------------------

WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "token ids that are no whole numbers": (dict(token_ids=IDS.float()), "token_ids is of type torch.float32"),
    "a list of token ids": (dict(token_ids=[[1, 2]]), "token_ids is .*, expected a int tensor"),
    "one row without a batch": (dict(token_ids=IDS[0]), r"token_ids has shape \[6\]"),
    "a batch of no rows": (dict(token_ids=IDS[:0]), "at least one token"),
    "embedded tokens of another width": (dict(token_ids=None, inputs_embeds=X[..., :30]), r"inputs_embeds has shape"),
    "embedded tokens of another type": (dict(token_ids=None, inputs_embeds=X.double()), "inputs_embeds is of type"),
    "embedded tokens of whole numbers": (dict(token_ids=None, inputs_embeds=X.long()), "inputs_embeds is of type"),
    "positions that are no whole numbers": (dict(positions=COUNT.float()), "positions is of type"),
    "positions of one row": (dict(positions=COUNT[0]), "positions has shape"),
    "positions of another length": (dict(positions=COUNT[:, :5]), "positions has shape"),
    "the weights of another model": (
        dict(weights=WEIGHTS._replace(layers=WEIGHTS.layers[:2])),
        "weights have 2 layers",
    ),
    "a config of another model": (dict(config=small_config(hidden_size=64)), "weights have 3 layers of 32 numbers"),
    "no cache at all": (dict(cache={}), "cache is a dict, expected a KVCache"),
    "a cache for another batch": (dict(cache=KVCache(CONFIG, 3, 9)), "2 rows arrived, expected 3"),
    "a cache in another type": (dict(cache=KVCache(CONFIG, 2, 9, dtype=torch.bfloat16)), "cache: is torch.bfloat16 on"),
    "a cache on another device": (dict(cache=KVCache(CONFIG, 2, 9, device="meta")), "cache: is torch.float32 on meta"),
    "a cache of other heads": (dict(cache=KVCache(small_config(num_key_value_heads=4), 2, 9)), "other layers or heads"),
    "a cache of fewer layers": (dict(cache=KVCache(small_config(num_hidden_layers=2), 2, 9)), "other layers or heads"),
    "logits of a number that is none": (dict(logits_to_keep=1.0), "logits_to_keep is 1.0"),
    "a step that is no function": (dict(ops=Ops(norm=3)), r"ops\.norm is 3, expected a function: leave it out"),
    "a step that is None": (dict(ops=Ops(route=None)), r"ops\.route is None, expected a function"),
}


@pytest.mark.parametrize("what", WRONG_INPUTS)
def test_forward_names_what_does_not_go_with_the_rest(what):
    changes, message = WRONG_INPUTS[what]
    arguments = dict(weights=WEIGHTS, token_ids=IDS, config=CONFIG) | changes
    with unchecked(), pytest.raises(Error, match=message) as raised:
        forward(**arguments)
    assert "\n" not in str(raised.value)


def test_a_cache_that_is_refused_stays_as_it_was():
    cache = KVCache(CONFIG, 2, 12)
    forward(WEIGHTS, IDS, CONFIG, cache=cache)
    with pytest.raises(Error, match=r"cache: is torch.float32"):
        forward(torch.utils._pytree.tree_map_only(Tensor, Tensor.double, WEIGHTS), IDS, CONFIG, cache=cache)
    assert cache.length == 6
    found = forward(WEIGHTS, IDS, CONFIG, cache=cache)
    assert_near(found, forward(WEIGHTS, torch.cat([IDS, IDS], 1), CONFIG)[:, 6:])


def test_what_shall_reach_every_matrix_goes_into_four_steps():
    """A quantiser or adapter: each product is noted once, and none is missed, as the docstring of Ops says."""
    seen: list[Tensor] = []

    def noted(step: Callable[..., Any], first: int, last: int) -> Callable[..., Any]:
        def with_note(*arguments: Any) -> Any:
            seen.extend(arguments[first:last])
            return step(*arguments)

        return with_note

    own = Ops()
    ops = Ops(
        linear=noted(own.linear, 1, 2),
        route=noted(own.route, 1, 2),
        expert=noted(own.expert, 1, 4),
        head=noted(own.head, 1, 2),
    )
    config = small_config(mlp_only_layers=(1,), num_experts_per_tok=8, num_hidden_layers=2)
    weights = random_weights(config)
    forward(weights, IDS, config, ops=ops)
    places = {tensor.data_ptr() for tensor in seen}
    for layer in weights.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "router", "gate_up_proj", "down_proj"):
            matrix = getattr(layer, name)
            for part in () if matrix is None else matrix if matrix.ndim == 3 else [matrix]:
                assert part.data_ptr() in places, name
    assert weights.lm_head is not None and weights.lm_head.data_ptr() in places


def test_an_expert_that_is_not_there_ends_in_one_sentence():
    route = Route(torch.ones(12, 1), torch.full((12, 1), 8), torch.zeros(12, 9))
    with pytest.raises(Error, match=r"moe: .* expected"):
        call("moe", route=route)


def test_every_public_function_of_the_model_is_held_to_its_signature():
    """Of functions that are public; the rooms of the others hold theirs."""
    names = {name for name in qwen3_scratch.__all__ if getattr(getattr(qwen3_scratch, name), "__wrapped__", None)}
    assert names >= RIGHT.keys() - {"forward", "load_balancing_loss"}
    assert load_balancing_loss([torch.randn(3, 4)], 4, 1) > 0
