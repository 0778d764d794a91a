"""What is asked of longer texts, the training on longer rows, and its record, which notebook A2 reads."""

import json

import pytest
import torch
from helpers import unchecked
from tiers import in_proof

from qwen3_scratch import Error, load_checkpoint
from qwen3_scratch.checkpoints.weights import tensor_tree
from qwen3_scratch.hub.find import embedded_folder
from qwen3_scratch.model import hidden_states, rope_table
from qwen3_scratch.tiny import longer_texts
from qwen3_scratch.tiny.evaluate import padded_chats
from qwen3_scratch.tiny.longer_texts import (
    LONG,
    LOOKS,
    PLAN,
    RECORD,
    SEEDS,
    SLOWED,
    WAYS,
    behind,
    by_kind,
    in_pieces,
    jump,
    long_batch,
    looks,
    make,
    read_longer,
    rope_of,
    settings_of,
    short_stories,
    trainable,
)


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def record():
    return read_longer(embedded_folder("tiny") / RECORD)


def test_an_answer_behind_a_gap_is_numbered_so_many_later_and_its_question_as_before(checkpoint):
    chats = padded_chats(checkpoint, short_stories(checkpoint, 3))
    order = torch.arange(chats.token_ids.shape[1]).expand(3, -1)
    moved = jump(chats, 8)(order) - order
    begins = chats.written.int().argmax(1)
    for row, begin in zip(moved.tolist(), begins.tolist(), strict=True):
        assert row == [0] * begin + [8] * (len(row) - begin)


def test_behind_other_chats_the_same_tokens_are_asked_for_and_all_before_them_are_read(checkpoint):
    chats = padded_chats(checkpoint, short_stories(checkpoint, 3))
    longer = behind(checkpoint, chats, 40)
    assert torch.equal(longer.token_ids[:, 40:], chats.token_ids)
    assert longer.keep[:, :40].all() and torch.equal(longer.keep[:, 40:], chats.keep)
    assert not longer.written[:, :40].any() and torch.equal(longer.written[:, 40:], chats.written)
    assert len({tuple(row) for row in longer.token_ids[:, :40].tolist()}) == 3


def test_in_pieces_each_piece_is_read_as_if_it_were_alone_and_the_chat_sees_all(checkpoint):
    weights, config, rope = checkpoint.weights, checkpoint.config, rope_of(checkpoint.config, "default")
    ids = torch.randint(100, 2000, (1, 12), generator=torch.Generator().manual_seed(0))

    def read(ids, count):
        embedded = weights.embed_tokens[ids]
        return hidden_states(weights, embedded, config, ids >= 0, ops=in_pieces(rope, count, 4))[0]

    with unchecked(), torch.no_grad():
        whole, second = read(ids, 8), read(ids[:, 4:8], 4)
        torch.testing.assert_close(whole[4:8], second)
        other = read(torch.cat((ids[:, :4].flip(1), ids[:, 4:]), 1), 8)
        torch.testing.assert_close(other[4:8], whole[4:8])
    assert (other[8:] - whole[8:]).abs().amax(-1).min() > 0.01
    numbered = rope_table(rope, torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]]))
    assert all(map(torch.equal, in_pieces(rope, 8, 4).table(config, torch.arange(12)[None]), numbered))


def test_a_row_of_the_training_is_one_text_whose_positions_go_on(checkpoint):
    batch = long_batch(checkpoint.tokenizer, 0, 0)
    assert batch.token_ids.shape == batch.positions.shape == (longer_texts.ROWS, LONG)
    assert set(batch.chat.unique().tolist()) <= {-1, 0}
    assert torch.equal(batch.positions[0], torch.arange(LONG))
    assert not torch.equal(batch.token_ids, long_batch(checkpoint.tokenizer, 0, 1).token_ids)


def test_what_is_trained_is_a_copy(checkpoint):
    before = [tensor.clone() for tensor in tensor_tree(checkpoint.weights)]
    for copied in tensor_tree(trainable(checkpoint.weights)):
        assert copied.requires_grad and copied.is_leaf
        copied.data.zero_()
    assert all(map(torch.equal, before, tensor_tree(checkpoint.weights)))


def test_the_record_holds_every_kind_of_rope_by_the_settings_of_the_script(record):
    assert record["settings"] == json.loads(json.dumps(settings_of(PLAN)))
    assert [(run["kind"], run["seed"]) for run in record["runs"]] == [(kind, seed) for seed in SEEDS for kind in SLOWED]
    for run in record["runs"]:
        assert [seen["step"] for seen in run["looks"]] == list(LOOKS)
    for way in WAYS:
        assert {kind: found.shape for kind, found in by_kind(record, way).items()} == dict.fromkeys(SLOWED, (6, 12))


@pytest.mark.parametrize(
    ("kind", "steps"), [("yarn", 0), *(in_proof(kind, steps) for kind in SLOWED for steps in LOOKS[1:2])]
)
def test_the_record_is_what_the_script_finds(kind, steps, checkpoint, record):
    """To the first look after some steps, over which rounding moves a loss by little."""
    with unchecked():
        for found in looks(checkpoint, kind, 0):
            if found["step"] == steps:
                break
    (kept,) = (seen for run in record["runs"] if run["kind"] == kind for seen in run["looks"] if seen["step"] == steps)
    for way in WAYS:
        assert found[way] == pytest.approx(kept[way], abs=0.001 if not steps else 0.1)


def test_a_script_that_was_stopped_goes_on_and_a_record_of_other_settings_is_refused(checkpoint, tmp_path, monkeypatch):
    asked = []

    def quick(checkpoint, kind, seed, plan):
        asked.append(kind)
        return iter([{"step": 60} | {way: [1.0] for way in WAYS}])

    monkeypatch.setattr(longer_texts, "looks", quick)
    path = tmp_path / "longer.json"
    make(path, checkpoint)
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"runs": kept["runs"][:2]}))
    make(path, checkpoint)
    assert asked == [*SLOWED, *list(SLOWED)[2:]] and json.loads(path.read_text()) == kept
    with pytest.raises(Error, match="is of other settings"):
        make(path, checkpoint, plan=PLAN._replace(steps=61))
