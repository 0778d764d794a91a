"""What the figures about look-ups say is what the numbers say."""

import torch

from qwen3_scratch import plots

HEADS = [(0, head) for head in range(4)]


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def about(means, n=5):
    """Values around each mean, as many for each."""
    return torch.tensor(means)[..., None] + torch.linspace(-0.01, 0.01, n)


def test_the_costliest_head_and_the_costliest_of_those_that_look_up_are_told_apart():
    zero = about([[0.0, 5.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    figure = plots.head_costs(zero, zero, [(1, 1), (1, 2)], 10.0)
    assert title(figure) == "Without L0H1 alone the margin goes from 10.0 nats to 5.0; a look-up head costs at most 2.0"


def test_a_group_is_ranked_among_all_of_its_size():
    groups = [((1, 0), (1, 1)), ((1, 0), (1, 2)), ((1, 1), (1, 2))]
    figure = plots.group_costs(about([9.0, 4.0, 3.0]), groups, groups[0])
    assert title(figure) == "L1H0 and L1H1 cost 9.0 nats, the most of 3 groups; next, with 1 of them: 4.0"
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["2 look-up heads", "1 look-up head"]
    assert "rank 2 of 3 groups" in title(plots.group_costs(about([3.0, 4.0, 1.0]), groups, groups[0]))


def test_a_patched_pass_takes_one_part_from_the_pass_without_a_head_and_two_from_its_own():
    figure = plots.lent_part((0, 2), 1)
    assert title(figure) == "If the look is lost, layer 1 hears L0H2 through its keys"
    (ax,) = figure.axes
    ends = [text.xy for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert sum(x == 6.6 for x, _ in ends) == 3 and len(ends) == 9
    queries = plots.lent_part((0, 3), 1, "queries")
    assert title(queries) == "If the look is lost, layer 1 hears L0H3 through its queries"


def test_each_part_of_the_input_is_named_with_the_head_that_it_misses():
    looks = {"the keys": about([0.8, 0.2, 0.8, 0.8]), "the queries": about([0.8, 0.8, 0.3, 0.8])}
    figure = plots.ways_in(looks, {**looks, "the values": about([0.0] * 4)}, HEADS, 0.8)
    said = "20% with L0H1 missing from the keys, 30% with L0H2 missing from the queries"
    assert title(figure) == f"Of 80% on the right word there stay {said}"


def test_how_often_heads_copy_is_said_of_those_that_look_up_and_of_all_others_apart():
    copied, looked = torch.tensor([[0.1] * 4, [1.0, 0.9, 0.6, 0.3]]), torch.tensor([[0.0] * 4, [0.9, 0.9, 0.1, 0.0]])
    figure = plots.copying_and_looking(copied, looked, 1, 48)
    said = "look-up heads in 90% to 100%, by the others of layer 1 in 30% to 60%, by all other heads in at most 10%"
    assert title(figure) == f"Raised most is the word looked at: by {said}"
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "chance: 1 of 48"
    assert "by the others" not in title(plots.copying_and_looking(copied, torch.ones(2, 4), 1, 48))


def test_the_steps_are_told_at_which_heads_and_stories_pass_one_half():
    look_ups = torch.zeros(4, 2, 2)
    look_ups[2:, 1, 0], look_ups[3, 1, 1] = 0.9, 0.8
    steps = torch.tensor([100, 200, 300, 400])
    figure = plots.heads_over_training(steps, look_ups, {200: 0.1, 400: 0.9}, 0.02)
    said = "2 look-up heads, the first by step 300, the last by step 400; when stories are next asked, at step 400, "
    assert title(figure) == said + "90% are right"
    label = figure.axes[0].get_xlabel()
    assert "scored every 100 steps" in label and "asked every 200" in label
    look_ups[2, 1, 1] = 0.8
    assert title(plots.heads_over_training(steps, look_ups, {}, 0.02)) == "2 look-up heads, all by step 300"
    look_ups[3, 1, 1] = 0.1
    assert title(plots.heads_over_training(steps, look_ups, {}, 0.02)) == "1 look-up head, by step 300"
    nothing = plots.heads_over_training(steps, look_ups / 9, {}, 0.02)
    assert title(nothing) == "No head looks words up at the end"
