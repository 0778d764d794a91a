"""The figures of files and of text say what the numbers say."""

import pytest
import torch
from drawings import title
from matplotlib.patches import Rectangle
from reference import dense_config, random_weights, small_config
from safetensors.torch import save

from qwen3_scratch import Error, plots
from qwen3_scratch.plots.canvas import in_words
from qwen3_scratch.plots.files import ordered, parts_of, steps_apart

EXPERTS = ("gate_up_proj", "down_proj")
SEGMENTS = [("header", 100), ("embedding", 300), ("experts", 200), ("experts", 250), ("norms", 50), ("experts", 100)]


def boxes(ax):
    """Left and right end of each box of an axis, from left to right."""
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches if isinstance(patch, Rectangle)]


def test_file_layout_names_the_largest_part_and_the_size_of_the_header():
    expected = "The largest part of the file: experts (55%); the header is thin (10%)"
    assert title(plots.file_layout(SEGMENTS, (400, 1000))) == expected
    assert title(plots.file_layout([("head", 7)], (0, 7))) == "The largest part of the file: head (100%)"


def test_file_layout_draws_neighbours_of_a_part_as_one_box_at_its_place():
    whole, near = plots.file_layout(SEGMENTS, (300, 900)).axes
    expected = [(0.0, 0.1), (0.1, 0.4), (0.4, 0.85), (0.85, 0.9), (0.9, 1.0)]
    torch.testing.assert_close(torch.tensor(boxes(whole)), torch.tensor(expected))
    assert boxes(near) == [(300, 400), (400, 850), (850, 900)]
    assert (whole.get_xlabel(), near.get_xlabel()) == ("place in the file (kB)", "place in the file (bytes)")


@pytest.mark.parametrize("stretch", [(-1, 5), (5, 5), (0, 1001)])
def test_file_layout_refuses_a_stretch_outside_the_file(stretch):
    with pytest.raises(Error, match=r"^closer: .* found, expected a stretch of the file's 1000 bytes$"):
        plots.file_layout(SEGMENTS, stretch)


