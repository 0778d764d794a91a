"""The pages say what is so: their links lead somewhere, their commands exist, and what they show is what is printed."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from helpers import ROOT, finished
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from qwen3_scratch.terminal.commands import app

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
PLACES = (
    "*.md",
    "tests/*.md",
    "data/*.md",
    "docs/*.md",
    "benchmarks/*.md",
    "notebooks/exercises/*.md",
    "qwen3_scratch/*/*.md",
)
PAGES = [path for place in PLACES for path in sorted(ROOT.glob(place))]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in ROOT.glob(".github/workflows/*.yml")}
JOBS = {f"{name} {job}": steps for name, flow in WORKFLOWS.items() for job, steps in flow["jobs"].items()}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# ---- what the pages say -------------------------------------------------------------------------


def test_the_readme_is_read_at_a_sitting():
    assert len(README.splitlines()) <= 130


@each_page
def test_every_link_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page
def test_every_make_target_exists(page: Path):
    text = page.read_text("utf-8") if page.name != "CHANGELOG.md" else ""  # which names those of before, too
    named = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, flags=re.MULTILINE)
    assert [name for name in map("".join, named) if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)] == []


@each_page
def test_every_command_of_the_terminal_exists_with_its_options(page: Path):
    group = typer.main.get_command(app)
    for block in blocks(page.read_text("utf-8")):
        for line in re.findall(r"(?:qwen3-scratch|-m qwen3_scratch) ([a-z].*)", block):
            name, *words = shlex.split(line, comments=True)
            known = {option for parameter in group.commands[name].params for option in parameter.opts}
            known |= {option for parameter in group.commands[name].params for option in parameter.secondary_opts}
            assert {word for word in words if word.startswith("--")} <= known, line


def test_the_answer_of_make_run_is_what_the_readme_shows():
    prompt = re.search(r"^PROMPT += (.*)", MAKEFILE, re.MULTILINE)[1]
    assert prompt in README
    found = finished("-m", "qwen3_scratch", "generate", prompt, "--model", "tiny", "--routes")
    (shown,) = (block for block in blocks(README) if "Experts of each token" in block)
    printed = {line.rstrip() for line in (found.err + found.out).splitlines()}
    assert set(shown.splitlines()) - printed == {"  ..."}


def test_the_example_of_the_readme_prints_what_it_says_and_draws_the_picture(tmp_path):
    (code,) = blocks(README, "python")
    found = finished("-c", code, cwd=tmp_path, env={"QWEN3_SCRATCH_MODEL": "tiny"})
    assert found.code == 0 and f"print(answer.text)  # {found.out}" in code
    assert (tmp_path / "routes.png").stat().st_size > 10_000


def test_the_readme_gives_every_dependency_and_no_other_a_reason():
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines} - {PROJECT["name"]}
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", README.partition("## What it stands on")[2], re.MULTILINE)
    assert rows[:2] == ["package", "---"]
    assert sorted(canonicalize_name(name) for row in rows[2:] for name in row.split(", ")) == sorted(declared)


# ---- what other programs read -------------------------------------------------------------------


def test_the_changelog_and_the_citation_know_the_version_of_the_project():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    versions = re.findall(r"^## \[(.+)\]", changes, re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"] and citation["keywords"] == PROJECT["keywords"]


def test_every_python_that_the_project_is_for_is_tested_and_no_other_is_claimed():
    tested = WORKFLOWS["test.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert tested == claimed == [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in allowed]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_and_stops_the_run_that_it_replaces(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"} and WORKFLOWS[name]["concurrency"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_in_time_and_uses_no_code_of_strangers(name):
    used = {step["uses"].partition("@")[0] for step in JOBS[name]["steps"] if "uses" in step}
    published = {"actions/upload-pages-artifact", "actions/deploy-pages"} if name.startswith("pages.yml") else set()
    assert JOBS[name]["timeout-minutes"] <= 240 and used - published <= {"actions/checkout", "actions/setup-python"}
    assert used


def test_only_the_job_that_publishes_may_write_and_only_pages():
    allowed = {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job}
    assert allowed == {"pages.yml publish": {"pages": "write", "id-token": "write"}}


def test_hooks_fetch_nothing_and_take_out_of_notebooks_what_a_refresh_takes_out():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert local["repo"] == "local" and {hook["language"] for hook in local["hooks"]} == {"system"}
    (entry,) = (shlex.split(hook["entry"]) for hook in local["hooks"] if hook["id"] == "notebooks")
    (refresh,) = (part for part in re.split(r"(?<!\\)\n", MAKEFILE) if "nbstripout --" in part)
    assert set(entry[1:]) - {"--verify"} == set(shlex.split(refresh.replace("\\\n", ""))[1:]) - {"$(NOTEBOOKS)"}
