"""A name or folder -> a Checkpoint: config, weights, tokenizer and generation defaults, and back to a folder."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache import KVCache
from ..config import Config
from ..errors import Error
from ..hub.find import find_folder
from ..model import Ops, Weights
from ..sampling import Sampling, check_sampling
from ..tokenizer import Tokenizer, read_tokenizer
from ..trust.files import check_file, read_json
from .config_json import check_generation_config, read_config
from .saving import CHECKPOINT_FILES, TEXT_FILES, bytes_of, replacing, whole, write_json, write_text, write_weights
from .weights import Slot, load_weights

Pick = Callable[[Tensor], Tensor]  # logits [batch, vocab] -> the tokens chosen [batch]
Advance = Callable[[Tensor], Tensor]  # tokens [batch] -> the tokens after them [batch]
Decoder = Callable[[Any, KVCache, Pick], Advance]  # a Checkpoint, and a cache that holds the prompts


@dataclass(frozen=True)
class Checkpoint:
    """All that generating needs. `tokenizer` is None where the folder has none; then prompts are token ids.

    `ops` are the steps that its weights are computed with: a slice of a model brings some that add up with the others.
    `decoder` is how it goes from one new token to the next: None as it stands, or what `fast.compiled` or `fast.int8`
    put there.
    """

    config: Config
    weights: Weights = field(repr=False)
    tokenizer: Tokenizer | None = None
    generation_config: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    ops: Ops = field(default=Ops(), repr=False)
    decoder: Decoder | None = field(default=None, repr=False)

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
        said = str(error).splitlines()[0]
        raise Error(f"device is {device!r}, expected one that this machine has ({said})") from None
    for name in TEXT_FILES:
        if os.path.lexists(folder / name):  # whoever reads it or copies it along finds a plain file
            check_file(folder / name)
    tokenizer = read_tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        found = f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {config.vocab_size} rows"
        raise Error(f"{folder}: {found}, expected no more tokens than rows: use the files of one checkpoint")
    generation_config = read_generation_config(folder)
    weights = load_weights(folder, config, dtype=dtype, device=device, own=own)
    return Checkpoint(config, weights, tokenizer, generation_config, folder)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer, for what cannot do without; Error where there is none."""
    if checkpoint.tokenizer is None:
        found = f"{checkpoint.path or 'checkpoint'}: has no tokenizer"
        raise Error(f"{found}, expected one to read texts with: load a folder that has a tokenizer.json")
    return checkpoint.tokenizer


def read_generation_config(folder: str | Path) -> dict[str, Any]:
    """What generation_config.json sets, each of it of a kind and in a range that generating can use; {} without one."""
    path = Path(folder) / "generation_config.json"
    if not os.path.lexists(path):
        return {}
    found = read_json(path)
    try:
        check_generation_config(found, Sampling._fields)
        check_sampling(Sampling(**{name: found[name] for name in Sampling._fields if found.get(name) is not None}))
    except Error as error:
        raise Error(f"{path}: {error}") from None
    return found


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes a folder that transformers, and so vLLM and SGLang, loads: the hub's names and config spelling.

    The files take the place of a checkpoint that is there already, its tokenizer included, all together or not at all
    (`saving.replacing`); other files stay. Raises Error where there is no room, or no right to write.
    """
    folder, weights = Path(folder), checkpoint.weights
    config = replace(checkpoint.config, dtype=str(checkpoint.dtype).removeprefix("torch."))
    with replacing(folder, CHECKPOINT_FILES, needed=bytes_of(weights, config)) as new:
        write_weights(new, weights, config)
        if checkpoint.generation_config:
            write_json(new / "generation_config.json", checkpoint.generation_config)
        for name in TEXT_FILES:
            source = checkpoint.path / name if checkpoint.path else None
            if source is not None and source.exists():
                with whole(new / name) as partial:
                    shutil.copyfile(source, partial)
        if checkpoint.tokenizer is not None and not (new / "tokenizer.json").exists():  # built by hand, in no folder
            write_text(new / "tokenizer.json", checkpoint.tokenizer.backend.to_str(pretty=True))
            if checkpoint.tokenizer.chat_template is not None:
                write_text(new / "chat_template.jinja", checkpoint.tokenizer.chat_template)
        write_json(new / "config.json", config.to_dict())
