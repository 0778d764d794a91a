"""What chapters promise who reads them: places to write in, guesses before answers, honest times, figures in words."""

import ast
import re

import places
import pytest
from helpers import unchecked
from test_notebooks import FOUND, NOTEBOOKS, SERIES, WRITTEN_ANEW
from tiers import one_of_each

from qwen3_scratch.exercises import check

CHAPTERS = [name for name in WRITTEN_ANEW if name in NOTEBOOKS]
FIRST_HALF = SERIES[:11]
PLACES = [
    (name, cell.metadata["exercise"]["name"])
    for name in CHAPTERS
    for cell in NOTEBOOKS[name]
    if cell.metadata.get("exercise", {}).get("part") == "stub"
]
each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def code(name):
    return [cell for cell in NOTEBOOKS[name] if cell.cell_type == "code"]


def unfolded(name):
    """The prose as it is read at first: what is folded away, and what an exercise brings, is left out."""
    cells = (cell for cell in NOTEBOOKS[name] if cell.cell_type == "markdown" and "exercise" not in cell.metadata)
    return re.sub(r"<details>.*?</details>", "", "\n\n".join(cell.source for cell in cells), flags=re.DOTALL)


# ---- the reader writes -----------------------------------------------------------------------------


def test_the_first_half_asks_for_at_least_fourteen_functions():
    asked = [exercise for name, exercise in PLACES if name in FIRST_HALF]
    assert len(asked) == len(set(asked)) >= 14


