"""A random checkpoint of exactly the shape of huihui-ai/Huihui-MoE-0.8B-2E: needs minutes, 8 GB of memory, 2 of disk.

The file is bf16, as on the hub; both sides compute in fp32, where a rounding cannot send a token to another expert.
"""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import torchrun
from reference import assert_near, distance, greedy, random_like, random_tokens, reference_greedy, reference_logits
from safetensors import safe_open
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwen3_scratch import forward, load_weights, read_config
from qwen3_scratch.checkpoints.weights import tensor_tree

pytestmark = pytest.mark.proof

SHAPE = dict(
    vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, rms_norm_eps=1e-6, tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attention_bias=False, use_sliding_window=False,
    decoder_sparse_step=1, moe_intermediate_size=3072, num_experts=2, num_experts_per_tok=1,
)  # fmt: skip
PROMPT, NEW_TOKENS = 24, 16

# Run in a process of its own. The high-water mark of its memory is read where it begins anew with the program;
# getrusage's ru_maxrss would start from that of the process which ran pytest.
MEASURE = """
import sys
from pathlib import Path
import torch
from qwen3_scratch import load_weights, read_config

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

config = read_config(sys.argv[1])
before = high_water()
weights = load_weights(sys.argv[1], config)
print(high_water() - before, weights.embed_tokens.dtype)
"""


def write_bf16(folder: Path) -> Qwen3MoeForCausalLM:
    """The reference with random weights that are bf16 numbers, saved as one file."""
    torch.set_default_dtype(torch.bfloat16)  # at once, since a cast would round the rotary table too
    try:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, norm_topk_prob=False)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(random_like(parameter, generator, scale=0.04))
    model.save_pretrained(folder, max_shard_size="10GB")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """The checkpoint, and beside it what the reference computes from it in fp32."""
    folder = tmp_path_factory.mktemp("full")
    model = write_bf16(folder).float()
    token_ids = random_tokens(read_config(folder), 1, PROMPT)
    for norm_topk_prob in (True, False):
        for module in model.modules():
            if hasattr(module, "norm_topk_prob"):
                module.norm_topk_prob = norm_topk_prob
        logits = reference_logits(model, token_ids)
        tokens = reference_greedy(model, token_ids, torch.ones_like(token_ids), NEW_TOKENS)
        torch.save((token_ids, logits, tokens), folder / f"{norm_topk_prob}.pt")
    del model, module
    gc.collect()
    yield folder
    shutil.rmtree(folder)


def expected(folder: Path, norm_topk_prob: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.load(folder / f"{norm_topk_prob}.pt")


@pytest.fixture(scope="module")
def weights(folder):
    return load_weights(folder, read_config(folder), dtype=torch.float32)


def test_the_config_counts_860_million_parameters_of_which_596_are_active(folder):
    config = read_config(folder)
    assert config.num_parameters() == 860_348_416
    assert config.num_parameters(active=True) == 596_107_264


def test_one_file_holds_422_tensors_and_no_head(folder):
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert len(opened.keys()) == 422 and "lm_head.weight" not in opened.keys()  # noqa: SIM118


def test_the_weights_in_memory_are_all_parameters_once(weights):
    assert weights.lm_head is None
    assert sum(tensor.numel() for tensor in tensor_tree(weights)) == 860_348_416


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_logits_and_greedy_tokens_equal_the_reference(folder, weights, norm_topk_prob):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "norm_topk_prob": norm_topk_prob}))
    config = read_config(folder)
    assert config.norm_topk_prob == norm_topk_prob
    token_ids, logits, tokens = expected(folder, norm_topk_prob)
    with torch.no_grad():
        found = forward(weights, token_ids, config)
    print(f"logits within {distance(found, logits):.1e} of their scale")
    assert_near(found, logits)
    assert greedy(weights, config, token_ids, None, NEW_TOKENS).tolist() == tokens.tolist()


def test_the_two_ways_to_weigh_one_expert_differ(folder):
    assert not torch.equal(expected(folder, True)[2], expected(folder, False)[2])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the high-water mark is read from Linux's /proc")
def test_loading_takes_no_more_memory_than_the_file_and_a_quarter(folder):
    command = [sys.executable, "-c", MEASURE, str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    peak, dtype = done.stdout.split()
    size = (folder / "model.safetensors").stat().st_size
    print(f"peak {int(peak) / 1e9:.2f} GB over the start, for a file of {size / 1e9:.2f} GB")
    assert dtype == "torch.bfloat16"
    assert int(peak) <= 1.25 * size


MEASURE_RANK = """
import sys
from pathlib import Path
import torch.distributed as dist
from torch.utils._pytree import tree_leaves
from qwen3_scratch.devices.launch import ranks
from qwen3_scratch.devices.slices import load_slices

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder, tensors, experts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with ranks(tensors, experts, timeout=300) as mesh:
    dist.barrier()  # what connecting takes is no part of the weights
    before = high_water()
    found = load_slices(folder, mesh)
    held = sum(tensor.nbytes for tensor in tree_leaves(found.weights) if tensor is not None)
    Path(folder, f"peak{dist.get_rank()}").write_text(f"{high_water() - before} {held}")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the high-water mark is read from Linux's /proc")
@pytest.mark.parametrize(("tensors", "experts"), [(2, 1), (1, 2)])
def test_a_rank_that_loads_its_slices_never_holds_a_twentieth_more(folder, tmp_path, tensors, experts):
    script = tmp_path / "rank.py"
    script.write_text(MEASURE_RANK)
    done = torchrun(2, script, folder, tensors, experts)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        peak, held = map(int, (folder / f"peak{rank}").read_text().split())
        print(f"{tensors} x {experts}, rank {rank}: peak {peak / 1e6:.0f} MB, weights {held / 1e6:.0f} MB")
        assert peak <= 1.05 * held
