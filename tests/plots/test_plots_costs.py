"""What the figures of cost, sampling and upcycling say is true."""

import pytest
import torch
from drawings import title
from matplotlib.colors import to_rgba
from matplotlib.patches import PathPatch

from qwen3_scratch import plots
from qwen3_scratch.plots.canvas import LIT
from qwen3_scratch.plots.costs import short


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_counts_are_written_in_three_digits():
    assert [short(number) for number in (0, 7, 1234, 56_700_000, 8.91e9, 2e12)] == [
        "0",
        "7",
        "1.23k",
        "56.7M",
        "8.91G",
        "2T",
    ]


def test_cache_size_compares_each_way_with_the_first():
    figure = plots.cache_size([8, 16], {"all": [800, 1600], "grouped": [400, 800], "window": [200, 200]})
    assert title(figure) == "At 16 tokens “grouped” take 1/2 of “all”, “window” take 1/8"
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == [
        "grouped: 800 bytes",
        "window: 200 bytes",
    ]


def test_sampling_steps_count_what_is_left_and_cross_out_the_rest():
    first = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.0])
    figure = plots.sampling_steps({"all": first, "cut": torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0])}, None)
    assert title(figure) == "2 of 4 tokens can still be drawn; “#1” goes from 40% to 60%"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["all\n4 left", "cut\n2 left"]
    assert ticks(figure.axes[0].yaxis) == ["#1", "#2", "#3", "#0", "#4"]
    (crossed,) = (line.get_ydata().tolist() for line in figure.axes[1].lines)
    assert crossed == [2, 3, 4]


def test_sampling_steps_of_a_few_words_bear_their_names_and_percents():
    figure = plots.sampling_steps({"T = 1": torch.tensor([0.4, 0.6]), "T = 2": torch.tensor([0.45, 0.55])}, ("a", "b"))
    assert title(figure) == "Every token can still be drawn; “b” goes from 60% to 55%"
    assert ticks(figure.axes[0].yaxis) == ["b", "a"]
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [["60%", "40%"], ["55%", "45%"]]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.49, 0), (0.5, 2), (0.99, 2)])
def test_inverse_draw_finds_the_word_and_leaves_out_what_cannot_be_drawn(uniform, token):
    figure = plots.inverse_draw(torch.tensor([0.5, 0.0, 0.5]), uniform, "abc")
    assert title(figure) == f"The number {uniform:.2f} falls into the stretch of “{'abc'[token]}”, which is 50% long"
    assert ticks(figure.axes[0].yaxis) == ["a", "c"]


def test_shares_right_names_the_groups_whose_intervals_do_not_overlap():
    right = {"facts": {"a": 10, "b": 9}, "sums": {"a": 8, "b": 2}}
    intervals = {"facts": {"a": (0.8, 1.0), "b": (0.7, 0.95)}, "sums": {"a": (0.5, 0.9), "b": (0.1, 0.4)}}
    figure = plots.shares_right(right, 10, intervals, {"facts": 0.5, "sums": 0.1})
    assert title(figure) == "“a” is right more often than “b” in “sums”"
    assert [text.get_text() for text in figure.axes[0].texts] == ["100%", "80%", "90%", "20%"]
    each = [{"sums": part["sums"]} for part in (right, intervals)]
    assert title(plots.shares_right(each[0], 10, each[1], {"sums": 0.1})).endswith("“b” in every group")
    level = {"facts": {"a": (0.0, 0.5), "b": (0.0, 0.5)}}
    figure = plots.shares_right({"facts": {"a": 0, "b": 0}}, 4, level, {"facts": 0.1})
    assert title(figure) == "With 4 questions a group no way of asking can be told from the others"


def test_answers_follow_tells_of_the_notes_that_lead_away_most():
    found = {"right notes": {"the story": 4, "the notes": 4, "neither": 0}}
    found["wrong notes"] = {"the story": 1, "the notes": 3, "neither": 0}
    figure = plots.answers_follow(found, 4)
    assert title(figure) == "With “wrong notes” 3 of 4 answers follow the notes, 1 the story"
    (ax,) = figure.axes
    assert sorted(bar.get_height() for bar in ax.patches) == [0, 0, 0.25, 0.75, 1, 1]
    assert [text.get_text() for text in ax.texts] == ["4", "1", "4", "3", "0", "0"]
    assert "wrong notes: 1 the story, 3 the notes, 0 neither" in figure.alt


def test_an_upcycled_layer_is_its_attention_kept_its_feed_forward_copied_to_each_expert_and_a_router_that_is_new():
    figure = plots.upcycled_layer(3)
    assert title(figure) == "The feed-forward becomes 3 equal experts, the router is new, all else is kept"
    (ax,) = figure.axes
    places = {text.get_text(): text.get_position() for text in ax.texts}
    lines = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    kept, *copied = sorted((line[0][1], line[-1][1]) for line in lines if line[0][0] < 2)  # from the dense layer
    assert kept == (places["attention"][1],) * 2
    source = places["feed-forward"][1]
    assert copied == [(source, pytest.approx(places[f"expert {number}"][1])) for number in range(3)]
    new = [patch for patch in ax.patches if patch.get_facecolor() == pytest.approx(to_rgba(LIT))]
    (x, y), ((left, top), (right, foot)) = places["router"], new[0].get_bbox().get_points()
    assert len(new) == 1 and left < x < right and min(top, foot) < y < max(top, foot)


