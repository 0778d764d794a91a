"""Wrong answers to ps5_sampling_and_chat, second part, and what has to be said of each: see ps5."""

# ---- render_chat -----------------------------------------------------------------------------


def render_chat__not_opened(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if message["role"] == "assistant":
            said = said.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text


def render_chat__switch_ignored(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if message["role"] == "assistant":
            said = said.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def render_chat__opens_the_thinking(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"]
        if message["role"] == "assistant":
            said = said.split("</think>")[-1].lstrip("\n")
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text + "<|im_start|>assistant\n<think>\n" + ("" if thinking else "\n</think>\n\n")


def render_chat__thinking_kept(messages, thinking):
    turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages)
    return turns + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


def render_chat__strips(messages, thinking):
    text = ""
    for message in messages:
        said = message["content"].split("</think>")[-1].strip()
        text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
    return text + "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")


def render_chat__one_question_only(messages, thinking):
    end = "" if thinking else "<think>\n\n</think>\n\n"
    return f"<|im_start|>user\n{messages[-1]['content']}<|im_end|>\n<|im_start|>assistant\n{end}"


def render_chat__modules_own(messages, thinking):
    from qwen3_scratch import load_checkpoint

    return load_checkpoint("tiny").tokenizer.render_chat(messages, thinking=thinking)


# ---- split_thinking --------------------------------------------------------------------------


def split_thinking__line_breaks_kept(text):
    if "</think>" not in text:
        return (text.removeprefix("<think>"), "") if text.startswith("<think>") else ("", text)
    thinking, _, answer = text.partition("</think>")
    return thinking.removeprefix("<think>"), answer


def split_thinking__spaces_stripped(text):
    if "</think>" not in text and not text.lstrip("\n").startswith("<think>"):
        return "", text.strip()
    thinking, _, answer = text.partition("</think>")
    return thinking.strip().removeprefix("<think>").strip(), answer.strip()


def split_thinking__cut_off_is_answer(text):
    if "</think>" not in text:
        return "", text.strip("\n")
    thinking, _, answer = text.partition("</think>")
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


def split_thinking__needs_both_tags(text):
    if "<think>" not in text:
        return "", text.strip("\n")
    thinking, _, answer = text.partition("</think>")
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


def split_thinking__at_the_last_tag(text):
    if "</think>" not in text and not text.lstrip("\n").startswith("<think>"):
        return "", text.strip("\n")
    thinking, _, answer = text.rpartition("</think>") if "</think>" in text else (text, "", "")
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


def split_thinking__without_tags_thinking(text):
    thinking, _, answer = text.partition("</think>")
    return thinking.lstrip("\n").removeprefix("<think>").strip("\n"), answer.strip("\n")


# ---- stop_stream -----------------------------------------------------------------------------


def stop_stream__each_piece_by_itself(pieces, stops):
    shown = []
    for piece in pieces:
        found = [piece.find(stop) for stop in stops if stop in piece]
        if found:
            return [*shown, piece[: min(found)]]
        shown.append(piece)
    return [*shown, ""]


def stop_stream__all_at_the_end(pieces, stops):
    text, shown = "", []
    for piece in pieces:
        text += piece
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return [*shown, text[: min(found)]]
        shown.append("")
    return [*shown, text]


def stop_stream__always_as_much(pieces, stops):
    held, shown, room = "", [], max(map(len, stops), default=1) - 1
    for piece in pieces:
        held += piece
        found = [held.find(stop) for stop in stops if stop in held]
        if found:
            return [*shown, held[: min(found)]]
        sure = max(len(held) - room, 0)
        shown.append(held[:sure])
        held = held[sure:]
    return [*shown, held]


def stop_stream__rest_lost(pieces, stops):
    held, shown = "", []
    for piece in pieces:
        held += piece
        found = [held.find(stop) for stop in stops if stop in held]
        if found:
            return [*shown, held[: min(found)]]
        sizes = [size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])]
        sure = len(held) - max(sizes, default=0)
        shown.append(held[:sure])
        held = held[sure:]
    return [*shown, ""]


def stop_stream__first_of_the_list(pieces, stops):
    held, shown = "", []
    for piece in pieces:
        held += piece
        for stop in stops:
            if stop in held:
                return [*shown, held[: held.find(stop)]]
        sizes = [size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])]
        sure = len(held) - max(sizes, default=0)
        shown.append(held[:sure])
        held = held[sure:]
    return [*shown, held]


def stop_stream__shortest_start(pieces, stops):
    held, shown = "", []
    for piece in pieces:
        held += piece
        found = [held.find(stop) for stop in stops if stop in held]
        if found:
            return [*shown, held[: min(found)]]
        sizes = [size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])]
        sure = len(held) - min(sizes, default=0)
        shown.append(held[:sure])
        held = held[sure:]
    return [*shown, held]


FRAGMENTS = {
    render_chat__not_opened: "turn is not opened at the end",
    render_chat__switch_ignored: "an empty block is missing",
    render_chat__opens_the_thinking: "the model writes it",
    render_chat__thinking_kept: "Earlier thinking is still there",
    render_chat__strips: "You strip what was said",
    render_chat__one_question_only: "found '",
    render_chat__modules_own: "this calls `render_chat`",
    split_thinking__line_breaks_kept: "Line breaks at the ends of both parts",
    split_thinking__spaces_stripped: "You strip spaces too",
    split_thinking__cut_off_is_answer: "Thinking that was cut off is no answer",
    split_thinking__needs_both_tags: "A template may have written <think> itself",
    split_thinking__at_the_last_tag: "The first </think> ends the thinking",
    split_thinking__without_tags_thinking: "Without tags everything is answer",
    stop_stream__each_piece_by_itself: "A stop string may lie across pieces",
    stop_stream__all_at_the_end: "You show everything at the end",
    stop_stream__always_as_much: "hold back only what is its start",
    stop_stream__rest_lost: "What was held back is lost at the end",
    stop_stream__first_of_the_list: "the one that comes first in the text",
    stop_stream__shortest_start: "Of several starts at the end",
}
