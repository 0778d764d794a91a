"""Prompt -> answer: the tokens of transformers in any batch, chunk or thread, and errors before any work."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Script, checkpoint, each_tensor, tokenizer, unchecked

from qwen3_scratch import (
    Checkpoint,
    Generation,
    Tokenizer,
    forward,
    generate,
    generation,
    save_checkpoint,
    stream,
)
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.fast import eager
from qwen3_scratch.request import Options
from qwen3_scratch.sampling import Sampling

PROMPTS = ["Who has the kite?", "Tom is in the park with a red ball and a long rope.", "Hi", "¿Dónde está el gato?"]
LENGTH = 8
SAMPLED = dict(temperature=1.0, top_k=40, max_new_tokens=LENGTH)
GREEDY = dict(temperature=0, max_new_tokens=LENGTH)
END, VOCABULARY = tokenizer().token_id("<|im_end|>"), tokenizer().vocab_size


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return checkpoint(seed=3)


@pytest.fixture
def says(monkeypatch):
    """Makes the model say a text or a list of token ids, one token a step."""

    def replace(script) -> int:
        stand_in = Script(script)
        monkeypatch.setattr(eager, "forward", stand_in)
        return len(stand_in.tokens)

    return replace


# ---- the same tokens ----------------------------------------------------------------------------


def reference_tokens(folder, rows: list[list[int]], **options) -> list[list[int]]:
    """What `generate` of transformers adds to rows of token ids, padded on the left."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options |= dict(do_sample=False, max_new_tokens=24, pad_token_id=0)
    options |= dict(suppress_tokens=list(range(VOCABULARY, theirs.config.vocab_size)))
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    keep = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return theirs.generate(ids, attention_mask=keep, **options)[:, longest:].tolist()


def test_greedy_tokens_equal_those_of_transformers_alone_and_in_a_padded_batch(model, tmp_path):
    save_checkpoint(model, tmp_path)
    rows = [tokenizer().encode(text) for text in PROMPTS]
    ends = [generate(model, rows[0], **GREEDY).token_ids[5], 0]  # so that one row ends early, in the files' own words
    ended = Checkpoint(model.config, model.weights, model.tokenizer, {"eos_token_id": ends}, model.path)
    theirs = reference_tokens(tmp_path, rows, eos_token_id=ends)
    ours = generate(ended, rows, temperature=0, max_new_tokens=24)
    for row, expected in zip(ours, theirs, strict=True):
        assert row.token_ids == expected[: len(row.token_ids)]
        assert (row.finish_reason == "stop") == (row.token_ids[-1] in ends) == (len(row.token_ids) < 24)
    assert ours[0].finish_reason == "stop" and ours[0].token_ids[-1] in ends
    assert any(row.finish_reason == "length" for row in ours)
    alone = reference_tokens(tmp_path, rows[1:2], repetition_penalty=1.4)
    assert [generate(model, rows[1], temperature=0, max_new_tokens=24, repetition_penalty=1.4).token_ids] == alone


