"""Options: none without effect in silence, numbers of any library, several samples, penalties, the answer as a turn."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import Script, checkpoint, never, tokenizer, unchecked
from hypothesis import given
from hypothesis import strategies as st
from qwen3_files import npm_file
from tiers import examples, only

from qwen3_scratch import Checkpoint, Error, Tokenizer, generate, stream
from qwen3_scratch.fast import eager
from qwen3_scratch.request import Options, prompt_ids
from qwen3_scratch.sampling import Sampling, check_sampling, choose, own_number, penalise_repetition, probabilities

END = tokenizer().token_id("<|im_end|>")
EVEN = list(range(0, 2026, 2))
ASKED = "Who has the kite?"


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    """It ends a turn by half of all tokens, so that answers have many lengths."""
    return checkpoint(seed=6, generation_config={"eos_token_id": EVEN})


def outcome(model: Checkpoint, prompt=ASKED, **options):
    """What comes of it; the sentence where it is refused."""
    try:
        with unchecked():
            return generate(model, prompt, **{"max_new_tokens": 24, "min_new_tokens": 6} | options)
    except Error as error:
        return str(error)


# ---- no option without effect in silence ------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "look_up"}}]
CHANGES = dict(
    max_new_tokens=16, min_new_tokens=24, num_samples=2, thinking=False, temperature=3.0, top_k=5, top_p=0.9, min_p=0.2,
    repetition_penalty=1.3, presence_penalty=2.0, frequency_penalty=-2.0, seed=5, stop=["q", "w"],
    tools=TOOLS, raw=True,
)  # fmt: skip
DRAWING = {"temperature", "top_k", "top_p", "min_p"}
PROMPTS = [ASKED, "Tom Tom Tom"]
# What changes nothing once something else is set, and where that is said.
NEUTRAL = {
    "seed": {"": "At temperature 0 they and `seed` change nothing"},  # greedy, as it is without a temperature
    "min_new_tokens": {"stop": "a stop string may come sooner"},
    "thinking": {"raw": "it changes nothing for token ids, for raw text"},
}


@pytest.mark.parametrize("name", only(CHANGES, "top_p", "raw"))
def test_an_option_changes_the_answer_or_is_refused_or_said_to_be_neutral_beside_any_other(model, name):
    endless = checkpoint(seed=6)
    for other in ("", *CHANGES):
        before = {"seed": 1} | ({other: CHANGES[other]} if other else {})
        after = before | {name: CHANGES[name]}
        # With ends, or without: of two limits one may hide the other, and a penalty needs what repeats.
        changed = (outcome(one, PROMPTS, **before) != outcome(one, PROMPTS, **after) for one in (model, endless))
        if other == name or isinstance(outcome(model, **after), str) or any(changed):
            continue
        draws = before.keys() & DRAWING
        neutral = other in NEUTRAL.get(name, {}) or (name == "seed" and not draws)
        assert neutral or (name in DRAWING and draws), (name, other)  # two filters may leave the same few tokens
    said = " ".join(f"{Options.__doc__} {Options.__annotations__}".split())
    assert all(sentence in said for sentence in NEUTRAL.get(name, {}).values())


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_a_filter_without_temperature_draws_with_that_of_the_checkpoint_or_1(model, name):
    value = {"top_k": 50, "top_p": 0.9, "min_p": 0.001}[name]
    for config, temperature in (({}, 1.0), ({"temperature": 0.7}, 0.7), ({"temperature": 0.0}, 1.0)):
        asked = Checkpoint(model.config, model.weights, model.tokenizer, config)
        found = [generate(asked, ASKED, max_new_tokens=8, seed=seed, **{name: value}) for seed in range(2)]
        drawn = {name: value, "temperature": temperature}
        assert found == [generate(asked, ASKED, max_new_tokens=8, seed=seed, **drawn) for seed in range(2)]
        assert found[0].token_ids != found[1].token_ids
    greedy = generate(model, ASKED, temperature=0, seed=1)
    assert generate(model, ASKED, temperature=0, seed=2, **{name: value}) == greedy == generate(model, ASKED)


CHAT = [{"role": "user", "content": "Hi"}]
NO_EFFECT = [
    (CHAT, {"raw": True}, "raw is True and prompt is messages, expected a text to continue: leave raw out or join"),
    ("Hi", {"raw": True, "tools": TOOLS}, "tools is for the chat format, and raw is True: leave one of them out"),
    ([1, 2], {"tools": TOOLS}, "tools is for the chat format, and prompt is token ids: leave one of them out"),
    ("Hi", {"raw": True, "plain_user_text": True}, "plain_user_text is for the chat format, and raw is True: leave"),
    ([1, 2], {"plain_user_text": True}, "plain_user_text is for the chat format, and prompt is token ids: leave one"),
    ("Hi", {"num_samples": 2}, "num_samples is 2, and temperature is 0, at which they would all be the same: raise"),
    ("Hi", {"stop": "a<|im_end|>"}, "stop is 'a<|im_end|>', which holds '<|im_end|>', a token of its own, expected"),
    ("Hi", {"stop": "\n</think>"}, "stop is '\\n</think>', which holds '</think>', a token of its own, expected text"),
]


@pytest.mark.parametrize(("prompt", "options", "message"), NO_EFFECT, ids=range(len(NO_EFFECT)))
def test_an_option_that_could_have_no_effect_is_refused(prompt, options, message, monkeypatch):
    monkeypatch.setattr(eager, "forward", never)
    with pytest.raises(Error) as caught:
        generate(checkpoint(), prompt, **options)
    assert str(caught.value).startswith(message)


def with_template(template: str | None) -> Checkpoint:
    plain = checkpoint()
    return Checkpoint(plain.config, plain.weights, Tokenizer(tokenizer().backend, template))


def test_tools_and_a_thinking_switch_that_a_template_does_not_know_are_refused():
    silent = "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n"
    found = r"^[^\n]*: the chat template leaves out the tools, expected one that writes them: pass no tools$"
    with pytest.raises(Error, match=found):
        generate(with_template(silent), "Hi", tools=TOOLS)
    with pytest.raises(Error, match=r"^tools is for the chat format, and this checkpoint has no chat template: leave"):
        generate(with_template(None), "Hi", tools=TOOLS)
    with pytest.raises(Error, match=r"^thinking is False, and this checkpoint's chat template opens the thinking all"):
        generate(with_template(f"{silent}<think>\n"), "Hi", thinking=False)
    for template in (silent, f"{silent}<think>\n\n</think>\n\n"):  # what is not opened need not be switched off
        assert generate(with_template(template), "Hi", thinking=False, max_new_tokens=1).thinking is None


def test_raw_text_stops_anywhere_since_it_knows_no_thinking(monkeypatch):
    for stop, text in (("Paris", "<think>\n"), ("</think>", "<think>\nParis\n"), ("<think>", "")):
        monkeypatch.setattr(eager, "forward", script := Script("<think>\nParis\n</think>\n\nParis."))
        found = generate(checkpoint(), "Hi", raw=True, stop=stop, max_new_tokens=len(script.tokens))
        assert (found.text, found.stop, found.thinking) == (text, stop, None)


# ---- numbers ------------------------------------------------------------------------------------

WHOLE = [np.int8, np.int64, np.uint16, torch.tensor, np.array]
BROKEN = [np.float16, np.float32, np.float64, np.longdouble, torch.tensor, np.array, Fraction]


def test_numbers_of_numpy_and_torch_are_numbers(model):
    whole = dict(max_new_tokens=9, min_new_tokens=7, top_k=40, seed=11, num_samples=2)
    broken = dict(temperature=1.5, top_p=0.5, min_p=0.125, repetition_penalty=1.25, presence_penalty=0.5,
                  frequency_penalty=-0.25)  # fmt: skip
    expected = generate(model, ASKED, **whole, **broken)
    with unchecked():
        for kind in WHOLE:
            assert generate(model, ASKED, **{k: kind(v) for k, v in whole.items()}, **broken) == expected
        for kind in BROKEN:
            assert generate(model, ASKED, **whole, **{k: kind(v) for k, v in broken.items()}) == expected
    for flag in (np.bool_(False), torch.tensor(False)):
        with unchecked():
            assert generate(model, ASKED, thinking=flag) == generate(model, ASKED, thinking=False)
    ids = [5, 6, 7]
    for kind in (np.int32, np.int64, np.uint8, torch.tensor, np.array):
        with unchecked():
            assert prompt_ids(model, [kind(i) for i in ids]) == ids
            assert generate(model, [[kind(i) for i in ids]] * 2, **whole, **broken)[0] == generate(
                model, ids, **whole, **broken
            )


NUMBERS = ["max_new_tokens", "min_new_tokens", "num_samples", "seed", *Sampling._fields]
HUGE = [math.nan, math.inf, -math.inf, 10**30, -(10**30), 10**400, 1e300, 1e-300, 5e-324, 3e38, True, False, 2.5]


@pytest.mark.parametrize("name", only(NUMBERS, "seed", "temperature", "top_k"))
def test_a_number_of_any_size_is_an_answer_or_a_sentence_that_names_the_option(model, name):
    for value in HUGE:
        for kind in (lambda number: number, np.float64, torch.tensor):
            try:
                given_value = kind(value)
            except (OverflowError, RuntimeError, ValueError):  # torch has no such number
                continue
            found = outcome(model, **{"temperature": 1.0, "seed": 1, name: given_value})
            if isinstance(found, str):
                assert found.startswith((f"{name} is ", "prompt: ", "min_new_tokens is 6, expected a whole number"))
            elif isinstance(found, list):
                assert all(1 <= len(one.token_ids) <= 24 for one in found)
            else:
                assert 6 <= len(found.token_ids) <= 24
                assert not isinstance(own_number(given_value), bool)


@pytest.mark.parametrize("size", only([1e-30, 1.0, 1e30, 3e38], 1.0, 3e38))
@pytest.mark.parametrize("setting", [
    {"temperature": 5e-324}, {"temperature": 1e-20}, {"temperature": 1.0}, {"temperature": 1e300}, {"top_p": 5e-324},
    {"min_p": 5e-324}, {"repetition_penalty": 1e300}, {"repetition_penalty": 5e-324}, {"presence_penalty": 2},
    {"frequency_penalty": -2},
], ids=str)  # fmt: skip
def test_no_setting_and_no_logits_make_numbers_infinite(setting, size):
    logits = size * torch.tensor([[1.0, -1.0, 0.5, 0.0, 0.9, -0.3]])
    barred = torch.tensor([False, False, False, False, True, False])
    seen, counts = torch.tensor([[True, True, False, True, True, False]]), torch.tensor([[1, 2, 0, 0, 7, 3]])
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        penalised = penalise_repetition(logits.to(kind), seen, setting.get("repetition_penalty", 1.0))
        assert penalised.isfinite().all()
        found = probabilities(logits.to(kind).masked_fill(barred, -torch.inf), Sampling(**setting))
        assert found.isfinite().all() and found[0, 4] == 0
        torch.testing.assert_close(found.sum(), torch.ones((), dtype=found.dtype))
        for uniform in (0.0, 0.5, 1 - 2**-53):
            number = torch.tensor([uniform], dtype=torch.float64)
            token = int(choose(logits.to(kind), Sampling(**setting), barred, seen, number, counts))
            assert token in (0, 1, 2, 3, 5)


# ---- penalties ----------------------------------------------------------------------------------


@examples(100)
@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=5, max_size=5),
    counts=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    presence=st.floats(-2, 2), frequency=st.floats(-2, 2), repetition=st.floats(0.5, 2), temperature=st.floats(0.1, 3),
)  # fmt: skip
def test_presence_and_frequency_penalties_are_those_of_the_formula(
    logits, counts, presence, frequency, repetition, temperature
):
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, as OpenAI's guide writes it, after repetition, as in vLLM."""
    expected = []
    for logit, count in zip(logits, counts, strict=True):
        if count:
            logit = logit / repetition if logit > 0 else logit * repetition
        expected.append((logit - count * frequency - (count > 0) * presence) / temperature)
    largest = max(expected)
    weights = [math.exp(one - largest) for one in expected]
    reached = list(itertools.accumulate(weights))
    asked = check_sampling(Sampling(temperature, 0, 1.0, 0.0, repetition, presence, frequency))
    times = torch.tensor([counts])
    for uniform in (0.01, 0.3, 0.62, 0.97):
        target = uniform * reached[-1]
        if min(abs(target - one) for one in reached) < 1e-4 * reached[-1]:
            continue  # too near to a border for fp32
        wanted = next(number for number, one in enumerate(reached) if one > target)
        number = torch.tensor([uniform], dtype=torch.float64)
        barred = torch.zeros(5, dtype=torch.bool)
        assert int(choose(torch.tensor([logits]), asked, barred, times > 0, number, times)) == wanted


