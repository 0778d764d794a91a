"""A name or folder -> a Checkpoint: config, weights, tokenizer and generation defaults, and back to a folder."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..cache import KVCache
from ..config import Config
from ..errors import Error, of_kind, shown
from ..hub.find import find_folder
from ..model import Ops, Weights
from ..sampling import Sampling, check_generation_config, check_sampling, own_number
from ..tokenizer import Tokenizer, read_tokenizer
from ..trust.arguments import check_fits
from ..trust.files import check_file, read_json
from .adapters import base_folder
from .config_json import read_config
from .saving import (
    CHECKPOINT_FILES,
    TEXT_FILES,
    bytes_of,
    check_tree,
    replacing,
    whole,
    write_json,
    write_text,
    write_weights,
)  # fmt: skip
from .weights import AS_READ, Form, Slot, load_weights

# Settings of generation_config.json by which transformers would answer otherwise, and where each changes nothing.
UNREAD = {
    "num_beams": 1, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "typical_p": 1.0, "eta_cutoff": 0.0,
    "epsilon_cutoff": 0.0, "stop_strings": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "bad_words_ids": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None,
    "length_penalty": 1.0, "guidance_scale": 1.0, "max_time": None, "max_new_tokens": None, "min_new_tokens": 0,
    "min_length": 0, "num_return_sequences": 1, "exponential_decay_length_penalty": None, "force_words_ids": None,
    "watermarking_config": None, "top_h": None, "dola_layers": None, "token_healing": False, "penalty_alpha": 0.0,
    "encoder_repetition_penalty": 1.0,
}  # fmt: skip
Pick = Callable[[Tensor], Tensor]  # logits [batch, vocab] -> the tokens chosen [batch]
Advance = Callable[[Tensor], Tensor]  # tokens [batch] -> the tokens after them [batch]


@runtime_checkable
class Decoder(Protocol):
    """A Checkpoint, and a cache that holds the prompts -> what goes on from there.

    With `new` above 1 each call reads so many tokens a row, [batch, new], and picks from [batch, new, vocab].
    """

    def __call__(self, checkpoint: Any, cache: KVCache, pick: Pick, new: int = 1, /) -> Advance: ...


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that generating needs. `tokenizer` is None where the folder has none; then prompts are token ids.

    Two of them are equal if they are one and the same: comparing all numbers is a matter of minutes.

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

    def __post_init__(self) -> None:
        kinds: dict[str, tuple[type, ...]] = {"config": (Config,), "weights": (Weights,), "generation_config": (dict,)}
        kinds |= {"ops": (Ops,), "tokenizer": (Tokenizer, NoneType), "path": (Path, NoneType)}
        for name, kind in kinds.items():
            of_kind("Checkpoint", name, getattr(self, name), *kind)
        if self.decoder is not None and not callable(self.decoder):
            of_kind("Checkpoint", "decoder", self.decoder, Decoder)
        check_fits("Checkpoint", self.weights, self.config)

    @property
    def device(self) -> torch.device:
        return self.weights.embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embed_tokens.dtype


def load_checkpoint(
    name_or_path: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    num_experts_per_tok: int | None = None,
    own: Callable[[Slot], Slot | None] = lambda slot: slot,
    form: Form = AS_READ,
    runs_as: Callable[[Config], Config] = lambda config: config,
) -> Checkpoint:
    """Loads `tiny` (the embedded one), a folder, or a hub id; None asks QWEN3_SCRATCH_MODEL, else `tiny`.

    `dtype`, a torch.dtype or its name, and `device` are by default what config.json or else the files say, and the CPU.
    `num_experts_per_tok` overrides how many experts each token goes to, and stands in what is saved from it. An
    adapter of peft is merged: beside a model's files, or alone where its base is at hand. `own` and `form` are
    `load_weights`'s, and `runs_as` gives the config of what that leaves of the model.
    Raises Error for whatever is wrong with the name, the files, the device or the override.
    """
    folder = find_folder(name_or_path, revision)
    config = read_config(folder)
    if num_experts_per_tok is not None:
        config = with_top_k(config, num_experts_per_tok)
    weights_of, home = folder, base_folder(folder)
    folder = folder if (folder / "tokenizer.json").exists() else home  # an adapter has texts of its own, or its base's
    for path in text_files(folder):  # whoever reads it or copies it along finds a plain file
        check_file(path)
    tokenizer = find_tokenizer(folder)
    check_vocabulary(folder, tokenizer, config)
    generation_config = read_generation_config(folder) or read_generation_config(home)
    weights = load_weights(weights_of, config, dtype=dtype, device=device, own=own, form=form)
    if weights.lm_head is not None:  # a head of its own, which a tied config would hide
        config = replace(config, tie_word_embeddings=False)
    return Checkpoint(runs_as(config), weights, tokenizer, generation_config, folder)


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, if there is one; a line on standard error for one in a form that is not read."""
    if (folder / "tokenizer.json").exists():
        return read_tokenizer(folder)
    if (folder / "vocab.json").exists():
        found = f"{folder}: has vocab.json and no tokenizer.json, which alone is read, so that it takes token ids only"
        print(f"{found}: let transformers' AutoTokenizer save its tokenizer there", file=sys.stderr)
    return None


