"""The answer as it comes: whole characters, thinking split from answer, stop strings held back and never shown."""

import inspect
import json

import pytest
import tokenizers
from helpers import Script, bytes_as_tokens, checkpoint, joined, never, tokenizer, unchecked
from hypothesis import example, given
from hypothesis import strategies as st
from tiers import examples

from qwen3_scratch import Checkpoint, Error, Generation, Tokenizer, generate, stream
from qwen3_scratch.fast import eager
from qwen3_scratch.text_stream import Piece, TextStream

END = tokenizer().token_id("<|im_end|>")
OPEN, CLOSE = tokenizer().token_id("<think>"), tokenizer().token_id("</think>")


def fed(tokens: list[int], **options) -> list[list[Piece]]:
    """The pieces that each token released, and last those that the end released."""
    found = TextStream(tokenizer(), [], **options)
    return [*[found.feed(token) for token in tokens], found.finish()]


def flat(released: list[list[Piece]]) -> list[Piece]:
    return [piece for pieces in released for piece in pieces]


def collect(pieces) -> tuple[list[Piece], Generation]:
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            return found, end.value


# ---- whole characters ---------------------------------------------------------------------------

WRITTEN = st.one_of(
    st.text(),
    st.text(st.sampled_from("a é\u0301\u200d😀👩🏽‍🚀漢字ñ\n\ufe0f🇪🇸")),  # combining marks, joiners, flags
)


PARTS = st.lists(st.tuples(WRITTEN, st.booleans()), max_size=4)  # whether it is spelled byte by byte


@given(PARTS)
@example([("👩🏽‍🚀 e\u0301 漢", True)])
def test_pieces_of_any_text_in_any_tokens_join_to_it_and_hold_no_half_character(parts):
    text, tokens = "", []
    for part, by_bytes in parts:
        ids = bytes_as_tokens(part.encode()) if by_bytes else tokenizer().encode(part)
        text += b"".join(map(tokenizer().token_bytes, ids)).decode()  # `encode` composes accents
        tokens += ids
    for raw in (True, False):
        pieces, sofar = flat(fed(tokens, raw=raw)), ""
        whole = text if raw else text.strip("\n")
        for piece in pieces:
            assert piece and isinstance(piece, str) and not piece.thinking
            sofar += piece
            assert whole.startswith(sofar), "half a character would show as U+FFFD"
        assert sofar == whole


@given(st.text(min_size=1))
def test_a_character_is_passed_on_with_its_last_byte(text):
    released = fed(bytes_as_tokens(text.encode()), raw=True)
    place = 0
    for character in text:
        size = len(character.encode())
        assert flat(released[place : place + size - 1]) == []
        assert released[place + size - 1] == [character]
        place += size


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_bytes_of_a_character_that_never_ends_are_dropped(cut):
    half = bytes_as_tokens("😀".encode()[:cut])
    assert "".join(flat(fed([*bytes_as_tokens(b"so "), *half]))) == "so "
    pieces = flat(fed([OPEN, *bytes_as_tokens(b"so"), *half, CLOSE, *bytes_as_tokens("né".encode()), *half]))
    assert [(piece, piece.thinking) for piece in pieces] == [("s", True), ("o", True), ("n", False), ("é", False)]


def test_bytes_that_are_no_text_at_all_become_the_replacement_character():
    assert "".join(flat(fed(bytes_as_tokens(b"a\xffb\xe6z")))) == "a\ufffdb\ufffdz"


# ---- stop strings -------------------------------------------------------------------------------

LETTERS = st.sampled_from("ab\n")  # few, so that stop strings are met, overlap and contain each other


def until_stop(parts: list[str], stops: list[str]) -> tuple[str, str | None]:
    """What should be left of a text that arrives in parts: all before the first stop string, once one is complete."""
    text = ""
    for part in parts:
        text += part
        if found := [(text.find(stop), stop) for stop in stops if stop in text]:
            return text[: min(found)[0]], min(found)[1]
    return text, None


