import pytest
from reference import random_weights
from safetensors.torch import load_file
from weight_files import CONFIG, SINGLE

from qwen3_scratch.checkpoints.saving import save_weights


@pytest.fixture
def quiet_transformers():
    """The reference without its warnings and progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def known():
    return random_weights(CONFIG)


@pytest.fixture(scope="module")
def tensors(known, tmp_path_factory):
    """The tensors of a checkpoint under the hub's names, as a file holds them."""
    folder = tmp_path_factory.mktemp("known")
    save_weights(folder, known, CONFIG)
    return load_file(folder / SINGLE)
