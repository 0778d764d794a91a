"""Each script of the benchmarks runs to its end on a tiny shape and writes what it says. No test looks at a time."""

import importlib
import inspect
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import ROOT, finished
from reference import assert_near

from benchmarks import contestants, decode, llama, load, measure, models, products, report, roofline, script, start
from qwen3_scratch import Error
from qwen3_scratch.generation import Generation
from qwen3_scratch.tiny.corpus import DOMAINS

IN_8_BITS = contestants.OURS["plain"]  # stands in for the decoder that reads 8 bits


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def rehearsed(monkeypatch, tmp_path, store):
    """Runs a script's main on the tiny shape within this process, and gives back the JSON."""
    monkeypatch.setattr(measure, "BUFFER", 2**20)
    monkeypatch.setattr(contestants, "OURS", {"plain": contestants.OURS["plain"]})  # compiling takes long

    def rehearse(name, **options):
        module = importlib.import_module(f"benchmarks.{name}")
        options = {"rounds": 5, "quick": True, "out": tmp_path, **options}
        taken = inspect.signature(module.main).parameters
        options |= {
            key: value for key, value in {"device": "cpu", "shape": "tiny", "store": store}.items() if key in taken
        }
        module.main(**options)
        (path,) = tmp_path.glob("*.json")
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        return json.loads(path.read_text())

    return rehearse


def check_result(found, benchmark):
    """What every result holds, whatever was asked."""
    assert found["benchmark"] == benchmark and found["quick"] is True and found["rounds"] == script.QUICK
    assert found.keys() >= {"question", "date", "commit", "modified", "machine", "versions", "rows"}
    for row in found["rows"]:
        assert isinstance(row["case"], dict) and row["name"]
        if "not_run" in row:
            assert row["not_run"] and "samples" not in row
        else:
            assert row["low"] <= row["median"] <= row["high"] and row["unit"]
            assert len(row["samples"]) in (1, script.QUICK) and all(sample > 0 for sample in row["samples"])
    memory = [row for row in found["rows"] if row["name"] == measure.BANDWIDTH]
    assert memory and all(len(row["samples"]) == script.QUICK for row in memory)


def names(found, **case):
    return {row["name"] for row in found["rows"] if case.items() <= row["case"].items() and "samples" in row}


def test_decode_measures_every_batch_in_both_kinds_of_numbers(rehearsed, monkeypatch):
    monkeypatch.setattr(decode, "STEPS", {1: 2, 4: 2})
    monkeypatch.setattr(decode, "CHECKED", 3)
    monkeypatch.setattr(llama, "system_info", lambda: None)  # as where it is not installed
    found = rehearsed("decode")
    check_result(found, "decode")
    for dtype in ("float32", "bfloat16"):
        assert names(found, dtype=dtype, batch=1) == names(found, dtype=dtype, batch=4) | {
            "transformers generate, batched_mm"
        }
        assert "plain" in names(found, dtype=dtype, batch=4)
    assert {row["not_run"] for row in found["rows"] if row["name"] == "llama.cpp"} == {
        "llama-cpp-python is not installed"
    }


def test_the_title_of_decoding_is_about_the_smallest_batch_that_was_measured():
    speeds = {"plain": 40.0, "compiled": 90.0, "transformers, eager": 45.0, measure.BANDWIDTH: 500.0}

    def rows(dtype, batch):
        case = {"dtype": dtype, "batch": batch}
        return [{"case": case, "name": name, "median": speed} for name, speed in speeds.items()]

    expected = "Compiled decodes 90 tokens a second in {} at batch {}, 2.00 × transformers"
    assert decode.title(rows("bfloat16", 64) + rows("float32", 64)) == expected.format("bf16", 64)
    assert decode.title(rows("float32", 4) + rows("bfloat16", 16)) == expected.format("fp32", 4)


