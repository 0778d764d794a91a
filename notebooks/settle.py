"""Keeps what a notebook showed before wherever a fresh run shows the same, so that git sees only what truly changed.

`python settle.py STORED FRESH...`: for each fresh notebook, the one of the same name in the folder STORED lends its
outputs, cell by cell, where the two differ in nothing but measured times (as in tests/sanitize.cfg) or in pixels by
rounding. A cell tagged `nbval-ignore-output` shows what no second run repeats: it keeps its outputs as long as no
code up to it has changed.
"""

import base64
import configparser
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image, ImageChops

ROUNDING = 8  # levels of 255: the last digit of a float can move a pixel to the next colour of the map
MEASURED = "nbval-ignore-output"
SANITIZE = Path(__file__).parent.parent / "tests" / "notebooks" / "sanitize.cfg"


def same_picture(*encoded: str) -> bool:
    """Whether two PNGs, in base 64, show the same up to rounding, or were drawn by two versions of matplotlib."""
    try:
        files = [io.BytesIO(base64.b64decode(text)) for text in encoded]
        for file in files:
            Image.open(file).verify()  # check sums: a damaged file is no picture
        new, old = images = [Image.open(file) for file in files]
        drawn_by = {image.info.get("Software", "") for image in images}
        if len(drawn_by) == 2 and all(name.startswith("Matplotlib version") for name in drawn_by):
            return True  # versions of matplotlib draw different pixels: there is nothing to compare
        changes = ImageChops.difference(new.convert("RGBA"), old.convert("RGBA")).getextrema()
        return new.size == old.size and max(largest for _, largest in changes) <= ROUNDING
    except (ValueError, OSError, SyntaxError):  # what Pillow raises on a broken file
        return False


def same_outputs(new: list[Any], old: list[Any], rules: list[tuple[str, str]]) -> bool:
    """Whether two runs of a cell show the same."""
    if len(new) != len(old):
        return False
    return all(same_output(*pair, rules) for pair in zip(new, old, strict=True))


def same_output(new: Any, old: Any, rules: list[tuple[str, str]]) -> bool:
    pictures = [output.get("data", {}).get("image/png") for output in (new, old)]
    if all(pictures) and not same_picture(*pictures):
        return False
    return words(new, rules) == words(old, rules)


def words(output: Any, rules: list[tuple[str, str]]) -> str:
    """All of an output as one text, without its picture and what the rules replace."""
    data = {kind: "drawn" if kind == "image/png" else value for kind, value in output.get("data", {}).items()}
    text = repr((output["output_type"], output.get("name"), output.get("text"), data))
    for regex, replacement in rules:
        text = re.sub(regex, replacement, text)
    return text


def settle(new: nbformat.NotebookNode, old: nbformat.NotebookNode, rules: list[tuple[str, str]]) -> None:
    """Gives the cells of `new` the outputs of `old` where they say the same."""
    code = [[cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (new, old)]
    unchanged = True
    for fresh, stored in zip(*code, strict=False):
        unchanged = unchanged and fresh.source == stored.source
        measured = MEASURED in fresh.metadata.get("tags", ())
        if unchanged and stored.outputs and (measured or same_outputs(fresh.outputs, stored.outputs, rules)):
            fresh.outputs = stored.outputs


def main(stored: str, *notebooks: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(SANITIZE, encoding="utf-8")
    rules = [(parser[part]["regex"], parser[part]["replace"]) for part in parser.sections()]
    for path in map(Path, notebooks):
        before = Path(stored) / path.name
        if before.exists():
            new = nbformat.read(path, as_version=4)
            settle(new, nbformat.read(before, as_version=4), rules)
            nbformat.write(new, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
