"""An adapter of peft beside a model's files, or alone -> what it makes of each of their tensors, merged at loading.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds `scale * up @ down` to a matrix, with a rank so small that both are;
DoRA (Liu et al. 2024, arXiv:2402.09353) then gives each row of the sum a length of its own.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import Config
from ..errors import Error, one_line, shown
from ..hub.download import fetch, open_snapshot
from ..hub.find import find_local
from ..trust.files import read_json
from ..trust.patterns import may_never_end
from ..trust.shards import INDEX, SINGLE, UNREADABLE, damaged, header_of, open_file
from .names import STORED, Slot, plain_name

SETTINGS, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PARTS = {  # of an embedding, which peft keeps turned round, the matrices change places
    "lora_A": "down", "lora_B": "up", "lora_embedding_A": "up", "lora_embedding_B": "down",
    "lora_magnitude_vector": "lengths",
}  # fmt: skip
OTHER_KINDS = (  # of adapter, which peft computes in another way
    "fan_in_fan_out", "lora_bias", "use_qalora", "trainable_token_indices", "layer_replication", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # the others change the base when peft begins
BY_PEFT = "merge it with peft (merge_and_unload), save the model and load that"


class Change(NamedTuple):
    """What becomes of one tensor: another takes its place, `scale * up @ down` is added, rows get their lengths."""

    instead: Tensor | None = None
    up: Tensor | None = None
    down: Tensor | None = None
    scale: float = 1.0
    lengths: Tensor | None = None

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether the parts that are there make a change of a tensor of this shape."""
        pair = (self.up is None and self.down is None and self.lengths is None) or (
            self.up is not None
            and self.down is not None
            and (self.up.ndim, self.down.ndim, len(shape)) == (2, 2, 2)
            and (self.up.shape[0], self.down.shape[1]) == shape
            and self.up.shape[1] == self.down.shape[0] > 0
        )
        rows = self.lengths is None or self.lengths.shape == shape[:1]
        return pair and rows and (self.instead is None or self.instead.shape == shape)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor merged with it, in fp32; what the base's type cannot hold is rounded once, by who stores it."""
        found = (tensor if self.instead is None else self.instead).float()
        if self.up is not None and self.down is not None:
            found = found + self.up @ self.down * self.scale
        if self.lengths is not None:
            found = found * (self.lengths / torch.linalg.norm(found, dim=1))[:, None]
        return found


def base_folder(folder: Path) -> Path:
    """Where the model's own files lie: in the folder, or where an adapter that is alone in it says.

    The name is an adapter's word, so nothing is downloaded for it. Raises Error where the base is not at hand.
    """
    path = folder / SETTINGS
    if not os.path.lexists(path) or any(os.path.lexists(folder / name) for name in (SINGLE, INDEX)):
        return folder
    name = read_json(path).get("base_model_name_or_path")
    advice = "put its files beside the adapter, or name its folder there"
    if not isinstance(name, str) or not name:
        found = f"base_model_name_or_path is {shown(name)}"
        raise Error(f"{path}: {found}, expected the model that this adapter was made for: {advice}")
    try:
        base = find_local(name)
    except Error:
        raise Error(f"{path}: its base {shown(name)} is no folder here, expected one: {advice}") from None
    if base is None:
        known = open_snapshot(name, None)
        if not known.files or known.lacking():
            advice = f"fetch it first (qwen3-scratch download {one_line(name)}), or {advice}"
            raise Error(f"{path}: its base {one_line(name)} is not in the hub's cache, expected it there: {advice}")
        base = fetch(known)
    if os.path.lexists(base / SETTINGS):
        raise Error(f"{path}: its base {base} has an adapter too, expected a plain model: merge that one first")
    return base


def read_adapter(folder: Path, slots: dict[str, Slot], config: Config) -> dict[str, Change]:
    """What the adapter of a folder does, by the hub's names of the tensors; {} without one.

    `slots` are those of the model with a head of its own. Raises Error for what is no LoRA of this model, and for
    kinds of it that peft computes in another way.
    """
    if not os.path.lexists(folder / SETTINGS):
        return {}
    settings, path = checked_settings(folder / SETTINGS), folder / TENSORS
    modules: dict[str, dict[str, Tensor]] = {}
    for name, part, tensor in adapter_tensors(path):
        parts = modules.setdefault(name, {})
        if part in parts:
            raise Error(f"{path}: {part} of {one_line(name)} stands there twice, expected once: save the adapter again")
        parts[part] = tensor
    found: dict[str, Change] = {}
    for name, parts in modules.items():
        for slot_name, fields in slot_changes(name, parts, settings, config):
            change = found.get(slot_name, Change())._replace(**fields)
            if (slot := slots.get(slot_name)) is None or not change.suits(slot.shape):
                held = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
                expected = f"those of a matrix of {list(slot.shape)}" if slot else "a part of this model"
                raise Error(f"{path}: {one_line(name)} has {held}, expected {expected}: load it on the model it is for")
            found[slot_name] = change
    table = found.get("model.embed_tokens.weight", Change()).instead
    if config.tie_word_embeddings and table is not None and "embed_tokens" not in (settings["modules_to_save"] or ()):
        head = found.get("lm_head.weight", Change())  # the table itself was saved, and so is the head that it ties
        found["lm_head.weight"] = head._replace(instead=table if head.instead is None else head.instead)
    return found


