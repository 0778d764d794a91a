"""A function that a chapter asks for, and no set has, is compared with what is expected, in words."""

import pytest
import torch

from qwen3_scratch.exercises import Wrong, compare


def my_double(x):
    return 2 * x


def my_empty(x):
    raise NotImplementedError


X = torch.arange(3.0)


def test_a_right_answer_is_said_to_be_right_up_to_rounding(capsys):
    assert compare(my_double, 2 * X + 1e-6, X)
    assert capsys.readouterr().out == "my_double: right\n"


def test_an_empty_answer_stops_nothing(capsys):
    assert not compare(my_empty, X, X)
    assert capsys.readouterr().out == "my_empty: not written yet: replace `raise NotImplementedError` by your code\n"


def test_a_wrong_answer_says_in_what_it_differs():
    with pytest.raises(Wrong, match=r"^my_double: 2 of 3 numbers differ.*all are 2 times what is expected"):
        compare(my_double, X, X)


def test_a_notebook_shows_nothing_of_what_it_gives():
    assert compare(my_double, 2 * X, X)._ipython_display_() is None
