import pytest


@pytest.fixture
def quiet_transformers():
    """The reference without its warnings and progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
