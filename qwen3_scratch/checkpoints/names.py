"""What files call their tensors -> the slots of the tree they fill: prefixes, fused experts, tied heads, left-overs.

Read are all spellings that transformers reads, and those of common wrappers. What is left out is told in a note, and
what would change the numbers is refused.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import Error, first_of, one_line, shown
from ..trust.shards import INDEX, SINGLE, header_of, tensor_files

STORED = ("F64", "F32", "BF16", "F16")  # how safetensors names the kinds of numbers read here
MOST_MISSING = 1000  # so many missing tensors are counted; sizes that imply 10^12 of them are not written out
MOST_SLOTS = 300_000  # the largest of the family has 36,000
TABLE = "rotary_emb.inv_freq"  # older files carry this table, which is computed here
ROOTS = ("embed_tokens", "layers", "norm")  # of a backbone; lm_head stands beside it
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # put in wherever they wrapped
OUTER = ("base_model", "language_model", "model")  # in front of the whole
QUANTISED = {  # the last word of a name, and who writes it
    "qweight": "GPTQ or AWQ", "qzeros": "GPTQ or AWQ", "g_idx": "GPTQ", "absmax": "bitsandbytes", "SCB": "bitsandbytes",
    "quant_map": "bitsandbytes", "weight_scale_inv": "fp8", "weight_scale": "fp8 or compressed-tensors",
    "input_scale": "fp8 or compressed-tensors", "activation_scale": "fp8", "input_scale_ub": "FBGEMM",
    "weight_packed": "compressed-tensors", "weight_global_scale": "compressed-tensors",
    "weight_g_idx": "compressed-tensors", "weight_zero_point": "compressed-tensors or Quark",
    "input_zero_point": "compressed-tensors or Quark", "output_scale": "compressed-tensors or Quark",
    "k_scale": "compressed-tensors or ModelOpt, of keys and values", "_amax": "ModelOpt", "weight_scale_2": "ModelOpt",
    "v_scale": "compressed-tensors or ModelOpt, of keys and values", "pre_quant_scale": "ModelOpt",
    "scales": "GPTQ, AWQ or MLX", "W_q": "HQQ", "_packed_data": "torchao", "_scale": "quanto", "weight_scales": "EETQ",
    "codebooks": "AQLM", "centroids": "VPTQ",
}  # fmt: skip
SCALES = re.compile(r"(model|lm_head)(\..*?)?[._](scales?|zeros?|zero_?points?|amax|g_idx|codebooks?)(_[a-z0-9]+)?")
UNQUANTISED = "fetch the unquantised ones from the original repository, which the model card names as its base model"
Part = tuple[int | slice, ...]

LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")


class Slot(NamedTuple):
    """One tensor of the hub's files, and the part of which tensor of the tree it fills."""

    name: str  # in the file
    field: str  # of Weights or LayerWeights
    shape: tuple[int, ...]
    part: Part = ()  # () is the whole; the stacked experts take one slice each
    cut: tuple[slice, ...] = ()  # which part of the file's tensor it is; () is the whole


class Source(NamedTuple):
    """Where the numbers of a slot lie."""

    path: Path
    name: str
    shape: tuple[int, ...]  # that the tensor of this name must have
    part: Part = ()  # of it; () is the whole

    def within(self, cut: tuple[slice, ...]) -> Part:
        """A part of the part."""
        if not self.part or not isinstance(rows := self.part[-1], slice):
            return (*self.part, *cut)
        first, *others = cut or (slice(None),)
        start, stop, _ = first.indices(rows.stop - rows.start)
        return (*self.part[:-1], slice(rows.start + start, rows.start + stop), *others)


class Found(NamedTuple):
    """The slots that the config implies, where each is, a head of its own in a tied model, and what to tell."""

    slots: dict[str, Slot]
    sources: dict[str, Source]
    head: Source | None
    notes: list[str]


def outer_slots(config: Config) -> list[Slot]:
    """The tensors outside the layers. A tied head has none of its own."""
    vocab, hidden = config.vocab_size, config.hidden_size
    slots = [Slot("model.embed_tokens.weight", "embed_tokens", (vocab, hidden))]
    slots += [] if config.tie_word_embeddings else [Slot("lm_head.weight", "lm_head", (vocab, hidden))]
    return [*slots, Slot("model.norm.weight", "norm", (hidden,))]


