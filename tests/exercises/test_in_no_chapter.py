"""What exercises that no chapter asks for compare with is what they promise: positions, masks, whole batches."""

import re
from dataclasses import replace

import pytest
import torch
from grading import source
from helpers import unchecked
from reference import assert_near
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from qwen3_scratch import load_checkpoint, model
from qwen3_scratch.exercises import exercises
from qwen3_scratch.exercises.material import randn, text_ids, tiny
from qwen3_scratch.exercises.ps1.clocks import position_of, turned_to
from qwen3_scratch.exercises.ps1.positions import inverse_frequencies, keys_at_distance
from qwen3_scratch.exercises.ps2.attention_scores import causal
from qwen3_scratch.exercises.ps2.keys_in_parts import attend_more
from qwen3_scratch.exercises.ps2.looking_again import ONE_DRAW, attending, influence, leaking, window_of
from qwen3_scratch.exercises.ps4.cached_steps import cached_step, nothing_held
from qwen3_scratch.exercises.ps4.forgetting import FULL, SLIDING, forgetting_step
from qwen3_scratch.exercises.ps4.prompts_alike import reuse
from qwen3_scratch.exercises.ps7.batch_parts import gradients_in_parts, mean_surprise

ALL, PS1 = exercises(), "ps1_norm_and_rope"


@pytest.fixture(autouse=True)
def as_students_run_it():
    with unchecked(), torch.no_grad():
        yield