def held_back(text: str, stops: list[str]) -> int:
    """The longest end of a text that a stop string begins with."""
    lengths = range(1, max(map(len, stops), default=0))
    return max((n for n in lengths if any(n < len(stop) and text.endswith(stop[:n]) for stop in stops)), default=0)


@examples(200)
@given(st.text(LETTERS, max_size=14), st.lists(st.text(LETTERS, min_size=1), max_size=3))
@example("aaab", ["aab"])
@example("abcabab", ["ababb", "ba"])
def test_of_raw_text_exactly_what_a_stop_string_may_begin_with_is_held_back(text, stops):
    tokens = bytes_as_tokens(text.encode())
    whole, met = until_stop(list(text), stops)
    released, sofar = fed(tokens, stop=stops, raw=True), ""
    for count, pieces in enumerate(released[:-1], 1):
        sofar += "".join(pieces)
        shown, ended = until_stop(list(text[:count]), stops)
        assert sofar == (shown if ended else shown[: len(shown) - held_back(shown, stops)])
    assert "".join(flat(released)) == whole
    assert (released[-1] == []) or met is None


@examples(200)
@given(st.text(LETTERS, max_size=14), st.lists(st.text(LETTERS, min_size=1), max_size=3))
def test_of_an_answer_line_breaks_at_both_ends_are_cut_and_nothing_else(text, stops):
    """A stop string of line breaks alone is not met by those at the head, since they are no part of the answer."""
    found = TextStream(tokenizer(), [], stops)
    pieces = [*[found.feed(token) for token in bytes_as_tokens(text.encode())], found.finish()]
    head = len(text) - len(text.lstrip("\n"))
    breaks = [stop for stop in stops if not stop.strip("\n")]
    one = until_stop(list(text), [stop for stop in stops if stop not in breaks])
    two = until_stop(list(text[head:]), breaks)
    ends = [(shown, met) for shown, met in (one, (text[:head] + two[0], two[1])) if met]
    # The one that is complete first; of two that are complete together the one that begins first.
    expected, met = min(ends, key=lambda end: (len(end[0] + end[1]), len(end[0])), default=(text, None))
    assert ("".join(flat(pieces)), found.stopped) == (expected.strip("\n"), met)


def test_what_a_token_brings_before_and_after_a_stop_string_is_told_apart():
    ids = tokenizer().encode(" garden")
    assert len(ids) < len(" garden"), "several letters in one token are what is looked at here"
    found = TextStream(tokenizer(), [], ["rd"])
    assert ["".join(found.feed(token)) for token in ids][-1].endswith("ga") and found.stopped == "rd"
    assert found.feed(ids[0]) == [] and found.finish() == []


@pytest.mark.parametrize("stops", [["arde", "rd"], ["rd", "arde"], ["arden", "rde", "rd"], ["garden", "den", "ga"]])
def test_the_stop_string_that_is_complete_first_is_met_however_tokens_cut_the_text(stops):
    whole, letters = tokenizer().encode(" garden"), bytes_as_tokens(b" garden")
    assert len(whole) < len(letters)
    found = [TextStream(tokenizer(), [], stops) for _ in range(2)]
    said = [
        "".join(flat([each.feed(token) for token in ids])) for each, ids in zip(found, (whole, letters), strict=True)
    ]
    assert said[0] == said[1] == (" " if "ga" in stops else " ga")
    assert found[0].stopped == found[1].stopped == ("ga" if "ga" in stops else "rd")


# ---- thinking -----------------------------------------------------------------------------------