def layer_slots(config: Config, layer: int) -> Iterator[Slot]:
    """The tensors of one layer, experts one by one as on the hub."""
    hidden, head_dim, prefix = config.hidden_size, config.head_dim, f"model.layers.{layer}"
    q_dim, kv_dim = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield Slot(f"{prefix}.{name}.weight", name, (hidden,))
    for name in ("q_norm", "k_norm"):
        yield Slot(f"{prefix}.self_attn.{name}.weight", name, (head_dim,))
    projections = {"q": (q_dim, hidden), "k": (kv_dim, hidden), "v": (kv_dim, hidden), "o": (hidden, q_dim)}
    for letter, shape in projections.items():
        yield Slot(f"{prefix}.self_attn.{letter}_proj.weight", f"{letter}_proj", shape)
        if config.attention_bias:
            yield Slot(f"{prefix}.self_attn.{letter}_proj.bias", f"{letter}_bias", shape[:1])
    if config.is_sparse(layer):
        yield Slot(f"{prefix}.mlp.gate.weight", "router", (config.num_experts, hidden))
        for expert in range(config.num_experts):
            name = f"{prefix}.mlp.experts.{expert}"
            yield from _ffn_slots(name, hidden, config.moe_intermediate_size, (expert,))
    else:
        yield from _ffn_slots(f"{prefix}.mlp", hidden, config.intermediate_size, ())


def _ffn_slots(name: str, hidden: int, intermediate: int, part: tuple[int, ...]) -> Iterator[Slot]:
    gate, up = slice(0, intermediate), slice(intermediate, 2 * intermediate)
    yield Slot(f"{name}.gate_proj.weight", "gate_up_proj", (intermediate, hidden), (*part, gate))
    yield Slot(f"{name}.up_proj.weight", "gate_up_proj", (intermediate, hidden), (*part, up))
    yield Slot(f"{name}.down_proj.weight", "down_proj", (hidden, intermediate), part)


def all_slots(config: Config) -> Iterator[Slot]:
    yield from outer_slots(config)
    for layer in range(config.num_hidden_layers):
        yield from layer_slots(config, layer)


# ---- from the names that are there ----------------------------------------------------------------


def find_slots(files: dict[str, Path], config: Config) -> Found:
    """Where each tensor that the config implies lies, from the names alone.

    Raises Error for a tensor that is missing, or surplus where it would change what is computed, or quantised.
    """
    where = next(iter(files.values())).parent if files else "the checkpoint"
    check_no_scales(files, where)
    there, notes = plain_names(files, where)
    stacked = any(name.endswith(".experts.down_proj") for name in there)  # one tensor for all experts of a layer
    most = MOST_SLOTS if stacked else len(there) + MOST_MISSING
    slots = {slot.name: slot for slot in islice(all_slots(config), most)}
    if len(slots) == most:
        found = f"holds {len(files):,} tensors, expected more than {most - 1:,}, as config.json implies"
        raise Error(f"{where}: {found}: the files are incomplete or of another config.json")
    sources: dict[str, Source] = {}
    for slot in slots.values():
        if (source := source_of(slot, there, files, config)) is not None:
            sources[slot.name] = source
    if missing := sorted(slots.keys() - sources.keys()):
        raise Error(f"{where}: {lacking(missing, there, slots)}")
    used = {source.name for source in sources.values()}
    head = None
    if config.tie_word_embeddings and "lm_head.weight" in there and there["lm_head.weight"] not in used:
        used.add(name := there["lm_head.weight"])
        head = Source(files[name], name, (config.vocab_size, config.hidden_size))
    unused = [plain for plain, name in there.items() if name not in used and not name.endswith(TABLE)]
    notes += left_out(unused, config, where, len(slots))
    return Found(slots, sources, head, notes)


def check_no_scales(files: dict[str, Path], where: Path | str) -> None:
    """Raises Error where a tensor is one that only quantised weights have, though they may look plain."""
    for name in files:
        if (by := quantised_by(name)) is not None:
            found, advice = f"is quantised (by {by}: it holds a tensor {one_line(name)})", UNQUANTISED
            own = f"{name.rpartition('.')[0]}.weight"
            if own in files and stored_kinds({own: files[own]}) <= set(STORED):
                advice += "; or, if they were made plain again, save them without it"
            raise Error(f"{where}: {found}, expected plain weights: {advice}")


def quantised_by(name: str) -> str | None:
    """Which method writes a tensor of this name, of those that have one of their own; None: it is no such."""
    words = name.split(".")
    last = "absmax" if "quant_state" in words else words[-1]  # bitsandbytes' `weight.quant_state...`
    by = "a method of another name" if SCALES.fullmatch(plain_name(name)[0]) else None
    return QUANTISED.get(last, by)


def plain_names(files: dict[str, Path], where: Path | str) -> tuple[dict[str, str], list[str]]:
    """The hub's name of each tensor -> its name in the files, and a note where a wrapper's words were taken off."""
    there: dict[str, str] = {}
    taken: dict[str, None] = {}
    for name in files:
        plain, words = plain_name(name)
        taken |= dict.fromkeys(words)
        if plain in there:
            found = f"tensor {one_line(plain)} stands there twice, as {one_line(there[plain])} and as {one_line(name)}"
            raise Error(f"{where}: {found}, expected once: save the model again without its wrappers")
        there[plain] = name
    told = ", ".join(f"`{word}.`" for word in taken)
    notes = [f"{where}: the tensors' names have {told} in them, as wrappers put there: read without"] if taken else []
    return there, notes