@pytest.mark.parametrize("options", [GREEDY, SAMPLED | {"seed": 5}], ids=["greedy", "sampled"])
def test_each_row_of_a_batch_is_answered_as_it_is_alone(model, options):
    assert generate(model, PROMPTS, **options) == [generate(model, prompt, **options) for prompt in PROMPTS]


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("window", [None, 5])
def test_a_prompt_read_in_chunks_is_answered_as_in_one_piece(chunk, window, monkeypatch):
    """Unequal rows too, of which the shorter has chunks of nothing but padding."""
    model = checkpoint(use_sliding_window=window is not None, sliding_window=window)
    lengths = [len(generation.prompt_ids(model, prompt)) for prompt in PROMPTS]
    assert max(lengths) > 16 and max(lengths) - min(lengths) > 6
    expected = generate(model, PROMPTS, **GREEDY)
    monkeypatch.setattr(generation, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(eager, "PREFILL_CHUNK", chunk)
    assert generate(model, PROMPTS, **GREEDY) == expected
    assert generate(model, PROMPTS[1], **GREEDY) == expected[1]


def test_a_seed_gives_the_same_tokens_in_every_run_and_in_a_batch_of_any_size(model):
    expected = generate(model, PROMPTS[0], seed=7, **SAMPLED)
    assert generate(model, PROMPTS[0], seed=7, **SAMPLED) == expected
    for size in (1, 2, 5):
        assert generate(model, [PROMPTS[0]] * size, seed=7, **SAMPLED) == [expected] * size


def test_other_seeds_and_no_seed_give_other_tokens(model):
    answers = [generate(model, PROMPTS[0], seed=seed, **SAMPLED).token_ids for seed in (0, 1, -1, 2**31, None, None)]
    assert len({tuple(answer) for answer in answers}) == len(answers)
    assert len({tuple(row.token_ids) for row in generate(model, [PROMPTS[0]] * 3, **SAMPLED)}) == 3


def test_eight_threads_each_get_what_they_get_alone(model):
    asked = [(PROMPTS[number % 4], SAMPLED | {"seed": number}) for number in range(8)]
    alone = [generate(model, prompt, **options) for prompt, options in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pair: generate(model, pair[0], **pair[1]), asked))
    assert together == alone


def test_generating_runs_in_the_type_of_the_weights_and_in_inference_mode(model, monkeypatch):
    halved = Checkpoint(model.config, each_tensor(model.weights, lambda tensor: tensor.bfloat16()), model.tokenizer)
    seen = set()

    def noting_forward(*args, cache, **options):
        seen.add((cache.keys[0].dtype, torch.is_inference_mode_enabled()))
        return forward(*args, cache=cache, **options)

    monkeypatch.setattr(eager, "forward", noting_forward)
    found = generate(halved, PROMPTS, **SAMPLED, seed=1)
    assert [len(row.token_ids) for row in found] == [LENGTH] * 4
    assert seen == {(torch.bfloat16, True)}


def test_the_tail_of_the_embedding_behind_the_vocabulary_is_never_sampled(model):
    weights = model.weights._replace(lm_head=model.weights.lm_head.clone())
    weights.lm_head[VOCABULARY:] = 50 * weights.lm_head[:1]  # in whatever direction, some of them are the likeliest
    weights.lm_head[VOCABULARY + 1 :] *= -1
    for options in (GREEDY, SAMPLED | {"seed": 0}, SAMPLED | {"seed": 0, "temperature": 100.0, "top_k": 0}):
        with_text = generate(Checkpoint(model.config, weights, tokenizer()), PROMPTS, **options)
        assert all(token < VOCABULARY for row in with_text for token in row.token_ids)
    numbers = generate(Checkpoint(model.config, weights), [5, 6, 7], **GREEDY)
    assert max(numbers.token_ids) >= VOCABULARY, "without a tokenizer nothing says where the vocabulary ends"


# ---- where an answer ends -----------------------------------------------------------------------


@pytest.mark.parametrize("ends", [END, [END], [5, END]], ids=str)
@pytest.mark.parametrize("place", ["config", "generation_config"])
def test_a_stop_token_of_either_file_ends_the_answer_and_stays_out_of_its_text(says, ends, place):
    ids = tokenizer().encode("Hello.<|im_end|>more")
    as_config = {"eos_token_id": tuple(ends) if isinstance(ends, list) else ends}
    model = checkpoint(**as_config) if place == "config" else checkpoint(generation_config={"eos_token_id": ends})
    says(ids)
    found = generate(model, "Hi", max_new_tokens=len(ids))
    assert (found.text, found.finish_reason, found.stop) == ("Hello.", "stop", None)
    assert found.token_ids == ids[: ids.index(END) + 1]


def test_stop_tokens_beyond_the_embedding_stop_nothing_and_break_nothing():
    model = checkpoint(eos_token_id=151645, generation_config={"eos_token_id": [151645, 151643]})
    assert len(generate(model, "Hi", min_new_tokens=3, max_new_tokens=5).token_ids) == 5