@each_chapter
def test_a_place_is_a_stub_its_check_and_a_folded_solution_word_for_word_from_the_exercises(name):
    wanted = [cell.metadata["exercise"] for cell in NOTEBOOKS[name] if "exercise" in cell.metadata]
    assert [each["part"] for each in wanted] == [*places.PARTS] * (len(wanted) // 3)
    assert [each["name"] for each in wanted[::3]] == [each["name"] for each in wanted[2::3]]
    for cell in NOTEBOOKS[name]:
        if "exercise" in cell.metadata:
            assert cell.source == places.filled(**cell.metadata["exercise"]), "run notebooks/places.py on it"


@pytest.mark.parametrize("place", one_of_each(PLACES, lambda place: place[0]), ids="-".join)
def test_a_folded_solution_can_be_pasted_over_the_stub_and_passes(place):
    name, exercise = place
    cells = NOTEBOOKS[name]
    at = next(
        n for n, cell in enumerate(cells) if cell.metadata.get("exercise") == {"name": exercise, "part": "solution"}
    )
    (solution,) = re.findall(r"```python\n(.*?)\n```", cells[at].source.split("One solution")[1], re.DOTALL)
    above = [node for cell in cells[:at] if cell.cell_type == "code" for node in imports(cell.source)]
    space = {}
    exec("\n".join(above), space)
    exec(solution, space)
    with unchecked():
        assert check(exercise, space[f"my_{exercise}"])


def imports(source):
    tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE))
    return [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_what_is_left_empty_is_said_to_be_and_stops_nothing(capsys):
    def my_rope(x, cos, sin):
        raise NotImplementedError

    assert not check("rope", my_rope)
    assert capsys.readouterr().out == "rope: not written yet: replace `raise NotImplementedError` by your code\n"


# ---- how it reads ----------------------------------------------------------------------------------


@each_chapter
def test_it_has_20_to_48_cells_besides_what_the_reader_writes(name):
    cells = [cell for cell in NOTEBOOKS[name] if "exercise" not in cell.metadata]
    assert 20 <= len(cells) <= 48


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_line_of_code_is_cut_off_in_a_window_of_1280_pixels(name):
    assert [line for cell in code(name) for line in cell.source.splitlines() if len(line) > 100] == []


@each_chapter
def test_it_asks_for_three_guesses_before_it_answers(name):
    if not name.startswith("A"):
        assert text(name).count("**Your guess:**") >= 3


def text(name):
    return "\n\n".join(cell.source for cell in NOTEBOOKS[name] if cell.cell_type == "markdown")


@each_chapter
def test_the_time_at_its_top_is_that_of_the_counts(name):
    """180 words a minute, 5 s a line of code, 40 s a figure, 3 s a line of a listing, and what the exercises say."""
    words = len(unfolded(name).split())
    lines = sum(len(cell.source.splitlines()) for cell in code(name) if "exercise" not in cell.metadata)
    data = [output.get("data", {}) for cell in code(name) for output in cell.outputs]
    figures = sum("image/png" in each for each in data)
    listed = sum("".join(each.get("text/markdown", "")).count("\n") for each in data)
    minutes = words / 180 + (5 * lines + 40 * figures + 3 * listed) / 60
    said = re.search(r"It takes (\d+) minutes to read(?:, and (\d+) more to write)?", NOTEBOOKS[name][0].source)
    assert abs(int(said[1]) - minutes) <= 1.5, f"{minutes:.0f} minutes to read"
    writing = sum(places.places()[exercise].minutes for chapter, exercise in PLACES if chapter == name)
    assert int(said[2] or 0) == writing, f"{writing} minutes to write"


# ---- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_says_in_words_what_is_to_be_seen(name):
    pictures = [
        (number, output.metadata.get("image/png", {}).get("alt", ""))
        for number, cell in enumerate(NOTEBOOKS[name])
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert [number for number, alt in pictures if len(alt.split()) < 5] == []


def test_the_times_that_17_shows_are_of_one_run():
    """Otherwise `make refresh` kept some and measured others: `MEASURE=1` measures all anew. Within rounding."""
    outputs = [output for cell in code("17_topk_moe_on_gpu") for output in cell.outputs]
    shown = "\n".join(
        output.get("text", output.get("metadata", {}).get("image/png", {}).get("alt", "")) for output in outputs
    )

    def numbers(pattern):
        found = re.search(pattern.replace("#", r"([\d,.]+)"), shown).groups()
        return [float(number.replace(",", "")) for number in found]

    size, speed, bound = numbers("# MB at # GB/s: the bound is # ms")
    step_at_first, above, slow = numbers(r"takes # ms, # times its bound\n\(256 MB come at # GB/s")
    step, narrow, share, launches, each = numbers("step # ms, narrow # ms, #% of it\n# launches .*, # µs each")
    of_loop, moved = numbers(r"1 loop, the same .* changing calls, +# launches, +# MB")
    (of_memory,) = numbers("by that speed # times")
    counted, price, launching, left, whole = numbers(r"1 loop +# x +# µs = +# ms \+ +(-?[\d.]+) ms = +# ms")
    fastest, reached = numbers(r"is the fastest stage here: # ms a step, # times the bound")
    drawn, estimate = numbers("1 loop # ms measured, # estimated")
    assert bound == pytest.approx(size / speed, rel=0.02, abs=0.006 + 0.05 / speed)
    assert above == pytest.approx(step_at_first / bound, rel=0.05, abs=1)
    assert of_memory == pytest.approx(step_at_first * slow / size, rel=0.05, abs=1)
    assert share == pytest.approx(100 * narrow / step, abs=1)
    assert each == pytest.approx(1000 * narrow / launches, abs=0.1)
    assert counted == of_loop
    assert launching == pytest.approx(counted * price / 1000, abs=0.006 + counted * 0.00005)
    assert launching + left == pytest.approx(whole, abs=0.02)
    assert drawn == pytest.approx(whole, rel=0.01, abs=0.01)
    assert estimate == pytest.approx(of_loop * each / 1000 + moved / speed, rel=0.01, abs=0.01 + of_loop * 0.00005)
    assert reached == pytest.approx(fastest / bound, rel=0.06)
    assert numbers(r"launches \(gathered\) at # µs, as here") == [each]


def test_no_chapter_of_the_first_half_stands_in_the_folder_unread():
    assert set(FIRST_HALF) <= FOUND.keys()
