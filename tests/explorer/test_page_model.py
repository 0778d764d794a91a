"""The model of the page computes what model.py computes on the same rounded weights: V8 beside PyTorch."""

import functools

import pytest
import torch
from helpers import TINY, checkpoint
from page_model import PageModel
from reference import ROPES, distance, random_tokens, random_weights, small_config

from qwen3_scratch import Checkpoint, KVCache, Ops, forward, gqa_attention, load_checkpoint, moe_route, trace
from qwen3_scratch.explorer.packing import as_read
from qwen3_scratch.inside.compare import CACHED, read
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.model import Route
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import questions

RIGHT = Ops()
NEAR = 1e-4  # of the largest logit
MODELS = {
    "dense": dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0),
    "16 experts, windows, one dense layer": dict(
        num_experts=16, num_experts_per_tok=4, num_hidden_layers=3, mlp_only_layers=(1,), use_sliding_window=True,
        sliding_window=8, head_dim=20),
    "biases": dict(attention_bias=True, norm_topk_prob=False),
    "a head of its own": dict(tie_word_embeddings=False, num_key_value_heads=1),
}  # fmt: skip


@functools.cache
def tiny(bits: int = 16) -> PageModel:
    return PageModel(load_checkpoint(TINY), bits, ends=False)


@functools.cache
def random_model(name: str) -> PageModel:
    return PageModel(checkpoint(seed=5, **MODELS[name]))