STOPS = [
    ("one two three four", ["three"], "one two ", "three"),
    ("one two three four", "o three f", "one tw", "o three f"),  # spans several tokens
    ("aaab aab", ["aab"], "a", "aab"),  # the beginning of a stop string overlaps with the stop string
    ("abababac", ["abac"], "abab", "abac"),
    ("END of it", ["END"], "", "END"),  # at the very start
    ("\n\nUser: hi", ["\n\nUser:"], "", "\n\nUser:"),  # and with line breaks that would be dropped there
    ("\nfirst\nsecond", ["\n"], "first", "\n"),  # whereas a line break before any text ends nothing
    ("x<think>y</think>z y", ["y"], "xz ", "y"),  # not in the thinking
    ("<think>a</think>b", ["</think>"], "", "</think>"),  # a tag that is asked for is met where it comes
    ("<think>a<|box_end|>b", ["b", "<|box_end|>"], "", "<|box_end|>"),  # and so is a special token, wherever it comes
    ("left right", ["right", "left"], "", "left"),  # the first that comes
    ("left right", ["wrong"], "left right", None),
    ("left righ", ["right"], "left righ", None),  # what was held back is given in the end
]


@pytest.mark.parametrize(("script", "stop", "text", "met"), STOPS)
def test_a_stop_string_ends_the_answer_and_stays_out_of_its_text(says, script, stop, text, met):
    length = says(script)
    found = generate(checkpoint(), "Hi", stop=stop, max_new_tokens=length)
    assert (found.text, found.stop) == (text, met)
    assert found.finish_reason == ("length" if met is None else "stop")
    assert found.token_ids == tokenizer().encode(script)[: len(found.token_ids)]


def test_before_min_new_tokens_no_stop_token_comes_and_at_max_new_tokens_the_answer_is_cut(model, says):
    ends = list(range(0, VOCABULARY, 2))  # half of all tokens
    model = Checkpoint(model.config, model.weights, model.tokenizer, {"eos_token_id": ends})
    for least in (0, 1, 5, LENGTH - 1, LENGTH):
        for row in generate(model, PROMPTS, min_new_tokens=least, seed=least, **SAMPLED):
            assert least <= len(row.token_ids) <= LENGTH
            assert all(token % 2 for token in row.token_ids[: max(least, len(row.token_ids) - 1)])
            assert row.finish_reason == ("stop" if row.token_ids[-1] % 2 == 0 else "length")
    assert len(generate(model, "Hi", max_new_tokens=1).token_ids) == 1
    says([END] * 9)  # at every step
    assert generate(checkpoint(eos_token_id=END), "Hi", min_new_tokens=3).token_ids == [0, 0, 0, END]


# ---- what a prompt may be -----------------------------------------------------------------------


def test_text_messages_token_ids_tensors_and_raw_text_are_all_prompts(model):
    text, messages = PROMPTS[0], [{"role": "user", "content": PROMPTS[0]}]
    ids = tokenizer().encode(tokenizer().render_chat(messages))
    expected = generate(model, text, **GREEDY)
    assert isinstance(expected, Generation) and expected.prompt_ids == ids
    for same in (messages, ids, tuple(ids), torch.tensor(ids), np.array(ids)):
        with unchecked():
            assert generate(model, same, **GREEDY) == expected
    assert generate(model, ids, raw=True, **GREEDY).prompt_ids == ids
    assert generate(model, text, raw=True, **GREEDY).prompt_ids == tokenizer().encode(text)
    without = tokenizer().encode(tokenizer().render_chat(messages, thinking=False))
    assert generate(model, text, thinking=False, **GREEDY).prompt_ids == without != ids
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert "look_up" in tokenizer().decode(generate(model, text, tools=tools, **GREEDY).prompt_ids)


