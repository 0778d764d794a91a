"""environment.yml and constraints.txt describe the same project as pyproject.toml."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec, Version, VersionSpec

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
CONDA_SPECS = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
PIP_LINES = [line for entry in CONDA["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def conda_specs():
    specs = (MatchSpec(text, strict=True) for text in CONDA_SPECS)
    return {spec.name.normalized: spec for spec in specs}


@pytest.mark.parametrize("text", CONDA_SPECS)
def test_conda_reads_every_requirement_strictly(text):
    assert MatchSpec(text, strict=True).name.normalized


def test_the_python_of_conda_lies_within_the_range_of_the_project():
    conda = VersionSpec(str(conda_specs()["python"].version))
    project = SpecifierSet(PROJECT["requires-python"])
    versions = [f"3.{minor}.{patch}" for minor in range(30) for patch in (0, 9)]
    admitted = [version for version in versions if conda.matches(Version(version))]
    assert admitted
    assert all(version in project for version in admitted)


def test_pip_and_jupyterlab_come_from_conda_forge_and_no_other_channel_is_asked():
    assert {"pip", "jupyterlab"} <= conda_specs().keys()
    assert [channel for channel in CONDA["channels"] if channel != "nodefaults"] == ["conda-forge"]
    assert all(spec.channel is None for spec in conda_specs().values())


def test_pip_installs_the_project_with_extras_that_exist():
    (line,) = PIP_LINES
    editable = re.fullmatch(r"-e \.\[([\w,-]+)\]", line)
    assert editable
    assert set(editable[1].split(",")) <= EXTRAS.keys()


def test_what_conda_brings_is_what_the_extra_asks_for():
    from_conda = conda_specs().keys() - {"python", "pip"}
    assert from_conda <= {canonicalize_name(Requirement(line).name) for line in EXTRAS["notebooks"]}


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())])
def test_every_dependency_is_pinned_within_its_range(line):
    wanted = Requirement(line)
    if wanted.name == PROJECT["name"]:
        assert wanted.extras <= EXTRAS.keys()
        return
    (pin,) = (pin for pin in CONSTRAINTS if canonicalize_name(pin.name) == canonicalize_name(wanted.name))
    ((operator, version),) = ((part.operator, part.version) for part in pin.specifier)
    assert operator == "=="
    assert version in wanted.specifier


def test_the_constraints_name_no_address_and_no_local_build():
    assert all(pin.url is None and "+" not in str(pin.specifier) for pin in CONSTRAINTS)
