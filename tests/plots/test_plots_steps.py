"""What is drawn of a step's bill, of slots and of loops is what was counted."""

from drawings import title
from matplotlib.colors import to_rgba

from qwen3_scratch import plots
from qwen3_scratch.plots.canvas import DARK, LIT

BILLS = {"1 loop": (4, 50, 4.7), "2 gathered": (0, 50, 7.8), "3 static": (0, 10, 8.9)}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_bill_draws_each_number_and_names_what_falls_below_half():
    figure = plots.step_bill(BILLS, ["questions", "changing calls", "MB"])
    assert title(figure) == "The least in any counted stage: questions 4 → 0, changing calls 50 → 10"
    drawn = [[bar.get_width() for bar in ax.patches] for ax in figure.axes]
    assert drawn == [[4, 0, 0], [50, 50, 10], [4.7, 7.8, 8.9]]
    dark = [[bar.get_facecolor() == to_rgba(DARK) for bar in ax.patches] for ax in figure.axes]
    assert dark == [[False, True, True], [False, False, True], [False] * 3]
    assert [bool(bar.get_hatch()) for bar in figure.axes[2].patches] == [False, True, True]
    assert "2 gathered: 0, 50, 7.8" in figure.alt


def test_what_was_put_in_and_not_counted_is_hollow_in_brackets_and_not_in_the_title():
    columns = ["questions", "changing calls", "MB"]
    figure = plots.step_bill(BILLS, columns, {"3 static": columns, "2 gathered": ["MB"]})
    assert title(figure) == "The least in any counted stage: questions 4 → 0"
    hollow = [[bar.get_facecolor()[3] == 0 for bar in ax.patches] for ax in figure.axes]
    assert hollow == [[False, False, True], [False, False, True], [False, True, True]]
    assert [text.get_text() for text in figure.axes[2].texts] == [" 4.7", " (7.8)", " (8.9)"]
    assert "(not counted)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.alt.endswith("Hollow, not counted, of 3 static: questions, changing calls, MB; 2 gathered: MB.")


def test_a_bill_of_which_nothing_falls_says_so():
    assert title(plots.step_bill({"a": (3,), "b": (2,)}, ["launches"])) == "No stage takes half of anything away"


def test_a_growing_cache_gets_a_slot_a_step_and_a_static_one_hides_what_is_not_there():
    figure = plots.cache_slots(2, 6, steps=2)
    counts = [text for text in texts(figure) if text in ("3", "4", "6")]
    assert [text for text in texts(figure) if text.startswith("token")] == ["token 2", "token 3"]
    boxes = figure.axes[0].patches
    assert len(boxes) == (3 + 4) + 2 * 6
    assert sum(box.get_hatch() is not None for box in boxes) == 3 + 2
    assert sum(box.get_facecolor() == to_rgba(LIT) for box in boxes) == 4, "the new slot of each row"
    assert counts.count("6") == 2


def test_one_loop_reads_only_what_no_step_made_and_writes_only_the_last():
    figure = plots.one_loop([("silu", ["gate"], "a"), ("times", ["a", "up"], "b")])
    assert title(figure) == "As one loop: 1 launch instead of 2, 3 passes through memory instead of 5"
    assert texts(figure)[-5:] == ["as one loop", "read gate", "read up", "silu, times", "write b"]
