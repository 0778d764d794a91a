"""What the figures about speed say: winners, bounds and thresholds in their titles are those of the numbers."""

from itertools import groupby

import pytest
from drawings import title

from qwen3_scratch import plots
from qwen3_scratch.plots.speed import crossing


def test_short_kernels_wait_for_their_launches_and_long_ones_hide_them():
    assert plots.eager_rows([0.5, 0.5, 0.5]).kernels == [(1, 0.5), (2, 0.5), (3, 0.5)]
    rows = plots.eager_rows([2, 2, 2])
    assert rows.launches == [(0, 1), (1, 1), (2, 1)]
    assert rows.kernels == [(1, 2), (3, 2), (5, 2)]
    assert (rows.end(), rows.waits) == (7, [])


def test_after_a_wait_the_next_launch_begins_when_the_kernel_has_ended():
    rows = plots.eager_rows([2, 2], waits=[0])
    assert (rows.launches, rows.kernels, rows.waits) == ([(0, 1), (3, 1)], [(1, 2), (4, 2)], [(1, 2)])


def test_recorded_kernels_follow_one_launch_without_a_gap():
    rows = plots.recorded_rows([0.5, 2, 1])
    assert (rows.launches, rows.kernels, rows.end()) == ([(0, 1)], [(1, 0.5), (1.5, 2), (3.5, 1)], 4.5)


def test_a_sketch_draws_each_launch_kernel_and_wait_and_says_when_the_step_ends():
    rows = plots.eager_rows([2, 2], waits=[0])
    figure = plots.launch_sketch({"waiting": rows, "recorded": plots.recorded_rows([2, 2])})
    assert "not measured" in title(figure)
    assert title(figure).endswith("the longer row sets the time; a wait adds to it")
    assert "wait" not in title(plots.launch_sketch({"recorded": plots.recorded_rows([2, 2])}))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["waiting: ends after 6", "recorded: ends after 5"]
    drawn = [(bar.get_x(), bar.get_width(), round(bar.get_y() + 0.36)) for bar in figure.axes[0].patches]
    assert drawn == [(0, 1, 0), (3, 1, 0), (1, 2, 1), (4, 2, 1), (1, 2, 0)]


def test_forms_of_dispatch_differ_in_calls_and_in_who_shares_a_matrix():
    figure = plots.dispatch_forms([0, 2, 0], 3)
    expected = "Each matrix's products by 2, 1 and 1 calls (frames); only the loop's code asks for values"
    assert title(figure) == expected
    texts = [text.get_text() for text in figure.axes[0].texts if len(text.get_text()) > 1]
    forms = [list(part) for known, part in groupby(texts, lambda text: text.startswith(("expert", "copy"))) if known]
    assert [len(form) for form in forms] == [2, 3, 2], "a matrix for each hit expert, or for each choice"
    tokens = "".join(text.get_text() for text in figure.axes[0].texts if text.get_text() in ("A", "B", "C"))
    assert tokens == "ACB" + "ABC" + "ACB"
    assert texts[-1] == "sorts; its code hands over the ends 2, 2, 3"
    assert {"2 calls, 2 matrices", "1 call, 3 matrices", "1 call, 2 matrices"} <= set(texts)
    assert "grouped" not in plots.dispatch_forms([0, 2, 0], 3, grouped=False).alt


def test_stage_times_name_the_fastest_that_ran_and_how_many_times_the_bound_it_takes():
    figure = plots.stage_times({"loop": 0.003, "gathered": 0.0021, "captured": None}, {"loop": 0.002}, 0.0001)
    assert title(figure) == "“gathered” is the fastest stage here: 2.1 ms a step, 21 times the bound"
    texts = [text.get_text().strip() for text in figure.axes[0].texts]
    assert texts == ["3 ms (30 times)", "2.1 ms (21 times)", "not run here"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([3, 2.1])
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert drawn["first estimate"] == [2]
    assert figure.alt.endswith("loop 3 ms measured, 2 estimated. The bound by bytes: 0.1 ms.")


def test_a_step_takes_the_longer_of_reading_and_computing_and_the_title_says_where_they_meet():
    figure = plots.longer_of_two([1, 4, 16, 64], [4.0] * 4, [0.25, 1.0, 4.0, 16.0])
    assert title(figure) == "Arithmetic sets the time from 16 tokens on"
    step, *_ = figure.axes[0].lines
    assert list(step.get_ydata()) == [4, 4, 4, 16]
    assert figure.alt.endswith("1 token 4, 4 tokens 4, 16 tokens 4, 64 tokens 16.")
    figure = plots.longer_of_two([1, 4], [4.0, 4.0], [0.25, 1.0])
    assert title(figure) == "Reading sets the time at all these sizes"


def test_arithmetic_intensity_says_from_how_many_tokens_on_a_machine_is_busy():
    values = {"dense": [1, 10, 100], "half": [0.5, 5, 50], "sparse": [1, 2, 9], "cache": [8, 8, 8]}
    figure = plots.arithmetic_intensity([1, 10, 100], values, {"it": 10.0})
    found = "10 (dense), 20 (half), over 100 (sparse), never (cache)"
    assert title(figure) == f"Reading these no longer bounds it from about so many tokens on: {found}"


@pytest.mark.parametrize(("needed", "place"), [(0.5, 1), (1, 1), (295, 300), (1024, 1000), (5000, None)])
def test_a_crossing_lies_where_the_line_between_two_places_reaches_it(needed, place):
    assert crossing([1, 4, 16, 64, 256, 1024], [1, 4, 16, 64, 256, 1024], needed) == place
