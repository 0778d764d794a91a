"""What the book is gathered from: pages whose links lead to files, and an address only where the project has one."""

import json
import re
from urllib.parse import unquote

import nbformat
import stage
from helpers import ROOT
from marks import mathml

ADDRESS = "https://example.org/owner/name"


def test_every_link_of_a_gathered_page_leads_to_what_is_gathered(tmp_path):
    stage.Stage(tmp_path, "").all_pages()
    lost = []
    for path in [*tmp_path.rglob("*.md"), *tmp_path.rglob("*.ipynb")]:
        text = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(c.source for c in nbformat.reads(text, as_version=4).cells if c.cell_type == "markdown")
        for link in stage.LINK.findall(text):
            target = (path.parent / unquote(link[0])).resolve()
            later = target.relative_to(tmp_path).as_posix() in stage.EXERCISES.values()
            if not (target.is_file() or later):
                lost.append((path.name, link[0]))
    assert lost == []


def test_an_address_is_written_nowhere_until_the_project_has_one_and_then_leads_everywhere(tmp_path):
    assert stage.ADDRESS == "" or stage.ADDRESS.startswith("https://")
    texts = {}
    for address in ("", ADDRESS):
        folder = tmp_path / str(len(address))
        stage.Stage(folder, address).all_pages()
        texts[address] = {
            path.name: path.read_text("utf-8") for path in folder.rglob("*") if path.suffix in (".md", ".ipynb")
        }
    assert not any("google.colab" in text or ADDRESS in text for text in texts[""].values())
    chapter = nbformat.reads(texts[ADDRESS]["07_router_and_experts.ipynb"], as_version=4)
    assert f"git+{ADDRESS}" in chapter.cells[1].source
    everything = "".join(texts[ADDRESS].values())
    assert f"{ADDRESS}/blob/main/" in everything and not re.search(r"!\[[^\]]*\]\(https?:", everything)


def test_names_in_formulas_stand_off_and_the_bars_of_a_norm_keep_their_height():
    said = mathml(r"d \ln(L) + 2 \ln \theta = \lVert a \rVert", "inline")
    assert re.findall(r'rspace="([^"]+)">ln<', said) == ["0", "0.17em"]
    assert said.count('<mo stretchy="false">&#x02016;</mo>') == 2


def test_the_container_makes_the_environment_of_the_notebooks():
    given = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert given["postCreateCommand"] == "make .venv/.notebooks-ready"
    assert "notebooks-ready" in (ROOT / "Makefile").read_text("utf-8")
