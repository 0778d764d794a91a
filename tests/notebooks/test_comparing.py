"""notebooks/comparing.py: another processor's last digits pass, and a wrong figure or number fails all the same."""

import base64
import io
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from qwen3_scratch.plots.canvas import draw_lines, heatmap, label_axis, logarithmic, new_figure, styled
from qwen3_scratch.plots.drawn import MIME, digest, within

sys.path.append(str(Path(__file__).parents[2] / "notebooks"))
from comparing import FIGURE, PICTURE, arrays_differ, differences, texts_differ

# ---- figures ---------------------------------------------------------------------------------------

HEIGHTS = [0.2, 0.5, 0.9, 0.04]
SHADES = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
CURVES = {"with it": [3.0, 2.0, 1.0], "without": [3.0, 2.5, 2.2]}


@styled
def draw(title="Half are high", bars=HEIGHTS, shades=SHADES, cmap="Blues", curves=CURVES, labels="abcd", **look):
    """A figure with bars, a heat map and lines."""
    figure = new_figure(title, 9.0, 3.0)
    left, middle, right = figure.subplots(1, 3)
    left.bar_label(left.bar(range(len(bars)), bars), labels)
    left.set(ylim=(0, 1))
    heatmap(middle, shades, None, vmin=0, vmax=1, cmap=cmap)
    label_axis(middle.xaxis, range(8), 2.0)
    draw_lines(right, [1, 2, 3], curves, **look)
    right.set(ylabel="loss (nats)", ylim=(0, 4))
    figure.legend(loc="outside lower center")
    return figure


def shown(figure):
    """What a notebook stores of a figure."""
    data, _ = figure._repr_mimebundle_()
    return {"data": data | {PICTURE: base64.b64encode(data[PICTURE]).decode()}}


@pytest.fixture(scope="module")
def stored():
    return shown(draw())


def swapped(values, first, second):
    order = list(range(len(values)))
    order[first], order[second] = second, first
    return values[order]


