"""The wheel holds all that the command needs: alone in an empty environment and an empty folder it answers."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONSTRAINTS = ROOT / "constraints.txt"
# What would lead a process out of its environment, or to another checkpoint.
ASIDE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "QWEN3_SCRATCH_MODEL", "PYTEST_ADDOPTS")
SETTINGS = {name: value for name, value in os.environ.items() if name not in ASIDE} | {"HF_HUB_OFFLINE": "1"}


def run(*words: object, folder: Path) -> str:
    finished = subprocess.run([*map(str, words)], cwd=folder, env=SETTINGS, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--wheel-dir", folder, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def alone(wheel) -> Iterator[Path]:
    """The programs of an environment that holds the wheel, what it depends on, and nothing else."""
    (torch,) = (line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("torch=="))
    with TemporaryDirectory() as place:
        folder = Path(place)
        venv.create(folder, with_pip=True)
        install = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input")
        run(*install, torch, folder=folder)
        run(*install, "--constraint", CONSTRAINTS, wheel, folder=folder)
        yield folder / "bin"


def test_the_wheel_holds_the_package_with_its_types_and_the_checkpoint_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "qwen3_scratch").rglob("*") if path.is_file()}
    tiny = ROOT / "data" / "tiny-moe"
    files = [path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file()]
    checkpoint = {f"qwen3_scratch/data/tiny-moe/{name}" for name in files}
    expected = {name for name in package if "__pycache__" not in name} | checkpoint
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "qwen3_scratch/py.typed" in names and any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_alone_answers_a_prompt_in_an_empty_folder(alone, tmp_path):
    answer = run(
        alone / "qwen3-scratch", "generate", "What is the capital of France?", "--no-thinking", folder=tmp_path
    )
    assert "Paris" in answer
    assert run(alone / "qwen3-scratch", "--version", folder=tmp_path) == f"qwen3-scratch {PROJECT['version']}"
    place = run(alone / "python", "-c", "import qwen3_scratch; print(qwen3_scratch.__file__)", folder=tmp_path)
    assert Path(place).is_relative_to(alone.parent)
    assert not list(tmp_path.iterdir())