def greedy_by_hand(model: Checkpoint, ids: list[int], count: int, presence: float, frequency: float) -> list[int]:
    """The likeliest token after both penalties, one whole pass a token and counts in a dict."""
    from qwen3_scratch import forward

    written, rows = [], model.tokenizer.vocab_size
    for _ in range(count):
        with torch.inference_mode():
            logits = forward(model.weights, torch.tensor([[*ids, *written]]), model.config)[0, -1, :rows].tolist()
        for token in set(written):
            logits[token] -= presence + frequency * written.count(token)
        written.append(max(range(rows), key=logits.__getitem__))
    return written


@pytest.mark.parametrize(("presence", "frequency"), [(2.0, 0.0), (0.0, 1.0), (-2.0, -1.0), (1.0, 0.5)])
def test_penalties_count_what_the_answer_has_and_not_the_prompt_in_every_row(presence, frequency):
    model = checkpoint(seed=3)
    rows = [prompt_ids(model, text) for text in ("Tom Tom Tom", "Mia has the red ball.")]
    options = dict(max_new_tokens=14, presence_penalty=presence, frequency_penalty=frequency)
    found = [one.token_ids for one in generate(model, rows, **options)]
    assert found == [greedy_by_hand(model, ids, 14, presence, frequency) for ids in rows]
    assert found != [one.token_ids for one in generate(model, rows, max_new_tokens=14)]


