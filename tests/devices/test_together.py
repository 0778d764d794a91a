"""A function that several processes run from within one: what each gives comes back, and why one failed."""

import pytest

from qwen3_scratch import Error
from qwen3_scratch.devices.together import bytes_written, on_ranks, reason


def added(first):
    """Each rank's number, and the sum of all."""
    with ranks(2, 1, timeout=600):
        mine = torch.tensor([first + dist.get_rank()])
        total = mine.clone()
        dist.all_reduce(total)
    return mine, total.tolist()


def failing(rank):
    if os.environ["RANK"] == str(rank):
        raise KeyError("no such thing")


def test_what_each_rank_gives_comes_back_in_their_order():
    assert on_ranks(added, 2, 10) == [(10, [21]), (11, [21])]


def test_a_rank_that_fails_is_one_sentence_with_its_reason():
    with pytest.raises(Error, match=r"^failing on 2 ranks: KeyError: 'no such thing': mend the function$"):
        on_ranks(failing, 2, 1)


def test_who_takes_too_long_is_ended():
    with pytest.raises(Error, match=r"^failing on 1 ranks: not done after 0\.01 s, expected an end by then"):
        on_ranks(failing, 1, 5, timeout=0.01)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[rank1]: ValueError: one\ntorch.distributed.elastic.ChildFailedError: ", "ValueError: one"),
        ("Traceback\nqwen3_scratch.errors.Error: rank 0 of 2: gone", "qwen3_scratch.errors.Error: rank 0 of 2: gone"),
        ("", "failed without a word"),
    ],
)
def test_the_reason_is_the_line_that_names_an_error(written, expected):
    assert reason(written) == expected


def test_written_bytes_are_those_of_files_and_sockets(tmp_path):
    before = bytes_written()
    (tmp_path / "file").write_bytes(b"x" * 12345)
    assert bytes_written() - before in (0, 12345)  # 0 where the system does not count
