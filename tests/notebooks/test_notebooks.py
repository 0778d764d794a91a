"""What every notebook of the series has, and how it stops when it is pointed at something that is no checkpoint."""

import copy
import os
import re
from pathlib import Path

import nbformat
import pytest
from comparing import FIGURE
from helpers import PATIENCE
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook, new_output
from other_checkpoints import write
from settle import settle

ROOT = Path(__file__).parents[2]

SERIES = (
    "00_start_here", "01_checkpoint", "02_tokens_and_chat", "03_embedding_and_rms_norm", "04_attention", "05_rope",
    "06_gqa_attention", "07_router_and_experts", "08_layer_to_logits", "09_cache", "10_sampling_and_chat",
    "11_inside_attention", "12_inside_the_router", "13_pitfalls", "14_upcycling", "15_training", "16_beyond_one_gpu",
    "17_topk_moe_on_gpu", "A1_bytes_and_rounding", "A2_long_texts",
    "A3_several_tokens_a_read", "A4_other_routers", "A5_more_of_heads_and_routers",
    "A6_other_ways_to_share",
    "A7_many_tokens_a_step",
)  # fmt: skip
WRITTEN_ANEW = SERIES  # in the second edition
FOUND = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
NOTEBOOKS = {name: nbformat.read(FOUND[name], as_version=4).cells for name in SERIES if name in FOUND}
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def text_of(name, kind="markdown"):
    return "\n\n".join(cell.source for cell in NOTEBOOKS[name] if cell.cell_type == kind)


def first_cell(name):
    return next(cell.source for cell in NOTEBOOKS[name] if cell.cell_type == "code")


def test_the_folder_holds_the_series_and_nothing_else():
    assert sorted(FOUND) == list(SERIES)


@each_notebook
def test_it_opens_with_its_question_its_time_and_its_place_in_the_model(name):
    opening, *_ = NOTEBOOKS[name]
    assert re.match(rf"# {name[:2]} · .+\n\n\*\*.+\?\*\*\n", opening.source)
    assert re.search(r"^- It takes \d+ minutes( to read.*)?\.$", opening.source, re.MULTILINE)
    assert "plots.model_map(" in text_of(name, "code").partition("\n## ")[0]
    assert re.search(r"^checkpoint = load_checkpoint\(", first_cell(name), re.MULTILINE)


@each_notebook
def test_it_ends_with_a_summary_three_folded_answers_and_where_to_go_on(name):
    ending = NOTEBOOKS[name][-1].source
    assert ending.startswith("## Summary\n")
    assert ending.count("<details><summary>Answer</summary>") == ending.count("</details>") == 3
    assert all(f"\n**{number}.** " in ending for number in (1, 2, 3))
    assert "### Where to go on" in ending
    assert "Sources: " in ending
    after = SERIES[SERIES.index(name) + 1] if name < SERIES[17] else None
    assert after is None or f"Next: [{after}]({after}.ipynb)" in ending


@each_notebook
def test_its_prose_stands_in_short_pieces(name):
    own = [cell for cell in NOTEBOOKS[name] if "exercise" not in cell.metadata]
    assert 20 <= len(own) <= 48
    prose = [cell for cell in own[1:-1] if cell.cell_type == "markdown"]
    words = [len(re.sub(r"`[^`]*`|\$[^$]*\$|^\|.*$", "x", cell.source, flags=re.MULTILINE).split()) for cell in prose]
    assert max(words) <= 95


@each_notebook
def test_its_links_lead_to_notebooks_and_files_that_exist(name):
    links = re.findall(r"\]\(((?!https://)[^)#]+)\)", text_of(name))
    assert [link for link in links if not (ROOT / "notebooks" / link).exists()] == []


@each_notebook
def test_it_promises_nothing_to_be_easy(name):
    assert re.findall(r"\b(simply|obviously|trivially|of course)\b", text_of(name), re.IGNORECASE) == []


@each_notebook
def test_what_it_shows_is_small(name):
    assert FOUND[name].stat().st_size < 1_000_000


# ---- pointed at something else ----------------------------------------------------------------