def test_a_small_file_is_drawn_whole_each_number_at_its_place_in_its_tensors_shade():
    data = save({"b": torch.tensor([0.5]), "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    figure = plots.small_file(data)
    length = len(data) - 8 - 20
    assert title(figure) == f"All {len(data)} bytes of a file: a length, a table, then nothing but numbers"
    (ax,) = figure.axes
    said = [text.get_text() for text in ax.texts]
    assert {"length: 8 bytes", f"table: {length} bytes", "numbers: 20 bytes", f"{length}", "0", "16", "20"} <= set(said)
    assert {"a:  F32  [2, 2]  0 to 16", "b:  F32  [1]  16 to 20"} <= set(said)
    row = next(text.get_position()[1] for text in ax.texts if text.get_text() == "0.5")
    numbers = sorted((text.get_position()[0], text.get_text()) for text in ax.texts if text.get_position()[1] == row)
    assert [text for _, text in numbers][1:] == ["1", "2", "3", "4", "0.5"]  # behind the length
    shades = [patch.get_facecolor() for patch in ax.patches if patch.get_height() == pytest.approx(0.3)][1:]
    assert len({*shades[:4]}) == 1 and shades[4] != shades[0]


@pytest.mark.parametrize("tensor", [torch.ones(9), torch.ones(0), torch.ones(2, dtype=torch.float64)])
def test_a_file_that_has_no_room_in_the_drawing_is_refused(tensor):
    with pytest.raises(Error, match=r"^small_file: \d numbers found, expected 1 to 8, all of type F32"):
        plots.small_file(save({"a": tensor}))


def test_tensors_are_drawn_to_one_scale_and_counted_as_often_as_they_are_there():
    figure = plots.tensor_sizes({"up": [4, 2], "q_proj": [2, 8], "norm": [8]}, {"up": 3})
    assert title(figure) == "50% of the layer's numbers are in its experts"  # 24 of 48
    q_proj, up, *bar = figure.axes[0].patches
    assert q_proj.get_width() == pytest.approx(4 * up.get_width())
    assert up.get_height() == pytest.approx(2 * q_proj.get_height())
    areas = [box.get_width() * box.get_height() for box in bar]
    assert [area / sum(areas) for area in areas] == pytest.approx([16 / 48, 8 / 48, *[8 / 48] * 3])
    texts = [text.get_text() for text in figure.axes[0].texts]
    (bracket,) = figure.axes[0].lines
    assert list(bracket.get_xdata()[1:3]) == pytest.approx([up.get_x(), up.get_x() + up.get_width()])
    assert texts.count("up") == 2  # above its matrix, and in the bar of the first expert
    assert {"one of 3 experts", "expert 0", "expert 1", "expert 2"} < set(texts)
    assert title(plots.tensor_sizes({"up": [4, 2], "norm": [8]})) == "The largest tensor of the layer is up"
    with pytest.raises(Error, match="no tensors found"):
        plots.tensor_sizes({})


def test_the_router_is_no_gate_of_an_expert_and_what_is_thin_is_named():
    figure = plots.tensor_sizes({"mlp.gate": [2, 4], "q_proj": [800, 4], "up": [400, 4], "q_norm": [4]}, {"up": 2})
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "mlp.gate (router)" in texts
    assert "mlp.gate (router), norms" in texts


@pytest.mark.parametrize("tied", [True, False])
def test_active_parameters_end_at_the_mark(tied):
    config = small_config(tie_word_embeddings=tied)
    dense = dense_config()
    figure = plots.active_parameters({"sparse": config, "dense": dense})
    share = config.num_parameters(active=True) / config.num_parameters()
    assert share < 1 == dense.num_parameters(active=True) / dense.num_parameters()
    assert title(figure) == f"For one token sparse uses {share:.0%} of its parameters, dense 100%"
    (ax,) = figure.axes
    widths = torch.tensor([bar.get_width() for bar in ax.patches]).double().view(2, 4)
    torch.testing.assert_close(widths.sum(1), torch.ones(2).double())
    assert widths[0, :3].sum().item() == pytest.approx(share)
    assert [float(line.get_xdata()[0]) for line in ax.lines] == pytest.approx([share, 1.0])


@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_of_the_active_parameters_are_those_of_the_tensors(tied):
    config = small_config(tie_word_embeddings=tied)
    weights = random_weights(config)
    tables, rest, chosen, idle = parts_of(config)
    assert tables == weights.embed_tokens.numel() * (1 if weights.lm_head is None else 2)
    experts = sum(layer.gate_up_proj.numel() + layer.down_proj.numel() for layer in weights.layers)
    assert (chosen + idle, chosen * 8) == (experts, experts * 2)  # two of eight
    others = [part for layer in weights.layers for name, part in layer._asdict().items() if name not in EXPERTS]
    assert rest == sum(part.numel() for part in [*others, weights.norm] if part is not None)


def test_a_model_is_as_large_as_one_says_it():
    assert [in_words(count) for count in (30_532_122_624, 860_348_416, 2_241_920, 4_096)] == [
        "30.5 billion", "860 million", "2.24 million", "4,096"
    ]  # fmt: skip


def test_active_parameters_need_a_model():
    with pytest.raises(Error, match=r"^configs: none found, expected the Config of one model at least$"):
        plots.active_parameters({})


@pytest.mark.parametrize("value", [0.1830348, -1.5, 3e38, 1e-3])
def test_number_bits_are_those_of_the_number(value):
    figure = plots.number_bits(value)
    texts = [text.get_text() for text in figure.axes[0].texts]
    bits = "".join(text for text in texts if text in ("0", "1"))
    single, brief = bits[:32], bits[32:48]
    sign, exponent, fraction = int(single[0]), int(single[1:9], 2), int(single[9:], 2)
    assert (-1) ** sign * 2.0 ** (exponent - 127) * (1 + fraction / 2**23) == torch.tensor(value).item()
    sign, exponent, fraction = int(brief[0]), int(brief[1:9], 2), int(brief[9:], 2)
    assert (-1) ** sign * 2.0 ** (exponent - 127) * (1 + fraction / 2**7) == torch.tensor(value).bfloat16().item()
    tiny, number = bits[64:], torch.tensor(value).to(torch.float8_e4m3fn)
    assert tiny == f"{number.view(torch.uint8).item():08b}" and f"{number.item():.7g}" in texts
    up = abs(torch.tensor(value).bfloat16().item()) > abs(value)
    assert f"bf16 ends here: {'one is added' if up else 'the rest is cut'}" in texts


def test_number_bits_stand_below_each_other_by_kind():
    ax = plots.number_bits(0.1830348).axes[0]
    rows = {row: [patch for patch in ax.patches if patch.get_y() == row] for row in range(4)}
    starts = {
        row: [min(patch.get_x() for patch in patches if patch.get_facecolor() == shade) for shade in shades(patches)]
        for row, patches in rows.items()
    }
    assert starts[0] == starts[1]  # bf16 is the upper half of fp32
    assert (starts[2][0], starts[2][2]) == (starts[0][0], starts[0][2])
    assert starts[2][1] == pytest.approx(starts[0][1] + 3)  # three bits of the exponent are missing at its head
    assert starts[3][1] == pytest.approx(starts[0][1] + 4)  # in fp8 four


def shades(patches):
    """Of sign, exponent and fraction, from left to right."""
    return list(dict.fromkeys(patch.get_facecolor() for patch in sorted(patches, key=lambda patch: patch.get_x())))


def test_what_is_too_thin_to_be_seen_is_marked_above_where_no_line_crosses():
    whole, _ = plots.file_layout([("header", 1), ("experts", 999), ("norms", 1), ("experts", 999)], (1, 1000)).axes
    assert [float(line.get_xdata()[0]) for line in whole.lines] == pytest.approx([0.0005, 1.0005])
    assert all(line.get_ydata()[0] > 1 for line in whole.lines)


def test_triangles_lie_beside_each_other_and_not_on_each_other():
    whole, _ = plots.file_layout([("experts", 1000), ("router", 1), ("norms", 1), ("experts", 998)], (0, 2000)).axes
    assert [float(line.get_xdata()[0]) for line in whole.lines] == pytest.approx([1.0005, 1.0225])


STEPS = [["l", "o", "w", "e", "r"], ["l", "o", "w", "er"], ["lo", "w", "er"], ["low", "er"]]


def test_merge_steps_mark_the_piece_that_each_merge_made():
    figure = plots.merge_steps(STEPS, [3, 14, 1500])
    assert title(figure) == "3 merges: 5 pieces become 2, whose bytes are the same"
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts if text.get_weight() == "bold"] == ["er", "lo", "low"]
    assert [text.get_text() for text in ax.texts if text.get_text().startswith("rank")] == [
        "rank 3", "rank 14", "rank 1,500"
    ]  # fmt: skip


def test_merge_steps_need_a_rank_for_each_merge():
    with pytest.raises(Error, match=r"^ranks: 1 found, expected one for each of the 3 merges$"):
        plots.merge_steps(STEPS, [3])


def test_sentence_lengths_go_from_the_fewest_tokens_to_the_most():
    figure = plots.sentence_lengths({"Chinese": (20, 60, 60), "English": (75, 75, 25)})
    assert title(figure) == "The same sentence takes 25 tokens in English and 60 in Chinese"
    ax = figure.axes[0]
    assert [text.get_text().strip() for text in ax.texts] == [
        "75 characters, 0.33 tokens each", "20 characters, 3.00 tokens each"
    ]  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["English", "Chinese"]
    assert [bar.get_width() for bar in ax.patches] == [75, 60, 25, 60]


def test_sentence_lengths_mark_what_another_tokenizer_takes():
    figure = plots.sentence_lengths(
        {"Chinese": (20, 60, 60), "English": (75, 75, 25)}, ("more", {"English": 9, "Chinese": 8})
    )
    assert title(figure) == "The same sentence takes 25 tokens in English and 60 in Chinese, 8 to 9 with more"
    assert list(figure.axes[0].lines[0].get_xdata()) == [9, 8]


def test_neighbours_of_a_type_are_one_step_apart():
    values = torch.tensor([-1.0, -0.0, 0.0, 1.0]).bfloat16()
    assert ordered(values).tolist() == [-16256, 0, 0, 16256]
    after = torch.nextafter(values, torch.tensor(9.0).bfloat16())
    assert (ordered(after) - ordered(values)).tolist() == [1, 1, 1, 1]


def test_roundings_are_counted_by_their_steps_from_the_nearest_number():
    exact = torch.tensor([1.0, 1.001, 1.0, 1.0]).double()
    values = torch.tensor([1.0, 1.0, 1 + 2**-7, 1 + 2**-5]).bfloat16()
    assert steps_apart(values, exact) == [0.5, 0.25, 0.25]
    figure = plots.rounded_apart({"good": exact.bfloat16(), "bad": values}, exact)
    assert title(figure) == "“good” gives the nearest number most often, “bad” least"


def test_a_running_sum_tells_where_it_ends_and_from_which_addition_on():
    sums = {"a loop": torch.tensor([0.0, 1, 2, 2, 2]), "exact": torch.arange(5.0)}
    figure = plots.running_sums(sums)
    assert title(figure) == "A loop comes to 2 and stays there, from addition 2 on"
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn == {name: values.tolist() for name, values in sums.items()}


def test_changes_are_counted_by_the_lead_that_was_lost():
    lead = torch.tensor([0.0, 0.01, 0.02, 0.5, 2.0, 10.0]).double()
    figure = plots.changes_by_lead(lead, torch.tensor([True, False, True, False, False, False]))
    assert title(figure) == "2 of 6 likeliest next tokens become others, none that led by more than 0.02"
    counted = [text.get_text() for text in figure.axes[0].texts]
    assert counted == ["1 of 2", "1 of 1", "0 of 0", "0 of 1", "0 of 1", "0 of 1"]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 1, 0, 0, 0, 0]
    same = plots.changes_by_lead(lead, torch.zeros(6).bool())
    assert title(same) == "0 of 6 likeliest next tokens become others"
