"""Gathers what the book is made of, `python docs/stage.py FOLDER`, and changes no file of the repository.

Pages keep their places, so that links among them hold; a link to another file becomes its download, one to a folder
plain text, or both lead to the repository once pyproject.toml says where that is. Of the exercises the students'
notebooks are taken. What is there already and would be the same is left alone, so that Sphinx reads only what changed.
"""

import argparse
import os
import re
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
import slides
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

import qwen3_scratch
from qwen3_scratch import explorer, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks" / "exercises"))
from course import SETS, Course  # noqa: E402 (lies beside the exercises)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT.get("urls", {}).get("Repository", "").rstrip("/")  # the one place where it stands
EXERCISES = {f"notebooks/exercises/source/{name}/{name}.ipynb": f"notebooks/exercises/{name}.ipynb" for name in SETS}
MOVED = {
    **EXERCISES,
    **{str(PurePosixPath(path).parent): place for path, place in EXERCISES.items()},
    **{path.relative_to(ROOT).as_posix(): path.name for path in ROOT.glob("docs/*.md")},
    "docs/LICENSE": "LICENSE-PROSE",
    **{path.relative_to(ROOT).as_posix(): f"slides/{path.stem}.html" for path in ROOT.glob("docs/lectures/*.md")},
    "notebooks/exercises/source": "notebooks/exercises/README.md",
    "README.md": "index.md",
}
PAGES = (
    "notebooks/*.ipynb", "notebooks/exercises/README.md", "data/README.md", "benchmarks/README.md",
    "benchmarks/RESULTS.md", "tests/README.md", "qwen3_scratch/terminal/README.md", "CONTRIBUTING.md", "CHANGELOG.md",
)  # fmt: skip
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
ROOMS = {
    "fast": ("fast",), "devices": ("devices.launch", "devices.slices"), "inside": ("inside.heads", "inside.compare"),
    "learning": ("learning.training", "learning.upcycling", "learning.other_routers"), "tiny": ("tiny.evaluate",),
    "exercises": ("exercises",), "explorer": ("explorer",),
}  # fmt: skip
IN_COLAB = """# In Colab the package has to be installed first; elsewhere this cell does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet "qwen3-scratch @ git+{address}"
"""


