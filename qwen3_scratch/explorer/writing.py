"""A checkpoint -> the page: everything that it needs in one file, which asks nobody for anything."""

import base64
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jinja2

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..checkpoints.saving import write_text
from ..config import Config
from ..errors import Error, of_kind, shown, whole_number
from ..generation import stop_token_ids
from ..inside.mistakes import MISTAKES
from ..model import Ops
from ..request import default_sampling
from ..sampling import Sampling
from ..trust.memory import size_text
from .measured import measured
from .packing import MOST_BYTES, as_read, packed, size_of
from .reading import chat_parts, tokenizer_data

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("model", "tokenizer", "sampling", "mistakes", "generation")  # the model, which needs no browser
VIEWS = ("state", "chips", "panels", "experts", "changes", "tour", "main")  # what one sees of it
PIECE = 3 * 2**22  # bytes of the weights in one element of the page
MOST_QUESTIONS = 1000


def write(checkpoint: Checkpoint, path: str | os.PathLike[str], *, bits: int = 16, questions: int = 8) -> Path:
    """Writes the page of a checkpoint and returns its path.

    Args:
        checkpoint: of any kind that loads, with a tokenizer of Qwen's kind, and of at most 200 MB of weights.
        path: the file, which takes the place of one that is there.
        bits: 16 (fp16) or 8 (a number, with a scale for each row) for the matrices; routers stay fp16, vectors fp32.
        questions: held-out questions of each domain over which the experts' words and costs are measured; 0: none are,
            nor are they where the chat template is none of Qwen's kind, <|im_start|>user and <|im_end|>.

    Raises:
        Error: a checkpoint that is too large, has no tokenizer, another tokenizer than Qwen's, numbers that are not
            finite, or is a slice of one; an argument out of its range; a file that cannot be written.
    """
    of_kind("explorer.write", "checkpoint", checkpoint, Checkpoint)
    path = Path(of_kind("explorer.write", "path", path, str, os.PathLike))
    if type(bits) is not int or bits not in (8, 16):
        raise Error(f"explorer.write: bits is {shown(bits)}, expected 8 or 16: mend the argument")
    count = whole_number("explorer.write", "questions", questions, least=0)
    if count > MOST_QUESTIONS:
        raise Error(f"explorer.write: questions is {count}, expected at most {MOST_QUESTIONS}: mend the argument")
    if path.is_dir():
        raise Error(f"{path}: is a folder, expected a file to write: name one that ends with .html")
    if not path.parent.is_dir():  # before anything is computed
        raise Error(f"{path}: its folder is not there, expected one that is: make it first, or name another")
    text = page(checkpoint, bits, count)
    write_text(path, text)
    return path


def page(checkpoint: Checkpoint, bits: int = 16, questions: int = 0) -> str:
    """The whole page as text."""
    data, content = page_data(checkpoint, bits, questions)
    scripts = "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in (*SCRIPTS, *VIEWS))
    scripts = f"(() => {{\n{scripts}}})();"  # so that no name of the page's is one of the browser's
    style = (PAGE / "style.css").read_text("utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    words = labels()
    return environment.get_template("page.html.jinja").render(
        data=as_json(data), labels=as_json(words), pieces=pieces(content), style=style,
        name=data["name"], title=data["title"], words=words["en"],
        script=scripts, script_hash=sha256(scripts), style_hash=sha256(style),
        check=CHECK, check_hash=sha256(CHECK),
    )  # fmt: skip


# Plain JavaScript of 1999, so that a browser to which the rest is noise still says why it shows nothing.
CHECK = """
if (!window.qwen3) {
  var said = document.getElementById("said");
  said.textContent = said.getAttribute("data-too-old");
  said.hidden = false;
}
"""


def page_data(checkpoint: Checkpoint, bits: int = 16, questions: int = 0) -> tuple[dict[str, Any], bytes]:
    """All that the page's scripts are told, and the bytes of the weights."""
    tokenizer, config = tokenizer_of(checkpoint), checkpoint.config
    if checkpoint.ops != Ops():
        raise Error("explorer.write: the checkpoint is a slice of one, expected a whole one: load it without a split")
    size = size_of(checkpoint.weights, bits)
    if size > MOST_BYTES:
        less = "pass bits=8 or explore a smaller checkpoint" if bits == 16 else "explore a smaller checkpoint"
        found = f"explorer.write: the weights take {size_text(size)} at {bits} bits"
        raise Error(f"{found}, expected at most {size_text(MOST_BYTES)}, which a browser still opens: {less}")
    texts, chat = tokenizer_data(tokenizer), chat_parts(tokenizer)
    tensors, content = packed(checkpoint.weights, bits)
    sampling = default_sampling(checkpoint)
    if not (
        chat["direct"]["before"].endswith("<|im_start|>user\n") and chat["direct"]["after"].startswith("<|im_end|>")
    ):
        questions = 0  # the fixed ones are chats of this form
    read = replace(checkpoint, weights=as_read(checkpoint.weights, bits), decoder=None) if questions else checkpoint
    return {
        "name": checkpoint.path.name if checkpoint.path else config.model_type,
        "title": "title" if any(map(config.is_sparse, range(config.num_hidden_layers))) else "titleDense",
        "bits": bits,
        "bytes": len(content),
        "parameters": config.num_parameters(),
        "active": config.num_parameters(active=True),
        "config": config_data(config),
        "longest": min(config.longest, 2**31),
        "tokenizer": texts,
        "chat": chat,
        "ends": sorted(stop_token_ids(checkpoint)),
        "sampling": {"temperature": sampling.temperature, "topK": sampling.top_k, "topP": sampling.top_p},
        "leftOut": left_out(sampling),
        "tensors": tensors,
        "measured": measured(read, questions),
    }, content


def left_out(sampling: Sampling) -> dict[str, float]:
    """What generation_config.json asks for and the page does not do, which it says."""
    done, each = ("temperature", "top_k", "top_p"), zip(Sampling._fields, sampling, Sampling(), strict=True)
    return {name: value for name, value, nothing in each if name not in done and value != nothing}


def config_data(config: Config) -> dict[str, Any]:
    """The config by the names of config.json, and what its methods say of each layer."""
    layers = range(config.num_hidden_layers)
    found = asdict(config) | {"rope_parameters": dict(config.rope_parameters)}
    return found | {"sparse": [*map(config.is_sparse, layers)], "windows": [*map(config.window, layers)]}


def labels() -> dict[str, dict[str, str]]:
    """What the page says, by language."""
    found = {language: json.loads((PAGE / f"labels.{language}.json").read_text("utf-8")) for language in ("en", "zh")}
    found["en"] |= {
        f"mistake.{name}": each.wrong for name, each in MISTAKES.items() if each.steps
    }  # others need padding
    return found


def as_json(found: Any) -> str:
    """JSON that ends no script element, whatever is in it."""
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def pieces(content: bytes) -> list[str]:
    """The weights in base64, in pieces of which each ends with a whole group of four."""
    return [base64.b64encode(content[start : start + PIECE]).decode() for start in range(0, len(content), PIECE)]


def sha256(text: str) -> str:
    """By this the page's policy knows its own script and style, and no other runs."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