def test_a_list_of_prompts_of_any_kind_gives_a_list(model):
    text, other = PROMPTS[0], [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    ids = tokenizer().encode("and so on")
    expected = [generate(model, prompt, **GREEDY) for prompt in (text, other, ids)]
    assert generate(model, [text, other, ids], **GREEDY) == expected
    assert generate(model, (text,), **GREEDY) == expected[:1]
    assert generate(model, [torch.tensor(ids), torch.tensor(ids)], **GREEDY) == expected[2:] * 2
    assert generate(model, torch.tensor([ids, ids]), **GREEDY) == expected[2:] * 2


def test_text_is_continued_where_there_is_no_chat_template_and_without_tokenizer_numbers_are(model):
    plain = Checkpoint(model.config, model.weights, Tokenizer(tokenizer().backend))
    assert generate(plain, "Hi there", **GREEDY).prompt_ids == tokenizer().encode("Hi there")

    found = generate(Checkpoint(model.config, model.weights), [1, 2, 3], **GREEDY)
    assert len(found.token_ids) == LENGTH and (found.text, found.thinking) == ("", None)


# ---- defaults -----------------------------------------------------------------------------------


def test_what_is_not_asked_for_comes_from_generation_config(model):
    def answer(generation_config: dict, **options) -> list[int]:
        asked = Checkpoint(model.config, model.weights, model.tokenizer, generation_config)
        return generate(asked, "Hi", seed=3, max_new_tokens=30, **options).token_ids

    settings = dict(temperature=0.9, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    greedy = answer({}, temperature=0)
    assert answer({}) == answer({"do_sample": False, "temperature": 0.9}) == greedy
    assert answer({"do_sample": True} | settings) == answer({}, **settings) != greedy
    for name in settings:
        other = {"temperature": 3.0, "top_k": 2, "top_p": 0.2, "min_p": 0.5, "repetition_penalty": 3.0}[name]
        changed = answer({"do_sample": True} | settings, **{name: other})
        assert changed == answer({}, **settings | {name: other}) != answer({}, **settings)
    assert answer({"do_sample": True, "temperature": None, "top_k": 0}) == answer({}, temperature=1.0)
    assert answer({"do_sample": True} | settings, temperature=0, repetition_penalty=1) == greedy


@pytest.mark.parametrize("asked", [{}, {"top_k": None}])
def test_a_generation_config_that_draws_and_names_no_top_k_means_the_one_of_transformers(model, asked):
    from transformers import GenerationConfig

    theirs = GenerationConfig._get_default_generation_params()
    odd = replace(model, generation_config={"do_sample": True} | asked)
    assert Options().sampling(odd) == Sampling(temperature=theirs["temperature"], top_k=theirs["top_k"])
    assert Options(top_k=0).sampling(odd) == Options(temperature=1.0).sampling(model) == Sampling(temperature=1.0)


# ---- nothing is left behind -----------------------------------------------------------------------


def test_generating_changes_no_weight_no_argument_and_no_global_random_state():
    model, messages = checkpoint(generation_config={"eos_token_id": [END]}), [{"role": "user", "content": "Hi"}]
    before = [tensor.clone() for tensor in tensor_tree(model.weights)]
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    generate(model, [messages, messages], seed=1, **SAMPLED)
    generate(model, messages, **SAMPLED)
    assert all(map(torch.equal, before, tensor_tree(model.weights)))
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == grad
    assert messages == [{"role": "user", "content": "Hi"}] and model.generation_config == {"eos_token_id": [END]}


def test_inference_leaves_no_gradient_and_none_of_its_mode_between_two_pieces(model):
    weights = each_tensor(model.weights, lambda tensor: tensor.clone().requires_grad_())
    pieces = stream(Checkpoint(model.config, weights, model.tokenizer), "Hi", **GREEDY)
    next(pieces)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert forward(weights, torch.tensor([[1, 2]]), model.config).requires_grad
    pieces.close()
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(tensor.grad is None and tensor.requires_grad for tensor in tensor_tree(weights))
