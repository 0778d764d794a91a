"""Figures hold texts of any length: nothing cut off, nothing overlapping, no warning, no global state."""

import io
import json
import warnings

import matplotlib
import pytest
import torch
from drawings import CONSTANT, DRAWINGS, LENGTHS, random_routes
from IPython.core.formatters import DisplayFormatter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tiers import in_proof

from qwen3_scratch import Checkpoint, Config, Error, Tokenizer, forward, init_weights, plots, trace
from qwen3_scratch.plots.canvas import new_figure
from qwen3_scratch.plots.drawn import MIME
from qwen3_scratch.plots.drawn import drawn as content


def cases():
    """Every figure at every length; what does not depend on it once, and variants at the two ends."""
    for name in DRAWINGS:
        constant = name.startswith(CONSTANT)
        for length in LENGTHS[2:] if constant else LENGTHS[:: 2 if "," in name else 1]:
            yield name, length


# `make test` draws each at its longest, where most can be cut off or overlap, and no variants.
DRAWN = [case if case[1] == LENGTHS[-1] and "," not in case[0] else in_proof(case) for case in cases()]


@pytest.fixture(params=DRAWN, ids=lambda case: f"{case[0]} {case[1]}", scope="module")
def drawn(request):
    """A figure after it was drawn, with its renderer; a warning is an error."""
    name, length = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DRAWINGS[name](length)
        assert isinstance(figure, Figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return figure, canvas.get_renderer()


def visible_texts(figure, renderer):
    """Text and box (left, bottom, right, top) in pixels of all that is written."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    found = [text for text in found if text.axes is None or text.axes.get_visible()]
    ticks = {
        label for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels(which="both")
    }
    axes = [axis for ax in figure.axes if ax.axison for axis in (ax.xaxis, ax.yaxis)]  # the others have none to show
    shown = {label for axis in axes for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
    found = [text for text in found if text not in ticks or text in shown]
    boxes = torch.tensor([text.get_window_extent(renderer).extents.tolist() for text in found])
    return [text.get_text() for text in found], boxes


def test_nothing_is_cut_off(drawn):
    texts, boxes = visible_texts(*drawn)
    width, height = drawn[0].get_size_inches() * drawn[0].dpi
    outside = (boxes[:, :2] < -0.5).any(1) | (boxes[:, 2] > width + 0.5) | (boxes[:, 3] > height + 0.5)
    assert [text for text, out in zip(texts, outside, strict=True) if out] == []


def test_no_two_texts_overlap(drawn):
    texts, boxes = visible_texts(*drawn)
    inner = boxes + torch.tensor([0.5, 0.5, -0.5, -0.5])  # touching is no overlap
    low, high = inner[:, None, :2].maximum(inner[None, :, :2]), inner[:, None, 2:].minimum(inner[None, :, 2:])
    overlap = (low < high).all(-1).triu(1)
    assert [(texts[a], texts[b]) for a, b in overlap.nonzero().tolist()] == []


def test_the_title_says_something(drawn):
    figure, _ = drawn
    assert len(figure.get_suptitle()) > 20


def test_what_it_draws_is_told_in_few_words_and_numbers(drawn):
    figure, _ = drawn
    told = content(figure)
    assert told["texts"]["title"] == figure.get_suptitle()
    assert len(told["numbers"]) > 2 * len(figure.axes)  # more than limits
    assert len(json.dumps(told)) < 50_000


@pytest.mark.parametrize("name", ["model_map", "route_map", "attention_maps", "next_token_bars", "loss_curve"])
def test_the_same_picture_comes_again_whatever_the_settings_are(name):
    expected = pixels(DRAWINGS[name](5))
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "lines.linewidth": 9, "figure.dpi": 50}):
        before = dict(matplotlib.rcParams)
        assert pixels(DRAWINGS[name](5)) == expected
        assert dict(matplotlib.rcParams) == before


def pixels(figure):
    png, size = figure._repr_png_()
    image = Image.open(io.BytesIO(png))
    assert image.width / size["width"] == pytest.approx(image.height / size["height"], rel=0.01)
    return image.tobytes()


def test_nothing_is_left_in_pyplot():
    import matplotlib.pyplot

    for name in ("model_map", "route_map", "attention_maps"):
        DRAWINGS[name](2)
    assert matplotlib.pyplot.get_fignums() == []


def test_a_notebook_shows_one_picture_in_its_size_and_what_is_to_be_seen_in_words():
    figure = plots.model_map()
    data, metadata = DisplayFormatter().format(figure)
    assert data.keys() == {"image/png", "text/plain", MIME}
    assert metadata == {"image/png": {"width": 864, "height": 346, "alt": figure.alt}}


def test_a_figure_that_says_nothing_is_described_by_its_titles_and_axes():
    figure = new_figure("Losses fall", 3.0, 2.0)
    left, right = figure.subplots(1, 2)
    left.set(title="alone", xlabel="step", ylabel="loss")
    right.set_xlabel("step")
    _, metadata = DisplayFormatter().format(figure)
    assert metadata["image/png"]["alt"] == "Losses fall. alone, x: step, y: loss. x: step."


class Bytes(Tokenizer):
    """A tokenizer whose tokens are given."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def token_bytes(self, token):
        return self.tokens[token] if token < len(self.tokens) else b""


def test_token_labels_make_the_invisible_visible():
    tokens = Bytes(b" the", b".\n\n", b"\t", b"\xe4\xbd", "你".encode(), b"extraordinarily", b"$x$")
    found = plots.token_labels(tokens, range(8))
    assert found == ["␣the", ".⏎⏎", "⇥", "<e4bd>", "□", "extraordina…", "$x$", "#7"]


def test_token_labels_without_tokenizer_are_numbers():
    assert plots.token_labels(None, torch.tensor([3, 41])) == ["#3", "#41"]


@pytest.fixture(scope="module")
def small():
    config = Config("qwen3_moe", 40, 16, 16, 3, 2, 1, 8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
                    mlp_only_layers=(1,), tie_word_embeddings=True)  # fmt: skip
    return Checkpoint(config, init_weights(config, seed=3))


def test_routes_of_several_passes_are_joined_and_dense_layers_left_out(small):
    with trace() as t:
        for ids in ([1, 2, 3], [4]):
            forward(small.weights, torch.tensor([ids]), small.config)
    found = plots.routes(t)
    assert list(found) == [0, 2]
    assert found[2].experts.shape == (4, 2)
    assert torch.equal(found[2].logits[3:], t["moe_route"][-1].output.logits)


def test_route_map_shows_each_token_with_its_experts(small):
    with trace() as t:
        forward(small.weights, torch.tensor([[1, 2, 3]]), small.config)
    ax = plots.route_map(t, ["a", "b", "c"]).axes[0]
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    for row, (call, rank) in enumerate((call, rank) for call in t["moe_route"] for rank in range(2)):
        assert [shown[column, row] for column in range(3)] == [str(e) for e in call.output.experts[:, rank].tolist()]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]


