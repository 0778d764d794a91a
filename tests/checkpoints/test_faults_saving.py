"""A save that is cut short, by whatever: the folder holds all of the old checkpoint or all of the new one."""

import os
import random
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import checkpoint, finished, largest_file, tokenizer

from qwen3_scratch import Checkpoint, Error, Tokenizer, load_checkpoint, save_checkpoint
from qwen3_scratch.checkpoints import checkpoint as checkpoint_module
from qwen3_scratch.checkpoints import saving
from qwen3_scratch.checkpoints.saving import save_weights, write_json
from qwen3_scratch.checkpoints.weights import tensor_tree

SHARDED = pytest.mark.parametrize("size", [10**9, 100_000], ids=["one file", "shards"])


def pair() -> tuple[Checkpoint, Checkpoint]:
    """Two of the same shapes that differ in every file, so that a mixture would load."""
    old = checkpoint(1, {"top_k": 11}, norm_topk_prob=True, vocab_size=2100)
    new = checkpoint(2, {"top_k": 22}, norm_topk_prob=False, vocab_size=2100)
    old, new = (
        Checkpoint(one.config, one.weights, spoken(n), one.generation_config) for n, one in enumerate((old, new))
    )
    return old, new


def spoken(number: int) -> Tokenizer:
    return Tokenizer(tokenizer().backend, f"{{{{ messages[0].content }}}} in the words of {number}")


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        (one.config.norm_topk_prob, one.generation_config) == (other.config.norm_topk_prob, other.generation_config)
        and one.tokenizer.chat_template == other.tokenizer.chat_template
        and all(map(torch.equal, tensor_tree(one.weights), tensor_tree(other.weights)))
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Forcing bytes to the disk is waited for; only a power cut would tell the difference."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def cut(monkeypatch):
    """Has `save_checkpoint` cut its weights into shards of so many bytes."""
    cutting = partial(saving.write_weights)

    def into(size: int) -> None:
        monkeypatch.setattr(checkpoint_module, "write_weights", partial(cutting, max_shard_size=size))

    return into


# ---- interrupted --------------------------------------------------------------------------------


@SHARDED
@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_whichever_rename_fails_the_old_checkpoint_is_there_to_the_byte(tmp_path, monkeypatch, cut, failure, size):
    (old, new), rename, count = pair(), os.replace, 0
    cut(size)
    save_checkpoint(old, tmp_path)
    before = contents(tmp_path)
    while True:
        calls = 0

        def failing(source, target, at=count):
            nonlocal calls
            calls += 1
            if calls - 1 == at:
                raise failure
            rename(source, target)

        monkeypatch.setattr(os, "replace", failing)
        try:
            save_checkpoint(new, tmp_path)
        except (Error, KeyboardInterrupt) as found:
            assert isinstance(found, KeyboardInterrupt) or "(Input/output error)" in str(found)
            assert contents(tmp_path) == before, f"after rename {count} failed"
            assert not list(tmp_path.glob("*.partial"))
            count += 1
            continue
        break
    assert count > 12 and same(load_checkpoint(tmp_path), new)
    assert not list(tmp_path.glob("*.partial"))


REFUSED = (
    "{folder}: has no config.json but old.partial, where a save moved the files of before when it was cut off, "
    "expected a whole checkpoint: save it again"
)
KILLED = """
import os, shutil, signal, sys
from functools import partial
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/checkpoints"]
import torch
from test_faults_saving import REFUSED, checkpoint_module, contents, pair, saving
from qwen3_scratch import Error, load_checkpoint, save_checkpoint

old, new = pair()
left = None

def count(event, _):
    global left
    if left is not None and event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

os.fsync = lambda _: None
sys.addaudithook(count)
for size in (10**9, 100_000):
    folder = Path(sys.argv[1], str(size))
    checkpoint_module.write_weights = partial(saving.write_weights, max_shard_size=size)
    for checkpoint, name in ((old, "old"), (new, "new")):
        save_checkpoint(checkpoint, folder / name)
    before, after = contents(folder / "old"), contents(folder / "new")
    ended, seen = 1, []
    while ended:
        at = folder / str(len(seen))
        shutil.copytree(folder / "old", at)
        if not (child := os.fork()):
            left = len(seen)
            try:
                save_checkpoint(new, at)
            finally:
                os._exit(0)
        ended = os.waitpid(child, 0)[1]
        found = {name: content for name, content in contents(at).items() if ".partial/" not in name}
        if found in (before, after):
            seen.append("old" if found == before else "new")
        else:
            try:
                load_checkpoint(at)
                seen.append("mixture")
            except Error as error:
                seen.append("refused" if str(error) == REFUSED.format(folder=at) else str(error).replace(" ", "_"))
        if seen[-1] != seen[-2:][0] or len(seen) % 10 == 0:
            save_checkpoint(new, at)
            assert contents(at) == after
        shutil.rmtree(at)
    print(*seen)
"""


