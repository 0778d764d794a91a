"""Keeps what a notebook showed before wherever a fresh run shows the same, so that git sees only what truly changed.

`python settle.py STORED FRESH...`: for each fresh notebook, the one of the same name in the folder STORED lends its
outputs, cell by cell, where the two differ in nothing but measured times (as in tests/sanitize.cfg) and by rounding (as
in comparing.py). A cell tagged `nbval-ignore-output` shows what no second run repeats: it keeps its outputs as long as
no code up to it has changed, nothing that other cells up to it show, and no word of its own: what the numbers stand in.
"""

import configparser
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from comparing import FIGURE, PICTURE, Clean, differences, entries, parts

MEASURED = "nbval-ignore-output"
SANITIZE = Path(__file__).parent.parent / "tests" / "notebooks" / "sanitize.cfg"


def same_outputs(new: list[Any], old: list[Any], clean: Clean) -> bool:
    """Whether two runs of a cell show the same."""
    if len(new) != len(old):
        return False
    return all(
        fresh.output_type == stored.output_type
        and entries(fresh).keys() == entries(stored).keys()
        and not differences(fresh, stored, clean)
        for fresh, stored in zip(new, old, strict=True)
    )


def words(outputs: list[Any], clean: Clean) -> list[Any]:
    """What a cell shows besides numbers, measured times and what is drawn with them."""
    return [
        {kind: wording(kind, shown, clean) for kind, shown in entries(output).items() if kind != PICTURE}
        for output in outputs
    ]


def wording(kind: str, shown: Any, clean: Clean) -> Any:
    if kind == FIGURE:  # as sets, since an axis may get one tick more
        return {place: set(wording("text", text, clean)) for place, text in shown["texts"].items()}
    return [word for word, _ in parts(clean(str(shown)))]


def settle(new: nbformat.NotebookNode, old: nbformat.NotebookNode, clean: Clean) -> None:
    """Gives the cells of `new` the outputs of `old` where they say the same."""
    code = [[cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (new, old)]
    same_code = same_shown = True
    for fresh, stored in zip(*code, strict=False):
        measured = MEASURED in fresh.metadata.get("tags", ())
        as_worded = measured and words(fresh.outputs, clean) == words(stored.outputs, clean)
        same_code = same_code and fresh.source == stored.source
        same = same_code and same_outputs(fresh.outputs, stored.outputs, clean)
        same_shown = same_shown and (same or measured)
        if stored.outputs and (same or (as_worded and same_code and same_shown)):
            for kept, made in zip(stored.outputs, fresh.outputs, strict=False):
                if same and "metadata" in made:  # what a figure is said to show
                    kept.metadata = made.metadata
            fresh.outputs = stored.outputs


def cleaner(rules: Path) -> Clean:
    """What nbval does to each text, by the same file: each regex is replaced."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(rules, encoding="utf-8")
    replaced = [(parser[part]["regex"], parser[part]["replace"]) for part in parser.sections()]

    def clean(text: str) -> str:
        for regex, replacement in replaced:
            text = re.sub(regex, replacement, text)
        return text

    return clean


def main(stored: str, *notebooks: str) -> None:
    clean = cleaner(SANITIZE)
    for path in map(Path, notebooks):
        before = Path(stored) / path.name
        if before.exists():
            new = nbformat.read(path, as_version=4)
            settle(new, nbformat.read(before, as_version=4), clean)
            nbformat.write(new, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