def test_prefill_measures_every_length_beside_transformers(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.prefill.LENGTHS", (3, 17))
    found = rehearsed("prefill")
    check_result(found, "prefill")
    expected = {"ours", "transformers, eager", "transformers, grouped_mm (default)", measure.BANDWIDTH}
    assert all(names(found, dtype=dtype, tokens=tokens) == expected for dtype in models.DTYPES for tokens in (3, 17))


def test_context_leaves_out_the_uncached_pass_of_a_long_text(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.context.LENGTHS", (17, 600))
    found = rehearsed("context")
    check_result(found, "context")
    assert "plain, no cache" in names(found, **{"tokens before": 17})
    assert names(found, **{"tokens before": 600}) == {
        "plain", "transformers, dynamic cache", "transformers, static cache", measure.BANDWIDTH,
    }  # fmt: skip


def test_experts_measures_every_form_of_dispatch_and_the_reference(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.experts.EXPERTS", (2, 4))
    monkeypatch.setattr("benchmarks.experts.TOKENS", (1, 512))
    monkeypatch.setattr("benchmarks.experts.Part", lambda function: function)
    found = rehearsed("experts")
    check_result(found, "experts")
    forms = {"model.moe", "moe_grouped", "moe_by_size", "transformers, grouped_mm (default)", "transformers, eager"}
    assert names(found, experts=4, tokens=1) >= forms | {"moe_gathered", "compiled", "transformers, batched_mm"}
    assert names(found, experts=4, tokens=512) == forms | {measure.BANDWIDTH}


def test_roofline_counts_calls_and_shares_of_what_reading_reached(rehearsed):
    found = rehearsed("roofline")
    check_result(found, "roofline")
    case = {"dtype": "bfloat16", "quantity": "launches a step"}
    counts = {row["name"]: row["median"] for row in found["rows"] if row["case"] == case}
    assert counts["plain"] > 2 * 20  # two layers of at least so many operators
    time, share = (
        measure.row_of(found["rows"], "plain", dtype="bfloat16", quantity=quantity)
        for quantity in (roofline.TIME, roofline.SHARE)
    )
    memory = measure.row_of(found["rows"], measure.BANDWIDTH, dtype="bfloat16")
    expected = found["bytes"]["bfloat16"] / time["samples"][0] / (1e9 * memory["samples"][0])
    assert share["samples"][0] == pytest.approx(expected)


def test_an_operator_within_another_is_not_counted():
    x = torch.ones(3, 3)
    cpu = torch.device("cpu")
    assert roofline.launches(lambda: x + x, cpu) == 1
    assert roofline.launches(lambda: torch.nn.functional.linear(x, x), cpu) == 1  # which calls t and mm
    assert roofline.launches(lambda: (x + x, x * x, x.view(9)), cpu) == 3


def test_products_measures_the_library_and_the_sum(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.products.Part", lambda function: function)
    monkeypatch.setattr("benchmarks.products.ROWS", (1, 4))
    found = rehearsed("products")
    check_result(found, "products")
    assert names(found, rows=4, dtype="bfloat16") == {"F.linear", products.SUM, measure.BANDWIDTH}


def test_int8_measures_both_kinds_of_weights_and_counts_the_tokens_that_stay(rehearsed, monkeypatch):
    for name, decoder in (("compiled", None), ("int8", IN_8_BITS)):  # compiling takes long
        form = partial(replace, decoder=decoder)
        monkeypatch.setattr(f"benchmarks.int8.{name}", form)
    monkeypatch.setattr("benchmarks.int8.BATCHES", (1,))
    monkeypatch.setattr("benchmarks.int8.generate", answers_that_change)
    found = rehearsed("int8")
    check_result(found, "int8")
    assert names(found, batch=1, dtype="bfloat16") == {"as loaded", "in 8 bits", measure.BANDWIDTH}
    (kept,) = (row for row in found["rows"] if row["unit"] == "of all")
    assert kept["samples"] == [0.5]  # of four tokens the second changed and the last is new


def answers_that_change(checkpoint, texts, **options):
    """As loaded 1 2 3, in 8 bits 1 7 3 4."""
    tokens = [1, 7, 3, 4] if checkpoint.decoder == IN_8_BITS else [1, 2, 3]
    return [Generation("", None, tokens, "stop", [0]) for _ in texts]


def test_lookup_counts_tokens_a_pass_and_measures_answers_and_passes(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.lookup.compiled", partial(replace, decoder=IN_8_BITS))  # compiling takes long
    monkeypatch.setattr("benchmarks.lookup.compiled_decoder", IN_8_BITS)
    monkeypatch.setattr("benchmarks.lookup.READ", (1, 4))
    found = rehearsed("lookup")
    check_result(found, "lookup")
    assert names(found, domain="stories", decoding="compiled") == {"without drafts", "with drafts", measure.BANDWIDTH}
    assert names(found, **{"tokens in a pass": 4}) == {
        "all layers", "a block of 2 experts", "a block of 128 experts", measure.BANDWIDTH,
    }  # fmt: skip
    assert not [row["not_run"] for row in found["rows"] if "not_run" in row]
    counted = {row["case"]["domain"]: row["median"] for row in found["rows"] if row["unit"] == "tokens"}
    assert counted.keys() == set(DOMAINS) and all(1 <= count <= 4 for count in counted.values())


def test_tiny_measures_the_embedded_checkpoint_beside_transformers(rehearsed, monkeypatch):
    monkeypatch.setattr("benchmarks.tiny.BATCHES", (2,))
    found = rehearsed("tiny")
    check_result(found, "tiny")
    expected = {"plain", "transformers generate, eager", "transformers generate, grouped_mm (default)"}
    assert names(found, batch=2) == expected | {measure.BANDWIDTH}


def test_the_sum_of_a_product_is_that_of_the_library():
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    assert_near(products.summed(x, weight), torch.nn.functional.linear(x, weight))


@pytest.mark.proof
def test_loading_is_measured_for_both_sides(rehearsed):
    found = rehearsed("load", rounds=1)
    both = {"ours", "transformers"}
    assert names(found, quantity="time") == both | {measure.BANDWIDTH}
    assert names(found, quantity="peak over file size") == both


def test_the_peak_is_what_a_fresh_process_took_while_loading(store, monkeypatch):
    monkeypatch.setitem(load.CONTESTANTS, "big", ("", "len(b'x' * 50_000_000)"))
    monkeypatch.setitem(load.CONTESTANTS, "small", ("early = b'x' * 50_000_000", "None"))
    peaks = []
    assert load.load_time("big", store, peaks) > 0 and load.load_time("small", store, peaks) > 0
    assert 49e6 < peaks[0] < 60e6 and peaks[1] < 5e6  # what came with the imports is no part of it


def test_a_process_that_cannot_load_is_told_in_one_sentence(store, monkeypatch):
    monkeypatch.setitem(load.CONTESTANTS, "broken", ("", "int('x')"))
    with pytest.raises(Error, match=r"broken cannot load it \(ValueError: invalid literal .*\): delete the folder"):
        load.load_time("broken", store, [])


@pytest.mark.proof
def test_fresh_processes_are_measured_and_one_that_compiles(rehearsed):
    found = rehearsed("start", rounds=1)
    assert names(found, measured=start.WHOLE) == {*start.PROCESSES, measure.BANDWIDTH}
    assert names(found, measured=start.WITHIN) == {start.COMPILING}


def test_a_fresh_process_that_fails_is_told_in_one_sentence():
    assert start.fresh(["-c", "print('yes')"]) == "yes\n"
    with pytest.raises(
        Error, match=r"^python -c int\('x'\): ended with code 1 \(ValueError: invalid literal .*\): run"
    ):
        start.fresh(["-c", "int('x')"])


def test_an_error_of_a_script_is_one_line_and_exit_code_1(tmp_path):
    done = finished("-m", "benchmarks.experts", "--shape", "huge", "--out", str(tmp_path))
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("shape is 'huge', expected one of huihui")


def test_make_bench_runs_every_script_that_the_report_knows():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS :=")]
    assert tuple(line.split()[2:]) == report.BENCHMARKS
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in report.BENCHMARKS)
