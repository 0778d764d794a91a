"""The day someone has a network: the real weights, beside transformers and beside what it publishes of the family.

`python tests/real/real.py` (or `make real`) says what comes and what is free, downloads three checkpoints (4.5 GB),
computes in fp32 on the CPU, runs every notebook on the one that the series is about, and writes a page of what agreed.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from torch import Tensor

from qwen3_scratch import Error, forward, generate, load_checkpoint, read_config, read_tokenizer
from qwen3_scratch.hub.download import Snapshot, fetch, find_snapshot
from qwen3_scratch.tokenizer import Tokenizer
from qwen3_scratch.trust.memory import size_text

ROOT = Path(__file__).parents[2]
SUBJECT, DENSE, BASE = "huihui-ai/Huihui-MoE-0.8B-2E", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base"
SPARE = 1_000_000_000  # bytes that stay free beside what comes
STEPS = 64
# Of the largest logit. fp32 carries 6e-8 of each number; the two sides add thousands of products in different orders
# through 28 layers.
NEAR = 1e-4
PROMPTS = (
    "The only thing I know is that I know",
    "def fibonacci(n):\n    ",
    "What is 17 times 3? Think step by step.",
    "日本の首都は",
    "Once upon a time there was a small model that",
)
CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHi."},
    {"role": "user", "content": "Who are you?"},
]

# ---- what is published -----------------------------------------------------------------------

# huggingface/transformers, tests/models/qwen3/test_modeling_qwen3.py at commit
# 0a0a9ea2b0b55cd6f5e6e4e5dede52740aef68a0, Qwen3IntegrationTest, test_model_600m_logits and test_model_600m_generation,
# of Qwen/Qwen3-0.6B-Base.
SOURCE = "huggingface/transformers@0a0a9ea2, tests/models/qwen3/test_modeling_qwen3.py"
LOGITS_OF = [1, 306, 4658, 278, 6593, 310, 2834, 338]
MEANS = [-1.4577, 1.3261, 3.8498, 3.4229, 2.9009, 1.8813, 2.1530, 2.1431]  # over the vocabulary, at each token
FIRST_30 = [
    5.9062, 6.0938, 5.5625, 3.8594, 2.6094, 1.9531, 4.3125, 4.9375, 3.8906, 3.1094, 3.6719, 5.1562, 6.9062, 5.7500,
    5.4062, 7.0625, 8.7500, 8.7500, 8.1250, 7.9375, 8.0625, 7.5312, 7.3750, 7.2188, 7.2500, 5.8750, 2.8750, 4.3438,
    2.3438, 2.2500,
]  # fmt: skip  # of the vocabulary, at the first token
BEGUN, GOES_ON = "My favourite condiment is ", "100% plain, unflavoured, and unadulterated. It is"
# Of the largest published number. They were computed in bf16, which keeps 8 bits of each number, 0.4 %, and rounds in
# each of 28 layers; here it is fp32.
NEAR_PUBLISHED = 0.03
# What is published for the mixtures, in tests/models/qwen3_moe at 0f3491dc, is of Qwen3-15B-A2B-Base, which the hub
# does not have.

# The model cards and tokenizer_config.json of Qwen/Qwen3-0.6B.
IDS = {
    PROMPTS[0]: [785, 1172, 3166, 358, 1414, 374, 429, 358, 1414],
    "<think>\n\n</think>\n\n": [151667, 271, 151668, 271],
}
SPECIAL = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<think>": 151667, "</think>": 151668,
}  # fmt: skip
VOCABULARY = 151669


class Page:
    """What was found, line by line; said on standard error at once, and written whole in the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed: list[str] = []

    def say(self, line: str = "") -> None:
        print(line, file=sys.stderr, flush=True)
        self.lines.append(line)

    def hold(self, what: str, agrees: bool, found: object = "") -> None:
        """One row of the table: a claim, and whether it held."""
        self.say(f"| {what} | {'yes' if agrees else '**no**'} | {found} |".replace("\n", " "))
        if not agrees:
            self.failed.append(what)

    def table(self, title: str) -> None:
        for line in ("", f"## {title}", "", "| claim | held | found |", "| --- | --- | --- |"):
            self.say(line)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--page", type=Path, default=ROOT / "REAL.md", help="where what agreed is written")
    options.add_argument("--notebooks", nargs="*", help="names of notebooks, instead of all")
    options.add_argument("--rehearsal", action="store_true", help="the hub is a stand-in with random weights")
    asked = options.parse_args()
    page = Page()
    try:
        if not asked.page.parent.is_dir():
            raise Error(f"{asked.page}: its folder is not there, expected one that can be written to: make it")
        write(page, asked.rehearsal, chosen_notebooks(asked.notebooks))
        asked.page.write_text("\n".join(page.lines) + "\n", encoding="utf-8")
    except (Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.page)
    return bool([what for what in page.failed if not (asked.rehearsal and what.startswith("published"))])