def asked(count: int) -> list[str]:
    """So many questions, in turn of each domain."""
    each = [questions(domain, -(-count // len(DOMAINS))) for domain in DOMAINS]
    return [example.messages[-1]["content"] for row in zip(*each, strict=True) for example in row][:count]


def own_logits(model: PageModel, ids: list[int], ops: Ops = RIGHT):
    config = model.checkpoint.config
    return forward(model.checkpoint.weights, torch.tensor([ids]), config, ops=ops)[0]


def own_greedy(model: PageModel, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, through the cache, of those that the tokenizer knows."""
    ck, found = model.checkpoint, []
    cache, new = KVCache(ck.config, 1, len(ids) + count), torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            logits = forward(ck.weights, new, ck.config, cache=cache, logits_to_keep=1)
            new = logits[..., : ck.tokenizer.vocab_size].argmax(-1)
            found.append(int(new))
    return found


def own_routes(model: PageModel, ids: list[int]) -> list[list[list[int] | None]]:
    """[token][layer] -> experts, the strongest first."""
    with trace() as t:
        own_logits(model, ids)
    found = {call.layer: call.output.experts.tolist() for call in t["moe_route"]}
    layers = range(model.checkpoint.config.num_hidden_layers)
    return [[found[layer][token] if layer in found else None for layer in layers] for token in range(len(ids))]


@pytest.mark.parametrize("bits", [16, 8])
def test_logits_of_the_embedded_checkpoint_are_those_of_pytorch(bits):
    model = tiny(bits)
    for text in asked(20 if bits == 16 else 4):
        ids = model("qwen3.promptIds(text)", text=text)
        found = model.logits(ids)
        assert distance(found, own_logits(model, ids)) <= NEAR
        assert model("qwen3.forward(ids)", ids=ids) == found[-1].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_every_kind_of_model_are_those_of_pytorch(name):
    model = random_model(name)
    for seed in range(5):
        ids = random_tokens(model.checkpoint.config, 40, seed=seed).tolist()
        assert distance(model.logits(ids), own_logits(model, ids)) <= NEAR


@pytest.mark.parametrize("name", [None, *MODELS])
def test_sixty_four_greedy_tokens_and_their_routes_are_those_of_pytorch(name):
    model = random_model(name) if name else tiny()
    for text in asked(2):
        found = model("qwen3.generate(text, {maxNewTokens: 64, temperature: 0})", text=text)
        ids = model("qwen3.promptIds(text)", text=text)
        assert found["tokenIds"] == own_greedy(model, ids, 64)
        routes = [[layer and layer["experts"] for layer in token] for token in found["routes"]]
        assert routes == own_routes(model, [*ids, *found["tokenIds"][:-1]])


def test_weights_of_a_route_are_those_of_pytorch():
    model, text = tiny(), "What is the capital of France?"
    found = model("qwen3.generate(text, {maxNewTokens: 1})", text=text)["routes"]
    with trace() as t:
        own_logits(model, model("qwen3.promptIds(text)", text=text))
    for call in t["moe_route"]:
        own = torch.tensor([token[call.layer]["weights"] for token in found])
        assert distance(own, call.output.weights) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_text_read_in_pieces_through_the_cache_gives_the_logits_of_one_pass(name):
    model = random_model(name)
    ids = random_tokens(model.checkpoint.config, 30, seed=9).tolist()
    pieces = """(() => { const cache = new KVCache(model.config.num_hidden_layers);
      const parts = [ids.slice(0, 11), ids.slice(11, 12), ids.slice(12)];
      const read = (part) => [...forward(model.weights, part, model.config, {cache})];
      return Float32Array.from(parts.flatMap(read)); })()"""
    found = model.floats(pieces, ids=ids).view(30, -1)
    assert distance(found, model.logits(ids)) <= 1e-6


@pytest.mark.parametrize("name", ROPES)
def test_every_rotary_setting_turns_as_in_pytorch(name):
    rope = {"rope_theta": 10000.0, **ROPES[name]}
    model = PageModel(checkpoint(seed=6, rope_parameters=rope, max_position_embeddings=24, num_hidden_layers=1))
    ids = random_tokens(model.checkpoint.config, 40, seed=1).tolist()
    assert distance(model.logits(ids), own_logits(model, ids)) <= NEAR


def test_a_pass_makes_the_mask_once_for_each_kind_of_layer():
    model = random_model("16 experts, windows, one dense layer")
    ask = """(() => { const made = [];
      const mask = (queries, keys, window) => { made.push(window); return attentionMask(queries, keys, window); };
      forward(model.weights, [1, 2, 3], model.config, {ops: {...OPS, mask}});
      return made; })()"""
    config = model.checkpoint.config
    assert sorted(map(str, model(ask))) == sorted({str(config.window(at)) for at in range(config.num_hidden_layers)})


# ---- what is changed on purpose -----------------------------------------------------------------

WITHOUT_PADDING = [name for name in MISTAKES if not name.startswith("pads_")]


def test_the_page_has_every_mistake_that_a_single_text_can_show():
    assert tiny()("Object.keys(MISTAKES)") == WITHOUT_PADDING


@functools.cache
def mistaken(changes: tuple) -> PageModel:
    sizes = dict(num_attention_heads=8, head_dim=16, num_key_value_heads=4, num_experts=8, num_experts_per_tok=2)
    return PageModel(checkpoint(seed=7, **{**sizes, **dict(changes)}))


@pytest.mark.parametrize("mistake", WITHOUT_PADDING)
def test_a_mistake_gives_the_logits_that_it_gives_in_pytorch(mistake):
    setting = MISTAKES[mistake].shows_in
    model = mistaken(tuple(setting.config.items()))
    ids = random_tokens(model.checkpoint.config, 40, seed=2).tolist()
    ck, text = model.checkpoint, torch.tensor([ids])
    own = read(MISTAKES[mistake].forward, ck.weights, text, ck.config, CACHED)[0]
    passes = """(() => { const {ops} = changed(model.config, {mistakes: [mistake]});
      const cache = new KVCache(model.config.num_hidden_layers);
      const parts = [ids.slice(0, 20), ...ids.slice(20).map((id) => [id])];
      const read = (part) => [...forward(model.weights, part, model.config, {cache, ops})];
      return Float32Array.from(parts.flatMap(read)); })()"""
    found = model.floats(passes, ids=ids, mistake=mistake).view(40, -1)
    # bf16 rounds to one side or the other of a number that lies between: a last digit more decides.
    assert distance(found, own) <= (2e-2 if mistake == "softmax_in_bf16" else NEAR)
    right = read(forward, ck.weights, text, ck.config, CACHED)[0]
    assert distance(own, right) > 1e-5 and distance(found, right) > 1e-5, "the mistake is to be seen here"


def steps(options: str) -> str:
    return f"{{ops: changed(model.config, {options}).ops}}"


def test_an_expert_that_is_off_is_missing_as_in_a_smaller_router():
    model = tiny()
    router, kept = model.checkpoint.weights.layers[2].router, torch.tensor([0, 1, 2, 4, 6, 7])

    def route(x, given, top_k, norm_topk_prob):
        found = moe_route(x, given[kept] if given is router else given, top_k, norm_topk_prob)
        return found._replace(experts=kept[found.experts]) if given is router else found

    ids = model("qwen3.promptIds('What is the capital of France?')")
    found = model.logits(ids, steps("{off: [[2, 3], [2, 5]]}"))
    assert distance(found, own_logits(model, ids, Ops(route=route))) <= NEAR
    assert distance(found, own_logits(model, ids)) > 1e-3


def test_a_forced_expert_computes_all_tokens_of_its_layer():
    model = tiny()
    router = model.checkpoint.weights.layers[1].router

    def route(x, given, top_k, norm_topk_prob):
        found = moe_route(x, given, top_k, norm_topk_prob)
        if given is not router:
            return found
        return Route(torch.ones(len(x), 1), torch.full((len(x), 1), 6), found.logits)

    ids = model("qwen3.promptIds('What is the capital of France?')")
    assert distance(model.logits(ids, steps("{force: [[1, 6]]}")), own_logits(model, ids, Ops(route=route))) <= NEAR


def test_two_experts_that_are_swapped_compute_each_others_tokens():
    model = tiny()
    router, other = model.checkpoint.weights.layers[0].router, torch.tensor([0, 4, 2, 3, 1, 5, 6, 7])

    def route(x, given, top_k, norm_topk_prob):
        found = moe_route(x, given, top_k, norm_topk_prob)
        return found._replace(experts=other[found.experts]) if given is router else found

    ids = model("qwen3.promptIds('What is the capital of France?')")
    assert distance(model.logits(ids, steps("{swap: [[0, 1, 4]]}")), own_logits(model, ids, Ops(route=route))) <= NEAR


def test_a_head_that_is_off_adds_nothing():
    model = tiny()
    seen = []

    def attention(q, k, v, mask=None):
        out = gqa_attention(q, k, v, mask)
        seen.append(None)
        if len(seen) == 4:  # the calls come layer by layer
            out[:, [2, 5]] = 0
        return out

    ids = model("qwen3.promptIds('What is the capital of France?')")
    with torch.inference_mode():
        own = own_logits(model, ids, Ops(attention=attention))
    assert distance(model.logits(ids, steps("{headsOff: [[3, 2], [3, 5]]}")), own) <= NEAR


@pytest.mark.parametrize(("k", "renormalise"), [(1, True), (1, False), (4, False), (8, True)])
def test_another_k_and_renormalising_or_not_are_what_the_config_means_by_them(k, renormalise):
    model = tiny()
    given, text = {"num_experts_per_tok": k, "norm_topk_prob": renormalise}, "What is the capital of France?"
    ck = model.checkpoint
    changed = Checkpoint(type(ck.config)(**{**vars(ck.config), **given}), ck.weights, ck.tokenizer)
    ids = model("qwen3.promptIds(text)", text=text)
    own = forward(changed.weights, torch.tensor([ids]), changed.config)[0]
    options = f"{{k: {k}, normTopkProb: {str(renormalise).lower()}}}"
    found = model.floats(f"forward(model.weights, ids, changed(model.config, {options}).config)", ids=ids)
    assert distance(found.view(own.shape), own) <= NEAR


def test_rounding_to_eight_bits_moves_no_number_by_more_than_half_a_step_of_its_row():
    weights = random_weights(small_config())
    found = as_read(weights, 8).layers[0].q_proj
    step = weights.layers[0].q_proj.abs().amax(1, keepdim=True) / 127
    assert ((found - weights.layers[0].q_proj).abs() <= step / 2 * 1.001).all()
