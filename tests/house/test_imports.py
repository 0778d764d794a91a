"""Every package that is imported stands in pyproject.toml, and one whose insides are used has an upper bound there."""

import ast
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import takewhile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# What is installed for these files; the first pattern that fits one counts. None is the project without extras.
NEEDS = {
    "qwen3_scratch/**/*.py": None,
    "notebooks/conftest.py": "test",
    "notebooks/*.py": "notebooks",
    "notebooks/*.ipynb": "notebooks",
    "notebooks/exercises/*.py": "exercises",
    "notebooks/exercises/source/*/*.ipynb": "notebooks",  # handed out to students
    "docs/*.py": "site",
    "tests/fuzz/*.py": "fuzz",
    "tests/**/*.py": "test",
    "benchmarks/*.py": "bench",
}
OWN = {"qwen3_scratch", "benchmarks", "wrong_answers", "kinds", "fuzz"} | {
    path.stem for folder in ("tests", "notebooks", "docs") for path in (ROOT / folder).rglob("*.py")
}
INSTALLED = packages_distributions() | {"atheris": ["atheris"], "llama_cpp": ["llama-cpp-python"]}  # for fuzz and bench
PUBLIC = {"_replace", "_asdict", "_fields"}  # of named tuples
KINDS = pytest.mark.parametrize("pattern", NEEDS)


def declared(extra: str | None) -> dict[str, Requirement]:
    """The requirements of the project with an extra, by name; an extra that holds another brings its own."""
    found = {}
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, ())]:
        wanted = Requirement(line)
        for name in wanted.extras if wanted.name == PROJECT["name"] else ():
            found |= declared(name)
        found[canonicalize_name(wanted.name)] = wanted
    return found


def parsed(pattern: str) -> dict[str, ast.Module]:
    """The files that a pattern is the first to fit, which are some."""
    paths = set(ROOT.glob(pattern))
    for earlier in takewhile(lambda other: other != pattern, NEEDS):
        paths -= set(ROOT.glob(earlier))
    assert paths
    return {path.relative_to(ROOT).as_posix(): ast.parse(code(path)) for path in paths}


def code(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def foreign(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that a file imports from other people's packages, each with the dotted name of what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            pairs = [(name.asname or name.name.split(".")[0], name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            pairs = [(name.asname or name.name, f"{node.module}.{name.name}") for name in node.names]
        else:
            continue
        yield from ((name, what) for name, what in pairs if package(what) not in OWN | sys.stdlib_module_names)


def package(what: str) -> str:
    return what.split(".")[0]


def distributions(what: str) -> set[str]:
    """Who may have brought a module."""
    return {canonicalize_name(name) for name in INSTALLED.get(package(what), ())}


def insides(tree: ast.Module) -> Iterator[str]:
    """What begins with an underscore in another package and is used, and what of it is replaced."""
    pairs = list(foreign(tree))
    uses, stands_for = [what for _, what in pairs], dict(pairs)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *parts = ast.unparse(node).split(".")
            uses += [".".join([stands_for[root], *parts])] if root in stands_for else []
        elif isinstance(node, ast.Assign):
            owners = [ast.unparse(target.value) for target in node.targets if isinstance(target, ast.Attribute)]
            yield from (stands_for[owner] for owner in owners if owner in stands_for)
    yield from (use for use in uses if set(re.findall(r"\._(?!_)\w+", use)) - {f".{name}" for name in PUBLIC})


@KINDS
def test_every_import_is_declared_by_the_extra_that_is_installed_for_it(pattern):
    undeclared = defaultdict(list)
    for path, tree in parsed(pattern).items():
        for what in {package(what) for _, what in foreign(tree)}:
            if not distributions(what) & declared(NEEDS[pattern]).keys():
                undeclared[what].append(path)
    assert not undeclared


@KINDS
def test_a_package_whose_insides_are_used_has_an_upper_bound(pattern):
    unbounded = defaultdict(list)
    for path, tree in parsed(pattern).items():
        for use in insides(tree):
            wanted = [declared(NEEDS[pattern])[name] for name in distributions(use)]
            if not any(part.operator in ("<", "==") for one in wanted for part in one.specifier):
                unbounded[use].append(path)
    assert not unbounded


def test_the_uses_of_insides_are_told_from_others():
    lines = ["import torch as t", "from a.b import C", "from d._e import f", "from .g import _h", "import os"]
    lines += [
        "t._dynamo.reset(t.ops.x._y)",
        "C.go = 1",
        "C.stay.go = 1",
        "t.z._replace(q=t.__version__)",
        "os._exit(0)",
    ]
    found = {"torch._dynamo", "torch._dynamo.reset", "torch.ops.x._y", "a.b.C", "d._e.f"}
    assert set(insides(ast.parse("\n".join(lines)))) == found


def test_every_file_with_code_is_looked_at():
    seen = {path for pattern in NEEDS for path in ROOT.glob(pattern)}
    folders = {pattern.split("/")[0] for pattern in NEEDS}
    files = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    generated = ("release", "submitted", "autograded", "feedback")  # by the course of exercises
    assert not {path for path in files - seen if not set(path.parts) & {*generated, ".ipynb_checkpoints"}}
