"""What the figures of many devices say is true."""

import math

import pytest
from drawings import ring_counts, split_config, title
from matplotlib.patches import Rectangle

from qwen3_scratch import Error, plots
from qwen3_scratch.plots.devices import first_below, where_it_pays


def filled(figure, row, rank):
    """What a rank holds of a row, as shares of the frame: left, right, top, bottom."""
    (ax,) = figure.axes
    names = [label.get_text().rsplit("  ")[0] for label in ax.get_yticklabels()]
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    frame, part = boxes[2 * (names.index(row) * len(ax.get_xticks()) + rank) :][1::-1]
    left, right = ((x - frame.get_x()) / 0.9 for x in (part.get_x(), part.get_x() + part.get_width()))
    top, bottom = ((y - frame.get_y()) / 0.76 for y in (part.get_y(), part.get_y() + part.get_height()))
    return pytest.approx((left, right, top, bottom), abs=1e-6)


def test_a_rank_is_drawn_with_its_heads_its_rows_and_its_experts():
    figure = plots.device_shares(split_config(), 2, 4)
    assert filled(figure, "q_proj", 6) == (0.5, 1, 0, 1)  # rank 6 stands at tensor 1, expert 2
    assert filled(figure, "gate_up_proj, experts", 6) == (0.5, 1, 0.5, 0.75)
    assert filled(figure, "down_proj, experts", 1) == (0, 0.5, 0.25, 0.5)
    assert filled(figure, "down_proj, dense", 1) == (0, 0.5, 0, 1)
    assert filled(figure, "router", 3) == (0, 1, 0, 1)


def test_the_title_gives_the_share_of_a_rank_and_what_all_hold():
    config = split_config(mlp_only_layers=())
    ffn = 2 * 3 * 16 * 128 * 64
    router_and_norms = 2 * (16 * 128 + 2 * 128 + 2 * 32) + 128
    share = (ffn / 4 + (config.num_parameters() - ffn - router_and_norms) / 2 + router_and_norms) / (
        config.num_parameters()
    )
    expected = f"Each of 2 x 2 ranks holds {share:.1%} of the model; whole on each: norms, router"
    assert title(plots.device_shares(config, 2, 2)) == expected
    assert title(plots.device_shares(config, 1, 1)) == "Each of 1 x 1 ranks holds 100.0% of the model"


def test_key_value_heads_that_several_ranks_need_are_drawn_on_each():
    figure = plots.device_shares(split_config(), 8, 1)
    assert filled(figure, "k_proj", 3) == (0, 0.5, 0, 1)  # of 2 heads over 8 ranks, rank 3 needs the first
    assert filled(figure, "k_proj", 4) == (0.5, 1, 0, 1)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "1/2 on each" in texts
    assert "1/8 on each" in texts


def test_a_bias_that_one_rank_holds_is_drawn_there_alone():
    figure = plots.device_shares(split_config(attention_bias=True), 2, 1)
    assert filled(figure, "o_bias", 0) == (0, 1, 0, 1)
    assert filled(figure, "o_bias", 1) == (0, 0, 0, 1)
    assert "all or none" in [text.get_text() for text in figure.axes[0].texts]


def test_a_split_that_does_not_divide_is_not_drawn():
    with pytest.raises(Error, match="num_attention_heads"):
        plots.device_shares(split_config(), 3, 1)


def test_device_memory_finds_the_fewest_devices_that_are_enough():
    sizes = {"small": {"a": {1: 60e9, 2: 30e9, 4: 15e9}, "b": {2: 20e9}}, "large": {"a": {1: 90e9, 2: 50e9}}}
    expected = "Of 1, 2, 4 devices, small fits into 2 x 24 or 1 x 80 GB, large into over 2 x 24 or 2 x 80 GB"
    assert title(plots.device_memory(sizes, (24, 80))) == expected
    many = {"small": {"a": {count: 90e9 / count for count in (1, 2, 4, 8, 16)}}}
    assert title(plots.device_memory(many, (80,))) == "Of 1, 2, 4 … 16 devices, small fits into 2 x 80 GB"


def test_token_times_add_sending_to_work_and_mark_the_fastest_count_of_ranks_of_each_case():
    cases = {
        "1 token\nslow": ([4e-3, 2e-3, 1e-3], [0, 3e-3, 9e-3]),
        "9 tokens\nfast": ([8e-3, 4e-3, 2e-3], [0, 1e-3, 1e-3]),
    }
    figure = plots.token_times([1, 2, 4], cases)
    assert title(figure) == "Around a ring sharing pays slow nowhere, fast in every case"
    assert [text.get_text() for text in figure.axes[0].texts] == ["4", "5", "10"]
    bold = [[text.get_text() for text in ax.texts if text.get_weight() == "bold"] for ax in figure.axes]
    assert bold == [["4"], ["3"]]
    assert [round(bar.get_height(), 6) for bar in figure.axes[1].patches] == [8, 4, 2, 0, 1, 1]
    assert figure.alt.endswith("1 token slow: 4, 5, 10; 9 tokens fast: 8, 5, 3.")


