"""A model cut over 1, 2 and 4 processes gives what one process gives, and each holds, reads and sends its share only.

Real processes talk through gloo; `parallel_worker.py` is what each of them does.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from helpers import finished, torchrun
from reference import TOLERANCE, dense_config, random_tokens, random_weights, small_config
from tiers import one_of_each, selected

from qwen3_scratch import Checkpoint, Config, Error, generate, load_checkpoint, save_checkpoint
from qwen3_scratch.checkpoints.weights import all_slots
from qwen3_scratch.devices.slices import Place, check_split, own_slot, traffic

WORKER = Path(__file__).parents[1] / "support" / "parallel_worker.py"
CONFIGS = {
    "dense": dense_config(attention_bias=True, tie_word_embeddings=True, intermediate_size=48),
    "2 experts": small_config(num_experts=2, num_experts_per_tok=1, norm_topk_prob=False, num_key_value_heads=1),
    "8 experts": small_config(attention_bias=True, mlp_only_layers=(1,)),
    "16 experts": small_config(
        num_experts=16, num_experts_per_tok=4, num_key_value_heads=4, tie_word_embeddings=True,
        use_sliding_window=True, sliding_window=6,
    ),
}  # fmt: skip
HEADER = 144  # bytes that gloo puts before each message


def fits(config: Config, tensors: int, experts: int) -> bool:
    try:
        check_split(config, tensors, experts)
    except Error:
        return False
    return True


GRIDS = [(tensors, experts) for tensors in (1, 2, 4) for experts in (1, 2, 4) if tensors * experts <= 4]
CASES = [
    (name, tensors, experts, dispatch)
    for name, config in CONFIGS.items()
    for tensors, experts in GRIDS
    for dispatch in ("own-experts", "all-to-all")[: 1 + (experts > 1)]
    if fits(config, tensors, experts)
]


def sampled(cases: list[tuple]) -> list:
    """Every split over two, and dispatch, on the model that all divide; all models cut by heads. Four ranks: proof."""
    return one_of_each(
        cases[::-1],
        lambda case: case[1:] if case[1] * case[2] < 4 else None,
        lambda case: case[0] if case[1:3] == (2, 1) else None,
    )


PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    work = tmp_path_factory.mktemp("models")
    for number, (name, config) in enumerate(CONFIGS.items()):
        save_checkpoint(Checkpoint(config, random_weights(config, seed=number)), work / name)
    return work


@pytest.fixture(scope="module")
def jobs(request, folders, tmp_path_factory):
    """By number of processes: the selected cases, and the file that asks for them."""
    work, found = tmp_path_factory.mktemp("jobs"), {}
    for count in (1, 2, 4):
        cases = [case for case in selected(request, "case") if case in CASES and case[1] * case[2] == count]
        asked = [
            dict(folder=str(folders / name), tensor=tensors, expert=experts, dispatch=dispatch, prompts=PROMPTS,
                 token_ids=random_tokens(CONFIGS[name], 2, 11).tolist())
            for name, tensors, experts, dispatch in cases
        ]  # fmt: skip
        path = work / f"job{count}.json"
        path.write_text(json.dumps(asked))
        found[count] = cases, path
    return {count: job for count, job in found.items() if job[0]}


def reports(count, job):
    return [json.loads(job.with_suffix(f".{rank}").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def found(jobs):
    """`found[case]` is what each rank reported."""
    done = finished(str(WORKER), *(str(job) for _, job in jobs.values()))
    assert done.code == 0, done.err
    return {
        case: [rank[number] for rank in reports(count, job)]
        for count, (cases, job) in jobs.items()
        for number, case in enumerate(cases)
    }


@pytest.fixture(scope="module")
def expected(folders):
    """Of each model what one process answers."""
    return {
        name: {
            kind: [answer.token_ids for answer in generate(single, PROMPTS, max_new_tokens=24, **options)]
            for kind, options in {"greedy": {"temperature": 0}, "sampled": {"temperature": 0.9, "seed": 5}}.items()
        }
        for name in CONFIGS
        for single in [load_checkpoint(folders / name)]
    }


each_case = pytest.mark.parametrize("case", sampled(CASES), ids=lambda case: "{} {}x{} {}".format(*case))


def test_every_split_that_divides_is_tried():
    assert {(tensors, experts) for _, tensors, experts, _ in CASES} == set(GRIDS)
    assert {case[1:3] for case in CASES if case[0] == "dense"} == {(1, 1), (2, 1), (4, 1)}
    assert {case[1:3] for case in CASES if case[0] == "16 experts"} == set(GRIDS)
    assert any(tensors > CONFIGS[name].num_key_value_heads for name, tensors, *_ in CASES)


@each_case
def test_logits_are_those_of_a_single_process_on_every_rank(case, found):
    assert max(rank["error"] for rank in found[case]) <= TOLERANCE


@each_case
def test_tokens_are_those_of_a_single_process_on_every_rank(case, found, expected):
    for rank in found[case]:
        assert {kind: rank[kind] for kind in ("greedy", "sampled")} == expected[case[0]]


@each_case
def test_slices_read_from_the_files_are_those_cut_from_the_whole(case, found):
    assert all(rank["cut as read"] for rank in found[case])


@each_case
def test_a_rank_holds_and_reads_its_share_and_no_more(case, found):
    """The share: a T-th of what is cut, an E-th of a T-th of the experts, all of norms and routers; vocabularies that
    do not divide, and the one bias that is not cut, put up to 5 % on top."""
    name, tensors, experts, _ = case
    config = CONFIGS[name]
    kv_share = max(1 / tensors, 1 / config.num_key_value_heads)
    shares = {
        "router": 1.0,
        "input_layernorm": 1.0,
        "post_attention_layernorm": 1.0,
        "q_norm": 1.0,
        "k_norm": 1.0,
        "norm": 1.0,
        "o_bias": 1.0,
        "k_proj": kv_share,
        "v_proj": kv_share,
        "k_bias": kv_share,
        "v_bias": kv_share,
    }
    share = sum(
        4 * math.prod(slot.shape) * shares.get(slot.field, 1 / tensors) / (experts if ".experts." in slot.name else 1)
        for slot in all_slots(config)
    )
    for rank in found[case]:
        assert rank["held"] == pytest.approx(share, rel=0.05)
        assert rank["read"] == rank["held"]


@each_case
def test_a_cache_holds_the_heads_of_its_rank_only(case, found):
    name, tensors, *_ = case
    config = CONFIGS[name]
    heads = max(1, config.num_key_value_heads // tensors)
    expected = 2 * 4 * config.num_hidden_layers * heads * config.head_dim * 8
    assert [rank["cache"] for rank in found[case]] == [expected] * len(found[case])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's counter of sent bytes is Linux's")
@pytest.mark.parametrize(
    "case", sampled([case for case in CASES if case[3] == "own-experts"]), ids=lambda c: "{} {}x{}".format(*c)
)
def test_bytes_sent_for_a_token_are_those_of_the_formula(case, found):
    name, tensors, experts, _ = case
    config = CONFIGS[name]
    sparse = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    messages = (tensors - 1) * (4 * (1 + 2 * config.num_hidden_layers) + 2) + (experts - 1) * 4 * sparse
    payload = 4 * sum(traffic(config, Place(0, 0, tensors, experts)).values())
    assert [rank["wire"] for rank in found[case]] == [payload + HEADER * messages] * len(found[case])


@pytest.mark.proof
@pytest.mark.parametrize("count", [1, 2, 4])
def test_torchrun_starts_processes_that_find_the_same(count, jobs, found):
    cases, job = jobs[count]
    done = torchrun(count, WORKER, job)
    assert done.returncode == 0, done.stderr
    again = reports(count, job)
    assert [[rank[number] for rank in again] for number in range(len(cases))] == [found[case] for case in cases]


def test_the_slices_of_all_ranks_make_up_the_whole():
    config = CONFIGS["8 experts"]
    for tensors, experts in ((2, 4), (4, 2)):
        for slot in all_slots(config):
            covered = torch.zeros(slot.shape)
            for tensor in range(tensors):
                for expert in range(experts):
                    own = own_slot(config, Place(tensor, expert, tensors, experts), slot)
                    if own is not None:
                        assert covered[own.cut].shape == own.shape
                        covered[own.cut] += 1
            assert covered.min() >= 1


BAD = {
    "heads": ((3, 1), "tensor_parallel is 3, expected a divisor of num_attention_heads, which is 4"),
    "experts": ((1, 3), "expert_parallel is 3, expected a divisor of num_experts, which is 8"),
    "intermediate": ((2, 1), "tensor_parallel is 2, expected a divisor of moe_intermediate_size, which is 25"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_split_that_does_not_divide_is_refused_by_name(case):
    split, expected = BAD[case]
    config = small_config(moe_intermediate_size=25) if case == "intermediate" else small_config()
    with pytest.raises(Error, match=expected):
        check_split(config, *split)


def test_a_dense_model_has_no_experts_to_deal_out():
    with pytest.raises(Error, match="expert_parallel is 2, expected 1: this model is dense"):
        check_split(dense_config(), 1, 2)
