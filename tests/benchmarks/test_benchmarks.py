"""The machinery of the benchmarks: order, medians, files, report. No test looks at how long anything took."""

import json
import subprocess
from dataclasses import replace

import gguf
import numpy
import pytest
import torch
from helpers import ROOT
from reference import assert_near, random_tokens
from safetensors.torch import load_file

from benchmarks import contestants, decode, measure, models, report, script
from benchmarks.goals import GOALS, GPU_GOALS, GPU_MEASURED
from qwen3_scratch import Checkpoint, Error, forward, load_checkpoint
from qwen3_scratch.checkpoints.weights import tensor_tree


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def tiny(store):
    return models.load(models.random_checkpoint("tiny", store), "float32")


@pytest.fixture
def steady(monkeypatch):
    """The memory is not really read here."""
    monkeypatch.setattr(measure, "read_bandwidth", lambda device: 10.0)


# ---- measuring -----------------------------------------------------------------------------------


def test_each_round_measures_everyone_once_in_the_same_order():
    order = []
    names = "CAB"
    samples = measure.interleave({name: lambda name=name: order.append(name) or len(order) for name in names}, 3)
    assert "".join(order) == "CABCABCAB"
    assert samples == {"C": [1, 4, 7], "A": [2, 5, 8], "B": [3, 6, 9]}


def test_the_memory_is_read_once_in_every_round_after_the_contestants(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "read_bandwidth", lambda device: order.append("memory") or 7.0)
    contest = measure.Contest({}, {name: lambda name=name: order.append(name) or 1.0 for name in "AB"})
    rows = measure.compare([contest], 2, "s")
    assert order == ["A", "B", "A", "B", "memory", "A", "B", "memory"]  # the first two are the warm-up
    assert [(row.name, row.unit, row.samples) for row in rows][-1] == (measure.BANDWIDTH, "GB/s", [7.0, 7.0])


def test_the_cases_of_a_comparison_take_turns_within_each_round(steady):
    order = []

    def noting(text):
        return lambda: order.append(text) or float(len(order))

    contests = [measure.Contest({"length": n}, {name: noting(f"{name}{n}") for name in "AB"}) for n in (1, 2)]
    rows = measure.compare(contests, 2, "s")
    assert order == ["A1", "B1", "A2", "B2"] * 3  # the first four are the warm-up
    assert [(row.case["length"], row.name) for row in rows] == [
        (1, "A"), (1, "B"), (1, measure.BANDWIDTH), (2, "A"), (2, "B"), (2, measure.BANDWIDTH)
    ]  # fmt: skip
    assert [row.samples for row in rows if row.name == "B"] == [[6.0, 10.0], [8.0, 12.0]]


def test_a_contestant_that_fails_gets_a_row_that_says_so_and_the_others_run(steady):
    def broken():
        raise RuntimeError("no such kernel\nmore lines")

    contest = measure.Contest({"batch": 1}, {"good": lambda: 2.0, "bad": broken})
    found = {row.name: row for row in measure.compare([contest], 2, "s")}
    assert found["good"].samples == [2.0, 2.0]
    assert found["bad"].samples == [] and found["bad"].not_run == "fails: RuntimeError: no such kernel"


@pytest.mark.parametrize(("samples", "median"), [([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 100.0, 2.0], 3.0)])
def test_a_row_tells_the_median_and_the_span_of_its_rounds(samples, median):
    found = measure.Row({"batch": 4}, "plain", "s", samples).to_dict()
    assert (found["median"], found["low"], found["high"]) == (median, min(samples), max(samples))


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert measure.ratio([10.0, 1.0, 30.0], [5.0, 1.0, 1.0]) == 2.0  # of 2, 1 and 30


def test_bandwidth_is_all_bytes_of_the_buffer_over_the_seconds_of_the_best_pass(monkeypatch):
    monkeypatch.setattr(measure, "BUFFER", 2**20)
    times = iter([4.0, 2.0, 0.5, 8.0])
    monkeypatch.setattr(measure, "seconds", lambda function, device: next(times))
    assert measure.read_bandwidth(passes=2) == 2**20 / 0.5 / 1e9


def test_the_buffer_exceeds_every_cache():
    assert measure.BUFFER >= 2**29