# ---- several samples ----------------------------------------------------------------------------

DRAWN = dict(temperature=1.0, max_new_tokens=8)


def test_samples_of_one_seed_differ_and_the_first_is_the_plain_answer(model):
    plain = generate(model, ASKED, seed=7, **DRAWN)
    found = generate(model, ASKED, seed=7, num_samples=5, **DRAWN)
    assert Options(seed=7).generator(0).initial_seed() == 7, "the plain answer's numbers are torch's own of that seed"
    assert found[0] == plain and len({tuple(one.token_ids) for one in found}) == 5
    assert generate(model, ASKED, seed=7, num_samples=3, **DRAWN) == found[:3], "more samples change none before them"
    assert generate(model, ASKED, seed=7, num_samples=1, **DRAWN) == [plain]
    assert generate(model, ASKED, seed=8, num_samples=5, **DRAWN)[1:] != found[1:]
    assert generate(model, ASKED, temperature=0, num_samples=1) == [generate(model, ASKED, temperature=0)]


def test_samples_of_a_row_do_not_depend_on_the_other_rows(model):
    prompts = [ASKED, "Hi", ASKED, "Tom is in the park with a red ball."]
    found = generate(model, prompts, seed=7, num_samples=3, **DRAWN)
    assert found == [generate(model, prompt, seed=7, num_samples=3, **DRAWN) for prompt in prompts]
    assert found[0] == found[2], "one seed and one prompt are one answer, wherever they stand"


