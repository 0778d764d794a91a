"""A conversation is read once: only what is new in a turn, one token to answer anew, and the answers stay the same."""

import pytest
from helpers import Script, checkpoint, interrupted_after, tokenizer, unchecked

from qwen3_scratch import Checkpoint, Conversation, Error, forward, generate, generation, stream
from qwen3_scratch.fast import eager
from qwen3_scratch.request import prompt_ids

TURNS = ["Tom has the red ball.", "Who has it?", "And the kite, which Mia had before him?"]


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many tokens each call of `forward` brings."""
    counts = []

    def counting(weights, token_ids, config, **options):
        counts.append(token_ids.shape[1])
        return forward(weights, token_ids, config, **options)

    monkeypatch.setattr(eager, "forward", counting)
    return counts


def talk(model: Checkpoint, conversation: Conversation | None, **options) -> list[list[int]]:
    chat, found = [], []
    for text in TURNS:
        chat = [*chat, {"role": "user", "content": text}]
        answer = generate(model, chat, conversation=conversation, max_new_tokens=9, **options)
        found.append(answer.token_ids)
        chat = [*chat, answer.message]
    return found


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 3, "presence_penalty": 0.5}], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("window", [None, 5])
def test_a_chat_with_a_memory_answers_as_one_that_reads_all_again(options, window, monkeypatch):
    """In fp32, and logits of random weights are far enough apart for the rounding."""
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 16)
    monkeypatch.setattr(eager, "PREFILL_CHUNK", 16)
    model = checkpoint(seed=3, use_sliding_window=window is not None, sliding_window=window)
    assert talk(model, Conversation(), **options) == talk(model, None, **options)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_chat_that_outgrows_what_its_angles_were_trained_for_is_read_anew(kind):
    """Past the trained length all angles change, so keys that were kept would be turned by those of before."""
    pairs = checkpoint(seed=3).config.head_dim // 2
    of_kind = {"dynamic": {}, "longrope": {"long_factor": [3.0] * pairs, "short_factor": [1.0] * pairs}}[kind]
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **of_kind}
    rope |= {"original_max_position_embeddings": 24} if kind == "longrope" else {}
    model = checkpoint(seed=3, max_position_embeddings=24 if kind == "dynamic" else 512, rope_parameters=rope)
    assert talk(model, Conversation()) == talk(model, None)


def test_each_turn_reads_only_what_is_new(read):
    model, conversation, held = checkpoint(seed=3), Conversation(), []
    chat = []
    for text in TURNS:
        chat = [*chat, {"role": "user", "content": text}]
        ids = prompt_ids(model, chat)
        common = next((n for n, pair in enumerate(zip(held, ids, strict=False)) if pair[0] != pair[1]), len(held))
        read.clear()
        answer = generate(model, chat, conversation=conversation, max_new_tokens=9)
        assert read == [len(ids) - common, *[1] * 8]
        assert common > 0 or not held
        held = [*ids, *answer.token_ids[:-1]]  # the last was never read
        assert conversation.token_ids == held
        chat = [*chat, answer.message]


def test_an_answer_anew_reads_one_token_and_other_weights_or_a_shorter_prompt_begin_right(read):
    model, conversation = checkpoint(seed=3), Conversation()
    drawn = dict(temperature=1.0, max_new_tokens=6, conversation=conversation)
    first = generate(model, TURNS[0], seed=1, **drawn)
    read.clear()
    assert generate(model, TURNS[0], seed=1, **drawn) == first and read == [1] * 6
    assert generate(model, TURNS[0], seed=2, **drawn) != first
    other = checkpoint(seed=4)
    for prompt in ([5], "Hi", TURNS[2] * 3, TURNS[0], [7, 8]):
        for asked in (other, model):
            expected = generate(asked, prompt, max_new_tokens=6)
            assert generate(asked, prompt, max_new_tokens=6, conversation=conversation) == expected
    assert conversation.weights is model.weights


@pytest.mark.parametrize("stop", range(5))
def test_a_turn_that_is_cut_off_at_any_step_leaves_a_conversation_that_can_go_on(monkeypatch, stop):
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 7)
    monkeypatch.setattr(eager, "PREFILL_CHUNK", 7)
    model, conversation = checkpoint(seed=3), Conversation()
    generate(model, TURNS[0], max_new_tokens=4, conversation=conversation)
    plain = eager.forward
    monkeypatch.setattr(eager, "forward", interrupted_after(stop, plain))
    with pytest.raises(KeyboardInterrupt):
        generate(model, TURNS[2], max_new_tokens=6, conversation=conversation)
    monkeypatch.setattr(eager, "forward", plain)
    expected = generate(model, TURNS[2], max_new_tokens=6)
    assert generate(model, TURNS[2], max_new_tokens=6, conversation=conversation) == expected
    pieces = stream(model, TURNS[1], max_new_tokens=6, conversation=conversation)
    next(pieces)
    pieces.close()
    assert generate(model, TURNS[1], max_new_tokens=6, conversation=conversation) == generate(
        model, TURNS[1], max_new_tokens=6
    )


def test_a_conversation_is_for_one_prompt_with_one_answer(monkeypatch):
    model = checkpoint()
    for prompt, options in ((["Hi", "Ho"], {}), ("Hi", {"num_samples": 2, "temperature": 1.0})):
        with pytest.raises(Error, match=r"^conversation is .*, for 2 rows, expected a Conversation, and one"):
            generate(model, prompt, conversation=Conversation(), **options)
    with unchecked(), pytest.raises(Error, match=r"^conversation is 5, for 1 rows, expected a Conversation"):
        generate(model, "Hi", conversation=5)
    script = Script("x")
    monkeypatch.setattr(eager, "forward", script)
    assert generate(model, "Hi", conversation=Conversation(), max_new_tokens=1).text == "x"
    assert tokenizer().encode("x") == script.tokens