def test_a_description_names_machine_versions_date_and_commit():
    found = measure.describe()
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["cores"] >= 1 and found["machine"]["memory_gb"] > 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert found["commit"] == (head or None)
    assert found["date"].endswith("+00:00")


# ---- the models ----------------------------------------------------------------------------------


def test_the_full_shape_is_that_of_huihui():
    config = models.shape_config("huihui")
    assert (config.num_parameters(), config.num_parameters(active=True)) == (860_348_416, 596_107_264)
    assert models.weight_bytes(config, "bfloat16") == 2 * 596_107_264


def test_an_unknown_shape_is_refused_in_one_sentence():
    with pytest.raises(Error, match=r"shape is 'huge', expected one of huihui, top-8, tiny: "):
        models.random_checkpoint("huge")


def test_a_random_checkpoint_is_made_once_and_none_of_its_norms_is_one(store, tiny):
    path = store / "tiny" / "model.safetensors"
    before = path.stat().st_mtime_ns
    assert models.random_checkpoint("tiny", store) == store / "tiny"
    assert path.stat().st_mtime_ns == before
    norms = [tensor for tensor in tensor_tree(tiny.weights) if tensor.ndim == 1]
    assert norms and all((norm != 1).float().mean() > 0.5 for norm in norms)


def test_the_cache_reads_keys_and_values_of_every_layer(tiny):
    config = tiny.config
    by_hand = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 2 * 100
    assert models.cache_bytes(config, "bfloat16", 100) == by_hand


GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip


def by_gguf_name(hub):
    """The tensors of a checkpoint's own file under the names of the other format, its experts stacked."""
    found = {"token_embd.weight": hub["model.embed_tokens.weight"], "output_norm.weight": hub["model.norm.weight"]}
    for layer in (0, 1):
        for name, other in GGUF_NAMES.items():
            found[f"blk.{layer}.{other}.weight"] = hub[f"model.layers.{layer}.{name}.weight"]
        for part in ("gate", "up", "down"):
            each = [hub[f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"] for expert in (0, 1)]
            found[f"blk.{layer}.ffn_{part}_exps.weight"] = torch.stack(each)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tensor_of_the_gguf_file_is_that_of_the_checkpoint(store, tiny, dtype, tmp_path):
    models.write_gguf(load_checkpoint(store / "tiny", dtype=models.DTYPES[dtype]), tmp_path / "model.gguf")
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    expected = by_gguf_name(load_file(store / "tiny" / "model.safetensors"))
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        found = gguf.dequantize(read[name].data, read[name].tensor_type).reshape(tensor.shape)
        assert numpy.array_equal(found, tensor.float().numpy()), name
    kinds = {tensor.tensor_type.name for tensor in read.values()}
    assert kinds == ({"F32"} if dtype == "float32" else {"F32", "BF16"})
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_model_that_gguf_cannot_say_is_refused_and_no_file_is_left(tiny, tmp_path):
    other = Checkpoint(replace(tiny.config, norm_topk_prob=False), tiny.weights)
    with pytest.raises(Error, match="config: norm_topk_prob is false, which GGUF"):
        models.write_gguf(other, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_the_reference_computes_on_the_very_tensors_of_the_checkpoint(tiny):
    model = contestants.transformers_model(tiny)
    assert model.model.embed_tokens.weight.data_ptr() == tiny.weights.embed_tokens.data_ptr()
    assert model.model.layers[1].mlp.experts.down_proj.data_ptr() == tiny.weights.layers[1].down_proj.data_ptr()
    token_ids = random_tokens(tiny.config, 2, 9)
    with torch.no_grad():
        assert_near(forward(tiny.weights, token_ids, tiny.config), model(token_ids).logits)


@pytest.mark.parametrize("batch", [1, 3])
def test_all_contestants_give_the_tokens_of_the_plain_path(tiny, batch):
    model = contestants.transformers_model(tiny)
    decoders = contestants.transformers_decoders(model, batch, contestants.default_experts(model))
    prompts = models.random_prompts(tiny.config, batch, 5)
    expected = contestants.ours(tiny)(prompts, 6)
    assert [len(row) for row in expected.tokens] == [7] * batch and expected.seconds > 0
    assert {name: each(prompts, 6).tokens for name, each in decoders.items()} == dict.fromkeys(
        decoders, expected.tokens
    )
    assert len(decoders) == (5 if batch == 1 else 4)


def test_whoever_chooses_other_tokens_is_named_with_the_place_and_a_tie_is_forgiven(tiny, monkeypatch):
    prompts, plain = models.random_prompts(tiny.config, 2, 5), contestants.ours(tiny)
    tokens = [list(row) for row in plain(prompts, decode.CHECKED - 1).tokens]
    tokens[1][3] = (tokens[1][3] + 1) % tiny.config.vocab_size
    decoders = {"plain": plain, "same": plain, "other": lambda prompts, steps: contestants.Decoded(1.0, tokens)}
    found = decode.differing(decoders, prompts, tiny)
    assert list(found) == ["other"]
    assert "tokens differ from the plain path's, first in row 1 at token 3, by " in found["other"]
    monkeypatch.setattr(decode, "TIE", 3.0)  # no two logits are further apart than twice the largest
    assert decode.differing(decoders, prompts, tiny) == {}
    tokens[1].pop()  # a token that is missing is no tie
    tokens[1][3] -= 1
    assert list(decode.differing(decoders, prompts, tiny)) == ["other"]


# ---- the report ----------------------------------------------------------------------------------


def result(benchmark, rows, quick=False, **asked):
    where = {"date": "2026-01-02T03:04:05+00:00", "commit": "c" * 40, "modified": False, "versions": {"torch": "2"}}
    machine = dict(cpu="a cpu", cores=2, threads=2, memory_gb=8.0, gpu=None, device="cpu", load_before=0.5)
    head = {"benchmark": benchmark, "question": "How fast?", "quick": quick, "rounds": 2, "shape": "huihui"}
    return {**head, **asked, **where, "machine": machine, "rows": [row.to_dict() for row in rows]}


def decoded(**samples):
    case = {"dtype": "bfloat16", "batch": 1}
    names = {
        "llama": "llama.cpp",
        "theirs": "transformers generate, eager",
        "slow": "transformers generate, grouped_mm",
    }
    return [measure.Row(case, names.get(name, name), "tokens/s", list(values)) for name, values in samples.items()]


def goals(folder):
    results = report.read_machine(folder)
    return {goal.what: goal.found(results) for goal in GOALS}


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / f"{content['benchmark']}.{len(list(folder.iterdir()))}.json").write_text(json.dumps(content))


def test_without_any_result_everything_is_not_run(tmp_path):
    assert set(goals(tmp_path).values()) == {"not run"}
    write(tmp_path / "a-machine", result("products", [measure.Row({"rows": 1}, "F.linear", "s", [1.0])]))
    text = report.render(report.read(tmp_path))
    assert text.count("\nnot run\n") == len(report.BENCHMARKS) - 1
    assert text.count("| not run |") == len(GOALS) + len(GPU_GOALS) + len(GPU_MEASURED) + 1  # the plain reads


def test_a_goal_is_held_against_the_best_of_the_peers_ways(tmp_path):
    write(tmp_path, result("decode", decoded(compiled=[30, 60], theirs=[10, 20], slow=[5, 5], llama=[40, 80])))
    found = goals(tmp_path)
    assert found["bf16, batch 1: compiled over transformers' best"] == "3.00 ×, met"
    assert found["bf16, batch 1: compiled over llama.cpp"] == "0.75 ×, **not met**"
    assert found["bf16, batch 1: plain over transformers' best"] == "not run"


def test_a_goal_that_wants_little_is_met_from_below(tmp_path):
    rows = [measure.Row({"experts": n, "tokens": 1}, "compiled", "s", [t, t]) for n, t in ((2, 1.0), (128, 1.05))]
    write(tmp_path, result("experts", rows))
    assert goals(tmp_path)["a block of 128 experts over one of 2, top-2, one token, compiled"] == "1.05 ×, aim met"


def test_prefill_is_judged_by_its_worst_length(tmp_path):
    rows = []
    for tokens, ours in ((17, 1.0), (512, 4.0)):
        case = {"dtype": "float32", "tokens": tokens}
        rows += [measure.Row(case, "ours", "s", [ours]), measure.Row(case, "transformers, eager", "s", [2.0])]
    write(tmp_path, result("prefill", rows))
    assert goals(tmp_path)["prompts over transformers' best, at the worst type and length"] == "0.50 ×, **not met**"


def test_answers_with_drafts_are_judged_by_the_sum_over_all_domains(tmp_path):
    rows = []
    for domain, drafted, plain in (("stories", [1.0, 2.0], [2.0, 4.0]), ("python", [2.0, 4.0], [2.0, 4.0])):
        case = {"domain": domain, "decoding": "compiled"}
        rows += [measure.Row(case, "with drafts", "s", drafted), measure.Row(case, "without drafts", "s", plain)]
    write(tmp_path, result("lookup", rows))
    assert goals(tmp_path)["seconds of answers with drafts over those without, compiled"] == "0.75 ×, met"


def test_a_first_token_is_judged_by_the_seconds_beyond_torch_in_each_round(tmp_path):
    case, rows = {"measured": "whole process"}, []
    for name, samples in (("import torch", [1.0, 5.0, 2.0]), ("first token", [2.0, 7.0, 3.5])):
        rows.append(measure.Row(case, name, "s", samples))
    write(tmp_path, result("start", rows))
    assert goals(tmp_path)["a fresh process: the first token beyond torch"] == "1.50 s, met"


@pytest.mark.parametrize("changes", [{"quick": True}, {"shape": "tiny"}])
def test_a_rehearsal_and_a_tiny_shape_are_never_entered(tmp_path, changes):
    write(tmp_path / "one", {**result("decode", decoded(compiled=[30.0], theirs=[10.0])), **changes})
    assert report.read(tmp_path) == {}


def test_a_row_that_was_not_run_keeps_its_reason_in_the_table(tmp_path):
    rows = [*decoded(plain=[3.0]), measure.Row({"dtype": "bfloat16", "batch": 1}, "llama.cpp", not_run="no | compiler")]
    write(tmp_path / "one", result("decode", rows))
    text = report.render(report.read(tmp_path))
    assert "| bfloat16 | 1 | llama.cpp | not run | no / compiler |  |" in text
    assert "| bfloat16 | 1 | plain | 3 |  | tokens/s |" in text
    assert "commit cccccccccccc." in text and "2026-01-02" in text and "a cpu, 2 cores" in text


def test_each_machine_has_a_column_and_a_line_wherever_a_peer_is_ahead(tmp_path):
    for name, ours in (("first", 30.0), ("second", 5.0)):
        found = result("decode", decoded(compiled=[ours], theirs=[10.0]))
        found["machine"]["cpu"] = name
        write(tmp_path / name, found)
    text = report.render(report.read(tmp_path))
    assert (
        "| bf16, batch 1: compiled over transformers' best | ≥ 2.50 × | ≥ 3.50 × | 3.00 ×, met | 0.50 ×, **not met** |"
        in text
    )
    ahead = text.split("## Where a peer is ahead")[1].split("## What stands in the way")[0]
    line = "- decode (dtype bfloat16, batch 1): transformers is 2.00 times as fast"
    assert ahead.strip().splitlines() == ["second:", "", line]


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ({"cpu": "Intel(R) Xeon(R) Processor (family 6, model 143)", "device": "cpu"}, "intel-xeon-family-6-model-143"),
        ({"cpu": "AMD EPYC", "device": "cuda", "gpu": "NVIDIA H100 80GB HBM3"}, "nvidia-h100-80gb-hbm3"),
    ],
)
def test_the_results_of_a_machine_lie_in_a_folder_of_its_name(machine, name):
    assert script.place(machine) == name


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "decode.json").write_text('{"benchmark": "decode"}')
    with pytest.raises(Error, match=r"decode\.json: is no result of a benchmark"):
        report.read_machine(tmp_path)


def test_results_of_a_gpu_stand_in_a_table_of_their_own(tmp_path):
    on_gpu = result("decode", decoded(compiled=[900.0, 1000.0]))
    on_gpu["machine"] |= {"device": "cuda", "gpu": "NVIDIA H100 80GB HBM3"}
    write(tmp_path, on_gpu)
    results = report.read_machine(tmp_path)
    assert list(results) == ["decode (GPU)"]
    assert [goal.found(results) for goal in GPU_GOALS] == ["950, met", "not run", "not run"]
    assert goals(tmp_path)["bf16, batch 1: compiled over transformers' best"] == "not run"
