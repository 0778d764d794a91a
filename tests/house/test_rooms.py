"""The house: few rooms, a sign at each door, imports that only point downward, and a small module on its own."""

import ast
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, finished

import qwen3_scratch

HOUSE = ROOT / "qwen3_scratch"
FILES = sorted(path for path in HOUSE.rglob("*.py"))
# From the ground up: a room uses those before it, and none after it. `__init__` stands above all but the terminal.
FLOORS = (
    "errors", "config", "trust", "model", "hub", "cache", "sampling", "tokenizer", "text_stream", "checkpoints", "fast",
    "tracing", "request", "generation", "devices", "learning", "plots", "tiny", "inside", "exercises", "explorer",
    "__init__", "terminal", "__main__",
)  # fmt: skip
LONGEST = {HOUSE / "model.py": 450}  # lines; any other file has at most 350
FOLDERS = sorted(path.name for path in HOUSE.iterdir() if path.is_dir() and list(path.glob("*.py")))


def room_of(path: Path) -> str:
    """The folder, or the file, directly in the house that a path belongs to."""
    first = path.relative_to(HOUSE).parts[0]
    return first.removesuffix(".py")


def modules_of(path: Path) -> Iterator[str]:
    """The dotted names, below the package, of all that a file imports from it."""
    package = path.relative_to(HOUSE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = [*base, *(node.module or "").split(".")] if node.module else [*base]
            yield from (".".join([*module, name.name]) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == HOUSE.name:
            yield from (".".join([*node.module.split(".")[1:], name.name]) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.split(".")[0] == HOUSE.name)


def test_a_newcomer_sees_at_most_fourteen_files_and_twelve_folders():
    files = [path.name for path in HOUSE.iterdir() if path.is_file()]
    folders = [path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(files) <= 14 and len(folders) <= 12, (files, folders)


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_only_point_downward(path):
    own = room_of(path)
    below = FLOORS[: FLOORS.index(own)]
    for name in modules_of(path):
        used = name.split(".")[0]
        used = used if used in FLOORS else "__init__"
        assert used == own or used in below, f"{own} stands below {used}, and imports {name}"


def test_no_circle_leads_from_a_file_back_to_itself():
    names = {path: ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
    files = {name: path for path, name in names.items()}
    arrows = {}
    for path in FILES:
        targets = (name if name in files else name.rpartition(".")[0] for name in modules_of(path))
        arrows[path] = {files[name] for name in targets if name in files} - {path}
    done: set[Path] = set()

    def visit(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, [names[each] for each in (*way, path)]
        if path not in done:
            for target in arrows[path]:
                visit(target, (*way, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_no_file_is_longer_than_can_be_read(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST.get(path, 350)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_sign_at_each_door_says_what_is_inside_and_what_it_uses(folder):
    said = ast.get_docstring(ast.parse((HOUSE / folder / "__init__.py").read_text(encoding="utf-8")))
    assert said and len(said.split()) >= 10 and "uses" in said.lower()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_no_module_is_hidden_by_a_name_that_its_package_gives(path):
    if path.name in ("__init__.py", "__main__.py"):
        return
    package, name = importlib.import_module(".".join([HOUSE.name, *path.relative_to(HOUSE).parent.parts])), path.stem
    importlib.import_module(f"{package.__name__}.{name}")
    assert getattr(package, name).__file__ == str(path)


def test_the_tests_have_the_rooms_of_the_house():
    rooms = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    outside = {"notebooks", "benchmarks", "docs", "house", "real"}
    assert rooms - outside <= set(FLOORS), "a folder of tests bears the name of what it tests"
    assert set(FOLDERS) <= rooms, "and every folder of the house has one"


def test_the_small_module_uses_the_config_and_the_errors_alone():
    used = {name.split(".")[0] for name in modules_of(HOUSE / "model.py")}
    used |= {name.split(".")[0] for name in modules_of(HOUSE / "config.py")}
    assert used == {"config", "errors"} and not list(modules_of(HOUSE / "errors.py"))


FORWARD = """
import sys
import torch
from mine.config import Config
from mine.model import LayerWeights, Weights, forward

sizes = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2)
config = Config("qwen3_moe", 50, 16, 24, 2, moe_intermediate_size=12, **sizes)
shapes = [(16,), (32, 16), (16, 16), (16, 16), (16, 32), (8,), (8,), (16,), (4, 24, 16), (4, 16, 12), (4, 16)]
layers = tuple(LayerWeights(*map(torch.randn, shapes)) for _ in range(2))
weights = Weights(torch.randn(50, 16), layers, torch.randn(16))
logits = forward(weights, torch.tensor([[3, 1, 4, 1, 5]]), config)
print(list(logits.shape), bool(logits.isfinite().all()), [name for name in sys.modules if "qwen3_scratch" in name])
"""


def test_three_files_in_a_folder_of_ones_own_run_a_forward_pass(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("model.py", "config.py", "errors.py"):
        shutil.copy(HOUSE / name, folder)
    found = finished("-c", FORWARD, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (found.code, found.out) == (0, "[1, 5, 50] True []\n"), found.err


def test_every_public_name_is_there_and_help_lists_it_by_subject():
    page = qwen3_scratch.__doc__
    for name in qwen3_scratch.__all__:
        assert hasattr(qwen3_scratch, name) and f"{name}" in page.replace(",", " ").split(), name
    wanted = {"KVCache", "Ops", "Route", "Sampling", "embed", "moe", "decoder_layer", "attention_mask"}
    assert wanted <= set(qwen3_scratch.__all__)