def cases(name, seeds=(0, 1)):
    return [given for stage in ALL[name].stages if not stage.gradients for seed in seeds for given in stage.cases(seed)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_position_is_read_off_a_vector_though_every_hand_alone_is_vague_or_has_come_round(dtype):
    g = torch.Generator().manual_seed(3)
    x, positions, speeds = randn(g, 200, 32), torch.randint(0, 800, (200,), generator=g), inverse_frequencies(32, 1e4)
    y = turned_to(x, positions, speeds).to(dtype)
    assert torch.equal(position_of(x, y, speeds, 800), positions)


def test_no_other_position_fits_nearly_as_well_in_any_case_of_the_clock():
    for given in cases("position_of"):
        x, y, frequencies, longest = given.args
        if longest == 1:
            continue
        (a, b), (c, e) = (part.double().chunk(2, -1) for part in (x, y))
        angles = torch.arange(longest)[:, None].double() * frequencies
        fit = (a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T
        best, second = fit.topk(2).values.T
        assert ((best - second) > 1e-4 * best).all(), given.note  # an angle in fp32 is right to 3e-5


def test_a_head_likes_its_key_best_so_many_tokens_back_and_a_key_of_this_length_nowhere_more():
    for given in cases("keys_at_distance"):
        q, distances, speeds = given.args
        k = keys_at_distance(q, distances, speeds)
        torch.testing.assert_close(k.norm(dim=-1), q.norm(dim=-1))
        far = int(distances.max()) + 2
        scores = (turned_to(q, torch.full_like(distances, far), speeds) * turned_to(k, far - distances, speeds)).sum(-1)
        torch.testing.assert_close(scores, q.pow(2).sum(-1), rtol=1e-3, atol=1e-3)  # the largest by Cauchy-Schwarz


def figure_under_see_it(name, function):
    """The figure that a function of a set's end draws, with the references as a student's own."""
    cells = [cell.source for cell in source(name).cells if cell.cell_type == "code"]
    at = next(n for n, cell in enumerate(cells) if f"def {function}()" in cell)
    space = {exercise: ALL[exercise].reference for exercise in ALL}
    exec(cells[0], space)
    for cell in cells[:at]:  # what it imports
        if "import see" in cell:
            exec(cell.partition("\n\n\n")[0], space)
    exec(cells[at].rpartition("\n\n\nsee(")[0], space)
    return space[function]()


def test_built_heads_look_sharply_where_fast_pairs_do_it_as_the_answer_under_see_it_says():
    found = [int(ax.get_title("left").split(": ")[1][:-1]) for ax in figure_under_see_it(PS1, "looking_back").axes]
    assert found[0] < 85 and max(found[1:3]) < 40 and min(found[3:5]) > 90 and found[5] > 70, found


def test_yarn_matches_better_in_31_of_32_means_as_the_answer_under_see_it_says():
    left, right = figure_under_see_it(PS1, "stretched").axes
    rope, yarn = (torch.tensor(line.get_ydata()) for line in right.lines)
    assert int((yarn > rope).sum()) == 31 and len(rope) == 32
    kept = torch.tensor(left.lines[1].get_ydata())
    assert (kept[:5] == 1).all() and (kept[5:11].diff() < 0).all() and torch.allclose(kept[11:], torch.tensor(1 / 8))
    assert kept[5] == pytest.approx(6 / 7 + 1 / 56)  # as the task says
    last = float(inverse_frequencies(32, 1e4)[-1]) * 8 * 2048 / torch.pi * 180
    assert (round(last), round(last / 8)) == (167, 21)


def test_the_clock_under_see_it_has_one_peak_above_all_others_as_its_answer_says():
    fast, slow, together = (torch.tensor(ax.lines[1].get_ydata()) for ax in figure_under_see_it(PS1, "clock").axes)
    tops = [int(((line[1:-1] > line[:-2]) & (line[1:-1] > line[2:])).sum()) for line in (fast, slow)]
    assert tops == [47, 1]  # 300 positions of 6.28 to a turn
    assert int(together.argmax()) == 137 and together.topk(2).values[1] < 0.95


def test_no_expert_works_in_one_kind_of_text_alone_as_the_answer_under_see_it_says():
    stories, python = (
        torch.as_tensor(ax.images[0].get_array())
        for ax in figure_under_see_it("ps3_router_and_experts", "who_works").axes
    )
    assert stories.min() > 0 and python.min() > 0
    assert (torch.stack((stories, python)).std(-1) > 0.01).all()  # no layer uses its experts evenly
    assert int(((stories > 2 * python) | (python > 2 * stories)).sum()) >= 3  # several work much less
    assert int((stories.argmax(-1) != python.argmax(-1)).sum()) == 3  # of 4 layers


def printed_under_see_it(name, function, capsys):
    capsys.readouterr()
    assert figure_under_see_it(name, function) is None
    return capsys.readouterr().out


def test_one_token_reads_what_is_counted_for_it_and_16_twice_as_much_as_the_answer_under_see_it_says(capsys):
    said = printed_under_see_it("ps3_router_and_experts", "batches", capsys)
    found = re.findall(r"(?:one token|numbers read): +([\d,]+)", said)
    counted, *rows = [int(number.replace(",", "")) for number in found]
    assert rows[0] == counted and len(rows) == 5
    assert rows[3] == pytest.approx(2 * counted, rel=0.05) and rows[4] < 1.1 * rows[3]
    everything = sum(weight.numel() for weight in tree_leaves(tiny().weights) if weight is not None)
    assert rows[4] > 0.95 * everything


def test_a_chat_by_a_students_functions_thinks_answers_and_stops_as_the_answer_under_see_it_says(capsys):
    said = printed_under_see_it("ps5_sampling_and_chat", "chat", capsys)
    assert re.fullmatch(r"thinking: .*Leo white coat.*\nanswer: Leo has the coat\.\n", said, re.DOTALL)


def test_the_penalty_is_the_same_before_and_after_a_temperature_as_its_task_says():
    for logits, said, penalty in (given.args for given in cases("repetition_penalty")):
        of = ALL["repetition_penalty"].reference
        torch.testing.assert_close(of(logits / 0.7, said, penalty), of(logits, said, penalty) / 0.7)


def test_top_p_keeps_more_at_a_higher_temperature_and_draws_stray_by_less_than_a_percent_as_the_answer_says():
    kept = []
    for ax in figure_under_see_it("ps5_sampling_and_chat", "draws").axes:
        kept.append(int(ax.get_title("left").split(": ")[1].split()[0]))
        after = torch.tensor([bar.get_width() for bar in ax.containers[1]])
        assert (torch.as_tensor(ax.lines[0].get_xdata()) - after).abs().max() < 0.01
    assert kept[0] < kept[1] < kept[2]


def test_a_batch_of_16_reads_ten_times_as_many_experts_as_one_token_where_8_of_128_are_drawn():
    g = torch.Generator().manual_seed(0)
    choices = [torch.rand(16, 128, generator=g).topk(8).indices for _ in range(200)]
    read = ALL["numbers_read"].reference({"model.layers.0.mlp.experts.up": (128 * 200,)}, choices, 128) / 200
    assert read == pytest.approx(82, abs=1)


@pytest.mark.parametrize("seen", [causal(8, 8), leaking(8, 3), window_of(3, 8)], ids=["causal", "a leak", "a window"])
def test_who_hears_whom_in_attention_is_its_mask(seen):
    g = torch.Generator().manual_seed(0)
    x = randn(g, 8, 6)
    assert torch.equal(influence(attending(g, x, seen), x), seen[0, 0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of PyTorch's: it has no batched form of this step
def test_two_ways_of_measuring_see_the_same_in_every_case_but_behind_a_threshold():
    """There nothing has a slope where all is cut off; all that is summed up is heard all the same."""
    for given in cases("influence"):
        step, x = given.args
        slopes = torch.func.jacrev(step)(x)
        found = torch.ones(len(x), len(x), dtype=torch.bool).tril() if given.note == ONE_DRAW else None
        expected = (slopes != 0).any(-1).any(1) if found is None else found
        assert torch.equal(expected, influence(step, x)), given.note


def test_heads_of_the_embedded_checkpoint_look_where_the_answer_under_see_it_says():
    figure = figure_under_see_it("ps2_attention", "heads")
    panels = {ax.get_title("left").split(":")[0]: ax for ax in figure.axes}
    for head, place in ((6, "itself"), (2, "the token before"), (5, "the first token")):
        assert panels[f"head {head}"].get_title("left").endswith(place)
    looks = {head: torch.as_tensor(panels[f"head {head}"].images[0].get_array()[-2]) for head in (6, 2, 5)}  # of ball
    at = {head: int(row.argmax()) for head, row in looks.items()}
    assert at == {6: 8, 2: 16, 5: 7} and round(100 * float(looks[6][8])) == 92  # She, Where, a full stop


def test_layers_with_a_window_of_3_hear_2_4_and_6_places_back_as_the_answer_under_see_it_says():
    tables = [torch.as_tensor(ax.images[0].get_array()) for ax in figure_under_see_it("ps2_attention", "reach").axes]
    for count, table in enumerate(tables, 1):
        ones = torch.ones(10, 10)
        assert torch.equal(table, ones.tril() * ones.triu(-2 * count))


def test_keys_that_come_in_parts_give_what_all_keys_give_at_once():
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 20, 8), torch.randn(2, 3, 20, 8)
    held = None
    for some_k, some_v in zip(k.split([3, 1, 9, 7], dim=2), v.split([3, 1, 9, 7], dim=2), strict=True):
        held = attend_more(q, some_k, some_v, held)
    torch.testing.assert_close(held.result, model.attention_weights(q, k) @ v)


def test_a_prompt_goes_on_from_what_is_reused_as_if_it_had_been_read_whole():
    weights, config, ids = tiny().weights, tiny().config, text_ids(0, 24)
    held = cached_step(weights, ids, config, nothing_held(config, 1))[1]
    for changed in (23, 10, 0):
        prompt = ids[0].tolist()
        prompt[changed] += 1
        rest, kept = reuse(ids[0].tolist(), held, prompt)
        assert len(rest) == 24 - changed
        found = cached_step(weights, torch.tensor([rest]), config, kept)[0]
        assert_near(found, model.forward(weights, torch.tensor([prompt]), config)[:, -1])


def test_the_examples_of_what_is_reused_and_of_what_a_step_sees_and_keeps_are_right():
    held = [(torch.arange(4.0).view(1, 1, 4, 1),) * 2]
    for prompt, left, count in (([5, 8, 4, 9], [4, 9], 2), ([5, 8], [8], 1)):
        rest, kept = reuse([5, 8, 2, 9], held, prompt)
        assert rest == left and all(part.flatten().tolist() == list(range(count)) for part in kept[0])
    rows = [
        model.attention_mask(torch.tensor([[2, 3]]), torch.arange(4)[None], window)[0, 0].int() for window in (None, 2)
    ]
    assert [row.tolist() for row in rows] == [[[1, 1, 1, 0], [1, 1, 1, 1]], [[0, 1, 1, 0], [0, 0, 1, 1]]]
    sees = model.attention_mask(torch.arange(5, 10)[None], torch.arange(10)[None], 3)[0, 0]  # of 5 to 9
    sees = [row.nonzero().flatten().tolist() for row in sees]
    assert sees == [[3, 4, 5], [4, 5, 6], [5, 6, 7], [6, 7, 8], [7, 8, 9]]


@pytest.mark.parametrize("window", [1, 4, 9])
def test_a_cache_that_forgets_gives_the_logits_of_the_whole_text_and_holds_what_the_next_token_sees(window):
    kinds = tuple((SLIDING, FULL)[number % 2] for number in range(tiny().config.num_hidden_layers))
    config = replace(tiny().config, layer_types=kinds, use_sliding_window=True, sliding_window=window)
    weights, ids, kept, before = tiny().weights, text_ids(0, 24), nothing_held(config, 1), 0
    for new in ids.split([7, 1, 5, 1, 10], dim=1):
        logits, kept = forgetting_step(weights, new, config, kept, before)
        before += new.shape[1]
        assert_near(logits, model.forward(weights, ids[:, :before], config)[:, -1])
        places = torch.arange(before + 1)[None]
        for number, (k, v) in enumerate(kept):
            seen = model.attention_mask(places[:, before:], places, config.window(number))[..., :before]
            assert k.shape[2] == v.shape[2] == int(seen.sum())


def counts_of(read, *given):
    with FlopCounterMode(display=False) as counter:
        read(*given)
    return counter.get_total_flops()


def shown(name, *needed):
    """What a function of the cells under "See it" returns, with the references as a student's own."""
    (cell,) = [cell.source for cell in source("ps4_forward_and_cache").cells if f"def {name}()" in cell.source]
    given = {"torch": torch, "load_checkpoint": load_checkpoint, **{each: ALL[each].reference for each in needed}}
    exec(cell.partition("\n\n\nsee(")[0], given)
    with torch.no_grad():  # as `see` calls it
        return given[name]()


def test_a_chat_under_see_it_parts_from_what_is_held_where_thinking_began_and_later_has_its_first_turn_held(capsys):
    shown("chat", "cached_step", "greedy", "reuse")
    said = capsys.readouterr().out
    numbers = [list(map(int, found)) for found in re.findall(r"(\d+) tokens held, (\d+) .* prompt of (\d+)", said)]
    (_, none, first), (held, serve, second), (_, more, third) = numbers
    assert none == 0 and serve == first < held and more == second < third
    assert said.count("    read: 'The capital of") == 2 and "Madrid.'" in said and "Rome.'" in said and "12'" in said


def test_a_story_is_predicted_well_and_its_words_in_random_order_worse_than_by_a_model_that_knows_nothing(capsys):
    shown("told_and_shuffled", "forward", "perplexity")
    rows = re.findall(r"(?:told|order) +([\d,.]+) +likeliest token (\d+)%", capsys.readouterr().out)
    (told, sure), (shuffled, surely) = [[float(number.replace(",", "")) for number in row] for row in rows]
    assert 2.5 < told < 3.5 and shuffled > 2 * 2048 and sure - 15 < surely < sure


def test_the_counter_under_see_it_counts_products_of_matrices_and_has_no_rule_for_attention():
    figure = shown("operations", "forward", "cached_step")
    lines = [torch.tensor(line.get_ydata()).double() for line in figure.axes[0].lines]
    again, looks, step, look = lines
    lengths = 2.0 ** torch.arange(4, 11)
    assert step.unique().numel() == 1 and ((again / step / lengths - 0.75).abs() < 0.06).all()
    assert look[4] < step[4] < 1.02 * look[5]  # it has caught up at 512
    assert looks[5] < again[5] and looks[6] > again[6]  # and that of reading again between 512 and 1024,
    assert (looks / again)[5] * 771 / 512 == pytest.approx(1, abs=0.002)  # at some 770
    q = torch.randn(1, 2, 3, 8)
    assert counts_of(torch.matmul, q, q.mT) == 2 * 2 * 3 * 3 * 8  # with no weights
    assert counts_of(model.gqa_attention, q, q, q, torch.ones(1, 1, 3, 3, dtype=torch.bool)) == 0


def test_parts_of_a_batch_give_the_loss_and_the_gradients_of_the_whole():
    for given in cases("gradients_in_parts"):
        loss, weights, parts, sizes = given.args
        if loss is not mean_surprise:
            continue
        whole = tuple(torch.cat(each) for each in zip(*parts, strict=True))
        gradients, value = torch.func.grad_and_value(loss)(weights, whole)
        torch.testing.assert_close(gradients_in_parts(loss, weights, parts, sizes), (value, gradients))