class Stage:
    """The folder, and how each file comes into it."""

    def __init__(self, folder: Path, address: str = ADDRESS):
        self.folder, self.address, self.kept = folder.resolve(), address, set[Path]()
        self.pages = {path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)}

    def gather(self, questions: int) -> None:
        self.all_pages()
        self.exercises(self.folder.parent / "course")
        self.glossary()
        self.reference()
        self.page_of_the_model(questions)
        self.clear()

    def put(self, place: str, content: str | bytes) -> None:
        path, data = self.folder / place, content.encode() if isinstance(content, str) else content
        self.kept.add(path)
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def led(self, text: str, page: str, place: str) -> str:
        """A page's text, its links leading to where things stand in the book."""

        def lead(found: re.Match[str]) -> str:
            target = os.path.normpath((PurePosixPath(page).parent / found[1]).as_posix())
            if not (ROOT / target).exists():
                return found[0]  # a mistake, which Sphinx names
            to = MOVED.get(target, target)
            if f"{to}/README.md" in self.pages:
                to = f"{to}/README.md"
            if to not in self.pages and to not in MOVED.values():
                if self.address and not target.endswith((".png", ".svg")):
                    return f"{self.address}/blob/main/{target}{found[2]}"
                if (ROOT / target).is_dir():
                    return f"{NOWHERE}{found[2]}"
                self.put(target, (ROOT / target).read_bytes())
            return os.path.relpath(to, PurePosixPath(place).parent) + found[2]

        return re.sub(rf"\[([^\]]+)\]\({NOWHERE}\)", r"\1", LINK.sub(lead, text))

    def notebook(self, notebook: NotebookNode, page: str, place: str) -> None:
        cells = []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.led(cell.source, page, place)
            cells += parted(cell) if cell.cell_type == "code" else [cell]
        if self.address and any(cell.cell_type == "code" and "qwen3_scratch" in cell.source for cell in cells):
            cells.insert(1, new_code_cell(IN_COLAB.format(address=self.address), id="in-colab"))
        notebook.cells = cells
        self.put(place, nbformat.writes(notebook))

    def all_pages(self) -> None:
        for page in sorted(self.pages):
            if page.endswith(".ipynb"):
                self.notebook(nbformat.read(ROOT / page, as_version=4), page, page)
            else:
                self.put(page, self.led((ROOT / page).read_text("utf-8"), page, page))
        for path in sorted((ROOT / "docs").glob("*.md")):
            text = re.sub(r"^\| \d \| .*$", with_minutes, path.read_text("utf-8"), flags=re.MULTILINE)
            self.put(path.name, self.led(text, f"docs/{path.name}", path.name))
        for lecture in ROOT.glob("docs/lectures/*.md"):
            self.put(MOVED[lecture.relative_to(ROOT).as_posix()], slides.deck(lecture))
        self.put("LICENSE-PROSE", (ROOT / "docs" / "LICENSE").read_bytes())

    def exercises(self, work: Path) -> None:
        """The students' notebooks, each as a page and beside it as the file to be downloaded."""
        course = Course(work)
        for page, place in EXERCISES.items():
            name, source = PurePosixPath(place).stem, ROOT / page
            released = work / "release" / name / f"{name}.ipynb"
            if not released.exists() or released.stat().st_mtime < source.stat().st_mtime:
                course.release(name)
            students = nbformat.read(released, as_version=4)
            self.put(f"notebooks/exercises/download/{name}.ipynb", released.read_bytes())
            title, _, rest = students.cells[0].source.partition("\n")
            said = (
                f"This page is for reading. Write in the notebook: {{download}}`{name}.ipynb <download/{name}.ipynb>`."
            )
            students.cells[0].source = f"{title}\n\n{said}\n{rest}"
            self.notebook(students, page, place)

    def glossary(self) -> None:
        entries = yaml.safe_load((ROOT / "docs" / "glossary.yml").read_text("utf-8"))
        lines = ["# Glossary", "", "Each page links the first use of a term to here.", "", ":::{glossary}"]
        for entry in sorted(entries, key=lambda entry: entry["term"].lower()):
            where = f"Introduced in [{entry['chapter']}](notebooks/{entry['chapter']}.ipynb)."
            lines += [entry["term"], f"  {' '.join(entry['means'].split())} {where}", ""]
        self.put("glossary.md", "\n".join([*lines, ":::", ""]))

    def reference(self) -> None:
        """The public names by the subjects that help(qwen3_scratch) gives them, then the rooms."""
        groups = re.findall(r"^(\w[\w ]+?) {2,}(\S.*(?:\n {18}.*)*)", qwen3_scratch.__doc__ or "", re.MULTILINE)
        parts = [titled("The package by subject", "=")]
        for subject, names in groups:
            parts.append(titled(subject, "-"))
            for name in re.findall(r"\w+", names):
                kind = "autoclass" if isinstance(getattr(qwen3_scratch, name), type) else "autofunction"
                parts.append(f".. {kind}:: qwen3_scratch.{name}\n")
        self.put("api/index.rst", "\n".join(parts))
        for room, modules in ROOMS.items():
            said = [f".. automodule:: qwen3_scratch.{module}\n   :members:\n" for module in modules]
            self.put(f"api/{room}.rst", "\n".join([titled(f"The room {room}", "="), *said]))

    def page_of_the_model(self, questions: int) -> None:
        """The explorer, written anew where something that it is made of has changed."""
        path = self.folder / "as-they-are" / "live-explorer.html"
        made_of = [*(ROOT / "qwen3_scratch").rglob("*.*"), *(ROOT / "data" / "tiny-moe").iterdir()]
        newest = max(each.stat().st_mtime for each in made_of if each.suffix not in (".pyc",))
        if not path.exists() or path.stat().st_mtime < newest:
            path.parent.mkdir(parents=True, exist_ok=True)
            explorer.write(load_checkpoint("tiny"), path, questions=questions)
        self.kept.add(path)

    def clear(self) -> None:
        """Removes what an earlier run has put here and this one has not."""
        for path in [path for path in self.folder.rglob("*") if path.is_file() and path not in self.kept]:
            path.unlink()


NOWHERE = "no-page-of-the-book"


def titled(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n"


def with_minutes(row: re.Match[str]) -> str:
    """A week of the course with the minutes that its chapters say at their tops."""
    minutes = [0, 0]
    for chapter in re.findall(r"notebooks/(\w+\.ipynb)", row[0]):
        top = nbformat.read(ROOT / "notebooks" / chapter, as_version=4).cells[0].source
        said = re.search(r"It takes (\d+) minutes(?: to read)?(?:, and (\d+) more to write)?", top)
        for column, number in enumerate(said.groups() if said else ()):
            minutes[column] += int(number or 0)
    return re.sub("…", lambda found: str(minutes.pop(0)), row[0])


def parted(cell: NotebookNode) -> list[NotebookNode]:
    """A cell of code as one or more, each with at most one figure, which takes its alternative text along."""
    cells: list[NotebookNode] = [cell]
    outputs, cell.outputs = cell.outputs, []
    for output in outputs:
        about: dict[str, Any] = output.get("metadata", {}).get("image/png", {})
        if about and "mystnb" in cells[-1].metadata:
            cells.append(
                new_code_cell("# the next figure", id=f"{cell.id}-{len(cells)}", metadata={"tags": ["remove-input"]})
            )
        if about:
            cells[-1].metadata["mystnb"] = {"image": {"alt": about.get("alt", "")}}
        cells[-1].outputs.append(output)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=8, help="that the explorer's experts are measured on")
    options = parser.parse_args()
    Stage(options.folder).gather(options.questions)


if __name__ == "__main__":
    main()
