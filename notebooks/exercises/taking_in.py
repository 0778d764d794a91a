"""Makes of whatever was handed in what can be graded: the notebook that went out, with the student's cells in it."""

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

LARGEST = 50_000_000  # bytes; an answer takes some thousand, the rest are outputs
CELL = re.compile(r'\{\s*"(?:cell_type|attachments|id|execution_count|metadata|outputs|source)"')


class Loose(NamedTuple):
    """A cell as it was found."""

    kind: str
    source: str
    name: str  # of nbgrader, or nothing
    id: str


def take_in(path: Path, released: NotebookNode) -> tuple[NotebookNode | None, list[str]]:
    """The notebook to grade, or None, and what was found.

    Cells are known by nbgrader's name, by their id, by their text, or by the function that they define.
    """
    found, notes = read(path)
    if found is None:
        return None, notes
    names = [name_of(cell) for cell in released.cells]
    places = known(found, released.cells, names)
    notebook, answered = copy.deepcopy(released), {}
    beside: dict[int, list[NotebookNode]] = {}
    last = -1
    for number, cell in enumerate(found):
        at = places.get(number)
        if at is not None:
            last = at
            if is_answer(released.cells[at]):
                answered[at] = number
                notebook.cells[at].source = cell.source
        elif cell.source.strip() and cell.kind in ("code", "markdown", "raw"):
            beside.setdefault(last, []).append(beside_cell(cell))
    notebook.cells = [
        cell
        for at, given in enumerate(notebook.cells)
        for cell in (*(beside.get(-1, []) if at == 0 else ()), given, *beside.get(at, []))
    ]
    return notebook, notes + changes(found, places, released.cells, names, answered)


# ---- reading ---------------------------------------------------------------------------------


def read(path: Path) -> tuple[list[Loose] | None, list[str]]:
    """The cells of a file, as far as they can be made out, and what was found; None where it is no notebook."""
    if path.stat().st_size > LARGEST:
        return None, [
            f"{path.name} is no notebook to grade ({path.stat().st_size:,} bytes, expected fewer than {LARGEST:,})"
        ]
    data = path.read_bytes()
    text, notes = decoded(data)
    try:
        cells = cells_of(json.loads(text))
    except (ValueError, RecursionError) as error:
        cells = salvaged(text)
        if cells:
            where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
            notes.append(f"half a notebook (its JSON breaks off{where}): {len(cells)} whole cells were read")
    found = [loose for loose in map(as_loose, cells or ()) if loose is not None]
    if not found:
        begins = "it is empty" if not text.strip() else f"it begins with {text.strip()[:20]!r}"
        return None, [f"{path.name} is no notebook ({begins}), expected the one that was handed out"]
    if len(found) < len(cells or ()):
        notes.append(f"{len(cells or ()) - len(found)} cells without text or kind, left out")
    return found, notes + other_kernel(text)


def decoded(data: bytes) -> tuple[str, list[str]]:
    for name, begins in (("utf-16", (b"\xff\xfe", b"\xfe\xff")), ("utf-8-sig", (b"",))):
        if data.startswith(begins):
            try:
                return data.decode(name), []
            except UnicodeDecodeError:
                continue
    return data.decode("latin-1"), ["not in UTF-8: letters beyond ASCII may be others"]


def cells_of(content: Any) -> list[Any] | None:
    """The cells of a notebook of version 4, or of 3, which has sheets of them."""
    if not isinstance(content, dict):
        return None
    sheets = content.get("worksheets")
    if isinstance(sheets, list):
        return [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or ()]
    return content["cells"] if isinstance(content.get("cells"), list) else None


def salvaged(text: str) -> list[Any]:
    """The whole cells of JSON that is none: what breaks off, or holds marks of two versions that met."""
    decoder, found, end = json.JSONDecoder(), [], 0
    for start in (match.start() for match in CELL.finditer(text)):
        if start < end:
            continue
        try:
            cell, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if "cell_type" in cell:
            found.append(cell)
    return found