def test_wherever_a_save_is_killed_the_folder_is_old_or_new_or_refused_and_the_next_save_mends_it(tmp_path):
    """Killed before each single thing that it does to a file or folder, as one file of weights and as shards."""
    found = finished("-c", KILLED, str(tmp_path), env={"JAXTYPING_DISABLE": "1"})
    assert found.code == 0, found.err
    for line in found.out.splitlines():
        seen = line.split()
        assert set(seen) == {"old", "refused", "new"} and len(seen) > 40, seen
        assert seen == sorted(seen, key=["old", "refused", "new"].index), "old at first, then refused, then new"
    assert len(found.out.splitlines()) == 2


def test_weights_alone_are_replaced_together(tmp_path, monkeypatch):
    old, new = pair()
    save_checkpoint(old, tmp_path)
    rename, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if Path(source).parent.name == "new.partial" and Path(target).parent == tmp_path and len(calls) > 8:
            raise OSError(28, "No space left on device")
        rename(source, target)

    before = contents(tmp_path)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(Error, match=r": cannot be written \(No space left on device\), with "):
        save_weights(tmp_path, new.weights, new.config, max_shard_size=100_000)
    assert contents(tmp_path) == before


def test_every_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, cut):
    """So after a power cut no name stands for an empty file."""
    forced, named, rename = set(), [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: forced.add(os.fstat(number).st_ino))

    def watched(source, target):
        if Path(source).suffix == ".partial":
            assert Path(source).stat().st_ino in forced, source
            named.append(Path(target).name)
        rename(source, target)

    monkeypatch.setattr(os, "replace", watched)
    cut(100_000)
    save_checkpoint(pair()[0], tmp_path)
    assert sorted(named) == sorted(contents(tmp_path))


# ---- no room ------------------------------------------------------------------------------------


@SHARDED
@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_takes_no_more_leaves_the_old_checkpoint_and_says_which_file(tmp_path, cut, size, seed):
    old, new = pair()
    cut(size)
    save_checkpoint(old, tmp_path)
    before = contents(tmp_path)
    most = min(size, max(map(len, before.values())))
    limit = random.Random(seed).randrange(most - 1000) if seed else 0
    with largest_file(limit), pytest.raises(Error) as caught:
        save_checkpoint(new, tmp_path)
    message = str(caught.value)
    assert (
        message.startswith(f"{tmp_path}/new.partial/model") and "(os error 27)" in message and " free there" in message
    )
    assert contents(tmp_path) == before and not list(tmp_path.glob("*.partial"))
    save_checkpoint(new, tmp_path)
    assert same(load_checkpoint(tmp_path), new)


def test_a_text_file_that_finds_the_disk_full_stays_as_it_was(tmp_path):
    write_json(path := tmp_path / "a.json", {"old": 1})
    (tmp_path / "a.json.partial").symlink_to("/dev/full")
    with pytest.raises(Error, match=r"a\.json: cannot be written \(No space left on device\), with .* free there, exp"):
        write_json(path, {"new": 2})
    assert contents(tmp_path) == {"a.json": b'{\n  "old": 1\n}\n'}


def test_a_disk_with_too_little_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    old, new = pair()
    save_checkpoint(old, tmp_path)
    needed, before = sum(tensor.nbytes for tensor in tensor_tree(new.weights)), contents(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, needed - 1))
    monkeypatch.setattr(saving, "save_file", lambda *_, **__: pytest.fail("something was written"))
    text = saving.size_text(needed)
    with pytest.raises(
        Error, match=f"{tmp_path}: {text} are to be written, found .* free, expected room beside the old"
    ):
        save_checkpoint(new, tmp_path)
    assert contents(tmp_path) == before and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, below):
    (path := tmp_path / "file").write_text("mine")
    with pytest.raises(
        Error, match=r"file.*: cannot be written \((Not a directory|File exists)\), .*: make room or save"
    ):
        save_checkpoint(checkpoint(), path / below)
    assert contents(tmp_path) == {"file": b"mine"}


# ---- the old one is gone, and nothing else ------------------------------------------------------


def test_a_save_over_another_checkpoint_leaves_none_of_its_files_and_all_others(tmp_path, cut):
    old, new = pair()
    cut(100_000)
    save_checkpoint(old, tmp_path)
    assert {"chat_template.jinja", "generation_config.json", saving.INDEX} < contents(tmp_path).keys()
    (tmp_path / "README.md").write_text("kept")
    (tmp_path / "runs").mkdir()
    cut(10**9)
    bare = Checkpoint(new.config, new.weights)
    save_checkpoint(bare, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", saving.SINGLE, "runs"]
    assert load_checkpoint(tmp_path).tokenizer is None


@SHARDED
def test_a_checkpoint_saved_over_the_folder_that_it_came_from_is_whole(tmp_path, cut, size):
    _, new = pair()
    cut(size)
    save_checkpoint(new, tmp_path)
    before = contents(tmp_path)
    save_checkpoint(load_checkpoint(tmp_path), tmp_path)
    assert contents(tmp_path) == before and same(load_checkpoint(tmp_path), new)