def plain_name(name: str) -> tuple[str, list[str]]:
    """The hub's name of a tensor, and the words of wrappers that were taken off; `model.` may stand there or not."""
    words = [word for word in name.split(".") if word not in WRAPPERS]
    taken = [word for word in name.split(".") if word in WRAPPERS]
    first = next((at for at, word in enumerate(words) if word not in OUTER), 0)
    if words and words[first] in (*ROOTS, "lm_head"):
        taken += [word for word in words[:first] if word != "model"]
        words = words[first:] if words[first] == "lm_head" else ["model", *words[first:]]
    return ".".join(words), taken


def source_of(slot: Slot, there: dict[str, str], files: dict[str, Path], config: Config) -> Source | None:
    """The tensor of the slot's name, the one that holds all experts of its layer, or the other side of a tied head."""
    if slot.name in there:
        return Source(files[there[slot.name]], there[slot.name], slot.shape)
    if slot.name == "model.embed_tokens.weight" and config.tie_word_embeddings:
        name = there.get("lm_head.weight")
        return None if name is None else Source(files[name], name, slot.shape)
    if slot.part and isinstance(slot.part[0], int):
        stacked = there.get(f"{slot.name.split('.experts.')[0]}.experts.{slot.field}")
        if stacked is not None:
            rows, columns = slot.shape
            rows *= 2 if slot.field == "gate_up_proj" else 1
            return Source(files[stacked], stacked, (config.num_experts, rows, columns), slot.part)
    return None


def lacking(missing: list[str], there: dict[str, str], slots: dict[str, Slot]) -> str:
    """The sentence about tensors that are not there, and about what is there in their place."""
    found = f"{first_of(missing)} missing"
    if missing == ["lm_head.weight"]:
        hint = "these are a backbone's alone, and tie_word_embeddings is false in config.json"
        return f"tensor {found}, expected a head: {hint}; fetch the whole model"
    strange = [name for plain, name in there.items() if plain not in slots and not name.endswith(TABLE)]
    if any("lora_" in name for name in strange):
        hint = "an adapter is mixed in unmerged: save its base and it apart, or merge them"
    else:
        hint = "the files are incomplete or of another config.json"
    names = f" (there are {', '.join(map(one_line, sorted(strange)[:3]))})" if strange else ""
    return f"tensor {found}, expected the {len(slots)} that config.json implies{names}: {hint}"


def left_out(unused: list[str], config: Config, where: Path | str, count: int) -> list[str]:
    """A note for what no token passes through, as in the reference: other heads, layers after the last.

    Error for the rest, which the reference would pass over: a bias, a norm or a part of a head that should count.
    """
    heads, layers, surplus = [], set(), []
    for name in sorted(unused):
        words = name.split(".")
        if words[0] not in ("model", "lm_head") and "lora_" not in name:
            heads.append(name)
        elif (found := LAYER.match(name)) and int(found[1]) >= config.num_hidden_layers:
            layers.add(int(found[1]))
        else:
            surplus.append(name)
    if surplus:
        hint = "config.json describes another model"
        raise Error(
            f"{where}: tensor {first_of(surplus)} surplus, expected the {count} that config.json implies: {hint}"
        )
    notes = []
    if heads:
        notes.append(f"{where}: tensor {first_of(heads)} is of another head than the language model's: left out")
    if layers:
        there = f"has {max(layers) + 1} layers, config.json {config.num_hidden_layers}"
        notes.append(f"{where}: {there}: those after them are left out")
    return notes


def check_not_quantised(path: Path, raw: dict[str, Any]) -> None:
    """Raises Error where a config.json says that the weights are quantised, or says so of weights that are not."""
    name = next((name for name in ("quantization_config", "quantization") if raw.get(name) is not None), None)
    if name is None:
        return
    said = raw[name] if isinstance(raw[name], dict) else {}
    said = {key: said[key] for key in ("quant_method", "bits", "load_in_4bit", "load_in_8bit") if said.get(key)}
    method = ", ".join(f"{key} {shown(value)}" for key, value in said.items())
    found = f"{name} is set{f' ({method})' if method else ''}"
    folder = path.parent
    if (folder / SINGLE).exists() or (folder / INDEX).exists():
        kinds = stored_kinds(files := tensor_files(folder))
        if kinds <= set(STORED) and not any(map(quantised_by, files)):
            found += f", but the files beside it hold {', '.join(sorted(kinds))} and are not quantised"
            raise Error(f"{path}: {found}, expected one of both: if they were merged, delete {name} from config.json")
    raise Error(f"{path}: {found}, expected plain weights, not quantised ones: {UNQUANTISED}")


def stored_kinds(files: dict[str, Path]) -> set[str]:
    """As which kinds of numbers the files hold these tensors, as their headers say."""
    headers = {path: header_of(path) for path in set(files.values())}
    entries = [headers[path].get(name) for name, path in files.items()]
    return {str(entry.get("dtype")) for entry in entries if isinstance(entry, dict)}
