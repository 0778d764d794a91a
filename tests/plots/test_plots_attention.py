"""What the figures of attention say is what the numbers say."""

import pytest
import torch
from drawings import title
from matplotlib.colors import to_hex

from qwen3_scratch import plots
from qwen3_scratch.model import NEVER, attention_mask

LABELS = ["a", "b", "c", "d"]


def test_lengths_are_compared_over_all_heads_and_tokens():
    before, after = torch.tensor([[2.0, 9.0], [3.0, 4.0]]), torch.tensor([[4.0, 4.0], [6.0, 5.0]])
    figure = plots.head_lengths(before, after, "q")
    assert title(figure) == "Before QK-norm the longest q is 4.5 times as long as the shortest, after it 1.5 times"
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in figure.axes[0].patches]
    assert bars == [(2.0, 9.0), (3.0, 4.0), (4.0, 4.0), (5.0, 6.0)]


def test_lengths_have_a_line_where_the_norm_alone_puts_them_and_one_that_none_is_above():
    figure = plots.head_lengths(torch.ones(2, 3), torch.ones(2, 3), "q", root=1.0, bound=2.5)
    lines = {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines}
    assert lines["√head_dim = 1.0"] == 1.0
    assert lines["√head_dim · max|w| = 2.5"] == 2.5


def steps():
    scores = torch.tensor([[1.0, 7.0, 3.0], [2.0, 0.0, 8.0], [5.0, 9.0, 1.0]])
    mask = torch.ones(3, 3).tril().bool()
    return scores, mask, scores.masked_fill(~mask, -torch.inf).softmax(-1)


def test_the_title_of_the_steps_names_what_the_last_token_looks_at():
    assert (
        title(plots.attention_steps(*steps(), LABELS[:3]))
        == "The last token, “c”, gives 98% of its weight to “b”, place 1"
    )


def test_the_steps_show_the_scores_that_the_mask_lets_through_then_weights():
    scores, mask, weights = steps()
    panels = plots.attention_steps(scores, mask, weights, LABELS[:3]).axes[:2]
    shown = [torch.from_numpy(ax.images[0].get_array().filled(torch.nan)) for ax in panels]
    for found, expected in zip(shown, (scores, weights), strict=True):
        assert torch.equal(found.isnan(), ~mask)
        torch.testing.assert_close(found[mask], expected[mask])


def test_weights_are_written_out_as_percents_where_they_are_seen():
    *_, weights = steps()
    panel = plots.attention_steps(*steps(), LABELS[:3]).axes[1]
    written = {text.get_position(): text.get_text() for text in panel.texts if text.get_text()}
    expected = {
        (key, query): f"{100 * weights[query, key]:.0f}" for query, key in (weights >= 0.095).nonzero().tolist()
    }
    assert written == expected


def test_masks_are_counted_in_the_title_and_dark_where_a_query_may_look():
    positions = torch.arange(4)[None]
    keys = positions.masked_fill(positions < 1, NEVER)
    masks = {"causal": attention_mask(positions, positions)[0, 0], "one pad": attention_mask(positions, keys)[0, 0]}
    figure = plots.mask_panels(masks)
    assert [ax.get_title("left") for ax in figure.axes] == ["causal: 10 of 16 pairs", "one pad: 6 of 16 pairs"]
    for ax, mask in zip(figure.axes, masks.values(), strict=True):
        image = ax.images[0]
        shades = image.cmap(image.norm(image.get_array()))
        assert torch.equal(torch.tensor(shades[..., :3]).sum(-1) < 1.5, mask)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_lines_lead_from_each_query_head_to_the_head_that_it_shares(kv_heads):
    figure = plots.head_sharing(6, {"kind": kv_heads}, [1])
    lines = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    below = [line.get_xdata()[0] for line in figure.axes[0].lines if list(line.get_ydata()) == [0]]
    assert [start for start, _ in lines] == list(range(6))
    assert [below.index(end) for _, end in lines] == [head // (6 // kv_heads) for head in range(6)]


def test_heads_that_are_kept_are_shaded_and_those_that_ask_are_not():
    figure = plots.head_sharing(4, {"kind": 2}, [1])
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "s"]
    squares = [(line.get_ydata()[0], to_hex(line.get_markerfacecolor())) for line in drawn]
    shades = {place: {shade for row, shade in squares if row == place} for place in (0, 1)}
    assert shades == {0: {"#c6dbef"}, 1: {"#ffffff"}}


def test_the_cache_of_each_kind_is_named():
    figure = plots.head_sharing(4, {"each its own": 4, "shared": 2}, [24_000, 6_000])
    assert title(figure) == "From 24 kB a token down to 6,000 bytes: fewer key/value heads, a smaller cache"
    assert [ax.get_xlabel() for ax in figure.axes] == ["cache: 24 kB a token", "cache: 6,000 bytes a token"]
    said = plots.head_sharing(4, {"shared": 2}, [6_000], of="2 layers, float32").axes[0].get_xlabel()
    assert said == "cache: 6,000 bytes a token\n(2 layers, float32)"


def test_a_panel_says_what_its_number_of_key_value_heads_is_called():
    figure = plots.head_sharing(4, {"each its own": 4, "this checkpoint": 2, "one for all": 1}, [4, 2, 1])
    assert [ax.get_title("left") for ax in figure.axes] == [
        "MHA: each its own",
        "GQA: this checkpoint",
        "MQA: one for all",
    ]


def test_the_looks_of_a_token_name_the_strongest_and_how_many_heads_agree():
    weights = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.6, 0.1], [0.1, 0.4, 0.5]])
    found = title(plots.token_looks(weights, LABELS[:3], "c"))
    assert found == "From “c” 2 of 3 heads look most at “b”, place 1; head 0 gives it 70%"
    assert title(plots.token_looks(weights[2:], LABELS[:3], "c")).startswith("From “c” 1 of 1 heads looks most at “c”")


def test_the_title_of_masks_says_what_they_hide():
    places = torch.arange(6)[None]
    causal, window = attention_mask(places, places)[0, 0], attention_mask(places, places, 2)[0, 0]
    assert title(plots.mask_panels({"causal": causal})) == "No query sees a later key, and every query all earlier ones"
    both = plots.mask_panels({"causal": causal, "window": window})
    assert title(both) == "No query sees a later key; “window” hides earlier ones, too"
    assert [ax.get_title("left") for ax in both.axes] == ["causal: 21 of 36 pairs", "window: 11 of 36 pairs"]
    assert title(plots.mask_panels({"all": torch.ones(3, 3).bool()})).startswith("A query sees later keys")


def test_of_a_pad_that_looks_the_title_of_masks_says_nothing():
    positions = (torch.arange(6)[None] - 2).clamp(min=0)
    keys = positions.masked_fill(torch.arange(6)[None] < 2, NEVER)
    found = title(plots.mask_panels({"pads": attention_mask(positions, keys)[0, 0]}))
    assert found == "No query sees a later key; “pads” hides earlier ones, too"
