"""The sick models of ps6: what a trace says of them, and that nothing else does."""

import inspect
from dataclasses import replace

import pytest
import torch
from grading import source
from helpers import unchecked

from qwen3_scratch import Error, forward, trace
from qwen3_scratch.exercises.material import text_ids, tiny
from qwen3_scratch.exercises.ps6.find_the_bug import CHARTS, EXERCISES, FIELDS, _digest, patient
from qwen3_scratch.inside.compare import ONE_PASS, PADDED, Way, first_difference, read
from qwen3_scratch.inside.mistakes import MISTAKES
from qwen3_scratch.model import Ops

SHOWS = {  # number -> where, and in which setting, the traces part
    0: ("layer 0 / self_attention / rope: output", {}, ONE_PASS),
    1: ("layer 0 / self_attention / rms_norm: output", {}, ONE_PASS),
    2: ("layer 0 / feed_forward / moe / expert_ffn: output", {}, ONE_PASS),
    3: ("layer 0 / self_attention / gqa_attention: output", {}, ONE_PASS),
    4: ("rope_table: output", {}, ONE_PASS),
    5: ("layer 0 / feed_forward / moe_route: output", {"norm_topk_prob": False}, ONE_PASS),
    6: ("attention_mask: output", {}, PADDED),
    7: ("forward / embed: output", {}, ONE_PASS),
}


@pytest.fixture(autouse=True)
def as_students_run_it():
    with unchecked():
        yield


def shown(number: int) -> torch.Tensor:
    """A text in which a patient's mistake shows."""
    ids = text_ids(torch.randint(50, ()).item(), 24).clone()
    if number == 7:
        ids[:, 6] = 0
    return ids


def parted(sick, changes: dict, way: Way, ids: torch.Tensor):
    traces = []
    for model in (forward, sick.forward):
        with torch.no_grad(), trace(*sick.steps) as calls:
            read(model, tiny().weights, ids, replace(tiny().config, **changes), way)
        traces.append(calls)
    return first_difference(*traces, 1e-5)


@pytest.mark.parametrize("number", SHOWS)
def test_a_trace_names_the_guilty_function_of_a_patient(number):
    path, changes, way = SHOWS[number]
    found = parted(patient(number), changes, way, shown(number))
    assert str(found) == path
    for exercise in EXERCISES:
        if exercise.number == number:
            assert found.calls[0].name in exercise.guilty


@pytest.mark.parametrize("number", [5, 6, 7])
def test_the_last_patients_look_healthy_on_a_text_in_one_pass(number):
    assert parted(patient(number), {}, ONE_PASS, text_ids(1, 24)) is None


@pytest.mark.parametrize("number", SHOWS)
def test_only_the_guilty_functions_of_a_patient_differ_from_the_models(number):
    """All other steps are the reference's, so that mending the guilty ones heals."""
    right = {name: getattr(Ops(), field) for name, field in FIELDS.items()}
    path, changes, way = SHOWS[number]
    guilty = {"rope"} if number == 0 else next(each.guilty for each in EXERCISES if each.number == number)
    healed = patient(number).mended(**{name: right[name] for name in guilty})
    assert parted(healed, changes, way, shown(number)) is None
    for name in guilty if len(guilty) == 1 else ():
        others = {other: step for other, step in right.items() if other != name}
        assert str(parted(patient(number).mended(**others), changes, way, shown(number))) == path


def test_the_other_mistake_of_the_last_patient_shows_in_a_text_said_three_times():
    found = parted(patient(7), {}, ONE_PASS, text_ids(1, 40).repeat(1, 3))
    assert str(found).endswith("feed_forward / moe: output") and found.calls[0].name in EXERCISES[-1].guilty


@pytest.fixture(scope="module")
def examining():
    """What the set defines up to `places`, as a student has it."""
    cells = [cell.source for cell in source("ps6_find_the_bug").cells if cell.cell_type == "code"]
    space: dict = {}
    for cell in cells[:3]:
        exec(cell.partition("\n\n\nplaces(found)")[0], space)
    return space


def test_the_examination_of_the_set_finds_the_second_mistake_once_the_first_is_mended(examining, capsys):
    examine, ids = examining["examine"], examining["ids"].repeat(1, 3)
    ids[:, 7] = 0  # an exclamation mark

    def my_embed(token_ids, embed_tokens):
        return embed_tokens[token_ids]

    def my_norm(x, weight, eps):  # rounds otherwise
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight

    assert str(examine(7, ids=ids)) == "forward / embed: output"
    found = examine(7, ids=ids, mended={"embed": my_embed})
    assert str(found).endswith("feed_forward / moe: output")
    examining["places"](found)
    assert "dimension 1: 128 differ" in capsys.readouterr().out
    assert examine(1, mended={"rms_norm": my_norm}) is None
    examining["places"](None)
    assert capsys.readouterr().out == "no call differs: try another setting\n"


def test_four_of_the_patients_mistakes_are_not_in_the_museum_of_chapter_13():
    stand = {name for number in range(1, 8) for name in (_digest(each) for each in MISTAKES) if name in CHARTS[number]}
    assert len(stand) == sum(map(len, list(CHARTS.values())[1:])) - 4


def test_each_patient_of_the_exercises_has_one_mistake_and_the_last_has_two():
    assert [len(exercise.guilty) for exercise in EXERCISES] == [1, 1, 1, 1, 1, 1, 2]


def test_no_source_of_a_patients_function_can_be_read_and_all_bear_the_right_names():
    for number in SHOWS:
        for name, step in zip(FIELDS, patient(number).steps, strict=True):
            assert step.__name__ == step.__qualname__ == name
            with pytest.raises(OSError):
                inspect.getsource(step)


def test_a_number_and_a_name_that_there_is_not_is_one_sentence():
    with pytest.raises(Error, match="patient: found 8, expected 0 to 7: mend the number"):
        patient(8)
    with pytest.raises(
        Error, match=r"patient\(1\): no step is called 'norm', expected one of embed, .*: mend the name"
    ):
        patient(1).mended(norm=torch.relu)
