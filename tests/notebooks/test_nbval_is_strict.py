"""notebooks/conftest.py: no notebook passes that shows something else than a fresh run shows."""

import base64
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from helpers import PATIENCE
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image, PngImagePlugin

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FIGURE = "application/vnd.qwen3-scratch.figure+json"

CELLS = {
    "imports": "import matplotlib.pyplot as plt",
    "text": 'print("two experts, one chosen")',
    "picture": 'plt.figure(figsize=(1, 1))\nplt.title("quiet, as in Jupyter");',
    "rounded": "plt.figure(figsize=(1, 1))\nplt.plot([1, 0]);",
    "damaged": "plt.figure(figsize=(1, 1))\nplt.plot([0, 1]);",
    "number": 'print("a loss of 0.25 nats")',
    "figure": "from qwen3_scratch import plots\nplots.agreement_bars({'one': 0.5, 'two': 1.0}, 9)",
    "last digit": "plots.agreement_bars({'one': 0.25, 'two': 1.0}, 9)",
    "bare": "plots.agreement_bars({'one': 0.1, 'two': 1.0}, 9)",
    "never run": "x = 1",
    "long": "\n".join(f"x{line} = {line}" for line in range(15)),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What nbval says about each cell: `verdicts[notebook, cell]` is None or why it failed."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name in ("conftest.py", "comparing.py"):
        shutil.copy(NOTEBOOKS / name, folder)
    good, corrupted, bare = (folder / f"{name}.ipynb" for name in ("good", "corrupted", "bare"))

    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS.values()])
    nbformat.write(notebook, bare)
    nbformat.write(notebook, good)
    run("nbconvert", "--to", "notebook", "--execute", "--inplace", good, check=True)
    nbformat.write(corrupt(nbformat.read(good, as_version=4)), corrupted)

    report = folder / "report.xml"
    flags = "--rootdir . --color no --nbval --nbval-current-env --nbval-cell-timeout 120 -p no:cacheprovider"
    run("pytest", *flags.split(), "--continue-on-collection-errors", "--junitxml", report, cwd=folder)
    return dict(read_verdicts(report))


def run(module, *arguments, **options):
    foreign = {"PYTEST_ADDOPTS", "PYTEST_PLUGINS", "MPLBACKEND"}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment["PYTHONPATH"] = str(NOTEBOOKS.parent)
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, **options)


def corrupt(notebook):
    cells = dict(zip(CELLS, notebook.cells, strict=True))
    cells["text"].outputs = says("two experts, both chosen\n")
    repaint_one_pixel(png_of(cells["picture"]), (200, 255, 255, 255))
    repaint_one_pixel(png_of(cells["rounded"]), (252, 255, 255, 255))
    damage(png_of(cells["damaged"]))
    cells["number"].outputs = says("a loss of 0.24 nats\n")
    change(cells["figure"], "0.5 ", "0.475 ")
    change(cells["last digit"], "0.25 ", "0.25001 ")
    del png_of(cells["bare"])[FIGURE]
    cells["never run"].execution_count = None
    cells["long"].source += "\n# the sixteenth line"
    return notebook


def says(text):
    """All that a cell prints: of a busy kernel it may have come in two pieces."""
    return [new_output("stream", text=text)]


def change(cell, before, after):
    """Other numbers in what a figure draws."""
    numbers = png_of(cell)[FIGURE]["numbers"]
    changed = {place: values.replace(before, after) for place, values in numbers.items()}
    assert changed != numbers
    numbers.update(changed)


def png_of(cell):
    return next(output.data for output in cell.outputs if "image/png" in output.get("data", {}))


def repaint_one_pixel(data, colour):
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    unchanged = PngImagePlugin.PngInfo()
    for name, text in image.text.items():
        unchanged.add_text(name, text)
    image.putpixel((0, 0), colour)
    file = io.BytesIO()
    image.save(file, "png", pnginfo=unchanged)
    data["image/png"] = base64.b64encode(file.getvalue()).decode()


def damage(data):
    png = bytearray(base64.b64decode(data["image/png"]))
    png[len(png) // 2] ^= 1
    data["image/png"] = base64.b64encode(png).decode()


def read_verdicts(report):
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        why = f"{wrong[0].get('message')}\n{wrong[0].text}" if wrong else None
        notebook, name = case.get("classname"), case.get("name")
        if notebook:
            yield (notebook, list(CELLS)[int(name.removeprefix("Cell "))]), why
        else:
            yield name, why  # a notebook that was refused as a whole


@pytest.mark.parametrize("cell", CELLS)
def test_a_notebook_as_jupyter_ran_it_passes(verdicts, cell):
    assert verdicts["good.ipynb", cell] is None


def test_a_changed_text_output_fails(verdicts):
    assert "mismatch 'stdout'" in verdicts["corrupted.ipynb", "text"]


def test_a_picture_with_one_pixel_changed_fails(verdicts):
    assert "mismatch 'image/png'" in verdicts["corrupted.ipynb", "picture"]


def test_a_colour_off_by_rounding_passes(verdicts):
    assert verdicts["corrupted.ipynb", "rounded"] is None


def test_a_last_digit_that_rounding_moves_passes(verdicts):
    assert verdicts["corrupted.ipynb", "number"] is None


def test_a_figure_that_draws_something_else_fails_and_says_where(verdicts):
    assert f"mismatch '{FIGURE}'" in verdicts["corrupted.ipynb", "figure"]
    assert "0 bar #c6dbef x: 0.5 where 0.475 was" in verdicts["corrupted.ipynb", "figure"]


def test_a_figure_whose_numbers_are_off_by_rounding_passes(verdicts):
    assert verdicts["corrupted.ipynb", "last digit"] is None


def test_a_figure_that_says_what_it_draws_where_none_was_stored_fails(verdicts):
    assert f"Unexpected output fields from running code: {{'{FIGURE}'}}" in verdicts["corrupted.ipynb", "bare"]


def test_a_damaged_picture_file_fails(verdicts):
    assert "mismatch 'image/png'" in verdicts["corrupted.ipynb", "damaged"]


def test_a_cell_that_was_never_run_fails(verdicts):
    assert "never run" in verdicts["corrupted.ipynb", "never run"]


def test_a_cell_of_sixteen_lines_fails(verdicts):
    assert "16 lines" in verdicts["corrupted.ipynb", "long"]


def test_a_notebook_without_outputs_fails(verdicts):
    assert "shows no output" in verdicts["bare.ipynb"]


def test_a_sound_cell_passes_in_a_notebook_that_fails(verdicts):
    assert verdicts["corrupted.ipynb", "imports"] is None


@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no such sockets")
def test_a_kernel_is_met_in_files_so_that_no_other_process_takes_its_port():
    asked = "import conftest, nbval.kernel; print(nbval.kernel.KernelManager().transport)"
    found = subprocess.run([sys.executable, "-c", asked], cwd=NOTEBOOKS, capture_output=True, text=True, check=True)
    assert found.stdout == "ipc\n"
