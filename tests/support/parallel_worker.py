"""What each rank does in tests/devices/test_parallel.py: `torchrun --nproc-per-node N parallel_worker.py JOB.json`.

A job lists cases; for each the ranks load their slices, compute, and write what they found beside the job. Without
torchrun, `parallel_worker.py JOB.json ...` forks the ranks of one job after the other: importing torch for each of
them, and for torchrun, takes longer than their work.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves

from qwen3_scratch import forward, generate, load_checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.devices.launch import ranks, started_by_torchrun
from qwen3_scratch.devices.slices import DISPATCH, load_slices, make_mesh, place_of, shard_weights
from qwen3_scratch.trust import shards as shards_module

read = 0  # bytes that safetensors handed out


class Counting:
    """An open safetensors file that notes how much is read of it."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        self.opened = self.file.__enter__()
        return self

    def __exit__(self, *details):
        return self.file.__exit__(*details)

    def keys(self):
        return self.opened.keys()

    def get_tensor(self, name):
        return self.note(self.opened.get_tensor(name))

    def get_slice(self, name):
        return Slice(self, self.opened.get_slice(name))

    def note(self, tensor):
        global read
        read += tensor.nbytes
        return tensor


class Slice:
    def __init__(self, file, found):
        self.file, self.found = file, found
        self.get_shape, self.get_dtype = found.get_shape, found.get_dtype

    def __getitem__(self, cut):
        return self.file.note(self.found[cut])


def sent() -> int:
    """Bytes that this process has written so far, to sockets too: the kernel counts them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def run(case: dict) -> dict:
    global read
    mesh = make_mesh(case["tensor"], case["expert"])
    read = 0
    found = load_slices(case["folder"], mesh, dispatch=DISPATCH[case["dispatch"]])
    held = sum(tensor.nbytes for tensor in tree_leaves(found.weights) if tensor is not None)
    loaded = read
    whole = load_checkpoint(case["folder"])
    cut = shard_weights(whole.weights, whole.config, mesh)
    pairs = zip(tree_leaves(cut), tree_leaves(found.weights), strict=True)
    token_ids = torch.tensor(case["token_ids"])
    expected = forward(whole.weights, token_ids, whole.config)
    logits = forward(found.weights, token_ids, found.config, ops=found.ops)
    answers = generate(found, case["prompts"], max_new_tokens=24, temperature=0)
    sampled = generate(found, case["prompts"], max_new_tokens=24, temperature=0.9, seed=5)
    cache = KVCache(found.config, 1, 8)
    step = torch.tensor([[1]])
    forward(found.weights, step, found.config, cache=cache, ops=found.ops)
    before = sent()
    forward(found.weights, step, found.config, cache=cache, ops=found.ops)
    wire = sent() - before
    return {
        "place": place_of(mesh), "held": held, "read": loaded, "wire": wire,
        "error": float((logits - expected).abs().max() / expected.abs().max()),
        "cut as read": all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in pairs),
        "greedy": [answer.token_ids for answer in answers], "sampled": [answer.token_ids for answer in sampled],
        "cache": sum(layer.nbytes for layer in (*cache.keys, *cache.values)),
    }  # fmt: skip


def rank(job: Path) -> None:
    cases = json.loads(job.read_text())
    opened = shards_module.safe_open
    shards_module.safe_open = lambda *arguments, **options: Counting(opened(*arguments, **options))
    first = cases[0]
    with ranks(first["tensor"], first["expert"], timeout=600), torch.inference_mode():
        found = [run(case) for case in cases]
        job.with_suffix(f".{dist.get_rank()}").write_text(json.dumps(found))


def forked(job: Path) -> None:
    """Does with each rank what torchrun does: it is told of its place, and where all meet.

    The meeting place opens when all ranks are forked: it has threads, and a lock that one of them holds at the time of
    a fork stays locked in the child. What asks before that waits at the socket.
    """
    first = json.loads(job.read_text())[0]
    world, children = first["tensor"] * first["expert"], []
    meeting = socket.create_server(("localhost", 0))
    port = meeting.getsockname()[1]
    told = {"WORLD_SIZE": world, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    told |= {"TORCHELASTIC_RUN_ID": job.stem, "TORCHELASTIC_USE_AGENT_STORE": True}
    for number in range(world):
        if not (child := os.fork()):
            os.environ.update({name: str(value) for name, value in {**told, "RANK": number}.items()})
            try:
                rank(job)
            except BaseException as error:
                print(f"rank {number}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    store = dist.TCPStore(  # noqa: F841  it serves as long as it is kept
        "localhost", port, is_master=True, wait_for_workers=False, master_listen_fd=meeting.detach()
    )
    ends = [os.waitpid(child, 0)[1] for child in children]
    if any(ends):
        sys.exit(1)


if __name__ == "__main__":
    for job in map(Path, sys.argv[1:]):
        if started_by_torchrun():
            rank(job)
        elif not (child := os.fork()):  # each job from a process that has never had a thread
            forked(job)
            sys.exit()
        elif os.waitpid(child, 0)[1]:
            sys.exit(1)