def test_attention_feeds_a_frame_that_holds_each_expert_and_not_the_router():
    (ax,) = plots.upcycled_layer(3).axes
    (frame,) = [patch.get_bbox() for patch in ax.patches if patch.get_linestyle() not in ("-", "solid")]
    places = {text.get_text(): text.get_position() for text in ax.texts}
    assert [name for name, place in places.items() if frame.contains(*place)] == ["expert 0", "expert 1", "expert 2"]
    fed = [text.xy for text in ax.texts if not text.get_text() and text.xy[0] == 5.1]
    assert fed == [(5.1, pytest.approx(frame.y0))]


def test_of_many_experts_the_first_and_the_last_are_drawn():
    written = [text.get_text() for text in plots.upcycled_layer(60).axes[0].texts]
    assert [text for text in written if text.startswith(("expert", "…"))] == [
        "expert 0", "expert 1", "expert 2", "expert 3", "…", "expert 59",
    ]  # fmt: skip


def test_of_each_domain_a_copy_becomes_an_expert_to_which_the_router_points():
    (ax,) = plots.branches_mixed(["spanish", "facts"]).axes
    places = {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}
    lines = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    arrows = [text.xy for text in ax.texts if not text.get_text()]
    for domain in ("spanish", "facts"):
        height = places[f"{domain} expert"][1]
        assert places[f"trained on {domain}"][1] == height
        ends = [(line[0][1], line[-1][1]) for line in lines if line[-1][1] == height]
        assert sorted(ends) == sorted([(places["feed-forward"][1], height), (height, height)])
        assert height in [y for _, y in arrows]
    assert all(places["spanish expert"][0] < x < places["router"][0] for x, _ in arrows)


def test_agreement_bars_count_the_exact_and_name_the_worst():
    figure = plots.agreement_bars({"a": 1.0, "b": 0.5, "c": 0.25}, 1200)
    assert title(figure) == "1 of 3 agree with the dense model at every token; “c” at 25%"
    assert figure.axes[0].get_xlabel().endswith("(n = 1,200)")


def test_routed_losses_say_how_much_of_the_way_to_the_right_expert_trained_routers_go():
    fixed = {"dense": torch.tensor([[0.4, 0.6], [0.2, 0.2]]), "its own": torch.tensor([[0.1, 0.1], [0.02, 0.02]])}
    random, trained = torch.tensor([[0.3, 0.1], [0.5, 0.1]]), torch.tensor([[0.2, 0.02], [0.3, 0.02]])
    figure = plots.routed_losses(["spanish", "facts"], fixed, random, trained)
    start = "Trained routers win back 50% on “spanish” and 100% on “facts” of what random ones lose"
    ends = "to a domain's expert; their loss is still 2.5 and 1 times that expert's"
    assert title(figure) == f"{start} {ends}"
    first = figure.axes[0]
    assert ticks(first.yaxis) == ["dense", "its own", "random routers", "the same, trained"]
    circles = [line.get_xdata().tolist() for line in first.lines if line.get_marker() == "o"]
    assert circles == [pytest.approx([0.3, 0.2]), pytest.approx([0.5, 0.3])]


def test_models_trained_on_are_paired_by_seed_and_the_title_says_what_is_sure():
    apart = {
        "top-1": torch.tensor([[0.0, 0.02, 0.04], [0.0, 0.03, 0.05], [0.0, 0.01, 0.045]]),
        "top-2": torch.tensor([[0.0, 0.0, 0.01], [0.0, 0.0, -0.02], [0.0, 0.1, 0.0]]),
    }
    figure = plots.trained_on((0, 100, 200), apart, {"top-1": [0.0, 0.3, 0.5], "top-2": [0.0, 0.1, 0.2]})
    assert title(figure).replace("\u00a0", " ") == (
        "After 200 steps above the dense model: “top-1”; not to be told from the dense model: “top-2” (n = 3 seeds)"
    )
    assert "At the end +0.045 ± 0.012, -0.003 ± 0.038 nats." in figure.alt
    left, right = figure.axes
    thick = {line.get_label(): list(line.get_ydata()) for line in left.lines if not line.get_label().startswith("_")}
    assert thick == {"top-1": pytest.approx([0, 0.02, 0.045]), "top-2": pytest.approx([0, 0.1 / 3, -0.01 / 3])}
    assert [list(line.get_ydata()) for line in right.lines] == [[0.0, 0.3, 0.5], [0.0, 0.1, 0.2]]