def test_a_stream_has_one_answer(model):
    with pytest.raises(Error, match=r"^num_samples is for generate, expected one answer in a stream: leave it out$"):
        stream(model, ASKED, num_samples=2, temperature=1.0)


def test_more_samples_than_there_is_memory_for_are_a_sentence(monkeypatch):
    monkeypatch.setattr(eager, "forward", never)
    monkeypatch.setattr("qwen3_scratch.cache.available_memory", lambda device: 2_000_000)
    with pytest.raises(Error, match=r"^generate: 65536 prompts of \d+ tokens and .* need .*give at most"):
        generate(checkpoint(), ASKED, num_samples=2**16, **DRAWN)


# ---- cut in the thinking, and given back as a turn ----------------------------------------------------


def said(monkeypatch, script: str, **options):
    model = checkpoint(generation_config={"eos_token_id": END})
    monkeypatch.setattr(eager, "forward", told := Script(script))
    return generate(model, options.pop("prompt", ASKED), max_new_tokens=len(told.tokens), **options)


@pytest.mark.parametrize(
    ("script", "cut", "reason"),
    [
        ("<think>\nA cat", True, "length"), ("<think>\nA cat<|im_end|>", True, "stop"), ("A cat", False, "length"),
        ("<think>\nA cat</think>", False, "length"), ("<think>\nA</think>B<think>", True, "length"),
        ("<think>\nA cat</think>\n\nYes.<|im_end|>", False, "stop"),
    ],
)  # fmt: skip
def test_an_answer_that_ends_within_its_thinking_says_so(monkeypatch, script, cut, reason):
    found = said(monkeypatch, script)
    assert (found.cut_in_thinking, found.finish_reason) == (cut, reason)
    assert not said(monkeypatch, script, raw=True).cut_in_thinking


TURNS = [
    "Hello.<|im_end|>",
    "<think>\nA cat.\n</think>\n\nHello.\n\nYes.<|im_end|>",
    "<think>\n\n</think>\n\nHi.<|im_end|>",
]


@pytest.mark.parametrize("script", TURNS)
def test_an_answer_given_back_is_the_turn_that_the_model_wrote(monkeypatch, script):
    found = said(monkeypatch, script, thinking="<think>" in script)
    chat = [{"role": "user", "content": ASKED}, found.message]
    written = tokenizer().decode([*found.prompt_ids, *found.token_ids])
    assert tokenizer().render_chat(chat, add_generation_prompt=False) == f"{written}\n"
    again = [*chat, {"role": "user", "content": "And now?"}]
    assert found.text in tokenizer().render_chat(again)


@pytest.mark.parametrize("script", TURNS)
def test_an_answer_given_back_is_that_turn_in_qwen3s_own_template(monkeypatch, script, tmp_path_factory):
    """Which puts an empty thinking before an answer without one: for that the model was asked so."""
    template = json.loads(npm_file("tokenizer_config.json", tmp_path_factory))["chat_template"]
    qwen = Tokenizer(tokenizer().backend, template)
    found = said(monkeypatch, script, thinking="<think>" in script)
    chat = [{"role": "user", "content": ASKED}, found.message]
    written = tokenizer().decode([*found.prompt_ids, *found.token_ids])
    assert qwen.render_chat(chat, add_generation_prompt=False) == f"{written}\n"