def write(page: Page, rehearsal: bool, notebooks: list[Path]) -> None:
    page.say("# The real weights")
    page.say()
    if rehearsal:
        page.say("**A rehearsal**: random weights from a stand-in hub, so what is published of logits is not expected.")
        page.say()
    page.say(f"{time.strftime('%Y-%m-%d')}, {platform.platform()}, Python {platform.python_version()}")
    packages = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
    page.say(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
    folders = download(page)
    for repository in (SUBJECT, DENSE):
        beside_transformers(page, repository, folders[repository])
    beside_what_is_published(page, folders[BASE])
    run_notebooks(page, notebooks)
    page.say()
    page.say(f"Not held: {'; '.join(page.failed)}." if page.failed else "All held.")


def download(page: Page) -> dict[str, Path]:
    """The three folders; what is to come and what is free is said first, and Error where that is too little."""
    found = {name: find_snapshot(name) for name in (SUBJECT, DENSE, BASE)}
    coming, free = sum(snapshot.room()[0] for snapshot in found.values()), min(s.room()[1] for s in found.values())
    print(f"{size_text(coming)} are to come, {size_text(free)} are free.", file=sys.stderr)
    if coming and coming + SPARE > free:
        need = f"{size_text(coming + SPARE)} with some to spare, found {size_text(free)} free"
        raise Error(f"the three checkpoints need {need}: make room, or set HF_HUB_CACHE to another disk")
    return {name: download_one(page, snapshot) for name, snapshot in found.items()}


def download_one(page: Page, snapshot: Snapshot) -> Path:
    folder = fetch(snapshot, lambda name: print(f"  {snapshot.repository}: {name}", file=sys.stderr, flush=True))
    size = sum(snapshot.files[name].size for name in snapshot.names())
    page.say(f"- `{snapshot.repository}` at commit `{snapshot.commit}`, {size_text(size)}, as the hub's hashes say")
    return folder


# ---- beside transformers ---------------------------------------------------------------------


def beside_transformers(page: Page, repository: str, folder: Path) -> None:
    config, tokenizer = read_config(folder), read_tokenizer(folder)
    page.table(repository)
    if config.num_experts:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("norm_topk_prob", "not said")
        page.hold(
            f"{config.num_experts} experts, {config.num_experts_per_tok} a token", True, f"norm_topk_prob: {said}"
        )
    words_beside_transformers(page, tokenizer, folder)
    rows = [tokenizer.encode(prompt) for prompt in PROMPTS]
    ours, expected = our_answers(folder, rows), their_answers(folder, rows)
    for prompt, (logits, tokens), (their_logits, their_tokens) in zip(PROMPTS, ours, expected, strict=True):
        apart, pairs = distance(logits, their_logits), zip(tokens, their_tokens, strict=False)
        same = next((number for number, (one, other) in enumerate(pairs) if one != other), len(tokens))
        page.hold(f"logits of {prompt!r:.40} in fp32 within {NEAR} of scale", apart <= NEAR, f"{apart:.1e}")
        page.hold(f"{STEPS} greedy tokens after {prompt!r:.40}", tokens == their_tokens, f"{same} of {len(tokens)}")


def words_beside_transformers(page: Page, tokenizer: Tokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    for text, ids in IDS.items():
        page.hold(f"token ids of {text!r:.40} are those published", tokenizer.encode(text) == ids)
    special = {token: tokenizer.token_id(token) for token in SPECIAL}
    page.hold("special ids are those published", special == SPECIAL, special if special != SPECIAL else "")
    page.hold(f"{VOCABULARY:,} tokens", tokenizer.vocab_size == VOCABULARY, f"{tokenizer.vocab_size:,}")
    same = [tokenizer.encode(text) == reference.encode(text, add_special_tokens=False) for text in PROMPTS]
    page.hold("token ids of the prompts are transformers'", all(same))
    for thinking in (True, False):
        named = dict(tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
        same_text = tokenizer.render_chat(CHAT, thinking=thinking) == reference.apply_chat_template(CHAT, **named)
        page.hold(f"a chat as transformers renders it, thinking={thinking}", same_text)


def our_answers(folder: Path, rows: list[list[int]]) -> list[tuple[Tensor, list[int]]]:
    checkpoint = load_checkpoint(folder, dtype=torch.float32)
    found = []
    with torch.inference_mode():
        for row in rows:
            logits = forward(checkpoint.weights, torch.tensor([row]), checkpoint.config)[0]
            tokens = generate(checkpoint, row, max_new_tokens=STEPS, temperature=0).token_ids
            found.append((logits, tokens))
    return found


def their_answers(folder: Path, rows: list[list[int]]) -> list[tuple[Tensor, list[int]]]:
    from transformers import AutoModelForCausalLM

    gc.collect()  # one model in memory at a time
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row])
            answer = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=STEPS,
                temperature=None, top_k=None, top_p=None,
            )  # fmt: skip
            found.append((model(ids).logits[0], answer[0, len(row) :].tolist()))
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected number; infinite for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float(((found - expected).abs().max() / expected.abs().max()).nan_to_num(float("inf")))