ARRANGEMENTS = {
    "no thinking": ("Hello.<|im_end|>", None, "Hello."),
    "thinking": ("<think>\nA cat.\n</think>\n\nHello.\n<|im_end|>", "A cat.", "Hello."),
    "lines inside": ("<think>\na\n\nb\n</think>\n\nc\n\nd<|im_end|>", "a\n\nb", "c\n\nd"),
    "empty thinking": ("<think>\n\n</think>\n\nHello.<|im_end|>", None, "Hello."),
    "unfinished thinking": ("<think>\nA cat, a", "A cat, a", ""),
    "only thinking": ("<think>\nA cat.\n</think><|im_end|>", "A cat.", ""),
    "thinking without line breaks": ("<think>A cat.</think>Hello.", "A cat.", "Hello."),
    "thinking in the middle": ("So.<think>A cat.</think>Hello.", "A cat.", "So.Hello."),
    "an end without a beginning": ("A.</think>Hello.", None, "A.Hello."),
    "nothing": ("<|im_end|>", None, ""),
    "other special tokens": ("<|box_start|>Hello<|box_end|>.<|im_end|>", None, "Hello."),
}


def play(monkeypatch, script, asked="Hi", model=None, **options) -> tuple[list[Piece], Generation]:
    """Streams and generates what the script says, after having made sure that both come to the same."""
    model = model or checkpoint(generation_config={"eos_token_id": END})
    options["max_new_tokens"] = len(Script(script).tokens)
    monkeypatch.setattr(eager, "forward", Script(script))
    pieces, result = collect(stream(model, asked, **options))
    monkeypatch.setattr(eager, "forward", Script(script))
    assert result == generate(model, asked, **options)
    assert joined(pieces, thinking=False) == result.text
    assert joined(pieces, thinking=True) == (result.thinking or "")
    return pieces, result


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_thinking_is_split_from_the_answer_in_every_arrangement(arrangement, monkeypatch):
    script, thinking, text = ARRANGEMENTS[arrangement]
    _, result = play(monkeypatch, script)
    assert (result.thinking, result.text) == (thinking, text)
    assert result.finish_reason == ("stop" if script.endswith("<|im_end|>") else "length")


def test_thinking_that_the_template_opens_is_thinking(monkeypatch):
    template = "{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    opened = Checkpoint(*vars(checkpoint()).values())
    opened = Checkpoint(opened.config, opened.weights, Tokenizer(tokenizer().backend, template), {"eos_token_id": END})
    _, result = play(monkeypatch, "A cat.\n</think>\n\nHello.<|im_end|>", model=opened)
    assert (result.thinking, result.text) == ("A cat.", "Hello.")


def test_without_thinking_the_template_closes_it_and_all_is_answer(monkeypatch):
    _, result = play(monkeypatch, "Hello.<|im_end|>", thinking=False)
    assert (result.thinking, result.text) == (None, "Hello.")
    assert tokenizer().decode(result.prompt_ids).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("asked", ["What does <think> do?", [{"role": "user", "content": "<think>"}]], ids=str)
def test_a_tag_that_a_person_typed_opens_no_thinking(asked, monkeypatch):
    _, result = play(monkeypatch, "Hello.<|im_end|>", asked)
    assert (result.thinking, result.text) == (None, "Hello.")


def test_raw_text_keeps_tags_and_line_breaks(monkeypatch):
    pieces, result = play(monkeypatch, "\n<think>\na</think>\n\nb\n\n<|im_end|>", raw=True)
    assert (result.thinking, result.text) == (None, "\n<think>\na</think>\n\nb\n\n")
    assert not any(piece.thinking for piece in pieces)


def test_a_tag_written_out_letter_by_letter_is_text(monkeypatch):
    _, result = play(monkeypatch, bytes_as_tokens(b"<think>a</think>b"))
    assert (result.thinking, result.text) == (None, "<think>a</think>b")


