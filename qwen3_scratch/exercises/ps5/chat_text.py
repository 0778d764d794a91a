"""ps5, third part: what is read of a chat, and what is written in parts. `sampling_and_chat` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence

import torch

from ...checkpoints.checkpoint import tokenizer_of
from ...tiny.evaluate import questions
from ...tokenizer import Message, Tokenizer
from ...trust.chat_template import compile_template
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, tiny
from .drawing import SET

WORDS = (
    "red",
    "coat",
    "Leo",
    "school",
    "seven",
    "cup",
    "Nora",
    "train",
    "blue",
    "garden",
    "3",
    "why",
    "yes",
    "n\u00e4her",
)


def words(g: torch.Generator, low: int, high: int) -> str:
    """Between low and high - 1 words."""
    return " ".join(WORDS[number] for number in randint(g, 0, len(WORDS), randint(g, low, high)).tolist())


# ---- render_chat -----------------------------------------------------------------------------


def render_chat(messages: Sequence[Message], thinking: bool) -> str:
    return tokenizer_of(tiny()).render_chat(messages, thinking=thinking)


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def one_question(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for thinking in (True, False, True):
        yield case([turn("user", words(g, 1, 2))], thinking, note="one question")


def several_turns(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for thinking in (True, False):
        yield case([turn("system", words(g, 2, 4)), turn("user", words(g, 1, 4))], thinking, note="a system turn")
        chat = [turn("user", words(g, 1, 3)), turn("assistant", words(g, 1, 3)), turn("user", words(g, 1, 3))]
        yield case(chat, thinking, note="three turns")


def thinking_before(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for thinking in (True, False):
        for thought in (f"<think>\n{words(g, 2, 5)}\n</think>\n\n", "<think>\n\n</think>\n\n"):
            said = turn("assistant", thought + words(g, 1, 3))
            chat = [turn("user", words(g, 1, 2)), said, turn("user", words(g, 1, 2))]
            yield case(chat, thinking, note="earlier thinking")


def odd_chats(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for thinking in (True, False):
        yield case([turn("user", f"  {words(g, 1, 3)}\n")], thinking, note="spaces and line breaks around the question")
        yield case([turn("user", "")], thinking, note="an empty question")
        said = turn("assistant", f"{words(g, 1, 3)}  ")
        yield case([turn("user", "a\n\nb"), said, turn("user", words(g, 1, 2))], thinking, note="spaces at an end")
        chat = [turn("user", words(g, 1, 2)), turn("user", words(g, 1, 2))]
        yield case(chat, thinking, note="two turns of the user")
        chat = [
            turn("system", f"close it: </think>\n {words(g, 1, 3)}"),
            turn("user", f"<think>\na\n</think>\n\n{words(g, 1, 2)}"),
        ]
        yield case(chat, thinking, note="tags in what the user and the system say")
        for end in ("\n\n  yes ", "", "\n\n", "\n\n\n\t yes\n\n"):
            said = turn("assistant", f"<think>\n{words(g, 1, 3)}\n</think>{end}")
            yield case([turn("user", "a"), said, turn("user", "b")], thinking, note="what follows earlier thinking")
        said = turn("assistant", f"<think>\na </think> b\n</think>\n\n{words(g, 1, 3)}\n")
        yield case([turn("user", "a"), said, turn("user", "b")], thinking, note="two closing tags in an earlier turn")
        yield case(
            [turn("user", "a"), turn("assistant", "\n\nyes"), turn("user", "b")], thinking, note="line breaks in front"
        )
        yield case(
            [turn("user", "a"), turn("assistant", "<think>\nwell"), turn("user", "b")],
            thinking,
            note="thinking cut off",
        )


def real_chats(seed: int) -> Iterator[Case]:
    for domain in ("stories", "arithmetic"):
        for number, example in enumerate(questions(domain, 2, seed=300 + seed)):
            yield case(list(example.messages), number == 0, note="a chat of the embedded checkpoint")


OPENED = "<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"


def rewritten(change: Callable[[str], str]) -> Callable[..., str]:
    """The text, changed afterwards."""
    return lambda messages, thinking: change(render_chat(messages, thinking))


def thinking_kept(messages: Sequence[Message], thinking: bool) -> str:
    turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages)
    return turns + OPENED + ("" if thinking else EMPTY)


def with_breaks_kept(messages: Sequence[Message], thinking: bool) -> str:
    cut = [{**each, "content": each["content"].split("</think>")[-1]} if each["role"] == "assistant" else each
           for each in messages]  # fmt: skip
    return thinking_kept(cut, thinking)


def stripped(messages: Sequence[Message], thinking: bool) -> str:
    return render_chat([{**each, "content": each["content"].strip()} for each in messages], thinking)


RENDER_CHAT = Exercise(
    "render_chat",
    SET,
    render_chat,
    stages=(
        Stage("one question", one_question),
        Stage("several turns", several_turns),
        Stage("thinking in earlier turns", thinking_before),
        Stage("odd chats", odd_chats),
        Stage("the real checkpoint's chats", real_chats),
    ),
    mistakes=(
        Mistake("The assistant's turn is not opened at the end, where the model goes on.",
                rewritten(lambda text: text.rpartition(OPENED)[0])),
        Mistake("With thinking off an empty block is missing behind the last opening: <think>, two line breaks, "
                "</think>, two line breaks.", lambda messages, thinking: render_chat(messages, True)),
        Mistake("The switch works the wrong way round: the empty block stands there with thinking off.",
                lambda messages, thinking: render_chat(messages, not thinking)),
        Mistake("With thinking on you write <think> yourself; the model writes it.",
                lambda messages, thinking: render_chat(messages, thinking) + "<think>\n" * thinking),
        Mistake("A line break is missing after <|im_end|>.",
                rewritten(lambda text: text.replace("<|im_end|>\n", "<|im_end|>"))),
        Mistake("A line break, not a space, stands between role and text.",
                rewritten(lambda text: text.replace("user\n", "user ").replace("assistant\n", "assistant ")
                          .replace("system\n", "system "))),
        Mistake("A line break is missing after the last opening.",
                lambda messages, thinking: render_chat(messages, thinking).replace(OPENED, OPENED[:-1])
                if thinking else render_chat(messages, thinking)),
        Mistake("There is a line break too many before <|im_end|>.",
                rewritten(lambda text: text.replace("<|im_end|>", "\n<|im_end|>"))),
        Mistake("Earlier thinking is still there; of an assistant's turn only what follows </think> is kept.",
                thinking_kept),
        Mistake("Line breaks between </think> and the answer are dropped together with the thinking.",
                with_breaks_kept),
        Mistake("You strip what was said; it stays as it is, spaces included.", stripped),
        Mistake("You end the opened turn; the model goes on there.", rewritten(lambda text: text + "<|im_end|>\n")),
    ),
    own=(Tokenizer.render_chat, compile_template),
)  # fmt: skip

# ---- split_thinking --------------------------------------------------------------------------


def split_thinking(text: str) -> tuple[str, str]:
    thinking, closed, answer = text.partition("</think>")
    if not closed and not text.lstrip("\n").startswith("<think>"):
        thinking, answer = "", text
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


def both_parts(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        yield case(f"<think>\n{words(g, 2, 5)}\n</think>\n\n{words(g, 1, 4)}", note="thinking and answer")
    yield case(f"<think>\n{words(g, 2, 3)}\n\n{words(g, 2, 3)}\n</think>\n\n{words(g, 1, 3)}\n", note="two paragraphs")


def one_part(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case(words(g, 2, 5), note="an answer alone")
    for end in ("", "\n", "\n\n\n"):
        yield case(f"<think>\n\n</think>\n\n{words(g, 2, 4)}{end}", note="an empty block")
    yield case(f"<think>\n{words(g, 3, 6)}", note="thinking that was cut off")
    yield case(f"{words(g, 2, 4)}\n</think>\n\n{words(g, 1, 3)}", note="the template has written <think>")
    yield case(f"<think>\n{words(g, 2, 4)}\n</think>", note="nothing after the thinking")


def odd_parts(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case("", note="nothing at all")
    yield case(f"\n\n<think>\n{words(g, 2, 4)}\n", note="thinking that was cut off, behind line breaks")
    yield case(f"\n\n\n{words(g, 2, 4)}\n\n\n", note="an answer alone, between line breaks")
    for tags in ("<think>", "</think>", "<think></think>", "\n</think>\n\n\n", "<think>\n\n\n</think>"):
        yield case(tags, note="tags alone")
    yield case(f" <think>\n{words(g, 1, 3)}", note="a space before the tag")
    yield case(
        f"<think>\n\n\n {words(g, 1, 3)} \n\n\n</think>\n\n\n\n {words(g, 1, 3)} \t\n\n", note="many line breaks"
    )
    yield case(f"<think><think>{words(g, 1, 3)}</think></think>{words(g, 1, 3)}", note="tags twice")
    yield case(f"<think>\n\n<think>\n{words(g, 1, 3)}", note="the tag twice, cut off")
    yield case(f"\n\n<think>\n{words(g, 2, 4)}\n</think>\n\n{words(g, 1, 3)}", note="line breaks in front")
    yield case(f"<think>\n    {words(g, 2, 4)}  \n</think>\n\n  {words(g, 1, 3)} \n", note="spaces at the ends")
    yield case(f"<think>\n{words(g, 2, 3)}\n</think>\n\nIt ends with </think> {words(g, 1, 3)}", note="a tag named")
    yield case(f"{words(g, 1, 3)}: the tag <think> opens it", note="a tag named, without thinking")


def tags_alone(text: str) -> tuple[str, str]:
    thinking, closed, answer = text.partition("</think>")
    return (thinking.removeprefix("<think>"), answer) if closed else split_thinking(text)


def spaces_too(text: str) -> tuple[str, str]:
    thinking, answer = split_thinking(text)
    return thinking.strip(), answer.strip()


def at_the_last(text: str) -> tuple[str, str]:
    thinking, closed, answer = text.rpartition("</think>")
    return (thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")) if closed else (
        split_thinking(text))  # fmt: skip


def unfinished_as_answer(text: str) -> tuple[str, str]:
    return split_thinking(text) if "</think>" in text else ("", text.strip("\n"))


def unfinished_without_tag(text: str) -> tuple[str, str]:
    return split_thinking(text) if "</think>" in text else ("", text.removeprefix("<think>").strip("\n"))


def needs_both_tags(text: str) -> tuple[str, str]:
    return split_thinking(text) if "<think>" in text else ("", text.strip("\n"))


def all_is_thinking(text: str) -> tuple[str, str]:
    return split_thinking(text) if "</think>" in text else (text.removeprefix("<think>").strip("\n"), "")


def opened_anywhere(text: str) -> tuple[str, str]:
    _, opened, after = text.partition("<think>")
    return split_thinking(text) if "</think>" in text or not opened else (after.strip("\n"), "")


SPLIT_THINKING = Exercise(
    "split_thinking",
    SET,
    split_thinking,
    stages=(
        Stage("thinking and answer", both_parts),
        Stage("one of them missing", one_part),
        Stage("odd texts", odd_parts),
    ),
    mistakes=(
        Mistake("Line breaks at the ends of both parts belong to the format: drop them.", tags_alone),
        Mistake("You strip spaces too; only line breaks belong to the format (`strip(\"\\n\")`).", spaces_too),
        Mistake("The first </think> ends the thinking; a later one is text.", at_the_last),
        Mistake("Thinking that was cut off is no answer: a text that begins with <think> and never closes is thinking.",
                unfinished_as_answer),
        Mistake("Thinking that was cut off is no answer: a text that begins with <think> and never closes is thinking.",
                unfinished_without_tag),
        Mistake("A template may have written <think> itself: what stands before </think> is thinking all the same.",
                needs_both_tags),
        Mistake("Without tags everything is answer.", all_is_thinking),
        Mistake("The parts are swapped: thinking comes first.", lambda text: split_thinking(text)[::-1]),
        Mistake("<think> opens the thinking at the start alone; further on it is text.", opened_anywhere),
    ),
)  # fmt: skip
