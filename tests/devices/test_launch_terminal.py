"""What the terminal says of many processes: an answer once, a refusal once, and what each device would hold."""

import json
import re
import subprocess

import pytest
from helpers import TINY, command, torchrun
from reference import dense_config, random_weights
from tiers import only

from qwen3_scratch import Checkpoint, generate, load_checkpoint, save_checkpoint

# ---- the terminal -----------------------------------------------------------------------------

STORY = "Nora is in the garden. She has a pink cup. Who has the cup?"


def generate_command(count: int, *words: str, stdin: str = "") -> subprocess.CompletedProcess:
    return torchrun(count, "-m", "qwen3_scratch", "generate", *words, input=stdin)


@pytest.fixture(scope="module")
def single():
    return generate(load_checkpoint(TINY), STORY, seed=3, temperature=0.8, max_new_tokens=60)


def test_the_first_rank_answers_as_a_single_process_does(single):
    words = (STORY, "-m", str(TINY), "--seed", "3", "--temperature", "0.8", "--max-new-tokens", "60", "--routes")
    found = generate_command(2, *words, "--tensor-parallel", "2")
    assert found.returncode == 0
    assert found.stdout == single.text + "\n"
    assert found.stderr.count(single.thinking.strip()) == 1
    assert found.stderr.count("Experts of each token by layer") == 1


@pytest.mark.proof
def test_ranks_agree_on_a_seed_of_their_own_and_on_what_standard_input_says():
    words = ("-", "-m", str(TINY), "--temperature", "1.5", "--max-new-tokens", "30", "--no-thinking")
    found = generate_command(2, *words, "--expert-parallel", "2", "--expert-dispatch", "all-to-all", stdin=STORY)
    assert found.returncode == 0  # ranks that drew different tokens would not meet again, and time out
    assert found.stdout.count("\n") >= 1


REFUSED = {
    "a world of another size": (
        "--tensor-parallel 1",
        "rank . of 2: torchrun started 2 processes, expected tensor",
    ),
    "heads that do not divide": (
        "--expert-parallel 2 -m {dense}",
        "rank . of 2: expert_parallel is 2, expected 1",
    ),
    "no such model": ("--tensor-parallel 2 -m nowhere", "rank . of 2: nowhere: no such folder"),
    "no such dispatch": ("--tensor-parallel 2 --expert-dispatch post", "rank . of 2: --expert-dispatch is 'post'"),
}


@pytest.mark.parametrize("case", only(REFUSED, "heads that do not divide"))
def test_what_cannot_be_is_refused_once(case, tmp_path):
    words, expected = REFUSED[case]
    dense = tmp_path / "dense"
    save_checkpoint(Checkpoint(dense_config(), random_weights(dense_config())), dense)
    found = generate_command(2, STORY, *words.format(dense=dense).split())
    assert found.returncode != 0
    assert found.stdout == ""
    said = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert re.match("error: " + expected, said[0])


def test_without_torchrun_the_command_says_how_to_start(monkeypatch, capsys):
    found = command(monkeypatch, capsys, "generate", STORY, "--tensor-parallel", "2")
    assert found.code == 1
    assert found.err.strip() == (
        "error: 2 processes are needed and this is one alone: start with "
        "`torchrun --nproc-per-node 2 -m qwen3_scratch ...`"
    )


# ---- what each device would hold, from config.json alone ----------------------------------------

LARGE = dict(  # Qwen3-235B-A22B
    model_type="qwen3_moe", hidden_size=4096, intermediate_size=12288, moe_intermediate_size=1536,
    num_hidden_layers=94, num_attention_heads=64, num_key_value_heads=4, head_dim=128, num_experts=128,
    num_experts_per_tok=8, vocab_size=151936, tie_word_embeddings=False, torch_dtype="bfloat16",
)  # fmt: skip


@pytest.fixture
def info(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(LARGE))

    def run(name, *words):
        return command(monkeypatch, capsys, "info", str(tmp_path / name), *words)

    return run


def test_info_tells_what_each_device_would_hold_of_a_model_that_is_not_there(info):
    found = info("config.json", "--tensor-parallel", "4", "--expert-parallel", "8")
    assert found.code == 0
    experts = 94 * 128 * 3 * 4096 * 1536 / 32
    cut = (94 * 2 * 4096 * 64 * 128 + 2 * 151936 * 4096) / 4 + 94 * 2 * 4096 * 4 * 128 / 4
    kept = 94 * (128 * 4096 + 2 * 4096 + 2 * 128) + 4096
    weights = next(line for line in found.out.splitlines() if line.strip().startswith("weights"))
    assert weights.split()[1:3] == [f"{2 * (experts + cut + kept) / 1e9:.2f}", "GB"]
    assert f"of {235_093_634_560:,} parameters" in weights
    cache = next(line for line in found.out.splitlines() if line.strip().startswith("cache"))
    assert "48.13 MB" in cache and "1 key/value heads" in cache  # 2 x 94 x 1 x 128 x 1,000 numbers of 2 bytes


def test_info_of_one_device_is_the_whole_model_and_sends_nothing(info):
    found = info(".", "--tensor-parallel", "1")
    assert "100.0% of 235,093,634,560 parameters" in found.out
    assert re.search(r"sent for each new token\s+0 B", found.out)


def test_info_refuses_a_split_that_does_not_divide(info):
    assert "expected a divisor of num_attention_heads, which is 64" in info(".", "--tensor-parallel", "3").err
