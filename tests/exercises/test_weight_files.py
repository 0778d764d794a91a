"""What `read_tensors` of ps3 is tried on are files of the format: the library reads the same from them."""

import pytest
import torch
from safetensors.torch import load

from qwen3_scratch.exercises import exercises
from qwen3_scratch.exercises.ps3.weight_files import read_tensors

STAGES = exercises()["read_tensors"].stages


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.title)
def test_the_library_and_the_solution_read_the_same_tensors_from_each_file(stage, seed):
    for given in stage.cases(seed):
        (data,) = given.args
        found, expected = read_tensors(data), load(data)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), given.note
