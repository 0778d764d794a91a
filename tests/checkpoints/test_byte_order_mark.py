"""A byte order mark, as editors of Windows put it before a text: nothing in a template, one sentence in JSON."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import TINY
from tiers import one_of_each
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from qwen3_scratch import Error, load_checkpoint, load_weights, read_config, read_tokenizer
from qwen3_scratch.checkpoints.saving import save_weights
from qwen3_scratch.trust.shards import INDEX

MARK = "\ufeff"
CHAT = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}]
TEMPLATE = "{{ tools[0].function.name if tools }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}

pytestmark = pytest.mark.usefixtures("quiet_transformers")


@pytest.fixture
def folder(tmp_path) -> Path:
    """The embedded checkpoint in two shards, with every file that may stand beside one."""
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training*"))
    config = read_config(TINY)
    save_weights(tmp_path, load_weights(TINY, config), config, max_shard_size=5_000_000)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "chat_template.jinja").write_text(settings.pop("chat_template"), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 2}', encoding="utf-8")
    return tmp_path


def with_mark(path: Path, encoding: str = "utf-8") -> Path:
    path.write_bytes((MARK + path.read_text(encoding="utf-8")).encode(encoding))
    return path


def their_model(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder)


JSON = {
    "config.json": their_model, INDEX: their_model, "adapter_config.json": their_model,
    "generation_config.json": GenerationConfig.from_pretrained, "tokenizer.json": AutoTokenizer.from_pretrained,
    "tokenizer_config.json": AutoTokenizer.from_pretrained, "special_tokens_map.json": AutoTokenizer.from_pretrained,
    "added_tokens.json": AutoTokenizer.from_pretrained,
}  # fmt: skip


@pytest.mark.parametrize("encoding", one_of_each(["utf-8", "utf-16-le", "utf-16-be"], lambda name: name[:5]))
@pytest.mark.parametrize("name", JSON)
def test_before_json_a_byte_order_mark_is_told_in_one_sentence_and_transformers_refuses_it_too(folder, name, encoding):
    if name == "adapter_config.json":
        (folder / name).write_text(json.dumps(LORA), encoding="utf-8")
    else:
        load_checkpoint(folder)
        JSON[name](folder)
    path, bits = with_mark(folder / name, encoding), encoding[4:].split("-")[0]
    with pytest.raises(Exception, match=r"BOM|not a valid JSON|can't decode byte|codec"):
        JSON[name](folder)
    with pytest.raises(Error) as raised:
        load_checkpoint(folder)
    expected = "expected JSON in UTF-8 without one, as transformers expects it: save it again as plain UTF-8"
    assert str(raised.value) == f"{path}: begins with the byte order mark of UTF-{bits}, {expected}"


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja", "named"])
def test_before_a_template_a_byte_order_mark_is_as_if_it_were_not_there(folder, name):
    """transformers would begin every chat with it, as a character that the model has hardly seen."""
    plain, path = read_tokenizer(folder).render_chat(CHAT), folder / name
    if name == "named":
        path = folder / "tokenizer_config.json"
        (folder / "chat_template.jinja").unlink()
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(settings | {"chat_template": MARK + TEMPLATE}), encoding="utf-8")
        plain = "user: Hi"
    elif "/" in name:
        path.parent.mkdir()
        path.write_text(MARK + TEMPLATE, encoding="utf-8")
        assert read_tokenizer(folder).render_chat(CHAT, tools=TOOLS) == "nowuser: Hi"
    else:
        with_mark(path)
    assert read_tokenizer(folder).render_chat(CHAT) == plain
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tools=TOOLS, tokenize=False)
    assert theirs.startswith(MARK)


def test_a_byte_order_mark_within_a_text_stays(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}" + MARK, encoding="utf-8")
    assert read_tokenizer(folder).render_chat([{"role": "user", "content": MARK + "Hi"}]) == f"{MARK}Hi{MARK}"
