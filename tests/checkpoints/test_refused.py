"""What is not loaded, though transformers loads it, ends in the sentence that `tests/README.md` gives for it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY
from safetensors.torch import load_file, save_file

from qwen3_scratch import Error, load_checkpoint

TABLE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8").partition("\n## Not promised\n")[2]
ROWS = dict(re.findall(r"^\| ([^|`]+) \| `([^|]+)` \|$", TABLE, flags=re.MULTILINE))
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def write_setting(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02N.")


def with_a_bias(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[Q_PROJ.replace("weight", "bias")] = torch.zeros(len(tensors[Q_PROJ]))
    save_file(tensors, folder / "model.safetensors")


def quantised(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[Q_PROJ.replace("weight", "qweight")] = tensors.pop(Q_PROJ).to(torch.int32)
    save_file(tensors, folder / "model.safetensors")
    write_setting(folder, quantization_config={"quant_method": "gptq"})


def with_a_scale(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"{Q_PROJ}_zero_point": torch.zeros(1)}, folder / "model.safetensors")


def with_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")


PARTLY = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
CASES = {
    "weights in a pickle": only_pickled,
    "quantised weights": quantised,
    "plain weights beside a scale of quantised ones": with_a_scale,
    "attention to what comes after": lambda folder: write_setting(folder, is_causal=False),
    "an activation other than SiLU": lambda folder: write_setting(folder, hidden_act="gelu"),
    "64-bit numbers, asked for": lambda folder: write_setting(folder, dtype="float64", torch_dtype="float64"),
    "heads that rope turns only in part": lambda folder: write_setting(folder, rope_parameters=PARTLY),
    "tensors beyond the config's": with_a_bias,
    "adapters other than LoRA and DoRA": with_an_adapter,
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_not_loaded_ends_in_the_sentence_that_is_promised(what, tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "folder"))
    CASES[what](folder)
    with pytest.raises(Error) as raised:
        load_checkpoint(folder)
    said = str(raised.value).replace(str(folder), "FOLDER")
    promised = re.escape(ROWS[what]).replace(re.escape("..."), ".*")
    assert re.fullmatch(promised, said), said


def test_the_list_names_nothing_that_is_not_tried():
    assert ROWS.keys() == CASES.keys()
