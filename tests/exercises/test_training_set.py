"""What ps7 compares answers with is what PyTorch computes, where PyTorch has it."""

import re

import pytest
import torch
from grading import source
from helpers import unchecked
from torch.nn import functional as F

from qwen3_scratch import load_balancing_loss, rms_norm
from qwen3_scratch.exercises import exercises
from qwen3_scratch.exercises.ps3.expert_counts import balance_by_layer

ALL = exercises()


@pytest.fixture(autouse=True)
def as_students_run_it():
    with unchecked():
        yield


def cases(name):
    return [given for stage in ALL[name].stages if not stage.gradients for given in stage.cases(5)]


def test_the_gradient_by_hand_is_autograds():
    for given in cases("rms_norm_backward"):
        x, weight, eps, slope = given.args
        with torch.enable_grad():
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            expected = torch.autograd.grad(rms_norm(*leaves, eps), leaves, slope)
        found = ALL["rms_norm_backward"].reference(x, weight, eps, slope)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected[0].abs().max()))


def test_the_step_of_adamw_is_torchs():
    for given in cases("adamw_step"):
        weight, gradient, m, v, step = given.args[:5]
        leaf, state = weight.clone(), {"step": torch.tensor(step - 1.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        leaf.grad = gradient.clone()
        numbers = dict(zip(("rate", "betas", "eps", "decay"), given.args[5:], strict=False)) | given.kwargs
        optimizer = torch.optim.AdamW(
            [leaf], lr=numbers["rate"], betas=numbers["betas"], eps=numbers["eps"], weight_decay=numbers["decay"]
        )
        optimizer.state[leaf] = state
        optimizer.step()
        found = ALL["adamw_step"].reference(*given.args, **given.kwargs)
        expected = leaf, optimizer.state[leaf]["exp_avg"], optimizer.state[leaf]["exp_avg_sq"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_clipped_is_as_torch_clips_it():
    for given in cases("clip_gradients"):
        gradients, most = given.args
        if gradients[0].dtype == torch.half:
            continue
        leaves = [torch.zeros_like(gradient) for gradient in gradients]
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient.clone()
        length = torch.nn.utils.clip_grad_norm_(leaves, most)
        found = ALL["clip_gradients"].reference(gradients, most)
        torch.testing.assert_close(found[1], length.item(), rtol=1e-5, atol=0)
        # torch adds 1e-6 to the length that it divides by
        torch.testing.assert_close(found[0], [leaf.grad for leaf in leaves], rtol=1e-3, atol=1e-6)


def test_the_weighted_loss_of_equal_counts_is_torchs_cross_entropy():
    logits, targets = torch.randn(9, 7), torch.randint(7, (9,))
    found = ALL["weighted_cross_entropy"].reference(logits, targets, torch.full((9,), 0.3))
    torch.testing.assert_close(found, F.cross_entropy(logits, targets))


def test_one_layer_by_itself_is_balanced_as_it_is_among_others():
    logits = [torch.randn(12, 5) for _ in range(3)]
    found = balance_by_layer(logits, 5, 2)
    torch.testing.assert_close(found[1], load_balancing_loss(logits[1:2], 5, 2))


def test_the_texts_of_a_batch_are_balanced_as_the_packages_loss_balances_each_alone():
    for given in cases("balance_by_text"):
        logits, chat, top_k = given.args
        each = [
            load_balancing_loss([logits.view(*chat.shape, -1)[row][numbers == number]], logits.shape[-1], top_k)
            for row, numbers in enumerate(chat)
            for number in numbers[numbers >= 0].unique()
        ]
        torch.testing.assert_close(ALL["balance_by_text"].reference(*given.args), torch.stack(each).mean())


def test_the_rate_climbs_to_its_peak_stays_below_it_and_ends_at_the_floor():
    rates = [ALL["learning_rate"].reference(step, 60, 0.5, 12, 0.05) for step in range(60)]
    assert rates[:12] == sorted(rates[:12]) and rates[12:] == sorted(rates[12:], reverse=True)
    assert max(rates) == rates[11] == rates[12] == 0.5 and rates[-1] == pytest.approx(0.05)


def shown(name, *needed):
    """What a function of the cells under "See it" returns, with the references as a student's own."""
    cells = [cell.source for cell in source("ps7_training").cells if "see(" in cell.source and "def " in cell.source]
    space = {"torch": torch, "F": F, **{each: ALL[each].reference for each in needed}}
    (cell,) = [cell for cell in cells if f"def {name}()" in cell]
    exec(cell.partition("\n\n\nsee(")[0], space)
    with torch.no_grad():  # as `see` calls it
        return space[name]()


def test_limits_do_to_both_runs_what_the_answer_under_see_it_says():
    figure = shown("learn", "clip_gradients", "learning_rate", "training_step")
    alike, odd = ([torch.tensor(line.get_ydata()) for line in ax.lines] for ax in figure.axes)
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes]
    acted = [[int(re.search(r"acted in (\d+) steps", text)[1]) for text in texts[1:]] for texts in legends]
    assert acted[0][0] < 10 and acted[1][0] == acted[0][0] + 1  # a limit of 1: some steps, and the odd one
    assert all(30 <= count <= 50 for counts in acted for count in counts[1:2])
    assert (alike[0] - alike[1]).abs().max() < 0.02  # of 1.5 nats at first
    assert odd[0][-1] > 3 * odd[1][-1] and (odd[1][-1] - alike[1][-1]).abs() < 0.05
    assert odd[0][31:60].max() > odd[0][30] + 0.05  # the kick
    assert odd[0][100] - odd[0][-1] < 0.1 * odd[0][100] and alike[0][-1] < 0.7 * alike[0][100]  # the crawl
    assert acted[0][2] == 20 and alike[3][-1] < 1.25 * alike[2][-1]  # in the first 20 steps alone nearly as much
    assert alike[2][-1] < 0.5 * alike[0][-1] and (alike[2] - odd[2]).abs().max() < 0.01


def test_a_mean_of_means_learns_how_a_batch_was_cut_as_the_answer_under_see_it_says(capsys):
    shown("cut", "gradients_in_parts")
    assert re.findall(r"class 2 gets (\d+)%", capsys.readouterr().out) == ["6", "47"]


def test_texts_by_themselves_are_used_less_evenly_than_all_together_and_than_by_chance_as_see_it_says(capsys):
    shown("even", "balance_by_text")
    tokens, _, *rows = capsys.readouterr().out.splitlines()
    assert tokens == "18 tokens a question" and len(rows) == 4
    for _, together, chance, apart in (map(float, row.split()) for row in rows):
        assert 2 < together < chance < chance + 0.3 < apart


def test_the_examples_of_the_gradient_by_hand_are_right_and_pass_both_of_its_tests():
    x, weight, backward = torch.tensor([1.0, 7.0]), torch.ones(2), ALL["rms_norm_backward"].reference
    assert backward(torch.tensor([4.0]), torch.ones(1), 0, torch.ones(1))[0] == 0  # one number
    held_fast, through_root = torch.tensor([0.2, 0.0]), torch.tensor([-0.004, -0.028])
    one = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(backward(x, weight, 0, one), (held_fast + through_root, held_fast))
    torch.testing.assert_close(through_root, -1 / 25 * torch.tensor([0.1, 0.7]))
    torch.testing.assert_close(backward(x, weight, 0, torch.ones(2))[0], torch.tensor([0.168, -0.024]))
    for slope in (one, torch.ones(2)):
        by_x = backward(x, weight, 0, slope)[0]
        assert abs((by_x * x).sum()) < 1e-6
        for place in range(2):
            moved = x + 0.001 * F.one_hot(torch.tensor(place), 2)
            change = ((rms_norm(moved, weight, 0.0) - rms_norm(x, weight, 0.0)) * slope).sum()
            assert change == pytest.approx(0.001 * float(by_x[place]), rel=0.02)


def test_the_examples_of_clipping_a_batch_in_parts_adamw_and_the_whole_step_are_right():
    def answer(name, *given):
        return ALL[name].reference(*given)

    gradients, one = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])], torch.tensor([1.0])
    shorter = [torch.tensor([1.2]), torch.tensor([0.0, 1.6])]
    torch.testing.assert_close(answer("clip_gradients", gradients, 2), (shorter, 5.0))
    torch.testing.assert_close(answer("clip_gradients", gradients, 6), (gradients, 5.0))
    rates = [round(answer("learning_rate", step, 10, 1.0, 4, 0.0), 2) for step in range(10)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 0.9, 0.65, 0.35, 0.1, 0]
    chances = torch.tensor([[1 / 2, 1 / 2], [1 / 8, 7 / 8]]).log()
    loss = answer("weighted_cross_entropy", chances, torch.tensor([0, 0]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(loss, 2.5 * torch.tensor(2.0).log())
    parts = [(4.0, 8.0), (2.0, -4.0)]  # the loss and the slope of each
    found = answer("gradients_in_parts", lambda w, part: part[0] + part[1] * w[0], [torch.tensor(0.0)], parts, [1, 3])
    torch.testing.assert_close(found, (torch.tensor(2.5), [torch.tensor(-1.0)]))
    for decay, weight in ((0.0, 0.9), (0.2, 0.88)):
        found = answer("adamw_step", one, 5 * one, 0 * one, 0 * one, 1, 0.1, (0.9, 0.98), 0.0, decay)
        torch.testing.assert_close(found, (weight * one, 0.5 * one, 0.5 * one))
    for two, weight in ((2 * one, 1.9), (2 * one[None], 1.89)):
        averages = [(torch.zeros_like(two),) * 2]
        found = answer("training_step", lambda w: 5 * w[0].sum(), [two], averages, 1, 0.1, 1.0)
        like = torch.ones_like(two)
        torch.testing.assert_close(found, (torch.tensor(10.0), [weight * like], [(0.1 * like, 0.02 * like)]))


def test_the_example_of_even_use_by_text_is_right():
    logits = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]).log()
    balance = ALL["balance_by_text"].reference
    torch.testing.assert_close(balance(logits, torch.tensor([[0, 0, 1, 1]]), 1), torch.tensor(1.5))
    torch.testing.assert_close(balance(logits, torch.zeros(1, 4, dtype=torch.long), 1), torch.tensor(1.0))