def slot_changes(
    name: str, parts: dict[str, Tensor], settings: dict[str, Any], config: Config
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Which tensors of the hub's files a module's change is about, and the fields of it that it fills for each."""
    experts = name.removesuffix(".base_layer")
    experts = experts if experts.endswith(".mlp.experts") else experts.rpartition(".")[0]
    if not experts.endswith(".mlp.experts"):
        if "instead" in parts:
            yield name, parts
            parts = {}
        if parts:
            called = f"{name}.weight" if name.endswith(".mlp.gate") else name  # peft knows no module of the router
            yield f"{name}.weight", parts | {"scale": scale_of(called, parts, 1, settings)}
        return
    # One pair of matrices for all experts of a layer: [experts * rank, in] and [out, rank * experts].
    count, size, hidden = config.num_experts, config.moe_intermediate_size, config.hidden_size
    whole, up, down = (parts.get(part) for part in ("instead", "up", "down"))
    inner = name.endswith(".gate_up_proj") if whole is not None else down is not None and down.shape[-1] == hidden
    rows, columns = (2 * size, hidden) if inner else (hidden, size)
    fits = whole is not None and whole.shape == (count, rows, columns)
    if whole is None and up is not None and down is not None and "lengths" not in parts and count:
        fits = down.ndim == up.ndim == 2 and len(down) % count == 0 and up.shape[1] == len(down) > 0
        fits = fits and (down.shape[1], up.shape[0]) == (columns, rows)
    if not fits:
        yield name, parts  # which no slot is called
        return
    matrix = f"{experts}.{'gate_up_proj' if inner else 'down_proj'}"
    slices = {"gate_proj": slice(0, size), "up_proj": slice(size, 2 * size)} if inner else {"down_proj": slice(None)}
    scale = scale_of(matrix, parts, count, settings)
    for expert in range(count):
        for projection, mine in slices.items():
            fields: dict[str, Any] = {}
            if whole is not None:
                fields = {"instead": whole[expert, mine]}
            elif up is not None and down is not None:
                own = up.reshape(rows, -1, count)[mine, :, expert], down.reshape(count, -1, columns)[expert]
                fields = {"up": own[0], "down": own[1], "scale": scale}
            yield f"{experts}.{expert}.{projection}.weight", fields


def scale_of(name: str, parts: dict[str, Tensor], count: int, settings: dict[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732); patterns change alpha."""
    rank = len(parts["down"]) / count if "down" in parts else 1
    patterns = settings["alpha_pattern"]
    chosen = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    return next(chosen, settings["lora_alpha"]) / ((math.sqrt(rank) if settings["use_rslora"] else rank) or 1)


def checked_settings(path: Path) -> dict[str, Any]:
    """adapter_config.json, if it describes a LoRA that is nothing but its matrices."""
    found = {"modules_to_save": None, "use_rslora": False, "alpha_pattern": None, **read_json(path)}
    if found.get("peft_type") != "LORA":
        raise Error(f"{path}: peft_type is {shown(found.get('peft_type'))}, expected 'LORA': {BY_PEFT}")
    for name in OTHER_KINDS:
        if found.get(name):
            raise Error(f"{path}: {name} is {shown(found[name])}, expected an adapter without it: {BY_PEFT}")
    if (start := found.get("init_lora_weights", True)) not in PLAIN_STARTS:
        said = f"init_lora_weights is {shown(start)}, which changes the base too"
        raise Error(f"{path}: {said}, expected a plain start: {BY_PEFT}")
    patterns = found["alpha_pattern"] or {}
    numbers = [found.get("lora_alpha"), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(type(number) in (int, float) and abs(number) < 1e9 for number in numbers):
        said = f"lora_alpha is {shown(found.get('lora_alpha'))} and alpha_pattern {shown(patterns)}"
        raise Error(f"{path}: {said}, expected a finite number, and an object of such: mend {SETTINGS}")
    for pattern in patterns:
        try:
            sound = bool(re.compile(pattern)) and not may_never_end(pattern)
        except (re.error, RecursionError):
            sound = False
        if not sound:
            expected = "expected a name, or a regular expression that reads a name in one way"
            raise Error(f"{path}: alpha_pattern has {shown(pattern)}, {expected}: do not trust it")
    return {**found, "alpha_pattern": patterns}


def adapter_tensors(path: Path) -> Iterator[tuple[str, str, Tensor]]:
    """Of each tensor of the adapter: the module or tensor that it changes, which part of the change it is, itself."""
    if not os.path.lexists(path):
        found = (
            "adapter_model.bin is a pickle and never opened" if path.with_suffix(".bin").exists() else "is not there"
        )
        raise Error(f"{path}: {found}, expected the adapter's weights in safetensors: save the adapter again")
    names = header_of(path)
    with open_file(path) as opened:
        for name in names:
            words = plain_name(name)[0].split(".")
            at = next((at for at, word in enumerate(words) if word in PARTS), None)
            try:
                kind, tensor = opened.get_slice(name).get_dtype(), opened.get_tensor(name)
            except UNREADABLE as error:
                raise damaged(path, error) from None
            rest = [] if at is None else words[at + 1 :]
            if kind not in STORED or any(word not in ("weight", "default") for word in rest):
                expected = "expected lora_A, lora_B, lora_magnitude_vector or a whole tensor, in 16 or 32 bits"
                raise Error(f"{path}: tensor {one_line(name)} is stored as {kind}, {expected}: {BY_PEFT}")
            if at is None:  # a whole tensor; peft names the module that it wrapped, or the copy it trained
                kept = [word for word in words if word not in ("base_layer", "modules_to_save", "default")]
                yield ".".join(kept), "instead", tensor.float()
            else:
                turned = words[at].startswith("lora_embedding")
                yield ".".join(words[:at]), PARTS[words[at]], tensor.T.float() if turned else tensor.float()
