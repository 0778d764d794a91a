"""What the terminal tells about a checkpoint and about the routes of a text."""

import math
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.config_json import read_config
from ..checkpoints.verifying import Verdict
from ..checkpoints.weights import DTYPES, all_slots, check_tensors, dtype_of
from ..config import Config
from ..devices.slices import Place, check_split, own_config, own_slot, traffic
from ..fast.eager import PREFILL_CHUNK
from ..hub.download import Snapshot
from ..hub.find import chosen, find_folder, find_local
from ..model import forward
from ..tracing import trace
from ..trust.memory import size_text
from ..trust.shards import tensor_files
from .screen import WIDTH

LONGEST = 14  # characters of a token at the head of a line
MOST_EXPERTS = 2  # of a token in a layer; a terminal has no room for eight


def route_table(checkpoint: Checkpoint, token_ids: list[int], prompt_length: int) -> Group | str:
    """One row a token, one column a layer: the experts that the token went to, the strongest first.

    Layers and experts that do not fit into a line are left out evenly, and the title says so.
    """
    ids = torch.tensor([token_ids], device=checkpoint.device)
    with torch.inference_mode(), trace() as recorded:
        forward(checkpoint.weights, ids, checkpoint.config, logits_to_keep=1, ops=checkpoint.ops)
    routes = {call.layer: call.output.experts for call in recorded["moe_route"] if call.layer is not None}
    if not routes:
        return "(a dense model: it has no router, every token passes the same feed-forward)"
    top_k, digits = checkpoint.config.num_experts_per_tok, len(str(checkpoint.config.num_experts - 1))
    shown = min(top_k, MOST_EXPERTS)
    column = 3 + max(len(str(max(routes))), shown * (digits + 1) - 1)
    step = -(-len(routes) // ((WIDTH - LONGEST - 3) // column))
    title = "\nExperts of each token by layer, strongest first"
    title += f", {shown} of {top_k}" if shown < top_k else ""
    title += f", one layer in {step}" if step > 1 else ""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("token, layer", no_wrap=True, max_width=LONGEST)
    layers = list(routes)[::step]
    for layer in layers:
        table.add_column(f"{layer}", justify="right", no_wrap=True)
    for number, token in enumerate(token_ids):
        chosen = [" ".join(map(str, routes[layer][number, :shown].tolist())) for layer in layers]
        table.add_row(Text(token_text(checkpoint, token)), *chosen, end_section=number == prompt_length - 1)
    return Group(title, table)  # a title of the table's own would be broken to its width


def token_text(checkpoint: Checkpoint, token: int) -> str:
    """A token as one can see it: line breaks and spaces are drawn, and nothing commands the terminal."""
    if checkpoint.tokenizer is None:
        return str(token)
    text = checkpoint.tokenizer.decode([token]).replace("\n", "⏎").replace(" ", "␣")
    return "".join(character if character.isprintable() else "�" for character in text)


def checkpoint_report(name: str | None = None, revision: str | None = None) -> str:
    """Files, shape, parameters and memory of a checkpoint, from its config and headers; no weight is read."""
    folder = find_folder(name, revision)
    config = read_config(folder)
    files = tensor_files(folder)
    check_tensors(files, config)
    lines = [f"{folder}", *commit_lines(name, folder), "", "files"]
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        lines.append(f"  {path.name:<34}{size_text(path.stat().st_size):>10}")
    lines += ["", "shape", *(f"  {key:<34}{value}" for key, value in shape_lines(config).items())]
    total, active = config.num_parameters(), config.num_parameters(active=True)
    lines += ["", "parameters", f"  {'total':<34}{total:>16,}"]
    lines += [f"  {'active per token':<34}{active:>16,}  ({active / total:.0%})", f"  {'tensors':<34}{len(files):>16,}"]
    lines += ["", f"memory{'':<30}{'weights':>10}{'cache per 1,000 tokens':>26}"]
    for dtype, kind in DTYPES.items():
        cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 1000 * kind.itemsize
        lines.append(f"  {dtype:<34}{size_text(total * kind.itemsize):>10}{size_text(cache):>26}")
    return "\n".join(lines)


def slices_report(name: str | None, tensors: int, experts: int, revision: str | None = None) -> str:
    """What each of tensors x experts devices holds, from config.json alone: weights, cache, activations, traffic.

    `name` may also be the path of a config.json. The first rank is shown, which holds as much as any.
    """
    file = None if name is None else Path(name)
    alone = file is not None and file.name == "config.json" and file.is_file()
    folder = file.parent if file and alone else find_folder(name, revision, wanted=("config.json",))
    config = read_config(folder)
    check_split(config, tensors, experts)
    place, dtype = Place(0, 0, tensors, experts), dtype_of(config, folder)
    own = own_config(config, place)
    held = sum(math.prod(slot.shape) for slot in map(partial(own_slot, config, place), all_slots(config)) if slot)
    cache = 2 * config.num_hidden_layers * own.num_key_value_heads * config.head_dim * 1000
    heads = (own.num_attention_heads + own.num_key_value_heads) * config.head_dim
    sparse = [config.is_sparse(layer) for layer in range(config.num_hidden_layers)]
    sizes = config.moe_intermediate_size * any(sparse), config.intermediate_size * (not all(sparse))
    widest = max(sizes) // tensors
    chunk = PREFILL_CHUNK * (max(3 * heads, config.hidden_size + 3 * widest) + 3 * config.hidden_size)
    lines = {
        "weights": (held, f"{held / config.num_parameters():.1%} of {config.num_parameters():,} parameters"),
        "cache per 1,000 tokens": (cache, f"{own.num_key_value_heads} key/value heads in each layer"),
        "activations": (chunk, f"about, while {PREFILL_CHUNK} prompt tokens pass; one expert may get them all"),
        "sent for each new token": (sum(traffic(config, place).values()), "payload of all sums and exchanges"),
    }
    found = [] if alone else commit_lines(name, folder)
    found += [
        f"each of {tensors} x {experts} devices, tensor x expert parallel, in {str(dtype).removeprefix('torch.')}"
    ]
    found += [f"  {key:<26}{size_text(count * dtype.itemsize):>12}  {why}" for key, (count, why) in lines.items()]
    return "\n".join(found)


def commit_lines(name: str | None, folder: Path) -> list[str]:
    """Which commit a hub id stands for, since a branch moves on. A folder of one's own has none."""
    return [] if find_local(chosen(name)) else [f"commit {folder.name} of {chosen(name)}"]


def plan_report(snapshot: Snapshot) -> str:
    """What a download will bring: the files with their sizes, what is here already, and the room there is."""
    heading = f"{snapshot.repository} at commit {snapshot.commit}"
    lines, lacking = [heading if snapshot.reached else f"{heading}, as the cache has it"], snapshot.lacking()
    for name in snapshot.names():
        size, here = size_text(snapshot.files[name].size), "verified" if snapshot.is_verified(name) else "to be hashed"
        lines.append(f"  {name:<44}{size:>10}  {'to come' if name in lacking else f'here, {here}'}")
    coming, free = map(size_text, snapshot.room())
    return "\n".join([*lines, f"{coming} to come, {free} free at {snapshot.storage.parent}"])


def verdict_line(verdict: Verdict) -> str:
    size = "" if verdict.size is None else size_text(verdict.size)
    return f"  {verdict.name:<44}{size:>10}  {verdict.found}"


def shape_lines(config: Config) -> dict[str, str]:
    sparse = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    rope = config.rope_parameters
    found = {
        "family": config.model_type,
        "layers": f"{config.num_hidden_layers}, of which {sparse} with experts",
        "hidden size": f"{config.hidden_size}",
        "heads": f"{config.num_attention_heads} of {config.head_dim}, {config.num_key_value_heads} for keys and values",
        "vocabulary": f"{config.vocab_size}, head {'tied' if config.tie_word_embeddings else 'of its own'}",
        "context": f"{config.max_position_embeddings} tokens, rope {rope['rope_type']}, theta {rope['rope_theta']:g}",
    }
    if sparse:
        kept = "sum to 1" if config.norm_topk_prob else "keep the router's probability"
        found["experts"] = f"{config.num_experts}, top {config.num_experts_per_tok}, weights {kept}"
    if config.sliding_window is not None:
        found["window"] = f"{config.sliding_window} tokens in {config.layer_types.count('sliding_attention')} layers"
    return found