def as_loose(cell: Any) -> Loose | None:
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return None
    source = cell.get("source", cell.get("input"))
    source = "".join(map(str, source)) if isinstance(source, list) else source
    if not isinstance(source, str):
        return None
    metadata = cell.get("metadata")
    about = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = about.get("grade_id") if isinstance(about, dict) else None
    return Loose(cell["cell_type"], source, name if isinstance(name, str) else "", str(cell.get("id", "")))


def other_kernel(text: str) -> list[str]:
    found = re.search(r'"kernelspec"\s*:\s*\{[^}]*"name"\s*:\s*"([^"]{1,60})"', text)
    return [f"made with the kernel {found[1]!r}, graded with this Python"] if found and found[1] != "python3" else []


# ---- which cell is which ---------------------------------------------------------------------


def name_of(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def is_answer(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def exercise_of(name: str) -> str:
    """`ps1_rms_norm_answer` -> `rms_norm`."""
    return name.split("_", 1)[-1].removesuffix("_answer").removesuffix("_check")


def known(found: list[Loose], released: list[NotebookNode], names: list[str]) -> dict[int, int]:
    """Number of a found cell -> number of the released one that it is; each released cell is found at most once.

    Of several that bear one name, that counts which is no longer as it was handed out, and of these the first.
    """
    places: dict[int, int] = {}
    ways = (
        lambda cell, at: bool(cell.name) and cell.name == names[at],
        lambda cell, at: bool(cell.id) and cell.id == released[at].get("id") and cell.name not in names,
        lambda cell, at: cell.source.strip() == released[at].source.strip(),
        lambda cell, at: is_answer(released[at]) and exercise_of(names[at]) in defined(cell.source),
    )
    for way in ways:
        for at, given in enumerate(released):
            if at in places.values():
                continue
            fits = [number for number, cell in enumerate(found) if number not in places and way(cell, at)]
            touched = [number for number in fits if found[number].source.strip() != given.source.strip()]
            if fits:
                places[(touched if is_answer(given) and touched else fits)[0]] = at
    return places


def defined(source: str) -> set[str]:
    """The functions that a cell defines; of one that is no Python, what looks like them."""
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"^def (\w+)\(", source, re.MULTILINE))


def beside_cell(cell: Loose) -> NotebookNode:
    """A cell of the student's own."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    return make.get(cell.kind, nbformat.v4.new_raw_cell)(cell.source)


def changes(
    found: list[Loose], places: dict[int, int], released: list[NotebookNode], names: list[str], answered: dict[int, int]
) -> list[str]:
    """What a teacher should know of the cells before the points."""
    locked = {at for at, cell in enumerate(released) if cell.metadata.get("nbgrader", {}).get("locked")}
    there = {at: found[number] for number, at in places.items()}
    answers = {at for at, cell in enumerate(released) if is_answer(cell)}
    bare = [at for at in (locked | answers) & there.keys() if there[at].name != names[at]]
    lists = (
        ("missing, put back", [names[at] for at in locked - there.keys()]),
        ("changed, put back", [names[at] for at in locked & there.keys() if there[at].source != released[at].source]),
        ("no cell found that answers", [exercise_of(names[at]) for at in answers - answered.keys()]),
        ("grading metadata lost or damaged, put back", {exercise_of(names[at]) for at in bare}),
        ("no code cell but read as one", [exercise_of(names[at]) for at in answered if there[at].kind != "code"]),
        ("more than one cell defines, the first that was changed counts", repeated(found, places, names, answers)),
    )
    return [f"{what}: {', '.join(sorted(which))}" for what, which in lists if which]


def repeated(found: list[Loose], places: dict[int, int], names: list[str], answers: set[int]) -> list[str]:
    """Exercises whose nbgrader name stands at a further cell."""
    extra = {cell.name for number, cell in enumerate(found) if number not in places and cell.name}
    return [exercise_of(names[at]) for at in answers if names[at] in extra]
