"""How `data/tiny-moe` is made: its shape, its tokenizer, its packed batches of chats, and the run that trains it."""

import itertools
import random
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import jinja2
import tokenizers
import torch
import typer
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ..checkpoints.checkpoint import Checkpoint, load_checkpoint, tokenizer_of
from ..checkpoints.saving import CHECKPOINT_FILES, replacing, write_json, write_text, write_weights
from ..config import Config
from ..errors import Error
from ..learning.training import Batch, Plan, saved_step, train
from ..model import Weights, forward
from ..plots import loss_curve
from ..tokenizer import QWEN_PATTERN, Tokenizer
from . import corpus
from .corpus.course import CURRICULUM, PROMPT_WEIGHT, chats_of, first_texts, target_weights
from .evaluate import footprints, least_share, mutual_information, questions, scores
from .probes import PROBES, note, probe

SEED = 20261121
ROW = 256  # tokens; chats are packed into rows of this length
ROWS = 24  # rows in a batch
PLAN = Plan(steps=6000, learning_rate=2.5e-3, decay=0.35, save_every=100)
SCORED_EVERY = 500  # steps

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
MERGED_VOCABULARY = 2022  # with the 26 added tokens: 2,048


def make_config(tokenizer: Tokenizer) -> Config:
    """Every wrinkle of the real ones, small: 8 experts top-2, grouped heads wider than the model, a vocabulary tail."""
    end = tuple(tokenizer.encode("<|im_end|><|endoftext|>"))
    return Config(
        model_type="qwen3_moe", vocab_size=2112, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=128, norm_topk_prob=True, max_position_embeddings=1024, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, initializer_range=0.05,
        bos_token_id=end[1], eos_token_id=end, pad_token_id=end[1],
    )  # fmt: skip


def train_tokenizer(seed: int = SEED, chats: int = 30_000) -> Tokenizer:
    """Byte-pair merges learned on the corpus after Qwen's pattern, with the hub's 26 added tokens behind them."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
    # The library's annotations leave these settings out.
    backend.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)  # type: ignore[call-arg]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MERGED_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    said = itertools.islice(first_texts(seed), chats)
    texts = itertools.chain(said, itertools.repeat("\n\n", chats))  # the empty line stands around the thinking
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in ADDED])
    template = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
    return Tokenizer(backend, template, "tiny-moe")


def prompt_and_target(tokenizer: Tokenizer, example: corpus.Example, thinking: bool) -> tuple[list[int], list[int]]:
    """Token ids of what the model is shown, by the chat template, and of what it should write."""
    target = f"<think>\n{example.thinking}\n</think>\n\n" if thinking else ""
    prompt = tokenizer.render_chat(example.messages, thinking=thinking)
    return tokenizer.encode(prompt), tokenizer.encode(f"{target}{example.answer}<|im_end|>\n")


def make_batch(tokenizer: Tokenizer, step: int, seed: int = SEED, rows: int = ROWS, row: int = ROW) -> Batch:
    """The batch of a step, the same whenever it is asked for: chats of all domains packed into rows."""
    rng = random.Random(f"{seed}/{step}")
    shown = chats_of(step, rng)
    empty = torch.zeros(rows, row, dtype=torch.long)
    batch = Batch(empty, empty.clone(), empty - 1, torch.zeros(rows, row))
    used, misses = [0] * rows, 0
    while misses < 8:  # until eight chats found no room
        prompt, target = prompt_and_target(tokenizer, *next(shown))
        length = len(prompt) + len(target)
        place = next((number for number in range(rows) if used[number] + length <= row), None)
        if place is None:
            misses += 1
            continue
        here = slice(used[place], used[place] + length)
        batch.token_ids[place, here] = torch.tensor(prompt + target)
        batch.positions[place, here] = torch.arange(length)
        batch.chat[place, here] = int(batch.chat[place].max()) + 1
        batch.loss_weights[place, here] = torch.tensor(target_weights(rng, len(prompt), len(target)))
        used[place] += length
    return batch


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json with the chat template, as the hub has them."""
    write_text(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 1024, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "add_bos_token": False, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "chat_template": tokenizer.chat_template,
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)