def test_it_is_said_over_which_links_and_for_which_of_their_cases_sharing_pays():
    two = {"1 token\nfar": False, "64 tokens\nfar": True, "1 token\nnear": True, "64 tokens\nnear": True}
    assert where_it_pays(two) == "far only for 64 tokens, near in every case"
    assert where_it_pays({"1 token": False, "64 tokens": False}) == "nowhere"


def test_way_times_draw_sending_and_work_apart_and_name_the_fastest_way_of_each_case():
    cases = {"1 token": [(0, 4e-3), (2e-3, 1e-3)], "9 tokens": [(0, 8e-3), (9e-3, 2e-3)]}
    figure = plots.way_times(["alone", "in two"], cases)
    assert title(figure) == "The fastest for 1 token: in two; for 9 tokens: alone"
    assert [text.get_text() for text in figure.axes[1].texts] == ["8", "11"]
    sent, worked = (list(line.get_xdata()) for line in figure.axes[0].lines[-2:])
    assert math.isnan(sent[0]) and sent[1:] == [2] and worked == [4, 1]  # what takes no time has no place on this axis
    assert figure.alt.endswith("Milliseconds of 9 tokens: alone: 8; in two: 11.")


def test_dispatch_cost_counts_the_gathering_in_one_panel_and_names_the_crossings():
    figure = plots.dispatch_cost([2, 4, 8], [10, 10, 10], {"one": [9, 4, 2], "two": [12, 9, 4]}, [5, 5, 5])
    assert title(figure) == "Sending wins from 4 ranks on at one, 8 at two, with the gathering counted in"
    panels = [ax.get_title(loc="left") for ax in figure.axes]
    assert panels == ["with the gathering: from 4, 8 ranks on", "without it: from 2, 4 ranks on"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[10, 10, 10], [14, 9, 7], [17, 14, 9]]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[10, 10, 10], [9, 4, 2], [12, 9, 4]]


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 1], "2"), ([3, 1, 1], "3"), ([1, 1, 3], "never")])
def test_a_crossing_is_where_it_stays_below(values, expected):
    assert first_below([2, 3, 4], values, [2, 2, 2]) == expected


def cuts(figure):
    """What is filled of each frame but that of y, lane after lane: left, right, top, bottom, as shares of the frame."""
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    found = []
    for part, frame in zip(boxes[:-2:2], boxes[1:-2:2], strict=True):
        left, right = ((x - frame.get_x()) / frame.get_width() for x in (part.get_x(), part.get_x() + part.get_width()))
        top, low = ((y - frame.get_y()) / frame.get_height() for y in (part.get_y(), part.get_y() + part.get_height()))
        found.append(pytest.approx((left, right, top, low), abs=1e-6))
    return found


def test_a_device_is_drawn_with_rows_of_gate_and_up_the_same_columns_of_down_and_a_term_of_all_of_y():
    figure = plots.feed_forward_cut(128, 96, 3)
    third = (1 / 3, 2 / 3)
    assert cuts(figure)[5:10] == [(0, 1, 0, 1), (0, 1, *third), (0, 1, *third), (*third, 0, 1), (0, 1, 0, 1)]
    assert "device 1 holds 32 to 63" in figure.alt and "device 2 holds 64 to 95" in figure.alt


def test_ring_sums_frames_what_came_and_finds_when_one_part_is_whole_and_when_all_are():
    figure = plots.ring_sums(ring_counts(4))
    assert title(figure) == "Around a ring of 4 each rank holds one whole part after 3 steps, all parts after 6"
    framed = [
        {(round(patch.get_x() + 0.46), round(patch.get_y() + 0.46)) for patch in ax.patches} for ax in figure.axes
    ]
    assert framed[0] == set() and framed[1] == {(3, 0), (0, 1), (1, 2), (2, 3)}  # part, rank
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes[:2]] == ["at first", "step 0"]
    assert [text.get_text() for text in figure.axes[3].texts[:4]] == ["1", "4", "3", "2"]  # of rank 0


def test_a_ring_that_does_not_end_whole_is_said_not_to():
    counts = ring_counts(4)
    counts[-1, 2, :3] = 3
    assert title(plots.ring_sums(counts)) == "Around a ring of 4 only 13 of 16 parts are whole in the end"


def test_a_pipeline_is_drawn_with_a_block_where_a_host_works_and_says_how_long_hosts_wait():
    figure = plots.pipeline_times({"1 text": [[0], [11]], "2 texts": [[0, 10], [11, 21]]}, 10)
    assert title(figure) == "Hosts wait 52% of the time with 1 text, 35% of the time with 2 texts"
    boxes = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    worked = [(box.get_x(), round(box.get_y()), box.get_width()) for box in boxes if box.get_hatch() is None]
    assert worked == [(0, 0, 10), (10, 0, 10), (11, 1, 10), (21, 1, 10)]
    assert figure.axes[1].get_title(loc="left") == "2 texts: done after 31 ms"
