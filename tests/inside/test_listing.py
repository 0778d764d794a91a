"""What a listing leaves out when it shall be brief."""

from qwen3_scratch import model
from qwen3_scratch.inside.listing import source


def test_a_brief_listing_has_of_each_docstring_the_first_line_and_all_the_code():
    whole, brief = source(model.moe, model.feed_forward), source(model.moe, model.feed_forward, brief=True)
    first, rest = model.moe.__doc__.split("\n\n")
    assert first in brief and rest.strip() in whole and rest.strip() not in brief
    assert brief.replace(first, "") == whole.replace(first, "").replace("\n\n" + rest, "")
    assert brief.names == whole.names