WRONG = {  # how, and what is said of it
    "one bar 5 % higher": (dict(bars=[0.2, 0.525, 0.9, 0.04]), "0 bar #1f77b4 y: 0.525 where 0.5 was"),
    "the smallest bar 5 % higher": (dict(bars=[0.2, 0.5, 0.9, 0.042]), "0 bar #1f77b4 y: 0.042 where 0.04 was"),
    "a bar missing": (dict(bars=HEIGHTS[:3], labels="abc"), "0 bar #1f77b4 x: 6 where 8 was"),
    "another title": (dict(title="Half are low"), "title: 'Half are low' where 'Half are high' was"),
    "two rows of the heat map swapped": (dict(shades=swapped(SHADES, 1, 2)), "1 shades: "),
    "another colour map": (dict(cmap="Greens"), "1 colours: 'Greens' where 'Blues' was"),
    "a line missing": (dict(curves={"with it": [3.0, 2.0, 1.0]}), "2 line “without” --s #4292c6 x is missing"),
    "a line under another name": (dict(curves=dict(zip(["with it", "none"], CURVES.values(), strict=True))),
                                  "2 line “none” --s #4292c6 x is new"),
    "two labels swapped": (dict(labels="abdc"), "0 texts: 'a | b | d | c' where 'a | b | c | d' was"),
    "a label missing": (dict(labels=["a", "b", "c", ""]), "0 texts: 'a | b | c | ' where"),
    "lines in another colour": (dict(color="#4292c6"), "2 line “with it” -o #4292c6 x is new"),
    "lines without markers": (dict(marker=None), "2 line “with it” - #08306b x is new"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_figure_is_told_by_what_it_draws(stored, change, said):
    assert said in differences(shown(draw(**change)), stored)[FIGURE]


@pytest.mark.parametrize("name", ["another title", "another colour map", "a line missing", "a label missing"])
def test_a_wrong_picture_is_told_though_what_it_draws_is_right(stored, name):
    wrong = shown(draw(**WRONG[name][0]))
    wrong["data"][FIGURE] = stored["data"][FIGURE]
    assert differences(wrong, stored).keys() == {PICTURE}


def test_the_same_figure_with_noise_of_the_size_of_rounding_passes(stored):
    noise = iter(1 + 1e-6 * np.random.RandomState(1).uniform(-1, 1, 100))
    curves = {name: [value * next(noise) for value in values] for name, values in CURVES.items()}
    shades = SHADES * (1 + 1e-6 * torch.randn(SHADES.shape, generator=torch.Generator().manual_seed(1)))
    fresh = shown(draw(bars=[height * next(noise) for height in HEIGHTS], curves=curves, shades=shades))
    assert fresh["data"][FIGURE]["numbers"] != stored["data"][FIGURE]["numbers"]
    assert differences(fresh, stored) == {}


def test_a_percent_in_a_cell_may_be_rounded_to_the_next():
    shades = torch.tensor([[0.31499, 0.7]])
    assert differences(shown(draw(shades=shades)), shown(draw(shades=shades + 2e-5))) == {}


def test_a_picture_may_move_by_a_pixel_where_the_figure_says_what_it_draws_and_nowhere_else(stored):
    image = Image.open(io.BytesIO(base64.b64decode(stored["data"][PICTURE]))).convert("RGB")
    file = io.BytesIO()
    ImageChops.offset(image, 1, 1).save(file, "png")
    moved = {PICTURE: base64.b64encode(file.getvalue()).decode()}
    assert differences({"data": stored["data"] | moved}, stored) == {}
    assert differences({"data": moved}, {"data": {PICTURE: stored["data"][PICTURE]}}).keys() == {PICTURE}


# ---- figures of rounding errors ---------------------------------------------------------------------


@styled
def noisy(errors, reach):
    figure = new_figure("Errors of rounding, in two ways of adding up", 6.0, 3.0)
    ax = figure.subplots()
    draw_lines(ax, range(4), {"fp32": errors}, gid=reach)
    logarithmic(ax.yaxis)
    ax.set(ylim=(1e-8, 1))
    return shown(figure)


@pytest.mark.parametrize(
    ("errors", "passes"),
    [([3e-7, 2e-7, 8e-7, 2e-7], True), ([1e-7, 2e-7, 3e-5, 4e-7], False), ([1e-7, 2e-7, 3e-7, 0.1], False)],
)
def test_errors_of_rounding_are_compared_by_their_magnitude_where_the_figure_says_so(errors, passes):
    found = differences(noisy(errors, within(1.0)), noisy([1e-7, 2e-7, 3e-7, 4e-7], within(1.0)))
    assert (found == {}) == passes
    assert differences(noisy(errors, None), noisy([1e-7, 2e-7, 3e-7, 4e-7], None)) != {}


# ---- many numbers in short ---------------------------------------------------------------------------

MANY = np.random.RandomState(2).uniform(0, 1, (22, 70))


def in_short_differ(new, old=MANY):
    return arrays_differ(digest(new), digest(old), "")


def test_any_number_of_many_that_changes_by_a_twentieth_of_the_scale_is_told():
    for row, column in np.ndindex(MANY.shape):
        changed = MANY.copy()
        changed[row, column] += 0.05
        assert in_short_differ(changed), (row, column)


def test_any_two_rows_that_change_places_are_told():
    for pair in combinations(range(len(MANY)), 2):
        assert in_short_differ(swapped(MANY, *pair)), pair


def test_many_numbers_with_noise_of_the_size_of_rounding_pass():
    for seed in range(20):
        assert not in_short_differ(MANY * (1 + 1e-6 * np.random.RandomState(seed).standard_normal(MANY.shape)))


def test_a_notebook_and_its_comparison_mean_the_same_entry():
    assert FIGURE == MIME


# ---- printed numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("loss 0.24 nats", "loss 0.25 nats"),
        ("33% of them", "34% of them"),
        ("3.75e+03 without", "3.76e+03 without"),
        ("largest 12345.678", "largest 12345.999"),  # within a ten-thousandth
        ("error 3.6e-07", "error 1.2e-06"),  # rounding errors: of one magnitude
        ("error 0.0e+00", "error 2.4e-07"),
        ("x   9.99 |  y", "x  10.00 |  y"),
        ("[-0.00, 1.50]", "[0.00, 1.50]"),
    ],
)
def test_a_last_digit_may_be_another(new, old):
    assert texts_differ(new, old) == ""
    assert texts_differ(old, new) == ""


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("loss 0.23 nats", "loss 0.25 nats"),
        ("loss 0.25 nats", "loss 0.25 bits"),
        ("loss 0.25 nats", "loss 0.25"),
        ("loss 0.25", "loss 0.25 0.25"),
        ("loss 0.2", "loss none"),
        ("loss 0.25", "loss -0.25"),
        ("8 experts", "9 experts"),
        ("1,024 tokens", "1,025 tokens"),
        ("L1H2", "L1H3"),
        ("33% of them", "33 of them"),
        ("33% of them", "35% of them"),
        ("error 3.6e-07", "error 3.6e-08"),
        ("error 3.6e-07", "error 3.6e-03"),
        ("x  0.25", "x 0.25"),
        ("Qwen3-0.6B", "Qwen3-0.7B"),
        ("version 3.11.2", "version 3.11.3"),
    ],
)
def test_a_word_a_whole_number_and_more_than_a_last_digit_may_not(new, old):
    assert texts_differ(new, old)
    assert texts_differ(old, new)
