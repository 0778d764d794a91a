"""A name or folder -> a Checkpoint: config, weights, tokenizer and generation defaults, and back to a folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .config import Config, read_config, read_json
from .errors import Error
from .hub import find_folder
from .model import Ops
from .tokenizer import Tokenizer, read_tokenizer
from .tree import Weights
from .weights import Slot, load_weights, save_weights, write_json

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Checkpoint:
    """All that generating needs. `tokenizer` is None where the folder has none; then prompts are token ids.

    `ops` are the steps that its weights are computed with: a slice of a model brings some that add up with the others.
    """

    config: Config
    weights: Weights = field(repr=False)
    tokenizer: Tokenizer | None = None
    generation_config: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    ops: Ops = field(default=Ops(), repr=False)

    @property
    def device(self) -> torch.device:
        return self.weights.embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embed_tokens.dtype


def load_checkpoint(
    name_or_path: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    num_experts_per_tok: int | None = None,
    own: Callable[[Slot], Slot | None] = lambda slot: slot,
) -> Checkpoint:
    """Loads `tiny` (the embedded one), a folder, or a hub id; None asks QWEN3_SCRATCH_MODEL, else `tiny`.

    `dtype` and `device` None keep the type of the files and the CPU. `num_experts_per_tok` overrides how many experts
    each token goes to; `own` is `load_weights`'s. Raises Error for whatever is wrong with the name, the files or the
    device.
    """
    folder = find_folder(name_or_path, revision)
    config = read_config(folder)
    if num_experts_per_tok is not None:
        config = replace(config, num_experts_per_tok=num_experts_per_tok)
    try:
        torch.empty(0, device=device).tolist()  # a meta tensor holds nothing, and says so here
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise Error(
            f"device is {device!r}, expected one that this machine has ({str(error).splitlines()[0]})"
        ) from None
    tokenizer = read_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        found = f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {config.vocab_size} rows"
        raise Error(f"{folder}: {found}, expected no more tokens than rows: use the files of one checkpoint")
    defaults = folder / "generation_config.json"
    generation_config = read_json(defaults) if defaults.exists() else {}
    weights = load_weights(folder, config, dtype=dtype, device=device, own=own)
    return Checkpoint(config, weights, tokenizer, generation_config, folder)


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes a folder that transformers, and so vLLM and SGLang, loads: the hub's names and config spelling.

    Each file is written beside its final name and renamed when complete, the weights before the config, so that an
    interrupted call leaves the files that were there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(checkpoint.config, dtype=str(checkpoint.dtype).removeprefix("torch."))
    save_weights(folder, checkpoint.weights, config)
    if checkpoint.generation_config:
        write_json(folder / "generation_config.json", checkpoint.generation_config)
    for name in TEXT_FILES:
        source = checkpoint.path / name if checkpoint.path else None
        if source is not None and source.exists() and source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)
    if checkpoint.tokenizer is not None and not (folder / "tokenizer.json").exists():  # built by hand, in no folder
        checkpoint.tokenizer.backend.save(str(folder / "tokenizer.json"))
        if checkpoint.tokenizer.chat_template is not None:
            (folder / "chat_template.jinja").write_text(checkpoint.tokenizer.chat_template, encoding="utf-8")
    write_json(folder / "config.json", config.to_dict())