def beside_what_is_published(page: Page, folder: Path) -> None:
    page.table(f"{BASE}, beside the numbers of {SOURCE}")
    checkpoint = load_checkpoint(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = forward(checkpoint.weights, torch.tensor([LOGITS_OF]), checkpoint.config)[0]
    for what, found, published in (
        ("the mean logit at 8 tokens", logits.mean(-1), MEANS), ("the first 30 logits", logits[0, :30], FIRST_30)
    ):  # fmt: skip
        apart = distance(found, torch.tensor(published))
        within = f"within {NEAR_PUBLISHED} of scale, since bf16"
        page.hold(f"published: {what}, {within}", apart <= NEAR_PUBLISHED, f"{apart:.1e}")
    text = generate(checkpoint, BEGUN, max_new_tokens=20, temperature=0, raw=True).text
    page.hold(f"published: after {BEGUN!r} comes {GOES_ON!r}", text.strip() == GOES_ON, repr(text))


# ---- the notebooks ---------------------------------------------------------------------------


def chosen_notebooks(names: list[str] | None) -> list[Path]:
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if unknown := {*(names or ())} - {path.stem for path in paths}:
        raise Error(f"--notebooks names {', '.join(sorted(unknown))}, expected names such as {paths[0].stem}: mend it")
    return [path for path in paths if names is None or path.stem in names]


def run_notebooks(page: Page, paths: list[Path]) -> None:
    page.table(f"The notebooks on {SUBJECT}")
    for path in paths:
        started = time.monotonic()
        wrong = next(errors_of(path), "")
        page.hold(path.stem, not wrong, wrong or f"{time.monotonic() - started:.0f} s")


def errors_of(path: Path) -> Iterator[str]:
    """The cells that fail, each as its number and error; the notebook is not changed."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, allow_errors=True, resources={"metadata": {"path": path.parent}})
    try:
        client.execute(env=os.environ | {"CI": "true", "QWEN3_SCRATCH_MODEL": SUBJECT})
    except (CellTimeoutError, DeadKernelError) as error:
        yield type(error).__name__
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                yield f"cell {number}: {output.ename}: {output.evalue:.200}"


if __name__ == "__main__":
    sys.exit(main())