def check_vocabulary(folder: Path, tokenizer: Tokenizer | None, config: Config) -> None:
    """Raises Error for a tokenizer with more tokens than the embedding has rows."""
    if tokenizer is None or tokenizer.vocab_size <= config.vocab_size:
        return
    found = f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {config.vocab_size} rows"
    late = [str(token) for number, token in tokenizer.added.items() if number >= config.vocab_size]
    remedy = "use the files of one checkpoint"
    if len(late) == tokenizer.vocab_size - config.vocab_size:
        remedy = f"{shown(late)} was added without a row: resize the embedding and save, or take it out of the file"
    raise Error(f"{folder}: {found}, expected no more tokens than rows: {remedy}")


def with_top_k(config: Config, top_k: int) -> Config:
    """The config by which each token goes to so many experts; Error where that has no effect, or no sense."""
    if not any(map(config.is_sparse, range(config.num_hidden_layers))):
        raise Error(f"num_experts_per_tok is {shown(top_k)}, but this model has no experts: leave the argument out")
    found = own_number(top_k)
    if type(found) is not int or not 1 <= found <= config.num_experts:
        expected = f"expected 1 to {config.num_experts}, the number of experts"
        raise Error(f"num_experts_per_tok is {shown(top_k)}, {expected}: mend the argument")
    return replace(config, num_experts_per_tok=found)


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
        check_generation_config(found)
        check_sampling(Sampling(**{name: found[name] for name in Sampling._fields if found.get(name) is not None}))
    except Error as error:
        raise Error(f"{path}: {error}") from None
    if unread := [name for name, neutral in UNREAD.items() if found.get(name) not in (None, neutral)]:
        print(f"{path}: sets {', '.join(unread)}, which is not read here: answers are without", file=sys.stderr)
    return found


def text_files(folder: Path) -> list[Path]:
    """The files of a tokenizer and its chats that are there."""
    found = [
        path for name in TEXT_FILES for path in ([folder / name] if "*" not in name else sorted(folder.glob(name)))
    ]
    return [path for path in found if os.path.lexists(path)]


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes a folder that transformers, and so vLLM and SGLang, loads: the hub's names and config spelling.

    The files take the place of a checkpoint that is there already, its tokenizer included, all together or not at all
    (`saving.replacing`); other files stay. Raises Error for weights that are not the config's, and where there is no
    room, or no right to write.
    """
    weights = of_kind("save_checkpoint", "checkpoint", checkpoint, Checkpoint).weights
    folder = Path(of_kind("save_checkpoint", "folder", folder, str, os.PathLike))
    check_tree(weights, checkpoint.config)
    dtype, tied = str(checkpoint.dtype).removeprefix("torch."), weights.lm_head is None
    config = replace(checkpoint.config, dtype=dtype, tie_word_embeddings=tied)
    with replacing(folder, CHECKPOINT_FILES, needed=bytes_of(weights, config)) as new:
        write_weights(new, weights, config)
        if checkpoint.generation_config:
            write_json(new / "generation_config.json", checkpoint.generation_config)
        origin = checkpoint.path
        for source in text_files(origin) if origin else ():
            target = new / source.relative_to(origin or "")
            target.parent.mkdir(exist_ok=True)
            with whole(target) as partial:
                shutil.copyfile(source, partial)
        if checkpoint.tokenizer is not None and not (new / "tokenizer.json").exists():  # built by hand, in no folder
            write_text(new / "tokenizer.json", checkpoint.tokenizer.backend.to_str(pretty=True))
            if checkpoint.tokenizer.chat_template is not None:
                write_text(new / "chat_template.jinja", checkpoint.tokenizer.chat_template)
        write_json(new / "config.json", config.to_dict())