BROKEN = {
    "a folder without config.json": ("empty", r"empty.*config\.json"),
    "a folder that does not exist": ("nowhere", "no such folder, expected 'tiny', a folder, or a hub id"),
    "a hub id that cannot be reached": ("nobody/nothing", "not in the cache and the hub cannot be reached"),
    "a file cut short": ("short", r"model\.safetensors"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("broken")
    (work / "empty").mkdir()
    file = write("dense", work / "short") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    return work


@pytest.mark.parametrize("case", BROKEN)
def test_every_notebook_stops_in_its_first_cell_with_one_sentence(case, work):
    model, expected = BROKEN[case]
    settings = {"QWEN3_SCRATCH_MODEL": model, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(work / "hub")}
    manager, client = start_new_kernel(env=os.environ | settings, cwd=str(work))
    try:
        for name in NOTEBOOKS:
            shown = []
            reply = client.execute_interactive(first_cell(name), output_hook=shown.append, timeout=PATIENCE)
            assert reply["content"]["status"] == "error", name
            said = [message["content"]["traceback"] for message in shown if message["msg_type"] == "error"]
            assert len(said) == len(said[0]) == 1, name
            assert said[0][0].startswith("Error: ")
            assert "\n" not in said[0][0]
            assert re.search(expected, said[0][0]), said
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ---- what `make refresh` keeps ----------------------------------------------------------------


def clean(text):
    return re.sub(r"\d+ ms", "MEASURED", text)


def notebook(*cells, tags=()):
    """A notebook of cells, each a source and what it prints."""
    made = [new_code_cell(source, outputs=[new_output("stream", text=text)]) for source, text in cells]
    for cell in made:
        cell.metadata["tags"] = list(tags)
    return new_notebook(cells=made)


def settled(new, old):
    settle(new, old, clean)
    return [cell.outputs[0].text for cell in new.cells]


def test_a_refresh_keeps_measured_times_and_nothing_else():
    old = notebook(("a", "12 ms"), ("b", "two"))
    assert settled(notebook(("a", "15 ms"), ("b", "three")), old) == ["12 ms", "three"]
    assert settled(notebook(("a", "15 ms, changed"), ("b", "two")), old) == ["15 ms, changed", "two"]


def test_a_refresh_on_another_processor_keeps_what_rounding_changed_and_nothing_else():
    old = notebook(("a", "a loss of 0.24"), ("b", "8 experts"))
    assert settled(notebook(("a", "a loss of 0.25"), ("b", "8 experts")), old) == ["a loss of 0.24", "8 experts"]
    assert settled(notebook(("a", "a loss of 0.27"), ("b", "9 experts")), old) == ["a loss of 0.27", "9 experts"]


def test_a_refresh_notices_what_an_output_no_longer_shows():
    old, new = (notebook(("a", "")) for _ in range(2))
    for each in (old, new):
        each.cells[0].outputs = [new_output("display_data", {"text/plain": "a figure"})]
    new.cells[0].outputs[0].data["image/png"] = "drawn"
    settle(new, old, clean)
    assert "image/png" in new.cells[0].outputs[0].data


def test_a_refresh_keeps_what_no_second_run_repeats_until_code_before_it_changes():
    old = notebook(("a", "1"), ("b", "2"), tags=["nbval-ignore-output"])
    assert settled(notebook(("a", "3"), ("b", "4"), tags=["nbval-ignore-output"]), old) == ["1", "2"]
    assert settled(notebook(("A", "3"), ("b", "4"), tags=["nbval-ignore-output"]), old) == ["3", "4"]


def test_a_refresh_keeps_no_measured_output_whose_words_are_no_longer_printed():
    def measured(*texts, **figure):
        made = notebook(*(("a", text) for text in texts), tags=["nbval-ignore-output"])
        data = {"image/png": figure["pixels"], FIGURE: {"texts": {"title": figure["title"]}, "numbers": figure}}
        made.cells.append(new_code_cell("b", outputs=[new_output("display_data", data)]))
        made.cells[-1].metadata["tags"] = ["nbval-ignore-output"]
        return made

    old = measured("3 of 30 change in 9 ms", "lead 0.02 there", title="A is 2 times faster", pixels="x")
    new = measured("5 of 30 change in 12 ms", "lead 10.50 there", title="A is 4 times faster", pixels="y")
    settle(new, old, clean)
    assert [cell.outputs for cell in new.cells] == [cell.outputs for cell in old.cells]
    new = measured("3 of 30 change in 9 ms: sums", "lead 0.02 elsewhere", title="B is 2 times faster", pixels="x")
    fresh = copy.deepcopy(new)
    settle(new, old, clean)
    assert new == fresh


def test_a_refresh_measures_anew_where_another_cell_before_shows_something_else():
    def measuring(first, second):
        made = notebook(("a", first), ("b", second))
        made.cells[1].metadata["tags"] = ["nbval-ignore-output"]
        return made

    assert settled(measuring("8 experts", "3"), measuring("8 experts", "2")) == ["8 experts", "2"]
    assert settled(measuring("9 experts", "3"), measuring("8 experts", "2")) == ["9 experts", "3"]