def test_answer_routes_cover_all_tokens_that_were_read(small):
    ax, *_ = plots.answer_routes(small, [5, 6, 7], max_new_tokens=4, min_new_tokens=4).axes
    assert [label.get_text() for label in ax.get_xticklabels()][:3] == ["#5", "#6", "#7"]
    assert len(ax.get_xticklabels()) == 6


def test_a_dense_trace_has_no_routes():
    with trace() as t:
        pass
    with pytest.raises(Error, match="dense"):
        plots.route_map(t, [])


def test_labels_must_match_the_tokens():
    with pytest.raises(Error, match="3 labels found, expected 5"):
        plots.route_map(random_routes(5), ["a", "b", "c"])


def test_an_unknown_part_is_named():
    with pytest.raises(Error, match="'wheel' found, expected parts of decoder_layer, residual_stream"):
        plots.model_map({"wheel", "head"})


def test_expert_load_gives_each_layers_shares_and_says_of_how_many_choices():
    figure = plots.expert_load(torch.tensor([[600.0, 300.0, 300.0], [0.0, 240.0, 960.0]]), [1, 3])
    assert [text.get_text() for text in figure.axes[0].texts] == ["50", "25", "25", "0", "20", "80"]
    title = figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")
    assert title == "Layer 3 sends 80% of its choices to expert 2; an even share is 33.3% (n = 1,200 a layer)"


def test_titles_name_what_is_largest():
    title = plots.attention_maps(torch.eye(4).expand(2, 4, 4), ["a", "b", "c", "d"]).get_suptitle().replace("\n", " ")
    assert title == "In head 0 a token gives 100% of its weight to itself, on average"