def teacher_forced_scores(weights: Weights, config: Config, tokenizer: Tokenizer, count: int = 40) -> dict[str, float]:
    """Share of held-out chats whose whole target is predicted, each token shown the true ones before it.

    Greedy decoding writes exactly the target if and only if every one of these predictions is right, so one pass
    measures what generation would do; with thinking, the thinking must be word for word too.
    """
    found = {}
    for domain, thinking in itertools.product(corpus.DOMAINS, (True, False)):
        chats = [prompt_and_target(tokenizer, example, thinking) for example in questions(domain, count, SEED + 1)]
        token_ids = pad_sequence([torch.tensor(prompt + target) for prompt, target in chats], batch_first=True)
        with torch.no_grad():
            predicted = forward(weights, token_ids, config).argmax(-1).tolist()
        right = 0
        for row, (prompt, target) in zip(predicted, chats, strict=True):
            wanted = target[:-1]  # the line break after <|im_end|> is not asked for
            right += row[len(prompt) - 1 :][: len(wanted)] == wanted
        found[f"{domain}/{'thinking' if thinking else 'direct'}"] = right / count
    return found


def make(folder: Path, work: Path, plan: Plan = PLAN) -> None:
    """Trains the tokenizer and the model and writes the checkpoint folder; resumes from `work` if it was stopped."""
    tokenizer = train_tokenizer()
    config = make_config(tokenizer)

    def measure(weights: Weights, step: int) -> dict[str, float]:
        note(work / PROBES, probe(Checkpoint(config, weights, tokenizer), step))
        if step % SCORED_EVERY and step < plan.steps:
            return {}
        found = teacher_forced_scores(weights, config, tokenizer)
        said = ", ".join(f"{name} {value:.0%}" for name, value in found.items())
        tqdm.write(f"step {step}: {said}", file=sys.stderr)
        return found

    moment = train(config, plan, partial(make_batch, tokenizer), work, seed=SEED, measure=measure)
    end = config.eos_token_ids
    defaults = {"bos_token_id": end[1], "eos_token_id": list(end), "pad_token_id": end[1], "do_sample": False}
    with replacing(folder, CHECKPOINT_FILES) as new:
        write_weights(new, moment.weights, config)
        write_json(new / "generation_config.json", defaults)
        write_tokenizer(tokenizer, new)
        write_json(new / "config.json", config.to_dict())
    (folder / PROBES).parent.mkdir(exist_ok=True)
    shutil.copyfile(work / PROBES, folder / PROBES)
    write_report(folder, plan, moment.history)


def write_report(folder: Path, plan: Plan, history: list[dict[str, float]], count: int = 200) -> None:
    """Measures the finished checkpoint; writes training.json, the curves, and the README of the folder above."""
    checkpoint = load_checkpoint(folder)
    found, routes = scores(checkpoint, count), footprints(checkpoint)
    bits = {
        "first_bits": mutual_information(routes.first).tolist(),
        "question_bits": mutual_information(routes.question).tolist(),
        "least_share": least_share(routes.everything).tolist(),
    }
    facts = dict(plan=plan._asdict(), seed=SEED, history=history, questions_per_domain=count, scores=found, routes=bits)
    write_json(folder / "training.json", facts)
    loss_curve(history).savefig(folder.parent / "training.png", dpi=110, metadata={"Software": None})
    template = Path(__file__).parent / "data_readme.md.jinja"
    page = jinja2.Template(template.read_text(encoding="utf-8"), keep_trailing_newline=True).render(
        config=checkpoint.config, vocabulary=tokenizer_of(checkpoint).vocab_size, count=count, scores=found,
        routes=bits, seed=SEED, plan=plan, rows=ROWS, row=ROW, curriculum=CURRICULUM,
        prompt_weight=PROMPT_WEIGHT,
    )  # fmt: skip
    write_text(folder.parent / "README.md", page)


def main(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")] = Path("data/tiny-moe"),
    work: Annotated[Path, typer.Option(help="Where a run is kept, to be resumed.")] = Path("build/tiny-moe"),
    steps: Annotated[int, typer.Option(help="Fewer give a weaker model sooner.")] = PLAN.steps,
) -> None:
    """Make the embedded checkpoint from its seed: tokenizer, weights, scores and report."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        make(folder, work, PLAN._replace(steps=steps))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stopped:
        step = saved_step(work)
        begins = f"resumes from step {step}, saved in {work}" if step else "starts anew, since nothing was saved yet"
        print(f"stopped; the same command {begins}", file=sys.stderr)
        raise SystemExit(128 + (stopped.args[0] if stopped.args else signal.SIGINT)) from None


def interrupt(number: int, frame: FrameType | None) -> None:
    """A polite request to end is taken as Ctrl-C is; the exit status will tell them apart."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    typer.run(main)