def with_special_tags() -> Checkpoint:
    """A tokenizer file that calls the tags special, as `add_special_tokens` of the library leaves it."""
    parts = json.loads(tokenizer().backend.to_str())
    for added in parts["added_tokens"]:
        added["special"] |= added["content"] in ("<think>", "</think>")
    backend, plain = tokenizers.Tokenizer.from_str(json.dumps(parts)), checkpoint()
    found = Tokenizer(backend, tokenizer().chat_template)
    assert found.added[OPEN].special and found.added[CLOSE].special
    return Checkpoint(plain.config, plain.weights, found, {"eos_token_id": END})


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_tags_that_a_tokenizer_file_calls_special_are_tags_all_the_same(arrangement, monkeypatch):
    script, thinking, text = ARRANGEMENTS[arrangement]
    _, result = play(monkeypatch, script, model=with_special_tags())
    assert (result.thinking, result.text) == (thinking, text)
    expected = play(monkeypatch, script, raw=True)[1]
    assert play(monkeypatch, script, raw=True, model=with_special_tags())[1].text == expected.text


@pytest.mark.parametrize("model", [checkpoint, with_special_tags], ids=["plain", "special"])
def test_a_stop_string_is_looked_for_in_the_answer_and_not_in_the_thinking(model, monkeypatch):
    asked = Checkpoint(*vars(model()).values())
    script = "<think>\nParis? Paris.\n</think>\n\nIt is Paris, of course."
    _, result = play(monkeypatch, script, model=asked, stop="Paris")
    assert (result.thinking, result.text, result.stop) == ("Paris? Paris.", "It is ", "Paris")
    _, result = play(monkeypatch, script, model=asked, stop="</think>")
    assert (result.thinking, result.text, result.stop) == ("Paris? Paris.", "", "</think>")
    _, result = play(monkeypatch, script, model=asked, stop=["Paris?"])
    assert (result.text, result.stop) == ("It is Paris, of course.", None)
    _, result = play(monkeypatch, script, model=asked, stop="</think>", raw=True)
    assert (result.text, result.stop) == ("<think>\nParis? Paris.\n", "</think>")


# ---- stream and generate ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_pieces_join_to_what_generate_returns(seed):
    model = checkpoint(seed, generation_config={"eos_token_id": list(range(0, 2000, 40))})
    options = dict(seed=seed, temperature=2.0, max_new_tokens=16, stop=["e", "\n"] if seed % 2 else ())
    pieces, result = collect(stream(model, "Who has the kite?", **options))
    assert result == generate(model, "Who has the kite?", **options)
    assert joined(pieces, thinking=False) == result.text and joined(pieces, thinking=True) == (result.thinking or "")


def test_a_piece_comes_with_the_step_that_makes_it_certain(monkeypatch):
    script = Script(bytes_as_tokens(b"abc"))
    monkeypatch.setattr(eager, "forward", script)
    steps = [(str(piece), script.calls) for piece in stream(checkpoint(), "Hi", max_new_tokens=3)]
    assert steps == [("a", 1), ("b", 2), ("c", 3)]


def test_errors_are_raised_by_the_call_and_not_by_the_first_piece(monkeypatch):
    monkeypatch.setattr(eager, "forward", never)
    two = "prompt: 2 prompts found, expected one: use generate for a batch"
    for prompt, options, message in (
        ("", {}, "prompt is empty"), ("Hi", {"top_p": 0}, "top_p is 0"), ("Hi", {"nonsense": 1}, "nonsense: no such"),
        (["a", "b"], {}, two), ("Hi", {"stop": ""}, "stop is ''"), ([10**6], {}, "prompt: token id 1000000 found"),
        ("Hi", {"max_new_tokens": 10**6}, "prompt: "), (None, {}, "prompt is a NoneType"),
    ):  # fmt: skip
        with unchecked(), pytest.raises(Error) as caught:
            stream(checkpoint(), prompt, **options)
        assert str(caught.value).startswith(message)


def test_a_stream_computes_nothing_before_it_is_asked_and_may_be_left_at_any_time(monkeypatch):
    script = Script(bytes_as_tokens(b"abcdef"))
    monkeypatch.setattr(eager, "forward", script)
    pieces = stream(checkpoint(), "Hi", max_new_tokens=6)
    assert inspect.isgenerator(pieces) and script.calls == 0
    assert next(pieces) == "a"
    pieces.close()
    assert script.calls == 1 and list(pieces) == []
