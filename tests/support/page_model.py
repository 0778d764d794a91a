"""The page's own JavaScript without a browser: the scripts that compute, in V8, beside the weights that they read."""

import json
from dataclasses import replace
from typing import Any

import torch
from py_mini_racer import MiniRacer
from torch import Tensor

from qwen3_scratch import Checkpoint
from qwen3_scratch.explorer import writing
from qwen3_scratch.explorer.packing import as_read

AS_TEXT = """
function asText(numbers) {
  const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return text;
}
0
"""


class PageModel:
    """A checkpoint as its page holds it; `checkpoint` is the same in PyTorch, on the same rounded weights."""

    def __init__(self, checkpoint: Checkpoint, bits: int = 16, ends: bool = True):
        self.engine = MiniRacer()
        for name in writing.SCRIPTS:
            self.engine.eval((writing.PAGE / f"{name}.js").read_text("utf-8"))
        data, content = writing.page_data(checkpoint, bits)
        if not ends:
            data["ends"] = []
        pieces = json.dumps(writing.pieces(content))
        self.engine.eval(f"const model = readModel(JSON.parse({json.dumps(json.dumps(data))}), {pieces}); 0")
        self.engine.eval("const qwen3 = api(model); 0")
        self.checkpoint = replace(checkpoint, weights=as_read(checkpoint.weights, bits))

    def __call__(self, expression: str, **given: Any) -> Any:
        """The value of an expression, in which the names of `given` stand for plain values."""
        names, values = ", ".join(given), ", ".join(map(json.dumps, given.values()))
        return json.loads(self.engine.eval(f"JSON.stringify((({names}) => {expression})({values}))"))

    def logits(self, ids: list[int], options: str = "{}") -> Tensor:
        """The logits at every token, [seq, vocab], of forward with such options."""
        return self.floats(f"forward(model.weights, ids, model.config, {options})", ids=ids).view(len(ids), -1)

    def floats(self, expression: str, **given: Any) -> Tensor:
        """A Float32Array, as the text of its bytes: of JSON a pass's logits would be a megabyte."""
        self.engine.eval(AS_TEXT)
        text = self(f"asText({expression})", **given)
        return torch.frombuffer(bytearray(text.encode("latin-1")), dtype=torch.float32)

    def error(self, expression: str, **given: Any) -> str | None:
        """The message of the error that an expression ends in."""
        return self(f"{{ try {{ {expression}; return null; }} catch (error) {{ return error.message; }} }}", **given)
