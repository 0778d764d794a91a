"""What the figures of the cache say is true."""

import torch
from drawings import title

from qwen3_scratch import plots
from qwen3_scratch.model import NEVER


def shades(ax):
    return (3 * ax.images[0].get_array()).round().tolist()


def test_cache_growth_counts_what_each_pass_reads():
    figure = plots.cache_growth(3, 3)
    assert title(figure) == "To write 3 tokens after 3, 12 are read without a cache, 5 with one"
    assert shades(figure.axes[0]) == [[2, 2, 2, 0, 0], [2, 2, 2, 2, 0], [2, 2, 2, 2, 2]]
    assert shades(figure.axes[1]) == [[2, 2, 2, 0, 0], [1, 1, 1, 2, 0], [1, 1, 1, 1, 2]]
    rows = [[label.get_text() for label in ax.get_yticklabels()] for ax in figure.axes]
    assert rows == [["pass 1", "pass 2", "pass 3"], ["prefill", "decode 1", "decode 2"]]  # no phases without a cache


def test_cache_step_has_queries_of_new_tokens_alone_and_keys_of_all():
    figure = plots.cache_step(torch.tensor([[True, True, True, False], [False, True, True, True]]))
    assert title(figure) == "Of 4 tokens 2 are read: the others' keys and values are held"
    assert shades(figure.axes[0]) == [[0, 0, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert shades(figure.axes[1]) == [[1, 1, 2, 3], [3, 1, 2, 2]]
    words = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert words == ["q2", "q3", "k0", "k1", "k2", "k3", "v0", "v1", "v2", "v3"]
    assert title(plots.cache_step(torch.ones(1, 3).bool())).startswith("Of 3 tokens 1 is read")


def test_ring_steps_name_the_slot_and_what_it_held():
    held = torch.tensor([[0, NEVER], [0, 1], [2, 1]])
    figure = plots.ring_steps(held)
    assert title(figure) == "Token 2 goes into slot 0 and replaces token 0, which the window has left behind"
    assert shades(figure.axes[0]) == [[2, 0, 0], [1, 2, 0], [3, 1, 2]]
    assert shades(figure.axes[1]) == [[2, 0], [1, 2], [2, 1]]
    assert title(plots.ring_steps(held[:2])) == "Token 1 goes into slot 1, the next free one"


def test_padding_sides_count_a_rows_own_tokens():
    figure = plots.padding_sides([["a"], ["b", "c"]])
    assert title(figure) == "Padded on the left all rows end in one column, on the right each in its own"
    assert shades(figure.axes[0]) == [[3, 1, 2], [1, 1, 2]]
    assert shades(figure.axes[1]) == [[1, 2, 0], [1, 1, 2]]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert [word for word in words if word] == ["a\n0", "next\n1", "b\n0", "c\n1", "next\n2"]
    assert title(plots.padding_sides([["a"], ["b"]])) == "Rows of one length need no padding: all go on in one column"


def test_step_work_says_how_many_times_each_way_grows():
    figure = plots.step_work([8, 16], {"again": [100, 400], "cached": [10, 15]}, [5, 10])
    assert title(figure) == "From 8 to 16 tokens a step with a cache grows 1.5-fold, reading all again 4-fold"
    assert figure.axes[1].lines[0].get_ydata().tolist() == [10, 15]
